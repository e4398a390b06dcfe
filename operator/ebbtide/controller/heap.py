"""Keeps the process small: one heap for all threads.

glibc gives each thread a heap of its own, so that threads do not wait for each other. Python threads do that anyway,
and what one thread freed is of no use to the next: at 10,000 services that is 80 MB. Elsewhere this does nothing.
"""

import ctypes

_M_ARENA_MAX = -8  # of malloc.h


def share_one_heap() -> bool:
    """Call before threads start; returns whether the C library knows the setting."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1))
    except (OSError, AttributeError):
        return False
