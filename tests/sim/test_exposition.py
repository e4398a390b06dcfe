"""Scrapes of emulated engines say nothing that the real ones would not say, in the same words."""

import re

import pytest

from ebbtide.observe.engines import ENGINES
from ebbtide.sim.engine import Engine, Request
from ebbtide.sim.exposition import BusyGauges, RouteGauges, gateway_text, trtllm_text, vllm_text
from ebbtide.sim.histogram import TOKEN_LATENCY_BOUNDS_S, TTFT_BOUNDS_S
from ebbtide.sim.profiles import profile
from tests.recorded import recorded_scrape

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

# what an operator reads: all of it must be there
VLLM_FAMILIES = {
    "process_start_time_seconds": "gauge",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:request_success_total": "counter",
    "vllm:admission_rejections_total": "counter",
    "vllm:prompt_tokens_total": "counter",
    "vllm:generation_tokens_total": "counter",
    "vllm:num_preemptions_total": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
}


class Scrape:
    """Types by family; samples by name as (labels, value)."""

    def __init__(self, text: str) -> None:
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, labels, value = _SAMPLE.match(line).groups()  # type: ignore[union-attr]
                self.samples.setdefault(name, []).append((dict(_LABEL.findall(labels or "")), float(value)))

    def label_names(self, name: str) -> set[frozenset[str]]:
        return {frozenset(labels) for labels, _ in self.samples[name]}

    def values(self, name: str, label: str) -> list[str]:
        return [labels[label] for labels, _ in self.samples[name] if label in labels]

    def value(self, name: str, /, **labels: str) -> float:
        (found,) = [value for has, value in self.samples[name] if labels.items() <= has.items()]
        return found


def busy_engine(kind: str = "vllm") -> Engine:
    engine = Engine(profile("8B", "NVIDIA-L40S", kind), 1)
    for number in range(60):
        engine.submit(Request(number, number * 0.1, 500, 100), number * 0.1)
    engine.advance(6.3)
    return engine


@pytest.fixture(params=["vllm-0.32-idle.txt", "vllm-0.32-underload.txt", "vllm-0.32-kvpressure.txt"])
def recorded(request: pytest.FixtureRequest) -> Scrape:
    return Scrape(recorded_scrape(request.param))


def test_all_that_an_operator_reads_of_vllm_is_there() -> None:
    scrape = Scrape(vllm_text(busy_engine(), "chat", 1.7e9))

    assert {name: scrape.types.get(name) for name in VLLM_FAMILIES} == VLLM_FAMILIES


def test_every_series_that_the_operator_reads_is_served_by_the_emulated_engine() -> None:
    engine = busy_engine("trtllm")
    served = {
        "vLLM": Scrape(vllm_text(busy_engine(), "chat", 1.7e9)),
        "TensorRTLLM": Scrape(trtllm_text(engine, "chat", BusyGauges.of(engine))),
    }

    for reader in ENGINES:
        if reader.name in served:
            missing = [
                signal
                for signal, candidates in reader.signals.items()
                if not any(metric.name in served[reader.name].types for metric in candidates)
            ]
            assert missing == []
            assert not reader.info or reader.info in served[reader.name].types
    assert served.keys() <= {reader.name for reader in ENGINES}


def test_no_vllm_series_is_invented(recorded: Scrape) -> None:
    scrape = Scrape(vllm_text(busy_engine(), "chat", 1.7e9))

    assert {name: recorded.types.get(name) for name in scrape.types} == scrape.types
    assert {name: recorded.label_names(name) for name in scrape.samples if name in recorded.samples} == {
        name: scrape.label_names(name) for name in scrape.samples
    }


def test_vllm_label_values_and_buckets_are_the_recorded_ones(recorded: Scrape) -> None:
    scrape = Scrape(vllm_text(busy_engine(), "chat", 1.7e9))

    for name, label in (
        ("vllm:request_success_total", "finished_reason"),
        ("vllm:num_requests_waiting_by_reason", "reason"),
        ("vllm:admission_rejections_total", "reason"),
        ("vllm:engine_sleep_state", "sleep_state"),
    ):
        assert scrape.values(name, label) == recorded.values(name, label)
    for name in scrape.samples:
        if name.endswith("_bucket") and "_tokens_" not in name:
            assert scrape.values(name, "le") == recorded.values(name, "le"), name
    # token bounds end at the model's own context length
    ours = scrape.values("vllm:request_prompt_tokens_bucket", "le")
    theirs = recorded.values("vllm:request_prompt_tokens_bucket", "le")
    assert ours[: len(theirs) - 1] == theirs[:-1]


