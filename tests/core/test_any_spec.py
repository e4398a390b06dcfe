"""Whatever the API accepts can be planned: specs over the whole of every allowed range, its ends above all."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.api import parse_service
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import PodPhase
from tests.api import samples
from tests.builders import NOW, engine, pod, pool, service, snapshot, variant

PODS = st.lists(st.tuples(st.sampled_from(list(PodPhase)), st.sampled_from([0.0, 0.001, 9.0, 1e6])), max_size=4)


def one_of(*values):
    return st.sampled_from(values)


@st.composite
def scalings(draw):
    most = draw(one_of(1, 3, 10_000))
    zero = draw(st.booleans())
    scaling = {
        "minReplicas": 0 if zero else draw(one_of(1, most)),
        "maxReplicas": most,
        "up": {"delay": draw(one_of("0s", "1h")), "maxPerMinute": draw(one_of(1, 10_000))},
        "down": {"delay": draw(one_of("0s", "24h")), "maxPerMinute": draw(one_of(1, 10_000))},
    }
    if zero:
        scaling["scaleToZero"] = {"after": draw(one_of("1s", "168h")), "activator": {"url": "http://epp/metrics"}}
    if draw(st.booleans()):
        scaling["pause"] = draw(one_of({}, {"direction": "Up"}, {"direction": "Down"}, {"replicas": most}))
    return scaling


@st.composite
def variants(draw, name):
    most = draw(one_of(0, 1, 10_000))
    made = samples.variant(name) | {"pool": name, "minReplicas": 0, "maxReplicas": most}
    if draw(st.booleans()):
        made["gpusPerReplica"] = draw(one_of(1, 8, 1024))
    if draw(st.booleans()):
        made["capacity"] = {
            "requestsPerSecond": draw(one_of("0.00000000000001", "4.5", "100000")),
            "inputTokens": draw(one_of(1, 1024, 10_000_000)),
            "outputTokens": draw(one_of(1, 256, 10_000_000)),
        }
    return made


@st.composite
def specs(draw):
    model = {"name": "m"}
    size = draw(one_of(None, "0.000000000001M", "0.0000000000001B", "8B", "999999999999999B", "1M"))
    if size is not None:
        model["parameters"] = size
    return samples.service(
        ("spec.mode", draw(one_of("Auto", "Recommend", "Off"))),
        ("spec.model", model),
        (
            "spec.objectives",
            {
                "timeToFirstToken": draw(one_of("1ms", "1s", "1h")),
                "interTokenLatency": draw(one_of("1ms", "50ms", "1m")),
                "attainment": draw(one_of("0.000001", "50", "99", "99.999", "99.9990")),
            },
        ),
        ("spec.priority", draw(one_of(0, 1000))),
        ("spec.variants", [draw(variants("h100")), draw(variants("l40s")) | {"degraded": draw(st.booleans())}]),
        ("spec.scaling", draw(scalings())),
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs(),
    st.lists(PODS, min_size=2, max_size=2),
    one_of("0.0000000000001", "2.50", "10000"),
    one_of(None, 0, 1_000_000),
    one_of("", "H100-80GB", "x"),
)
def test_no_accepted_spec_makes_a_plan_fail(obj, pods, price, most, accelerator):
    declared = parse_service(obj)
    states = []
    for name, made in zip(("h100", "l40s"), pods, strict=True):
        each = [
            pod(f"{name}-{i}", engine(rps) if phase is PodPhase.READY else None, phase=phase)
            for i, (phase, rps) in enumerate(made)
        ]
        states.append(variant(name, each))
    pools = [pool(name, price=price, max_gpus=most, accelerator=accelerator) for name in ("h100", "l40s")]
    state = snapshot(service(states, declared), pools)
    memory = Memory()
    for cycle in range(4):
        decided, memory = plan(state, memory, NOW + 10.0 * cycle)
        assert decided.failures == ()
