"""Where a case's requests come from: read strictly, resampled with the correlation that real load has."""

import re
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from ebbtide.bench.policy import Minute
from ebbtide.bench.traffic import (
    arrivals_by_slot,
    lengths_from,
    minutes,
    peak_per_s,
    read,
    resample,
    span,
    split,
    steady,
    times,
)
from ebbtide.errors import ConfigurationError
from ebbtide.sim.load import CONVERSATION, Constant, generate
from ebbtide.sim.requests import Request
from ebbtide.sim.shapes import Sampled, Step

TOKENS = "TIMESTAMP,ContextTokens,GeneratedTokens"
# an hour of five a second; rates and lengths swing for minutes on end, as in published traces
SOURCE = generate(Constant(5.0), CONVERSATION, 3600.0, seed=4, swing=0.3)


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def variation(values: Sequence[float]) -> float:
    return statistics.pstdev(values) / statistics.fmean(values)


def mean_outputs(requests: Sequence[Request]) -> list[float]:
    """Mean answer of each hundred requests in a row."""
    return [statistics.fmean(r.output_tokens for r in requests[i : i + 100]) for i in range(0, len(requests) - 99, 100)]


@pytest.mark.parametrize(
    ("name", "lines", "form", "said"),
    [
        ("a.jsonl", (), None, "it holds no requests"),
        ("a.csv", (TOKENS,), None, "it holds no requests"),
        (
            "a.jsonl",
            (
                '{"timestamp": 5000, "input_length": 1, "output_length": 1}',
                '{"timestamp": 3000, "input_length": 1, "output_length": 1}',
            ),
            None,
            "line 2: time 3.0000 s: it is 2 s before the line above",
        ),
        ("a.jsonl", ('{"timestamp": -1, "input_length": 1, "output_length": 1}',), None, "line 1: time -0.0010 s"),
        ("a.jsonl", ('{"timestamp": 0, "input_length": 0, "output_length": 9}',), None, "0 prompt and 9 output tokens"),
        ("a.csv", (TOKENS, "2023-11-16 18:15:46,5,5", "2023-11-16 18:15:45,5,5"), None, "line 3: time"),
        ("a.csv", (TOKENS, "2023-11-16 18:15:46,5,0"), None, "line 2: 5 prompt and 0 output tokens"),
        ("a.csv", ("t_s,rps", "0,1", "60,1", "30,1"), None, "line 4: time 30: it is 30 s before the line above"),
        ("a.csv", ("t_s,rps", "-60,1", "60,1"), None, "line 2: time -60: it is before zero"),
        ("a.csv", ("t_s,rps", "0,1", "60,1"), "tokens", "it is of format rate, not tokens"),
        ("a.csv", (TOKENS, "2023-11-16 18:15:46,5,5"), "mooncake", "it is of format tokens, not mooncake"),
        ("a.csv", (TOKENS,), "parquet", "'parquet' is unknown; there are: mooncake, tokens, rate"),
    ],
)
def test_nothing_in_a_file_is_mended_in_silence(
    tmp_path: Path, name: str, lines: tuple[str, ...], form: str | None, said: str
) -> None:
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))

    with pytest.raises(ConfigurationError, match=re.escape(said)) as refused:
        read(path, form)

    assert "\n" not in str(refused.value)


def test_files_of_every_format_are_read(tmp_path: Path) -> None:
    mooncake = write(tmp_path, "m.jsonl", '{"timestamp": 1500, "input_length": 7, "output_length": 2, "hash_ids": [0]}')
    tokens = write(tmp_path, "t.csv", TOKENS, "2023-11-16 18:15:46.5,7,2", "2023-11-16 18:15:47,8,3")
    rate = write(tmp_path, "r.csv", "t_s,prod,dev", "0,61440,0", "60,61440,0")

    assert read(mooncake, "mooncake").requests == (Request(0, 0.0, 7, 2),)
    assert [(r.arrival_s, r.prompt_tokens) for r in read(tokens, "tokens").requests] == [(0.0, 7), (0.5, 8)]
    curve = read(rate, "rate", column="prod", tokens_per_request=512.0).curve
    assert curve is not None
    assert curve.rate(30.0) == pytest.approx(2.0)


