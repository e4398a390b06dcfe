"""How an engine ends, by its pod template: what is certain, and what cannot be told."""

from typing import Any

import msgspec
import pytest

from ebbtide.observe.drain import Ending
from ebbtide.observe.projections import Workload
from ebbtide.observe.slim import Slim
from ebbtide.observe.workloads import deployment_view

GPU = {"limits": {"nvidia.com/gpu": "1"}}
SERVE = ["vllm", "serve", "m"]
MODULE = ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]


def ending(*containers: dict[str, Any]) -> Ending:
    """As the caches keep the template: slim."""
    spec = {"template": {"spec": {"containers": containers}}}
    return deployment_view(Slim().workload(msgspec.convert({"metadata": {"name": "w"}, "spec": spec}, Workload))).ending


def shell(text: str, program: str = "sh") -> dict[str, Any]:
    return {"command": [program, "-c", text]}


def literal(**values: str) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


SECRET = [{"name": "FLAGS", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]


@pytest.mark.parametrize(
    ("story", "container", "timeout_s"),
    [
        ("in one word", {"command": SERVE, "args": ["--shutdown-timeout=60"]}, 60.0),
        ("in two words", {"args": ["--model", "m", "--shutdown-timeout", "60"]}, 60.0),
        ("with underscores, which vLLM takes too", {"args": ["--shutdown_timeout", "60"]}, 60.0),
        ("in the command", {"command": [*SERVE, "--shutdown-timeout", "60"]}, 60.0),
        ("in a shell's words", shell("exec vllm serve m --shutdown-timeout=60"), 60.0),
        ("in lines of a shell", shell("vllm serve m \\\n  --shutdown-timeout \\\n  60\n", "/bin/bash"), 60.0),
        ("quoted", shell("vllm serve m --shutdown-timeout '60'; echo over"), 60.0),
        ("the last one counts", {"args": ["--shutdown-timeout=0", "--shutdown-timeout=60"]}, 60.0),
        ("said to be none", {"command": SERVE, "args": ["--shutdown-timeout=0"]}, 0.0),
        ("a variable of the pod", {"args": ["--shutdown-timeout=$(T)"], "env": literal(T="60")}, 60.0),
        ("flags in a variable", shell("vllm serve m $F") | {"env": literal(F="--shutdown-timeout 60")}, 60.0),
        ("not there", {"command": SERVE}, 0.0),
        ("not there, by a path", {"command": ["/opt/v/bin/python", "/opt/v/bin/vllm", "serve", "m"]}, 0.0),
        ("not there, started as a module", {"command": MODULE}, 0.0),
        ("not there, in a shell", shell("vllm serve m --port 8000"), 0.0),
        ("not there, only in a comment", shell("# --shutdown-timeout=60\nvllm serve m"), 0.0),
        ("not there, the official image", {"image": "vllm/vllm-openai:v0.32.0", "args": ["--model=m"]}, 0.0),
        ("not there, a mirror of it", {"image": "reg.local:5000/vllm-openai-rocm@sha256:ab"}, 0.0),
        ("not there; a value of another flag is not shown", {"command": SERVE, "args": ["--host=$(POD_IP)"]}, 0.0),
        ("not there; all variables are known", shell("vllm serve $M") | {"env": literal(M="m")}, 0.0),
        ("a variable from elsewhere", shell("vllm serve m ${FLAGS}") | {"env": SECRET}, None),
        ("a variable of the image", {"command": SERVE, "args": ["$(MORE)"]}, None),
        ("the words of a caller", shell('exec vllm serve m "$@"'), None),
        ("the output of a command", shell("vllm serve m `cat /flags`"), None),
        ("a config file", {"command": SERVE, "args": ["--config", "/etc/vllm.yaml"]}, None),
        ("a config file, in one word", {"command": SERVE, "args": ["--config=/etc/vllm.yaml"]}, None),
        ("a start script", {"command": ["/start.sh"]}, None),
        ("an image of somebody's own", {"image": "corp/my-vllm:7", "args": ["--model=m"]}, None),
        ("the image decides all", {}, None),
        ("set by an unknown variable", {"args": ["--shutdown-timeout=$(T)"]}, None),
        ("set to nothing", {"command": SERVE, "args": ["--shutdown-timeout"]}, None),
        ("abbreviated", {"command": SERVE, "args": ["--shutdown-t=60"]}, None),
        ("another engine", {"command": ["trtllm-serve", "m"]}, None),
    ],
)
def test_the_time_to_finish_is_told_only_where_it_is_certain(
    story: str, container: dict[str, Any], timeout_s: float | None
) -> None:
    assert ending({"resources": GPU} | container).shutdown_timeout_s == timeout_s, story


def test_a_sidecar_says_nothing_about_the_engine() -> None:
    proxy = {"args": ["--shutdown-timeout=5"], "lifecycle": {"preStop": {"sleep": {"seconds": 99}}}}
    assert ending(proxy, {"command": SERVE}) == Ending(0.0, 0.0)
    assert ending(proxy, {"command": ["/start.sh"], "resources": GPU}) == Ending(None, 0.0)
    assert ending(proxy, {"command": ["/start.sh"]}) == Ending(), "which of them is the engine?"
    assert ending() == Ending()


@pytest.mark.parametrize(
    ("handler", "seconds"),
    [
        ({"sleep": {"seconds": 15}}, 15.0),
        ({"exec": {"command": ["sleep", "15"]}}, 15.0),
        ({"exec": {"command": ["/bin/sh", "-c", "sleep 15"]}}, 15.0),
        ({"exec": {"command": ["/bin/bash", "-c", "exec /usr/bin/sleep 15s;"]}}, 15.0),
        ({"exec": {"command": ["sh", "-c", "until ! busy; do sleep 1; done"]}}, None),
        ({"exec": {"command": ["sh", "-c", "sleep 5 && drain"]}}, None),
        ({"exec": {}}, None),
        ({"httpGet": {"path": "/drain", "port": 8000}}, None),
    ],
)
def test_how_long_pre_stop_sleeps(handler: dict[str, Any], seconds: float | None) -> None:
    assert ending({"command": SERVE, "lifecycle": {"preStop": handler}}) == Ending(0.0, seconds)
