"""What is not written is not said to be allowed: in Auto, a service whose targets or pools do not resolve stays.

So does every service while a rival, or a switch to Off, may be unseen.
"""

from ebbtide.core.explain import first_fault
from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Mode


def forbids(draft: Draft, cycle: Cycle) -> tuple[Code, str] | None:
    """Why the service is planned, but not acted on; None where it may be."""
    fault = first_fault(draft)
    if fault is None and cycle.unwritable and draft.state.spec.mode is Mode.AUTO:
        text = f"{cycle.unwritable} cannot be watched, so a rival, a pause or a switch to Off may be unseen: no writes"
        return Code.CLUSTER_UNREADABLE, text
    return fault


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Everything stays in a fault. Recommend and Off show what would be done once it is mended."""
    found = forbids(draft, cycle)
    if found is None or draft.state.spec.mode is not Mode.AUTO:
        return None
    counts = [variant.observed for variant in draft.variants]
    return None if counts == draft.counts() else Verdict(counts, *found)
