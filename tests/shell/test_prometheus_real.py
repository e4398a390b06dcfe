"""The PromQL against a real Prometheus: what is absent, stale, zero, doubled, renamed and restarted stays apart."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import pytest

from ebbtide.clock import unix_time_s
from ebbtide.model.snapshot import EngineReadings, Quality
from ebbtide.observe.metrics import EngineMetrics, MetricsView
from ebbtide.observe.prometheus import Prometheus
from ebbtide.observe.settings import PrometheusSettings
from ebbtide.sandbox.signals import SignalLog
from tests.shell.observing import Exposition
from tests.shell.prometheus_server import running

pytestmark = pytest.mark.cluster

WINDOW_S = 5
_BOUNDS = ("0.1", "0.5", "1.0", "2.5", "+Inf")


def vllm(labels: str, *, running: float = 0, waiting: float = 0, finished: float = 0, fast: float = 0) -> str:
    """An exposition of one engine: `finished` requests, `fast` of them with a first token within half a second."""
    lines = [
        f"vllm:num_requests_running{{{labels}}} {running}",
        f"vllm:num_requests_waiting{{{labels}}} {waiting}",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.25",
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} {finished * 0.75}',
        f'vllm:request_success_total{{{labels},finished_reason="length"}} {finished * 0.25}',
        f"vllm:prompt_tokens_total{{{labels}}} {finished * 100}",
        f"vllm:generation_tokens_total{{{labels}}} {finished * 10}",
        f'vllm:cache_config_info{{{labels},num_gpu_blocks="1000",block_size="16"}} 1',
        f"vllm:time_to_first_token_seconds_sum{{{labels}}} {finished * 0.4}",
        f"vllm:time_to_first_token_seconds_count{{{labels}}} {finished}",
    ]
    lines += latency("request_time_per_output_token_seconds", labels, finished, 0.04)
    lines += latency("inter_token_latency_seconds", labels, finished * 10, 0.03)
    counts = dict.fromkeys(_BOUNDS, finished) | {"0.1": 0.0, "0.5": fast}
    lines += [f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{le}"}} {counts[le]}' for le in _BOUNDS]
    return "\n".join(lines) + "\n"


def latency(name: str, labels: str, count: float, mean_s: float) -> list[str]:
    """A histogram whose observations all fall between 25 and 50 ms."""
    held = {"0.025": 0.0, "0.05": count, "+Inf": count}
    return [
        *(f'vllm:{name}_bucket{{{labels},le="{le}"}} {value}' for le, value in held.items()),
        f"vllm:{name}_count{{{labels}}} {count}",
        f"vllm:{name}_sum{{{labels}}} {count * mean_s}",
    ]


class Fleet:
    """What each pod says, as a function of the seconds since the start. Restarts at 12 s for `restarts`."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.gone: set[str] = set()

    def answer(self, path: str) -> tuple[int, str]:
        pod = path.strip("/").partition("/")[0]
        age_s = time.monotonic() - self.began_s
        if pod in self.gone or pod == "absent":
            return 503, ""
        if pod == "hangs":
            time.sleep(2)  # longer than the scrape's timeout
            return 200, "up 1\n"
        return 200, PAGES[pod](age_s) + "\n"


OWN = 'model_name="m",engine="0"'
SECOND = 'model_name="m",engine="1"'


def stale(age_s: float) -> str:
    stamp_ms = int((unix_time_s() - 90 - age_s) * 1000)
    return f"vllm:num_requests_running{{{OWN}}} 7 {stamp_ms}"


def tensor(_age_s: float) -> str:
    ranks = [(tp, dp) for tp in "01" for dp in "01"]
    return "\n".join(f'sglang:num_running_reqs{{tp_rank="{tp}",dp_rank="{dp}"}} 4' for tp, dp in ranks)


def triton(_age_s: float) -> str:
    kinds = {"waiting": 3, "scheduled": 5, "max": 64, "context": 1}
    return "\n".join(f'nv_trt_llm_request_metrics{{request_type="{kind}"}} {n}' for kind, n in kinds.items())


def old(age_s: float) -> str:
    gaps = latency("time_per_output_token_seconds", OWN, 8 * age_s, 0.03)
    gauges = (f"vllm:num_requests_running{{{OWN}}} 1", f"vllm:gpu_cache_usage_perc{{{OWN}}} 0.5")
    return "\n".join((*gauges, *gaps))


