"""What policies have spent: the same to the cent as the ledger's bill, cycle by cycle, and across restarts."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.model.money import Lifetime, Payer, PriceRecord, PriceStep
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Account, Compared, Others, PoolState
from ebbtide.model.spec import (
    Billing,
    CeilingKind,
    PolicyScope,
    PolicySpec,
    Price,
    PriceSource,
    Provisioning,
    Tariff,
)
from ebbtide.money.accounts import Accounts, Labels, Saved, Shown, pays
from ebbtide.money.bill import hours
from ebbtide.money.lifetimes import Holding
from tests.builders import pool
from tests.core.purse import policy

NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())
CHAT, CODE, OTHER = Payer("h100", "ml", "chat"), Payer("h100", "dev", "code"), Payer("h100", "ml")
GOLD: dict[str, Labels] = {"ml/chat": (("tier", "gold"),)}
NOTHING = Saved(0.0, Decimal(0), ())


def priced(price: str = "3.60", billing: Billing = Billing.POD, currency: str = "USD") -> PoolState:
    state = pool("h100", price=price)
    spec = msgspec.structs.replace(state.spec, price=Price(currency, Tariff(Decimal(price))), billing=billing)
    return msgspec.structs.replace(state, spec=spec, currency=currency)


def holding(uid: str, begin_s: int, end_s: int | None = None, payer: Payer = CHAT, gpus: int = 1) -> Holding:
    return Holding(uid, payer, gpus, float(begin_s), None if end_s is None else float(end_s), "n")


def node(begin_s: int, end_s: int | None = None, gpus: int = 8) -> Holding:
    return Holding("n", Payer("h100"), gpus, float(begin_s), None if end_s is None else float(end_s), "", is_node=True)


def shown(
    now_s: int,
    *holdings: Holding,
    state: PoolState | None = None,
    gone: Mapping[str, float] | None = None,
    **more: Any,
) -> Shown:
    return Shown(float(now_s), (state or priced(),), GOLD, holdings, gone or {}, **more)


def spent(accounts: Accounts) -> Decimal:
    """Of the day."""
    (state,) = accounts.states()
    return next(item.spent for item in state.accounts if item.kind is CeilingKind.DAY).quantize(Decimal("0.000001"))


def run(*counts: Shown, spec: PolicySpec | None = None, saved: Saved = NOTHING) -> Accounts:
    accounts = Accounts()
    for each in counts:
        accounts.count([spec or policy(per_day="100")], lambda _: saved, each)
    return accounts


HOUR = NOON + 3600
STORIES: list[tuple[str, Sequence[Shown], str]] = [
    ("a pod for an hour", [shown(NOON), shown(HOUR, holding("a", NOON))], "3.60"),
    ("counted as it goes", [shown(NOON + s, holding("a", NOON)) for s in (0, 7, 1800, 3600)], "3.60"),
    ("it went half-way", [shown(NOON, holding("a", NOON)), shown(HOUR, holding("a", NOON), gone={"a": NOON + 1800.0})],
     "1.80"),
    ("news of its end came late: what was counted too much is taken back",
     [shown(NOON, holding("a", NOON)), shown(HOUR, holding("a", NOON)),
      shown(HOUR + 9, holding("a", NOON, NOON + 1800))], "1.80"),
    ("and only once",
     [shown(NOON, holding("a", NOON)), shown(HOUR, holding("a", NOON)),
      *(shown(HOUR + s, holding("a", NOON, NOON + 1800)) for s in (9, 10, 11))], "1.80"),
    ("it vanished unseen: it ran until it was missed",
     [shown(NOON, holding("a", NOON)), shown(NOON + 1800, holding("a", NOON)), shown(HOUR), shown(HOUR + 900)], "3.60"),
    ("a list with holes ends nothing",
     [shown(NOON, holding("a", NOON)), shown(NOON + 1800, complete=False), shown(HOUR, holding("a", NOON))], "3.60"),
    ("a price that is edited holds from when it is seen",
     [shown(NOON, holding("a", NOON)), shown(NOON + 1800, holding("a", NOON), state=priced("7.20")),
      shown(HOUR, holding("a", NOON), state=priced("7.20"))], "5.40"),
    ("a clock that is set back counts nothing twice",
     [shown(NOON, holding("a", NOON)), shown(HOUR, holding("a", NOON)), shown(HOUR - 600, holding("a", NOON)),
      shown(HOUR, holding("a", NOON))], "3.60"),
    ("by a clock that is ahead it begins in a moment",
     [shown(NOON, holding("a", NOON + 2)), shown(NOON + 1, holding("a", NOON + 2)),
      shown(NOON + 3602, holding("a", NOON + 2))], "3.60"),
    ("of a pod that has gone nobody knows whose it was: as at the last count",
     [shown(NOON, holding("a", NOON)),
      shown(HOUR, holding("a", NOON, payer=OTHER), gone={"a": NOON + 1800.0})], "1.80"),
    ("while its service cannot be read it goes on",
     [shown(NOON, holding("a", NOON)),
      shown(HOUR, holding("a", NOON, payer=OTHER), unread=frozenset({"ml/chat"}))], "3.60"),
    ("a pool that is away for two counts, and comes back",
     [shown(NOON, holding("a", NOON)), shown(NOON + 1800, holding("a", NOON)), shown(NOON + 1810), shown(NOON + 1820),
      shown(HOUR, holding("a", NOON))], "3.60"),
    ("another service's", [shown(NOON), shown(HOUR, holding("a", NOON, payer=CODE))], "3.60"),
    ("others' pods are not a managed policy's", [shown(NOON), shown(HOUR, holding("a", NOON, payer=OTHER))], "0"),
    ("a price in another currency is not counted",
     [shown(NOON, state=priced(currency="EUR")), shown(HOUR, holding("a", NOON), state=priced(currency="EUR"))], "0"),
    ("midnight begins a new day",
     [shown(NOON, holding("a", NOON)), shown(NOON + 12 * 3600 + 1800, holding("a", NOON))], "1.80"),
]  # fmt: skip


def test_the_second_in_which_a_pod_goes_is_paid_also_where_nobody_tells_of_it_again() -> None:
    """Cycles are woken by it, and the ledger has it before the next one."""
    there = holding("a", NOON)
    went = msgspec.structs.replace(shown(NOON, there, gone={"a": NOON + 10.4}), now_s=NOON + 10.7)
    accounts = run(shown(NOON, there), went, shown(NOON + 20), shown(NOON + 30))
    assert spent(accounts) == Decimal("0.011")


def test_so_is_the_second_in_which_a_node_goes() -> None:
    state, all_pods = autoscaled(), policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS)
    there = (node(NOON, gpus=2), holding("a", NOON))
    went = msgspec.structs.replace(
        shown(NOON, *there, state=state, gone={"a": NOON + 10.4, "n": NOON + 10.6}), now_s=NOON + 10.7
    )
    counts = shown(NOON, *there, state=state), went, shown(NOON + 20, state=state), shown(NOON + 30, state=state)
    assert spent(run(*counts, spec=all_pods)) == Decimal("0.022")


@pytest.mark.parametrize(("story", "counts", "want"), STORIES, ids=[story for story, _, _ in STORIES])
def test_a_day(story: str, counts: Sequence[Shown], want: str) -> None:
    del story
    assert spent(run(*counts)) == Decimal(want)


@pytest.mark.parametrize(
    ("story", "spec", "want"),
    [
        ("all services", policy(per_day="1"), "7.20"),
        ("a namespace", policy(per_day="1", namespaces=("dev",)), "3.60"),
        ("labels", policy(per_day="1", match_labels=(("tier", "gold"),)), "3.60"),
        ("others as well", policy(per_day="1", namespaces=("ml",), scope=PolicyScope.ALL_GPU_PODS), "7.20"),
        ("all there is", policy(per_day="1", scope=PolicyScope.ALL_GPU_PODS), "10.80"),
    ],
)
def test_whose_pods_a_policy_pays_for(story: str, spec: PolicySpec, want: str) -> None:
    pods = [holding(str(i), NOON, payer=payer) for i, payer in enumerate((CHAT, CODE, OTHER))]
    assert spent(run(shown(NOON), shown(HOUR, *pods), spec=spec)) == Decimal(want), story


def test_idle_gpus_are_paid_by_a_policy_for_everything_and_by_no_other() -> None:
    state = priced(billing=Billing.NODE)
    counts = [shown(NOON + s, node(NOON), holding("a", NOON + 1800, gpus=4), state=state) for s in (0, 1800, 3600)]
    everything = policy(per_day="1", scope=PolicyScope.ALL_GPU_PODS)
    assert spent(run(*counts, spec=everything)) == Decimal("28.80")
    assert run(*counts, spec=everything).states()[0].others == (Others("h100", 0, 0, 4),)
    assert spent(run(*counts)) == Decimal("7.20")


def test_others_that_stay_longer_than_the_reserve_are_there_to_stay() -> None:
    spec = policy(per_day="1", scope=PolicyScope.ALL_GPU_PODS, namespaces=("ml",))
    pods = [holding("old", NOON - 1000, payer=OTHER, gpus=2), holding("new", NOON + 3000, payer=OTHER)]
    (state,) = run(shown(NOON), shown(HOUR, *pods), spec=spec).states()
    assert state.others == (Others("h100", 2, 1),)
    assert state.per_hour == Decimal("3.60") * 3


def test_a_policy_goes_on_from_its_status() -> None:
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))
    seen = shown(HOUR, holding("a", NOON - 9000), holding("b", NOON + 1800))
    assert spent(run(seen, saved=Saved(float(NOON), Decimal(0), (day,)))) == Decimal("55.40")


def test_what_went_before_the_status_was_written_is_in_it() -> None:
    """A standby saw it go too, and tells of it once more."""
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))
    seen = shown(HOUR, holding("a", NOON - 9000), gone={"a": NOON - 600.0})
    assert spent(run(seen, saved=Saved(float(NOON), Decimal(0), (day,)))) == 50


def test_while_nobody_watched_no_less_was_spent_than_the_status_says() -> None:
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))
    seen = shown(HOUR, holding("a", NOON - 9000))
    accounts = run(seen, shown(HOUR + 3600, holding("a", NOON - 9000)), saved=Saved(float(NOON), Decimal("9"), (day,)))
    assert spent(accounts) == Decimal("62.60")


def test_of_a_status_only_the_periods_that_there_are_count() -> None:
    yesterday = Account(CeilingKind.DAY, NOON - 129_600.0, NOON - 43_200.0, Decimal("50"))
    other_zone = Account(CeilingKind.DAY, NOON - 40_000.0, NOON + 46_400.0, Decimal("70"))
    saved = Saved(NOON - 86_400.0, Decimal(0), (yesterday, other_zone))
    assert spent(run(shown(NOON), saved=saved)) == 0


def test_a_new_policy_waits_until_the_ledger_was_asked() -> None:
    accounts = run(shown(NOON), shown(HOUR, holding("a", NOON)))
    assert [code for code, _ in accounts.states()[0].faults] == [Code.PENDING]
    ((spec, keys),) = accounts.unsettled()
    assert accounts.settle(spec, {keys[0]: Decimal("20")}, NOON + 5, 0) == "", "of a moment that was not counted"
    said = accounts.settle(spec, {keys[0]: Decimal("20")}, HOUR, 0)
    assert said == "CostPolicy cap: spent by the ledger: Day 3.60 -> 20.00"
    assert accounts.states()[0].faults == ()
    assert accounts.unsettled() == []
    accounts.count([spec], lambda _: NOTHING, shown(HOUR + 3600, holding("a", NOON)))
    assert spent(accounts) == Decimal("23.60")


def since(price: str, from_s: int | None) -> PoolState:
    """A price that says from when on it holds."""
    state = priced(price)
    told = Price("USD", Tariff(Decimal(price)), effective_from=from_s)
    return msgspec.structs.replace(state, spec=msgspec.structs.replace(state.spec, price=told))


def test_a_price_that_holds_from_before_its_edit_is_asked_of_the_ledger() -> None:
    accounts = run(shown(NOON), shown(HOUR, holding("a", NOON)))
    ((spec, keys),) = accounts.unsettled()
    accounts.settle(spec, {keys[0]: Decimal("3.60")}, HOUR, 0)
    for second, state in ((10, since("7.20", None)), (20, since("7.20", NOON)), (30, since("7.20", NOON))):
        accounts.count([spec], lambda _: NOTHING, shown(HOUR + second, holding("a", NOON), state=state))
        assert bool(accounts.unsettled()) == (second > 10), "an edit that says nothing of the past asks nothing"
    assert [code for code, _ in accounts.states()[0].faults] == [Code.PENDING], "nothing is raised until it is known"
    accounts.settle(spec, {keys[0]: Decimal("3.60")}, HOUR + 10, 0)
    assert accounts.unsettled(), "the ledger did not know of it then"
    accounts.settle(spec, {keys[0]: Decimal("7.24")}, HOUR + 20, 0)
    assert (accounts.unsettled(), accounts.states()[0].faults) == ([], ())
    assert spent(accounts) == Decimal("7.26")


def test_a_policy_that_counts_something_else_by_now_is_asked_for_again() -> None:
    accounts = run(shown(NOON), shown(HOUR, holding("a", NOON)))
    ((asked, keys),) = accounts.unsettled()
    wider = msgspec.structs.replace(asked, namespaces=("ml", "dev"))
    accounts.count([wider], lambda _: NOTHING, shown(HOUR + 10, holding("a", NOON)))
    assert accounts.settle(asked, {keys[0]: Decimal("20")}, HOUR, 0) == ""
    assert [code for code, _ in accounts.states()[0].faults] == [Code.PENDING]
    accounts.settle(wider, {keys[0]: Decimal("20")}, HOUR + 10, 0)
    assert spent(accounts) == 20


def test_a_source_that_knows_no_price_for_an_hour_does_not_make_it_free() -> None:
    spec = msgspec.structs.replace(priced().spec, price=Price("USD", source=PriceSource("OpenCost")))
    known = msgspec.structs.replace(priced(), spec=spec)
    silent = msgspec.structs.replace(known, price_per_gpu_hour=None)
    moments = ((0, known), (600, silent), (3600, silent))
    assert spent(run(*(shown(NOON + s, holding("a", NOON), state=state) for s, state in moments))) == Decimal("3.60")


def test_a_row_of_a_price_table_holds_from_its_second_and_not_from_the_next_look() -> None:
    """3.60 an hour, 7.20 from 12:00:04 and 36.00 from 12:00:07.5 on, seen at 12:00:00 and 12:00:10: 4 + 6 + 30 s."""
    spec = msgspec.structs.replace(priced().spec, price=Price("USD", source=PriceSource("Table")))
    state = msgspec.structs.replace(
        priced(),
        spec=spec,
        next_price_change_at=NOON + 4.0,
        next_price_per_gpu_hour=Decimal("7.20"),
        later_prices=(PriceStep(NOON + 7.5, Decimal("36.00")),),
    )
    after = msgspec.structs.replace(state, price_per_gpu_hour=Decimal("36.00"), next_price_change_at=None)
    accounts = Accounts()
    for now_s, seen in ((NOON, state), (NOON + 10, after)):
        accounts.count([policy(per_day="9")], lambda _: NOTHING, shown(now_s, holding("a", NOON), state=seen))
    (policy_state,) = accounts.states()
    assert policy_state.accounts[0].spent == Decimal("0.004") + Decimal("0.006") + Decimal("0.03")
    assert policy_state.per_hour == Decimal("36.00")


def test_after_a_restart_a_source_that_is_silent_makes_nothing_free() -> None:
    """As its pool's status says what it said last; else what ran meanwhile is owed until it speaks."""
    spec = msgspec.structs.replace(priced().spec, price=Price("USD", source=PriceSource("OpenCost")))
    known = msgspec.structs.replace(priced(), spec=spec)
    silent = msgspec.structs.replace(known, price_per_gpu_hour=None)
    runs = holding("a", NOON)
    told = [shown(NOON + s, runs, state=silent, listed={"h100": Decimal("3.60")}) for s in (0, 600, 3600)]
    assert spent(run(*told)) == Decimal("3.60"), "as it said last"
    never = [shown(NOON + s, runs, state=silent) for s in (0, 600, 3600)]
    assert spent(run(*never)) == 0, "and it is said that the price is not known"
    assert spent(run(*never, shown(HOUR + 10, runs, state=known))) == Decimal("3.61"), "paid once it is known"
    ended = shown(HOUR + 10, holding("a", NOON, NOON + 1800), state=known)
    assert spent(run(*never, ended)) == Decimal("1.80"), "what was owed too much is taken back"
    idle = [shown(NOON + s, node(NOON), state=_by_node(silent)) for s in (0, 3600)]
    everything = policy(per_day="100", scope=PolicyScope.ALL_GPU_PODS)
    late = shown(HOUR + 10, node(NOON), state=_by_node(known))
    assert spent(run(*idle, late, spec=everything)) == 8 * Decimal("3.61"), "idle GPUs too"


