import pytest

from ebbtide.bench.rivals.hpa_queue import HpaQueue
from ebbtide.bench.rivals.keda_saturation import KedaSaturation, pool_saturation
from tests.bench.rivals.scenes import case, replay, seen, views


@pytest.mark.parametrize(
    ("loads", "declared", "want"),
    [
        ([(25, 2, 0.1), (25, 1, 0.1)], 2, 4),  # max(ceil(3 / 1), ceil(50 / 16))
        ([(10, 6, 0.1), (10, 0, 0.1)], 2, 6),  # the queue asks for more
        ([(17, 0, 0.1), (17, 0, 0.1)], 2, 2),  # 34 / 32 is within 10 %
        ([(200, 40, 0.9)], 4, 8),  # double at most in 15 s
    ],
)
def test_the_queue_path(loads, declared, want):
    assert HpaQueue(case(), 1.0).decide(seen(0.0, declared, replicas=views(*loads))) == want


def test_half_the_sensitivity_is_twice_the_target():
    fleet = views((60, 0, 0.1), (60, 0, 0.1))
    assert HpaQueue(case(), 1.0).decide(seen(0.0, 3, replicas=fleet)) == 7, "120 / 16 is 8, limited to 4 more"
    assert HpaQueue(case(), 0.5).decide(seen(0.0, 3, replicas=fleet)) == 4


def test_an_empty_result_is_zero_and_drains_the_fleet_after_five_minutes():
    said = replay(HpaQueue(case(), 1.0), seen, 330, declared=6)
    assert said[-3:] == [(285.0, 6), (300.0, 1), (315.0, 1)]


@pytest.mark.parametrize(
    ("loads", "want"),
    [
        ([], 0.0),
        ([(10, 5, 0.4)], 1.0),
        ([(10, 0, 0.4)], 0.5),
        ([(10, 6, 0.1), (10, 0, 0.96)], 1.2),  # (1.2 + 1.2) / 2
    ],
)
def test_pool_saturation_is_the_mean_of_the_fuller_of_queue_and_cache(loads, want):
    assert pool_saturation(seen(replicas=views(*loads))) == pytest.approx(want)


def test_saturation_asks_for_two_replicas_however_many_there_are():
    full = views(*[(1, 6, 0.5)] * 8)
    said = replay(KedaSaturation(case(), 1.0), lambda t, n: seen(t, n, replicas=full), 330, declared=8)
    assert said[-1][1] == 2, "1.2 / 0.7 is 1.7 of 8; 8 running are one replica's"


def test_running_requests_raise_the_saturation_path():
    fleet = views((25, 6, 0.1), (25, 6, 0.1))
    assert KedaSaturation(case(), 1.0).decide(seen(0.0, 2, replicas=fleet)) == 4
