"""What goes wrong in a replay befalls what it should and nothing else."""

from pathlib import Path

import pytest

from ebbtide.bench.case import EPOCH_S, Carries
from ebbtide.bench.driver import Driver
from ebbtide.bench.faults import NONE, Faults, since
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Observation
from ebbtide.bench.run import EBBTIDE
from ebbtide.bench.shown import Metrics
from ebbtide.model.memory import DemandSample, ForecastMemory, Memory, ServiceMemory
from ebbtide.model.snapshot import Quality, Snapshot
from ebbtide.sim.engine import Engine
from ebbtide.sim.profiles import profile
from ebbtide.sim.requests import Request
from ebbtide.sim.scrape import PodScrapes, Sample, sample_of
from tests.bench.cases import Told, a_case, as_rival, random_load
from tests.bench.replaying import folder


class Pod:
    """A replica on an engine that gets 2 requests/s."""

    name, created_s, ready_s, draining = "replica-1", -60.0, 0.0, False

    def __init__(self) -> None:
        self._engine = Engine(profile("8B", "NVIDIA-A100-80GB-PCIe"), seed=1)
        self._sent = 0

    def sample(self, now_s: float) -> Sample:
        while self._sent / 2.0 <= now_s:
            self._engine.submit(Request(self._sent, self._sent / 2.0, 500, 50), self._sent / 2.0)
            self._sent += 1
        self._engine.advance(now_s)
        return sample_of(self._engine, now_s)


def shown(until_s: int, **fields) -> Snapshot:
    """What Ebbtide sees at `until_s` of a pod that is scraped each 15 s."""
    case, pod = a_case(**fields), Pod()
    metrics = Metrics(case, 3600.0)
    for at_s in range(0, until_s + 1, 15):
        if not case.faults.hides(at_s):
            metrics.scrape([pod], at_s)
    return metrics.snapshot([pod], 1, None, until_s)


def engine(snapshot: Snapshot):
    return snapshot.services[0].variants[0].pods[0].engine


def test_engines_that_restart_lose_their_counters_and_rates_are_what_promql_makes_of_it() -> None:
    calm, reset = (engine(shown(240, faults=Faults(reset_s=at))) for at in (None, 200.0))
    assert calm is not None and reset is not None
    assert reset.running == calm.running, "gauges say what they said"
    # a scrape interval of tokens is lost with the old counters, never are there fewer than none
    assert 0.7 * calm.generation_tokens.value < reset.generation_tokens.value < calm.generation_tokens.value
    assert calm.tpot is not None and reset.tpot is not None
    assert 0.5 * calm.tpot.per_second < reset.tpot.per_second <= calm.tpot.per_second
    counts = [count for _, count in reset.tpot.buckets]
    assert counts == sorted(counts)


def test_counters_start_again_at_zero() -> None:
    pod = Pod()
    base, later = pod.sample(100.0), pod.sample(160.0)
    fresh = since(later, base)
    assert since(base, base).generation_tokens == 0.0
    assert fresh.finished == later.finished - base.finished > 0
    assert fresh.running == later.running


def test_a_counter_that_falls_is_counted_on() -> None:
    pod, scrapes, calm = Pod(), PodScrapes(60.0, 1e5, None), PodScrapes(60.0, 1e5, None)
    base = pod.sample(60.0)
    for at_s in (60.0, 75.0, 90.0, 105.0):
        sample = pod.sample(at_s)
        calm.add(sample)
        scrapes.add(sample if at_s < 75.0 else since(sample, base))
    restarted, whole = scrapes.readings(105.0), calm.readings(105.0)
    assert restarted is not None and whole is not None
    assert restarted.generation_tokens.value == pytest.approx(whole.generation_tokens.value)
    assert restarted.ttft == whole.ttft


def test_while_metrics_are_out_what_was_seen_grows_old() -> None:
    out = Faults(metrics_out=(120.0, 600.0))
    assert [out.hides(at_s) for at_s in (119.0, 120.0, 719.0, 720.0)] == [False, True, True, False]
    fresh, old, back = (engine(shown(at_s, faults=out)) for at_s in (150, 240, 780))
    assert fresh.running.quality is Quality.FRESH
    assert old.running.quality is Quality.STALE
    assert back.arrivals.quality is Quality.FRESH


def test_rivals_see_no_metrics_either() -> None:
    policy = Told(lambda seen: None)
    case = a_case(faults=Faults(metrics_out=(100.0, 100.0)))
    OwnSimulator(as_rival(policy)).run(case, random_load(3.0, 300.0), "told", 0.0, 1)

    def gauges(seen: Observation) -> object:
        return seen.replicas

    inside = {str(gauges(seen)) for seen in policy.seen if 105.0 <= seen.now_s <= 200.0}
    assert len(inside) == 1, "the last that was scraped"
    assert len({str(gauges(seen)) for seen in policy.seen}) > 5