def unpriced(state: PoolState | None = None) -> PoolState:
    state = state or priced()
    spec = msgspec.structs.replace(state.spec, price=None)
    return msgspec.structs.replace(state, spec=spec, price_per_gpu_hour=None, currency="")


def owed(accounts: Accounts) -> tuple[tuple[str, int], ...]:
    """Of the day."""
    (state,) = accounts.states()
    return state.accounts[0].unpriced


RUNS = holding("a", NOON, gpus=4)
FOREIGN = Payer("", "ml")


def test_what_ran_before_anybody_knew_its_price_is_owed_and_paid_by_the_first_that_is_known() -> None:
    """4 GPUs for 45 s, then somebody says 3.60 USD/h: 0.18 USD, and no more once that is paid."""
    before = [shown(NOON + s, RUNS, state=unpriced()) for s in (0, 20, 45)]
    assert (spent(run(*before)), owed(run(*before))) == (0, (("h100", 180),))
    priced_by = [shown(NOON + s, RUNS) for s in (45, 46)]
    assert spent(run(*before, *priced_by)) == Decimal("0.184"), "and a second more"
    assert owed(run(*before, *priced_by)) == ()
    free = msgspec.structs.replace(priced("0"))
    assert (spent(run(*before, shown(NOON + 45, RUNS, state=free), shown(NOON + 45, RUNS, state=free)))) == 0
    assert owed(run(*before, shown(NOON + 45, RUNS, state=free), shown(NOON + 45, RUNS, state=free))) == ()


