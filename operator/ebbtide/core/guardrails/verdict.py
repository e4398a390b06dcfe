"""What a guardrail says, and the moves they share: towards what is declared now, or away from a bound."""

from collections.abc import Callable
from dataclasses import dataclass

from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code


@dataclass(frozen=True, slots=True)
class Verdict:
    """New replicas by variant, the reason, and its words with the numbers that decided."""

    counts: list[int]
    code: Code
    text: str
    limits: bool = True  # False: it moves replicas and keeps nobody from any, so nothing is said to be limited by it


Guard = Callable[[Draft, Cycle], Verdict | None]


def dearness(variant: VariantDraft) -> tuple[bool, float, int]:
    """Sort key: failing ones last, then by cost for what a replica carries, then by declared order."""
    cost = variant.cost if variant.cost is not None else 0.0
    return (variant.backing_off, cost / max(variant.rate, 1e-9), variant.index)


def no_lower(draft: Draft) -> list[int]:
    """The counts with every decrease undone."""
    return [max(variant.count, variant.observed) for variant in draft.variants]


def no_higher(draft: Draft) -> list[int]:
    """The counts with every increase undone."""
    return [min(variant.count, variant.observed) for variant in draft.variants]


def restore(draft: Draft, replicas: int) -> list[int]:
    """Undo `replicas` of the planned decreases, those of the cheapest variants first."""
    counts = draft.counts()
    for variant in sorted(draft.variants, key=dearness):
        back = min(replicas, max(0, variant.observed - counts[variant.index]))
        counts[variant.index] += back
        replicas -= back
    return counts


def forgo(draft: Draft, replicas: int) -> list[int]:
    """Leave out `replicas` of the planned increases, those of the dearest variants first."""
    counts = draft.counts()
    for variant in sorted(draft.variants, key=dearness, reverse=True):
        out = min(replicas, max(0, counts[variant.index] - variant.observed))
        counts[variant.index] -= out
        replicas -= out
    return counts


def add(draft: Draft, replicas: int) -> list[int]:
    """`replicas` more, where limits leave room, the cheapest variant first."""
    counts = draft.counts()
    for variant in sorted(draft.variants, key=dearness):
        more = max(0, min(replicas, variant.high - counts[variant.index]))
        counts[variant.index] += more
        replicas -= more
    return counts


def remove(draft: Draft, replicas: int) -> list[int]:
    """`replicas` fewer, the dearest variant first, none below its own minimum."""
    counts = draft.counts()
    for variant in sorted(draft.variants, key=dearness, reverse=True):
        fewer = max(0, min(replicas, counts[variant.index] - variant.spec.min_replicas))
        counts[variant.index] -= fewer
        replicas -= fewer
    return counts
