"""The ledger is kept up with what runs: through restarts, other leaders, and databases that are gone."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebbtide.controller import metering as module
from ebbtide.controller.metering import Metering
from ebbtide.errors import RetryableError
from ebbtide.ledger.days import Keeping
from ebbtide.ledger.store import Ledger
from ebbtide.model.memory import ForecastMemory, Memory, ServiceMemory
from ebbtide.model.money import Payer, UsageRow
from ebbtide.model.snapshot import (
    POLICY_KIND,
    Account,
    EngineReadings,
    LedgerState,
    PolicyState,
    PoolState,
    Quality,
    Reading,
    Snapshot,
    Unreadable,
)
from ebbtide.model.spec import Alternative, Billing, PolicySpec, PoolSpec, Price, Tariff
from ebbtide.money.accounts import Accounts, Saved, Shown
from ebbtide.money.lifetimes import Holding
from ebbtide.money.selections import payers
from ebbtide.money.totals import totals
from ebbtide.observe.holdings import Held
from ebbtide.record.metrics import Metrics
from tests.shell import world

T0 = 1_800_000_000 - 1_800_000_000 % 3600
CHAT = Payer("h100", "team", "chat")


def at(second: int, price: str = "2.50", billing: Billing = Billing.POD) -> Snapshot:
    shown = world.snapshot()
    (pool,) = shown.pools
    spec = msgspec.structs.replace(pool.spec, price=Price("USD", Tariff(Decimal(price))), billing=billing)
    return msgspec.structs.replace(
        shown, taken_at=float(T0 + second), pools=(msgspec.structs.replace(pool, spec=spec),)
    )


def since(second: int, price: str, from_s: float | None) -> Snapshot:
    """A price that says from when on it holds, in seconds from T0."""
    shown = at(second, price)
    (pool,) = shown.pools
    told = Price("USD", Tariff(Decimal(price)), effective_from=None if from_s is None else T0 + from_s)
    spec = msgspec.structs.replace(pool.spec, price=told)
    return msgspec.structs.replace(shown, pools=(msgspec.structs.replace(pool, spec=spec),))


def seen(*uids: str, gone: dict[str, float] | None = None, complete: bool = True) -> Held:
    """Pods of 4 GPUs, bound at the hour."""
    return Held(tuple(Holding(uid, CHAT, 4, float(T0), None, "n") for uid in uids), gone or {}, complete)


def bill(where: Path, until: int = 7200) -> Decimal:
    ledger = Ledger(where)
    rows = ledger.rows(T0 - 7200, T0 + until)
    ledger.close()
    return sum((row.cost or Decimal(0) for row in rows), Decimal(0))


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def test_from_binding_until_gone(where: Path) -> None:
    metering = Metering(where, Metrics())
    assert await metering.count(at(0), seen("a", "b"))
    assert await metering.count(at(1800), seen("a", gone={"b": T0 + 1799.2}))
    assert await metering.count(at(3600), seen(gone={"a": T0 + 3599.9}))
    assert bill(where) == Decimal(15)


async def test_a_price_that_is_edited_holds_from_then_on(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(at(1800, "5.00"), seen("a"))
    await metering.count(at(3600, "5.00"), seen(gone={"a": float(T0 + 3600)}))
    assert bill(where) == Decimal(15)


async def test_what_ended_while_nobody_led_is_bounded_and_marked(where: Path) -> None:
    before = Metering(where, Metrics())
    await before.count(at(0), seen("a", "b"))
    await before.count(at(600), seen("a", "b"))
    await Metering(where, Metrics()).count(at(1800), seen("b"))
    ledger = Ledger(where)
    rows = ledger.rows(T0, T0 + 1800)
    assert sum(row.gpu_seconds for row in rows) == 2 * 4 * 1800, "b ran on; a is counted until it was missed"
    assert sum(row.estimated_s for row in rows) == 4 * 1200
    assert set(ledger.running()) == {"b"}


async def test_a_list_with_holes_ends_nothing(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(at(600), seen(complete=False))
    await metering.count(at(1800), seen("a"))
    assert bill(where, 1800) == Decimal(5)


async def test_a_database_that_is_gone_for_an_hour_loses_nothing(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    metering = Metering(where, metrics)
    await metering.count(at(0), seen("a", "b"))

    def gone(*_: Any, **__: Any) -> None:
        raise RetryableError("ledger: the server closed the connection. Nothing was written; it is tried again")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", gone)
        assert await metering.count(at(1800), seen("b", gone={"a": T0 + 1000.0})), "it is kept here until then"
        assert await metering.count(at(2000, "5.00"), seen("b"))
        assert "the server closed the connection" in metering.notice
    assert b"ebbtide_ledger_failures_total 2.0" in metrics.exposition()
    assert await metering.count(at(3600, "5.00"), seen(gone={"b": float(T0 + 3600)}))
    assert metering.notice == ""
    assert bill(where) == Decimal(4) * (1000 + 2000) * Decimal("2.50") / 3600 + Decimal(4) * 1600 * Decimal(5) / 3600


async def test_a_ledger_that_was_never_there_leaves_departures_to_be_told_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.touch()  # a file where a folder should be
    metering = Metering(folder / "ledger.sqlite", Metrics())
    assert not await metering.count(at(10), seen(gone={"a": float(T0)}))
    assert "writable directory" in metering.notice
    folder.unlink()
    assert await metering.count(at(20), seen("b"))
    assert metering.notice == ""


async def test_a_leader_that_was_overtaken_takes_up_what_the_other_wrote(where: Path) -> None:
    old, new = Metering(where, Metrics()), Metering(where, Metrics())
    await old.count(at(0), seen("a"))
    await new.count(at(600), seen("a"))
    assert not await old.count(at(900), seen("a")), "its epoch is over"
    assert "another leader" in old.notice
    old.begin_to_lead()
    assert await old.count(at(1800), seen(gone={"a": float(T0 + 1800)}))
    assert bill(where) == Decimal(5)


def finished(uid: str, end_s: int, payer: Payer = CHAT) -> Holding:
    return Holding(uid, payer, 4, float(T0), float(T0 + end_s), "n")


async def test_a_finished_pod_that_stays_to_be_seen_counts_once_and_for_whom_it_ran(where: Path) -> None:
    """Nobody knows its service any more once it has finished."""
    metering, others = Metering(where, Metrics()), Payer("h100", "team")
    await metering.count(at(0), seen("job"))
    for second in (1800, 1810, 1820):
        await metering.count(at(second), Held((finished("job", 1795, others),), {}, True))
    again = Metering(where, Metrics())
    await again.count(at(1900), Held((finished("job", 1795, others),), {}, True))
    ledger = Ledger(where)
    assert [(row.payer, row.gpu_seconds) for row in ledger.rows(T0, T0 + 7200)] == [(CHAT, 4 * 1795)]


async def test_a_standby_that_saw_the_same_things_go_counts_none_of_them_again(where: Path) -> None:
    leader = Metering(where, Metrics())
    await leader.count(at(0), seen("a", "b"))
    await leader.count(at(600), seen("b", gone={"a": float(T0 + 600)}))
    gathered = (finished("a", 600, Payer("h100", "team")), finished("b", 900, Payer("h100", "team")))
    gone = {item.uid: item.end_s or 0.0 for item in gathered}
    await Metering(where, Metrics()).count(at(1000), Held(gathered, gone, True))
    ledger = Ledger(where)
    assert [(row.payer, row.gpu_seconds) for row in ledger.rows(T0, T0 + 7200)] == [(CHAT, 4 * 1500)]


async def test_what_was_away_for_a_while_comes_back_without_its_past(where: Path) -> None:
    """A node that lost its labels and got another pool's, or whose pool was deleted and made again."""
    metering, other = Metering(where, Metrics()), Payer("h100", "team", "code")
    await metering.count(at(0), seen("a"))
    await metering.count(at(600), seen("a"))
    await metering.count(at(610), seen())
    await metering.count(at(1200), Held((Holding("a", other, 4, float(T0), None, "n"),), {}, True))
    ledger = Ledger(where)
    found = {row.payer: row.gpu_seconds for row in ledger.rows(T0, T0 + 1800)}
    assert found == {CHAT: 4 * 610, other: 4 * 1190}