def test_less_is_owed_where_news_of_an_end_come_late() -> None:
    before = [shown(NOON + s, RUNS, state=unpriced()) for s in (0, 45)]
    ended = shown(NOON + 50, holding("a", NOON, NOON + 30, gpus=4), state=unpriced())
    assert owed(run(*before, ended)) == (("h100", 120),)
    late = [shown(NOON + s, holding("a", NOON, NOON + 30, gpus=4)) for s in (50, 60)]
    assert spent(run(*before, *late)) == Decimal("0.12"), "also where it was paid meanwhile"


def test_a_currency_whose_worth_is_said_later_is_paid_then() -> None:
    accounts, plain = Accounts(), policy(per_day="100")
    euros = priced(currency="EUR")
    for s in (0, 3600):
        accounts.count([plain], lambda _: NOTHING, shown(NOON + s, holding("a", NOON), state=euros))
    assert (spent(accounts), owed(accounts)) == (0, (("h100", 3600),))
    rated = msgspec.structs.replace(plain, exchange_rates=(("EUR", Decimal("1.5")),))
    accounts.count([rated], lambda _: NOTHING, shown(HOUR, holding("a", NOON), state=euros))
    assert (spent(accounts), owed(accounts)) == (Decimal("5.40"), ())


def test_what_is_owed_survives_the_next_leader_and_ends_with_the_period() -> None:
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"), (("", 60), ("h100", 1000)))
    saved = Saved(float(NOON), Decimal(0), (day,))
    assert owed(run(shown(NOON, state=unpriced()), saved=saved)) == (("", 60), ("h100", 1000))
    known = run(shown(NOON), shown(NOON + 1), saved=saved)
    assert (spent(known), owed(known)) == (51, (("", 60),)), "of nodes of no pool nobody knows which they were"
    tomorrow = [shown(NOON + s, state=unpriced()) for s in (0, 43_210, 43_220)]
    assert owed(run(*tomorrow, saved=saved)) == ()


