"""What the fleet of `ebbtide demo --scenario budget` would cost without its ceiling, in virtual time.

In a process of its own, as the static reference is: `python -m ebbtide.cli.demo_bill`.
"""

from ebbtide.sandbox import demo_reference
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.demo_reference import References
from ebbtide.sim import showcase
from ebbtide.sim.fleet import FleetSettings, simulate
from ebbtide.sim.policies import EbbtidePolicy


def unconstrained(options: DemoOptions) -> References:
    """GPU-hours of each pool, of one service each, that the fleet takes under Ebbtide without a ceiling."""
    chosen, pace = showcase.budget_services(options.duration_s, options.seed), options.pace
    settings = FleetSettings(scrape_s=pace.scrape_s, rate_window_s=pace.rate_window_s, cycle_s=pace.cycle_s)
    scenario = showcase.scenario(options.duration_s, options.seed, chosen)
    found = simulate(scenario, EbbtidePolicy(), settings)
    hours = {service.variants[0][0]: result.gpu_hours for service, result in zip(chosen, found, strict=True)}
    return References(gpu_hours=hours)


if __name__ == "__main__":
    demo_reference.main(unconstrained)
