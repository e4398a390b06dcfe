"""What a scrape of an emulated engine or gateway reads: Prometheus text with the engine's own names.

Names, label names, types and buckets are those of vLLM 0.32 (compared with recorded scrapes in a test), of trtllm-serve
and of the Gateway API endpoint picker. It invents no series; those that nobody could tell from a constant are left out.
"""

from collections.abc import Iterable, Mapping

import msgspec

from ebbtide.sim.engine import Engine
from ebbtide.sim.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CACHE_CONFIG: Mapping[str, str] = {
    "_block_size_resolved": "True",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "True",
    "engine": "0",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_memory_bytes": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "auto",
    "num_cpu_blocks": "None",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}


class RouteGauges(msgspec.Struct, frozen=True):
    """What the gateway knows of one route: requests it holds, ready endpoints, their means and each one's queue."""

    namespace: str
    name: str
    queued: int
    ready: int
    average_queue: float
    average_running: float
    average_kv_usage: float
    endpoints: tuple[tuple[str, int], ...] = ()  # (name of the pod, requests that wait there)


class _Text:
    """Collects lines; `labels` go on every sample, in alphabetical order as the Python client prints them."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self.lines: list[str] = []

    def family(self, name: str, kind: str) -> None:
        self.lines.append(f"# TYPE {name} {kind}")

    def sample(self, name: str, value: float, **extra: str) -> None:
        self.lines.append(f"{name}{_braces(self._labels | extra)} {float(value)!r}")

    def one(self, name: str, kind: str, value: float, **extra: str) -> None:
        self.family(name, kind)
        self.sample(name, value, **extra)

    def histogram(self, name: str, histogram: Histogram) -> None:
        self.family(name, "histogram")
        before, after = _braces(self._labels | {"le": "\0"}).split("\0")
        self.lines += [
            f"{name}_bucket{before}{'+Inf' if bound == float('inf') else repr(bound)}{after} {seen}.0"
            for bound, seen in histogram.cumulative()
        ]
        self.sample(f"{name}_count", histogram.count)
        self.sample(f"{name}_sum", histogram.sum)

    def render(self) -> str:
        return "\n".join(self.lines) + "\n"


def vllm_text(engine: Engine, model_name: str, started_unix_s: float) -> str:
    """`GET /metrics` of vLLM 0.32; `started_unix_s` is when the process started (seconds since 1970)."""
    text = _Text({"engine": "0", "model_name": model_name})
    text.lines += ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started_unix_s!r}"]
    _vllm_gauges(text, engine)
    _vllm_counters(text, engine, model_name)
    meters = engine.meters
    for name, histogram in (
        ("request_prompt_tokens", meters.prompt_tokens),
        ("request_generation_tokens", meters.generation_tokens),
        ("iteration_tokens_total", engine.iteration_tokens),
        ("time_to_first_token_seconds", meters.ttft),
        ("inter_token_latency_seconds", engine.itl),
        ("request_time_per_output_token_seconds", meters.tpot),
        ("e2e_request_latency_seconds", meters.e2e),
        ("request_queue_time_seconds", meters.queue),
        ("request_inference_time_seconds", meters.inference),
        ("request_prefill_time_seconds", meters.prefill),
        ("request_decode_time_seconds", meters.decode),
        ("request_num_preemptions", meters.preemptions),
    ):
        text.histogram(f"vllm:{name}", histogram)
    text.lines += _cache_config(engine)
    return text.render()


def trtllm_text(engine: Engine, model_name: str, last_busy: "BusyGauges | None") -> str:
    """`GET /prometheus/metrics` of trtllm-serve.

    Requests are counted when they end, gauges freeze while idle (`last_busy`), and a series comes into being with its
    first event: a server that never had a request shows nothing at all.
    """
    text = _Text({"engine_type": "trtllm", "model_name": model_name})
    if last_busy is not None:
        _trtllm_gauges(text, engine, last_busy)
    finished, meters = engine.counters.finished, engine.meters
    if not meters.e2e.count:
        return text.render()
    text.family("trtllm_request_success_total", "counter")
    for reason in ("stop", "length"):
        if finished[reason]:
            text.sample("trtllm_request_success_total", finished[reason], finished_reason=reason)
    text.one("trtllm_prompt_tokens_total", "counter", meters.prompt_tokens.sum)
    text.one("trtllm_generation_tokens_total", "counter", meters.generation_tokens.sum)
    for name, histogram in (
        ("time_to_first_token_seconds", meters.finished_ttft),
        ("time_per_output_token_seconds", meters.tpot),
        ("e2e_request_latency_seconds", meters.e2e),
        ("request_queue_time_seconds", meters.queue),
        ("request_inference_time_seconds", meters.inference),
        ("request_decode_time_seconds", meters.decode),
    ):
        text.histogram(f"trtllm_{name}", histogram)
    return text.render()


def _trtllm_gauges(text: _Text, engine: Engine, gauges: "BusyGauges") -> None:
    profile = engine.profile
    blocks = profile.kv_tokens // profile.kv_block_tokens
    used = round(gauges.kv_usage * blocks)
    for name, value in (
        ("num_requests_running", gauges.running),
        ("num_requests_waiting", gauges.waiting),
        ("max_num_active_requests", profile.max_num_seqs),
        ("max_batch_size_static", profile.max_num_seqs),
        ("max_batch_size_runtime", profile.max_num_seqs),
        ("kv_cache_utilization", used / blocks),
        ("kv_cache_max_blocks", blocks),
        ("kv_cache_used_blocks", used),
        ("kv_cache_free_blocks", blocks - used),
        ("kv_cache_tokens_per_block", profile.kv_block_tokens),
        ("num_scheduled_requests", gauges.running),
        ("num_paused_requests", 0),
    ):
        text.one(f"trtllm_{name}", "gauge", value)


class BusyGauges(msgspec.Struct, frozen=True):
    """An engine's gauges at the last moment at which an iteration ran."""

    running: int
    waiting: int
    kv_usage: float

    @classmethod
    def of(cls, engine: Engine) -> "BusyGauges":
        """The gauges as they are now."""
        return cls(engine.running, engine.waiting, engine.kv_usage)