def test_on_a_node_of_no_pool_they_are_said_and_paid_by_the_pool_that_it_comes_to() -> None:
    everything = policy(per_day="100", namespaces=("ml",), scope=PolicyScope.ALL_GPU_PODS)
    alone = msgspec.structs.replace(holding("a", NOON, payer=FOREIGN, gpus=2), on="gpu-7")
    before = [shown(NOON + s, alone) for s in (0, 1800)]
    (state,) = run(*before, spec=everything).states()
    assert (state.outside, state.others) == ((("gpu-7", 2),), (Others("", 2, 0),))
    assert (spent(run(*before, spec=everything)), owed(run(*before, spec=everything))) == (0, (("", 3600),))
    joined = [shown(NOON + s, node(NOON), holding("a", NOON, payer=OTHER, gpus=2)) for s in (1800, 1801)]
    assert spent(run(*before, *joined, spec=everything)) == Decimal("3.602")
    (managed,) = run(*before).states()
    assert (managed.outside, managed.others, owed(run(*before))) == ((), (), ()), "none of a managed policy's"


def test_what_the_ledger_knows_no_price_of_is_owed_by_a_policy_that_is_new() -> None:
    accounts = run(shown(NOON, RUNS, state=unpriced()), shown(NOON + 45, RUNS, state=unpriced()))
    ((spec, keys),) = accounts.unsettled()
    accounts.settle(spec, {keys[0]: Decimal(20)}, NOON + 45, 0, keys, {keys[0]: {"h100": 7200}})
    assert (spent(accounts), owed(accounts)) == (20, (("h100", 7200),)), "those that were counted are among them"
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 45, RUNS))
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 45, RUNS))
    assert (spent(accounts), owed(accounts)) == (Decimal("27.20"), ())
    accounts.ask_again()
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 46, RUNS))
    accounts.settle(spec, {keys[0]: Decimal(20)}, NOON + 46, 0, keys, {keys[0]: {"h100": 7200}})
    assert (spent(accounts), owed(accounts)) == (Decimal("27.204"), ()), "once paid it is not owed again"


