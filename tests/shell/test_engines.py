"""The engine adapters: the names they ask for exist in recorded scrapes, and rows become the right readings."""

import math
import re
from array import array

import pytest

from ebbtide.model.snapshot import NOT_APPLICABLE, EngineReadings, Latency, Quality
from ebbtide.observe.engines import ENGINES
from ebbtide.observe.engines.signals import Counter, Histogram, Signal
from ebbtide.observe.engines.vllm import VLLM
from ebbtide.observe.prometheus import Labels, Point, Sample
from ebbtide.observe.queries import QUERY_COUNT, queries, slots
from ebbtide.observe.readings import Buckets, Collected, Floats, Identities, Limits, Readings, Values
from tests.recorded import recorded_scrape

LIMITS = Limits(max_age_s=60, forget_s=300, window_s=60)
VLLM_N, TRT_N, SGLANG_N, TRITON_N = 0, 1, 2, 3


def recorded(name: str) -> dict[str, set[str]]:
    """Metric name -> label names, of one recorded scrape."""
    found: dict[str, set[str]] = {}
    for line in recorded_scrape(name).splitlines():
        match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line)
        if match and not line.startswith("#"):
            found.setdefault(match.group(1), set()).update(re.findall(r'(\w+)="', match.group(2) or ""))
    return found


@pytest.mark.parametrize("scrape", ["vllm-0.32-idle.txt", "vllm-0.32-underload.txt", "vllm-0.32-kvpressure.txt"])
@pytest.mark.parametrize("signal", list(VLLM.signals))
def test_a_real_vllm_publishes_the_best_candidate_of_each_signal(scrape: str, signal: Signal) -> None:
    found = recorded(scrape)
    best = VLLM.signals[signal][0].name
    if isinstance(signal, Histogram):
        assert {f"{best}_bucket", f"{best}_sum", f"{best}_count"} <= found.keys()
        assert "le" in found[f"{best}_bucket"]
    else:
        assert best in found


def test_a_real_vllm_tells_the_size_of_its_cache_by_the_labels_we_read() -> None:
    assert {"engine", "num_gpu_blocks", "block_size"} <= recorded("vllm-0.32-idle.txt")["vllm:cache_config_info"]


def test_the_silent_are_asked_for_in_every_cluster_the_matchers_name() -> None:
    changes = next(query.text for query in queries(120, 'cluster="prod"') if query.name == "changes")
    assert 'max_over_time(up{cluster="prod"}[120s])) == 0' in changes
    assert 'up{cluster="prod"} offset 120s' in changes


def test_no_two_engines_share_a_metric() -> None:
    owners: dict[tuple[str, object], str] = {}
    for slot in slots():
        name = ENGINES[slot.engine].name
        assert owners.setdefault((slot.metric.name, slot.metric.labels), name) == name


def test_the_number_of_queries_does_not_depend_on_anything() -> None:
    assert len(queries(120, 'cluster="prod"', ("a", "b"))) == QUERY_COUNT <= 12
    assert all('cluster="prod"' in query.text for query in queries(60, 'cluster="prod"'))


def columns(values: dict[str, float] | None) -> dict[str, Floats]:
    """Values of the second of two pods."""
    return {slot: array("d", [float("nan"), value]) for slot, value in (values or {}).items()}


def reading(
    *,
    gauges: dict[str, float] | None = None,
    counters: dict[str, float] | None = None,
    changes: dict[str, float] | None = None,
    age_s: float | None = 1.0,
    asked_after_s: float = 0.0,
    buckets: dict[Histogram, dict[str, Floats]] | None = None,
) -> EngineReadings | None:
    """What `Readings` makes of these rows of one pod."""
    found = Collected(
        at_s=1000.0,
        numbers={"ns/other": 0, "ns/p": 1},
        gauges=columns(gauges),
        counters=columns(counters),
        changes=columns(changes),
        ages={} if age_s is None else columns({"running.0.0": age_s}),
        buckets={kind: {slot: [None, row] for slot, row in rows.items()} for kind, rows in (buckets or {}).items()},
    )
    readings = Readings(found, LIMITS)
    assert readings.of("ns/other", 1000.0) is None, "rows of one pod say nothing of another"
    return readings.of("ns/p", 1000.0 + asked_after_s)


def sure(readings: EngineReadings | None) -> EngineReadings:
    assert readings is not None
    return readings


