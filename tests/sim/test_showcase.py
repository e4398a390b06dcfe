"""The demo's fleet: the same for a seed everywhere, shaped as promised, and scaled as the summary claims."""

import pytest

from ebbtide.sim.fleet import FleetSettings, simulate
from ebbtide.sim.policies import EbbtidePolicy
from ebbtide.sim.showcase import requests, scenario, services
from ebbtide.sim.static import static_peak

SIX_MINUTES_S = 360.0


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_load_peaks_at_no_more_than_two_and_a_half_times_its_mean(seed: int) -> None:
    for service in services(SIX_MINUTES_S, seed)[:2]:
        rates = [service.shape.rate(float(second)) for second in range(int(SIX_MINUTES_S))]
        assert max(rates) <= 2.5 * sum(rates) / len(rates)
        assert 30.0 <= service.startup_s <= 60.0


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


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_scaled_services_meet_97_percent_with_three_quarters_of_the_static_gpu_hours(seed: int) -> None:
    """The demo's claim, in virtual time at its pace: scrapes each second, cycles of 3 s, rates over 15 s."""
    fleet = scenario(SIX_MINUTES_S, seed)
    pace = FleetSettings(scrape_s=1.0, rate_window_s=15.0, cycle_s=3.0, lead_s=40.0)
    results = simulate(fleet, EbbtidePolicy(), pace)[:3]
    static = [static_peak(fleet, service, 0.97) for service in fleet.services[:3]]
    late = sum(result.requests_after_60s for result in results)
    met = sum(result.met_both_after_60s * result.requests_after_60s for result in results)
    assert met / late >= 0.97
    assert sum(r.gpu_hours for r in results) <= 0.75 * sum(peak.result.gpu_hours for peak in static)