def _by_node(state: PoolState) -> PoolState:
    return msgspec.structs.replace(state, spec=msgspec.structs.replace(state.spec, billing=Billing.NODE))


def test_a_ledger_that_does_not_know_a_price_lowers_nothing() -> None:
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))
    spec = policy(per_day="100")
    for amount, want in (("40", "50"), ("60", "60")):
        accounts = run(shown(NOON), spec=spec, saved=Saved(float(NOON), Decimal(0), (day,)))
        key = next(key for key in accounts.unsettled()[0][1] if key[1] < NOON)
        accounts.settle(spec, {key: Decimal(amount)}, NOON, NOON - 43_200, [key])
        assert spent(accounts) == Decimal(want)


def test_what_the_ledger_says_of_an_earlier_moment_is_added_to_what_came_since() -> None:
    accounts = run(shown(NOON), shown(NOON + 1800, holding("a", NOON)), shown(HOUR, holding("a", NOON)))
    ((spec, keys),) = accounts.unsettled()
    accounts.settle(spec, {keys[0]: Decimal("10")}, NOON + 1800, 0)
    assert spent(accounts) == Decimal("11.80")


@pytest.mark.parametrize(
    ("story", "since_s", "changes", "want"),
    [
        ("it knows the whole day, and mends", NOON - 43_200, {}, "40"),
        ("it began at noon: status knows more", NOON, {}, "50"),
        (
            "nor does a selector by label save what it does not know of",
            NOON - 43_200,
            {"match_labels": (("tier", "gold"),)},
            "40",
        ),
        (
            "nor does a rate that nothing was paid by",
            NOON - 43_200,
            {"exchange_rates": (("EUR", Decimal("1.1")),)},
            "40",
        ),
    ],
)
def test_when_a_ledger_may_lower_what_a_status_says(
    story: str, since_s: int, changes: dict[str, object], want: str
) -> None:
    spec = policy(per_day="100", **changes)
    day = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))
    accounts = run(shown(NOON), spec=spec, saved=Saved(float(NOON), Decimal(0), (day,)))
    key = next(key for key in accounts.unsettled()[0][1] if key[1] < NOON)
    accounts.settle(spec, {key: Decimal("40")}, NOON, since_s)
    assert spent(accounts) == Decimal(want), story


def compared(accounts: Accounts) -> Compared | None:
    (state,) = accounts.states()
    return state.compared


DAY = Account(CeilingKind.DAY, NOON - 43_200.0, NOON + 43_200.0, Decimal("50"))


@pytest.mark.parametrize(
    ("story", "saved", "ledger", "since_s", "want"),
    [
        ("it says the same", (DAY,), "50", 0, ("", "", False)),
        ("to the cent", (DAY,), "50.009", 0, ("", "", False)),
        ("it knows better", (DAY,), "35", 0, ("Day 50.00 -> 35.00", "", False)),
        ("it knows more", (DAY,), "50.01", 0, ("Day 50.00 -> 50.01", "", False)),
        ("it began at noon and knows less", (DAY,), "35", NOON, ("", "Day 35.00 of 50.00", False)),
        ("it began at noon and knows more", (DAY,), "55", NOON, ("Day 50.00 -> 55.00", "", False)),
        ("nobody had said anything", (), "35", 0, ("Day 0.00 -> 35.00", "", True)),
    ],
)
def test_what_comes_of_a_comparison_with_the_ledger(
    story: str, saved: tuple[Account, ...], ledger: str, since_s: int, want: tuple[str, str, bool]
) -> None:
    accounts = run(shown(NOON), saved=Saved(float(NOON), Decimal(0), saved) if saved else NOTHING)
    assert compared(accounts) is None
    ((spec, _),) = accounts.unsettled()
    accounts.settle(spec, {(DAY.kind, DAY.start_s, DAY.end_s): Decimal(ledger)}, NOON, since_s)
    assert compared(accounts) == Compared(float(NOON), *want), story