async def test_what_ran_before_there_was_a_ledger_is_not_in_it(where: Path) -> None:
    await Metering(where, Metrics()).count(at(1800), seen("a"))
    ledger = Ledger(where)
    assert ledger.since_s == T0 + 1800
    assert ledger.running()["a"].begin_s == T0 + 1800


async def test_nothing_is_written_after_the_lease_has_gone(where: Path) -> None:
    leading = [True]
    metering = Metering(where, Metrics(), lambda: leading[0])
    assert await metering.count(at(0), seen("a"))
    leading[0] = False
    await metering.count(at(600), seen(gone={"a": float(T0 + 600)}))
    assert "the lease went" in metering.notice
    assert set(Ledger(where).running()) == {"a"}


async def test_a_price_that_is_edited_twice_in_a_second_blocks_nothing(where: Path) -> None:
    metering = Metering(where, Metrics())
    for price in ("1.00", "2.00", "3.00"):
        assert await metering.count(at(0, price), seen("a"))
    tariffs = [record.price.tariff for record in Ledger(where).prices() if record.price]
    assert [str(tariff.base) for tariff in tariffs if tariff] == ["1.00", "2.00", "3.00"]


SERVED = Payer("h100", "team", "chat", "h100", "llama-3-8b")


def serving(second: int, outputs: float = 100.0, **changes: Any) -> Snapshot:
    """One pod of the service, and what its engine says."""
    read = Reading(Quality.FRESH, outputs, 1.0)
    engine = EngineReadings("vLLM", prompt_tokens=read, generation_tokens=read)
    pods = (world.pod("a", uid="a", gpus=4, engine=engine),)
    spec = world.service_spec(labels=(("rev", "7"), ("team", "search")))
    service = world.service_state(spec, world.variant_state(pods=pods))
    return msgspec.structs.replace(at(second), services=(service,), **changes)


