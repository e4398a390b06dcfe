import pytest

from ebbtide.bench.policy import Latency
from ebbtide.bench.rivals.slo_law import SloLaw, desired, nearness
from tests.bench.rivals.scenes import case, p90, replay, seen


@pytest.mark.parametrize(
    ("signal", "declared", "ready", "shipped", "corrected"),
    [
        (0.8, 8, 4, 6, 8),  # s c = 0.4 is below 0.55: the branch that raises lowers
        (2.0, 6, 3, 11, 11),
        (0.3, 8, 8, 6, 6),
        (0.0, 8, 8, 0, 0),
        (0.5, 8, 8, 8, 8),  # between the thresholds
        (0.55, 8, 8, 8, 8),
        (0.4, 8, 8, 8, 8),
        (0.8, 8, 8, 12, 12),  # 8 + ceil(8 x 0.4545) = 8 + 4
        (0.8, 8, 0, 12, 12),  # no replica ready: no credit
        (0.8, 8, 9, 12, 12),  # more ready than declared, while one drains
    ],
)
def test_the_law(signal, declared, ready, shipped, corrected):
    assert desired(signal, declared, ready, corrected=False) == shipped
    assert desired(signal, declared, ready, corrected=True) == corrected


def test_nearness_is_p90_over_the_objective_and_0_without_traffic():
    assert nearness(Latency(0.1, 0.1, 1.5, 9.0), 3.0) == 0.5
    assert nearness(None, 3.0) == 0.0


def test_the_worse_of_both_latencies_counts_and_rises_after_30_s():
    law = SloLaw(case(max_replicas=8), 1.0)
    said = replay(law, lambda t, n: seen(t, n, ttft=p90(0.3), itl=p90(0.088)), 50, declared=4)
    # s = 0.88: 4 + ceil(4 x 0.6) = 7; the first recommendation is what was found
    assert said == [(0.0, 4), (15.0, 4), (30.0, 7), (45.0, 7)]


def test_the_knob_multiplies_the_latencies():
    def after(multiple):
        law = SloLaw(case(max_replicas=20), multiple)
        return replay(law, lambda t, n: seen(t, n, itl=p90(0.05)), 35, declared=4)[-1][1]

    # s = 0.5, 0.6 and 1: as it is, 4 + ceil(0.36), 4 + ceil(3.27)
    assert (after(1.0), after(1.2), after(2.0)) == (4, 5, 8)


def test_latencies_are_smoothed_over_45_s_and_capped_at_twice_the_objective():
    law = SloLaw(case(max_replicas=50), 1.0)
    latencies = {0.0: 0.04, 15.0: 0.04, 30.0: 9.0, 45.0: 0.04, 60.0: 0.04}
    # from 30 to 60 s: s = (0.4 + 0.4 + 2) / 3 = 0.933, wants 4 + ceil(2.79) = 7; the window lets it pass at 45 s
    said = replay(law, lambda t, n: seen(t, n, itl=p90(latencies[t])), 75, declared=4)
    assert [n for _, n in said] == [4, 4, 4, 7, 7]


def test_without_metrics_the_fleet_drains_one_pod_per_two_minutes_after_three():
    said = replay(SloLaw(case(), 1.0), seen, 425, declared=5)
    assert next(now_s for now_s, n in said if n == 4) == 180.0
    assert next(now_s for now_s, n in said if n == 3) == 300.0
    assert said[-1] == (420.0, 2)


def test_the_shipped_law_lowers_while_a_long_start_up_lasts_and_the_corrected_one_does_not():
    def warming(now_s, declared):
        return seen(now_s, declared, ready=4, itl=p90(0.08))

    shipped = replay(SloLaw(case(), 1.0), warming, 300, declared=8)
    corrected = replay(SloLaw(case(), 1.0, corrected=True), warming, 300, declared=8)
    assert shipped[-1][1] < 8
    assert corrected[-1][1] == 8
