"""The fake cluster and its Jobs: who is bound, who has to go, what is lost, and that no work appears or vanishes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench.batch.cluster import Cluster
from ebbtide.bench.batch.load import BEGIN_S
from ebbtide.bench.batch.running import Running, State
from ebbtide.bench.batch.scenario import ON_DEMAND, RESERVED
from tests.bench.batch.scenes import job, scenario


def cluster(reserved=4):
    found, gone = Cluster(scenario(reserved), BEGIN_S), []

    def tick(now_s):
        found.clear(now_s)
        found.schedule(now_s, 30, min, lambda name, pod: gone.append(pod.name))

    return found, tick, gone


def test_a_node_comes_for_a_pod_and_goes_once_it_has_been_empty_for_long():
    found, tick, _ = cluster()
    pod = found.add("a", ON_DEMAND, 1, BEGIN_S)
    tick(BEGIN_S)
    assert (found.paid(ON_DEMAND), pod.node) == (1, None)
    tick(BEGIN_S + 180)
    assert pod.node is not None
    found.remove(pod, BEGIN_S + 240, 30)
    tick(BEGIN_S + 240)
    assert found.held(ON_DEMAND, chat=False) == 1, "it holds its GPU until it is gone"
    tick(BEGIN_S + 300)
    assert (found.held(ON_DEMAND, chat=False), found.paid(ON_DEMAND)) == (0, 1)
    tick(BEGIN_S + 900)
    assert found.paid(ON_DEMAND) == 0


def test_two_pods_that_wait_share_a_node_that_comes_only_if_it_has_room():
    found, tick, _ = cluster()
    for _ in range(3):
        found.add("a", ON_DEMAND, 1, BEGIN_S)
    tick(BEGIN_S)
    tick(BEGIN_S + 60)
    assert found.paid(ON_DEMAND) == 3


def test_chat_evicts_a_batch_pod_and_waits_for_its_grace_alone():
    found, tick, gone = cluster(reserved=2)
    for _ in range(2):
        found.add("a", RESERVED, 1, BEGIN_S)
    tick(BEGIN_S)
    chat = found.add("", RESERVED, 1, BEGIN_S + 60)
    tick(BEGIN_S + 60)
    assert (len(gone), chat.node) == (1, None)
    tick(BEGIN_S + 120)
    assert (len(gone), chat.node is not None) == (1, True), "one is enough"


def test_what_is_reserved_is_never_ordered():
    found, tick, _ = cluster(reserved=2)
    pods = [found.add("", RESERVED, 1, BEGIN_S) for _ in range(3)]
    tick(BEGIN_S)
    assert ([pod.node is not None for pod in pods], found.paid(RESERVED)) == ([True, True, False], 2)


STOPS = [
    # (seconds of running, restartable, seconds of work kept): 120 s of loading, checkpoints every 300 s
    (60, True, 0),
    (120 + 240, True, 0),
    (120 + 600, True, 600),
    (120 + 900, False, 0),
]


@pytest.mark.parametrize(("runs_s", "restartable", "kept_s"), STOPS)
def test_what_a_stop_loses(runs_s, restartable, kept_s):
    found, tick, _ = cluster()
    one = Running(job(restartable=restartable))
    one.start(RESERVED, 2, found, BEGIN_S)
    tick(BEGIN_S)
    for second in range(0, runs_s, 60):
        one.minute(BEGIN_S + second, scenario().batch, found)
    one.stop(found, BEGIN_S + runs_s, 30)
    assert (one.state, one.worked_s, one.ran_s) == (State.STOPPED, kept_s, runs_s)


def test_a_gang_stands_still_without_one_of_its_pods_and_an_elastic_job_does_not():
    for elastic, gains in ((False, 0.0), (True, 60.0)):
        found, tick, _ = cluster(reserved=2)
        one = Running(job(elastic=elastic))
        one.start(RESERVED, 2, found, BEGIN_S)
        tick(BEGIN_S)
        one.minute(BEGIN_S + 600, scenario().batch, found)
        pod = one.pods[0]
        found.remove(pod, BEGIN_S + 660, 30)
        one.evicted(pod, found, BEGIN_S + 660)
        assert one.minute(BEGIN_S + 660, scenario().batch, found) == gains


@given(st.lists(st.tuples(st.sampled_from(["run", "stop", "fewer"]), st.integers(1, 30)), max_size=12), st.booleans())
def test_work_is_conserved(moves, elastic):
    """Whatever is stopped and resized: what was gained is what is done and what was lost."""
    found, tick, _ = cluster()
    one, now_s, gained = Running(job(work_s=3600, elastic=elastic)), BEGIN_S, 0.0
    for move, minutes in moves:
        if one.state is State.DONE:
            break
        if one.is_open:
            one.start(RESERVED, 2, found, now_s)
        elif move == "stop":
            one.stop(found, now_s, 30)
        elif move == "fewer" and elastic:
            one.resize(1 if len(one.pods) == 2 else 2, found, now_s, 30)
        for _ in range(minutes):
            tick(now_s)
            if one.state is State.RUNS:
                gained += one.minute(now_s, scenario().batch, found)
            now_s += 60
    assert gained == pytest.approx((one.worked_s + one.lost_s) * one.job.gpus)
    assert one.worked_s <= one.job.work_s
    assert (one.state is State.DONE) == (one.left_s <= 0.0)
