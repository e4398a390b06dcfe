import pytest

from ebbtide.bench.rivals.hpa import Behaviour, Limit, Stage, average_value
from tests.bench.rivals.scenes import case

WIDE = case(max_replicas=100)


@pytest.mark.parametrize(
    ("total", "target", "current", "want"),
    [
        (33.0, 16.0, 1, 3),
        (33.0, 16.0, 2, 2),  # 33 / 32 is within 10 %
        (35.2, 16.0, 2, 2),  # 1.1 exactly still is
        (35.3, 16.0, 2, 3),
        (144.0, 16.0, 10, 10),  # 0.9 exactly still is
        (143.9, 16.0, 10, 9),
        (16.0, 16.0, 2, 1),
        (0.0, 16.0, 2, 0),
        (5.0, 16.0, 0, 1),
    ],
)
def test_average_value(total, target, current, want):
    assert average_value(total, target, current) == want


@pytest.mark.parametrize(
    ("limit", "start", "reach", "depth"),
    [
        (Limit(pods=4, percent=100.0), 3, 4, 4),
        (Limit(pods=4, percent=100.0), 9, 9, 9),
        (Limit(percent=50.0), 5, 3, 3),  # up to ceil(7.5), down to floor(2.5)
        (Limit(pods=1), 7, 1, 1),
    ],
)
def test_limits_take_the_wider_of_pods_and_percent(limit, start, reach, depth):
    assert (limit.reach(start), limit.depth(start)) == (reach, depth)


def test_by_default_up_is_at_once_but_at_most_double_or_four_in_15_s():
    stage = Stage(WIDE)
    assert stage.settle(0.0, 3, 50) == 7, "4 pods are more than 100 % of 3"
    assert stage.settle(5.0, 7, 50) == 7, "the period began at 3"
    assert stage.settle(15.0, 7, 50) == 14
    assert stage.settle(30.0, 14, 16) == 16


def test_by_default_down_waits_for_the_greatest_of_300_s():
    stage = Stage(WIDE)
    assert stage.settle(0.0, 8, 8) == 8
    for now_s in range(15, 300, 15):
        assert stage.settle(float(now_s), 8, 2 if now_s != 60 else 5) == 8
    assert stage.settle(300.0, 8, 2) == 5, "the 8 of second 0 is out, the 5 of second 60 is not"
    assert stage.settle(345.0, 5, 2) == 5
    assert stage.settle(360.0, 5, 2) == 2


def test_a_controller_that_starts_keeps_what_it_finds_for_its_window():
    assert Stage(WIDE).settle(0.0, 8, 1) == 8


def test_up_waits_for_the_least_of_its_window():
    stage = Stage(WIDE, Behaviour(up_window_s=30.0))
    assert [stage.settle(t, 2, d) for t, d in ((0.0, 4), (15.0, 6), (30.0, 5), (45.0, 9))] == [2, 2, 5, 5]


def test_one_pod_down_per_two_minutes():
    stage, now = Stage(WIDE, Behaviour(down_window_s=0.0, down=Limit(pods=1, period_s=120.0))), 6
    counts = []
    for tick in range(17):
        now = stage.settle(15.0 * tick, now, 1)
        counts.append(now)
    assert counts == [5] * 8 + [4] * 8 + [3]


def test_each_direction_counts_its_own_period():
    stage = Stage(WIDE, Behaviour(down=Limit(pods=10, period_s=150.0)))
    assert stage.settle(0.0, 3, 50) == 7
    assert stage.settle(15.0, 7, 50) == 14, "the change of 15 s ago is over, although the other direction remembers it"


def test_bounds_come_last():
    stage = Stage(case(min_replicas=2, max_replicas=5), Behaviour(down_window_s=0.0))
    assert stage.settle(0.0, 4, 40) == 5
    assert stage.settle(15.0, 5, 0) == 2
