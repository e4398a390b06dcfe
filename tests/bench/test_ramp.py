"""llm-d's ramp: the traffic, both scorers, and what the page says of who is better."""

from collections import Counter
from pathlib import Path

import pytest
from benchmarks import ramp
from benchmarks.ramp import DECLARED, LAW, Outcome, outcome, own, page, requests, theirs

from ebbtide.bench.run import RunResult, Served


def served(*ends: tuple[float | None, float | None]) -> RunResult:
    """Requests by (first token, gap), one a second."""
    rows = tuple(
        Served(float(i), 4000, 1000, ttft, gap, None if gap is None else i + 50.0) for i, (ttft, gap) in enumerate(ends)
    )
    return RunResult(rows, ((0.0, 3, 3),), 15.0, 0.0, 0, 0.1)


def test_the_ramp_is_as_published_and_jittered_by_its_seed() -> None:
    found = requests(1)
    by_minute = Counter(int(request.arrival_s // 30) for request in found)
    assert len(found) == sum(per_s * length_s for per_s, length_s in ramp.STAGES)
    assert [by_minute[i] for i in (0, 12, 24, 36, 48, 60, 72)] == [60, 120, 180, 240, 300, 120, 30]
    assert [request.arrival_s for request in found] == sorted(request.arrival_s for request in found)
    assert requests(1) == found != requests(2)


def test_their_scorer_counts_both_misses_and_no_request_that_never_began() -> None:
    result = served((1.0, 0.05), (4.0, 0.2), (4.0, 0.05), (1.0, 0.05), (None, None))
    assert theirs(ramp.CASE, result) == pytest.approx(1 - 3 / 4)
    found = outcome(ramp.CASE, result)
    assert found.strict == pytest.approx(2 / 5)
    assert found.replicas == pytest.approx(15.0 / 4.0)


def told(law: Outcome, *mine: Outcome) -> str:
    return page(
        {**{own(share): [one] for share, one in zip(DECLARED, mine, strict=True)}, LAW: [law]}, "ramp", "abc", "fake"
    )


def test_the_page_says_whether_the_comparison_holds_and_who_is_better_on_which_axis() -> None:
    near = told(Outcome(0.955, 0.95, 6.0), Outcome(0.99, 0.99, 6.2), Outcome(0.97, 0.96, 5.5))
    assert "Here it comes to 95.5% at 6.00, so the comparison holds." in near
    assert "99 % declared: attains more, with no fewer replicas: better on 1 of 2 axes." in near
    assert "95.8 % declared: attains more, with fewer replicas: better on 2 of 2 axes." in near
    far = told(Outcome(0.876, 0.876, 5.58), Outcome(0.8, 0.9, 5.0), Outcome(0.9, 0.8, 6.0))
    assert "this replay is not their cluster" in far
    assert "99 % declared: does not attain more by both scorers, with fewer replicas: better on 1 of 2" in far


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([], "docs/benchmarks/ramp.md"),
        (["--seeds", "3"], "out/ramp/tried.md"),
        (["--simulator", "ebbtide"], "out/ramp/tried.md"),
        (["--seeds", "3", "--page", "x.md"], "x.md"),
    ],
)
def test_a_try_leaves_the_committed_page_alone(given: list[str], where: str) -> None:
    assert ramp.options_from(given).page == Path(where)
