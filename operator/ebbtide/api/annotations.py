"""What the annotations of a batch Job ask for: `ebbtide.dev/deadline`, `/expected-duration` and `/restartable`.

No API server checks an annotation, so each is checked here: one that cannot be read is a fault in words and as if it
were not there. Must never raise: a wrong word on one Job is that Job's own trouble.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from ebbtide.api.batch import LONGEST_DEADLINE, LONGEST_RUN
from ebbtide.api.fields import DURATION_PATTERN
from ebbtide.clock import parse_rfc3339, rfc3339
from ebbtide.model.batch import Asked
from ebbtide.units import parse_duration_s

DEADLINE = "ebbtide.dev/deadline"
EXPECTED_DURATION = "ebbtide.dev/expected-duration"
RESTARTABLE = "ebbtide.dev/restartable"

_SHORTEST_DEADLINE_S = 60.0
_SHORTEST_RUN_S = 1.0
_MOST_SHOWN = 100
_DURATION = re.compile(DURATION_PATTERN)
# Python reads more than RFC 3339 has: a day without a time, a time without an offset
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d([.]\d{1,9})?([Zz]|[+-]\d\d:\d\d)$", re.ASCII)
_DEADLINE_IS = (
    "must be RFC 3339 with a time zone, such as 2026-12-24T18:00:00Z, or a duration from the Job's creation, "
    f"from 1m to {LONGEST_DEADLINE}, such as 8h"
)
_DURATION_IS = f"must be a duration from 1s to {LONGEST_RUN}, such as 45m or 3h"
_RESTARTABLE_IS = 'must be "true" or "false"'

Value = TypeVar("Value")


def asked(annotations: Mapping[str, str], created_s: float) -> Asked:
    """What a Job that was created at `created_s` (unix seconds) asks for, and what of it cannot be read."""
    faults: list[tuple[str, str]] = []

    def read(name: str, convert: Callable[[str], Value], allowed: str) -> Value | None:
        text = annotations.get(name)
        if text is None:
            return None
        try:
            return convert(text)
        except (ValueError, OverflowError) as error:
            detail = f" ({error})" if isinstance(error, _NotAllowedError) else ""
            faults.append((name, f"{name}: {_shown(text)} is not allowed: {allowed}{detail}"))
            return None

    return Asked(
        deadline_at=read(DEADLINE, lambda text: _deadline(text, created_s), _DEADLINE_IS),
        expected_duration_s=read(EXPECTED_DURATION, _expected_duration, _DURATION_IS),
        restartable=read(RESTARTABLE, _restartable, _RESTARTABLE_IS) or False,
        faults=tuple(faults),
    )


class _NotAllowedError(ValueError):
    """A value of the right form; the text says what is wrong with it."""


def _deadline(text: str, created_s: float) -> float:
    if not _MOMENT.match(text):
        return created_s + _within(text, _SHORTEST_DEADLINE_S, LONGEST_DEADLINE)
    at_s = parse_rfc3339(text)
    if at_s <= created_s:
        raise _NotAllowedError(f"it is not after the Job's creation, {rfc3339(created_s)}")
    if at_s > created_s + parse_duration_s(LONGEST_DEADLINE):
        raise _NotAllowedError(f"it is more than {LONGEST_DEADLINE} after the Job's creation, {rfc3339(created_s)}")
    return at_s


def _expected_duration(text: str) -> float:
    return _within(text, _SHORTEST_RUN_S, LONGEST_RUN)


def _within(text: str, shortest_s: float, longest: str) -> float:
    """Of the form that the API server allows in a spec, no longer and no shorter than its fields may be."""
    if not _DURATION.match(text):
        raise ValueError(text)
    seconds = parse_duration_s(text)
    if not shortest_s <= seconds <= parse_duration_s(longest):
        raise ValueError(text)
    return seconds


def _restartable(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "...", ensure_ascii=False)