def test_zero_stale_unknown_and_not_applicable_are_four_things() -> None:
    zero = sure(reading(gauges={"running.0.0": 0.0}))
    assert (zero.running.quality, zero.running.value, zero.running.fresh) == (Quality.FRESH, 0.0, 0.0)

    stale = sure(reading(gauges={"running.0.0": 3.0}, age_s=61.0))
    assert (stale.running.quality, stale.running.value, stale.running.fresh) == (Quality.STALE, 3.0, None)

    forgotten = sure(reading(gauges={"running.0.0": 3.0}, age_s=301.0))
    assert (forgotten.running.quality, forgotten.running.value) == (Quality.UNKNOWN, None)

    absent = sure(reading(gauges={"running.0.0": 3.0}))
    assert absent.waiting.quality is Quality.UNKNOWN

    triton = sure(reading(gauges={f"running.{TRITON_N}.0": 3.0}))
    assert triton.prompt_tokens is NOT_APPLICABLE, "Triton counts no tokens"
    assert reading() is None, "no series at all: no engine"


def test_a_round_that_did_not_come_lets_the_last_values_age() -> None:
    assert sure(reading(gauges={"running.0.0": 3.0}, asked_after_s=50.0)).running.age_s == 51.0
    assert sure(reading(gauges={"running.0.0": 3.0}, asked_after_s=70.0)).running.quality is Quality.STALE
    assert sure(reading(gauges={"running.0.0": 3.0}, asked_after_s=400.0)).running.quality is Quality.UNKNOWN


def test_a_value_of_unknown_age_proves_nothing() -> None:
    assert sure(reading(gauges={"running.0.0": 0.0}, age_s=None)).running.quality is Quality.UNKNOWN


def test_the_new_name_wins_over_the_old_one() -> None:
    both = sure(reading(gauges={"running.0.0": 1.0, "kv_usage.0.0": 0.2, "kv_usage.0.1": 0.9}))
    assert both.kv_usage.value == 0.2
    assert sure(reading(gauges={"running.0.0": 1.0, "kv_usage.0.1": 0.9})).kv_usage.value == 0.9


def test_a_metric_of_newer_versions_only_is_not_missed_in_older_ones() -> None:
    assert sure(reading(gauges={"running.0.0": 1.0})).rejected is NOT_APPLICABLE


@pytest.mark.parametrize(
    ("finished", "running", "waiting", "arrivals"),
    [
        pytest.param(2.0, 0.0, 0.0, 2.0, id="steady: what comes is what goes"),
        pytest.param(2.0, 6.0, 24.0, 2.5, id="30 piled up in 60 s"),
        pytest.param(2.0, -6.0, -24.0, 1.5, id="a backlog of 30 is worked off"),
        pytest.param(0.0, -16.0, 0.0, 0.0, id="a restart dropped what ran: not less than none"),
    ],
)
def test_arrivals_are_finished_plus_growth(finished: float, running: float, waiting: float, arrivals: float) -> None:
    seen = reading(
        gauges={"running.0.0": 1.0},
        counters={"finished.0.0": finished},
        changes={"running.0.0": running, "waiting.0.0": waiting},
    )
    assert sure(seen).arrivals.fresh == pytest.approx(arrivals)


def test_arrivals_need_all_their_parts() -> None:
    seen = reading(gauges={"running.0.0": 1.0}, counters={"finished.0.0": 2.0}, changes={"running.0.0": 0.0})
    assert sure(seen).arrivals.quality is Quality.UNKNOWN


IDLE = {f"{counter}.{TRT_N}.0": 0.0 for counter in (Counter.FINISHED, Counter.PROMPT_TOKENS, Counter.GENERATION_TOKENS)}
SHOWN = {f"running.{TRT_N}.0": 3.0, f"waiting.{TRT_N}.0": 1.0}
STILL = {f"running.{TRT_N}.0": 0.0, f"waiting.{TRT_N}.0": 0.0, f"kv_usage.{TRT_N}.0": 0.0}


@pytest.mark.parametrize(
    ("counters", "changes", "quality", "running"),
    [
        pytest.param(IDLE, STILL, Quality.FRESH, 0.0, id="nothing moved: the last busy moment is not now"),
        pytest.param(
            IDLE, STILL | {f"kv_usage.{TRT_N}.0": 0.01}, Quality.FRESH, 3.0, id="the cache grows: long requests run"
        ),
        pytest.param(
            IDLE | {f"generation_tokens.{TRT_N}.0": 90.0}, STILL, Quality.FRESH, 3.0, id="tokens come: they run"
        ),
        pytest.param(
            IDLE,
            {slot: change for slot, change in STILL.items() if "kv" not in slot},
            Quality.STALE,
            3.0,
            id="without the cache gauge it cannot be told",
        ),
    ],
)
def test_gauges_of_an_idle_trtllm_are_checked_against_its_work(
    counters: dict[str, float], changes: dict[str, float], quality: Quality, running: float
) -> None:
    seen = sure(reading(gauges=SHOWN, counters=counters, changes=changes))
    assert (seen.running.quality, seen.running.value) == (quality, running)
    assert seen.engine == "TensorRTLLM"


