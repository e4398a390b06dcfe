import pytest

from ebbtide.bench.rivals.aibrix_apa import AibrixApa, desired
from tests.bench.rivals.scenes import case, replay, seen, views


@pytest.mark.parametrize(
    ("rho", "current", "want"),
    [
        (1.4, 4, 6),  # ceil(5.6)
        (3.0, 4, 8),  # double at most
        (1.1, 4, 4),
        (0.9, 4, 4),
        (0.8, 5, 4),
        (0.1, 5, 2),  # half at most, rounded down
        (0.1, 1, 1),  # ceil(0.1) is above floor(0.5)
    ],
)
def test_the_algorithm(rho, current, want):
    assert desired(rho, current) == want


def usages(by_second):
    """Four pods at the usage that holds from each second on; the fleet's answers do not change the load."""

    def at(now_s, declared):
        usage = [u for since, u in by_second if since <= now_s][-1]
        return seen(now_s, declared, replicas=views((10, 0, usage)))

    return at


def test_usage_is_the_mean_of_30_s():
    said = replay(AibrixApa(case(), 1.0), usages([(0.0, 0.5), (20.0, 0.8)]), 31, declared=4)
    # 20 s: 0.6 / 0.5 = 1.2, ceil(4.8) = 5; 30 s: 0.7 / 0.5 = 1.4, ceil(7) = 7
    assert said == [(0.0, 4), (10.0, 4), (20.0, 5), (30.0, 7)]


def test_one_dip_takes_the_shipped_form_to_the_least_of_five_minutes_and_the_corrected_one_nowhere():
    traffic = usages([(0.0, 0.5), (60.0, 0.8), (90.0, 0.5), (120.0, 0.3), (130.0, 0.5)])
    shipped = replay(AibrixApa(case(max_replicas=30), 1.0), traffic, 200, declared=4)
    corrected = replay(AibrixApa(case(max_replicas=30), 1.0, corrected=True), traffic, 200, declared=4)
    peak = max(n for _, n in shipped)
    assert peak == max(n for _, n in corrected) > 10
    assert shipped[-1][1] == 4, "the 4 of before the rise"
    assert corrected[-1][1] == peak


def test_no_metrics_hold():
    assert AibrixApa(case(), 1.0).decide(seen(0.0, 4)) is None
