"""The comparison tells engines that are alike from engines that are not. The "real" one here is emulated too."""

import math
from pathlib import Path

import pytest
from benchmarks.emulator import compare, document, recording, streams
from benchmarks.emulator.__main__ import main
from benchmarks.emulator.cycles import WINDOW_S
from benchmarks.emulator.pages import Page
from benchmarks.emulator.prometheus import POD, ScrapedPrometheus
from benchmarks.emulator.recording import Load, Machine, Recording, Scrape
from benchmarks.emulator.server import measure
from benchmarks.emulator.virtual import play

from ebbtide.errors import ConfigurationError, SandboxError
from ebbtide.observe.metrics import EngineMetrics
from ebbtide.observe.settings import PrometheusSettings
from ebbtide.sandbox.loadgen import Gaps, Served
from ebbtide.sim.engine import Engine, Request
from ebbtide.sim.exposition import vllm_text
from ebbtide.sim.load import Constant, Lengths
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import Outcome
from ebbtide.sim.scrape import PodScrapes, sample_of
from tests.shell.fake_engine import engines
from tests.sim.known import KNOWN

pytestmark = pytest.mark.slow


def probed(profile: EngineProfile) -> float:
    outcomes, _ = play(profile, streams.PROBE, ())
    return len(outcomes) / max(one.finish_s for one in outcomes)


def load_on(profile: EngineProfile, stream: streams.Stream) -> Load:
    requests = streams.requests(stream, probed(KNOWN))
    outcomes, pages = play(profile, requests, [float(at) for at in range(int(stream.seconds + stream.settle_s))], 7)
    return Load(tuple(served(one) for one in outcomes), tuple(Scrape(page.at_s, page.text) for page in pages))


def served(one: Outcome) -> Served:
    gap_s = one.inter_token_latency_s
    return Served(
        id=one.request.id,
        arrival_s=one.request.arrival_s,
        prompt_tokens=one.request.prompt_tokens,
        output_tokens=one.request.output_tokens,
        sent_s=one.request.arrival_s,
        status=200,
        first_token_s=one.first_token_s,
        inter_token_s=None if gap_s is None else Gaps(gap_s, gap_s, gap_s, gap_s),
        finish_reason=one.finish_reason,
        end_s=one.finish_s,
        generated_tokens=one.generated_tokens,
    )


def recorded(first: EngineProfile, second: EngineProfile) -> Recording:
    machine = Machine(
        cores=2,
        processor="emulated",
        memory_gib=8.0,
        vllm="0.32.0",
        flags=("--max-num-seqs=16",),
        model_size="small",
        max_num_batched_tokens=KNOWN.max_num_batched_tokens,
        max_model_tokens=KNOWN.max_model_tokens,
        start_s=40.0,
        probed_per_second=probed(KNOWN),
        others=0.1,
        recorded="2026-01-31",
        seconds=500.0,
    )
    return Recording(machine, load_on(first, streams.FIRST), load_on(second, streams.SECOND))


@pytest.fixture(scope="module")
def same() -> Recording:
    return recorded(KNOWN, KNOWN)


def test_the_emulator_fitted_to_an_engine_wants_the_same_replicas_for_it(same: Recording) -> None:
    found = compare.compare(same)

    assert found.agreement >= 0.95
    assert len({real.wanted for real, _ in found.cycles}) >= 2, "a load that never asks for replicas proves nothing"
    assert found.emulated.finished == found.real.finished == len(same.second.served)
    assert found.emulated.told_gap_s == pytest.approx(found.real.told_gap_s, rel=0.08)


def test_an_engine_that_has_become_slower_since_the_fit_is_told_apart() -> None:
    found = compare.compare(recorded(KNOWN, compare.slowed(KNOWN, 1.8)))

    assert found.real.told_gap_s > 1.5 * found.emulated.told_gap_s
    assert found.agreement < compare.WANTED_AGREEMENT