def test_every_hour_all_are_compared_again_and_go_on_meanwhile() -> None:
    accounts, spec = Accounts(), policy(per_day="100")
    key = DAY.kind, DAY.start_s, DAY.end_s

    def count(at_s: int) -> bool:
        """Whether the ledger is to be asked."""
        accounts.count([spec], lambda _: NOTHING, shown(at_s, holding("a", NOON)))
        return bool(accounts.unsettled())

    assert count(NOON)
    accounts.settle(spec, {key: Decimal(0)}, NOON, 0)
    assert [count(at_s) for at_s in (NOON + 10, NOON + 3590, NOON + 3600, NOON + 3610)] == [False, False, True, True]
    assert accounts.states()[0].faults == (), "what was counted holds until the ledger says something else"
    assert accounts.settle(spec, {key: Decimal("4.60")}, NOON + 3600, 0).endswith("Day 3.60 -> 4.60")
    assert compared(accounts) == Compared(NOON + 3600.0, "Day 3.60 -> 4.60")
    assert not count(NOON + 3620)
    assert spent(accounts) == Decimal("4.62")
    assert count(NOON + 7200)
    accounts.settle(spec, {key: Decimal("8.20")}, NOON + 7200, 0)
    assert compared(accounts) == Compared(NOON + 7200.0)


def test_a_database_that_does_not_answer_is_asked_by_no_more_policies_than_before() -> None:
    specs = [policy(f"p{number:03d}", per_day="100") for number in range(250)]
    accounts = Accounts()
    accounts.count(specs, lambda _: NOTHING, shown(NOON))
    for spec, keys in accounts.unsettled():
        accounts.settle(spec, dict.fromkeys(keys, Decimal(0)), NOON, 0)
    for at_s in range(NOON + 3600, NOON + 3650, 10):
        accounts.count(specs, lambda _: NOTHING, shown(at_s))
        assert len(accounts.unsettled()) == 200
    for spec, keys in accounts.unsettled():
        accounts.settle(spec, dict.fromkeys(keys, Decimal(0)), NOON + 3600, 0)
    accounts.count(specs, lambda _: NOTHING, shown(NOON + 3650))
    assert len(accounts.unsettled()) == 50, "the rest"


def test_what_was_paid_by_an_earlier_rate_is_not_counted_anew_every_hour() -> None:
    spec = policy(per_day="100", exchange_rates=(("EUR", Decimal("1.10")),))
    accounts = run(shown(NOON), spec=spec)
    accounts.settle(spec, {(DAY.kind, DAY.start_s, DAY.end_s): Decimal(0)}, NOON, 0)
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 7200))
    assert accounts.unsettled() == []


def test_a_day_of_a_time_zone_and_a_month_that_begins_late() -> None:
    spec = policy(per_day="1", per_month="9", time_zone="Europe/Berlin", month_starts_on=15)
    (state,) = run(shown(NOON), spec=spec).states()
    spans = {item.kind: (item.start_s, item.end_s) for item in reversed(state.accounts)}
    assert spans[CeilingKind.DAY] == (NOON - 13 * 3600, NOON + 11 * 3600)
    begin, end = (datetime.fromtimestamp(each, UTC) for each in spans[CeilingKind.MONTH])
    assert (begin.isoformat(), end.isoformat()) == ("2026-02-14T23:00:00+00:00", "2026-03-14T23:00:00+00:00")


def test_a_time_zone_that_does_not_exist() -> None:
    (state,) = run(shown(NOON), spec=policy(per_day="1", time_zone="Mars/Olympus")).states()
    assert state.faults[0][0] == Code.INVALID_TIME_ZONE
    assert "'Mars/Olympus'" in state.faults[0][1]


_PAYERS = st.sampled_from((CHAT, CODE, OTHER))


