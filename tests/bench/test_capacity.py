"""What Ebbtide believes that a replica carries, against what bisection finds in the same simulator."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache

import pytest
from benchmarks import capacity
from benchmarks.capacity import CALM, COMBINATIONS, TROUBLES, Combination, Found, found_of, page, picture_of

from ebbtide.bench.dynamo.environment import Environment
from ebbtide.bench.dynamo.simulator import DynamoSimulator
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.run import Simulator

COUNT = 6000  # requests a rate: 60 misses where 99 % are asked for
BY_NAME = {one.name: one for one in COMBINATIONS}
LATE_99_9 = (
    "0.86: at 99.9 % the tail between 10 and 25 ms, where vLLM's buckets have their bounds, has to be guessed for 20 ms"
)


def smaller(combination: Combination) -> Combination:
    """Half of its fleet: a second or two of CPU time."""
    return dataclasses.replace(combination, replicas=max(1, combination.replicas // 2))


def judged(simulator: Simulator, name: str, trouble: capacity.Trouble, count: int = COUNT) -> Found:
    [found] = found_of(simulator, smaller(BY_NAME[name]), [trouble], count)
    return found


def assert_known(found: Found) -> None:
    said = f"{found.believed:.3f} believed, {found.truth:.3f} true requests/s: {found.ratio:.3f}"
    assert found.ratio <= 1.0 + capacity.UNSAFE, f"unsafe: {said}"
    assert found.ratio >= 1.0 - capacity.OFF, said


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_replica_carries_is_known_after_half_an_hour(name: str) -> None:
    assert_known(judged(OwnSimulator(), name, CALM))


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_and_is_known_when_metrics_are_late_or_missing_and_replicas_unlike(trouble: capacity.Trouble) -> None:
    assert_known(judged(OwnSimulator(), "chat", trouble))


@pytest.mark.full
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_also_where_answers_are_long(trouble: capacity.Trouble) -> None:
    assert_known(judged(OwnSimulator(), "reasoning", trouble))


@pytest.fixture(scope="module")
def dynamo() -> Iterator[DynamoSimulator]:
    if flaw := Environment().flaw:
        pytest.skip(f"simulator dynamo: {flaw}")
    with DynamoSimulator() as simulator:
        yield simulator


@pytest.mark.full
@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_replica_carries_is_known_in_dynamos_replay(dynamo: DynamoSimulator, name: str) -> None:
    assert_known(judged(dynamo, name, CALM))


@pytest.mark.full
@pytest.mark.parametrize("trouble", [one for one in TROUBLES if not one.speeds], ids=lambda trouble: trouble.name)
def test_and_is_known_there_when_metrics_are_late_or_missing(
    dynamo: DynamoSimulator, trouble: capacity.Trouble
) -> None:
    assert_known(judged(dynamo, "chat", trouble))


@cache
def alone() -> float:
    """The truth of one replica, measured once."""
    one = BY_NAME["alone"]
    return capacity.truth(OwnSimulator(), one, one.case, COUNT)


def test_the_truth_is_the_rate_at_which_just_the_allowed_share_misses() -> None:
    one, found = BY_NAME["alone"], alone()
    shares = []
    for per_s in (0.9 * found, 1.1 * found):
        requests = capacity.poisson(lambda _: per_s, per_s, 600.0, capacity.lengths(one))  # noqa: B023
        served = OwnSimulator().run(one.case, requests, "hold", 0.0, 1).served
        shares.append(sum(not capacity.meets(one.case, each) for each in served) / len(served))
    assert shares[0] < 1.0 - one.attainment < shares[1], shares


@pytest.mark.parametrize("about", [0.2, 1.0, 7.0])
def test_the_edge_is_found_from_wherever_one_begins(about: float) -> None:
    assert capacity._edge(lambda rate: min(1.0, 0.02 * (rate / 2.0) ** 9), 0.01, about, 1.15) == pytest.approx(
        2.0 * 0.5 ** (1 / 9)
    )


def test_load_swings_between_what_was_said() -> None:
    rate = capacity.swinging(10.0)
    rates = [rate(second) for second in range(2700)]
    assert (min(rates), max(rates)) == (pytest.approx(4.0), pytest.approx(10.5, rel=1e-3))
    requests = capacity.poisson(rate, 10.5, 2700.0, capacity.lengths(BY_NAME["chat"]))
    assert len(requests) == pytest.approx(2700 * 7.25, abs=4 * math.sqrt(2700 * 7.25))


def known(*rates: float, truth: float = 1.0, name: str = "chat", trouble: str = CALM.name) -> Found:
    """What was believed minute by minute; the last of them for ever."""
    series = [(60.0 * i, rates[min(i, len(rates) - 1)]) for i in range(46)]
    return Found(BY_NAME[name], trouble, "ebbtide", truth, tuple(series))


@pytest.mark.parametrize(
    ("found", "kept", "settled_s"),
    [
        (known(1.0), True, 0.0),
        (known(2.0, 0.5, 0.95), True, 120.0),
        (known(0.95, 0.95, 0.7, 1.04), True, 180.0),
        (known(1.06), False, 0.0),
        (known(0.89), False, None),
    ],
)
def test_what_is_kept_and_since_when(found: Found, kept: bool, settled_s: float | None) -> None:
    assert (found.kept, found.settled_s) == (kept, settled_s)


def test_the_page_says_what_was_kept_and_what_not() -> None:
    found = [known(0.96), known(1.2, name="alone"), known(0.97, trouble="metrics 15 s late")]
    text = page(found, "capacity", "capacity.svg")
    assert "| chat: 8B on a100_sxm, 500 in and 150 out | ebbtide | 4 | 99 %: 1000 ms, 50 ms | 1 | 0.96 | 0.96 |" in text
    assert "Kept in 1 of 2; not: alone in `ebbtide` (nothing) at 1.20." in text
    assert "| chat: metrics 15 s late |" in text and "Kept in 2 of 2." in text
    assert picture_of(found).count("<path") == 2
