"""What Ebbtide learnt before second 0 of a replay, and where it goes."""

from pathlib import Path

import msgspec
import pytest

from ebbtide.bench.ablations import WHOLE
from ebbtide.bench.case import EPOCH_S, Carries, LeadIn
from ebbtide.bench.faults import Faults
from ebbtide.bench.lead_in import remembered_after
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import EBBTIDE, HOLD
from ebbtide.bench.runner import Runner, Seeded
from ebbtide.bench.store import Load, Store
from ebbtide.bench.workers import Workers
from ebbtide.model.memory import Memory, VariantMemory
from tests.bench.cases import a_case, random_load

HISTORY = tuple(Minute(60.0 * minute, 240.0, 24_000.0, 4_800.0) for minute in range(-10, 0))
SCORED = Load(tuple(random_load(4.0, 300.0)), HISTORY)
BEFORE = Load(tuple(random_load(4.0, 600.0)), HISTORY)
CASE = a_case(
    max_replicas=4,
    startup_s=(30.0,),
    carries=Carries(3.0, 3.0, 100.0, 20.0),
    lead_in=LeadIn(600.0, 2),
)


class Recorded:
    """Our simulator; it notes what it was asked."""

    name = "ebbtide"

    def __init__(self) -> None:
        self.asked = []

    def run(self, case, requests, rival_name, knob, seed, history):
        self.asked.append((case, requests, history))
        return OwnSimulator().run(case, requests, rival_name, knob, seed, history)


def learnt(before: Load = BEFORE, case=CASE) -> Memory:
    packed = remembered_after(OwnSimulator(), case, SCORED, before, EBBTIDE, 0.0, 1)
    return msgspec.msgpack.decode(packed, type=Memory)


def test_the_lead_in_comes_before_the_replay_with_its_own_fleet_and_without_faults() -> None:
    simulator = Recorded()
    faulty = msgspec.structs.replace(CASE, faults=Faults(reset_s=60.0))
    remembered_after(simulator, faulty, SCORED, BEFORE, EBBTIDE, 0.0, 1)
    [(case, requests, history)] = simulator.asked
    assert (requests, history) == (BEFORE.requests, BEFORE.history)
    assert case.epoch_s == EPOCH_S - 600.0
    assert case.start_replicas == 2
    assert case.faults == Faults()
    assert case.window_s == SCORED.requests[-1].arrival_s, "the budget is spent as in the scored span"


def test_what_was_learnt_is_where_the_replay_begins() -> None:
    memory = remembered_after(OwnSimulator(), CASE, SCORED, BEFORE, EBBTIDE, 0.0, 1)
    assert learnt().services[0].variants[0].capacity.line.weight > 0.0
    knowing = msgspec.structs.replace(CASE, memory=memory)
    warm = OwnSimulator().run(knowing, SCORED.requests, EBBTIDE, 0.0, 1, HISTORY)
    cold = OwnSimulator().run(CASE, SCORED.requests, EBBTIDE, 0.0, 1, HISTORY)
    assert warm.believed[0][1] != cold.believed[0][1], "from the first cycle on"


def test_replicas_that_ran_and_what_they_missed_are_left_behind() -> None:
    service = learnt().services[0]
    assert (service.budget.missed, service.budget.planned, service.budget.plans) == (0.0, 0.0, ())
    assert service.variants == (VariantMemory(name="replica", capacity=service.variants[0].capacity),)
    assert service.arrivals_by_pod == b"" and service.moves == () and service.worth.runs == 0


def test_a_quiet_end_of_the_lead_in_is_remembered_as_quiet() -> None:
    early = Load(tuple(one for one in BEFORE.requests if one.arrival_s < 300.0), HISTORY)
    samples = learnt(early).services[0].forecast.samples
    assert samples[-1].at == EPOCH_S
    assert samples[-1].requests_per_second == pytest.approx(0.0, abs=0.01)


def test_a_lead_in_that_ebbtide_never_looked_at_teaches_nothing() -> None:
    short = Load(BEFORE.requests[:3], ())
    assert remembered_after(OwnSimulator(), CASE, SCORED, short, EBBTIDE, 0.0, 1) == b""


@pytest.mark.parametrize(
    ("policy", "knob", "differs"),
    [(EBBTIDE, 0.0, True), (WHOLE, 1.0, True), (HOLD, 0.0, False)],
    ids=["Ebbtide begins with it", "and so it does without a part", "who remembers nothing has one result"],
)
def test_workers_replay_the_lead_in_first(tmp_path: Path, policy: str, knob: float, differs: bool) -> None:
    store = Store(tmp_path)
    workers = Workers(1, store)
    try:
        runner = Runner("ebbtide", store, workers, lambda words: None)
        load, before = store.put_load(SCORED), store.put_load(BEFORE)
        warm = runner.results(CASE, [Seeded(1, load, before)], policy, knob)[0]
        cold = runner.results(msgspec.structs.replace(CASE, lead_in=None), [Seeded(1, load)], policy, knob)[0]
    finally:
        workers.close()
    assert (warm.believed != cold.believed) is differs
    assert runner.from_store == (0 if differs else 1)