@settings(max_examples=150, deadline=None)
@given(
    pods=st.lists(st.tuples(_PAYERS, st.integers(0, 9000), st.integers(1, 5000), st.integers(1, 8)), max_size=6),
    steps=st.lists(st.integers(1, 1500), min_size=1, max_size=12),
    late=st.integers(0, 2),
    scope=st.sampled_from(tuple(PolicyScope)),
    prices=st.lists(st.sampled_from(("3.60", "1.80", "7.77")), min_size=1, max_size=4),
)
def test_the_account_is_the_ledgers_bill(
    pods: list[tuple[Payer, int, int, int]], steps: list[int], late: int, scope: PolicyScope, prices: list[str]
) -> None:
    """Whatever begins and ends when, however far apart the counts are, and whenever prices change.

    The news of an end comes up to two counts late. The last count knows all.
    """
    spec = policy(per_day="1", scope=scope, namespaces=("ml", "dev"))
    accounts, now_s, records = Accounts(), NOON, []
    accounts.count([spec], lambda _: NOTHING, shown(NOON, state=priced(prices[0])))
    records.append(PriceRecord("h100", 0, priced(prices[0]).spec.price))
    for number, step in enumerate([*steps, 1, 1, 1]):
        now_s += step
        known_s = now_s if number >= len(steps) else now_s - late * step
        price = prices[min(number * len(prices) // (len(steps) + 3), len(prices) - 1)]
        if price != prices[0] or len(records) > 1:
            records.append(PriceRecord("h100", now_s, priced(price).spec.price))
        seen = [
            holding(
                f"{i}", NOON + begin, NOON + begin + lasts if NOON + begin + lasts <= known_s else None, payer, gpus
            )
            for i, (payer, begin, lasts, gpus) in enumerate(pods)
            if NOON + begin <= now_s
        ]
        accounts.count([spec], lambda _: NOTHING, shown(now_s, *seen, state=priced(price)))
    lifetimes = [
        Lifetime(f"{i}", payer, gpus, NOON + begin, NOON + begin, NOON + begin + lasts)
        for i, (payer, begin, lasts, gpus) in enumerate(pods)
    ]
    rows = [
        row
        for row in hours(lifetimes, records, NOON, now_s)
        if pays(spec, row.payer, GOLD.get(f"{row.payer.namespace}/{row.payer.service}", ()))
    ]
    bill = sum((row.cost or Decimal(0) for row in rows), Decimal(0))
    if late == 0 or len(set(prices)) == 1:  # else what is taken back has the price of when it was counted
        assert abs(spent(accounts) - bill) < Decimal("0.000002")


def autoscaled(price: str = "3.60") -> PoolState:
    state = priced(price, Billing.NODE)
    return msgspec.structs.replace(
        state, spec=msgspec.structs.replace(state.spec, provisioning=Provisioning.AUTOSCALED)
    )


@settings(max_examples=150, deadline=None)
@given(
    pods=st.lists(st.tuples(_PAYERS, st.integers(0, 9000), st.integers(1, 5000), st.integers(1, 5)), max_size=6),
    steps=st.lists(st.integers(1, 1500), min_size=1, max_size=12),
    ends=st.integers(1, 20_000),
    scope=st.sampled_from(tuple(PolicyScope)),
    where=st.sampled_from(((), ("ml",), ("ml", "dev"))),
    prices=st.lists(st.sampled_from(("3.60", "1.80", "7.77")), min_size=1, max_size=4),
)
def test_the_account_is_the_ledgers_bill_of_nodes_too(
    pods: list[tuple[Payer, int, int, int]],
    steps: list[int],
    ends: int,
    scope: PolicyScope,
    where: tuple[str, ...],
    prices: list[str],
) -> None:
    """Nodes that come and go, of which those who run on them pay for what nobody holds."""
    pods = that_fit(8, pods)
    spec = policy(per_day="1", scope=scope, namespaces=where)
    accounts, now_s, records = Accounts(), NOON, list[PriceRecord]()
    for number, step in enumerate([0, *steps]):
        now_s += step
        state = autoscaled(prices[number % len(prices)])
        records.append(PriceRecord("h100", now_s if number else 0, state.spec.price, Billing.NODE, shares_idle=True))
        seen = [
            holding(f"{i}", NOON + begin, NOON + begin + lasts if NOON + begin + lasts <= now_s else None, payer, gpus)
            for i, (payer, begin, lasts, gpus) in enumerate(pods)
            if NOON + begin <= now_s
        ]
        machine = node(NOON, NOON + ends if NOON + ends <= now_s else None)
        accounts.count([spec], lambda _: NOTHING, shown(now_s, machine, *seen, state=state))
    lifetimes = [
        Lifetime(f"{i}", payer, gpus, NOON + begin, NOON + begin, NOON + begin + lasts, "n")
        for i, (payer, begin, lasts, gpus) in enumerate(pods)
    ]
    lifetimes.append(Lifetime("n", Payer("h100"), 8, NOON, NOON, NOON + ends, is_node=True))
    rows = [
        row
        for row in hours(lifetimes, records, NOON, now_s)
        if pays(spec, row.payer, GOLD.get(f"{row.payer.namespace}/{row.payer.service}", ()))
    ]
    bill = sum((row.cost or Decimal(0) for row in rows), Decimal(0))
    assert abs(spent(accounts) - bill) < Decimal("0.000002")


def that_fit(gpus: int, pods: list[tuple[Payer, int, int, int]]) -> list[tuple[Payer, int, int, int]]:
    """In the order in which they come: each that a node of so many has room for by then."""
    found: list[tuple[Payer, int, int, int]] = []
    for each in sorted(pods, key=lambda pod: pod[1]):
        held = sum(size for _, begin, lasts, size in found if begin + lasts > each[1])
        if held + each[3] <= gpus:
            found.append(each)
    return found


def on_node(*pods: tuple[str, Payer, int], ended: int = 0) -> list[Holding]:
    """Pods on the node of 8; the last `ended` of them went at noon."""
    running = len(pods) - ended
    return [
        holding(uid, NOON - 600, None if index < running else NOON, payer, gpus)
        for index, (uid, payer, gpus) in enumerate(pods)
    ]


NODE_STORIES: list[tuple[str, dict[str, Any], list[Holding], int]] = [
    ("alone on a node it pays for all of it", {}, on_node(("a", CHAT, 5)), 3),
    ("a full node has nothing idle", {}, on_node(("a", CHAT, 8)), 0),
    ("beside somebody else it pays its share", {}, on_node(("a", CHAT, 2), ("b", OTHER, 2)), 2),
    ("two of its own services share nothing", {}, on_node(("a", CHAT, 2), ("b", CODE, 2)), 4),
    ("a namespace beside another one", {"namespaces": ("dev",)}, on_node(("a", CHAT, 2), ("b", CODE, 2)), 2),
    ("a node that its last pod has left", {}, on_node(("a", CHAT, 5), ended=1), 8),
    ("a node that another's last pod has left", {}, on_node(("a", OTHER, 5), ended=1), 0),
    ("a node that nobody ever held", {}, [], 0),
    ("which is paid by who pays for everything", {"scope": PolicyScope.ALL_GPU_PODS}, [], 8),
]  # fmt: skip


@pytest.mark.parametrize(("story", "changes", "pods", "want"), NODE_STORIES, ids=[each[0] for each in NODE_STORIES])
def test_what_of_nodes_that_come_and_go_a_policy_pays_for(
    story: str, changes: dict[str, Any], pods: list[Holding], want: int
) -> None:
    del story
    spec = policy(per_day="100", **changes)
    accounts = Accounts()
    for at_s in (NOON, NOON + 60):
        accounts.count([spec], lambda _: NOTHING, shown(at_s, node(NOON - 900), *pods, state=autoscaled()))
    (state,) = accounts.states()
    assert sum(item.idle for item in state.others) == want
    held = sum(item.gpus for item in pods if item.end_s is None and pays(spec, item.payer, ()))
    paid = held + want
    assert state.per_hour == paid * Decimal("3.60")
    assert spent(accounts) == paid * Decimal("0.06")


def test_who_held_a_node_last_pays_for_it_for_an_hour_and_not_once_it_is_taken() -> None:
    last = holding("a", NOON - 600, NOON, gpus=5)
    first = shown(NOON, node(NOON - 900), last, state=autoscaled())
    hours_later = [shown(NOON + s, node(NOON - 900), state=autoscaled()) for s in (1800, 3600, 9000)]
    assert spent(run(first, *hours_later)) == Decimal("28.80")
    other = holding("b", NOON + 600, payer=OTHER)
    taken = shown(NOON + 1800, node(NOON - 900), other, state=autoscaled())
    assert spent(run(first, taken)) == Decimal("4.80")


def test_who_held_a_node_last_is_told_to_the_next_leader_by_the_ledger() -> None:
    """A pod of 5 GPUs went at noon, another operator leads a minute later; until one o'clock it owes for all 8."""
    there = node(NOON - 900)
    accounts, spec, state = Accounts(), policy(per_day="100"), autoscaled()
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 60, there, state=state))
    accounts.recall(
        [Lifetime("a", CHAT, 5, NOON - 600, NOON, NOON, "n"), Lifetime("b", OTHER, 1, NOON - 900, 0, NOON - 9, "n")]
    )
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 1860, there, state=state))
    accounts.count([spec], lambda _: NOTHING, shown(NOON + 9000, there, state=state))
    assert spent(accounts) == 8 * Decimal("3.60") * (3600 - 60) / 3600


