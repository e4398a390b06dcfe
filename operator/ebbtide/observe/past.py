"""Pods and nodes that came and went while no operator watched, as Prometheus has them from kube-state-metrics.

Five queries for one hole in time, asked once: which GPUs pods had requested, since when they were bound, when they were
seen first and last and when they finished; and three of nodes (see `past_nodes`). Looked at are 600 moments of the
hole; a pod that was not seen any more is taken to have ended a minute after it was seen last, or at the next of these
moments.
Whose it was is told by its name, that of its target with what controllers append; where no target's name fits it is
somebody else's.

Worked example: no operator from 10:00 to 10:30. `chat-7d9f8b6c5-x2x7p` was bound at 10:05 and last seen at 10:19:30: it
is put down to the Deployment `chat` from 10:05 to 10:20:30.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.model.money import Payer, payer_of
from ebbtide.model.spec import Billing, PoolSpec, ServiceSpec, Spec
from ebbtide.money.lifetimes import Holding
from ebbtide.observe import past_nodes
from ebbtide.observe.past_nodes import LATE_S, PastNodes, Place, of_metrics
from ebbtide.observe.prometheus import Prometheus, Sample

LONGEST_S = 86_400  # of a longer hole, its last day
_LOOKS = 600
_MOST = 50_000  # pods

_REQUESTS, _BOUND, _FINISHED = (
    "kube_pod_container_resource_requests",
    "kube_pod_status_scheduled_time",
    "kube_pod_completion_time",
)
_BY = "namespace, pod, exported_namespace, exported_pod, node, uid, resource"
_SUFFIX = {"Deployment": r"[a-z0-9]{1,10}-[a-z0-9]{5}"}
_ORDINALS = r"[0-9]+(-[0-9]+)*"  # StatefulSet, LeaderWorkerSet


class Past(Spec, frozen=True):
    """`holdings` are of [from_s, to_s), unix seconds; `why` says what cannot be told, '' when all is.

    Nodes are those that have gone since, by uids that no object has; of one whose pool is not known it is empty.
    `failed`: it did not answer, and may a little later.
    """

    from_s: int
    to_s: int
    holdings: tuple[Holding, ...] = ()
    why: str = ""
    failed: bool = False


@dataclass(slots=True)
class _Pod:
    """What Prometheus has of one."""

    namespace: str = ""
    name: str = ""
    node: str = ""
    gpus: dict[str, int] = field(default_factory=dict)  # by the name that kube-state-metrics has for the resource
    bound_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    finished_s: float | None = None


async def ask(
    prometheus: Prometheus | None,
    matchers: str,
    hole: tuple[int, int],
    places: Mapping[str, Place],
    services: Sequence[ServiceSpec],
    pools: Sequence[PoolSpec],
) -> Past:
    """Every pod that held GPUs at some time of the hole [from, to), unix seconds, and nodes that have gone since.

    `places`: the nodes that there are, by name.
    """
    from_s, to_s = max(hole[0], hole[1] - LONGEST_S), hole[1]
    earlier = "what ran more than a day before is not asked for" if from_s > hole[0] else ""
    if prometheus is None:
        return Past(*hole, why="no Prometheus is set that could be asked")
    pods, nodes, step_s = dict[str, _Pod](), PastNodes(places, pools), _step_s(from_s, to_s)
    span, resources = f"{max(1, to_s - from_s)}s", {pool.resource for pool in pools}
    try:
        for slot, text in _queries(matchers, span, step_s, resources).items():
            await prometheus.query(text, float(to_s), partial(_take, pods, slot))
        for what, text in past_nodes.queries(matchers, span, step_s, pools).items():
            await prometheus.query(text, float(to_s), partial(nodes.take, what))
    except EbbtideError as error:
        return Past(*hole, why=f"Prometheus could not be asked: {error}", failed=True)
    found = [_holding(uid, pod, nodes, services, from_s, to_s) for uid, pod in pods.items() if pod.gpus]
    lost = sum(item is None for item in found)
    said = [
        earlier,
        "" if found else f"Prometheus has no {_REQUESTS} of that time, by which kube-state-metrics tells GPUs",
        f"{lost} pods of nodes of no pool, or of which none is known, are not counted" if lost else "",
        f"Prometheus has no {past_nodes.CREATED} of that time, by which kube-state-metrics tells nodes"
        if not nodes.known and any(pool.billing is Billing.NODE for pool in pools)
        else "",
    ]
    known = (*nodes.holdings(to_s, step_s), *(item for item in found if item is not None))
    return Past(*hole, known, "; ".join(filter(None, said)))


def _queries(matchers: str, span: str, step_s: int, resources: set[str]) -> dict[str, str]:
    """By what they tell. The uid comes as label `slot` and the resource as `engine`, which are read anyway."""
    names = "|".join(sorted(of_metrics(resource) for resource in resources)) or "none"
    more = f", {matchers}" if matchers else ""
    requests = f'{_REQUESTS}{{resource=~"{names}"{more}}}'
    times = f"timestamp({requests})[{span}:{step_s}s]"
    texts = {
        "gpus": f"sum by ({_BY}) (max by ({_BY}, container) (max_over_time({requests}[{span}])))",
        "first": f"min by ({_BY}) (min_over_time({times}))",
        "last": f"max by ({_BY}) (max_over_time({times}))",
        "bound": f"max by ({_BY}) (max_over_time({_BOUND}{{{matchers}}}[{span}]))",
        "finished": f"max by ({_BY}) (max_over_time({_FINISHED}{{{matchers}}}[{span}]))",
    }
    relabelled = 'label_replace(label_replace({}, "slot", "$1", "uid", "(.*)"), "engine", "$1", "resource", "(.*)")'
    return {slot: relabelled.format(text) for slot, text in texts.items()}


def _take(pods: dict[str, _Pod], what: str, batch: Sequence[Sample]) -> None:
    for sample in batch:
        labels, value = sample.metric, float(sample.value.text)
        wanted = labels.slot in pods or (what == "gpus" and len(pods) < _MOST)  # GPUs come first, others' times after
        if not labels.slot or not math.isfinite(value) or not wanted:
            continue
        pod = pods.setdefault(labels.slot, _Pod())
        if what == "gpus":
            pod.namespace = labels.exported_namespace or labels.namespace
            pod.name, pod.node = labels.exported_pod or labels.pod, labels.node
            pod.gpus[labels.engine] = round(value)
        elif what == "first":
            pod.first_s = value
        elif what == "last":
            pod.last_s = value
        elif what == "bound":
            pod.bound_s = value
        else:
            pod.finished_s = value


def _holding(
    uid: str, pod: _Pod, nodes: PastNodes, services: Sequence[ServiceSpec], from_s: int, to_s: int
) -> Holding | None:
    """None: it was on a node of which the pool is not known."""
    begin_s = pod.bound_s if pod.bound_s is not None else pod.first_s if pod.first_s is not None else float(from_s)
    place = nodes.place(pod.node, begin_s)
    gpus = pod.gpus.get(of_metrics(place.resource), 0) if place is not None else 0
    if place is None or gpus <= 0:
        return None
    step_s = _step_s(from_s, to_s)
    last_s = pod.last_s if pod.last_s is not None else max(begin_s, from_s) + step_s  # between two looks
    end_s = min(last_s + max(LATE_S, step_s), float(to_s))
    if pod.finished_s is not None:
        end_s = min(end_s, pod.finished_s + 1.0)  # the second in which it ended was begun
    payer = msgspec.structs.replace(_payer(pod, services), pool=place.pool)
    return Holding(uid, payer, gpus, begin_s, max(begin_s, end_s), place.uid)


def _payer(pod: _Pod, services: Sequence[ServiceSpec]) -> Payer:
    """By the longest name of a target that the pod's begins with: `chat-long-...` is none of `chat`."""
    best, found = "", Payer("", pod.namespace)
    for service in services:
        if service.namespace != pod.namespace:
            continue
        for variant in service.variants:
            name, suffix = variant.target.name, _SUFFIX.get(variant.target.kind, _ORDINALS)
            if len(name) > len(best) and re.fullmatch(re.escape(name) + "-" + suffix, pod.name):
                best = name
                found = payer_of(service, variant.name)
    return found


def _step_s(from_s: int, to_s: int) -> int:
    return max(1, (to_s - from_s) // _LOOKS)
