"""What an engine adapter says: for each signal, which metrics carry it, best first. Data only.

Absent is not zero. A signal without candidates is NotApplicable; one whose candidates are all absent is Unknown, unless
the engine lists it as optional (a metric that only some versions or settings have).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Gauge(StrEnum):
    """Signals whose newest value counts."""

    RUNNING = "running"
    WAITING = "waiting"
    MAX_RUNNING = "max_running"
    KV_TOKENS = "kv_tokens"  # size of the KV cache in tokens
    KV_BLOCKS = "kv_blocks"
    KV_USAGE = "kv_usage"  # 0..1
    KV_BLOCK_TOKENS = "kv_block_tokens"  # tokens in a block


class Counter(StrEnum):
    """Signals whose rate counts."""

    FINISHED = "finished"
    PROMPT_TOKENS = "prompt_tokens"
    GENERATION_TOKENS = "generation_tokens"
    REJECTED = "rejected"
    PREEMPTED = "preempted"


class Histogram(StrEnum):
    """Latency distributions."""

    TTFT = "ttft"  # time to first token, a request
    ITL = "itl"  # between tokens, a gap
    TPOT = "tpot"  # mean time per output token after the first, a request


Signal = Gauge | Counter | Histogram

# Data-parallel ranks of a pod add up; these two are the same for every rank, or a share of it.
MAXIMUM_OVER_RANKS = frozenset({Gauge.KV_USAGE, Gauge.KV_BLOCK_TOKENS})


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that carries a signal, narrowed by `labels`, multiplied by `scale` into base units.

    For a histogram `name` is without `_bucket`, and `scale` applies to its bounds and its sum.
    """

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One inference engine's names."""

    name: str
    signals: Mapping[Signal, tuple[Metric, ...]]
    optional: frozenset[Signal] = field(default_factory=frozenset)
    info: str = ""  # a metric whose labels tell the size of the KV cache
    gauges_freeze_when_idle: bool = False  # gauges keep their last value while nothing runs


def metrics(*names: str) -> tuple[Metric, ...]:
    """Candidates without labels or scale, best first."""
    return tuple(Metric(name) for name in names)
