"""One more replica, or one fewer: what it saves beside what it costs, start-up included."""

import random
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core import sizing
from ebbtide.core.plan import plan
from ebbtide.core.worth import START_STEPS, STEPS, path, states, wanted
from ebbtide.model.spec import Objectives
from tests.builders import Fleet, pool, spec, variant_spec


@pytest.mark.parametrize(
    ("story", "saving", "starts", "keeps"),
    [
        ("it saves nothing", 0.0, False, False),
        ("it saves less than it costs", 0.9, False, False),
        ("it pays for itself, but not for its start-up", 1.1, False, True),
        ("it pays for its start-up too", 1.6, True, True),
    ],
)
def test_a_start_must_pay_its_start_up_back_and_what_runs_only_itself(story, saving, starts, keeps):
    on, off, starting = states([saving] * STEPS)
    assert (starting < off) is starts, story
    assert (on <= off) is keeps, story


def test_what_will_soon_be_needed_again_is_kept_and_what_comes_later_is_not_yet_started():
    lull = [0.0] * 3 + [3.0] * (STEPS - 3)
    on, off, _ = states(lull)
    assert on <= off, "a lull shorter than a start-up"
    later = [0.0] * (STEPS - 2) + [3.0] * 2
    _, off, starting = states(later)
    assert starting >= off, "time enough to start it then"


def test_a_price_that_is_about_to_rise_stops_a_start_and_one_that_falls_lets_it_pay():
    saving = [1.6] * STEPS
    _, off, starting = states(saving, [1.0] * START_STEPS + [2.0] * (STEPS - START_STEPS))
    assert starting >= off, "at 1.6 it pays for its start-up at the present price, not at twice that"
    _, off, starting = states([1.1] * STEPS, [1.0] * START_STEPS + [0.5] * (STEPS - START_STEPS))
    assert starting < off


def test_the_next_change_of_price_is_part_of_what_a_start_costs():
    """A replica that would hardly pay is not started where each of its minutes is about to cost five times as much."""
    fleet = Fleet(spec(variants=[variant_spec()]), {"h100": 2})
    fleet.run(40.0, 1500)

    def wanted_at(load, price=None):
        state = pool()
        if price is not None:
            changes = {"next_price_change_at": fleet.now_s + 60.0, "next_price_per_gpu_hour": Decimal(price)}
            state = msgspec.structs.replace(state, **changes)
        decided, _ = plan(fleet.snapshot(load, pools=[state]), fleet.loop.memory, fleet.now_s)
        return decided.services[0].variants[0].wanted

    loads = [44.0 + load for load in range(40)]
    dearer, same, cheaper = ([wanted_at(load, price) for load in loads] for price in ("15.00", "3.00", "1.00"))
    assert same == [wanted_at(load) for load in loads]
    assert all(few <= many for few, many in zip(dearer, same, strict=True)) and sum(dearer) < sum(same)
    assert all(many <= more for many, more in zip(same, cheaper, strict=True)) and sum(same) < sum(cheaper)


def test_values_between_the_horizons():
    assert path(1.0, 2.0, 4.0, horizons_s=(60.0, 100.0, 300.0), step_s=25.0)[:2] == [1.0, 1.0]
    assert path(1.0, 2.0, 4.0, horizons_s=(60.0, 100.0, 300.0), step_s=25.0)[-1] == pytest.approx(3.875)
    assert START_STEPS * 3 == STEPS


def falling(peak):
    """Savings of the n-th replica that fall by half with each beyond `peak`."""
    return lambda n: [min(4.0, 2.5 * 2.0 ** (peak - n))] * STEPS


def one_by_one(runs, savings):
    best = runs
    for n in range(runs + 1, 200):
        _, off, starting = states(savings(n))
        best = n if starting < off else best
    if best > runs:
        return best
    while best > 0:
        on, off, _ = states(savings(best))
        if on <= off:
            break
        best -= 1
    return best


