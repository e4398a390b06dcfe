"""Jobs whose windows cross midnight while the clocks change, in virtual time: to the second when each of them runs."""

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.model.batch import BatchPolicyState, BatchWindow, Strategy
from ebbtide.money.windows import open_windows
from tests.builders import node, pool
from tests.core.batch.yard import Work, Yard
from tests.jobs import HOUR_S, batch_policy, job

DAYS_S = 4 * 86_400.0


def at(text: str) -> float:
    return parse_rfc3339(f"{text}:00Z")


def nights(zone: str, cron: str = "0 22 * * *", hours: float = 9.0, holidays: tuple[str, ...] = ()) -> BatchPolicyState:
    """From 22:00 to 07:00 unless told; a window's hours are real ones."""
    windows = (BatchWindow(cron, zone, hours * HOUR_S),)
    return batch_policy(strategy=Strategy.WINDOW, windows=windows, holidays=holidays)


BERLIN = nights("Europe/Berlin")
HALF_PAST_TWO = nights("Europe/Berlin", "30 2 * * *", 1.0)
NIGHTS = {
    "a Job that fits runs as its window opens": (
        BERLIN, "2026-01-15T12:00", 2.0, True, [("2026-01-15T21:00", "2026-01-15T23:00")]),
    "midnight is no border": (
        BERLIN, "2026-01-15T12:00", 4.0, False, [("2026-01-15T21:00", "2026-01-16T01:00")]),
    "one that came in the night goes on until morning": (
        BERLIN, "2026-01-16T00:30", 3.0, True, [("2026-01-16T00:30", "2026-01-16T03:30")]),
    "what a night does not hold goes on in the next": (
        BERLIN, "2026-01-15T12:00", 12.0, True,
        [("2026-01-15T21:00", "2026-01-16T06:00"), ("2026-01-16T21:00", "2026-01-17T00:00")]),
    "what may not be stopped waits for a night that holds it": (
        BERLIN, "2026-01-16T04:00", 6.0, False, [("2026-01-16T21:00", "2026-01-17T03:00")]),
    "clocks go forward: nine hours to 08:00, and the next evening is an hour earlier in UTC": (
        BERLIN, "2026-03-28T12:00", 12.0, True,
        [("2026-03-28T21:00", "2026-03-29T06:00"), ("2026-03-29T20:00", "2026-03-29T23:00")]),
    "clocks go back: nine hours to 06:00, and the next evening is an hour later in UTC": (
        BERLIN, "2026-10-24T12:00", 12.0, True,
        [("2026-10-24T20:00", "2026-10-25T05:00"), ("2026-10-25T21:00", "2026-10-26T00:00")]),
    "of another continent clocks go forward three weeks before": (
        nights("America/New_York"), "2026-03-07T12:00", 12.0, True,
        [("2026-03-08T03:00", "2026-03-08T12:00"), ("2026-03-09T02:00", "2026-03-09T05:00")]),
    "02:30 that does not come opens at 03:00": (
        HALF_PAST_TWO, "2026-03-28T20:00", 0.5, True, [("2026-03-29T01:00", "2026-03-29T01:30")]),
    "02:30 that comes twice opens once": (
        HALF_PAST_TWO, "2026-10-24T20:00", 1.5, True,
        [("2026-10-25T00:30", "2026-10-25T01:30"), ("2026-10-26T01:30", "2026-10-26T02:00")]),
    "a holiday joins the nights around it": (
        nights("Europe/Berlin", holidays=("2026-03-29",)), "2026-03-28T12:00", 14.0, True,
        [("2026-03-28T21:00", "2026-03-29T11:00")]),
}  # fmt: skip


@pytest.mark.parametrize("case", NIGHTS)
def test_a_job_runs_while_its_window_is_open(case: str):
    policy, begins, hours, restartable, expected = NIGHTS[case]
    begins_s = at(begins)
    spans = open_windows(policy.spec, begins_s, begins_s + DAYS_S)
    one = Work(job(hours=hours, restartable=restartable), begins_s, hours * HOUR_S)
    yard = Yard([one], [pool(nodes=[node("n", 8)])], [BatchPolicyState(policy.spec, spans)])
    yard.now_s = begins_s
    yard.run(begins_s + DAYS_S)
    assert one.runs == [(at(begin), at(end)) for begin, end in expected]
