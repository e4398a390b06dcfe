"""The next rows of a price table are as good as a schedule: ceilings know them before they hold."""

from decimal import Decimal

import msgspec

from ebbtide.controller.policies import Policies
from ebbtide.model.money import PriceStep
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Price, PriceSource
from ebbtide.observe.holdings import Held
from tests.builders import NOW, pool, snapshot
from tests.core.purse import Member, World, policy
from tests.shell.test_policies import Api, policies

HOUR = 3600
LATER = ((-5000, "1.00"), (HOUR, "10.00"))  # 1.00 USD an hour, 10.00 in the second hour


def as_a_table(state: Snapshot, world: World) -> Snapshot:
    """The same prices, told by a table: what the shell makes of them before the plan."""
    (shown,) = state.pools
    coming = [(NOW + at_s, Decimal(price)) for at_s, price in LATER if NOW + at_s > world.now_s]
    told = msgspec.structs.replace(
        shown,
        steps=(),
        spec=msgspec.structs.replace(shown.spec, price=Price("USD", source=PriceSource("Table", "x"))),
        next_price_change_at=coming[0][0] if coming else None,
        next_price_per_gpu_hour=coming[0][1] if coming else None,
    )
    seen = policies(Api()).observed(msgspec.structs.replace(state, pools=(told,)), world.policies, Held((), {}, True))
    return msgspec.structs.replace(state, pools=seen.pools)


def test_a_day_ends_below_its_ceiling_though_the_price_rises() -> None:
    """What may be spent before is less for it: 30.34 of 30.00 were, while only the price of now was known."""
    world = World(
        [Member("base", 1.0, most=1, priority=200), Member("chat", 200.0, priority=50, born=[int(NOW) - 4000])],
        [policy(per_day="30", outage_reserve_s=300.0)],
        prices=LATER,
        day_s=2 * HOUR,
    )
    world.seen = lambda state: as_a_table(state, world)  # type: ignore[method-assign]
    while world.now_s < NOW + 2 * HOUR - 10:
        world.cycle()
    assert 27 <= world.most["cap"] / HOUR <= 30


def test_a_pool_has_the_steps_of_all_rows_until_every_period_ends() -> None:
    known = pool(price="1.00")
    rows = tuple(PriceStep(NOW + days * 86_400.0, Decimal(days)) for days in (1, 2, 50))
    told = msgspec.structs.replace(
        known,
        spec=msgspec.structs.replace(known.spec, price=Price("USD", source=PriceSource("Table", "x"))),
        next_price_change_at=rows[0].at_s,
        next_price_per_gpu_hour=rows[0].per_gpu_hour,
        later_prices=rows[1:],
    )
    mine: Policies = policies(Api())
    seen = mine.observed(snapshot([], [told], taken_at=NOW), [policy(per_month="9")], Held((), {}, True))
    assert seen.pools[0].steps == (PriceStep(NOW, known.price_per_gpu_hour), *rows[:2])
