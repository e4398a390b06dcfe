import pytest

from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.victims import choose
from ebbtide.core.work import VariantDraft
from ebbtide.model.memory import PoolMemory, VariantMemory
from ebbtide.model.snapshot import PodPhase
from tests.builders import engine, node, pod, pool, variant, variant_spec


def victims(states, leaving, nodes=(), **target):
    draft = VariantDraft(
        0,
        variant_spec(),
        variant("h100", states, **target),
        VariantMemory("h100"),
        PoolDraft(pool(nodes=list(nodes)), PoolMemory("h100")),
    )
    return choose(draft, leaving)


def on(node_name, name, rps):
    return pod(name, engine(rps), node=node_name)


def test_f13_the_least_loaded_goes_first():
    states = [on("n1", "busy", 20.0), on("n1", "idle", 1.0), on("n1", "half", 10.0)]
    assert victims(states, 1, [node("n1", 8, 4)]) == ("idle",)


def test_those_that_empty_a_paid_node_go_before_less_loaded_ones():
    states = [on("n1", "a", 1.0), on("n1", "b", 9.0), on("n2", "c", 5.0)]
    assert victims(states, 1, [node("n1", 8, 2), node("n2", 8, 1)]) == ("c",)


def test_a_node_that_others_use_is_not_emptied_by_us():
    states = [on("n1", "a", 1.0), on("n2", "c", 5.0), on("n2", "d", 5.0)]
    assert victims(states, 1, [node("n1", 8, 3), node("n2", 8, 4)]) == ("a",)


def test_doomed_and_not_serving_pods_go_before_serving_ones():
    states = [on("n1", "busy", 1.0), pod("boot", phase=PodPhase.STARTING), pod("doomed", phase=PodPhase.INTERRUPTED)]
    assert victims(states, 2, [node("n1", 8, 1)]) == ("doomed", "boot")


@pytest.mark.parametrize("leaving", [0, -3])
def test_nobody_goes_when_nothing_shrinks(leaving):
    assert victims([on("n1", "a", 1.0)], leaving) == ()


def test_statefulsets_go_by_ordinal_so_nothing_is_marked():
    assert victims([on("n1", "a", 1.0), on("n1", "b", 2.0)], 1, ordinal=True) == ()


def test_a_pod_without_readings_counts_as_busy():
    states = [pod("blind", None, node="n1"), on("n1", "seen", 20.0)]
    assert victims(states, 1, [node("n1", 8, 4)]) == ("seen",)
