"""Where Jobs are put: properties over any queue."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.core.plan import plan
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
    """One GPU, cheap from 8 h to 12 h. In turn the short one takes the middle of it, and the long one pays."""
    tariff = steps((-1.0, "4.00"), (8.0, "0.50"), (12.5, "4.00"))
    where = msgspec.structs.replace(pool(nodes=[node("n", 1)], billing=Billing.POD), steps=tariff)
    jobs = [job("short", hours=1.0, deadline_h=14.0), job("long", hours=3.0, deadline_h=24.0)]
    decided, _ = plan(snapshot((), where, jobs=tuple(jobs), batch_policies=(batch_policy(),)), Memory(), NOW)
    by_name = {each.key: each for each in decided.jobs}
    assert all(each.starts_at is not None and each.starts_at >= NOW + 8 * HOUR_S for each in by_name.values())
    assert by_name["ml/long"].starts_at <= NOW + 12 * HOUR_S
