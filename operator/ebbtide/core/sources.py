"""What follows where a source of the cluster's data does not answer: for every service, and in the words of conditions.

A cache whose watch is broken shows the past: two pods where six serve. What is counted by it lowers nothing and teaches
nothing; where somebody else's hand, or a switch to Off, may be unseen, nothing is written at all. Must never say that
replicas hold where they may move.
"""

from ebbtide.core.work import Cycle
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Source

COUNTED = frozenset({"pods", "nodes", "deployments", "statefulsets"})  # replicas, demand and room are counted by these
OBEYED = frozenset({"horizontalpodautoscalers", "scaledobjects", "inferenceservices"})  # these may forbid a write

_FOLLOWS = {
    "prometheus": "nothing is lowered, and raised only by what was read before, by minimums and by gateways' queues",
    "histograms": "services are scaled without them; what replicas carry is not learnt from latencies that are missing",
    "discovery": "services whose targets' kinds are not known yet hold, the others are planned",
    "scales": "services whose targets' scale cannot be read hold, the others are planned",
    "costpolicies": "which ceilings hold may be unseen: nothing is raised",
    "jobsets": "JobSets are planned as last read, those never read left alone; Jobs and services are planned as ever",
    "gpupools": "services are planned with the pools and prices as last read",
}
_FOLLOWS |= dict.fromkeys(("batchpolicies", "jobs"), "no batch Job is started; services are planned as ever")
_FOLLOWS |= dict.fromkeys(COUNTED, "what was last seen of them may be the past: nothing is lowered or learnt")
_FOLLOWS |= dict.fromkeys(OBEYED, "another autoscaler, a pause or a switch to Off may be unseen: no target is scaled")
_OF_A_KIND = "services whose targets are of this kind hold, the others are planned"


def note(cycle: Cycle) -> None:
    """Say for all services what does not answer."""
    sick = [source for source in cycle.snapshot.sources if not source.healthy]
    cycle.metrics_down = next((source.message or "it does not answer" for source in sick if _is_metrics(source)), "")
    cycle.unwatched = {source.name: why(source) for source in sick if source.name in COUNTED}
    cycle.unwritable = "; ".join(f"{source.name} ({why(source)})" for source in sick if source.name in OBEYED)


def why(source: Source) -> str:
    """What the API server said, else how old its last answer is."""
    if source.message:
        return source.message
    return "it never answered" if source.age_s is None else f"its last answer is {source.age_s:.0f}s old"


def follows(source: Source) -> str:
    """What follows for services while the source does not answer; a kind of targets where it is none of the known."""
    return _FOLLOWS.get(source.name, _OF_A_KIND)


def code(source: Source) -> Code:
    """The reason of the source's condition while it does not answer."""
    if _is_metrics(source):
        return Code.PROMETHEUS_UNREACHABLE
    return Code.METRICS_STALE if source.name == "histograms" else Code.CLUSTER_UNREADABLE


def _is_metrics(source: Source) -> bool:
    return source.name == "prometheus"