def bound(begin: int = 0) -> Held:
    return Held((Holding("a", SERVED, 4, float(T0 + begin), None, "n"),), {}, True)


def used(where: Path) -> UsageRow:
    ledger = Ledger(where)
    rows = [row for row in ledger.usage(T0, T0 + 7200) if row.payer == SERVED]
    ledger.close()
    return UsageRow(
        T0,
        SERVED,
        *(sum(getattr(row, name) for row in rows) for name in UsageRow.__struct_fields__[2:]),
    )


async def test_tokens_of_each_second_are_counted_once(where: Path) -> None:
    metering = Metering(where, Metrics())
    for second in range(0, 601, 10):
        await metering.count(serving(second), bound())
    assert (used(where).output_tokens, used(where).seen_gpu_s) == (60_000, 2400)


async def test_tokens_are_written_with_the_plan_and_what_an_input_token_weighs(where: Path) -> None:
    metering = Metering(where, Metrics())
    memory = Memory(services=(ServiceMemory("team/chat", ForecastMemory(prompt_weight=0.25)),))
    for second in range(0, 61, 10):
        await metering.count(serving(second), bound(), world.plan(world.service_plan(load=0.9375)), memory)
    found = used(where)
    assert (found.weighed_tokens, found.weighed_work) == (6000, 1500)
    assert (found.rated_gpu_s, found.used_gpu_s) == (240, 225), "15 sixteenths of 240"


async def test_who_takes_over_within_the_window_leaves_no_gap(where: Path) -> None:
    """Usage is written every half minute: what the one before had not written is in the first rate of the next."""
    first = Metering(where, Metrics())
    for second in range(0, 101, 10):
        await first.count(serving(second), bound())
    second = Metering(where, Metrics())
    for after in (120, 130, 160):
        await second.count(serving(after), bound())
    assert (used(where).output_tokens, used(where).seen_gpu_s) == (16_000, 640)


async def test_an_hour_without_an_operator_is_a_gap(where: Path) -> None:
    await Metering(where, Metrics()).count(serving(0), bound())
    later = Metering(where, Metrics())
    await later.count(serving(3000), bound())
    await later.count(serving(3030), bound())
    assert used(where).seen_gpu_s == 4 * 90, "the window of the first rate, and what came after"
    ledger = Ledger(where)
    assert sum(row.gpu_seconds for row in ledger.rows(T0, T0 + 3030)) == 4 * 3030, "it is paid all the same"


