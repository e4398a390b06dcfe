"""The objects of the demo on real vLLM servers, and its load, derived from what one server was measured to do.

A server that computes keeps a core busy, however few requests it has. So that three of them are worth three on two
cores, each answers one request at a time (`--max-num-seqs=1`) and has KV cache for one: what bounds a replica is its
slot, not the machine, and even at the peak the fleet computes for less than one request on average. Ebbtide reads the
slots from the pod template and the cache from the engine's own metrics, as it would with a GPU's memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.model.spec import Mode
from ebbtide.sandbox.engines.environment import EngineEnvironment
from ebbtide.sandbox.engines.server import vllm_command, vllm_environment
from ebbtide.sandbox.ledger import Objectives
from ebbtide.sim.load import Hump, Lengths, generate
from ebbtide.sim.requests import Request
from ebbtide.sim.showcase import NAMESPACE, POOL_LABEL

POOL = "process"  # the label of the process node
PRICE_PER_HOUR = "0.05"
REPLICAS = 3
GIB_PER_REPLICA = 3.0
ATTAINMENT = 0.99

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 192
_BLOCK_TOKENS = 32
# one request, and the block that vLLM keeps for itself: 10 + 1
_BLOCKS = (PROMPT_TOKENS + OUTPUT_TOKENS) // _BLOCK_TOKENS + 1
_KV_CACHE_GIB = 1  # what is reserved; --num-gpu-blocks-override decides what is used

SHUTDOWN_TIMEOUT_S = 60
# time for gateways to notice that a pod is terminating: vLLM gives new requests nothing once it drains
_PRE_STOP_S = 3
_GRACE_S = _PRE_STOP_S + SHUTDOWN_TIMEOUT_S + 15

# Mean requests in the whole fleet. At the peak most have to wait for a lone server, which shares cores with two that
# start; with more than that, what waits would grow without end.
LOW, HIGH = 0.07, 0.75
_CALM_S, _RISE_S, _FALL_S, _EBB_S = 45.0, 30.0, 10.0, 110.0
_SHORTEST_PEAK_S, _LONGEST_PEAK_S = 120.0, 300.0
_TURNS = 4.0  # servers that share cores take turns: tokens may take so many times as long as alone
_LEEWAY_S = 0.1


@dataclass(frozen=True)
class VllmService:
    """The demo's only service. Without `scale_to_zero_url`, the gateway's metrics, it keeps one replica."""

    name: str = "chat"
    mode: Mode = Mode.AUTO
    scale_to_zero_url: str = ""


@dataclass(frozen=True)
class Measured:
    """What one server did with a request of its own, and how long it took to start; in seconds."""

    startup_s: float
    first_token_s: float
    inter_token_s: float
    request_s: float

    def objectives(self) -> Objectives:
        """What a replica keeps unless a request has to wait for more than one other.

        A request of 0.5 s whose first token takes 0.06 s and the others 2.4 ms each: 0.66 s and 10 ms.
        """
        first_s = self.first_token_s + self.request_s + _LEEWAY_S
        return Objectives(round(first_s, 3), max(0.001, round(_TURNS * self.inter_token_s, 3)))

    def load(self) -> Hump:
        """Low, high for as long as two more servers need to start on busy cores and a minute longer, low."""
        peak_s = min(_LONGEST_PEAK_S, max(_SHORTEST_PEAK_S, 3.0 * self.startup_s + 60.0))
        low, high = LOW / self.request_s, HIGH / self.request_s
        return Hump(low, high, start_s=_CALM_S, rise_s=_RISE_S, hold_s=peak_s, fall_s=_FALL_S)

    def duration_s(self) -> float:
        """Until the load has been low for long enough to see the fleet shrink."""
        load = self.load()
        return load.start_s + load.rise_s + load.hold_s + load.fall_s + _EBB_S


def requests(load: Hump, duration_s: float, seed: int) -> list[Request]:
    """Poisson arrivals of equal requests: as long as a server has KV cache for."""
    lengths = Lengths(PROMPT_TOKENS, 0.0, PROMPT_TOKENS, OUTPUT_TOKENS, 0.0, OUTPUT_TOKENS)
    return generate(load, lengths, duration_s, seed, swing=0.0)


def pool() -> dict[str, Any]:
    """The process node as a GPUPool: a slot counts as a GPU."""
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": POOL},
        "spec": {
            "capacityType": "OnPrem",
            "accelerator": "CPU",
            "resource": "sandbox.ebbtide.dev/engine-slot",
            "nodeSelector": {POOL_LABEL: POOL},
            "tolerations": [{"key": "sandbox.ebbtide.dev/process", "effect": "NoSchedule"}],
            "price": {"perGPUHour": PRICE_PER_HOUR, "currency": "USD"},
        },
    }


def inference_service(
    service: VllmService, env: EngineEnvironment, model: Path, objectives: Objectives, most: int = REPLICAS
) -> dict[str, Any]:
    """The InferenceService whose Deployment Ebbtide builds from its engine block, at most `most` replicas."""
    zero = {
        "after": "20s",
        "activator": {
            "url": service.scale_to_zero_url,
            "metrics": ["inference_extension_flow_control_queue_size"],
            "labels": {"inference_pool": service.name},
        },
    }
    return {
        "apiVersion": "ebbtide.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": service.name, "namespace": NAMESPACE},
        "spec": {
            "mode": service.mode.value,
            "model": {"name": model.name},
            "objectives": {
                "timeToFirstToken": _milliseconds(objectives.time_to_first_token_s),
                "interTokenLatency": _milliseconds(objectives.inter_token_latency_s),
                "attainment": f"{ATTAINMENT * 100:g}",
            },
            "variants": [{"name": "cpu", "pool": POOL, "maxReplicas": most, "engine": _engine(service, env, model)}],
            "scaling": {
                "minReplicas": 0 if service.scale_to_zero_url else 1,
                "maxReplicas": most,
                "down": {"delay": "30s", "maxPerMinute": 10},
                **({"scaleToZero": zero} if service.scale_to_zero_url else {}),
            },
        },
    }


def _engine(service: VllmService, env: EngineEnvironment, model: Path) -> dict[str, Any]:
    return {
        "type": "vLLM",
        "image": f"vllm-cpu:{env.version}",  # the API asks for one; a process has none
        "args": list(flags()),
        "env": [{"name": name, "value": value} for name, value in vllm_environment(_KV_CACHE_GIB).items()],
        "deletionPolicy": "Delete",
        "podTemplate": {
            "metadata": {"labels": {"sandbox.ebbtide.dev/route": service.name}},
            "spec": {
                "terminationGracePeriodSeconds": _GRACE_S,
                "containers": [
                    {
                        "name": "engine",
                        "command": vllm_command(env, model),
                        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                        "startupProbe": {"periodSeconds": 1},
                        "readinessProbe": {"periodSeconds": 2},
                        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}},
                    }
                ],
            },
        },
    }


def flags() -> Sequence[str]:
    """Of each server: one request at a time, KV cache for one, and time to finish it after SIGTERM."""
    return [
        "--host=$(POD_IP)",
        f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}",
        "--max-num-seqs=1",
        f"--max-model-len={PROMPT_TOKENS + OUTPUT_TOKENS}",
        f"--block-size={_BLOCK_TOKENS}",
        f"--num-gpu-blocks-override={_BLOCKS}",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"
