"""Servers that hang: not counted as capacity, named, and replaced beside; and who must not be taken for one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebbtide.core.plan import plan
from ebbtide.model.plan import ServicePlan
from ebbtide.model.snapshot import PodPhase
from ebbtide.model.spec import Provisioning
from tests.builders import (
    condition,
    engine,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    variant,
    variant_spec,
)

BUSY = 18.0  # requests/s of a pod: two of three could not carry the three's load


def state(*made, replicas=None, pools=None, declared=None, **target):
    return snapshot(service(variant("h100", made, replicas, **target), declared), pools)


def unready(loop, for_s, name="z", **changes):
    fields = {"phase": PodPhase.NOT_READY, "unready_at": loop.now_s - for_s, "message": "probe failed"}
    return pod(name, **(fields | changes))


def messages(decided):
    return [item.message for item in decided.conditions]


def silent(name="z", **changes):
    """Ready, with no series any more: Prometheus asks in vain."""
    return pod(name, None, **({"unanswered": True} | changes))


def total(decided: ServicePlan) -> int:
    return sum(item.allowed for item in decided.variants)


def watched(n=3, rps=BUSY):
    return settled(state(*pods(n, rps)))


def test_a_pod_that_stopped_being_ready_is_no_capacity_and_is_replaced_beside_it():
    loop = watched()
    rest = pods(2, BUSY * 1.3)
    before = loop.one(state(*rest, unready(loop, 20.0)))
    assert condition(before, "Ready")[0] == "True", "three failed probes under load are no hang"
    decided = loop.one(state(*rest, unready(loop, 40.0)))
    assert total(decided) >= 4
    assert condition(decided, "Ready") == ("False", "NotAnswering")
    said = decided.conditions[0].message
    assert "1 of 3 replicas does not answer and carries nothing (z has not been ready for 40s: probe failed)" in said
    assert decided.reason.code.value == "NotAnswering"
    assert "h100: 1 of 3 replicas" in decided.reason.text


def test_it_goes_first_once_its_replacement_is_ready():
    loop = watched()
    decided = loop.one(state(*pods(3, BUSY), unready(loop, 400.0)), 900)
    assert total(decided) == 3
    assert decided.variants[0].victims == ("z",)
    back = loop.one(state(*pods(3, BUSY), pod("z", engine(0.0))))
    assert condition(back, "Ready")[0] == "True", "it came back"


def test_where_ordinals_decide_the_replacement_stays_too():
    """A lower count would take the newest, which serves, and leave the one that hangs."""
    loop = watched()
    decided = loop.one(state(*pods(3, BUSY), unready(loop, 400.0), ordinal=True), 900)
    assert total(decided) == 4


def test_a_ready_pod_that_answers_no_scrape_while_others_do_is_no_capacity():
    loop = watched()
    decided = loop.one(state(*pods(2, BUSY), silent()))
    assert total(decided) == 4
    assert decided.variants[0].ready == 2
    assert condition(decided, "Ready")[0] == "False"
    assert condition(decided, "MetricsFresh") == ("False", "MetricsMissing")
    assert "z is Ready, but no scrape of it is answered, while others of its template" in decided.conditions[0].message


NOT_HUNG = {
    "nobody answers: a network policy, or Prometheus": [silent("x"), silent("y"), silent("z")],
    "it is not scraped at all": [*pods(2, BUSY), pod("z", None)],
    "it is ready for want of a readiness probe, and loads": [*pods(2, BUSY), silent(ready_at=1_000_880.0)],
    "a worker, for whom its leader answers": [*pods(2, BUSY), silent(serves=False)],
    "it stopped being ready, nobody knows when": [*pods(2, BUSY), pod("z", phase=PodPhase.NOT_READY)],
    "it leaves": [*pods(2, BUSY), silent(phase=PodPhase.TERMINATING)],
}


@pytest.mark.parametrize("story", NOT_HUNG)
def test_who_is_not_taken_for_one_that_hangs(story):
    decided = watched().one(state(*NOT_HUNG[story], replicas=3))
    assert condition(decided, "Ready")[1] != "NotAnswering", story
    assert total(decided) == 3, story


def test_while_it_loads_behind_a_ready_pod_nothing_is_called_missing():
    loop = watched()
    loading = silent(ready_at=loop.now_s - 100.0)
    decided = loop.one(state(*pods(2, BUSY), loading))
    assert condition(decided, "MetricsFresh")[0] == "True"
    assert "every other ready pod was read: 1 ready pod does not answer scrapes yet" in messages(decided)
    assert (decided.variants[0].ready, decided.variants[0].starting) == (2, 1)


def test_while_nobody_answers_yet_that_is_said_and_nothing_is_known():
    decided = settled(state(silent(ready_at=1_000_000.0)), 10.0).plan.services[0]
    assert condition(decided, "MetricsFresh")[0] == "Unknown"
    assert "1 ready pod does not answer scrapes yet" in messages(decided)


def test_how_requests_spread_is_not_known_while_a_ready_variant_does_not_answer_yet():
    variants = [variant_spec("h100", "h100"), variant_spec("a100", "a100")]
    pair = [variant("h100", pods(2, BUSY)), variant("a100", [silent(ready_at=1_000_000.0)])]
    snapped = snapshot(service(pair, spec(variants=variants)), [pool("h100"), pool("a100")])
    decided = settled(snapped, 10.0).plan.services[0]
    assert condition(decided, "TrafficBalanced") == ("Unknown", "Pending")
    assert "ready pods of a100 do not answer scrapes yet: what reaches them is not known" in messages(decided)


def test_a_start_up_is_not_measured_before_the_engine_answers():
    loop = watched()
    young = silent(created_at=loop.now_s - 70.0, ready_at=loop.now_s - 68.0)
    loop.one(state(*pods(2, BUSY), young))
    taught = loop.memory.services[0].variants[0].capacity.startup_s
    assert 2.0 not in taught


@pytest.mark.parametrize(
    ("story", "rps", "demand"),
    [
        ("the gateway sends all to the other", 2.0 * BUSY, 2.0 * BUSY),
        ("the Service still sends half of it to the hung one", BUSY, 2.0 * BUSY),
        ("it rises meanwhile", 3.0 * BUSY, 3.0 * BUSY),
        ("it falls meanwhile", 0.25 * BUSY, 0.5 * BUSY),
    ],
)
def test_one_of_two_that_hangs_does_not_double_the_demand(story, rps, demand):
    decided = watched(2).one(state(*pods(1, rps), silent()))
    assert decided.demand.requests_per_second == pytest.approx(demand), story


def test_scrapes_that_stop_on_half_the_pods_start_no_further_fleet():
    """A new port on half of the pods: they serve unseen. What is seen of the load is carried by who is seen."""
    loop = settled(state(*pods(8, 10.0)))
    decided = loop.one(state(*pods(4, 10.0), *(silent(f"z-{i}") for i in range(4))), 600)
    assert total(decided) <= 9
    assert total(decided) >= 8, "nothing is lowered on part of the pods either"


def test_gpus_of_one_that_hangs_are_not_promised_to_others():
    """A pool of 4 GPUs, 3 in use, one of them by a hung pod: one more fits, not two."""
    four = pool(nodes=[node("n", 4, 3)])
    loop = settled(state(*pods(3, BUSY), pools=four))
    decided = loop.one(state(*pods(2, 40.0, itl_s=0.08, missed=0.5), unready(loop, 60.0), pools=four), 120)
    assert total(decided) == 4
    assert decided.variants[0].wanted == 4


def test_nodes_are_not_asked_for_beyond_the_pools_limit_for_its_sake():
    """At most 4 GPUs, 3 in use, one of them by a hung pod: nodes may come for one more."""
    four = pool(nodes=[node("n", 4, 3)], provisioning=Provisioning.AUTOSCALED, max_gpus=4)
    loop = settled(state(*pods(3, BUSY), pools=four))
    decided = loop.one(state(*pods(2, 40.0, itl_s=0.08, missed=0.5), unready(loop, 60.0), pools=four), 120)
    assert total(decided) == 4


def test_no_more_than_the_maximum_is_declared_for_its_sake():
    declared = spec(variants=[variant_spec()], max_replicas=3)
    loop = settled(state(*pods(3, BUSY), declared=declared))
    decided = loop.one(state(*pods(2, BUSY * 1.4), unready(loop, 60.0), declared=declared))
    assert total(decided) == 3
    assert "z has not been ready" in decided.reason.text + decided.conditions[0].message


def test_while_a_pod_is_silent_nothing_is_let_go():
    """It may serve after all: what is seen is part of the load."""
    loop = settled(state(*pods(5, BUSY)))
    assert total(loop.one(state(*pods(4, 1.0), silent()), 900)) == 5


@pytest.mark.parametrize("name", ["ml/a", "ml/z"])
def test_others_are_not_promised_what_a_hung_pod_holds(name):
    """Nodes for 6 GPUs at most. One holds 3, one of them in vain, and needs 3 that serve: the other may have 2."""
    six = pool(nodes=[node("n", 4, 4)], provisioning=Provisioning.AUTOSCALED, max_gpus=6)
    loop = settled(snapshot([], six), 10)

    def both(rps, beside):
        first = service(variant("h100", (*pods(2, 1.8 * BUSY), *beside)), spec(name, variants=[variant_spec()]))
        other = service(variant("h100", pods(1, rps, "o", itl_s=0.08, missed=0.5)), spec("ml/m"))
        return snapshot([first, other], six)

    loop.run(both(10.0, pods(1, BUSY, "z")), 200)
    decided = loop.run(both(90.0, [unready(loop, 60.0)]), 60)
    allowed = {each.key: total(each) for each in decided.services}
    assert allowed["ml/m"] > 1
    assert sum(allowed.values()) <= 6, allowed


@example(1, 1, 5e-324, False)  # hardly anything is nothing
@example(1, 2, 25.0, True)  # who hangs shares no load: one that answers is one on its own
@given(st.integers(1, 6), st.integers(0, 4), st.floats(0.0, 40.0), st.booleans())
def test_one_that_hangs_never_lowers_what_is_allowed(answering, hanging, rps, by_probe):
    """The same load on the same pods, and others beside them that carry nothing."""
    loop = settled(state(*pods(answering, rps)), 300)
    hung = [unready(loop, 60.0, f"z-{i}") if by_probe else silent(f"z-{i}") for i in range(hanging)]
    decided, alone = (
        plan(state(*pods(answering, rps), *beside), loop.memory, loop.now_s)[0].services[0].variants[0]
        for beside in (hung, [])
    )
    assert decided.allowed >= alone.allowed
    assert decided.wanted >= alone.wanted - 1, "weighed anew, where alone what was weighed before still holds"
    assert decided.ready == alone.ready
