"""Each rival on a small cluster: when and where a Job starts and is stopped; the clairvoyant plan and its bound."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.bench.batch import clairvoyant
from ebbtide.bench.batch.feasible import feasible
from ebbtide.bench.batch.load import BEGIN_S
from ebbtide.bench.batch.rivals.apart import Apart
from ebbtide.bench.batch.rivals.at_once import AtOnce
from ebbtide.bench.batch.rivals.kept_up import KeptUp, required
from ebbtide.bench.batch.rivals.knowing import Knowing
from ebbtide.bench.batch.rivals.window import Window
from ebbtide.bench.batch.running import Running
from ebbtide.bench.batch.scenario import Reserved
from ebbtide.bench.batch.score import score
from ebbtide.bench.batch.world import POOLS
from tests.bench.batch.scenes import HOUR_S, ON_DEMAND, ended, job, lived, scenario, stage, steady

RESERVED, ELASTIC, APART = range(len(POOLS))


def held(found, pool, hour):
    return found.batch[pool][round(hour * 60)]


ALONE = {
    # rival, chat on (reserved, on demand) -> pool in which a Job of 8 o'clock runs at 8:30; None: it waits
    "at once, where the reserved pool has room": (AtOnce, steady(2), RESERVED),
    "at once, where it has none": (AtOnce, steady(3), ELASTIC),
    "apart, whatever idles": (Apart, steady(0), APART),
    "in the window alone": (Window, steady(0), None),
    "kept up, with a deadline far away": (KeptUp, steady(2), RESERVED),
}


@pytest.mark.parametrize("name", ALONE)
def test_where_a_job_of_the_morning_runs(name):
    rival, path, pool = ALONE[name]
    found, _ = lived(one := stage([job()]), rival(one), path, hours=10)
    assert [held(found, each, 8.5) for each in range(len(POOLS))] == [2 * (each == pool) for each in range(len(POOLS))]


def test_the_window_starts_at_its_opening_and_stops_at_its_end_what_may_be_stopped():
    jobs = [job("late", at_h=5.5), job("stays", at_h=5.5, restartable=False), job("day", at_h=8, deadline_h=24)]
    found, _ = lived(one := stage(jobs), Window(one), steady(0), hours=24)
    assert ended(found, "late")[2] == 1, "6 o'clock"
    assert ended(found, "stays")[2] == 0
    assert ended(found, "stays")[1] < 6.5
    assert ended(found, "day")[0] == 22.0


def test_without_off_peak_hours_the_window_is_the_night():
    flat = msgspec.structs.replace(ON_DEMAND, off_peak=())
    assert "22:00 to 06:00" in Window(stage(setting=scenario(on_demand=flat))).note


def running(*jobs):
    return [Running(each) for each in sorted(jobs, key=lambda each: each.deadline_s)]


REQUIRED = {
    # Jobs that wait at 8 o'clock, start-up 300 s -> GPUs
    "one Job of an hour of 2 GPUs in 4 h": ([job(work_s=3600, expected_s=3600)], 1),
    "two of them need the sum of their work by the same deadline": (
        [job("a", work_s=3600, expected_s=7200), job("b", work_s=3600, expected_s=7200)],
        3,
    ),
    "the nearer deadline decides": (
        [job("a", deadline_h=1, expected_s=3000), job("b", deadline_h=24, expected_s=3000)],
        2,
    ),
    "a deadline within the start-up takes all there is": ([job(deadline_h=0.1)], 64),
    "nothing waits": ([], 0),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_what_the_kept_up_fleet_requires(name):
    jobs, gpus = REQUIRED[name]
    assert required(running(*jobs), BEGIN_S + 8 * HOUR_S, 300, 64) == gpus


def test_the_kept_up_fleet_gives_what_chat_leaves_to_the_backlog_whatever_the_hour_costs():
    """Chat falls from 8 to 2 replicas at 9: six GPUs more go to Jobs that had until the next day."""
    jobs = [job(f"j{n}", at_h=8, deadline_h=24, work_s=7200) for n in range(6)]

    def path(hour):
        return (4, 4) if hour < 9 else (2, 0)

    found, _ = lived(one := stage(jobs), KeptUp(one), path, hours=14)
    assert held(found, RESERVED, 8.9) + held(found, ELASTIC, 8.9) <= 2
    assert held(found, RESERVED, 9.5) + held(found, ELASTIC, 9.5) == 8
    assert held(found, RESERVED, 13.9) + held(found, ELASTIC, 13.9) == 0


# ---- who knows the future ----


def free_of(one, path=None):
    """The run without batch."""
    quiet = msgspec.structs.replace(one, jobs=())
    return lived(quiet, lambda world: None, path or steady(2), hours=one.minutes / 60)[0]


def test_the_clairvoyant_plan_waits_for_idle_gpus_or_the_night():
    """Idle GPUs from 12 o'clock on for the first; the second has to run by 11, the third finds the night cheaper."""
    jobs = [
        job("idle", at_h=8, deadline_h=8),
        job("soon", at_h=8, deadline_h=3, pods=1),
        job("night", at_h=13, deadline_h=24, pods=6),
    ]

    def path(hour):
        return (4, 0) if hour < 12 else (2, 0)

    one = stage(jobs)
    free = free_of(one, path)
    rival = Knowing(one, clairvoyant.schedule(one, free))
    found, _ = lived(one, rival, path, hours=one.minutes / 60)
    assert 12 <= ended(found, "idle")[0] <= 15.5
    assert ended(found, "soon")[1] <= 11
    assert ended(found, "night")[0] >= 22
    played = score("clairvoyant", one, found, free, feasible(one, free))
    assert (played.missed, played.feasible) == (0, 3)
    assert 0.0 < clairvoyant.bound(one, free) <= played.free