PAGES: dict[str, Callable[[float], str]] = {
    # 4 a second, three of four within half a second
    "busy": lambda age_s: vllm(OWN, running=6, waiting=2, finished=4 * age_s, fast=3 * age_s),
    "leaves": lambda age_s: vllm(OWN, running=6, waiting=2, finished=4 * age_s),
    "falters": lambda age_s: vllm(OWN, running=1, finished=age_s),
    "idle": lambda _: vllm(OWN),
    "stale": stale,  # a cache in between repeats a page of a minute and a half ago
    "ranks": lambda age_s: vllm(OWN, running=1, finished=age_s) + vllm(SECOND, running=2, finished=age_s),
    "filling": lambda age_s: vllm(OWN, running=8, waiting=5 * age_s),  # nothing finishes, 5 more a second wait
    "restarts": lambda age_s: vllm(OWN, running=1, finished=4 * (age_s % 6.0)),
    "old": old,
    "tensor": tensor,  # every tensor-parallel rank says the same
    "triton": triton,
    "proxy": lambda _: vllm('exported_pod="behind",exported_namespace="ns"', running=9),  # speaks for another pod
}

PODS = (
    "busy",
    "leaves",
    "falters",
    "hangs",
    "idle",
    "stale",
    "ranks",
    "filling",
    "restarts",
    "old",
    "tensor",
    "triton",
    "absent",
)
LIVE = frozenset(f"ns/{pod}" for pod in (*PODS, "behind", "proxy", "unscraped")) - {"ns/leaves"}


def config(address: str) -> str:
    """Every pod once; `busy` twice more, as the second of a pair and by a second job see it."""
    jobs = [
        {
            "job_name": job,
            "static_configs": [
                {"targets": [address], "labels": {"namespace": "ns", "pod": pod, "__metrics_path__": f"/{pod}", **more}}
                for pod, more in pods
            ],
        }
        for job, pods in {
            "pods": [*((pod, {"prometheus_replica": "a"}) for pod in PODS), ("proxy", {})],
            "pair": [("busy", {"prometheus_replica": "b"}), ("ranks", {"prometheus_replica": "b"})],
            "monitor": [("busy", {})],
        }.items()
    ]
    times = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    return json.dumps({"global": times, "scrape_configs": jobs})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, unused_tcp_port_factory: "type[int]") -> Iterator[str]:
    """A Prometheus that has scraped for twelve seconds."""
    folder = tmp_path_factory.mktemp("prometheus")
    fleet = Fleet()
    with (
        Exposition(fleet.answer).running() as pages,
        running(folder, config(pages.address), unused_tcp_port_factory()) as url,
    ):
        time.sleep(WINDOW_S + 4)
        fleet.gone |= {"leaves", "falters"}
        time.sleep(2)
        yield url


@pytest.fixture(scope="module")
def round_(url: str) -> MetricsView:
    """One round of all queries."""
    return asyncio.run(_one_round(url))


async def _one_round(url: str) -> MetricsView:
    settings = PrometheusSettings(url=url, rate_window_s=WINDOW_S)
    async with Prometheus(settings) as prometheus:
        metrics = EngineMetrics(prometheus, settings)
        now_s = unix_time_s()
        await metrics.collect(LIVE, now_s)
        assert [source.message for source in metrics.sources(now_s)] == ["", ""]
        return metrics.snapshot()


def seen(round_: MetricsView, pod: str) -> EngineReadings:
    readings = round_.engine(f"ns/{pod}", unix_time_s())
    assert readings is not None, f"no series for {pod}"
    return readings


def test_a_pair_and_a_second_job_do_not_multiply(round_: MetricsView) -> None:
    busy = seen(round_, "busy")
    assert (busy.engine, busy.running.fresh, busy.waiting.fresh) == ("vLLM", 6.0, 2.0)
    assert busy.finished.fresh == pytest.approx(4.0, rel=0.2)
    assert busy.arrivals.fresh == pytest.approx(4.0, rel=0.2)
    assert busy.prompt_tokens.fresh == pytest.approx(400, rel=0.2)
    assert busy.kv_tokens == 16000.0


def test_the_latency_histogram_keeps_its_shape(round_: MetricsView) -> None:
    ttft = seen(round_, "busy").ttft
    assert ttft is not None
    assert ttft.mean_s == pytest.approx(0.4, rel=0.05)
    bounds = [bound for bound, _ in ttft.buckets]
    assert bounds == [0.5, 1.0, float("inf")], "nothing below, and no repetition of the total above"
    shares = [rate / ttft.per_second for _, rate in ttft.buckets]
    assert shares == pytest.approx([0.75, 1.0, 1.0], rel=0.05)


async def test_a_log_of_signals_names_the_metric_behind_each_value(url: str) -> None:
    log = SignalLog(url, WINDOW_S)
    await log.look("ns", ["busy", "idle", "absent"])
    rows = {row["signal"]: row for row in log.rows()}
    running = rows["running"]
    assert (running["metric"], running["values"], running["quality"]) == ("vllm:num_requests_running", 2, "Fresh")
    assert (running["least"], running["most"], running["newest"]) == (0.0, 6.0, 0.0)
    assert rows["ttft"]["metric"] == "vllm:time_to_first_token_seconds"
    assert rows["ttft"]["newest"] == pytest.approx(0.4, rel=0.05), "a mean of nothing is no value"
    assert (rows["kv_tokens"]["metric"], rows["kv_tokens"]["newest"]) == ("vllm:cache_config_info", 16000.0)
    assert (rows["rejected"]["metric"], rows["rejected"]["values"]) == (None, 0)
    assert rows["rejected"]["quality"] == "NotApplicable"