async def test_tokens_while_a_database_is_gone_are_written_later(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metering = Metering(where, Metrics())
    await metering.count(serving(0), bound())

    def gone(*_: Any, **__: Any) -> None:
        raise RetryableError("ledger: the server closed the connection. Nothing was written; it is tried again")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "ends", gone)
        for second in range(10, 1801, 10):
            await metering.count(serving(second), bound())
    for second in range(1810, 3601, 10):
        await metering.count(serving(second), bound())
    assert used(where).output_tokens == 360_000


async def test_an_overtaken_leader_drops_what_the_other_counted(where: Path) -> None:
    old, new = Metering(where, Metrics()), Metering(where, Metrics())
    await old.count(serving(0), bound())
    for second in range(0, 301, 10):
        await new.count(serving(second), bound())
    await old.count(serving(300), bound())
    old.begin_to_lead()
    for second in range(310, 601, 10):
        await old.count(serving(second), bound())
    assert used(where).output_tokens == 60_000


def policy(name: str = "cap", **changes: Any) -> PolicyState:
    return PolicyState(msgspec.structs.replace(world.POLICY, name=name, **changes))


def recorded(where: Path) -> list[tuple[str, int, bool, tuple[str, ...]]]:
    return [(record.name, record.from_s - T0, record.gone, record.namespaces) for record in Ledger(where).policies()]


async def test_policies_are_recorded_when_they_select_something_else(where: Path) -> None:
    metering = Metering(where, Metrics())
    steps: list[tuple[int, tuple[PolicyState, ...]]] = [
        (0, (policy(),)),
        (10, (policy(outage_reserve_s=60.0),)),  # selects the same
        (20, (policy(namespaces=("ml",)),)),
        (30, ()),
        (40, (policy(namespaces=("ml",)),)),
    ]
    for second, states in steps:
        await metering.count(serving(second, policies=states), bound())
    await Metering(where, Metrics()).count(serving(50, policies=steps[-1][1]), bound())
    assert recorded(where) == [
        ("cap", 0, False, ()),
        ("cap", 20, False, ("ml",)),
        ("cap", 30, True, ("ml",)),
        ("cap", 40, False, ("ml",)),
    ]


