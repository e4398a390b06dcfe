"""Who else writes to the targets: rivals, people who scale by hand, and what of our own writes was undone.

A single change by somebody else is respected as the new starting point; two reversions of our writes within ten minutes
mean a rival, and Ebbtide takes its hands off. A write of ours that the watch does not show yet is not a change.
"""

import msgspec

from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.memory import VariantMemory

REVERSION_WINDOW_S = 600.0
REVERSIONS = 2
LAG_S = 5.0  # the watch shows a write of ours within this time


def step(cycle: Cycle) -> None:
    """Notice changes that are not ours on every target."""
    for draft in cycle.drafts:
        for variant in draft.variants:
            if variant.state.target.exists:
                variant.memory = _notice(variant, cycle.now_s)
        draft.conflict = _conflict(draft)
        draft.drifted = _drifted(draft, cycle.now_s)


def _notice(variant: VariantDraft, now_s: float) -> VariantMemory:
    memory, target, receipt = variant.memory, variant.state.target, variant.state.last_write
    spec = target.spec_replicas
    expected, write_at = memory.last_seen_replicas, memory.write_at
    if memory.target_uid != target.uid:
        # Created anew: nothing that was expected of the old one holds.
        return msgspec.structs.replace(
            memory,
            target_uid=target.uid,
            last_seen_replicas=spec,
            reversions=(),
            adopted_replicas=None,
            write_at=receipt.at if receipt and receipt.target_uid == target.uid else 0.0,
        )
    if receipt is not None and receipt.target_uid == target.uid and receipt.at > write_at:
        if receipt.done or receipt.replicas == spec:
            expected = receipt.replicas
        write_at = receipt.at
    reversions = tuple(at for at in memory.reversions if now_s - at < REVERSION_WINDOW_S)
    changes: dict[str, object] = {}
    if expected is not None and spec != expected:
        if now_s - write_at < LAG_S:
            spec = expected  # our own write is on its way
        else:
            # once for each write of ours: a person who corrects a first try by hand reverts nothing anew
            if now_s - write_at < REVERSION_WINDOW_S and (not reversions or reversions[-1] < write_at):
                reversions = (*reversions, round(now_s, 1))[-4:]
            changes = {"drifted_at": round(now_s, 1), "drifted_by": spec - expected, "adopted_replicas": spec}
    changes |= {"last_seen_replicas": spec, "write_at": write_at, "reversions": reversions}
    if all(getattr(memory, name) == value for name, value in changes.items()):
        return memory
    return msgspec.structs.replace(memory, **changes)


def _conflict(draft: Draft) -> str:
    for variant in draft.variants:
        target = variant.state.target
        name = f"{target_name(variant)} of variant {variant.spec.name}"
        if target.rivals:
            return f"{name} is also written by {', '.join(target.rivals)}"
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
    return max(60.0, scaling.down_delay_s if drifted_by > 0 else scaling.up_delay_s)
