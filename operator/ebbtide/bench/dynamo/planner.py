"""Dynamo's own planner as a rival: its code, in its own replay, in three modes.

It reads what Dynamo shows it at its own pace, not what Prometheus would; its regression is fed from the same kernel
timings as the simulator, which no user's planner has so exactly. It cannot run in another simulator.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from ebbtide.bench.case import Case
from ebbtide.bench.dynamo.lives import GivenUp
from ebbtide.bench.dynamo.trace import trace_lines
from ebbtide.bench.policy import Knob, Minute, Policy, Rival
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request

_WARM_UP_MINUTES = 180  # more than its predictors look back

# name -> (throughput scaling, load scaling)
_MODES = {
    "dynamo-planner-load": (False, True),
    "dynamo-planner-throughput": (True, False),
    "dynamo-planner": (True, True),
}
_KNOB = Knob("objectives over the targets it is given", published=1.0, low=0.5, high=4.0, log=True)
_NOTE = "the original's code; targets = objectives / knob; its predictor is warmed with the training's last three hours"


def _elsewhere(name: str, case: Case, knob: float) -> Policy:
    raise ConfigurationError(
        f"policy {name} is Dynamo's own code: it runs with --simulator dynamo alone, not {case.name}"
    )


PLANNERS: Mapping[str, Rival] = {name: Rival(name, _KNOB, partial(_elsewhere, name), _NOTE) for name in _MODES}


def settings(name: str, knob: float, case: Case, warm_up: Path | None) -> dict[str, Any]:
    """The planner's configuration: its defaults but for targets, bounds and mode."""
    throughput, load = _MODES[name]
    found: dict[str, Any] = {
        "mode": "agg",
        "optimization_target": "sla",
        "ttft_ms": 1000 * case.ttft_s / knob,
        "itl_ms": 1000 * case.itl_s / knob,
        "enable_throughput_scaling": throughput,
        "enable_load_scaling": load,
        "decode_engine_num_gpu": case.tensor_parallel,
        "max_gpu_budget": case.max_replicas * case.tensor_parallel,
        "min_endpoint": case.min_replicas,
    }
    return found if warm_up is None else {**found, "load_predictor_warmup_trace": str(warm_up)}


def warm_up_requests(history: Sequence[Minute]) -> Iterator[Request]:
    """The last hours of training as evenly spaced requests of mean lengths; its predictors make rates of them."""
    last = [minute for minute in history if minute.start_s < 0.0][-_WARM_UP_MINUTES:]
    number = 0
    for index, minute in enumerate(last):
        count = round(minute.requests)
        for i in range(count):
            prompt, output = (max(1, round(tokens / count)) for tokens in (minute.prompt_tokens, minute.output_tokens))
            yield Request(number, 60.0 * (index + (i + 0.5) / count), prompt, output)
            number += 1


def planner_of(
    name: str, knob: float, case: Case, engine: Any, history: Sequence[Minute], folder: str
) -> AbstractContextManager[Any]:
    """The planner as a scaling policy of the replay, to be entered."""
    import logging

    from dynamo.replay.planner import planner_replay_adapter  # late: it exists in its own environment alone

    logging.disable(logging.CRITICAL)  # it tells every tick at length
    warm_up = None
    if lines := list(trace_lines(warm_up_requests(history))):
        warm_up = Path(folder, "warm-up.jsonl")
        warm_up.write_bytes(b"\n".join(lines))
    scope: AbstractContextManager[Any] = planner_replay_adapter(
        extra_engine_args=engine,
        prefill_engine_args=None,
        decode_engine_args=None,
        planner_config_arg=json.dumps(settings(name, knob, case, warm_up)),
        capture_details=False,
    )
    return scope


class Counted:
    """Hands on to a scaling policy and counts what it changes up to `ends_s`, when the last request comes."""

    def __init__(self, policy: Any, ends_s: float) -> None:
        self.given_up = GivenUp()
        self._policy = policy
        self._ends_ms = 1000 * ends_s
        self.changes = 0

    def initial_tick_ms(self) -> float:
        """When the first tick is wanted."""
        wanted: float = self._policy.initial_tick_ms()
        return wanted

    def on_tick(self, tick: Mapping[str, Any]) -> Any:
        """One tick."""
        self.given_up.take(tick)
        answer = self._policy.on_tick(tick)
        target = None if answer is None else answer["target_decode"]
        if target not in (None, tick["non_draining_decode_count"]) and tick["now_ms"] <= self._ends_ms:
            self.changes += 1
        return answer
