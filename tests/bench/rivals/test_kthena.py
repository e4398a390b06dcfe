import pytest

from ebbtide.bench.rivals.kthena import Kthena, desired
from tests.bench.rivals.scenes import case, replay, seen, views


@pytest.mark.parametrize(
    ("total", "current", "unready", "want"),
    [
        (4.3, 3, 0, 5),
        (4.3, 8, 0, 5),
        (1.05, 8, 0, 8),  # the quirk: one pod's worth keeps eight
        (0.95, 8, 0, 8),
        (0.5, 8, 0, 1),
        (1.2, 8, 0, 2),
        (4.3, 3, 1, 5),  # 4.3 / 2 is above one pod's worth
        (2.1, 1, 1, 1),  # 2.1 / 2 is within 10 %
        (2.5, 1, 2, 1),  # 2.5 / 3 turns the direction
        (4.3, 8, 1, 8),  # asks for fewer although it points up
        (0.5, 8, 2, 1),  # below one pod's worth the starting ones do not count
    ],
)
def test_the_recommendation(total, current, unready, want):
    assert desired(total, current, unready) == want


def load(requests_by_second):
    def at(now_s, declared):
        requests = [r for since, r in requests_by_second if since <= now_s][-1]
        return seen(now_s, declared, replicas=views((requests, 0, 0.1)))

    return at


def test_calm_growth_is_by_one_or_double_in_15_s():
    said = replay(Kthena(case(max_replicas=50), 1.0), load([(0.0, 40), (15.0, 70)]), 45, declared=4)
    assert said == [(0.0, 4), (15.0, 7), (30.0, 7)]


def test_panic_goes_up_at_once_and_holds_a_minute():
    # 95 requests against 4 pods are 10, beyond twice; then 20 ask for 2
    said = replay(Kthena(case(max_replicas=50), 1.0), load([(0.0, 40), (15.0, 95), (30.0, 20)]), 420, declared=4)
    assert said[1] == (15.0, 10)
    assert {n for t, n in said if 15.0 <= t < 315.0} == {10}, "panic until 75 s, then the 10 of the last five minutes"
    assert said[-1][1] == 2


def test_no_metrics_hold():
    assert Kthena(case(), 1.0).decide(seen(0.0, 4)) is None