def test_zero_is_a_fresh_zero(round_: MetricsView) -> None:
    idle = seen(round_, "idle")
    assert (idle.running.fresh, idle.finished.fresh, idle.arrivals.fresh) == (0.0, 0.0, 0.0)
    assert idle.ttft is not None
    assert (idle.ttft.per_second, idle.ttft.mean_s, idle.ttft.buckets) == (0.0, None, ())


def test_old_samples_are_stale_though_the_server_returns_them(round_: MetricsView) -> None:
    stale = seen(round_, "stale")
    assert (stale.running.quality, stale.running.value) == (Quality.STALE, 7.0)
    assert stale.running.age_s is not None and stale.running.age_s > 85
    assert stale.finished.quality is Quality.UNKNOWN


@pytest.mark.parametrize("pod", ["absent", "unscraped"])
def test_a_pod_without_series_has_no_engine(round_: MetricsView, pod: str) -> None:
    assert round_.engine(f"ns/{pod}", unix_time_s()) is None


def test_series_of_a_pod_that_does_not_live_are_dropped(round_: MetricsView) -> None:
    assert round_.engine("ns/leaves", unix_time_s()) is None


@pytest.mark.parametrize(
    ("pod", "unanswered"),
    [
        ("busy", False),
        ("hangs", True),
        ("absent", True),
        ("unscraped", False),  # nobody asks it: that is no silence of its own
        ("falters", False),  # it answered within the window
        ("behind", False),
    ],
)
def test_who_is_asked_and_never_answers(round_: MetricsView, pod: str, unanswered: bool) -> None:
    now_s = unix_time_s()
    assert round_.unanswered(f"ns/{pod}", now_s) is unanswered
    assert not round_.unanswered(f"ns/{pod}", now_s + 3600.0), "an old round proves nothing"


def test_data_parallel_engines_add_up_and_their_pair_does_not(round_: MetricsView) -> None:
    ranks = seen(round_, "ranks")
    assert ranks.running.fresh == 3.0
    assert ranks.finished.fresh == pytest.approx(2.0, rel=0.2)
    assert ranks.kv_usage.fresh == 0.25, "a share does not add up"
    assert ranks.kv_tokens == 32000.0


def test_tensor_parallel_ranks_say_the_same_and_data_parallel_ones_add_up(round_: MetricsView) -> None:
    tensor = seen(round_, "tensor")
    assert (tensor.engine, tensor.running.fresh) == ("SGLang", 8.0)


def test_requests_that_only_pile_up_are_arrivals(round_: MetricsView) -> None:
    filling = seen(round_, "filling")
    assert filling.finished.fresh == 0.0
    assert filling.arrivals.fresh == pytest.approx(5.0, rel=0.2)


def test_a_restart_of_the_counters_is_no_negative_rate(round_: MetricsView) -> None:
    assert seen(round_, "restarts").finished.fresh == pytest.approx(4.0, rel=0.35)


def test_an_old_version_s_names_are_read(round_: MetricsView) -> None:
    old = seen(round_, "old")
    assert old.kv_usage.fresh == 0.5
    assert old.tpot is None
    assert old.itl is not None
    assert old.itl.mean_s == pytest.approx(0.03, rel=0.05)
    assert [bound for bound, _ in old.itl.buckets] == [0.05, float("inf")]


def test_gaps_have_buckets_only_where_requests_have_none(round_: MetricsView) -> None:
    busy = seen(round_, "busy")
    assert busy.itl is not None and busy.tpot is not None
    assert (busy.itl.mean_s, busy.tpot.mean_s) == (pytest.approx(0.03, rel=0.05), pytest.approx(0.04, rel=0.05))
    assert busy.itl.buckets == ()
    assert [bound for bound, _ in busy.tpot.buckets] == [0.05, float("inf")]


def test_triton_is_read_by_label(round_: MetricsView) -> None:
    triton = seen(round_, "triton")
    assert (triton.engine, triton.running.fresh, triton.waiting.fresh, triton.max_running) == ("Triton", 5.0, 3.0, 64.0)
    assert triton.prompt_tokens.quality is Quality.NOT_APPLICABLE


def test_an_exported_name_wins_when_it_names_a_live_pod(round_: MetricsView) -> None:
    assert seen(round_, "behind").running.fresh == 9.0
    assert round_.engine("ns/proxy", unix_time_s()) is None
