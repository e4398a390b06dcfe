import pytest

from ebbtide.bench.rivals.wva_v1 import WvaV1, step
from tests.bench.rivals.scenes import case, replay, seen, views


@pytest.mark.parametrize(
    ("loads", "want"),
    [
        ([(0.30, 0.0), (0.30, 0.0)], -1),  # 0.80 - 2 x 0.30 = 0.20 is left
        ([(0.35, 0.0), (0.35, 0.0)], -1),  # 0.10 is left, just enough
        ([(0.36, 0.0), (0.36, 0.0)], 0),  # 0.08 would be left
        ([(0.30, 1.5), (0.30, 1.5)], 0),  # 5 - 2 x 1.5 = 2 of the queue would be left
        ([(0.10, 0.0)], 0),  # one stays
        ([(0.71, 0.0)], 1),  # 0.09 spare
        ([(0.70, 0.0)], 0),
        ([(0.30, 2.5)], 1),  # 2.5 of the queue spare
        ([(0.85, 0.0), (0.10, 5.0)], 1),  # all saturated
        ([(0.85, 0.0), (0.10, 0.0)], 0),  # the saturated one does not count
        ([(0.85, 0.0), (0.10, 0.0), (0.10, 0.0)], -1),
    ],
)
def test_one_step_by_spare_cache_and_spare_queue(loads, want):
    assert step(loads) == want


def fleet(usage, waiting=0):
    return lambda t, n: seen(t, n, replicas=views(*[(10, waiting, usage)] * n))


def test_one_replica_at_a_time_is_added_while_saturated():
    said = replay(WvaV1(case(), 1.0), fleet(0.9), 600)
    changes = [t for (t, n), (_, before) in zip(said[1:], said, strict=False) if n != before]
    assert said[-1][1] == 4
    assert changes == [240.0, 525.0], "emitted at 0 and 300 s; the HPA waits until 240 s saw nothing less"


def test_from_ten_on_a_single_step_never_passes_the_tolerance_unless_it_is_corrected():
    saturated = case(max_replicas=14)
    shipped = replay(WvaV1(saturated, 1.0), fleet(0.9), 600, declared=10)
    corrected = replay(WvaV1(saturated, 1.0, corrected=True), fleet(0.9), 600, declared=10)
    assert {n for _, n in shipped} == {10}
    assert corrected[-1][1] == 12


def test_usage_counts_by_its_greatest_of_the_last_minute():
    spiking = WvaV1(case(), 1.0)
    calm = WvaV1(case(), 1.0)
    said = replay(spiking, lambda t, n: fleet(0.9 if t % 60 == 45 else 0.5)(t, n), 400)
    assert said[-1][1] == 3
    assert replay(calm, fleet(0.5), 400)[-1][1] == 2


def test_a_count_under_way_holds_whatever_comes():
    said = dict(replay(WvaV1(case(), 1.0), lambda t, n: fleet(0.9 if t < 30 else 0.5)(t, n), 600))
    assert (said[225.0], said[240.0], said[585.0]) == (2, 3, 3), "the wish of second 0 stands, the load long gone"


def test_a_replica_without_metrics_holds():
    idle = views((1, 0, 0.05), (1, 0, 0.05))
    said = replay(WvaV1(case(), 1.0), lambda t, n: seen(t, n, ready=2, replicas=idle), 900, declared=3)
    assert {n for _, n in said} == {3}


def test_no_metrics_hold():
    assert WvaV1(case(), 1.0).decide(seen(0.0, 4)) is None


def test_the_emitted_count_stays_in_bounds_so_that_it_can_come_down_again():
    policy = WvaV1(case(max_replicas=3), 1.0)
    said = replay(policy, lambda t, n: fleet(0.9 if t < 900 else 0.05)(t, n), 2400)
    assert max(n for _, n in said) == 3
    assert said[-1][1] == 1
