"""Which difference between two statuses is worth a write. Pure.

DECIDED: a condition, a reason, a replica count, a decision changed: written as soon as the budget allows.
MOVED: only measured numbers moved, by enough to matter: written at most once a minute. Fewer replicas are payable: as
soon as decisions leave something of the budget, for one raise makes it fewer for all services under the same ceiling.
NOTHING: equal, or the numbers wobbled.
"""

import re
from collections.abc import Collection, Mapping
from enum import IntEnum
from itertools import chain
from typing import Any

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# 10 % or more is a change that matters: 4.5 -> 4.9 requests/s is not, 4.5 -> 5.0 is
_MATTERS = 0.10

# Parts of a status that are measured rather than decided; everything else counts as decided
_MEASURED = frozenset(
    {
        "demand",
        "forecast",
        "spendPerHour",
        "message",
        "capacity",
        "startupSeconds",
        "evidence",
        "payable",
        "payableBecause",
        "nextStart",
        "nextWindow",
        "jobs",
        "saved",
    }
)
# Follows from demand, capacity and price, which are compared already; see `dearer`
_MONEY = frozenset({"cost", "alternative"})
# They follow from other parts and never justify a write
_NOT_DECIDED = _MEASURED | _MONEY | {"lastTransitionTime"}
# Under even load the best forecaster of the moment changes every few cycles, and says the same number; errors add up
# What is left of the money is another amount in each cycle; how many replicas it pays says when that matters
# When a Job ends is expected anew in each cycle; that it starts, stops or will be late is told by counts and conditions
_UNTOLD = frozenset({"method", "errors", "payableBecause", "end"}) | _MONEY
_NESTED = (dict, list)


class Difference(IntEnum):
    """How much two statuses differ; larger goes first."""

    NOTHING = 0
    MOVED = 1
    DECIDED = 2


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """How much `new` differs from `old`, which was written last."""
    if decided(old) != decided(new):
        return Difference.DECIDED
    return Difference.MOVED if moved(old, new) else Difference.NOTHING


def payable(status: Mapping[str, Any]) -> Mapping[str, int]:
    """How many replicas are payable, by variant; nothing of variants that no policy pays for."""
    variants = status.get("variants") or ()
    return {variant["name"]: variant["payable"] for variant in variants if "payable" in variant}


def fell(before: Mapping[str, int], new: Mapping[str, Any]) -> bool:
    """True when fewer replicas of a variant are payable than were said to be, or it is said for the first time."""
    return any(name not in before or now < before[name] for name, now in payable(new).items())


def moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """True when a measured number differs by enough to matter, or a text says something else."""
    if fell(payable(old), new):
        return True
    differing = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]  # most is as it was
    before, after = ({key: status[key] for key in differing if key in status} for status in (old, new))
    return _numbers_matter(_measured(before, []), _measured(after, []))


def dearer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """True when what this month has cost so far differs by 10 % or more: asked far less often than `moved`.

    It grows under a load that never changes too: from 0.10 to 3,000 in 109 steps, a month. All other money follows from
    demand, capacity and price, and is written with them.
    """
    before, after = ((status.get("cost") or {}).get("monthToDate") for status in (old, new))
    if not before or not after:
        return False
    amounts = float(before["amount"]), float(after["amount"])
    return amounts[0] != amounts[1] and abs(amounts[1] - amounts[0]) >= _MATTERS * max(amounts)


def only_shared(old: Mapping[str, Any], new: Mapping[str, Any], shared_reasons: Collection[str]) -> bool:
    """True when nothing but the cluster-wide reasons tells the two apart: such a write can wait its turn."""
    if not shared_reasons:
        return False
    touched = {
        condition["type"]
        for status in (old, new)
        for condition in status.get("conditions") or ()
        if condition["reason"] in shared_reasons
    }
    ignored = {"decisions"} | ({"reason"} if {old.get("reason"), new.get("reason")} & set(shared_reasons) else set())
    return bool(_own(old, touched, ignored) == _own(new, touched, ignored))


def decided(value: Any) -> Any:
    """The part of a status that was decided: all but measured numbers, texts and transition times."""
    if isinstance(value, dict):  # not Mapping: asking an abstract class costs more than the rest
        return {
            key: decided(item) if isinstance(item, _NESTED) else item  # 60 of the 80 values of a status are leaves
            for key, item in value.items()
            if key not in _NOT_DECIDED
        }
    if isinstance(value, list):
        return [decided(item) for item in value]
    return value


def _measured(value: Any, found: list[str], inside: bool = False) -> list[str]:
    """Adds the measured leaves as text, in a fixed order, with a line for each key so that absence shows."""
    if isinstance(value, dict):
        for key in sorted(value):
            if key in _UNTOLD:
                continue
            within = inside or key in _MEASURED
            if within:
                found.append(f"{key}:")
            if within or isinstance(value[key], _NESTED):
                _measured(value[key], found, within)
    elif isinstance(value, list):
        for item in value:
            _measured(item, found, inside)
    elif inside:
        found.append(str(value))
    return found


def _numbers_matter(old: list[str], new: list[str]) -> bool:
    if len(old) != len(new):
        return True
    changed = [(before, after) for before, after in zip(old, new, strict=True) if before != after]
    if any(_NUMBER.sub("#", before) != _NUMBER.sub("#", after) for before, after in changed):
        return True  # other words, not only other numbers
    pairs = (zip(_NUMBER.findall(before), _NUMBER.findall(after), strict=True) for before, after in changed)
    return any(_differs(float(before), float(after)) for before, after in chain.from_iterable(pairs))


def _differs(before: float, after: float) -> bool:
    # the floor keeps 0.001 -> 0.002 requests/s, or a backlog of 0 and 0.5, from counting as doubled
    return abs(after - before) >= max(_MATTERS * max(abs(before), abs(after)), 0.1)


def _own(status: Mapping[str, Any], touched: Collection[str], ignored: Collection[str]) -> Any:
    """What concerns this object alone: all but the conditions of these types and the ignored fields."""
    kept = {key: value for key, value in status.items() if key not in ignored}
    kept["conditions"] = [item for item in status.get("conditions") or () if item["type"] not in touched]
    return decided(kept)