def gateway_text(routes: Iterable[RouteGauges]) -> str:
    """`GET /metrics` of the endpoint pickers before these routes, under the old and the present names.

    No series says a namespace: a real picker serves one InferencePool and has an address of its own, so routes of
    different namespaces belong on different pages.
    """
    text, known = _Text({}), list(routes)
    for names, values in (
        (("inference_pool_average_queue_size", "llm_d_epp_average_queue_size"), [r.average_queue for r in known]),
        (
            ("inference_pool_average_running_requests", "llm_d_epp_average_running_requests"),
            [r.average_running for r in known],
        ),
        (
            ("inference_pool_average_kv_cache_utilization", "llm_d_epp_average_kv_cache_utilization"),
            [r.average_kv_usage for r in known],
        ),
        (("inference_pool_ready_pods", "llm_d_epp_ready_endpoints"), [float(r.ready) for r in known]),
    ):
        for name in names:
            text.family(name, "gauge")
            for route, value in zip(known, values, strict=True):
                text.lines.append(f"{name}{_braces({'name': route.name})} {value!r}")
    name = "llm_d_epp_per_endpoint_queue_size"
    text.family(name, "gauge")
    for route in known:
        for endpoint, waiting in route.endpoints:
            labels = {"model_server_endpoint": endpoint, "name": route.name}
            text.lines.append(f"{name}{_braces(labels)} {float(waiting)!r}")
    for name in ("inference_extension_flow_control_queue_size", "llm_d_epp_flow_control_queue_size"):
        text.family(name, "gauge")
        for route in known:
            text.lines.append(f"{name}{_braces(_flow_labels(route))} {float(route.queued)!r}")
    return text.render()


def _flow_labels(route: RouteGauges) -> dict[str, str]:
    return {
        "fairness_id": "default-flow",
        "inference_pool": route.name,
        "model_name": route.name,
        "priority": "0",
        "target_model_name": route.name,
    }


def _vllm_gauges(text: _Text, engine: Engine) -> None:
    text.one("vllm:num_requests_running", "gauge", engine.running)
    text.one("vllm:num_requests_waiting", "gauge", engine.waiting)
    text.one("vllm:num_requests_waiting_by_reason", "gauge", engine.waiting, reason="capacity")
    text.sample("vllm:num_requests_waiting_by_reason", 0, reason="deferred")
    text.one("vllm:engine_sleep_state", "gauge", 1, sleep_state="awake")
    for state in ("weights_offloaded", "discard_all"):
        text.sample("vllm:engine_sleep_state", 0, sleep_state=state)
    text.one("vllm:kv_cache_usage_perc", "gauge", engine.kv_usage)


def _vllm_counters(text: _Text, engine: Engine, model_name: str) -> None:
    counters = engine.counters
    text.one("vllm:num_preemptions_total", "counter", counters.preemptions)
    text.one("vllm:prompt_tokens_total", "counter", counters.prompt_tokens)
    text.one("vllm:generation_tokens_total", "counter", counters.generation_tokens)
    text.family("vllm:request_success_total", "counter")
    for reason, count in counters.finished.items():
        text.sample("vllm:request_success_total", count, finished_reason=reason)
    # the one family without the label `engine`
    rejections = _Text({"model_name": model_name})
    rejections.one("vllm:admission_rejections_total", "counter", counters.rejected, reason="max_num_queued_reqs")
    rejections.sample("vllm:admission_rejections_total", 0, reason="max_num_queued_tokens")
    text.lines += rejections.lines


def _cache_config(engine: Engine) -> list[str]:
    profile = engine.profile
    block = str(profile.kv_block_tokens)
    labels = {
        **_CACHE_CONFIG,
        "block_size": block,
        "effective_attention_block_size": block,
        "num_gpu_blocks": str(profile.kv_tokens // profile.kv_block_tokens),
        "kv_cache_size_tokens": str(profile.kv_tokens),
        "kv_cache_max_concurrency": f"{profile.kv_tokens / profile.max_model_tokens:.2f}",
    }
    return ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{_braces(labels)} 1.0"]


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = ((name, _escaped(value)) for name, value in sorted(labels.items()))
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
