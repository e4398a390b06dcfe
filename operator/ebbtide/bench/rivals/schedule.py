"""Time-of-day schedule: this hour gets what the same hour needed at most on the last seven days.

Not a project: KEDA's cron trigger (2.18) or a CronJob, filled from history; on regular traffic the rival to fear.
Source: protocol of published comparisons (same hour, maximum of the last 7 days). An hour counts by its busiest
quarter; the coming hour begins one start-up early, so that its replicas serve when it does. An hour that was never
seen is held: less than a day of training leaves it with the fleet that it began with. Where a replica carries 2
requests/s, an hour that saw 7.1 and 9.3 on the two days before gets ceil(9.3 / 2) = 5.
"""

from collections.abc import Sequence

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Minute, Observation, Rival
from ebbtide.bench.rivals.parts import bounded, ceil_of
from ebbtide.bench.rivals.pastload import DAY_HOURS, HOUR_S, NOTE, PastLoad, replicas_for, untrained

DAYS = 7


class Schedule:
    """Replicas by the hour of the day, from at most a week of history, the days since the start included."""

    period_s = 15.0

    def __init__(self, case: Case, multiple: float) -> None:
        self._case, self._multiple = case, multiple
        self.lead_s = max(case.startup_s) + self.period_s
        self._past = PastLoad()

    def learn(self, history: Sequence[Minute]) -> None:
        """Take in the minutes that came since the last call; `history` is oldest first."""
        self._past.learn(history)

    def decide(self, seen: Observation) -> int | None:
        """The greater of this hour's replicas and of the hour in which a replica started now would be ready."""
        self.learn(seen.history)
        peak = self._past.training_peak()
        hours = {int(at_s // HOUR_S) for at_s in (seen.now_s, seen.now_s + self.lead_s)}
        rates = [rate for rate in map(self.rate, hours) if rate is not None]
        if peak is None or not rates:
            return None
        return bounded(self._case, ceil_of(self._multiple * replicas_for(self._case, max(rates), peak)))

    def rate(self, hour: int) -> float | None:
        """Requests/s that the same hour of the last seven days saw at most; None where none of them was seen."""
        rates = [self._past.hour(hour - DAY_HOURS * day) for day in range(1, DAYS + 1)]
        return max((rate for rate in rates if rate is not None), default=None)


def held(case: Case, training: Sequence[Minute], length_s: float) -> str:
    """Why it holds throughout; empty where the same hour was seen of any hour that it looks at."""
    policy = Schedule(case, 1.0)
    policy.learn(training)
    hours = int((length_s + policy.lead_s) // HOUR_S) + 1
    again = hours > DAY_HOURS  # then it has the days that it ran itself
    seen = again or any(policy.rate(hour) is not None for hour in range(hours))
    return untrained(case, training, length_s) or ("" if seen else "held: no same hour before")


RIVALS = (
    Rival(
        "schedule",
        Knob("multiple of the same hour's maximum", 1.0, 0.02, 10.0, log=True),
        Schedule,
        f"{NOTE}; holds hours that no day of training saw",
        held,
    ),
)