def test_at_list_prices_a_clairvoyant_leaves_idle_gpus_for_the_cheaper_night():
    """A reserved GPU-hour is 2.00 in the list, the night's on demand 1.00, and the nodes that come for it 0.22 more."""
    two = msgspec.structs.replace(scenario(), reserved=Reserved(1, 4, Decimal("2.00")))
    one = stage([job("a", at_h=20, deadline_h=6)], setting=two)
    free = free_of(one)
    places = [clairvoyant.schedule(one, free, 1.0, listed)["a"] for listed in (False, True)]
    assert [{pool for _, pool in each} for each in places] == [{POOLS[RESERVED]}, {POOLS[ELASTIC]}]
    assert min(slot for slot, _ in places[1]) >= 22 * 4


def test_the_bound_is_nothing_where_all_fits_on_idle_gpus():
    one = stage([job("a"), job("b", at_h=12)])
    free = free_of(one)
    assert clairvoyant.bound(one, free) == pytest.approx(0.0, abs=1e-6)
    assert clairvoyant.well_placed(one, free) == pytest.approx(1.0)


def test_by_day_without_idle_gpus_nothing_is_well_placed():
    one = stage([job(deadline_h=2)])
    free = free_of(one, steady(4))
    assert clairvoyant.well_placed(one, free) == pytest.approx(0.0, abs=1e-6)
    # 2 GPUs x (1800 s of work + 120 s of loading) at 3.00
    assert clairvoyant.bound(one, free) == pytest.approx(3.2, rel=1e-3)


FEASIBLE = {
    "time enough": ([job()], 64, {"a"}),
    "shorter than the Job takes": ([job(deadline_h=0.5)], 64, set()),
    "room for one at a time, time for both": ([job("a"), job("b")], 2, {"a", "b"}),
    "room for one at a time, time for one": ([job("a", deadline_h=0.8), job("b", deadline_h=0.8)], 2, {"a"}),
}


@pytest.mark.parametrize("name", FEASIBLE)
def test_feasible_is_what_earliest_deadline_first_keeps_with_hindsight(name):
    jobs, most, kept = FEASIBLE[name]
    small = scenario(reserved=0, on_demand=msgspec.structs.replace(ON_DEMAND, max_gpus=most))
    one = stage(jobs, setting=small)
    assert feasible(one, free_of(one, steady(0, 0))) == kept
