"""What policies see: the scrapes' pace and delay, quantiles as Prometheus finds them, nothing of the future."""

import math
from dataclasses import dataclass

import pytest

from ebbtide.bench.arrivals import Arrivals
from ebbtide.bench.case import EPOCH_S
from ebbtide.bench.policy import Minute
from ebbtide.bench.shown import Metrics, billions_in, latency_of, quantile
from ebbtide.model.snapshot import Latency, PodPhase, Quality
from ebbtide.sim.histogram import TOKEN_LATENCY_BOUNDS_S, TTFT_BOUNDS_S, Histogram
from ebbtide.sim.requests import Request
from ebbtide.sim.scrape import Sample, counts_of
from tests.bench.cases import a_case


@dataclass
class Steady:
    """A replica that ends 2 requests a second, 100 + 50 tokens each, half of them with 0.4 s to the first token."""

    name: str = "replica-1"
    created_s: float = -60.0
    ready_s: float | None = 0.0
    draining: bool = False
    running: int = 8

    def sample(self, now_s: float) -> Sample:
        ttft, tpot = Histogram(TTFT_BOUNDS_S), Histogram(TOKEN_LATENCY_BOUNDS_S)
        ended = int(2 * now_s)
        ttft.observe(0.4, ended // 2)
        ttft.observe(0.09, ended - ended // 2)
        tpot.observe(0.03, ended)
        return Sample(
            at=now_s,
            running=self.running,
            waiting=1,
            kv_usage=0.25,
            finished=ended,
            prompt_tokens=100 * ended,
            generation_tokens=50 * ended,
            preempted=0,
            ttft=counts_of(ttft),
            itl=counts_of(tpot),
            tpot=counts_of(tpot),
            queued_prompt_tokens=100,
        )


def watched(until_s: float, replicas=None, **changes) -> tuple[Metrics, list[Steady]]:
    metrics, replicas = Metrics(a_case(**changes), 3600.0), [Steady()] if replicas is None else replicas
    for scrape in range(int(until_s // 15) + 1):
        metrics.scrape(replicas, 15.0 * scrape)
    return metrics, replicas


def test_a_rival_reads_sums_and_means_of_the_last_minute() -> None:
    metrics, replicas = watched(120.0, [Steady(), Steady("replica-2"), Steady("replica-3", ready_s=None)])
    seen = metrics.observation(replicas, 3, (), 122.0)
    assert (seen.declared, seen.ready, seen.starting) == (3, 2, 1)
    assert (seen.arrivals_per_s, seen.finished_per_s) == (pytest.approx(4.0), pytest.approx(4.0))
    assert (seen.input_tokens, seen.output_tokens) == (pytest.approx(100.0), pytest.approx(50.0))
    assert seen.ttft is not None and seen.ttft.mean_s == pytest.approx(0.245)
    assert seen.ttft.p90_s == pytest.approx(0.25 + 0.25 * 0.8), "as in the bucket from 0.25 s to 0.5 s"
    assert [view.name for view in seen.replicas] == ["replica-1", "replica-2"]
    view = seen.replicas[0]
    assert (view.running, view.waiting, view.queued_prompt_tokens) == (8, 1, 100)
    assert view.kv_tokens == 0.25 * view.kv_capacity_tokens == 0.25 * 448_000


def test_before_the_first_scrape_nothing_is_known() -> None:
    seen = Metrics(a_case(), 3600.0).observation([Steady()], 1, (), 5.0)
    assert (seen.replicas, seen.ttft, seen.itl, seen.input_tokens, seen.output_tokens) == ((), None, None, None, None)


def test_gauges_are_those_of_the_last_scrape() -> None:
    metrics, (replica,) = watched(60.0)
    replica.running = 99
    assert metrics.observation([replica], 1, (), 74.0).replicas[0].running == 8


def test_metrics_that_come_late_show_the_past_and_are_stale_once_they_are_later_than_that() -> None:
    metrics, replicas = watched(120.0, metric_delay_s=60.0)
    (pod,) = metrics.snapshot(replicas, 1, None, 125.0).services[0].variants[0].pods
    assert pod.engine is not None
    assert (pod.engine.running.quality, pod.engine.running.age_s) == (Quality.FRESH, 65.0)
    (pod,) = metrics.snapshot(replicas, 1, None, 220.0).services[0].variants[0].pods
    assert pod.engine is not None
    assert (pod.engine.running.quality, pod.engine.running.age_s) == (Quality.STALE, 100.0)
    assert pod.engine.ttft is None, "old buckets teach nothing"


def test_ebbtide_sees_the_same_metrics_as_a_snapshot() -> None:
    fleet = [Steady(), Steady("replica-2", 100.0, None), Steady("replica-3", draining=True)]
    metrics, _ = watched(120.0, fleet)
    shown = metrics.snapshot(fleet, 2, (100.0, 2), 121.0)
    (variant,) = shown.services[0].variants
    assert [pod.phase for pod in variant.pods] == [PodPhase.READY, PodPhase.STARTING, PodPhase.TERMINATING]
    assert variant.pods[1].created_at == EPOCH_S + 100.0 and variant.pods[1].engine is None
    assert variant.last_write is not None and variant.last_write.at == EPOCH_S + 100.0
    assert (variant.target.spec_replicas, variant.target.status_replicas) == (2, 3)
    engine = variant.pods[0].engine
    assert engine is not None and engine.arrivals.value == pytest.approx(2.0)
    assert (engine.kv_tokens, engine.max_running) == (448_000, None)
    (pool,) = shown.pools
    assert (pool.spec.accelerator, pool.price_per_gpu_hour) == ("A100_SXM", a_case().gpu_hour_price)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param(0.45, 0.025, id="linear inside the first bucket"),
        pytest.param(0.9, 0.05, id="at a bound"),
        pytest.param(0.945, 0.075, id="linear inside a bucket"),
        pytest.param(0.995, 0.1, id="beyond the last finite bound: that bound"),
    ],
)
def test_quantiles_are_those_of_histogram_quantile(share: float, expected: float) -> None:
    assert quantile([(0.05, 90.0), (0.1, 99.0), (math.inf, 100.0)], share) == pytest.approx(expected)


def test_the_fleets_latency_weighs_replicas_by_what_they_observed() -> None:
    buckets = ((0.1, 9.0), (math.inf, 9.0))
    found = latency_of([Latency(9.0, 0.05, buckets), None, Latency(1.0, 0.25, ((0.1, 0.0), (math.inf, 1.0)))])
    assert found is not None and found.mean_s == pytest.approx(0.07)
    assert found.p95_s == 0.1
    assert latency_of([None, Latency(0.0, None, buckets)]) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", 70.0),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", 70.0),
        ("mistralai/Mixtral-8x7B-v0.1", 56.0),
        ("Qwen/Qwen3-0.6B", 0.6),
        ("Qwen/Qwen3-235B-A22B", 235.0),
        ("deepseek-ai/DeepSeek-R1", None),
    ],
)
def test_a_models_name_says_its_size(name: str, billions: float | None) -> None:
    assert billions_in(name) == billions


def test_history_is_of_whole_minutes_that_ended_after_training() -> None:
    requests = [Request(0, 1.0, 10, 5), Request(1, 59.9, 20, 6), Request(2, 60.0, 40, 7), Request(3, 200.0, 80, 8)]
    arrivals = Arrivals(requests, [Minute(-60.0, 9, 900, 90)])
    assert arrivals.history(59.9) == [(-60.0, 9, 900, 90)]
    assert arrivals.history(125.0)[1:] == [(0.0, 2, 30, 11), (60.0, 1, 40, 7)]
    assert arrivals.history(180.0)[3:] == [(120.0, 0, 0, 0)]
    assert arrivals.until(60.0) == (3, 70)
