"""What Ebbtide learnt before second 0 of a replay, and where it goes."""

import msgspec

from ebbtide.bench.case import EPOCH_S, Carries
from ebbtide.bench.faults import Faults
from ebbtide.bench.lead_in import remembered_after
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import EBBTIDE, HOLD
from ebbtide.bench.store import Load
from ebbtide.model.memory import Memory
from tests.bench.cases import a_case, random_load

HISTORY = tuple(Minute(60.0 * minute, 240.0, 24_000.0, 4_800.0) for minute in range(-20, 0))
LOAD = Load(tuple(random_load(4.0, 300.0)), HISTORY, tuple(random_load(4.0, 600.0)), 600.0)
CASE = a_case(max_replicas=4, startup_s=(30.0,), carries=Carries(3.0, 3.0, 100.0, 20.0))


class Recorded:
    """Our simulator; it notes what it was asked."""

    name = "ebbtide"

    def __init__(self) -> None:
        self.asked = []

    def run(self, case, requests, rival_name, knob, seed, history, memory=b""):
        self.asked.append((case, requests, history))
        return OwnSimulator().run(case, requests, rival_name, knob, seed, history, memory)


def test_the_lead_in_comes_before_the_replay_with_its_own_fleet_and_without_faults() -> None:
    simulator = Recorded()
    faulty = msgspec.structs.replace(CASE, faults=Faults(reset_s=60.0))
    memory = remembered_after(simulator, faulty, LOAD, EBBTIDE, 0.0, 1)
    assert msgspec.msgpack.decode(memory, type=Memory).services[0].budget.missed == 0.0, "nothing is owed"
    [(case, requests, history)] = simulator.asked
    assert requests == LOAD.before
    assert case.epoch_s == EPOCH_S - 600.0
    assert case.start_replicas == 2, "4 requests/s at 3 a replica"
    assert case.faults == Faults()
    assert [minute.start_s for minute in history] == [60.0 * minute for minute in range(-10, 0)]


def test_what_was_learnt_is_where_the_replay_begins() -> None:
    memory = remembered_after(OwnSimulator(), CASE, LOAD, EBBTIDE, 0.0, 1)
    learnt = msgspec.msgpack.decode(memory, type=Memory).services[0].variants[0].capacity
    assert learnt.line.weight > 0.0
    warm = OwnSimulator().run(CASE, LOAD.requests, EBBTIDE, 0.0, 1, HISTORY, memory)
    cold = OwnSimulator().run(CASE, LOAD.requests, EBBTIDE, 0.0, 1, HISTORY)
    assert warm.believed[0][1] != cold.believed[0][1], "from the first cycle on"


def test_who_remembers_nothing_has_no_lead_in() -> None:
    simulator = Recorded()
    assert remembered_after(simulator, CASE, LOAD, HOLD, 0.0, 1) == b""
    assert remembered_after(simulator, CASE, msgspec.structs.replace(LOAD, before=()), EBBTIDE, 0.0, 1) == b""
    assert simulator.asked == []
