"""Unknown is not zero: only demand that is freshly and fully known may lower anything."""

from ebbtide.core.guardrails.verdict import Verdict, no_lower
from ebbtide.core.work import Cycle, DemandView, Draft
from ebbtide.model.reasons import Code


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Undo every decrease while metrics are stale, missing, partial or out of reach, or counts may be the past."""
    if not holds(draft, cycle):
        return None
    counts = no_lower(draft)
    if counts == draft.counts():
        return None
    code, text = describe(draft.demand, cycle)
    return Verdict(counts, code, text)


def holds(draft: Draft, cycle: Cycle) -> bool:
    """Whether anything is unknown by which the service might be lowered."""
    return draft.demand.quality != "fresh" or bool(cycle.metrics_down) or bool(cycle.unwatched)


def describe(view: DemandView, cycle: Cycle) -> tuple[Code, str]:
    """The state of the metrics as a reason."""
    if cycle.metrics_down:
        return Code.PROMETHEUS_UNREACHABLE, f"Prometheus is out of reach ({cycle.metrics_down}): nothing is lowered"
    if cycle.unwatched:
        return Code.CLUSTER_UNREADABLE, f"{cycle.unwatched_text} cannot be watched: nothing is lowered"
    if view.quality == "stale":
        return Code.METRICS_STALE, f"the newest readings are {view.age_s or 0:.0f}s old: replicas hold"
    if view.quality in ("missing", "partial"):
        return Code.METRICS_MISSING, f"{view.silent} ready pods have no usable series: nothing is lowered"
    if view.quality == "young":
        return Code.PODS_STARTING, "pods became ready a moment ago and have no rates yet: nothing is lowered"
    return Code.NOTHING_RUNS, "no ready pod, so demand cannot be measured: nothing is lowered"
