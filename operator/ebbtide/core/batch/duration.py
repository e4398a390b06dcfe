"""How long a Job still runs, as a distribution: a lognormal, given that it has run for as long as it has.

Where from, best first: its progress (of a Job that works off more completions than it has pods), the Job's own
annotation, earlier runs of its owner, its policy's default; else a wide belief that is said. Worked example: expected
2 h with a deviation of 0.3 (as a logarithm) ends within 4.0 h with 99 %; after 3 h it needs another 2.1 h with 99 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from ebbtide.core.numeric import clip
from ebbtide.model.batch import BatchPolicySpec, JobState

# Until a Job that is started (again) does work, before that was seen: pods bound, image there, model loaded. That is a
# part of how long it runs: of three minutes half of one.
RESTART_S, RESTART_SHARE = 120.0, 1.0 / 6.0
LONGEST_RESTART_S = 3600.0
SAID, DEFAULTED = 0.3, 0.5  # deviation of the logarithm of what an annotation, a policy's default says
UNKNOWN_S, UNKNOWN = 3600.0, 1.2  # one hour, and from 4 minutes to 16 hours in 98 of 100 cases
BELIEF = 3.0  # earlier runs that the prior deviation weighs as
FEWEST_RUNS = 2
PROGRESS, FEWEST_DONE = 0.25, 4  # deviation of what progress promises, and completions before it is asked
OVERRUN = 0.25  # of what has run: what is left of a Job that has outlived all that was believed
POINTS = ((0.1, 0.25), (0.35, 0.25), (0.65, 0.25), (0.9, 0.25))  # (quantile, weight): prices are averaged over these
_NORMAL = NormalDist()
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Remaining:
    """`middle_s` the median of the whole, `spread` the deviation of its logarithm, `elapsed_s` what has run."""

    middle_s: float
    spread: float
    elapsed_s: float
    source: str  # in words, for the reason
    known: bool = True

    def at(self, share: float) -> float:
        """Seconds from now (or its start) within which it ends with this probability."""
        if self.elapsed_s <= 0.0:
            return self.middle_s * math.exp(self.spread * _NORMAL.inv_cdf(min(1.0 - _LEAST, max(_LEAST, share))))
        alive = self._outlives(self.elapsed_s)
        if alive < _LEAST:  # nothing that was believed is left: more of what it has shown, the surer the longer
            return OVERRUN * self.elapsed_s * -math.log(max(_LEAST, 1.0 - share))
        z = _NORMAL.inv_cdf(min(1.0 - _LEAST * _LEAST, 1.0 - (1.0 - share) * alive))
        return max(1.0, self.middle_s * math.exp(self.spread * z) - self.elapsed_s)

    def runs_beyond(self, seconds: float) -> float:
        """The chance that it still runs so many seconds from now."""
        if seconds <= 0.0:
            return 1.0
        alive = self._outlives(self.elapsed_s)
        if alive < _LEAST:
            return math.exp(-seconds / (OVERRUN * self.elapsed_s))
        return self._outlives(self.elapsed_s + seconds) / alive

    def points(self) -> tuple[tuple[float, float], ...]:
        """(seconds, weight): a few that stand for all."""
        return tuple((self.at(share), weight) for share, weight in POINTS)

    def _outlives(self, seconds: float) -> float:
        if seconds <= 0.0:
            return 1.0
        return 1.0 - _NORMAL.cdf((math.log(seconds) - math.log(self.middle_s)) / self.spread)


def started_within_s(job: JobState) -> float | None:
    """Seconds from its present start until all its pods were ready; None while some are not.

    To be asked once for each start: a pod that was evicted comes anew hours after it.
    """
    pods = [pod for pod in job.pods if not pod.terminating]
    if job.started_at is None or len(pods) < job.parallelism:
        return None
    ready = [pod.started_at for pod in pods]
    if not ready or None in ready:
        return None
    return clip(max(at_s for at_s in ready if at_s is not None) - job.started_at, 0.0, LONGEST_RESTART_S)


def restart_s(left: Remaining, seen_s: float) -> float:
    """What a new start costs. `seen_s`: of its last one; what a pod loads once it is ready is seen by nobody."""
    return max(seen_s, min(RESTART_S, RESTART_SHARE * left.middle_s))


def remaining(
    job: JobState, policy: BatchPolicySpec | None, runs: Sequence[float], now_s: float, scale: float = 1.0
) -> Remaining:
    """`runs`: seconds that earlier runs of its owner took. `scale`: how much longer it takes as it is made smaller."""
    elapsed_s = job.ran_s + (max(0.0, now_s - job.started_at) if job.started_at is not None else 0.0)
    worked_off = job.completions is not None and job.completions > job.parallelism
    if worked_off and job.completions and job.succeeded >= FEWEST_DONE and elapsed_s > 0.0:
        done = max(1, min(job.succeeded, job.completions - 1))
        said = f"{job.succeeded} of {job.completions} completions took {hours(elapsed_s)}"
        return Remaining(elapsed_s * job.completions / done, PROGRESS, elapsed_s, said)
    if job.asked.expected_duration_s:
        said = f"{hours(job.asked.expected_duration_s)} expected by its annotation"
        return Remaining(job.asked.expected_duration_s * scale, SAID, elapsed_s, said)
    if len(runs) >= FEWEST_RUNS:
        middle_s, spread = _learnt(runs)
        said = f"{hours(middle_s)} by {len(runs)} earlier runs"
        return Remaining(middle_s * scale, spread, elapsed_s, said)
    if policy is not None and policy.expected_duration_s:
        said = f"{hours(policy.expected_duration_s)} expected by its policy"
        return Remaining(policy.expected_duration_s * scale, DEFAULTED, elapsed_s, said)
    return Remaining(UNKNOWN_S * scale, UNKNOWN, elapsed_s, "nobody knows how long it runs", known=False)


def _learnt(runs: Sequence[float]) -> tuple[float, float]:
    """Median and deviation of the next one: of few runs it is less sure than they are alike."""
    logs = [math.log(max(1.0, run)) for run in runs]
    mean = sum(logs) / len(logs)
    squares = sum((each - mean) ** 2 for each in logs) + BELIEF * SAID * SAID
    spread = math.sqrt(squares / (len(logs) - 1 + BELIEF) * (1.0 + 1.0 / len(logs)))
    return math.exp(mean), spread


def hours(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if round(seconds) < 7200 else f"{seconds / 3600.0:.1f} h"