def test_a_recorded_run_is_compared_again_without_a_server(
    same: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording.write(tmp_path / "run", same)
    page = tmp_path / "emulator.md"

    assert main(["--recorded", str(tmp_path / "run"), "--markdown", str(page)]) == 0
    assert page.read_text() == document.markdown(compare.compare(same))
    assert "within one" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recorded", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none" / "machine.json") in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"machine\.json"):
        recording.read(tmp_path)


async def test_every_request_of_both_loads_is_recorded_and_a_page_each_second() -> None:
    async with engines("127.0.0.1") as (engine,):
        engine.gap_s, engine.metrics = 0.002, vllm_text(Engine(KNOWN, 1), "model", 0.0)
        said: list[str] = []

        per_second, *loads = await measure(f"http://127.0.0.1:{engine.port}", (brief(1), brief(2)), said.append)

        for load, stream in zip(loads, (brief(1), brief(2)), strict=True):
            wanted = [(one.arrival_s, one.prompt_tokens) for one in streams.requests(stream, per_second)]
            assert [(one.arrival_s, one.prompt_tokens) for one in load.served] == wanted
            assert [round(scrape.at_s) for scrape in load.scrapes][:3] == [0, 1, 2]
            assert load.pages[-1].label("vllm:cache_config_info", "block_size") == "16"
        assert f"{per_second:.1f} requests/s" in said[0]


async def test_a_request_that_is_not_served_ends_the_run_with_its_cause() -> None:
    async with engines("127.0.0.1") as (engine,):
        engine.behaviour = "busy"
        with pytest.raises(SandboxError, match="4 of 4 requests were not served, for example: 503: The engine is"):
            await measure(f"http://127.0.0.1:{engine.port}", (brief(1), brief(2)), print)


def brief(seed: int) -> streams.Stream:
    return streams.Stream(seed, (streams.Phase("brief", 2.5, Constant(0.02), Lengths(20, 0.5, 100, 3, 0.5, 5)),), 0.5)


async def test_the_operator_reads_a_scraped_page_as_simulated_fleets_read_their_engines() -> None:
    """Two ways to the same readings: text, PromQL rules and the observe layer here, `sim.scrape` there."""
    engine, scrapes, pages = Engine(KNOWN, 1), PodScrapes(float(WINDOW_S), KNOWN.kv_tokens, None), []
    for second in range(1, 61):
        engine.submit(Request(second, float(second), 100, 40), float(second))
        engine.advance(float(second))
        scrapes.add(sample_of(engine, float(second)))
        pages.append(Page(float(second), vllm_text(engine, "model", 0.0)))
    settings = PrometheusSettings(rate_window_s=WINDOW_S)
    metrics = EngineMetrics(ScrapedPrometheus(pages, settings), settings)  # type: ignore[arg-type]
    await metrics.collect({f"bench/{POD}"}, 60.5)
    read, simulated = metrics.snapshot().engine(f"bench/{POD}", 60.5), scrapes.readings(60.5)

    assert read is not None
    assert simulated is not None
    for name in ("running", "waiting", "kv_usage", "finished", "arrivals", "prompt_tokens", "generation_tokens"):
        assert getattr(read, name).fresh == pytest.approx(getattr(simulated, name).fresh, rel=0.05, abs=0.05), name
    assert (read.kv_tokens, read.max_running) == (simulated.kv_tokens, simulated.max_running)
    assert read.rejected.fresh == 0.0
    for name in ("ttft", "itl", "tpot"):
        one, other = getattr(read, name), getattr(simulated, name)
        assert one.per_second == pytest.approx(other.per_second, rel=0.05), name
        assert one.mean_s == pytest.approx(other.mean_s, rel=0.05), name
        told = dict(one.buckets)
        for bound, rate in other.buckets if name != "itl" else ():
            if told.get(bound) and not math.isinf(bound):
                assert told[bound] == pytest.approx(rate, rel=0.1, abs=0.05), (name, bound)
