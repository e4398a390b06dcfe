"""The only place where time is read. Everything below the edges takes it as an argument."""

import time
from datetime import UTC, datetime


def unix_time_s() -> float:
    """Wall time in seconds since 1970, for stamps that leave the process."""
    return time.time()


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