def test_a_frozen_gauge_is_a_matter_of_trtllm_only() -> None:
    vllm = {slot.replace(".1.", ".0."): value for slot, value in SHOWN.items()}
    idle = {slot.replace(".1.", ".0."): value for slot, value in IDLE.items()}
    still = {slot.replace(".1.", ".0."): value for slot, value in STILL.items()}
    assert sure(reading(gauges=vllm, counters=idle, changes=still)).running.fresh == 3.0


def test_triton_milliseconds_become_seconds() -> None:
    slot = f"ttft.{TRITON_N}.0"
    seen = reading(
        gauges={f"running.{TRITON_N}.0": 1.0},
        counters={f"ttft_sum.{TRITON_N}.0": 900.0, f"ttft_count.{TRITON_N}.0": 2.0},
        buckets={Histogram.TTFT: {slot: array("d", [float("inf"), 2.0, 500.0, 1.5, 2000.0, 2.0, 5000.0, 2.0])}},
    )
    assert sure(seen).ttft == Latency(
        per_second=2.0, mean_s=pytest.approx(0.45), buckets=((0.5, 1.5), (2.0, 2.0), (float("inf"), 2.0))
    )


def test_a_latency_that_nobody_measured_now_is_a_rate_of_zero() -> None:
    idle = reading(gauges={"running.0.0": 0.0}, counters={"ttft_sum.0.0": 0.0, "ttft_count.0.0": 0.0})
    assert sure(idle).ttft == Latency(per_second=0.0, mean_s=None)
    assert sure(reading(gauges={"running.0.0": 0.0})).ttft is None, "not published"


def test_the_sum_of_an_old_name_is_not_divided_by_the_count_of_a_new_one() -> None:
    seen = reading(gauges={"running.0.0": 1.0}, counters={"itl_count.0.0": 5.0, "itl_sum.0.1": 9.0})
    assert sure(seen).itl == Latency(per_second=5.0, mean_s=None)


def test_sizes_of_the_cache_come_from_gauges_or_blocks() -> None:
    blocks = reading(gauges={f"running.{TRT_N}.0": 0.0, "kv_blocks.1.0": 1000.0, "kv_block_tokens.1.0": 32.0})
    assert sure(blocks).kv_tokens == 32000.0
    assert sure(reading(gauges={f"running.{SGLANG_N}.0": 0.0, "kv_tokens.2.0": 400.0})).kv_tokens == 400.0


@pytest.mark.parametrize(
    ("labels", "pod"),
    [
        pytest.param(Labels(namespace="a", pod="p"), "a/p", id="scraped at the pod"),
        pytest.param(
            Labels(namespace="mon", pod="proxy", exported_namespace="a", exported_pod="p"), "a/p", id="exported wins"
        ),
        pytest.param(
            Labels(namespace="a", pod="p", exported_namespace="a", exported_pod="gone"), "a/p", id="exported is gone"
        ),
        pytest.param(Labels(namespace="a", pod="proxy", exported_pod="p"), "a/p", id="exported pod, own namespace"),
        pytest.param(Labels(namespace="a", pod="gone"), "", id="a pod that does not live any more"),
        pytest.param(Labels(), "", id="no labels"),
    ],
)
def test_a_row_belongs_to_a_live_pod_or_to_none(labels: Labels, pod: str) -> None:
    live = ["x/first", "a/p", *(["mon/proxy"] if "mon" in labels.namespace else [])]
    found = Identities(live).find(labels)
    assert (live[found] if found >= 0 else "") == pod


def test_nan_and_infinity_are_no_values() -> None:
    values = Values(Identities(["a/p"]))
    who = {"namespace": "a", "pod": "p"}
    values.take([Sample(Labels(**who, slot=text), Point(1.0, text)) for text in ("NaN", "+Inf", "-Inf", "3")])
    assert values.columns == {"3": array("d", [3.0])}


def test_a_bucket_that_is_no_number_leaves_the_others_usable() -> None:
    """One exporter that prints NaN must not end the reading of a histogram, and so of the whole cycle."""
    buckets = Buckets(Identities(["a/p"]))
    rows = [("0.5", "3"), ("1.0", "NaN"), ("+Inf", "NaN")]
    buckets.take([Sample(Labels(namespace="a", pod="p", slot="s", le=le), Point(1.0, text)) for le, text in rows])
    assert buckets.columns == {"s": [array("d", [0.5, 3.0])]}


def test_a_bucket_without_a_bound_leaves_the_others_usable() -> None:
    buckets = Buckets(Identities(["a/p"]))
    rows = [("", "1"), ("x", "2"), ("NaN", "2"), ("x", "2"), ("0.5", "3"), ("+Inf", "4")]
    buckets.take([Sample(Labels(namespace="a", pod="p", slot="s", le=le), Point(1.0, text)) for le, text in rows])
    assert buckets.columns == {"s": [array("d", [0.5, 3.0, math.inf, 4.0])]}
