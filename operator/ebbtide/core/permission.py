"""May this service's targets be written to: decided once a cycle, before GPUs are given to anybody.

What may not act is planned and shown all the same, but takes nothing from those that may. Must never say yes while
somebody else writes, or while that may be unseen.
"""

from ebbtide.core.work import Cycle, Draft, VariantDraft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Mode

_MODES = {Mode.OFF: Code.MODE_OFF, Mode.RECOMMEND: Code.MODE_RECOMMEND}


def step(draft: Draft, cycle: Cycle) -> None:
    """Fill `fault`, and `no_write` by the first that forbids: a rival, a fault, what may be unseen, the mode."""
    draft.fault = _first_fault(draft)
    draft.no_write = _forbidden(draft, cycle)


def _forbidden(draft: Draft, cycle: Cycle) -> tuple[Code, str] | None:
    mode = draft.state.spec.mode
    if draft.conflict:
        return Code.TARGET_CONFLICT, draft.conflict
    if draft.fault is not None:
        return draft.fault
    if mode is not Mode.AUTO:
        return _MODES[mode], f"mode is {mode.value}: nothing is written to the targets"
    if cycle.unwritable:
        text = f"{cycle.unwritable} cannot be watched, so a rival, a pause or a switch to Off may be unseen: no writes"
        return Code.CLUSTER_UNREADABLE, text
    return None


def _first_fault(draft: Draft) -> tuple[Code, str] | None:
    """The code of the first cross-object fault of the service or of its targets and pools, and the words of all."""
    found = [(_as_code(code), text) for code, text in draft.state.faults]
    for variant in draft.variants:
        found += _faults_of(draft, variant)
    return (found[0][0], "; ".join(text for _, text in found)) if found else None


def _faults_of(draft: Draft, variant: VariantDraft) -> list[tuple[Code, str]]:
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
