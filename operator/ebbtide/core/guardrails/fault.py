"""What is not written is not said to be allowed: in Auto, a service that may not be written to stays as it is."""

from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.spec import Mode


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Everything stays where writing is forbidden. Recommend and Off show what would be done if it were not."""
    del cycle
    if draft.no_write is None or draft.state.spec.mode is not Mode.AUTO:
        return None
    counts = [variant.observed for variant in draft.variants]
    return None if counts == draft.counts() else Verdict(counts, *draft.no_write)