@pytest.mark.parametrize("by_s", [3600.0, -600.0])
def test_the_operators_clock_jumps_and_the_cluster_does_not(by_s: float) -> None:
    jumped = Faults(clock_jump=(120.0, by_s))
    before, after = shown(105, faults=jumped), shown(120, faults=jumped)
    assert before.taken_at == EPOCH_S + 105.0
    assert after.taken_at == EPOCH_S + 120.0 + by_s
    assert after.services[0].variants[0].pods[0].ready_at == EPOCH_S


def test_what_is_remembered_of_demand_is_made_up_for_as_long_as_said() -> None:
    kept = ForecastMemory(samples=(DemandSample(1.0, 4.0, 100.0),), levels=(400.0,), days=b"\x05" * 1152)
    memory, fault = Memory(services=(ServiceMemory("a/b", forecast=kept),)), Faults(garbage=(60.0, 120.0))
    assert fault.remembered(memory, 59.0, 1) is memory
    assert fault.remembered(memory, 180.0, 1) is memory
    wrong = fault.remembered(memory, 60.0, 1).services[0].forecast
    assert wrong != kept
    assert wrong == fault.remembered(memory, 60.0, 1).services[0].forecast, "the same each time"
    assert wrong != fault.remembered(memory, 75.0, 1).services[0].forecast
    assert 0.4 <= wrong.samples[0].requests_per_second <= 40.0
    assert (wrong.samples[0].at, wrong.tracks) == (1.0, kept.tracks)


def test_a_declared_rate_is_seen_only_where_it_is_declared() -> None:
    carries = Carries(per_s=5.0, alone_per_s=4.0, input_tokens=500.0, output_tokens=50.0)
    for declared, told in ((False, None), (True, 4.0)):
        variant = shown(30, carries=carries, declared=declared).services[0].spec.variants[0]
        assert (variant.capacity.requests_per_second if variant.capacity else None) == told


@pytest.mark.parametrize(
    "fault",
    [
        Faults(metrics_out=(200.0, 300.0)),
        Faults(clock_jump=(200.0, 3600.0)),
        Faults(clock_jump=(200.0, -3600.0)),
        Faults(reset_s=200.0),
        Faults(garbage=(200.0, 300.0)),
    ],
    ids=lambda fault: fault.words()[0],
)
def test_ebbtide_goes_on_deciding(fault: Faults) -> None:
    requests = random_load(6.0, 600.0)
    result = OwnSimulator().run(a_case(faults=fault), requests, EBBTIDE, 0.0, 1)
    assert max(ready for _, _, ready in result.replicas) > 1
    assert len(result.served) == len(requests)


def test_nothing_is_wrong_by_default() -> None:
    assert NONE.words() == [] and a_case().faults == NONE
    driver = Driver(a_case(), random_load(1.0, 60.0), EBBTIDE, 0.0, 1, ())
    assert driver.case.faults.clock_s(1e6) == 1e6


def test_faults_are_told_in_the_report(tmp_path: Path) -> None:
    made = folder(tmp_path)
    options = ["--rate-factor", "1.3", "--metric-delay-s", "60", "--metrics-out", "5m:2m", "--clock-jump", "5m:-10m"]
    done = made.run("--policies", "ebbtide", "--seeds", "1", *options, "--counter-reset", "6m", "--garbage", "7m:1m")
    assert done.returncode == 0, done.stderr
    page = (made.out / "report.md").read_text()
    assert "metrics 1m late; metrics out from 5m for 2m; the operator's clock 10m back from 5m on" in page
    assert "counters reset at 6m; remembered demand made up from 7m for 1m." in page
    replica = made.results()["case"]["replica"]
    assert replica["declared"] is True
    measured = made.results()["case"]["capacity_per_s"]
    assert replica["carries"]["per_s"] == pytest.approx(1.3 * measured)


def test_metrics_go_out_again_and_counters_are_reset_again() -> None:
    faults = Faults(metrics_out=(240.0, 60.0), reset_s=100.0, every_s=300.0)
    out = [at for at in range(0, 1200, 30) if faults.hides(at)]
    assert out == [240, 270, 540, 570, 840, 870, 1140, 1170]
    assert [faults.last_reset_s(at) for at in (99.0, 100.0, 399.0, 400.0, 1000.5)] == [
        None,
        100.0,
        100.0,
        400.0,
        1000.0,
    ]
    assert faults.words() == ["metrics out from 4m for 1m, again each 5m", "counters reset at 1m40s, again each 5m"]
    assert Faults(reset_s=100.0).last_reset_s(900.0) == 100.0


def test_counters_that_are_reset_again_and_again_still_tell_the_rate() -> None:
    calm, reset = (engine(shown(900, faults=one)) for one in (NONE, Faults(reset_s=110.0, every_s=200.0)))
    assert calm is not None and reset is not None
    assert 0.5 * calm.generation_tokens.value < reset.generation_tokens.value <= calm.generation_tokens.value