@given(runs=st.integers(0, 80), peak=st.floats(0.0, 80.0), wrong=st.integers(-20, 20))
def test_the_search_finds_what_looking_at_each_finds_wherever_it_begins(runs, peak, wrong):
    full = max(0, int(peak) + wrong)
    assert wanted(runs, full, falling(peak), 10_000) == one_by_one(runs, falling(peak))


@pytest.mark.slow
@pytest.mark.parametrize("attainment", [0.80, 0.90, 0.95])
def test_after_ten_quiet_hours_a_higher_load_still_gets_the_replicas_that_it_fills(attainment):
    """40 requests/s miss nothing for so long that a miss gets cheap; 90 then come, and are not missed for its sake."""
    objectives = Objectives(ttft_s=1.0, itl_s=0.05, attainment=attainment)
    fleet = Fleet(spec(variants=[variant_spec()], objectives=objectives), {"h100": 3})
    fleet.run(40.0, 10 * 3600)
    assert min(fleet.history[-360:]) >= 2, "25 requests/s each"
    fleet.history.clear()
    fleet.run(90.0, 1200)
    assert min(fleet.history[6:]) >= 3
    assert fleet.total == 4


@pytest.mark.slow
def test_after_a_collapse_the_fleet_goes_and_does_not_come_back_for_a_load_that_might():
    """75 requests/s for an hour, then 12: they may return, but each quiet minute makes that no dearer."""
    objectives = Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99, window_s=2700.0)
    fleet = Fleet(spec(variants=[variant_spec()], objectives=objectives), {"h100": 4})
    fleet.run(75.0, 3600)
    assert fleet.total >= 3
    fleet.history.clear()
    fleet.run(12.0, 2700)
    assert max(fleet.history[90:]) == 1, "within 15 minutes, and for good"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("startup_s", "hours", "before", "after"),
    [
        (60.0, 1, 75.0, 8.0),
        (60.0, 4, 200.0, 10.0),
        (150.0, 1, 200.0, 10.0),
        (150.0, 4, 75.0, 8.0),
        (400.0, 1, 75.0, 8.0),
        (400.0, 1, 200.0, 10.0),
        (400.0, 4, 200.0, 10.0),
    ],
)
@pytest.mark.parametrize("window_s", [3600.0, 86_400.0])
def test_an_idle_fleet_is_gone_within_a_quarter_of_an_hour_of_a_collapse(startup_s, hours, before, after, window_s):
    """Loads with 10 % of noise, also where nobody knows yet how often such a load jumps."""
    objectives = Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99, window_s=window_s)
    fleet = Fleet(spec(variants=[variant_spec()], objectives=objectives), {"h100": 4}, startup_s=startup_s)
    draw = random.Random(1)

    def cycles(load, count):
        for _ in range(count):
            fleet.cycle(load * max(0.0, draw.gauss(1.0, 0.1)))

    cycles(before, hours * 360)
    assert fleet.total >= before / 25.0, "25 requests/s each"
    fleet.history.clear()
    cycles(after, 180)
    assert max(fleet.history[90:]) == 1


@pytest.mark.parametrize(
    ("story", "comes", "expected", "need", "ratio"),
    [
        ("what is missed on purpose is no leap", 22.9, 22.9, 17.8, 1.0),
        ("a leap that the forecast has not learnt of", 14.0, 11.0, 10.0, 14.0 / 11.0),
        ("a fall that is foreseen has not come", 14.0, 5.0, 6.0, 14.0 / 6.0),
        ("nothing is needed", 14.0, 0.0, 0.0, 0.0),
    ],
)
def test_what_comes_beyond_what_was_expected_is_not_let_go(story, comes, expected, need, ratio):
    draft: Any = SimpleNamespace(
        variants=[SimpleNamespace(need=need)],
        weighed=SimpleNamespace(expected=expected),
        demand=SimpleNamespace(work=comes, known=True),
    )
    assert sizing.seen_ratio(draft) == pytest.approx(ratio), story
