"""What Prometheus answers to the operator's fixed queries: the bytes, row by row, as its HTTP API writes them.

For each pod every series that its engine publishes (names of vLLM 0.32 and of trtllm-serve, buckets of vLLM's
histograms) becomes one row a slot, with the value that the query's rate, delta or age would have.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.fleet import Hardware
from ebbtide.observe.engines import ENGINES
from ebbtide.observe.engines.signals import Counter, Gauge, Histogram, Signal
from ebbtide.observe.queries import Query, Slot, queries, slots
from ebbtide.observe.settings import PrometheusSettings
from ebbtide.sim.histogram import TOKEN_LATENCY_BOUNDS_S, TTFT_BOUNDS_S

WINDOW_S = 60
_AT = "1795264000.123"
_PROMPT_TOKENS, _OUTPUT_TOKENS = 1024.0, 256.0
_KV_TOKENS, _BLOCK = 400_000, 16

PUBLISHED = frozenset(
    {f"vllm:{name}" for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")}
    | {f"vllm:{name}_total" for name in ("request_success", "prompt_tokens", "generation_tokens")}
    | {f"vllm:{name}_total" for name in ("admission_rejections", "num_preemptions")}
    | {f"vllm:{name}_seconds" for name in ("time_to_first_token", "inter_token_latency")}
    | {"vllm:request_time_per_output_token_seconds"}
    | {f"trtllm_{name}" for name in ("num_requests_running", "num_requests_waiting", "max_num_active_requests")}
    | {f"trtllm_{name}" for name in ("kv_cache_utilization", "kv_cache_max_blocks", "kv_cache_tokens_per_block")}
    | {f"trtllm_{name}_total" for name in ("request_success", "prompt_tokens", "generation_tokens")}
    | {f"trtllm_{name}_seconds" for name in ("time_to_first_token", "time_per_output_token")}
)


@dataclass(frozen=True, slots=True)
class Load:
    """One pod at one moment: who it is, and what it carries (requests/s; requests)."""

    namespace: str
    pod: str
    engine: int
    per_second: float
    running: float
    waiting: float
    itl_s: float
    ttft_s: float
    random: random.Random


def load_of(namespace: str, pod: str, engine: str, hardware: Hardware, per_second: float, seed: int) -> Load:
    """A pod under `per_second` requests/s, with the noise of a window of a minute (`seed` says which)."""
    draw = random.Random(zlib.crc32(f"{seed}/{namespace}/{pod}".encode()))
    # 10 requests/s are 600 in a window, of which the root, 4 %, is noise
    seen = max(0.02, per_second + draw.gauss(0.0, (per_second / WINDOW_S) ** 0.5))
    share = seen * _OUTPUT_TOKENS * hardware.b_s
    wanted = seen * _OUTPUT_TOKENS * hardware.a_s / (1.0 - share) if share < 0.95 else hardware.most_running * 1.2
    running = min(wanted, hardware.most_running * 1.1)
    itl_s = hardware.a_s + hardware.b_s * running
    number = next(index for index, known in enumerate(ENGINES) if known.name == engine)
    return Load(
        namespace=namespace,
        pod=pod,
        engine=number,
        per_second=min(seen, running / (_OUTPUT_TOKENS * itl_s)),
        running=round(running),
        waiting=0 if wanted <= hardware.most_running else 12,
        itl_s=itl_s,
        ttft_s=0.12 * draw.uniform(0.8, 1.25) if wanted <= hardware.most_running else 2.0,
        random=draw,
    )


def texts() -> dict[str, str]:
    """PromQL text -> the query's name, for a Prometheus that knows only these."""
    return {query.text: query.name for query in all_queries()}


def all_queries() -> tuple[Query, ...]:
    """The queries of a cycle under the operator's default settings."""
    settings = PrometheusSettings()
    return queries(settings.rate_window_s, settings.matchers, settings.replica_labels)


def rows(name: str, load: Load) -> Iterator[str]:
    """The rows that one pod adds to the answer of one query."""
    build = _BUILDERS.get(name)
    if build is None:
        yield from _bucket_rows(Histogram(name.removesuffix("_buckets")), load)
    else:
        yield from build(load)


def answer(parts: Iterator[str]) -> Iterator[str]:
    """A whole answer from its rows."""
    yield '{"status":"success","data":{"resultType":"vector","result":['
    first = True
    for part in parts:
        yield part if first else "," + part
        first = False
    yield "]}}"