def test_a_span_of_a_curve_keeps_its_values_at_both_ends() -> None:
    curve = Sampled(((0.0, 0.0), (100.0, 10.0), (200.0, 0.0)))

    cut = span(curve, 50.0, 100.0)

    assert cut.points == ((0.0, 5.0), (50.0, 10.0), (100.0, 5.0))
    assert times(cut, 3.0).peak_rate == 30.0
    with pytest.raises(ConfigurationError, match=r"covers 0 to 0\.0555"):
        span(curve, 150.0, 100.0)


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_resampled_requests_follow_the_curve(noise: int) -> None:
    curve = Step(before=4.0, after=20.0, at_s=3600.0)

    runs = [resample(curve, 7200.0, SOURCE, seed, noise) for seed in range(5)]

    halves = [split(run, 3600.0) for run in runs]
    assert sum(len(first) for first, _ in halves) == pytest.approx(5 * 4 * 3600, rel=0.09)
    assert sum(len(second) for _, second in halves) == pytest.approx(5 * 20 * 3600, rel=0.09)
    requests = runs[0]
    assert [r.id for r in requests] == list(range(len(requests)))
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(requests))
    assert all(0.0 <= r.arrival_s < 7200.0 for r in requests)
    assert statistics.fmean(r.output_tokens for r in requests) == pytest.approx(
        statistics.fmean(r.output_tokens for r in SOURCE), rel=0.05
    )


def test_blocks_keep_bursts_and_runs_of_long_answers_and_each_noise_is_harder() -> None:
    of_source = variation(arrivals_by_slot(SOURCE, 60.0)[:-1]), variation(mean_outputs(SOURCE))
    swings, runs = [], []
    for noise in (0, 1, 2):
        requests = resample(Constant(5.0), 6 * 3600.0, SOURCE, seed=11, noise=noise)
        swings.append(variation(arrivals_by_slot(requests, 60.0)[:-1]))
        runs.append(variation(mean_outputs(requests)))

    assert swings[0] == pytest.approx(1 / 300**0.5, rel=0.15)  # chance alone at 300 a minute
    assert swings[1] == pytest.approx(of_source[0], rel=0.2)
    assert swings[2] > 1.3 * swings[1]
    assert runs[0] < 0.65 * of_source[1]
    assert runs[1] == pytest.approx(of_source[1], rel=0.15)


def test_drawn_requests_come_by_chance_and_swing_as_conversations_do_and_each_noise_is_harder() -> None:
    source = lengths_from("lognormal:500,0.8,3000", "64", seed=7)
    seconds, swings = [], []
    for noise in (0, 1, 2):
        requests = resample(Constant(10.0), 2 * 3600.0, source, seed=11, noise=noise)
        counts = arrivals_by_slot(requests, 1.0)[:-1]
        seconds.append(statistics.variance(counts) / statistics.fmean(counts))
        swings.append(variation(arrivals_by_slot(requests, 60.0)[:-1]))

    assert seconds[0] == pytest.approx(1.0, abs=0.1)  # chance alone
    assert all(each > 1.2 for each in seconds[1:])
    assert swings[0] < 0.05
    assert 0.08 < swings[1] < swings[2]


def test_blocks_hold_real_neighbours() -> None:
    requests = resample(Constant(5.0), 1800.0, SOURCE, seed=3, noise=1)

    after = {(a.prompt_tokens, a.output_tokens): (b.prompt_tokens, b.output_tokens) for a, b in pairwise(SOURCE)}
    kept = sum(
        after.get((a.prompt_tokens, a.output_tokens)) == (b.prompt_tokens, b.output_tokens)
        for a, b in pairwise(requests)
    )
    assert kept > 0.9 * len(requests)


