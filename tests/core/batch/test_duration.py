"""How long Jobs still run."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.batch.duration import Remaining, remaining, restart_s, started_within_s
from ebbtide.model.batch import JobPod
from tests.builders import NOW
from tests.jobs import HOUR_S, batch_policy, job

SOURCES = {
    "its annotation": (job(hours=2.0), (), "2.0 h expected by its annotation", 2.0),
    "earlier runs": (job(hours=None), (3600.0, 4000.0, 3300.0), "60 min by 3 earlier runs", 1.0),
    "one run is no lesson": (job(hours=None), (3600.0,), "3.0 h expected by its policy", 3.0),
    "progress": (
        job(hours=9.0, on=("n",), ran_h=1.0, completions=40, succeeded=10), (), "10 of 40 completions took 60 min",
        4.0),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_where_it_comes_from(case: str):
    one, runs, said, hours = SOURCES[case]
    found = remaining(one, batch_policy(expected_duration_s=3 * HOUR_S).spec, runs, NOW)
    assert said in found.source
    assert found.middle_s == pytest.approx(hours * HOUR_S, rel=0.02)


def test_nobody_knows_is_said_and_wide():
    found = remaining(job(hours=None), batch_policy().spec, (), NOW)
    assert not found.known and found.at(0.99) > 10 * found.at(0.5)


def test_the_worked_example():
    fresh, old = Remaining(2 * HOUR_S, 0.3, 0.0, ""), Remaining(2 * HOUR_S, 0.3, 3 * HOUR_S, "")
    assert fresh.at(0.99) == pytest.approx(4.0 * HOUR_S, rel=0.01)
    assert old.at(0.99) == pytest.approx(2.1 * HOUR_S, rel=0.02)


@given(st.floats(60.0, 1e6), st.floats(0.05, 1.5), st.floats(0.0, 3e6), st.floats(0.05, 0.99), st.floats(0.05, 0.99))
def test_quantiles_rise_and_say_the_chance(middle_s, spread, elapsed_s, one, other):
    left = Remaining(middle_s, spread, elapsed_s, "")
    low, high = sorted((one, other))
    assert 0.0 < left.at(low) <= left.at(high)
    assert left.runs_beyond(left.at(high)) <= 1.0 - high + 0.02 or left.at(high) <= 1.0


STARTS = {
    "before it ever started, two minutes": (job(hours=2.0), 0.0, 120.0),
    "of three minutes half of one": (job(hours=0.05), 0.0, 30.0),
    "longer ones, as seen": (job(hours=2.0), 400.0, 400.0),
    "what it loads once its pods are ready is not seen": (job(hours=2.0), 3.0, 120.0),
}


@pytest.mark.parametrize("case", STARTS)
def test_what_a_new_start_costs(case: str):
    one, seen_s, takes_s = STARTS[case]
    found = restart_s(remaining(one, batch_policy().spec, (), NOW), seen_s)
    assert found == pytest.approx(takes_s)


def test_a_start_is_over_when_all_pods_are_ready():
    one = job(on=("n", "m"), ran_h=0.5)
    began_s = one.started_at
    assert began_s is not None

    def with_pods(*ready_s: float | None):
        pods = tuple(JobPod(f"p-{n}", "n", 1, started_at=at) for n, at in enumerate(ready_s))
        return msgspec.structs.replace(one, pods=pods)

    assert started_within_s(with_pods(began_s + 20.0, began_s + 90.0)) == 90.0
    assert started_within_s(with_pods(began_s + 20.0, None)) is None
    assert started_within_s(with_pods(began_s + 20.0)) is None
    assert started_within_s(with_pods(began_s - 5.0, began_s - 5.0)) == 0.0
