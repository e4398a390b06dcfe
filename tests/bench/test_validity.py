"""Twenty days: they follow from their seeds, and the verdict is what was promised, no more and no less."""

import shlex
from pathlib import Path

import pytest
from benchmarks import validity
from benchmarks.validity import HELD_OUT, SEEDS, TARGETS, Kept, day, kept, page

from ebbtide.bench.command import ask
from ebbtide.bench.own import engine_profile
from ebbtide.cli.bench import replay
from tests.bench.cases import a_case


def days(target: float, *shares: float, p0: float = 0.0, surprise: bool = False) -> list[Kept]:
    """A day for each share of the allowed misses; surprising ones have a seed of such a kind."""
    seeds = [seed for seed in SEEDS if day(seed).surprise == surprise]
    missed = [round(share * (1 - target) * 100_000) for share in shares]
    return [Kept(day(seed), target, count, 100_000, p0) for seed, count in zip(seeds, missed, strict=False)]


def test_days_follow_from_their_seeds_and_are_of_all_kinds() -> None:
    found = [day(seed) for seed in SEEDS]
    assert len(found) == 20 and found == [day(seed) for seed in SEEDS]
    assert {one.what for one in found} == {"daily", "two-peaks", "daily-bursts", "regimes"}
    assert {one.surprise for one in found} == {True, False}
    assert len({(one.peak, one.startup_s, one.noise) for one in found}) > 10
    assert all(max(one.traffic.rate(60.0 * minute) for minute in range(1440)) > 0 for one in found)


def test_held_out_days_are_of_other_models_gpus_and_lengths_that_the_simulator_ships() -> None:
    found = [day(seed) for seed in HELD_OUT]
    assert not set(HELD_OUT) & set(SEEDS)
    assert {day(seed).replica for seed in SEEDS} == {"70B on h100_sxm"}
    assert "70B on h100_sxm" not in {one.replica for one in found} and len({one.replica for one in found}) >= 5
    for one in found:
        typed = replay.make_context("replay", ["--trace", "t.csv", *shlex.split(f"{validity.OPTIONS} {one.served}")])
        asked = ask(typed.params)
        case = a_case(model=asked.model, system=asked.system, tensor_parallel=asked.tensor_parallel)
        assert engine_profile(case).gpus == asked.tensor_parallel


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (days(0.99, 0.5, 0.9, 1.4), []),
        (days(0.99, 0.1, 0.2), ["too careful"]),
        (days(0.99, 0.5, 1.6), ["target missed", "a day at 1.60"]),
        (days(0.99, 0.4, 1.6), ["a day at 1.60"]),
        (days(0.99, 0.5) + days(0.99, 1.7, surprise=True), ["target missed", "a day at 1.70"]),
        (days(0.999, 0.5) + days(0.999, 1.4, 0.9), []),
        (days(0.999, 0.4, 0.4, 0.4) + days(0.999, 1.7, surprise=True), []),
        (days(0.999, 0.5, p0=0.0004), ["no test: too much cannot be bought"]),
    ],
    ids=["kept", "waste", "missed", "a bad day", "no excuse at 99 %", "99.9 %", "a marked surprise", "p0"],
)
def test_what_was_not_kept_is_named(found: list[Kept], said: list[str]) -> None:
    assert kept(found) == said


def test_the_page_has_a_row_a_target_and_a_row_a_day() -> None:
    found = [*days(0.99, 0.5, 1.4), *days(0.999, 0.6), *days(0.999, 4.0, surprise=True)]
    text = page(found, "validity", "abc")
    assert "| 99 % | 2 | 99.0500% | 0.95 | 1.40 | 1.40 | 0.000% | kept |" in text
    assert "| 99.9 % | 2 | 99.7700% | 2.30 | 4.00 | 0.60 | 0.000% | target missed |" in text
    assert "| 101 | two-peaks |" in text
    assert any(
        line.count("\\*") == 1 and line.endswith("| | 4.00 |".replace("| |", "|  |")) for line in text.splitlines()
    )


def test_whole_days_are_run_only_when_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        validity.main([])
    assert "--full runs them" in capsys.readouterr().err


@pytest.mark.full
def test_two_short_days_are_replayed_and_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = ["--days", "2", "--hours", "0.5", "--targets", "95", "--out", str(tmp_path / "out")]
    validity.main([*given, "--page", str(tmp_path / "page.md")])
    first = (tmp_path / "page.md").read_text()
    assert "| 95 % | 2 |" in first
    validity.main([*given, "--page", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == first


def test_all_targets_stand_in_the_plan() -> None:
    assert TARGETS == (95.0, 99.0, 99.9) and len(SEEDS) == 20


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (["--full"], "docs/benchmarks/validity.md"),
        (["--full", "--held-out"], "docs/benchmarks/validity-held-out.md"),
        (["--full", "--slice", "2/4"], "out/validity/tried.md"),
        (["--full", "--targets", "95"], "out/validity/tried.md"),
        (["--days", "2", "--hours", "1"], "out/validity/tried.md"),
    ],
)
def test_a_try_or_a_part_leaves_the_committed_page_alone(given: list[str], where: str) -> None:
    assert validity.options_from(given).page == Path(where)
