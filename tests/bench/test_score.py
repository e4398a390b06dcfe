"""What one run is worth, on runs small enough to be added up by hand."""

import pytest

from ebbtide.bench.run import RunResult, Served
from ebbtide.bench.score import lifetimes_s, meets, score, worst_window
from tests.bench.analytic import CASE

GOOD = Served(0.0, 100, 10, 0.5, 0.04, 1.0)


def result(served: tuple[Served, ...] = (), **changed: object) -> RunResult:
    facts: dict[str, object] = {
        "replicas": ((0.0, 2, 2),),
        "billed_s": 7200.0,
        "startup_billed_s": 0.0,
        "scale_events": 0,
        "wall_s": 1.5,
    }
    return RunResult(served=served, **(facts | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "request_", "met"),
    [
        ("both in time", GOOD, True),
        ("both exactly at the objective", Served(0.0, 100, 10, 1.0, 0.05, 2.0), True),
        ("first token late", Served(0.0, 100, 10, 1.001, 0.04, 2.0), False),
        ("tokens too far apart", Served(0.0, 100, 10, 0.5, 0.051, 2.0), False),
        ("one token is judged by the first alone", Served(0.0, 100, 1, 0.5, 0.0, 0.5), True),
        ("never a token", Served(0.0, 100, 10, None, None, None), False),
        ("cut off in the middle", Served(0.0, 100, 10, 0.5, 0.04, None), False),
        ("no gap known", Served(0.0, 100, 10, 0.5, None, 2.0), False),
    ],
)
def test_a_request_is_met_when_its_whole_answer_came_in_time(story: str, request_: Served, met: bool) -> None:
    assert meets(CASE, request_) is met, story


def test_attainment_counts_what_was_submitted() -> None:
    lost = Served(1.0, 100, 10, None, None, None)

    judged = score(CASE, result((GOOD, GOOD, GOOD, lost)))

    assert (judged.submitted, judged.missed, judged.attainment) == (4, 1, 0.75)


def test_percentiles_rank_those_that_never_came_last() -> None:
    came = tuple(Served(0.0, 1, 5, 0.1 * i, 0.001 * i, 9.0) for i in range(1, 97))
    lost = tuple(Served(0.0, 1, 5, None, None, None) for _ in range(4))

    judged = score(CASE, result(came + lost))

    assert (judged.ttft_ms.p50, judged.ttft_ms.p95, judged.ttft_ms.p99) == (5000.0, 9500.0, None)
    assert (judged.itl_ms.p50, judged.itl_ms.p99) == (48.0, 96.0)  # of the 96 answers alone


def test_answers_of_one_token_say_nothing_of_the_gaps() -> None:
    judged = score(CASE, result((Served(0.0, 100, 1, 0.5, 0.0, 0.5),)))

    assert judged.itl_ms.p50 is None


def test_the_bill_by_the_second_by_the_hour_and_in_gpu_hours() -> None:
    # two for 3,600 s; a third from 600 s to 630 s, which is billed as 60 s and as one hour
    run = result(
        replicas=((0.0, 2, 2), (600.0, 3, 2), (630.0, 2, 2), (3600.0, 0, 0)),
        billed_s=7230.0,
        startup_billed_s=30.0,
        scale_events=2,
    )

    judged = score(CASE, run)

    per_replica_hour = 2 * 1.80
    assert judged.cost == pytest.approx(per_replica_hour * 7260 / 3600)
    assert judged.cost_hourly == pytest.approx(per_replica_hour * 3)
    assert judged.gpu_hours == pytest.approx(2 * 7230 / 3600)
    assert judged.start_up_share == pytest.approx(30 / 7230)
    assert judged.scale_events_per_replica_day == pytest.approx(2 / (7230 / 86400))


@pytest.mark.parametrize(
    ("story", "replicas", "billed_s", "lives_s"),
    [
        ("nothing changes, so the bill says when it ended", ((0.0, 2, 2),), 500.0, [250.0, 250.0]),
        ("the youngest goes first", ((0.0, 1, 1), (10.0, 2, 1), (40.0, 1, 1)), 130.0, [30.0, 100.0]),
        ("two leave at once", ((0.0, 3, 3), (20.0, 1, 1)), 110.0, [20.0, 20.0, 70.0]),
        ("all are gone", ((0.0, 1, 1), (25.0, 0, 0)), 25.0, [25.0]),
        ("nothing was ever there", (), 0.0, []),
    ],
)
def test_lifetimes_add_up_to_the_bill(
    story: str, replicas: tuple[tuple[float, int, int], ...], billed_s: float, lives_s: list[float]
) -> None:
    found = lifetimes_s(result(replicas=replicas, billed_s=billed_s))

    assert sorted(found) == sorted(lives_s), story
    assert sum(found) == pytest.approx(billed_s)


def test_the_worst_five_minutes_are_found_where_they_are() -> None:
    # one request a second for 20 minutes; those of 420 s to 480 s are missed: 60 of the 300 of any window around them
    arrivals = [float(second) for second in range(1200)]
    met = [not 420 <= second < 480 for second in range(1200)]

    assert worst_window(arrivals, met) == pytest.approx(0.8)
    # so are those of the last minute: what is left of a window at the end is no five minutes
    assert worst_window(arrivals, [second < 1140 for second in range(1200)]) == pytest.approx(0.8)


def test_five_minutes_with_hardly_any_request_do_not_count() -> None:
    arrivals = [float(second) for second in range(300)] + [900.0, 901.0]

    assert worst_window(arrivals, [True] * 300 + [False, False]) == 1.0
    assert worst_window([1.0, 2.0], [False, False]) is None
    assert worst_window([], []) is None


def test_an_empty_run_divides_by_nothing() -> None:
    judged = score(CASE, result(replicas=(), billed_s=0.0))

    assert (judged.attainment, judged.cost, judged.start_up_share) == (1.0, 0.0, 0.0)
    assert judged.worst_5min is None
