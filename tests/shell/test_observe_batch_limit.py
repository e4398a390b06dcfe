"""How many requests vLLM lets run at once, by its pod template: into the snapshot, and from there into capacity."""

from array import array
from typing import Any

import msgspec
import pytest

from ebbtide.model.snapshot import NOT_APPLICABLE, EngineReadings, Snapshot
from ebbtide.observe.build import View, build_snapshot
from ebbtide.observe.engines import ENGINES
from ebbtide.observe.metrics import MetricsView
from ebbtide.observe.projections import Pod, Workload
from ebbtide.observe.queries import slots
from ebbtide.observe.readings import Collected, Limits
from ebbtide.observe.slim import Slim
from ebbtide.observe.workloads import deployment_view
from tests.shell import world
from tests.shell.observing import pod

SERVE = ["vllm", "serve", "m"]
GPU = {"limits": {"nvidia.com/gpu": "1"}}


def workload(*containers: dict[str, Any]) -> Workload:
    """As the caches keep the template: slim."""
    spec = {"selector": {"matchLabels": {"app": "chat"}}, "template": {"spec": {"containers": containers}}}
    metadata = {"name": "chat-h100", "namespace": "team-a", "uid": "u"}
    return Slim().workload(msgspec.convert({"metadata": metadata, "spec": spec}, Workload))


@pytest.mark.parametrize(
    ("story", "container", "most"),
    [
        ("in one word", {"command": SERVE, "args": ["--max-num-seqs=64"]}, 64.0),
        ("in two words", {"args": ["--model", "m", "--max-num-seqs", "64"]}, 64.0),
        ("with underscores, which vLLM takes too", {"args": ["--max_num_seqs", "64"]}, 64.0),
        ("both kinds of dashes", {"args": ["--max_num-seqs=64"]}, 64.0),
        ("in a shell's words", {"command": ["sh", "-c", "exec vllm serve m --max-num-seqs '64'"]}, 64.0),
        ("in an image of somebody's own", {"image": "corp/llm:7", "args": ["--max-num-seqs=64"]}, 64.0),
        ("the last one counts", {"args": ["--max-num-seqs=8", "--max-num-seqs=64"]}, 64.0),
        ("a variable of the pod", {"args": ["--max-num-seqs=$(N)"], "env": [{"name": "N", "value": "64"}]}, 64.0),
        (
            "flags in a variable",
            {"command": ["sh", "-c", "vllm serve m $F"], "env": [{"name": "F", "value": "--max-num-seqs 64"}]},
            64.0,
        ),
        ("not there: vLLM's default depends on its release and GPU", {"command": SERVE}, None),
        ("another flag", {"command": SERVE, "args": ["--max-num-batched-tokens=2048", "--seqs=3"]}, None),
        ("only in a comment", {"command": ["sh", "-c", "# --max-num-seqs=64\nvllm serve m"]}, None),
        ("no number", {"args": ["--max-num-seqs=many"]}, None),
        ("below one", {"args": ["--max-num-seqs=0"]}, None),
        ("negative", {"args": ["--max-num-seqs=-5"]}, None),
        ("set to nothing", {"args": ["--max-num-seqs"]}, None),
        ("an unknown variable", {"args": ["--max-num-seqs=$(N)"]}, None),
        ("several engines in the pod", {"args": ["--max-num-seqs=64", "--data-parallel-size=2"]}, None),
        ("several engines, in short", {"args": ["-dp", "2", "--max-num-seqs=64"]}, None),
    ],
)
def test_the_limit_of_the_batch_is_told_only_where_the_template_shows_it(
    story: str, container: dict[str, Any], most: float | None
) -> None:
    assert deployment_view(workload({"resources": GPU} | container)).most_running == most, story


def test_a_sidecar_has_no_batch() -> None:
    proxy = {"args": ["--max-num-seqs=3"]}
    assert deployment_view(workload(proxy, {"command": SERVE})).most_running is None
    assert deployment_view(workload(proxy, {"command": SERVE, "args": ["--max-num-seqs=64"]})).most_running == 64.0


def seen(engine: str, args: list[str], **gauges: float) -> EngineReadings:
    """What the snapshot says of the one pod of a Deployment, whose engine shows these gauges."""
    columns = {}
    for slot in slots():
        if slot.signal in gauges and ENGINES[slot.engine].name == engine:
            columns[slot.id()] = array("d", [gauges[slot.signal]])
    found = Collected(at_s=world.NOW_S, numbers={"team-a/chat-0": 0}, gauges=columns, ages={"": array("d", [1.0])})
    chat = world.service_spec("team-a/chat")
    view = View(
        services={chat.key: chat},
        pools={},
        pods={"team-a/chat-0": msgspec.convert(pod("chat-0"), Pod)},
        nodes={},
        deployments={"team-a/chat-h100": workload({"command": SERVE, "args": args, "resources": GPU})},
        stateful_sets={},
        kinds={},
        customs={},
        scales={},
        unread={},
        autoscalers=(),
        metrics=MetricsView(found, Limits(60.0, 300.0, 60.0)),
        gateways={chat.key: NOT_APPLICABLE},
        receipts={},
        seen_ready=frozenset(),
        sources=(),
    )
    snapshot: Snapshot = build_snapshot(view, world.NOW_S)
    [state] = snapshot.services[0].variants[0].pods
    assert state.engine is not None
    return state.engine


def test_the_limit_stands_in_the_snapshot_where_other_engines_say_theirs() -> None:
    flag = ["--max-num-seqs=64"]
    assert seen("vLLM", flag, running=3.0).max_running == 64.0
    assert seen("vLLM", ["--max-num-seqs=lots"], running=3.0).max_running is None
    assert seen("TensorRTLLM", flag, running=3.0, max_running=200.0).max_running == 200.0
    assert seen("SGLang", flag, running=3.0).max_running is None, "it has another flag, with another meaning"
