"""What is not written is not said to be allowed: in Auto, a service whose targets or pools do not resolve stays."""

from ebbtide.core.explain import first_fault
from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.spec import Mode


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Everything stays in a fault. Recommend and Off show what would be done once it is mended."""
    del cycle
    fault = first_fault(draft)
    if fault is None or draft.state.spec.mode is not Mode.AUTO:
        return None
    counts = [variant.observed for variant in draft.variants]
    return None if counts == draft.counts() else Verdict(counts, *fault)
