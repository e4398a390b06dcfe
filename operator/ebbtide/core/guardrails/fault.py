"""What is not written is not said to be allowed: in Auto, what may not be written to stays as it is.

A whole service, or one variant whose target or pool is wrong.
"""

from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.spec import Mode


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Everything stays where writing is forbidden. Recommend and Off show what would be done if it were not."""
    del cycle
    cause = draft.no_write or draft.fault
    if cause is None or draft.state.spec.mode is not Mode.AUTO:
        return None
    still = [draft.no_write is not None or variant.fault is not None for variant in draft.variants]
    counts = [v.observed if stays else v.count for v, stays in zip(draft.variants, still, strict=True)]
    return None if counts == draft.counts() else Verdict(counts, *cause)
