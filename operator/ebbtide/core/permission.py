"""May this service's targets be written to: decided once a cycle, before GPUs are given to anybody.

What may not act is planned and shown all the same, but takes nothing from those that may. A variant whose own target or
pool is surely wrong stays as it is and stops no other. Must never say yes while somebody else writes, or while that may
be unseen.
"""

from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Mode

_Fault = tuple[Code, str]

# Of these it is known what is there: a target that nobody created, or that is somebody else's, holds no replicas of
# ours, one in a wrong pool those it has.
_OF_ONE_VARIANT = frozenset(
    {
        Code.TARGET_NOT_FOUND,
        Code.TARGET_FOREIGN,
        Code.TARGET_NOT_SCALABLE,
        Code.POOL_NOT_FOUND,
        Code.POOL_MISMATCH,
        Code.GPUS_UNKNOWN,
    }
)
_MODES = {Mode.OFF: Code.MODE_OFF, Mode.RECOMMEND: Code.MODE_RECOMMEND}


def step(draft: Draft, cycle: Cycle) -> None:
    """Fill `fault`, also of variants that need not stop the others, and `no_write` by the first that forbids.

    In this order: a rival, a fault, the mode, what may be unseen.
    """
    of_variants = [_faults_of(draft, variant) for variant in draft.variants]
    draft.fault = _first_fault(draft, of_variants)
    draft.no_write = _forbidden(draft, of_variants, cycle)
    for variant, found in zip(draft.variants, of_variants, strict=True):
        variant.fault = found[0] if found and draft.no_write is None else None


def _forbidden(draft: Draft, of_variants: list[list[_Fault]], cycle: Cycle) -> _Fault | None:
    mode = draft.state.spec.mode
    if draft.conflict:
        return Code.TARGET_CONFLICT, draft.conflict
    if draft.fault is not None and not _others_may_act(draft, of_variants):
        return draft.fault
    if mode is not Mode.AUTO:
        return _MODES[mode], f"mode is {mode.value}: nothing is written to the targets"
    if cycle.unwritable:
        text = f"{cycle.unwritable} cannot be watched, so a rival, a pause or a switch to Off may be unseen: no writes"
        return Code.CLUSTER_UNREADABLE, text
    return None


def _others_may_act(draft: Draft, of_variants: list[list[_Fault]]) -> bool:
    """Whether all that is wrong concerns some variants alone, and there are others."""
    codes = [code for faults in of_variants for code, _ in faults]
    return not draft.state.faults and not all(of_variants) and all(code in _OF_ONE_VARIANT for code in codes)


def _first_fault(draft: Draft, of_variants: list[list[_Fault]]) -> _Fault | None:
    """The code of the first cross-object fault of the service or of its targets and pools, and the words of all."""
    found = [(_as_code(code), text) for code, text in draft.state.faults]
    for faults in of_variants:
        found += faults
    return (found[0][0], "; ".join(text for _, text in found)) if found else None


def _faults_of(draft: Draft, variant: VariantDraft) -> list[_Fault]:
    """What was found while the target was resolved, each text with the variant's name; else what the snapshot shows."""
    target, name = variant.state.target, variant.spec.name
    if target.faults:
        return [(_as_code(code), text) for code, text in target.faults]
    if not target.exists:
        what = f"{variant.spec.target.kind} {variant.spec.target.name}"
        return [(Code.TARGET_NOT_FOUND, f"variant {name}: {what} does not exist in {draft.state.spec.namespace}")]
    if not target.scalable:
        return [(Code.TARGET_NOT_SCALABLE, f"variant {name}: {variant.spec.target.kind} has no scale subresource")]
    if variant.pool is None:
        return [(Code.POOL_NOT_FOUND, f"variant {name}: there is no GPUPool {variant.spec.pool}")]
    return []


def _as_code(text: str) -> Code:
    """The catalogue's code of that value; an unknown one counts as a target that could not be resolved."""
    try:
        return Code(text)
    except ValueError:
        return Code.TARGET_NOT_FOUND
