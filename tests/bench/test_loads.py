"""Which part of a trace is scored, what trains, and how a trace becomes larger or smaller."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ebbtide.bench.command import ask
from ebbtide.bench.loads import Span, load_of, overlaid, rates, span_of
from ebbtide.cli.bench import replay
from ebbtide.sim.requests import Request
from tests.bench.replaying import write_trace

LENGTHS = ("--input-tokens", "100", "--output-tokens", "20")


@pytest.fixture
def span(tmp_path: Path):
    """The span that these options cut from an hour of one request a second, or from rates that climb by the hour."""
    write_trace(tmp_path / "hour.jsonl", [(float(second), 10 + second // 600, 5) for second in range(3600)])
    steps = "".join(f"{hour * 3600},{hour + 1}\n{hour * 3600 + 3599},{hour + 1}\n" for hour in range(48))
    (tmp_path / "days.csv").write_text(f"t_s,rps\n{steps}")

    def cut(file: str, *options: str) -> Span:
        with CliRunner().isolation():
            context = replay.make_context("replay", ["--trace", str(tmp_path / file), *options])
        return span_of(ask(context.params))

    return cut


def test_a_trace_of_requests_is_scored_as_it_is(span) -> None:
    whole = span("hour.jsonl")
    assert (whole.format, len(whole.requests), whole.length_s, whole.training) == ("mooncake", 3600, 3600.0, ())
    load = load_of(whole, 1.0, 1, seed=7)
    assert load.requests == whole.requests, "the same for every seed"
    assert whole.peak_per_s == pytest.approx(1.0)
    assert whole.begin_per_s(100.0) == pytest.approx(1.0)


def test_what_comes_before_training_ends_is_history_with_times_before_zero(span) -> None:
    part = span("hour.jsonl", "--train-until", "20m", "--hours", "0.5")
    assert len(part.requests) == 1800
    assert part.requests[0] == Request(0, 0.0, 12, 5), "times begin at zero"
    assert [minute.start_s for minute in part.training[:2]] == [-1200.0, -1140.0]
    assert part.training[-1] == (-60.0, 60, 60 * 11, 60 * 5)


def test_a_gap_between_training_and_the_span_stays_a_gap(span) -> None:
    part = span("hour.jsonl", "--train-until", "10m", "--start", "30m")
    assert part.requests[0].prompt_tokens == 13
    assert (part.training[0].start_s, part.training[-1].start_s) == (-1800.0, -1260.0)


def test_the_last_of_training_is_what_ebbtide_has_run_before(span) -> None:
    part = span("hour.jsonl", "--train-until", "20m", "--lead-in", "15m")
    before = part.lead_in
    assert before is not None
    assert (before.length_s, before.begin_per_s(100.0), before.lead_in) == (900.0, 1.0, None)
    load = load_of(before, 1.0, 1, seed=-1)
    assert load.requests[0] == Request(0, 0.0, 10, 5) and load.requests[-1].arrival_s == 899.0
    assert {one.prompt_tokens for one in load.requests} == {10, 11}, "what is scored is not in it"
    assert [minute.start_s for minute in load.history] == [-60.0 * minute for minute in (5, 4, 3, 2, 1)]
    cold = span("hour.jsonl", "--train-until", "20m", "--lead-in", "0s")
    assert load_of(part, 1.0, 1, seed=1) == load_of(cold, 1.0, 1, seed=1), "with it or without, the same is scored"
    assert len(load_of(before, 2.0, 1, seed=-1).requests) == 1800, "it grows with the scale too"


def test_rates_have_a_lead_in_at_their_own_pace(span) -> None:
    before = span("days.csv", *LENGTHS, "--train-until", "1d", "--hours", "1").lead_in
    assert before is not None
    assert before.length_s == 1800.0, "30 minutes if nothing is said"
    assert len(load_of(before, 0.5, 1, seed=-1).requests) == pytest.approx(0.5 * 24 * 1800, rel=0.02)


@pytest.mark.parametrize(
    ("options", "length_s"),
    [
        ((), None),
        (("--train-until", "10m"), 600.0),
        (("--train-until", "10m30s", "--lead-in", "5m30s"), 300.0),
        (("--train-until", "10m", "--start", "30m"), None),
        (("--train-until", "20m", "--lead-in", "0s"), None),
    ],
    ids=[
        "without training nothing was before",
        "it is no longer than training",
        "whole minutes",
        "a gap is a gap",
        "a cold start",
    ],
)
def test_how_long_a_lead_in_is(span, options: tuple[str, ...], length_s: float | None) -> None:
    before = span("hour.jsonl", *options).lead_in
    assert (before and before.length_s) == length_s


def test_there_is_no_lead_in_where_nothing_came_before(tmp_path: Path) -> None:
    write_trace(tmp_path / "late.jsonl", [(0.0, 10, 5), *((3600.0 + second, 10, 5) for second in range(600))])
    with CliRunner().isolation():
        typed = ["--trace", str(tmp_path / "late.jsonl"), "--train-until", "1h"]
        context = replay.make_context("replay", typed)
    assert span_of(ask(context.params)).lead_in is None


def test_history_grows_with_the_scale(span) -> None:
    part = span("hour.jsonl", "--train-until", "20m")
    assert load_of(part, 2.5, 1, seed=1).history[0] == (-1200.0, 150.0, 1500.0, 750.0)


def test_rates_are_played_with_given_lengths_and_seeds_differ(span) -> None:
    part = span("days.csv", *LENGTHS, "--train-until", "1d", "--hours", "2")
    assert part.format == "rate"
    assert part.expected == pytest.approx(3600 * (25 + 26), rel=0.01)
    assert part.peak_per_s == pytest.approx(26.0)
    assert part.begin_per_s(100.0) == pytest.approx(25.0)
    assert len(part.training) == 1440
    assert part.training[0].start_s == -86_400.0
    assert part.training[-1].requests == pytest.approx(60 * 24)
    assert part.training[-1].prompt_tokens == pytest.approx(100 * 60 * 24)
    first, second = (load_of(part, 0.1, 1, seed=seed).requests for seed in (1, 2))
    assert len(first) == pytest.approx(0.1 * part.expected, rel=0.05)
    assert first != second
    assert {(one.prompt_tokens, one.output_tokens) for one in first} == {(100, 20)}


@pytest.mark.parametrize(
    ("story", "startup_s", "per_s"),
    [
        ("a start-up within the first tooth", 60.0, 9.0),
        ("a whole tooth is its mean, wherever a single second of it stands", 120.0, 8.0),
        ("a tooth and a half", 180.0, 8.0 + 1.0 / 3.0),
        ("no longer than the trace", 7200.0, 8.0),
    ],
)
def test_a_fleet_begins_in_balance_with_the_mean_rate_of_the_first_start_up(
    tmp_path: Path, story: str, startup_s: float, per_s: float
) -> None:
    teeth = "".join(f"{120 * i},10\n{120 * i + 119.999},6\n" for i in range(30))
    (tmp_path / "saw.csv").write_text(f"t_s,rps\n{teeth}")
    with CliRunner().isolation():
        context = replay.make_context("replay", ["--trace", str(tmp_path / "saw.csv"), *LENGTHS])
    assert span_of(ask(context.params)).begin_per_s(startup_s) == pytest.approx(per_s, rel=1e-3), story


def test_of_requests_at_least_five_minutes_count_and_a_longer_start_up_counts_whole(span) -> None:
    late = Span(**{**vars(span("hour.jsonl")), "requests": tuple(Request(i, 240.0 + i, 10, 5) for i in range(360))})
    assert [late.begin_per_s(startup_s) for startup_s in (60.0, 300.0, 600.0)] == [0.2, 0.2, 0.6]


@pytest.mark.parametrize(("factor", "count"), [(1.0, 400), (3.0, 1200), (0.25, 100), (2.5, 1000)])
def test_scaling_gives_that_many_times_the_requests_inside_the_span(factor: float, count: int) -> None:
    source = [Request(number, float(number), 10, 1 + number) for number in range(400)]
    found = overlaid(source, factor, 400.0, seed=3)
    assert len(found) == pytest.approx(count, rel=0.2 if factor % 1 else 0.0)
    assert [one.id for one in found] == list(range(len(found)))
    arrivals = [one.arrival_s for one in found]
    assert arrivals == sorted(arrivals)
    assert 0.0 <= arrivals[0] <= arrivals[-1] < 400.0
    assert found == overlaid(source, factor, 400.0, seed=3)
    assert factor == 1.0 or found != overlaid(source, factor, 400.0, seed=4)


def test_a_copy_is_shifted_by_minutes_so_that_the_hour_of_the_day_stays() -> None:
    source = [Request(number, 40_000.0 + number, 10, 5) for number in range(100)]
    for seed in range(20):
        found = overlaid(source, 4.0, 86_400.0, seed)
        assert all(39_400 <= one.arrival_s <= 40_700 for one in found)


def test_rates_for_a_picture() -> None:
    requests = [Request(number, t_s, 1, 1) for number, t_s in enumerate((0.0, 1.0, 61.0, 130.0))]
    assert rates(requests, 130.0, 60.0) == [2 / 60, 1 / 60, 1 / 60]


@pytest.mark.parametrize(
    ("file", "options", "per_s"),
    [
        ("hour.jsonl", ("--hours", "0.025"), 1.0),  # 90 s of one request a second
        ("hour.jsonl", ("--hours", "0.05"), 1.0),
        ("days.csv", (*LENGTHS, "--start", "1800s", "--hours", "0.025"), 1.0),
        ("days.csv", (*LENGTHS, "--start", "3570s", "--hours", "0.025"), (29 * 1.0 + 1.5 + 60 * 2.0) / 90),
        ("hour.jsonl", ("--hours", "0.5"), 1.0),
    ],
)
def test_the_peak_of_a_span_under_five_minutes_is_its_mean(span, file: str, options: tuple[str, ...], per_s: float):
    assert span(file, *options).peak_per_s == pytest.approx(per_s)
