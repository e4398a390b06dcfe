"""Where Jobs are put: properties over any queue."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.core import pools
from ebbtide.core.batch import choose, conflict
from ebbtide.core.batch.ahead import open_field
from ebbtide.core.batch.items import items
from ebbtide.core.plan import open_cycle, plan
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Outcome
from ebbtide.model.spec import Billing, Provisioning
from tests.builders import NOW, node, pool, snapshot
from tests.jobs import HOUR_S, batch_policy, job, steps

PRICES = st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["0.50", "1.00", "2.00", "4.00"])), max_size=5)


@st.composite
def queues(draw):
    return [
        job(
            f"j{n}",
            hours=draw(st.sampled_from([0.2, 1.0, 3.0, 8.0])),
            deadline_h=draw(st.sampled_from([None, 1.0, 4.0, 12.0, 40.0])),
            restartable=draw(st.booleans()),
            parallelism=draw(st.integers(1, 4)),
            gpus_per_pod=draw(st.sampled_from([1, 2])),
            elastic=draw(st.booleans()),
        )
        for n in range(draw(st.integers(1, 7)))
    ]


@settings(max_examples=40, deadline=None)
@given(queues(), PRICES, st.integers(0, 8), st.sampled_from(list(Strategy)), st.sampled_from([None, 2, 5]))
def test_never_more_gpus_than_there_are(jobs, prices, others, strategy, most):
    cloud = pool("cloud", [node("c", 4, 1)], "2.00", provisioning=Provisioning.AUTOSCALED, max_gpus=7)
    cloud = msgspec.structs.replace(cloud, steps=steps((-1.0, "2.00"), *sorted(dict(prices).items())))
    nodes = [node("n", 4, min(4, others)), node("m", 4, max(0, others - 4))]
    policy = batch_policy(strategy=strategy, open_=[(-1.0, 2.0), (5.0, 9.0)], max_gpus=most)
    state = snapshot((), [pool(nodes=nodes), cloud], jobs=tuple(jobs), batch_policies=(policy,))
    decided, memory = plan(state, Memory(), NOW)
    assert not decided.failures, decided.failures
    assert plan(state, Memory(), NOW) == (decided, memory)
    starts = [each for each in decided.jobs if each.outcome is Outcome.STARTS]
    assert sum(each.gpus for each in starts if each.pool == "h100") <= 8 - others
    assert sum(each.gpus for each in starts if each.pool == "cloud") <= 7 - 1
    assert sum(each.gpus for each in starts) <= (most or 99)
    for each in decided.jobs:
        assert each.reason.text and each.outcome in Outcome


def _cost(found, prices, hours: float) -> float:
    """Of an hour's steps of price, from when it starts, for as long as it is expected to run."""
    starts_h = ((found.starts_at or NOW) - NOW) / HOUR_S
    total, at_h = 0.0, starts_h
    while at_h < starts_h + hours - 1e-9:
        total += next(float(price) for from_h, price in reversed(prices) if from_h <= at_h + 1e-9) * 0.05
        at_h += 0.05
    return total


@settings(max_examples=40, deadline=None)
@given(PRICES, st.sampled_from([0.5, 1.0, 3.0]), st.floats(0.2, 23.0), st.floats(0.0, 20.0), st.booleans())
def test_for_a_single_job_a_later_deadline_never_costs_more(prices, hours, deadline_h, later_h, restartable):
    tariff = [(-1.0, "2.00"), *((float(at), price) for at, price in sorted(dict(prices).items()))]
    where = msgspec.structs.replace(pool(nodes=1, billing=Billing.POD), steps=steps(*tariff))
    costs = []
    for within_h in (deadline_h, deadline_h + later_h):
        one = job(hours=hours, deadline_h=within_h, restartable=restartable)
        decided, _ = plan(snapshot((), where, jobs=(one,), batch_policies=(batch_policy(),)), Memory(), NOW)
        costs.append(_cost(decided.jobs[0], tariff, hours))
    assert costs[1] <= costs[0] * 1.02 + 0.05 * 4.0


def test_the_programme_finds_what_one_after_the_other_misses():
    """Four Jobs on two GPUs with two cheap spells: in turn one of them is left with a dear hour."""
    draw = random.Random(1)
    tariff = steps((-1.0, "4.00"), (6.0, "0.50"), (11.0, "2.00"), (14.0, "0.50"), (17.0, "4.00"))
    where = msgspec.structs.replace(pool(nodes=[node("n", 2)], billing=Billing.POD), steps=tariff)
    jobs = []
    for n in range(draw.choice([4, 8, 14])):
        hours, within_h = draw.choice([0.5, 1, 2, 3]), draw.uniform(4, 24)
        jobs.append(job(f"j{n}", hours=hours, deadline_h=within_h, parallelism=draw.choice([1, 1, 2])))
    cycle = open_cycle(snapshot((), where, jobs=tuple(jobs), batch_policies=(batch_policy(),)), Memory(), NOW)
    assert cycle.lent is not None
    waiting = items(cycle, cycle.lent)
    pools.prepare(cycle)
    field = open_field(waiting, cycle.lent, cycle)
    empty = field.save()
    in_turn = choose._greedy(choose._in_turn(waiting, field), field, cheapest=True)
    field.back(empty)
    found = conflict.resolve(in_turn, field, choose._is_better)
    assert field.save() == empty
    assert sum(place.worth for _, place in found) < 0.9 * sum(place.worth for _, place in in_turn)
    assert not any(place.late for _, place in found)