def _row(load: Load, slot: str, value: float | str, le: str = "") -> str:
    bound = f'"le":"{le}",' if le else ""
    labels = f'{bound}"namespace":"{load.namespace}","pod":"{load.pod}","slot":"{slot}"'
    return f'{{"metric":{{{labels}}},"value":[{_AT},"{value if isinstance(value, str) else _text(value)}"]}}'


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _slots(load: Load, kind: type[Signal]) -> Iterator[Slot]:
    return (slot for slot in _PUBLISHED_SLOTS[load.engine] if isinstance(slot.signal, kind))


def _gauge_rows(load: Load) -> Iterator[str]:
    values = {
        Gauge.RUNNING: load.running,
        Gauge.WAITING: load.waiting,
        Gauge.MAX_RUNNING: 512,
        Gauge.KV_BLOCKS: _KV_TOKENS / _BLOCK,
        Gauge.KV_BLOCK_TOKENS: _BLOCK,
        Gauge.KV_USAGE: min(0.99, load.running * (_PROMPT_TOKENS + 128) / _KV_TOKENS),
    }
    return (_row(load, slot.id(), values[slot.signal]) for slot in _slots(load, Gauge) if slot.signal in values)


def _age_rows(load: Load) -> Iterator[str]:
    age_s = round(load.random.uniform(0.0, 15.0), 3)
    anchors = (slot for slot in _PUBLISHED_SLOTS[load.engine] if slot.signal in (Gauge.RUNNING, Counter.FINISHED))
    return (_row(load, slot.id(), age_s) for slot in anchors)


def _counter_rows(load: Load) -> Iterator[str]:
    values = {
        Counter.FINISHED: load.per_second,
        Counter.PROMPT_TOKENS: load.per_second * _PROMPT_TOKENS,
        Counter.GENERATION_TOKENS: load.per_second * _OUTPUT_TOKENS,
        Counter.REJECTED: 0.0,
        Counter.PREEMPTED: 0.0,
    }
    for slot in _slots(load, Counter):
        yield _row(load, slot.id(), values[slot.signal])
    for slot in _slots(load, Histogram):
        per_second, mean_s = _observed(load, slot)
        yield _row(load, slot.id("_sum"), per_second * mean_s)
        yield _row(load, slot.id("_count"), per_second)


def _change_rows(load: Load) -> Iterator[str]:
    watched = (Gauge.RUNNING, Gauge.WAITING, Gauge.KV_USAGE)
    for slot in _PUBLISHED_SLOTS[load.engine]:
        if slot.signal in watched:
            yield _row(load, slot.id(), load.random.uniform(-2.0, 2.0) if slot.signal is Gauge.RUNNING else 0.0)


def _cache_rows(load: Load) -> Iterator[str]:
    if ENGINES[load.engine].info:
        sizes = f'"block_size":"{_BLOCK}","engine":"0","namespace":"{load.namespace}"'
        blocks = f'"num_gpu_blocks":"{_KV_TOKENS // _BLOCK}","pod":"{load.pod}"'
        yield f'{{"metric":{{{sizes},{blocks}}},"value":[{_AT},"1"]}}'


def _bucket_rows(kind: Histogram, load: Load) -> Iterator[str]:
    chosen = [slot for slot in _slots(load, Histogram) if slot.signal is kind]
    has_tpot = any(slot.signal is Histogram.TPOT for slot in _slots(load, Histogram))
    if kind is Histogram.ITL and has_tpot:
        return  # the query leaves them at the server
    for slot in chosen:
        per_second, mean_s = _observed(load, slot)
        total = max(1, round(per_second * WINDOW_S))
        spread = 6.0 if kind is Histogram.TPOT else 1.6  # of a mean over a request's tokens, and of a first token
        for bound in TTFT_BOUNDS_S if kind is Histogram.TTFT else TOKEN_LATENCY_BOUNDS_S:
            below = round(total * (1.0 - 2.0 ** (-((bound / mean_s) ** spread))))
            if below:
                yield _row(load, slot.id(), below / WINDOW_S, le=str(bound))
        yield _row(load, slot.id(), total / WINDOW_S, le="+Inf")


def _observed(load: Load, slot: Slot) -> tuple[float, float]:
    if slot.signal is Histogram.TTFT:
        return load.per_second, load.ttft_s
    if slot.metric.name == "vllm:inter_token_latency_seconds":
        return load.per_second * _OUTPUT_TOKENS, load.itl_s
    return load.per_second, load.itl_s


_PUBLISHED_SLOTS = tuple(
    tuple(slot for slot in slots() if slot.engine == number and slot.metric.name in PUBLISHED)
    for number in range(len(ENGINES))
)
_BUILDERS: dict[str, Callable[[Load], Iterator[str]]] = {
    "gauges": _gauge_rows,
    "ages": _age_rows,
    "counters": _counter_rows,
    "changes": _change_rows,
    "cache": _cache_rows,
}
