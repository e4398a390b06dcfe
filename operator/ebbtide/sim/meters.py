"""What an engine counts about itself: the numbers behind its /metrics."""

import msgspec

from ebbtide.sim.histogram import (
    ITERATION_TOKEN_BOUNDS,
    LATENCY_BOUNDS_S,
    PREEMPTION_BOUNDS,
    TOKEN_LATENCY_BOUNDS_S,
    TTFT_BOUNDS_S,
    Histogram,
    token_bounds,
)
from ebbtide.sim.requests import FINISHED_REASONS


class Counters(msgspec.Struct):
    """Totals since the engine started. `rejected` were refused at the door and are in no other count."""

    finished: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(FINISHED_REASONS, 0))
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    rejected: int = 0


class Meters:
    """Histograms of one engine, named as vLLM names its own; seconds and tokens."""

    def __init__(self, max_model_tokens: int) -> None:
        tokens = token_bounds(max_model_tokens)
        self.ttft = Histogram(TTFT_BOUNDS_S)
        self.itl = Histogram(TOKEN_LATENCY_BOUNDS_S)
        self.tpot = Histogram(TOKEN_LATENCY_BOUNDS_S)
        self.e2e = Histogram(LATENCY_BOUNDS_S)
        self.queue = Histogram(LATENCY_BOUNDS_S)
        self.inference = Histogram(LATENCY_BOUNDS_S)
        self.prefill = Histogram(LATENCY_BOUNDS_S)
        self.decode = Histogram(LATENCY_BOUNDS_S)
        self.prompt_tokens = Histogram(tokens)
        self.generation_tokens = Histogram(tokens)
        self.preemptions = Histogram(PREEMPTION_BOUNDS)
        self.iteration_tokens = Histogram(ITERATION_TOKEN_BOUNDS)
        # of finished requests alone: trtllm-serve counts no first token before the last one
        self.finished_ttft = Histogram(TTFT_BOUNDS_S)
