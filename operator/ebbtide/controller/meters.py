"""What the controller measures of itself, in the registry of `record.metrics`: steps, failures, intake restarts."""

from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.clock import monotonic_s
from ebbtide.record.metrics import Metrics

WHOLE_CYCLE = "cycle"  # the label `step` of a cycle from its first step to its last


class Meters:
    """Times steps and counts what failed. `metrics` holds what everybody shares."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block, and counts it as failed if it raises."""
        started = monotonic_s()
        try:
            yield
        except BaseException:
            self._metrics.step_failures.labels(name).inc()
            raise
        finally:
            self._metrics.cycle_duration.labels(name).observe(monotonic_s() - started)

    def cycle_ended(self, now_s: float, failed: bool) -> None:
        """A cycle came to its end; `now_s` is its time in unix seconds."""
        self._metrics.cycles.labels("failed" if failed else "ok").inc()
        if not failed:
            self._metrics.last_success.set(now_s)

    def leading(self, leads: bool) -> None:
        """Whether this process holds the Lease now."""
        self._metrics.leader.set(leads)

    def intake_restarted(self) -> None:
        """Kopf ended and is started again."""
        self._metrics.intake_restarts.inc()
