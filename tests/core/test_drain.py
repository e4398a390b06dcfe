"""Whether a scale-down would cut streams off: said beforehand where it is certain, with the numbers and the cure."""

import pytest

from ebbtide.model.plan import Condition, ServicePlan
from ebbtide.model.spec import EngineSpec, EngineType
from tests.builders import Loop, engine, pod, pool, service, snapshot, spec, variant, variant_spec

FALSE, UNKNOWN, TRUE = ("False", "EngineNotDraining"), ("Unknown", "DrainNotShown"), ("True", "EngineDrains")


def decide(**target) -> ServicePlan:
    return Loop().one(snapshot(service(variant("h100", (pod("a", engine(5.0)),), **target))))


def drains(decided: ServicePlan) -> Condition | None:
    return next((item for item in decided.conditions if item.type == "EngineDrains"), None)


def ends(timeout_s, sleep_s, grace_s):
    return {"shutdown_timeout_s": timeout_s, "pre_stop_s": sleep_s, "termination_grace_s": grace_s}


@pytest.mark.parametrize(
    ("story", "target", "verdict", "words"),
    [
        ("not set", ends(0.0, 0.0, 30.0), FALSE, "still run when its pod is told to go; start it with"),
        ("not set, the cure in numbers", ends(0.0, 0.0, 30.0), FALSE, "terminationGracePeriodSeconds: 150"),
        ("a sleep only puts it off", ends(0.0, 45.0, 60.0), FALSE, "45s after its pod is told to go (preStop)"),
        ("its own sleep is in the cure", ends(0.0, 45.0, 60.0), FALSE, "terminationGracePeriodSeconds: 180"),
        ("the grace ends before it", ends(60.0, 15.0, 30.0), FALSE, "is 30, not more than preStop sleep 15s"),
        ("the grace is just as long", ends(60.0, 15.0, 85.0), FALSE, "set it to 90"),
        ("a second more", ends(60.0, 15.0, 86.0), TRUE, "have 60s to finish"),
        (
            "without a sleep requests still come",
            ends(30.0, 0.0, 60.0),
            TRUE,
            "a preStop sleep would keep requests away",
        ),
        ("nobody knows the flag", ends(None, 15.0, 90.0), UNKNOWN, "does not show whether --shutdown-timeout is set"),
        ("preStop waits for who knows what", ends(0.0, None, 600.0), UNKNOWN, "more than a sleep"),
        ("preStop, and a short grace", ends(60.0, None, 30.0), UNKNOWN, "more than a sleep"),
        ("nobody knows the grace", ends(60.0, 15.0, None), UNKNOWN, "does not show terminationGracePeriodSeconds"),
    ],
)
def test_what_is_said_of_a_vllm(story, target, verdict, words):
    decided = decide(**target)
    found = drains(decided)
    assert found is not None
    assert (found.status.value, found.reason) == verdict, story
    assert words in found.message, story
    assert found.message.startswith("h100: ")
    ready = next(item for item in decided.conditions if item.type == "Ready")
    assert ready.status.value == "True", "what may happen at a scale-down does not make a service sick"


@pytest.mark.parametrize("name", ["TensorRTLLM", "SGLang", "Triton"])
def test_engines_that_drain_by_themselves_have_no_such_condition(name):
    states = (pod("a", engine(5.0, engine=name)),)
    decided = Loop().one(snapshot(service(variant("h100", states, **ends(0.0, 0.0, 30.0)))))
    assert drains(decided) is None


def test_a_vllm_at_zero_is_known_by_its_template_alone():
    at_zero = Loop().one(snapshot(service(variant("h100", (), 0, **ends(0.0, 0.0, 30.0)))))
    found = drains(at_zero)
    assert found is not None
    assert found.status.value == "False"
    assert drains(Loop().one(snapshot(service(variant("h100", (), 0))))) is None, "nothing says that it is a vLLM"


def test_the_type_of_an_engine_block_decides_before_any_pod_runs():
    def built(kind):
        declared = spec(variants=[variant_spec(engine=EngineSpec(kind, "vllm:1"))])
        return drains(Loop().one(snapshot(service(variant("h100", (), 0, **ends(None, 15.0, 150.0)), declared))))

    found = built(EngineType.VLLM)
    assert found is not None
    assert found.status.value == "Unknown"
    assert built(EngineType.TENSORRT_LLM) is None


def test_nothing_is_said_of_a_target_that_is_not_there():
    decided = Loop().one(snapshot(service(variant("h100", (), 0, exists=False, **ends(0.0, 0.0, 30.0)))))
    assert drains(decided) is None


def test_of_several_variants_those_that_cut_are_named():
    declared = spec(variants=[variant_spec("h100"), variant_spec("a100", "a100"), variant_spec("l40s", "l40s")])
    states = [
        variant("h100", (pod("h", engine(5.0)),), **ends(60.0, 15.0, 90.0)),
        variant("a100", (pod("a", engine(5.0)),), **ends(0.0, 15.0, 90.0)),
        variant("l40s", (pod("l", engine(5.0)),), **ends(None, 15.0, 90.0)),
    ]
    pools = [pool("h100"), pool("a100"), pool("l40s")]
    found = drains(Loop().one(snapshot(service(states, declared), pools)))
    assert found is not None
    assert (found.status.value, found.reason) == FALSE
    assert "a100: vLLM runs without" in found.message
    assert "h100:" not in found.message
    assert "l40s:" not in found.message