async def test_a_policy_that_cannot_be_read_selects_what_it_did(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(serving(0, policies=(policy(),)), bound())
    broken = Unreadable(POLICY_KIND, "cap", "policy-uid", 2, "spec.currency: Input should be a string")
    await metering.count(serving(10, policies=(), unreadable=(broken,)), bound())
    assert [gone for _, _, gone, _ in recorded(where)] == [False]


async def test_only_labels_by_which_policies_select_are_recorded(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(serving(0, policies=(policy(),)), bound())
    assert Ledger(where).labels() == ()
    await metering.count(serving(10, policies=(policy(match_labels=(("team", "search"),)),)), bound())
    await metering.count(serving(20, policies=()), bound())
    (record,) = Ledger(where).labels()
    assert (record.service, record.labels) == ("team/chat", (("team", "search"),)), "kept after the policy has gone"


async def test_a_report_by_policy_is_what_the_policys_own_account_asks_for(where: Path) -> None:
    """The same rows, selectors and sums as those by which status is mended."""
    metering = Metering(where, Metrics())
    spec: PolicySpec = policy(match_labels=(("team", "search"),)).spec
    for second in (0, 1800, 3600):
        await metering.count(serving(second, policies=(PolicyState(spec),)), bound())
    key = (spec.ceilings[0][0], float(T0), float(T0 + 86_400))
    spent, through_s, _, _ = metering.spent([(spec, (key,))], {"team/chat": (("team", "search"),)})
    ledger = Ledger(where)
    _, paying = payers(ledger.policies(), ledger.labels(), T0, through_s)
    found = {total.key: total.cost for total in totals(ledger.rows(T0, through_s), ["policy"], paying)}
    assert found == {("cap",): spent[spec.uid][key]} == {("cap",): Decimal(10)}


async def test_a_service_that_is_gone_is_still_paid_for_by_its_label(where: Path) -> None:
    """4 GPUs at 2.50 for two hours; a policy's lost status is mended to all of it, with the service there or not."""
    metering = Metering(where, Metrics())
    labels = (("team", "search"),)
    spec: PolicySpec = policy(match_labels=labels).spec
    state, midnight = (PolicyState(spec),), 86_400 - T0 % 86_400
    await metering.count(serving(0, policies=state), Held((), {}, True))
    for second in (midnight, midnight + 3600, midnight + 7200):
        await metering.count(serving(second, policies=state), bound(midnight))
    gone_s = midnight + 7210
    gone = msgspec.structs.replace(serving(gone_s, policies=state), services=())
    await metering.count(gone, Held((), {"a": float(T0 + midnight + 7200)}, True))
    key = (spec.ceilings[0][0], float(T0 + midnight), float(T0 + midnight + 86_400))
    for present in ({"team/chat": labels}, {}):
        spent, through_s, since_s, unsure = metering.spent([(spec, (key,))], present)
        assert (spent, unsure) == ({spec.uid: {key: Decimal(20)}}, {}), present
    for saved in ("0", "35"):  # lost, or more than there was
        accounts = Accounts()
        said = Saved(float(T0 + gone_s), Decimal(0), (Account(*key, Decimal(saved)),))
        accounts.count([spec], lambda _, said=said: said, Shown(float(T0 + gone_s), gone.pools, {}, (), {}))
        spent, through_s, since_s, unsure = metering.spent(accounts.unsettled(), {})
        mended = accounts.settle(spec, spent[spec.uid], through_s, since_s, [key for _, key in unsure])
        assert mended.endswith(f"Day {saved}.00 -> 20.00")


async def test_of_what_had_its_worth_by_an_exchange_rate_the_ledger_may_know_less(where: Path) -> None:
    """It keeps no rates: of what a policy paid in another currency the status knows better. Of all else it does not."""
    metering = Metering(where, Metrics())
    rates = {"exchange_rates": (("USD", Decimal("0.9")), ("EUR", Decimal("1.1")))}
    euros: PolicySpec = policy("euros", uid="e", currency="EUR", **rates).spec
    dollars: PolicySpec = policy("dollars", uid="d", **rates).spec
    for second in (0, 3600):
        await metering.count(serving(second), bound())
    key = (euros.ceilings[0][0], float(T0), float(T0 + 86_400))
    spent, _, _, unsure = metering.spent([(euros, (key,)), (dollars, (key,))], {})
    assert (spent["e"][key], spent["d"][key]) == (Decimal(9), Decimal(10))
    assert unsure == {("e", key): {}}


async def test_what_the_ledger_knows_no_price_of_is_told_beside_what_it_knows(where: Path) -> None:
    """Half an hour in which nobody knew the price: what it sums up is no reason to lower what a status says."""
    metering = Metering(where, Metrics())
    spec: PolicySpec = policy().spec
    for second in (0, 1800, 3600):
        state = serving(second, policies=(PolicyState(spec),))
        if second < 1800:
            pools = (msgspec.structs.replace(item, spec=unpriced(item)) for item in state.pools)
            state = msgspec.structs.replace(state, pools=tuple(pools))
        await metering.count(state, bound())
    key = (spec.ceilings[0][0], float(T0), float(T0 + 86_400))
    later = (spec.ceilings[0][0], float(T0 + 3600), float(T0 + 86_400))
    spent, _, _, unpriced_keys = metering.spent([(spec, (key, later))], {})
    assert (spent[spec.uid][key], unpriced_keys) == (Decimal(5), {(spec.uid, key): {"h100": 7200}})


def unpriced(item: PoolState) -> PoolSpec:
    return msgspec.structs.replace(item.spec, price=None)


async def test_what_services_declare_is_recorded_when_it_changes_and_taken_up_by_the_next_leader(where: Path) -> None:
    def declaring(second: int, price: str | None) -> Snapshot:
        offer = None if price is None else Alternative("USD", Decimal(price), Decimal("2.00"))
        spec = world.service_spec(alternative=offer)
        return msgspec.structs.replace(at(second), services=(world.service_state(spec, world.variant_state()),))

    metering = Metering(where, Metrics())
    for second, price in ((0, None), (10, "0.50"), (20, "0.50"), (30, "0.60")):
        await metering.count(declaring(second, price), seen())
    await Metering(where, Metrics()).count(declaring(40, "0.60"), seen())
    await Metering(where, Metrics()).count(declaring(50, None), seen())
    found = [
        (record.from_s - T0, record.offer and str(record.offer.per_million_input)) for record in Ledger(where).offers()
    ]
    assert found == [(10, "0.50"), (30, "0.60"), (50, None)]


async def test_a_price_that_says_so_holds_from_before_its_edit(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(at(2700, "9.00"), seen("a"))
    assert bill(where, 3600) == Decimal("16.50")
    await metering.count(since(3600, "5.00", 1800.5), seen("a"))
    assert bill(where, 3600) == Decimal(15), "half an hour at 2.50, half an hour at 5.00"
    await Metering(where, Metrics()).count(since(3600, "5.00", 1800.5), seen("a"))
    assert bill(where, 3600) == Decimal(15), "the next leader sees no edit"
    known = [(record.from_s - T0, record.known_s - T0) for record in Ledger(where).prices()[1:]]
    assert known == [(2700, 2700), (1800, 3600)], "what was thought before can still be told"
    assert metering.refused == {}


async def test_what_was_said_of_an_earlier_price_is_not_said_of_the_next(where: Path) -> None:
    """The API server refuses such an edit; where it does not, nothing of the past changes."""
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    await metering.count(since(1800, "5.00", 900), seen("a"))
    await metering.count(since(2700, "50.00", 900), seen("a"))
    assert bill(where, 2700) == Decimal("2.50") + Decimal(10)
    await metering.count(since(3600, "5.00", None), seen("a"))
    assert bill(where, 3600) == Decimal("12.50") + Decimal(50), "that it is said no more changes nothing either"


async def test_hours_that_were_rolled_up_are_worked_out_again_with_the_price(where: Path) -> None:
    metering, day = Metering(where, Metrics()), 86_400
    await metering.count(at(0), seen("a"))
    for second in range(day, 3 * day, 600):
        await metering.count(at(second), seen("a"))
    ledger = Ledger(where)
    assert ledger.rolled_s > T0 + 2 * day
    await metering.count(since(3 * day, "5.00", day), seen("a"))
    assert ledger.rolled_s < T0 + 2 * day
    for second in range(3 * day, 4 * day, 600):
        await metering.count(since(second, "5.00", day), seen("a"))
    assert ledger.rolled_s > T0 + 3 * day
    assert bill(where, 3 * day) == 24 * 10 + 48 * 20


@pytest.mark.parametrize(
    ("from_s", "why"),
    [
        (9 * 86_400, "has not come; put prices of coming hours into spec.price.schedule"),
        (86_400, "is too long ago, for the ledger keeps lifetimes from"),
    ],
)
async def test_a_price_that_cannot_hold_from_then_holds_from_when_it_is_seen_and_says_why(
    where: Path, from_s: int, why: str
) -> None:
    metering, day = Metering(where, Metrics(), keeping=Keeping(86_400.0, 86_400.0)), 86_400
    await metering.count(at(0), seen("a", "b"))
    for second in range(60, 6 * day, 1800):
        await metering.count(at(second), seen("a"))
    assert Ledger(where).open_s > T0 + day
    before = bill(where, 6 * day)
    await metering.count(since(6 * day, "5.00", from_s), seen("a"))
    await metering.count(since(6 * day + 1800, "5.00", from_s), seen("a"))
    assert (why in metering.refused["h100"], bill(where, 6 * day)) == (True, before), metering.refused
    assert "holds from" in metering.refused["h100"]
    again = Metering(where, Metrics())
    await again.count(since(6 * day + 3600, "5.00", from_s), seen("a"))
    assert again.refused == metering.refused, "the next leader says the same"
    await again.count(since(6 * day + 3610, "5.00", None), seen("a"))
    assert again.refused == {}


async def test_policies_follow_a_price_that_holds_from_before_its_edit(where: Path) -> None:
    """Their own accounts, cycle by cycle, come to what the ledger says."""
    metering, accounts = Metering(where, Metrics()), Accounts()
    spec = policy().spec
    nobody = Saved(0.0, Decimal(0), ())
    edits = [(0, "2.50", None), (1800, "2.50", None), (3600, "5.00", 900), (3610, "5.00", 900), (7200, "5.00", 900)]
    for second, price, from_s in edits:
        snapshot, held = since(second, price, from_s), seen("a")
        shown = Shown(snapshot.taken_at, snapshot.pools, {}, held.holdings, held.gone)
        accounts.count([spec], lambda _: nobody, shown)
        await metering.count(snapshot, held)
        spent, through_s, since_s, _ = metering.spent(accounts.unsettled(), {})
        for asked, _ in accounts.unsettled():
            accounts.settle(asked, spent[asked.uid], through_s, since_s)
    (state,) = accounts.states()
    assert {item.spent for item in state.accounts} == {Decimal("2.50") + Decimal(35)} == {bill(where)}


def unreachable(*_: Any, **__: Any) -> None:
    raise RetryableError("ledger: the server closed the connection. Nothing was written; it is tried again")


async def test_a_ledger_that_is_behind_says_since_when_and_why(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metering = Metering(where, Metrics())
    assert metering.state(float(T0), 10.0).why == "", "it was not to be written yet"
    await metering.count(at(0), seen("a"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", unreachable)
        for second in (10, 60):
            await metering.count(at(second), seen("a"))
            assert metering.state(T0 + second, 10.0).why == "", "a moment is nothing to be told"
        state = metering.state(T0 + 61.0, 10.0)
        assert (state.since_s, "nothing was written since 2027-01-15T08:00:00Z: ledger: the server" in state.why) == (
            T0,
            True,
        ), state
        assert metering.state(T0 + 61.0, 60.0).why == "", "of cycles of a minute, three may fail"
    await metering.count(at(70), seen("a"))
    assert metering.state(T0 + 75.0, 10.0) == LedgerState(T0 + 70.0)


async def test_one_that_never_answered_says_so_too(tmp_path: Path) -> None:
    (tmp_path / "data").touch()  # a file where a folder should be
    metering = Metering(tmp_path / "data" / "ledger.sqlite", Metrics())
    metering.state(float(T0), 10.0)
    await metering.count(at(10), seen("a"))
    assert "writable directory" in metering.state(T0 + 70.0, 10.0).why
    metering.begin_to_lead()
    assert metering.state(T0 + 80.0, 10.0).why == "", "another may have written it since"


async def test_what_is_too_much_to_be_kept_is_a_hole_and_reports_say_so(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNWRITTEN", 20)
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", unreachable)
        for second in range(10, 310, 10):
            came = Holding(f"pod-{second}", CHAT, 4, T0 + second - 9.0, float(T0 + second - 1), "n")
            gone = {"a": T0 + 15.0} if second > 10 else {}
            held = Held((*seen("b", *([] if gone else ["a"])).holdings, came), gone, True)
            assert await metering.count(at(second), held)
            assert len(metering._unwritten) <= 20
    await metering.count(at(310), seen("b"))
    (hole,) = Ledger(where).holes(T0, T0 + 3600)
    assert (hole.from_s, 10 < hole.to_s - T0 < 300) == (T0 + 1, True)
    lost = int(hole.why.split("and ")[1].split(" pods")[0])
    kept = [item for item in Ledger(where).lifetimes(T0, T0 + 3600) if item.uid.startswith("pod")]
    assert lost + len(kept) == 30 and lost > 9, "each is in the ledger or told to be lost"
    assert set(Ledger(where).running()) == {"b"}, "what the ledger knew to run has its end"
    assert Ledger(where).holes(T0 - 60, T0) == ()


async def test_tokens_of_a_long_outage_are_a_hole_too(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metering = Metering(where, Metrics())
    await metering.count(serving(0), bound())
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "ends", unreachable)
        patch.setattr(Ledger, "write", unreachable)
        for second in range(60, 10 * 3600, 60):
            await metering.count(serving(second), bound())
    await metering.count(serving(10 * 3600), bound())
    ledger = Ledger(where)
    (hole,) = ledger.holes(T0, T0 + 36_000)
    assert (hole.from_s, hole.to_s, "tokens are not in it" in hole.why) == (T0, T0 + 4 * 3600, True)
    told = {row.hour_s for row in ledger.usage(T0 + 3600, T0 + 36_000)}
    assert told == set(range(T0 + 4 * 3600, T0 + 36_000, 3600))
    assert sum(row.gpu_seconds for row in ledger.rows(T0, T0 + 36_000)) == 4 * 36_000, "cost is all there"
