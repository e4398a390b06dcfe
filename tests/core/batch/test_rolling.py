"""Batch Jobs over days in virtual time: deadlines kept, work conserved, never more GPUs than there are."""

import math
import random

import msgspec
import pytest

from ebbtide.model.batch import Strategy
from ebbtide.model.spec import Billing
from tests.builders import NOW, node, pool
from tests.core.batch.yard import Work, Yard, clairvoyant_keeps
from tests.jobs import HOUR_S, batch_policy, job, steps


def works(seed: int, count: int, *, restartable: float = 0.5, slack: float = 4.0, over_h: float = 12.0) -> list[Work]:
    """Jobs of one GPU: 5 minutes to 3 hours, a fifth longer or shorter than said, deadlines of some times that."""
    draw = random.Random(seed)
    found = []
    for n in range(count):
        said_h = math.exp(draw.uniform(math.log(0.1), math.log(3.0)))
        comes_s = NOW + draw.uniform(0.0, over_h) * HOUR_S
        takes_s = said_h * HOUR_S * math.exp(draw.gauss(0.0, 0.2))
        within_h = (comes_s - NOW) / HOUR_S + said_h * draw.uniform(1.7, slack)
        one = job(f"j{n}", hours=said_h, deadline_h=within_h, restartable=draw.random() < restartable)
        found.append(Work(one, comes_s, takes_s))
    return found


def test_every_job_ends_and_is_stopped_once_at_most_each_time_its_window_closes():
    jobs = works(7, 14, over_h=6.0)
    windows = [(0.0, 2.0), (4.0, 7.0), (9.0, 30.0)]
    policy = batch_policy(open_=windows, strategy=Strategy.WINDOW)
    yard = Yard(jobs, [pool(nodes=[node("n", 4)])], [policy])
    yard.run(NOW + 60 * HOUR_S)
    for work in jobs:
        assert work.ended_s is not None, work
        starts_h = [(began_s - NOW) / HOUR_S for began_s, _ in work.runs]
        assert all(any(begin <= at_h < end for begin, end in windows) for at_h in starts_h), work
    assert any(len(work.runs) > 1 for work in jobs), "no window stopped anybody: the test shows nothing"


@pytest.mark.slow
def test_deadlines_that_a_clairvoyant_keeps_are_kept_but_for_one_in_a_hundred():
    feasible = missed = 0
    for seed in range(8):
        jobs = works(seed, 40)
        yard = Yard(jobs, [pool(nodes=[node("n", 5)])], [batch_policy()])
        yard.run(NOW + 40 * HOUR_S)
        kept = clairvoyant_keeps(jobs, 5)
        feasible += len(kept)
        missed += sum(w.job.uid in kept and (w.ended_s is None or w.ended_s > w.deadline_s) for w in jobs)
    assert feasible > 250
    assert missed <= 0.01 * feasible, f"{missed} of {feasible} missed"


def test_jobs_with_time_run_in_the_cheap_hours():
    tariff = steps(*[(24.0 * day + at, price) for day in range(2) for at, price in ((0.0, "3.00"), (10.0, "1.00"))])
    where = msgspec.structs.replace(pool(nodes=[node("n", 8)], billing=Billing.POD), steps=tariff)
    jobs = works(3, 12, slack=1.8, over_h=5.0)
    jobs = [_with_deadline(work, 22.0) for work in jobs]
    yard = Yard(jobs, [where], [batch_policy()])
    yard.run(NOW + 40 * HOUR_S)
    assert all(work.ended_s is not None and work.ended_s <= work.deadline_s for work in jobs)
    cheap = sum(min(to, NOW + 24 * HOUR_S) - max(at, NOW + 10 * HOUR_S) for w in jobs for at, to in w.runs)
    assert cheap == pytest.approx(sum(work.takes_s for work in jobs), rel=0.02)


def _with_deadline(work: Work, hours: float) -> Work:
    asked = msgspec.structs.replace(work.job.asked, deadline_at=NOW + hours * HOUR_S)
    return Work(msgspec.structs.replace(work.job, asked=asked), work.comes_s, work.takes_s)
