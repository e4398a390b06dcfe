"""Elastic Jobs under a ceiling and outside of windows: made smaller where that is enough, stopped where it is not."""

import msgspec
import pytest

from ebbtide.model.batch import Strategy
from ebbtide.model.plan import Outcome
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Billing, CeilingKind, Provisioning, Threshold, ThresholdAction, ThresholdBasis
from tests.builders import NOW, node, pool, snapshot
from tests.core.batch.test_giveback import cloud, paid
from tests.core.batch.test_step import decide
from tests.jobs import batch_policy, job, planned


def elastic(name: str = "e", pods: int = 4, least: int = 1, ran_h: float = 1.0, **changes):
    width = {"elastic": True, "completions": pods, "least_parallelism": least}
    return job(name, on=("n",) * pods, ran_h=ran_h, restartable=True, hours=9.0, **width, **changes)


SMALL = job("small", on=("n",), ran_h=0.1, restartable=True, hours=9.0)
SUSPENDS = Threshold(CeilingKind.DAY, 50, ThresholdBasis.SPENT, (ThresholdAction.SUSPEND_BATCH,))
CEILINGS = {
    # spent of 100.00 USD -> what becomes of each Job, and with how many pods
    "enough is left": ("80.00", [elastic()], (), {"e": (Outcome.RUNS, 0)}),
    "a part of it is enough": ("98.30", [elastic()], (), {"e": (Outcome.SHRINKS, 2)}),
    "a larger part": ("98.50", [elastic()], (), {"e": (Outcome.SHRINKS, 1)}),
    "it may not be so small": ("98.50", [elastic(least=2)], (), {"e": (Outcome.STOPS, 0)}),
    "nothing of it could be paid": ("99.90", [elastic()], (), {"e": (Outcome.STOPS, 0)}),
    "another one that is enough loses less": (
        "96.50", [elastic(), SMALL], (), {"e": (Outcome.RUNS, 0), "small": (Outcome.STOPS, 0)}),
    "a pod of it loses less than another": (
        "96.50", [elastic(ran_h=0.1), msgspec.structs.replace(SMALL, started_at=elastic(ran_h=5.0).started_at)], (),
        {"e": (Outcome.SHRINKS, 3), "small": (Outcome.RUNS, 0)}),
    "one goes, and of the other a part": (
        "98.60", [elastic(ran_h=5.0), SMALL], (), {"e": (Outcome.SHRINKS, 1), "small": (Outcome.STOPS, 0)}),
    "a threshold suspends batch": ("60.00", [elastic()], (SUSPENDS,), {"e": (Outcome.STOPS, 0)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CEILINGS)
def test_under_a_ceiling(case: str):
    """A GPU takes 0.76 USD of the day until it could be gone."""
    spent, jobs, thresholds, expected = CEILINGS[case]
    held = sum(len(each.pods) for each in jobs)
    decided, memory = decide(cloud(jobs, paid("100", spent, others=held, thresholds=thresholds), held))
    found = {name: planned(decided, name) for name in expected}
    assert {name: (each.outcome, each.parallelism) for name, each in found.items()} == expected, found
    for each in found.values():
        if each.outcome is Outcome.SHRINKS:
            assert each.reason.code is Code.JOB_RESIZED and memory.batch.short[0][0] == "uid-cap"
            assert f"{each.parallelism} of 4 pods stay: CostPolicy cap" in each.reason.text
            assert "USD are lacking of 100.00 USD a day" in each.reason.text


@pytest.mark.parametrize("spent", ["98.30", "98.50"])
def test_what_stays_is_enough_for_the_ceiling_and_grows_again_once_there_is_money(spent: str):
    decided, memory = decide(cloud([elastic()], paid("100", spent, others=4), 4))
    pods = decided.jobs[0].parallelism
    small = msgspec.structs.replace(elastic(pods=pods), full_parallelism=4)
    again, after = decide(cloud([small], paid("100", spent, others=pods), pods), memory)
    assert again.jobs[0].outcome is Outcome.RUNS
    more = decide(cloud([small], paid("1000", spent, others=pods), pods), after, NOW + 700.0)[0].jobs[0]
    assert (more.outcome, more.parallelism) == (Outcome.GROWS, 4)


def outside(one, others: int, strategy: Strategy, billing: Billing = Billing.NODE):
    """On rented nodes of 8 that stand for `others`' pods: the Job on one, and on both together what others hold."""
    nodes = [node("n", 8, len(one.pods) + min(4, others)), node("m", 8, max(0, others - 4))]
    where = pool(nodes=nodes, provisioning=Provisioning.AUTOSCALED, max_gpus=32, billing=billing)
    return snapshot((), where, jobs=(one,), batch_policies=(batch_policy(strategy=strategy),))


WINDOWS = {
    "all of its GPUs are idle": (elastic(), 4, Strategy.IDLE_OR_WINDOW, Billing.NODE, (Outcome.RUNS, 0)),
    "three of four are": (elastic(), 5, Strategy.IDLE_OR_WINDOW, Billing.NODE, (Outcome.SHRINKS, 3)),
    "one of four is": (elastic(), 7, Strategy.IDLE_OR_WINDOW, Billing.NODE, (Outcome.SHRINKS, 1)),
    "fewer are than it may have": (elastic(least=2), 7, Strategy.IDLE_OR_WINDOW, Billing.NODE, (Outcome.STOPS, 0)),
    "none is": (elastic(), 5, Strategy.IDLE_OR_WINDOW, Billing.POD, (Outcome.STOPS, 0)),
    "it may run in windows alone": (elastic(), 5, Strategy.WINDOW, Billing.NODE, (Outcome.STOPS, 0)),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_outside_of_windows(case: str):
    one, others, strategy, billing, expected = WINDOWS[case]
    found = decide(outside(one, others, strategy, billing))[0].jobs[0]
    assert (found.outcome, found.parallelism) == expected, found.reason.text
    if found.outcome is Outcome.SHRINKS:
        text = f"{expected[1]} of 4 pods stay: no window opens within the plan, and its GPUs are not idle any more"
        assert found.reason.text == f"{text} but for those"


@pytest.mark.parametrize(("others", "outcome"), [(5, Outcome.RUNS), (4, Outcome.GROWS)])
def test_outside_of_windows_it_grows_again_on_idle_gpus_alone(others: int, outcome: Outcome):
    """With three of its four pods: there is room for the fourth, which is idle beside 4 others and not beside 5."""
    small = elastic(pods=3, full_parallelism=4)
    state = outside(small, others, Strategy.IDLE_OR_WINDOW)
    assert decide(state)[0].jobs[0].outcome is outcome


@pytest.mark.parametrize(("second", "pods"), [("98.90", 1), ("98.30", 2), ("80.00", 2)])
def test_two_ceilings_each_count_what_goes_once(second: str, pods: int):
    """The first one asks for two pods of four; the second for three, for two or for none."""
    first = paid("100", "98.30", others=4)
    other = paid("100", second, others=4)
    other = msgspec.structs.replace(other, spec=msgspec.structs.replace(other.spec, name="more", uid="uid-more"))
    state = msgspec.structs.replace(cloud([elastic()], first, 4), policies=(first, other))
    found = decide(state)[0].jobs[0]
    assert (found.outcome, found.parallelism) == (Outcome.SHRINKS, pods)
