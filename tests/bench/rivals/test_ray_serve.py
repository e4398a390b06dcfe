import pytest

from ebbtide.bench.rivals.ray_serve import RayServe, desired
from tests.bench.rivals.scenes import case, replay, seen, views


@pytest.mark.parametrize(
    ("total", "ready", "want"),
    [
        (15.0, 5, 8),  # 5 x 1.5 = 7.5
        (10.0, 5, 5),
        (3.0, 5, 2),
        (0.0, 5, 0),
        (7.0, 0, 1),
        (0.0, 0, 0),
    ],
)
def test_the_wish_of_one_tick(total, ready, want):
    assert desired(total, ready) == want


def load(*requests_by_second):
    def at(now_s, declared):
        requests = [r for since, r in requests_by_second if since <= now_s][-1]
        return seen(now_s, declared, replicas=views((requests, 0, 0.1)))

    return at


def test_up_after_30_s_of_agreement_on_the_mean_of_30_s():
    said = dict(replay(RayServe(case(), 1.0), load((0.0, 8), (20.0, 12)), 100, declared=4))
    assert said[45.0] == 4
    assert said[50.0] == 6, "above 8 from 20 s on; at 50 s the mean is 12"


def test_a_contrary_tick_starts_the_30_s_again():
    # the mean is above 8 from 20 to 30 s, 8 or less from 35 to 60 s, above it again from 65 s on
    calm = load((0.0, 8), (20.0, 12), (30.0, 4), (40.0, 8), (60.0, 12))
    said = dict(replay(RayServe(case(), 1.0), calm, 100, declared=4))
    assert said[90.0] == 4
    assert said[95.0] == 6


def test_down_after_ten_minutes():
    said = dict(replay(RayServe(case(), 1.0), load((0.0, 2)), 700, declared=4))
    assert (said[595.0], said[600.0]) == (4, 1)


def test_with_none_ready_what_is_asked_for_stays_and_one_is_the_least():
    assert RayServe(case(), 1.0).decide(seen(0.0, 3, ready=0)) == 3
    waiting = seen(0.0, 0, ready=0, replicas=views((0, 5, 0.0)))
    assert RayServe(case(min_replicas=0), 1.0).decide(waiting) == 1


def test_no_metrics_are_no_requests():
    said = dict(replay(RayServe(case(), 1.0), seen, 700, declared=4))
    assert (said[595.0], said[600.0]) == (4, 1)
