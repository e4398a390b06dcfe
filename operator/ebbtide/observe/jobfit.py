"""Pools on none of whose nodes the pods of a Job could ever be, by what its own template says; in words.

Asked is what the scheduler asks: node selector, required node affinity, taints. Only what is certain is said: of an
Autoscaled pool, whose next node may have other labels than those that are there, a label that the pool itself declares
and the Job excludes. Affinity to other pods and spreads are the scheduler's alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ebbtide.model.snapshot import PoolState
from ebbtide.model.spec import Provisioning
from ebbtide.observe.pools import is_interruption
from ebbtide.observe.projections import JobPodSpec, Node, NodeSelectorTerm, SelectorRequirement, Taint

_PASSING = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")  # taints that the cluster sets and takes away
_KEEPS_OUT = frozenset({"NoSchedule", "NoExecute"})
_SHOWN = 3
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_NAME = "metadata.name"


class Wants(NamedTuple):
    """Of one template what decides on which nodes its pods may be; Jobs of one template share the answer."""

    selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[NodeSelectorTerm, ...] = ()  # of the affinity, of which one must hold
    tolerations: tuple[str, ...] = ()  # each as JSON


def wants(pod: JobPodSpec, selector: tuple[tuple[str, str], ...], tolerations: Iterable[str]) -> Wants:
    """`selector` and `tolerations`: the template's own, without what Ebbtide added."""
    affinity = pod.affinity.node_affinity if pod.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    return Wants(selector, (required and required.node_selector_terms) or (), tuple(tolerations))


class Fits:
    """The pools and their nodes at one moment."""

    def __init__(self, pools: Iterable[PoolState], nodes: Mapping[str, Node]) -> None:
        self._pools = tuple(pools)
        self._nodes = nodes
        self._known: dict[Wants, tuple[tuple[str, str], ...]] = {}

    def misfits(self, wanted: Wants) -> tuple[tuple[str, str], ...]:
        """(pool, why) of each on which its pods could never be."""
        found = self._known.get(wanted)
        if found is None:
            asked = ((pool.spec.name, self._misfit(wanted, pool)) for pool in self._pools)
            found = self._known[wanted] = tuple((name, why) for name, why in asked if why)
        return found

    def _misfit(self, wanted: Wants, pool: PoolState) -> str:
        name = pool.spec.name
        if pool.spec.provisioning is Provisioning.AUTOSCALED:
            declared = dict(pool.spec.node_selector)
            why = _labels(wanted, [(declared, {})], declared)
            return f"{name}: its nodes have other labels than {why}" if why else ""
        nodes = [self._nodes[state.name] for state in pool.nodes if state.name in self._nodes]
        if not nodes:
            return ""
        fitting = [node for node in nodes if not _labels(wanted, [_seen(node)])]
        if not fitting:
            none = f"none of the {len(nodes)} nodes has" if len(nodes) > 1 else "its only node does not have"
            return f"{name}: {none} {_labels(wanted, [_seen(node) for node in nodes])}"
        kept_out = [_kept_out(node, wanted, pool) for node in fitting]
        taint = next((taint for taint in kept_out if taint is not None), None)
        if taint is None or None in kept_out:
            return ""
        text = f"{taint.key}={taint.value}" if taint.value else taint.key
        cure = "neither it nor the GPUPool's spec.tolerations tolerates it"
        return f"{name}: nodes that it could be on have the taint {text}:{taint.effect}, and {cure}"


_Seen = tuple[Mapping[str, str], Mapping[str, str]]  # labels, fields


def _seen(node: Node) -> _Seen:
    return node.metadata.labels or {}, {_NAME: node.metadata.name}


def _labels(wanted: Wants, nodes: Sequence[_Seen], declared: Mapping[str, str] | None = None) -> str:
    """What none of the nodes has, in words; empty: one has all. `declared`: labels beside which there may be any."""
    for key, value in wanted.selector:
        nodes = [node for node in nodes if node[0].get(key, value if declared is not None else None) == value]
        if not nodes:
            return f"{key}={value}, which its nodeSelector asks for"
    lacking = [_term(term, nodes, declared) for term in wanted.terms]
    return f"{' or '.join(dict.fromkeys(lacking))}, which its nodeAffinity asks for" if lacking and all(lacking) else ""


def _term(term: NodeSelectorTerm, nodes: Sequence[_Seen], declared: Mapping[str, str] | None) -> str:
    asked = [(0, each) for each in term.match_expressions or ()] + [(1, each) for each in term.match_fields or ()]
    if not asked:
        return "what an empty term matches (nothing does)"
    for which, each in asked:
        if declared is not None and (which or each.key not in declared):
            continue  # of a node that is to come nobody knows it
        nodes = [node for node in nodes if _holds(each, node[which].get(each.key))]
        if not nodes:
            return _words(each)
    return ""


def _holds(asked: SelectorRequirement, value: str | None) -> bool:
    values = asked.values or ()
    match asked.operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            if value is None or not values or not _NUMBER.fullmatch(value) or not _NUMBER.fullmatch(values[0]):
                return False
            return int(value) > int(values[0]) if asked.operator == "Gt" else int(value) < int(values[0])
    return True  # an operator of a newer Kubernetes: the scheduler knows it


def _words(asked: SelectorRequirement) -> str:
    values = asked.values or ()
    listed = ", ".join(values[:_SHOWN]) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
    match asked.operator:
        case "In" | "NotIn":
            return f"{asked.key} {'in' if asked.operator == 'In' else 'not in'} ({listed})"
        case "Exists" | "DoesNotExist":
            return f"{'any' if asked.operator == 'Exists' else 'no'} label {asked.key}"
    return f"{asked.key} {'>' if asked.operator == 'Gt' else '<'} {listed}"


def _kept_out(node: Node, wanted: Wants, pool: PoolState) -> Taint | None:
    """The first taint of the node that its pods tolerate neither by themselves nor by what Ebbtide adds."""
    for taint in node.spec.taints or ():
        if taint.effect not in _KEEPS_OUT or taint.key.startswith(_PASSING) or is_interruption(pool.spec, taint):
            continue
        added = any(
            (item.key, item.value or taint.value or "") == (taint.key, taint.value or "")
            and item.effect in (None, taint.effect)
            for item in pool.spec.tolerations
        )
        if not added and not any(_tolerates(msgspec.json.decode(text), taint) for text in wanted.tolerations):
            return taint
    return None


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    key, effect = toleration.get("key", ""), toleration.get("effect", "")
    if effect not in ("", taint.effect) or key not in ("", taint.key):
        return False
    operator = toleration.get("operator") or "Equal"
    return operator != "Equal" or (bool(key) and toleration.get("value", "") == (taint.value or ""))
