"""What a cycle adds to a service's usage: each second once, at the rates that were read, and nothing unseen."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.money import Payer, UsageRow
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import EngineReadings, PodPhase, PodState, Quality, Reading, Snapshot
from ebbtide.model.spec import Mode
from ebbtide.money.lifetimes import Holding
from ebbtide.money.usage import Tally
from tests.shell import world

T0 = 1_800_000_000 - 1_800_000_000 % 3600
CHAT = Payer("h100", "team", "chat", "h100", "llama-3-8b")
SERVICE = Payer("", "team", "chat", "", "llama-3-8b")


def fresh(value: float) -> Reading:
    return Reading(quality=Quality.FRESH, value=value, age_s=1.0)


def engine(prompts: float = 500.0, outputs: float = 100.0) -> EngineReadings:
    return EngineReadings(engine="vLLM", prompt_tokens=fresh(prompts), generation_tokens=fresh(outputs))


STALE = EngineReadings("vLLM", prompt_tokens=Reading(Quality.STALE, 500.0, 99.0), generation_tokens=fresh(100.0))
UNCOUNTED = EngineReadings("Triton", running=fresh(3.0))


def pod(name: str = "a", reads: EngineReadings | None = None, **changes: Any) -> PodState:
    return world.pod(name, gpus=4, engine=reads, **changes)


def seen(at_s: float, *pods: PodState, mode: Mode = Mode.AUTO) -> Snapshot:
    spec = world.service_spec(mode=mode)
    state = world.service_state(spec, world.variant_state(target=world.target_state(gpus_per_replica=4), pods=pods))
    return msgspec.structs.replace(world.snapshot(state), taken_at=at_s)


def held(*pods: PodState, begin_s: float = T0 - 9000.0) -> list[Holding]:
    return [Holding(pod.uid, CHAT, 4, begin_s, None, "n") for pod in pods]


def only(tally: Tally, payer: Payer = CHAT) -> UsageRow:
    (row,) = (row for row in tally.changed() if row.payer == payer)
    return row


def test_an_hour_of_cycles_is_the_rate_by_the_hour() -> None:
    tally, one = Tally(), pod(reads=engine())
    for second in range(10, 3601, 10):
        tally.count(seen(T0 + second, one), held(one), T0 + second - 10)
    row = only(tally)
    assert (row.hour_s, row.input_tokens, row.output_tokens) == (T0, 1_800_000, 360_000)
    assert row.seen_gpu_s == 4 * 3600
    assert only(tally, SERVICE).watched_s == only(tally, SERVICE).acting_s == 3600


@pytest.mark.parametrize(
    ("story", "since_s", "begin_s", "seconds"),
    [
        ("ten seconds since the last cycle", T0 + 1790, T0, 10),
        ("nobody looked for half an hour: a rate of a minute says nothing of it", T0, T0, 60),
        ("counted up to now already", T0 + 1800, T0, 0),
        ("a clock that was set back counts nothing again", T0 + 1900, T0, 0),
        ("a pod that is bound for four seconds", T0 + 1790, T0 + 1796.7, 4),
    ],
)
def test_the_time_that_is_counted(story: str, since_s: int, begin_s: float, seconds: int) -> None:
    tally, one = Tally(), pod(reads=engine())
    tally.count(seen(T0 + 1800.9, one), held(one, begin_s=begin_s), since_s)
    rows = [row for row in tally.changed() if row.payer == CHAT]
    assert sum(row.seen_gpu_s for row in rows) == 4 * seconds, story
    assert sum(row.input_tokens for row in rows) == 500 * seconds


def test_a_cycle_over_the_hour_is_cut_at_it() -> None:
    tally, one = Tally(), pod(reads=engine())
    tally.count(seen(T0 + 3, one), held(one), T0 - 7)
    found = {row.hour_s: row.output_tokens for row in tally.changed() if row.payer == CHAT}
    assert found == {T0 - 3600: 700, T0: 300}


@pytest.mark.parametrize(
    ("story", "shown", "tokens", "gpu_s"),
    [
        ("read", pod(reads=engine()), 1000, 40),
        ("a stale value is no value", pod(reads=STALE), 0, 0),
        ("no series at all: not known, and no zero", pod(), 0, 0),
        ("an engine that counts no tokens", pod(reads=UNCOUNTED), 0, 0),
        ("it starts, and answers nobody", pod(phase=PodPhase.STARTING), 0, 40),
        ("it leaves and still puts out tokens", pod(reads=engine(), phase=PodPhase.TERMINATING), 1000, 40),
        ("it leaves and is read no more", pod(phase=PodPhase.TERMINATING), 0, 0),
        ("a value beyond all sense", pod(reads=engine(outputs=float("nan"))), 0, 0),
    ],
)
def test_what_is_seen_of_a_pod(story: str, shown: PodState, tokens: int, gpu_s: int) -> None:
    tally = Tally()
    tally.count(seen(T0 + 100, shown), held(shown), T0 + 90)
    rows = [row for row in tally.changed() if row.payer == CHAT]
    assert sum(row.output_tokens for row in rows) == tokens, story
    assert sum(row.seen_gpu_s for row in rows) == gpu_s, story


@pytest.mark.parametrize(("leader", "gpu_s"), [(engine(), 80), (None, 0)])
def test_a_worker_is_seen_with_its_leader_and_its_tokens_count_once(leader: EngineReadings | None, gpu_s: int) -> None:
    first, second = pod("leader", leader), pod("worker", engine(), serves=False)
    tally = Tally()
    tally.count(seen(T0 + 100, first, second), held(first, second), T0 + 90)
    rows = [row for row in tally.changed() if row.payer == CHAT]
    assert sum(row.seen_gpu_s for row in rows) == gpu_s
    assert sum(row.output_tokens for row in rows) == (1000 if leader else 0)


def advised(load: float | None = None, **changes: Any) -> Plan:
    fields = {"ready": 1, **changes}
    return world.plan(world.service_plan(variants=(world.variant_plan(**fields),), load=load))


@pytest.mark.parametrize(
    ("story", "plan", "rated", "used"),
    [
        ("half of what replicas carry is asked of them", advised(load=0.5), 40, 20),
        ("all of it", advised(load=1.0), 40, 40),
        ("nobody knows what one carries", advised(load=None), 0, 0),
        ("no plan", None, 0, 0),
    ],
)
def test_how_much_of_a_replica_is_used(story: str, plan: Plan | None, rated: int, used: int) -> None:
    tally, one = Tally(), pod(reads=engine())
    tally.count(seen(T0 + 100, one), held(one), T0 + 90, plan, {"team/chat": 0.25})
    row = only(tally)
    assert (row.rated_gpu_s, row.used_gpu_s) == (rated, used), story
    assert (row.weighed_tokens, row.weighed_work) == (5000, 1250)


@pytest.mark.parametrize(
    ("story", "other"),
    [
        ("it starts", pod("b", phase=PodPhase.STARTING)),
        ("it leaves, and what it still puts out is in no capacity", pod("b", engine(), phase=PodPhase.TERMINATING)),
        ("it does not answer its probe", pod("b", engine(), phase=PodPhase.NOT_READY)),
    ],
)
def test_what_does_not_serve_is_paid_and_not_used(story: str, other: PodState) -> None:
    tally, ready = Tally(), pod("a", engine())
    tally.count(seen(T0 + 100, ready, other), held(ready, other), T0 + 90, advised(load=1.0))
    assert (only(tally).rated_gpu_s, only(tally).used_gpu_s) == (80, 40), story


@pytest.mark.parametrize(
    ("story", "mode", "plan", "held_s", "advised_s"),
    [
        ("two of four GPUs each for one would do", Mode.RECOMMEND, advised(wanted=1, allowed=1), 80, 40),
        (
            "what the next step would leave counts where it is more",
            Mode.RECOMMEND,
            advised(wanted=0, allowed=2),
            80,
            80,
        ),
        ("more is recommended than there is", Mode.RECOMMEND, advised(wanted=3, allowed=2), 80, 120),
        ("in Auto it is done, not recommended", Mode.AUTO, advised(wanted=1, allowed=1), 0, 0),
        ("without a plan nothing is", Mode.RECOMMEND, None, 0, 0),
    ],
)
def test_what_was_recommended(story: str, mode: Mode, plan: Plan | None, held_s: int, advised_s: int) -> None:
    tally, two = Tally(), (pod("a", engine()), pod("b", engine()))
    tally.count(seen(T0 + 100, *two, mode=mode), held(*two), T0 + 90, plan)
    assert (only(tally).held_gpu_s, only(tally).advised_gpu_s) == (held_s, advised_s), story
    assert only(tally, SERVICE).acting_s == (10 if mode is Mode.AUTO else 0)


def test_what_an_hpa_scales_is_not_ebbtides_doing() -> None:
    tally, one = Tally(), pod("a", engine())
    (service,) = seen(T0 + 100, one).services
    (owned,) = service.variants
    rival = msgspec.structs.replace(owned.target, rivals=("HorizontalPodAutoscaler chat",))
    shown = msgspec.structs.replace(service, variants=(msgspec.structs.replace(owned, target=rival),))
    tally.count(msgspec.structs.replace(seen(T0 + 100), services=(shown,)), held(one), T0 + 90)
    row = only(tally, SERVICE)
    assert (row.watched_s, row.acting_s) == (10, 0)


def test_nothing_is_recommended_where_one_variants_size_is_not_known() -> None:
    """Fewer of the known one would seem to be a saving."""
    tally, one = Tally(), pod(reads=engine())
    known = world.variant_state(target=world.target_state(gpus_per_replica=4), pods=(one,))
    spec = world.service_spec(mode=Mode.RECOMMEND, variants=(world.variant_spec(), world.variant_spec("spot")))
    shown = msgspec.structs.replace(
        world.snapshot(world.service_state(spec, known, world.variant_state("spot"))), taken_at=T0 + 100.0
    )
    plan = world.plan(
        world.service_plan(variants=(world.variant_plan(wanted=0, allowed=0), world.variant_plan("spot", wanted=2)))
    )
    tally.count(shown, held(one), T0 + 90, plan)
    assert [(row.held_gpu_s, row.advised_gpu_s) for row in tally.changed()] == [(0, 0), (0, 0)]


def test_a_list_with_holes_watches_no_service() -> None:
    tally, one = Tally(), pod(reads=engine())
    tally.count(seen(T0 + 100, one), held(one), T0 + 90, complete=False)
    assert [row.payer for row in tally.changed()] == [CHAT]


def test_what_was_written_is_taken_up_and_written_whole() -> None:
    """A leader that takes over adds to the hour's row of the one before, and forgets hours that are over."""
    tally, one = Tally([UsageRow(T0, CHAT, 100, 10, 40)]), pod(reads=engine())
    tally.count(seen(T0 + 20, one), held(one), T0 + 10)
    assert only(tally).input_tokens == 100 + 5000
    tally.written(T0 + 3600)
    assert tally.changed() == ()
    tally.count(seen(T0 + 3610, one), held(one), T0 + 3600)
    assert only(tally).hour_s == T0 + 3600


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.floats(0.0, 5000.0))
def test_however_often_one_looks_it_is_the_same(steps: list[int], rate: float) -> None:
    tally, one, now_s = Tally(), pod(reads=engine(rate, rate)), T0
    for step in steps:
        tally.count(seen(now_s + step, one), held(one), now_s)
        now_s += step
    rows = [row for row in tally.changed() if row.payer == CHAT]
    assert sum(row.seen_gpu_s for row in rows) == 4 * (now_s - T0)
    assert abs(sum(row.input_tokens for row in rows) - rate * (now_s - T0)) <= 1.0


@given(st.lists(st.integers(0, 5000), min_size=60, max_size=60), st.sampled_from([5, 10, 20, 30]))
def test_what_a_counter_counted_is_what_is_in_the_ledger(minutes: list[int], step_s: int) -> None:
    """An engine's counter, read as the mean of the last minute: only at both ends may half a window be missing."""
    counter = [0]
    for rate in minutes:
        for _ in range(60):
            counter.append(counter[-1] + rate)
    tally, one = Tally(), pod()
    for second in range(step_s, 3601, step_s):
        mean = (counter[second] - counter[max(0, second - 60)]) / 60.0
        shown = pod(reads=engine(mean, mean))
        tally.count(seen(T0 + second, shown), held(one), T0 + second - step_s)
    found = sum(row.output_tokens for row in tally.changed() if row.payer == CHAT)
    last_minute = counter[3600] - counter[3540]
    assert counter[3600] - last_minute <= found <= counter[3600] + 1 + minutes[0] * step_s
