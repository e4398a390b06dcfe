"""Who else writes to the targets: rivals, people who scale by hand, and what of our own writes was undone.

A single change by somebody else is respected as the new starting point; two reversions of our writes within ten minutes
mean a rival, and Ebbtide takes its hands off. A write of ours that the watch does not show yet is not a change; what
it shows at or after the resourceVersion that answered our write is one, however soon it came.
"""

import msgspec

from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import VariantMemory
from ebbtide.model.snapshot import WriteReceipt

REVERSION_WINDOW_S = 600.0
REVERSIONS = 2
_CACHES = frozenset({"deployments", "statefulsets"})
LAG_S = 5.0  # the watch shows a write of ours within this time: only where resourceVersions do not tell


def step(draft: Draft, cycle: Cycle) -> None:
    """Notice changes that are not ours on every target."""
    for variant in draft.variants:
        # a cache that shows the past shows our own write as undone
        if variant.state.target.exists and not _CACHES & cycle.unwatched.keys():
            variant.memory = _notice(variant, cycle.now_s)
    draft.conflict = _conflict(draft)
    draft.drifted = _drifted(draft, cycle.now_s)


def _notice(variant: VariantDraft, now_s: float) -> VariantMemory:
    memory, target, receipt = variant.memory, variant.state.target, variant.state.last_write
    spec = target.spec_replicas
    ours = receipt if receipt is not None and receipt.target_uid == target.uid else None
    coming = _not_shown_yet(ours, target.resource_version, now_s)
    if memory.target_uid != target.uid:
        # Created anew: nothing that was expected of the old one holds.
        return msgspec.structs.replace(
            memory,
            target_uid=target.uid,
            last_seen_replicas=coming.replicas if coming else spec,
            reversions=(),
            adopted_replicas=None,
            write_at=ours.at if ours else None,
            write_by=0,
        )
    expected, write_at, write_by = memory.last_seen_replicas, memory.write_at, memory.write_by
    if ours is not None and (write_at is None or ours.at > write_at):
        write_by = ours.replicas - expected if expected is not None else 0
        expected = ours.replicas if ours.done else expected
        write_at = ours.at
    if ours is not None and not ours.done and spec == ours.replicas:
        expected = spec  # nobody answered, but it was written
    reversions = tuple(at for at in memory.reversions if now_s - at < REVERSION_WINDOW_S)
    changes: dict[str, object] = {}
    if expected is not None and spec != expected:
        if coming:
            spec = expected
        else:
            # Once for each write of ours: a person who corrects a first try by hand reverts nothing anew; nor does
            # who goes further the same way. Without a receipt nobody knows: what an operator wrote just before it was
            # killed looks like somebody else's, and two such kills like a rival.
            lately = ours is not None and write_at is not None and now_s - write_at < REVERSION_WINDOW_S
            undone = lately and (spec - expected) * write_by <= 0
            if undone and (not reversions or write_at is None or reversions[-1] < write_at):
                reversions = (*reversions, round(now_s, 1))[-4:]
            changes = {"drifted_at": round(now_s, 1), "drifted_by": spec - expected, "adopted_replicas": spec}
    changes |= {"last_seen_replicas": spec, "write_at": write_at, "write_by": write_by, "reversions": reversions}
    if all(getattr(memory, name) == value for name, value in changes.items()):
        return memory
    return msgspec.structs.replace(memory, **changes)


def _not_shown_yet(ours: WriteReceipt | None, shown: str, now_s: float) -> WriteReceipt | None:
    """Our write where it is on its way: we were answered 120, and the watch shows the target as it was at 117.

    The API server numbers all changes in one order; not so one restored from a backup, so no write is on its way for
    ever. One behind an aggregated API may number them otherwise: then time must do.
    """
    if ours is None or not ours.done or now_s - ours.at >= REVERSION_WINDOW_S:
        return None
    if ours.resource_version.isdecimal() and shown.isdecimal():
        return ours if int(shown) < int(ours.resource_version) else None
    return ours if now_s - ours.at < LAG_S else None


def _conflict(draft: Draft) -> str:
    for variant in draft.variants:
        target = variant.state.target
        name = f"{target_name(variant)} of variant {variant.spec.name}"
        if target.rivals:
            return f"{name} is also named by {', '.join(target.rivals)}"
        if len(variant.memory.reversions) >= REVERSIONS:
            return (
                f"{name} was set back {len(variant.memory.reversions)} times within 10 minutes of a write by Ebbtide: "
                "another controller or a GitOps tool owns its replicas"
            )
    return ""


def target_name(variant: VariantDraft) -> str:
    """`Deployment chat-h100`."""
    return f"{variant.spec.target.kind} {variant.spec.target.name}"


def _drifted(draft: Draft, now_s: float) -> str:
    """A change by somebody else within the down delay, in words; empty when there was none."""
    for variant in draft.variants:
        memory = variant.memory
        if memory.drifted_at is not None and now_s - memory.drifted_at < hold_s(draft, memory.drifted_by):
            before = (memory.adopted_replicas or 0) - memory.drifted_by
            return (
                f"{target_name(variant)} was scaled from {before} to {memory.adopted_replicas} by somebody else "
                f"{max(0.0, now_s - memory.drifted_at):.0f}s ago"
            )
    return ""


def hold_s(draft: Draft, drifted_by: int) -> float:
    """How long a change by hand is left alone: upwards for the down delay, downwards for a minute or the up delay."""
    scaling = draft.state.spec.scaling
    return max(60.0, draft.down_delay_s if drifted_by > 0 else scaling.up_delay_s)
