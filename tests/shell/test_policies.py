"""Statuses of policies: written before a raise, guarded by what was written last, and read by the next leader."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ebbtide.act.result import Outcome
from ebbtide.api import parse_policy
from ebbtide.clock import rfc3339
from ebbtide.controller.policies import Policies, reached_of, saved_of
from ebbtide.core.conditions import of_unreadable
from ebbtide.core.plan import plan
from ebbtide.errors import ConflictError, EbbtideError, RetryableError
from ebbtide.model.memory import Memory
from ebbtide.model.money import Payer
from ebbtide.model.plan import Plan, ScaleAction
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Account, Compared, HeldPeriod, LastHeld, Overrun, Reached, Unreadable
from ebbtide.model.spec import CeilingKind, OverrunCause, Price, PriceSource, TargetRef, ThresholdBasis
from ebbtide.money.accounts import Saved
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Held
from ebbtide.record.events import cycle_events
from ebbtide.record.view import policy_status, unreadable_status
from tests.builders import NOW, pods, pool, service, snapshot, spec, variant
from tests.core.purse import policy
from tests.shell.world import DAY_S, policy_plan


def scale(before: int, after: int, key: str = "ml/chat") -> ScaleAction:
    target = TargetRef("apps/v1", "Deployment", "chat")
    return ScaleAction(key, "h100", target, "u", "7", before, after, Reason(Code.DEMAND_ROSE, "more"))


class Api:
    """Answers as the API server does to a guarded apply; `fails` is raised instead."""

    def __init__(self, fails: EbbtideError | None = None) -> None:
        self.version, self.fails, self.bodies = 5, fails, list[Mapping[str, Any]]()

    async def apply(self, path: str, body: Mapping[str, Any], *, field_manager: str, force: bool) -> Mapping[str, Any]:
        assert (path, field_manager, force) == (
            "/apis/ebbtide.dev/v1alpha1/costpolicies/cap/status",
            "ebbtide-status",
            True,
        )
        if self.fails is not None:
            raise self.fails
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError("the object has been modified")
        self.version += 1
        self.bodies.append(body)
        return {"metadata": {"resourceVersion": str(self.version)}}

    def raw(self, name: str) -> Mapping[str, Any] | None:
        """What the watch shows: the object as it was at first."""
        return {"metadata": {"name": name, "uid": "uid-cap", "resourceVersion": "5", "generation": 2}}


def policies(api: Api) -> Policies:
    return Policies(api, api.raw)  # type: ignore[arg-type]


async def test_a_raise_is_made_once_the_status_says_what_is_committed() -> None:
    api = Api()
    decided = Plan(at=1000.0, policies=(policy_plan(),), actions=(scale(1, 2),))
    payable, refused = await policies(api).reserve(decided)
    assert (payable.actions, refused) == (decided.actions, [])
    (period,) = api.bodies[0]["status"]["periods"]
    assert period == {
        "period": "Day", "ceiling": "100.00", "spent": "12.345679", "committed": "5.00", "left": "82.654322",
        "begin": "1970-01-01T00:00:00Z", "end": "1970-01-02T00:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ConflictError("modified"), Outcome.CONFLICT), (RetryableError("no answer"), Outcome.RETRY)],
)
async def test_where_it_cannot_be_reserved_nothing_is_raised_and_all_else_goes_on(
    error: EbbtideError, outcome: Outcome
) -> None:
    other, lower = scale(1, 2, "ml/other"), scale(3, 2)
    decided = Plan(at=1000.0, policies=(policy_plan(),), actions=(scale(1, 2), other, lower))
    payable, refused = await policies(Api(error)).reserve(decided)
    assert payable.actions == (other, lower)
    assert [(item.service, item.outcome) for item in refused] == [("ml/chat", outcome)]
    assert "money could not be reserved in CostPolicy cap" in refused[0].message


async def test_one_that_was_stopped_while_another_led_raises_nothing() -> None:
    """The watch still shows what was, and so does its own last answer: the API server knows better."""
    api = Api()
    stopped, other = policies(api), policies(api)
    await stopped.report(Plan(at=900.0, policies=(policy_plan(raised=False),)))
    api.version = 5  # as the other one's watch shows it
    await other.report(Plan(at=950.0, policies=(policy_plan(raised=False),)))
    api.version += 3
    payable, refused = await stopped.reserve(Plan(at=1000.0, policies=(policy_plan(),), actions=(scale(1, 2),)))
    assert payable.actions == ()
    assert refused[0].outcome is Outcome.CONFLICT


async def test_no_raise_no_reservation() -> None:
    api = Api()
    decided = Plan(at=1000.0, policies=(policy_plan(raised=False),), actions=(scale(3, 2),))
    assert await policies(api).reserve(decided) == (decided, [])
    assert api.bodies == []


async def test_a_status_is_written_where_it_says_something_new_and_else_once_a_minute() -> None:
    api = Api()
    mine = policies(api)

    async def writes(at: float, **changes: Any) -> int:
        return await mine.report(Plan(at=at, policies=(policy_plan(raised=False, at=at, **changes),)))

    assert [await writes(1000.0), await writes(1010.0), await writes(1050.0)] == [1, 0, 0]
    assert await writes(1060.0) == 1
    assert await writes(1062.0, gave_way=(("ml/chat", 2),)) == 1, "who gives way"
    assert await writes(1064.0, gave_way=(("ml/chat", 2),), per_hour=Decimal(4)) == 0
    assert await writes(1073.0, gave_way=(("ml/chat", 2),), per_hour=Decimal(4)) == 1, "a rate that moved"


@pytest.mark.parametrize(
    ("story", "changes", "is_news"),
    [
        ("what was spent and is left moves all the time", {"spent": Decimal(40), "committed": Decimal(9)}, False),
        ("a rate is of every moment, so its beginning moves", {"kind": CeilingKind.HOUR, "start_s": 1010.0}, False),
        ("another ceiling", {"ceiling": Decimal(101)}, True),
        ("the next day", {"start_s": DAY_S}, True),
    ],
)
async def test_what_of_a_ceiling_is_news(story: str, changes: dict[str, Any], is_news: bool) -> None:
    mine = policies(Api())
    kind = changes.get("kind", CeilingKind.DAY)
    [day] = policy_plan().ceilings
    before = msgspec.structs.replace(day, kind=kind)
    written = [
        await mine.report(Plan(at=at, policies=(policy_plan(raised=False, at=at, ceilings=(ceiling,)),)))
        for at, ceiling in ((1000.0, before), (1010.0, msgspec.structs.replace(before, **changes)))
    ]
    assert written == [1, int(is_news)], story


async def test_a_policy_that_is_gone_is_forgotten() -> None:
    api = Api()
    mine = policies(api)
    await mine.report(Plan(at=1000.0, policies=(policy_plan(raised=False),)))
    await mine.report(Plan(at=1010.0))
    api.version = 5
    assert await mine.report(Plan(at=1020.0, policies=(policy_plan(raised=False),))) == 1


def test_the_next_leader_reads_what_was_written() -> None:
    written = policy_status(policy_plan(at=3600.0), 2, {}, 3600.0)
    day = Account(CeilingKind.DAY, 0.0, DAY_S, Decimal("12.345679"))
    assert saved_of(written) == Saved(3600.0, Decimal("3.00"), (day,))


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"accruedThrough": "yesterday"},
        {"accruedThrough": "2026-01-01T00:00:00Z", "periods": [{"begin": "x"}]},
        {"accruedThrough": "2026-01-01T00:00:00Z", "ratePerHour": "a lot"},
        {"periods": 7},
    ],
)
def test_a_status_that_cannot_be_read_says_nothing(status: dict[str, Any]) -> None:
    assert saved_of(status) == Saved(0.0, Decimal(0), ())


def test_a_snapshot_gets_policies_and_the_prices_of_all_their_periods() -> None:
    state = snapshot(service(variant("h100", pods(1, 5.0)), spec(labels=(("tier", "gold"),))), pool())
    priced = msgspec.structs.replace(state, pools=state.pools)
    mine = policies(Api())
    observed = mine.observed(priced, [policy(per_day="5"), policy("b", per_month="9")], Held((), {}, True))
    assert [item.spec.name for item in observed.policies] == ["b", "cap"]
    assert mine.observed(priced, [], Held((), {}, True)) == priced


@pytest.mark.parametrize(
    ("story", "last", "spent"),
    [
        ("as its pool's status says it said last", {"perGPUHour": "3.60", "currency": "USD"}, "3.60"),
        ("it said so in another currency", {"perGPUHour": "3.60", "currency": "EUR"}, "0"),
        ("nobody can read what it said", {"perGPUHour": "much"}, "0"),
        ("it never spoke", None, "0"),
    ],
)
def test_after_a_restart_what_runs_is_counted_while_the_source_of_its_price_is_silent(
    story: str, last: Mapping[str, str] | None, spent: str
) -> None:
    """And nothing is raised meanwhile, for the price is not known."""
    (drawn,) = snapshot(service(variant("h100", pods(1, 5.0))), pool(price=None)).pools
    sourced = msgspec.structs.replace(drawn.spec, price=Price("USD", source=PriceSource("OpenCost")))
    state = snapshot(
        service(variant("h100", pods(1, 500.0))), msgspec.structs.replace(drawn, spec=sourced), cycle_s=10.0
    )
    runs = Held((Holding("a", Payer("h100", "ml", "chat"), 1, NOW, None, "n"),), {}, True)
    mine = Policies(Api(), Api().raw, lambda name: {"status": {"lastPrice": last}})  # type: ignore[arg-type]
    for at_s in (NOW, NOW + 3600):
        state = msgspec.structs.replace(state, taken_at=at_s)
        observed = mine.observed(state, [policy(per_day="500")], runs)
    assert observed.policies[0].accounts[0].spent == Decimal(spent), story
    decided, _ = plan(observed, Memory(), NOW + 3600)
    assert decided.actions == ()
    assert decided.policies[0].unpriced_gpus == 1


def test_what_the_ledger_mended_is_known_to_the_next_plan() -> None:
    midnight = NOW - NOW % DAY_S
    day = Account(CeilingKind.DAY, midnight, midnight + DAY_S, Decimal(50))
    spec, state = policy(per_day="100"), snapshot([], [pool("h100")], taken_at=NOW)
    status = {
        "observedGeneration": 1, "accruedThrough": rfc3339(NOW), "ratePerHour": "0",
        "periods": [{"period": "Day", "begin": rfc3339(day.start_s), "end": rfc3339(day.end_s), "spent": "50"}],
    }  # fmt: skip
    raw = {"metadata": {"name": "cap", "uid": "uid-cap"}, "status": status}
    mine = Policies(Api(), lambda name: raw)  # type: ignore[arg-type]
    (before,) = mine.observed(state, [spec], Held((), {}, True)).policies
    assert (before.compared, before.accounts[0]) == (None, day)
    found = {spec.uid: {(day.kind, day.start_s, day.end_s): Decimal(35)}}
    said = mine.settle(lambda asked, labels: (found, int(NOW), 0, {}), {})
    assert said == ["CostPolicy cap: spent by the ledger: Day 50.00 -> 35.00"]
    (after,) = mine.observed(state, [spec], Held((), {}, True)).policies
    assert (after.compared, after.accounts[0].spent) == (Compared(NOW, "Day 50.00 -> 35.00"), Decimal(35))


def test_a_policy_that_cannot_be_read_keeps_what_it_has_spent() -> None:
    """A newer field, seen by an older operator: its status is the memory of the money."""
    written = policy_status(policy_plan(at=3600.0), 2, {}, 3600.0)
    bad = Unreadable("CostPolicy", "cap", "uid-cap", 3, "CostPolicy cap: spec.pacing: 7 is not allowed")
    after = unreadable_status(of_unreadable(bad), 3, written, 3700.0)
    assert saved_of(after) == saved_of(written)
    assert next(item for item in after["conditions"] if item["type"] == "Ready")["reason"] == "InvalidSpec"


class Declared(Api):
    """A policy as the API server has it: what is written to its status stays there."""

    def __init__(self) -> None:
        super().__init__()
        self.spec: dict[str, Any] = {"currency": "USD", "selector": {}, "ceilings": {"perDay": "5"}}
        self.generation, self.uid = 1, "uid-cap"

    def raw(self, name: str) -> Mapping[str, Any] | None:
        metadata = {"name": name, "uid": self.uid, "resourceVersion": str(self.version), "generation": self.generation}
        return {"metadata": metadata, "spec": self.spec, "status": self.bodies[-1]["status"] if self.bodies else {}}

    def edit(self, spec: dict[str, Any]) -> None:
        self.spec, self.generation = spec, self.generation + 1


BAD = {"currency": "USD", "selector": {}, "ceilings": {"perDay": "9"}, "pacing": 7}


async def seen(mine: Policies, api: Declared, at: float) -> Plan:
    """One cycle: what the watch shows, the plan under it, and the statuses."""
    state = msgspec.structs.replace(snapshot(service(variant("h100", pods(1, 5.0)))), taken_at=at)
    raw, specs = api.raw("cap"), []
    assert raw is not None
    try:
        specs = [parse_policy(raw)]
    except EbbtideError as error:
        bad = Unreadable("CostPolicy", "cap", api.uid, api.generation, str(error))
        state = msgspec.structs.replace(state, unreadable=(bad,))
    observed = mine.observed(state, specs, Held((), {}, True))
    decided, _ = plan(observed, Memory(), at)
    await mine.report(decided)
    return decided


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_policy_that_cannot_be_read_any_more_is_held_as_it_was_read_last(restarts: bool) -> None:
    """Also by the next leader, who never read it: its status has the spec."""
    api = Declared()
    mine = policies(api)
    await seen(mine, api, NOW)
    api.edit({**api.spec, "ceilings": {"perDay": "6"}})
    await seen(mine, api, NOW + 10)
    assert api.bodies[-1]["status"]["lastRead"]["generation"] == 2, "said at once"
    api.edit(BAD)
    if restarts:
        mine = policies(api)
    decided = await seen(mine, api, NOW + 20)
    (held,) = decided.policies
    assert [item.ceiling for item in held.ceilings] == [6]
    assert decided.unreadable == (), "and nobody else writes its status"
    (ready,) = [item for item in held.conditions if item.type == "Ready"]
    assert (ready.status.value, ready.reason) == ("False", "InvalidSpec")
    assert ready.message.startswith("CostPolicy cap: spec.pacing: 7 is not allowed")
    assert ready.message.endswith("; until it can be read, its ceilings as of generation 2 hold")
    state = snapshot(service(variant("h100", pods(1, 5.0))))
    notes = [note for note in cycle_events(decided, state, []) if note.reason == "InvalidSpec"]
    assert [note.subject.name for note in notes] == ["cap"]
    assert not any(item.reason.code is Code.POLICIES_UNKNOWN for item in decided.services)
    assert api.bodies[-1]["status"]["lastRead"]["generation"] == 2, "what could be read stays"
    api.edit({**BAD, "pacing": "None"})
    (held,) = (await seen(mine, api, NOW + 30)).policies
    assert [item.ceiling for item in held.ceilings] == [9], "once it can be read it holds as it is"
    assert held.conditions[0].reason != "InvalidSpec"


@pytest.mark.parametrize(
    ("story", "change"),
    [
        ("it was never read", lambda api: api.bodies.clear()),
        ("what status says of it is no spec", lambda api: api.bodies[-1]["status"]["lastRead"].update(spec="{")),
    ],
)
async def test_without_a_spec_that_could_be_read_nothing_is_raised(story: str, change: Callable[..., None]) -> None:
    api = Declared()
    await seen(policies(api), api, NOW)
    change(api)
    api.edit(BAD)
    decided = await seen(policies(api), api, NOW + 20)
    assert decided.policies == (), story
    assert [item.key for item in decided.unreadable] == ["cap"]


def test_a_spec_that_is_too_long_for_a_status_is_kept_in_memory_alone() -> None:
    api = Declared()
    api.spec = {**api.spec, "selector": {"namespaces": [f"namespace-{number:050d}" for number in range(200)]}}
    mine, raw = policies(api), api.raw("cap")
    assert raw is not None
    mine.observed(snapshot(()), [parse_policy(raw)], Held((), {}, True))
    assert mine._last_read("uid-cap", raw) is None


def test_what_is_not_known_yet_is_not_said_to_be_nothing() -> None:
    """The next leader goes on from it, and asks the ledger first."""
    pending = policy_plan(raised=False, at=3600.0, reason=Reason(Code.PENDING, "what it has cost is not known yet"))
    saved = saved_of(policy_status(pending, 2, {}, 3600.0))
    assert (saved.pending, saved.through_s, len(saved.accounts)) == (True, 3600.0, 1)


def test_a_service_that_could_not_be_read_since_the_start_is_said_to_policies_of_its_namespace() -> None:
    bad = Unreadable("InferenceService", "ml/lost", "u", 1, "InferenceService ml/lost: no")
    state = msgspec.structs.replace(snapshot(service(variant("h100", pods(1, 5.0)))), unreadable=(bad,))
    specs = [policy("mine", per_day="5", namespaces=("ml",)), policy("all", per_day="5")]
    observed = policies(Api()).observed(state, specs, Held((), {}, True))
    assert {item.spec.name: item.unread for item in observed.policies} == {"mine": "ml/lost", "all": ""}


async def test_after_a_start_statuses_are_written_in_turns() -> None:
    class Many(Api):
        async def apply(self, path: str, body: Mapping[str, Any], **_: Any) -> Mapping[str, Any]:
            self.bodies.append(body)
            return {"metadata": {"resourceVersion": "6"}}

    api = Many()
    mine = policies(api)
    plans = tuple(policy_plan(raised=False, name=f"p{number:03d}") for number in range(120))
    assert [await mine.report(Plan(at=1000.0 + 10 * turn, policies=plans)) for turn in range(3)] == [50, 50, 20]
    assert len({body["metadata"]["name"] for body in api.bodies}) == 120


async def test_a_threshold_that_was_reached_is_known_to_the_next_leader_and_not_said_again() -> None:
    api = Api()
    begin_s, at_s = 1_769_731_200.0, 1_769_760_000.0
    reached = Reached(CeilingKind.DAY, ThresholdBasis.FORECAST, 90, begin_s, at_s, acting=False)
    status = policy_status(policy_plan(raised=False, reached=(reached,)), 2, {}, at_s)
    assert status["thresholds"][0]["reachedAt"] == "2026-01-30T08:00:00Z"
    raw = {**(api.raw("cap") or {}), "status": status}
    shown = snapshot([], [pool("h100")], taken_at=at_s + 60)
    found = Policies(api, lambda name: raw).observed(shown, [policy(per_day="100")], Held((), {}, True))  # type: ignore[arg-type]
    assert found.policies[0].reached == (reached,)


@pytest.mark.parametrize("restarts", [False, True])
async def test_why_a_ceiling_was_crossed_is_known_to_the_next_cycle_and_to_the_next_leader(restarts: bool) -> None:
    api = Declared()
    mine = Policies(api, api.raw)  # type: ignore[arg-type]
    over = Overrun(CeilingKind.DAY, 0.0, OverrunCause.OPERATOR_DOWN, Decimal("7.50"), 600.0, 900.0)
    decided = policy_plan(raised=False, uid="uid-cap", per_hour=Decimal(3), overruns=(over,))
    await mine.report(Plan(at=1000.0, policies=(decided,)))
    if restarts:
        mine = Policies(api, api.raw)  # type: ignore[arg-type]
    shown = snapshot([], [pool("h100")], taken_at=1060.0)
    (state,) = mine.observed(shown, [policy(per_day="100")], Held((), {}, True)).policies
    exact = Decimal("12.345679" if restarts else "12.3456789")
    assert state.last == LastHeld(1000.0, Decimal(3), (HeldPeriod(CeilingKind.DAY, 0.0, Decimal(100), exact),), (over,))


@pytest.mark.parametrize(
    "item",
    [{}, {"period": "Week"}, {"period": "Day", "basis": "Spent", "atPercent": 80, "begin": "soon"}, {"period": 3}],
)
def test_what_a_status_says_of_thresholds_that_cannot_be_read_is_forgotten(item: Mapping[str, Any]) -> None:
    assert reached_of({"thresholds": [item]}) == ()