@pytest.mark.parametrize("per_s", [0.05, 1.0, 7.3, 40.0])
def test_steady_traffic_brings_the_same_number_in_each_minute_and_keeps_what_lies_inside(per_s: float) -> None:
    requests = steady(per_s, 1200.0, SOURCE, seed=5)

    counts = arrivals_by_slot(requests, 60.0)
    assert all(abs(count - 60 * per_s) <= 1 for count in counts)
    assert len(requests) == pytest.approx(1200 * per_s, abs=1.0)
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(requests))
    assert requests == steady(per_s, 1200.0, SOURCE, seed=5)
    if per_s == 7.3:
        assert variation(mean_outputs(requests)) > 0.9 * variation(mean_outputs(SOURCE))
        gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(requests)]
        of_source = [b.arrival_s - a.arrival_s for a, b in pairwise(SOURCE)]
        assert variation(gaps) == pytest.approx(variation(of_source), rel=0.15)


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_the_same_seed_gives_the_same_requests(noise: int) -> None:
    first, again, other = (resample(Constant(2.0), 600.0, SOURCE, seed, noise) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_a_curve_of_nothing_brings_nothing_and_a_source_of_one_suffices() -> None:
    assert resample(Constant(0.0), 600.0, SOURCE, seed=1) == []
    alone = resample(Constant(2.0), 600.0, [Request(0, 0.0, 7, 3)], seed=1)
    assert {(r.prompt_tokens, r.output_tokens) for r in alone} == {(7, 3)}
    assert len(alone) == pytest.approx(1200, rel=0.05)


def test_what_cannot_be_resampled_is_said() -> None:
    with pytest.raises(ConfigurationError, match="noise 3 is unknown"):
        resample(Constant(1.0), 60.0, SOURCE, seed=1, noise=3)
    with pytest.raises(ConfigurationError, match="no requests to resample"):
        resample(Constant(1.0), 60.0, [], seed=1)


def test_lengths_come_from_files_or_are_drawn(tmp_path: Path) -> None:
    one = str(write(tmp_path, "one.csv", TOKENS, "2023-11-16 18:15:46,10,1", "2023-11-16 18:15:48,20,2"))
    other = str(write(tmp_path, "other.csv", TOKENS, "2023-11-16 18:15:46,70,7", "2023-11-16 18:15:47,80,8"))

    pairs = [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in lengths_from(one, one, seed=1)]
    mixed = [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in lengths_from(one, other, seed=1)]
    fixed = [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in lengths_from("512", other, seed=1)]
    drawn = lengths_from("lognormal:750,1.0,4096", "64", seed=1)

    assert pairs == [(0.0, 10, 1), (2.0, 20, 2)]
    assert mixed == [(0.0, 10, 7), (2.0, 20, 8)]
    assert fixed == [(0.0, 512, 7), (1.0, 512, 8)]
    assert statistics.median(r.prompt_tokens for r in drawn) == pytest.approx(750, rel=0.05)
    assert {r.output_tokens for r in drawn} == {64}


@pytest.mark.parametrize("text", ["", "0", "-5", "many", "lognormal:1", "normal:1,2,3", "lognormal:0,1,5", "nan"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"input tokens {text!r}: ") + ".*write a number of tokens"):
        lengths_from(text, "5", seed=1)


def test_lengths_do_not_come_from_rates(tmp_path: Path) -> None:
    rates = str(write(tmp_path, "rates.csv", "t_s,rps", "0,1", "60,1"))

    with pytest.raises(ConfigurationError, match="it has rates only"):
        lengths_from("5", rates, seed=1)


def test_history_is_whole_minutes_before_zero() -> None:
    requests = [Request(0, 10.0, 5, 1), Request(1, 70.0, 7, 2), Request(2, 80.0, 9, 3), Request(3, 125.0, 1, 1)]

    assert minutes(requests, 125.0, start_s=-125.0) == [Minute(-125.0, 1, 5, 1), Minute(-65.0, 2, 16, 5)]


def test_the_peak_is_that_of_five_minutes() -> None:
    requests = [
        Request(i, t_s, 5, 5) for i, t_s in enumerate([*range(0, 600, 10), *range(600, 900), *range(900, 1500, 10)])
    ]

    assert arrivals_by_slot(requests, 300.0) == [30, 30, 300, 30, 30]
    assert peak_per_s(requests) == pytest.approx(1.0)
    assert peak_per_s(requests[:3]) == pytest.approx(3 / 60)


def test_training_ends_where_the_replay_begins() -> None:
    training, replay = split([Request(i, 10.0 * i, 5, 5) for i in range(6)], 30.0)

    assert [r.arrival_s for r in training] == [0.0, 10.0, 20.0]
    assert [(r.id, r.arrival_s) for r in replay] == [(0, 0.0), (1, 10.0), (2, 20.0)]
