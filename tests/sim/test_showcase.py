"""The demo's fleet: the same for a seed everywhere, shaped as promised, and scaled as the summary claims."""

import pytest

from ebbtide.sim.fleet import FleetSettings, simulate
from ebbtide.sim.policies import EbbtidePolicy
from ebbtide.sim.showcase import WARM_UP_S, requests, scenario, services, warm_up
from ebbtide.sim.static import static_peak

FOUR_MINUTES_S, SIX_MINUTES_S = 240.0, 360.0


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_load_peaks_at_no_more_than_two_and_a_half_times_its_mean(seed: int) -> None:
    for service in services(SIX_MINUTES_S, seed)[:2]:
        rates = [service.shape.rate(float(second)) for second in range(int(SIX_MINUTES_S))]
        assert max(rates) <= 2.5 * sum(rates) / len(rates)
        assert 30.0 <= service.startup_s <= 60.0


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_load_rises_by_half_falls_to_a_quarter_and_begins_to_rise_again(seed: int) -> None:
    for service in services(FOUR_MINUTES_S, seed)[:2]:
        rates = [service.shape.rate(float(second)) for second in range(int(FOUR_MINUTES_S))]
        peak_at, lowest_at = rates.index(max(rates)), rates.index(min(rates))
        assert 30 < peak_at < lowest_at < FOUR_MINUTES_S - 30
        assert max(rates) >= 1.5 * rates[0]
        assert min(rates) <= 0.25 * max(rates)
        assert rates[-1] >= 1.2 * min(rates)


def test_the_warm_up_comes_before_second_0_at_the_rate_with_which_the_load_begins() -> None:
    chat = services(FOUR_MINUTES_S, 1)[0]
    before = warm_up(chat, chat.shape.rate(0.0), 1)
    assert all(-WARM_UP_S <= request.arrival_s < 0.0 for request in before)
    assert len(before) == pytest.approx(chat.shape.rate(0.0) * WARM_UP_S, rel=0.15)


def test_a_seed_gives_the_same_requests_and_another_seed_others() -> None:
    chat = services(SIX_MINUTES_S, 1)[0]
    assert requests(chat, SIX_MINUTES_S, 1) == requests(chat, SIX_MINUTES_S, 1)
    assert requests(chat, SIX_MINUTES_S, 1) != requests(chat, SIX_MINUTES_S, 2)


def test_five_services_show_two_pools_tensorrt_zero_recommend_and_a_conflict() -> None:
    shown = services(SIX_MINUTES_S, 1)
    assert len(shown[0].variants) == 2
    assert [service.engine for service in shown].count("trtllm") == 1
    assert [service.scale_to_zero for service in shown].count(True) == 1
    assert [service.mode.value for service in shown].count("Recommend") == 1
    assert [service.rival_hpa for service in shown].count(True) == 1


@pytest.mark.parametrize("duration_s", [FOUR_MINUTES_S, pytest.param(SIX_MINUTES_S, marks=pytest.mark.full)])
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_scaled_services_meet_97_percent_with_three_quarters_of_the_static_gpu_hours(
    seed: int, duration_s: float
) -> None:
    """The demo's claim, in virtual time at its pace: scrapes each second, cycles of 3 s, rates over 15 s."""
    fleet = scenario(duration_s, seed)
    pace = FleetSettings(scrape_s=1.0, rate_window_s=15.0, cycle_s=3.0)
    results = simulate(fleet, EbbtidePolicy(), pace)[:3]
    static = [static_peak(fleet, service, 0.97) for service in fleet.services[:3]]
    late = sum(result.requests_after_60s for result in results)
    met = sum(result.met_both_after_60s * result.requests_after_60s for result in results)
    assert met / late >= 0.97
    assert sum(r.gpu_hours for r in results) <= 0.75 * sum(peak.result.gpu_hours for peak in static)