def test_another_currency_counts_by_the_stated_rate_and_without_one_not_at_all() -> None:
    counts = [shown(NOON, state=priced(currency="EUR")), shown(HOUR, holding("a", NOON), state=priced(currency="EUR"))]
    stated = policy(per_day="100", exchange_rates=(("EUR", Decimal("1.10")),))
    assert spent(run(*counts, spec=stated)) == Decimal("3.96")
    assert run(*counts, spec=stated).states()[0].per_hour == Decimal("3.96")
    assert spent(run(*counts)) == 0


def test_a_changed_rate_holds_from_then_on() -> None:
    accounts, state = Accounts(), priced(currency="EUR")
    for at_s, rate in ((NOON, "1.00"), (NOON + 1800, "1.00"), (HOUR, "2.00")):
        spec = policy(per_day="100", exchange_rates=(("EUR", Decimal(rate)),))
        accounts.count([spec], lambda _: NOTHING, shown(at_s, holding("a", NOON), state=state))
    assert spent(accounts) == Decimal("1.80") + Decimal("3.60")


def test_pods_that_were_counted_together_or_apart_cost_the_same() -> None:
    early, late, gone = holding("a", NOON, gpus=2), holding("b", NOON + 900, gpus=4), holding("c", NOON, NOON + 450)
    counts = (NOON, early, gone), (NOON + 300, early, gone), (HOUR, early, late, gone)
    accounts = run(*(shown(*each) for each in counts))
    # 2 x 3600 s, 4 x 2700 s and 450 s of 3.60 USD/h
    assert spent(accounts) == Decimal("7.20") + Decimal("10.80") + Decimal("0.45")
    assert accounts.states()[0].per_hour == 6 * Decimal("3.60"), "what is gone runs no more"
