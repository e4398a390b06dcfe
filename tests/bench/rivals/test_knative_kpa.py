import pytest

from ebbtide.bench.rivals.knative_kpa import KnativeKpa
from tests.bench.rivals.scenes import case, replay, seen, views


def load(*concurrency_by_second):
    def at(now_s, declared):
        total = [c for since, c in concurrency_by_second if since <= now_s][-1]
        return seen(now_s, declared, replicas=views((total - 1, 1, 0.1)))

    return at


@pytest.mark.parametrize(
    ("concurrency", "ready", "want"),
    [
        (70, 1, 1),
        (71, 1, 2),
        (590, 1, 9),
        (10_000, 1, 10),  # bounds
    ],
)
def test_the_first_tick_divides_by_70(concurrency, ready, want):
    assert KnativeKpa(case(), 1.0).decide(load((0.0, concurrency))(0.0, ready)) == want


def test_without_panic_a_minute_is_averaged():
    said = dict(replay(KnativeKpa(case(), 1.0), load((0.0, 70), (60.0, 130)), 130, declared=1))
    assert said[58.0] == 1
    assert said[60.0] == 2, "one sample of 130 lifts the mean to 72; ceil(130 / 70) = 2 is panic as well"
    assert said[128.0] == 2


def test_panic_takes_six_seconds_and_never_lowers_until_a_minute_has_passed():
    said = dict(replay(KnativeKpa(case(), 1.0), load((0.0, 130), (70.0, 590), (80.0, 70)), 240, declared=2))
    # 130 for a minute: 2. At 70 s the panic mean is (130 + 130 + 590) / 3 = 283, 5 of 2 replicas
    assert said[68.0] == 2
    assert said[70.0] == 5
    assert said[74.0] == 9, "ceil(590 / 70)"
    assert {n for t, n in said.items() if 74.0 <= t <= 130.0} == {9}
    assert said[132.0] == 4, "a minute after 70 s panic is over; down to half at most: floor(9 / 2)"
    assert said[238.0] == 1


def test_a_start_with_several_replicas_begins_in_panic():
    said = dict(replay(KnativeKpa(case(), 1.0), load((0.0, 70)), 70, declared=6))
    assert (said[60.0], said[62.0]) == (6, 3)


def test_no_data_hold():
    assert KnativeKpa(case(), 1.0).decide(seen(0.0, 4)) is None
