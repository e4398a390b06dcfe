"""The only place where time is read. Everything below the edges takes it as an argument.

Wall time is anchored to CLOCK_BOOTTIME: a machine's clock that is set by more than seconds while the process runs is
followed only where the API server's clock, by which pods and nodes begin and end, went the same way. So a clock that is
set by hours opens no new period of a ceiling, and bills nothing for time that did not pass.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FOLLOWED_S = 5.0  # a leap second, or what a time service mends at once; what it slews moves CLOCK_BOOTTIME alike


class Anchored:
    """Wall time in seconds since 1970. `wall` and `boot` are the machine's clocks; `boot` never jumps."""

    def __init__(self, wall: Callable[[], float], boot: Callable[[], float]) -> None:
        self._wall, self._boot = wall, boot
        self._lock = threading.Lock()
        self._apart = wall() - boot()
        self.ignored_s = 0.0  # by how much the machine's clock was set that is not followed

    def now_s(self) -> float:
        """The time by the anchor; what the machine's clock was set by meanwhile is left out."""
        with self._lock:
            boot_s = self._boot()
            apart = self._wall() - boot_s
            self.ignored_s = apart - self._apart
            if abs(self.ignored_s) <= FOLLOWED_S:
                self._apart, self.ignored_s = apart, 0.0
            return self._apart + boot_s

    def witness(self, server_s: float) -> None:
        """What the API server's clock says now: where it agrees with the machine's, that one was set right."""
        with self._lock:
            wall_s, boot_s = self._wall(), self._boot()
            if abs(server_s - wall_s) <= FOLLOWED_S:
                self._apart, self.ignored_s = wall_s - boot_s, 0.0


def unix_time_s() -> float:
    """Wall time in seconds since 1970, for stamps that leave the process."""
    return _ANCHORED.now_s()


def hear_server(date: str | None) -> None:
    """The `Date` header of an answer of the API server, if it has one that can be read."""
    try:
        _ANCHORED.witness(parsedate_to_datetime(date or "").timestamp())
    except (TypeError, ValueError, OverflowError):
        return


def clock_notice() -> str:
    """What is wrong with the machine's clock; empty: nothing."""
    off_s = _ANCHORED.ignored_s
    if not off_s:
        return ""
    # rounded, so that what is said stays the same while nothing changes
    return f"the machine's clock was set by {off_s:+.0f} s, which the API server's does not confirm: it is not followed"


def monotonic_s() -> float:
    """Seconds that never jump, for durations and deadlines inside the process."""
    return time.monotonic()


def boottime_s() -> float:
    """Seconds that never jump and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def rfc3339(unix_s: float) -> str:
    """`2026-01-31T09:05:00Z`: the form Kubernetes uses for metav1.Time."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(unix_s: float) -> str:
    """`2026-01-31T09:05:00.123456Z`: metav1.MicroTime, as Leases use it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time, whose letters may be small; fractions are kept."""
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00")).timestamp()


_ANCHORED = Anchored(time.time, boottime_s)