def test_vllm_numbers_are_the_engines_own() -> None:
    engine = busy_engine()
    scrape = Scrape(vllm_text(engine, "chat", 1.7e9))

    assert scrape.value("vllm:num_requests_running") == engine.running > 0
    assert scrape.value("vllm:kv_cache_usage_perc") == engine.kv_usage > 0
    assert scrape.value("vllm:generation_tokens_total") == engine.counters.generation_tokens
    assert scrape.value("vllm:inter_token_latency_seconds_count") == engine.itl.count
    assert scrape.value("vllm:inter_token_latency_seconds_bucket", le="+Inf") == engine.itl.count
    assert scrape.values("vllm:cache_config_info", "kv_cache_size_tokens") == ["192000"]
    assert {labels["model_name"] for labels, _ in scrape.samples["vllm:num_requests_running"]} == {"chat"}


def test_trtllm_counts_requests_when_they_end_and_tokens_with_them() -> None:
    engine = busy_engine("trtllm")
    scrape = Scrape(trtllm_text(engine, "chat", BusyGauges.of(engine)))
    finished = sum(engine.counters.finished.values())

    assert 0 < finished < 60
    assert sum(value for _, value in scrape.samples["trtllm_request_success_total"]) == finished
    assert scrape.value("trtllm_generation_tokens_total") == 100 * finished
    assert scrape.value("trtllm_prompt_tokens_total") == 500 * finished
    for name, bounds in (("time_to_first_token", TTFT_BOUNDS_S), ("time_per_output_token", TOKEN_LATENCY_BOUNDS_S)):
        assert scrape.types[f"trtllm_{name}_seconds"] == "histogram"
        assert scrape.value(f"trtllm_{name}_seconds_count") == finished
        shown = scrape.values(f"trtllm_{name}_seconds_bucket", "le")
        assert [float(bound) for bound in shown] == [*bounds, float("inf")]
    assert {frozenset({"engine_type", "model_name"})} == scrape.label_names("trtllm_num_requests_running")
    assert scrape.label_names("trtllm_request_success_total") == {
        frozenset({"engine_type", "model_name", "finished_reason"})
    }


def test_an_idle_trtllm_shows_its_last_busy_moment_and_an_untouched_one_nothing() -> None:
    engine = busy_engine("trtllm")
    last_busy = BusyGauges.of(engine)
    engine.advance(1000.0)

    assert trtllm_text(Engine(engine.profile, 2), "chat", None).strip() == ""
    scrape = Scrape(trtllm_text(engine, "chat", last_busy))
    assert engine.running == 0
    assert scrape.value("trtllm_num_requests_running") == last_busy.running > 0


def test_the_gateway_publishes_old_and_present_names_alike() -> None:
    scrape = Scrape(
        gateway_text(
            [
                RouteGauges("team-a", "chat", 3, 2, 0.5, 4.0, 0.25, (("chat-1", 1), ("chat-2", 0))),
                RouteGauges("team-a", "code", 0, 0, 0.0, 0.0, 0.0),
            ]
        )
    )

    for old, present, value in (
        ("inference_pool_average_queue_size", "llm_d_epp_average_queue_size", 0.5),
        ("inference_pool_average_running_requests", "llm_d_epp_average_running_requests", 4.0),
        ("inference_pool_average_kv_cache_utilization", "llm_d_epp_average_kv_cache_utilization", 0.25),
        ("inference_pool_ready_pods", "llm_d_epp_ready_endpoints", 2.0),
    ):
        for name in (old, present):
            assert scrape.types[name] == "gauge"
            assert scrape.value(name, name="chat") == value
            assert scrape.value(name, name="code") == 0.0
    for name in ("inference_extension_flow_control_queue_size", "llm_d_epp_flow_control_queue_size"):
        flow = {"fairness_id": "default-flow", "priority": "0"}
        assert scrape.value(name, inference_pool="chat", model_name="chat", target_model_name="chat", **flow) == 3.0
        assert scrape.value(name, inference_pool="code", model_name="code", target_model_name="code", **flow) == 0.0
    waiting = "llm_d_epp_per_endpoint_queue_size"
    assert scrape.value(waiting, name="chat", model_server_endpoint="chat-1") == 1.0
    assert scrape.value(waiting, name="chat", model_server_endpoint="chat-2") == 0.0


def test_label_values_are_escaped() -> None:
    assert 'name="a\\"b\\\\c"' in gateway_text([RouteGauges("ns", 'a"b\\c', 0, 0, 0.0, 0.0, 0.0)])
