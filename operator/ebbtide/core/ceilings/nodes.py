"""Nodes that come and go and are paid whole: what of each a policy pays for, and for whose sake.

The replicas of a variant are taken in the order in which they would stay (`core.victims`; by ordinal where the target
goes by these). A node counts for the one on it that stays longest: fixed, passing, kept or on its way out; whoever else
of the policy's is on it takes nothing more, and to let these go saves nothing. Worked example: 13 replicas of one GPU
on two nodes of 8 GPUs. To keep the first 8 takes 8 GPUs, to keep the ninth takes 8 more.

Beside pods of others a policy pays its share (`money.idle`). A period reserves what that becomes once neighbours that
Ebbtide itself may let go have left, so that no other policy's saving is its overrun; a rate is what it is now.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from ebbtide.core import release, victims
from ebbtide.core.ceilings.lines import Line, Machine, PolicyDraft, Tariff, node_gpus, pod_gpus
from ebbtide.core.ceilings.room import Room
from ebbtide.core.ceilings.stake import Known, Part, Stake, exit_s, tariff_for, tariff_in
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.work import Cycle, VariantDraft
from ebbtide.model.snapshot import NodeState, PodPhase, PodState

Held = dict[str, list[int]]
"""GPUs by node: of pods that are to stay, and of all."""


class Tier(IntEnum):
    """What a replica that runs is to its policies."""

    FIXED = 0
    PASSING = 1
    KEPT = 2
    LEAVING = 3


_NONE = (0,) * len(Tier)


def note(stakes: Iterable[Stake], cycle: Cycle) -> None:
    """What of each node the policies pay for, where each replica is, and where others may be put."""
    pools = [pool for pool in cycle.pools.values() if release.applies(pool.state)]
    if not pools:
        return
    managed = _held(variant for draft in cycle.drafts for variant in draft.variants)
    under: dict[int, list[VariantDraft]] = defaultdict(list)
    for stake in stakes:
        for part in stake.parts:
            if _applies(part.variant):
                part.nodes = _order(part)
                for policy in stake.policies:
                    under[id(policy)].append(part.variant)
    held = {policy: _held(variants) for policy, variants in under.items()}
    coming = _coming(stakes, cycle)
    for pool in pools:
        there = {node.name: node for node in pool.state.nodes}
        opens = sum(node.allocated_gpus < node.gpus for node in pool.state.nodes)
        leaving = release.leaving_gpus(pool, cycle.now_s)
        for policy in cycle.policies:
            if policy.comes_and_goes(pool):
                mine = {name: sums for name, sums in held.get(id(policy), {}).items() if name in there and sums[0]}
                for name, (stays, whole) in mine.items():
                    policy.machines[name] = _machine(there[name], stays, whole, managed[name][1], policy)
                beside = coming[None, pool.name] - coming[id(policy), pool.name]
                _note_room(policy, pool, [policy.machines[name] for name in mine], opens, beside, leaving)


def _applies(variant: VariantDraft) -> bool:
    return variant.pool is not None and release.applies(variant.pool.state)


def _held(variants: Iterable[VariantDraft]) -> Held:
    found: Held = defaultdict(lambda: [0, 0])
    for variant in variants:
        for pod in variant.state.pods if _applies(variant) else ():
            if pod.node:
                sums = found[pod.node]
                sums[0] += pod.gpus if pod.phase is not PodPhase.TERMINATING else 0
                sums[1] += pod.gpus
    return found


def _coming(stakes: Iterable[Stake], cycle: Cycle) -> dict[tuple[int | None, str], int]:
    """By policy and pool, pods that are to be raised or wait for a node; None: all pods of the pool."""
    found: dict[tuple[int | None, str], int] = defaultdict(int)
    under: set[int] = set()
    for stake in stakes:
        under.add(id(stake.draft))
        for part in stake.parts:
            count = (part.raised + part.waiting) * part.pods
            for key in (None, *(id(policy) for policy in stake.policies)) if count else ():
                found[key, part.variant.spec.pool] += count
    for draft in cycle.drafts:
        for variant in draft.variants if id(draft) not in under else ():
            each = max(1, variant.state.target.pods_per_replica)
            bound = sum(1 for pod in variant.state.pods if pod.node and pod.phase is not PodPhase.TERMINATING)
            most = variant.observed if draft.no_write is not None else max(variant.count, variant.observed)
            found[None, variant.spec.pool] += max(0, most * each - bound)
    return found


def _note_room(
    policy: PolicyDraft, pool: PoolDraft, mine: list[Machine], opens: int, coming: int, leaving: int
) -> None:
    """`opens`: nodes with free GPUs; `coming`: pods of others, each of which may bring one more to be put on."""
    idle = sum(item.idle for item in policy.state.others if item.pool == pool.name)
    beside = max(0, idle - sum(machine.rest for machine in mine))
    going, size = min(beside, leaving), node_gpus(pool)
    free = tuple(machine.free for machine in mine if machine.free) + (size,) * ((beside - going) // size)
    if policy.state.spec.pays_all:
        free += ((beside - going) % size,)
    policy.beside[pool.name] = beside
    policy.idle[pool.name] = sum(free)
    opens = 0 if policy.state.spec.pays_all else max(0, opens - len(free) - going // size) + coming
    policy.empty[pool.name] = Room(free, going, opens)


def _machine(node: NodeState, stays: int, mine: int, managed: int, policy: PolicyDraft) -> Machine:
    used = max(node.allocated_gpus, managed)
    others = used - managed  # nobody plans for these
    free = max(0, node.gpus - used)
    if policy.state.spec.pays_all:
        return Machine(free, stays + free, stays + free, free)
    rest = -(-free * mine // used)
    most = -(-max(stays, node.gpus - others) * stays // (stays + others))
    return Machine(rest, stays + rest, max(stays + rest, most), free if mine == used else 0)


def _order(part: Part) -> list[tuple[str, ...]]:
    """Nodes of the pods of each replica that runs, the last to go first; an empty name: it has none yet."""
    variant, per = part.variant, part.pods
    pods = [pod for pod in variant.state.pods if pod.phase is not PodPhase.TERMINATING]
    if variant.state.target.ordinal:
        pods.sort(key=_ordinals)
    else:
        going = {name: index for index, name in enumerate(victims.choose(variant, len(pods)))}
        pods.sort(key=lambda pod: -going.get(pod.name, len(pods)))
    return [tuple(pod.node for pod in pods[first : first + per]) for first in range(0, len(pods), per)]


def _ordinals(pod: PodState) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"(?<=-)\d+", pod.name))


def replicas(part: Part) -> Iterator[tuple[Tier, tuple[str, ...]]]:
    """Those that run, each with the nodes of its pods."""
    counts = part.fixed - part.missing, part.passing, part.floor + part.kept, part.leaving
    found = [tier for tier, count in zip(Tier, counts, strict=True) for _ in range(count)]
    yield from zip(found, part.nodes, strict=False)


def placed(part: Part, policy: PolicyDraft) -> Sequence[int]:
    """By tier, replicas that count with their nodes and not by themselves."""
    if not part.nodes or not policy.machines:
        return _NONE
    found = [*_NONE]
    for tier, names in replicas(part):
        found[tier] += all(name in policy.machines for name in names)
    return found


def bind(stakes: list[Stake], known: Known) -> None:
    """Add each node to the lines of the one on it that stays longest, of equals the one of the highest priority."""
    first: dict[tuple[int, str], tuple[Tier, Stake, Part, PolicyDraft]] = {}
    for stake in sorted((stake for stake in stakes if any(part.nodes for part in stake.parts)), key=_matters):
        on = [(tier, part, name) for part in stake.parts for tier, names in replicas(part) for name in names]
        for policy in stake.policies:
            for tier, part, name in on:
                key = id(policy), name
                if name in policy.machines and (key not in first or tier < first[key][0]):
                    first[key] = tier, stake, part, policy
    for (_, name), (tier, stake, part, policy) in first.items():
        tariff, machine = tariff_for(part, policy, known), policy.machines[name]
        if tier <= Tier.PASSING:
            policy.stays.add(name)
        if tariff is not None:
            now = machine.now * tariff.dearest(policy.now_s, policy.now_s + 1)
            policy.fixed_rate += now if tier is not Tier.KEPT else 0
            policy.leaving_rate += now if tier is Tier.LEAVING else 0
            for line in policy.lines_of(stake.priority):
                _bind_to(line, machine.takes(rate=line.is_rate), tariff, tier, part)
                if line.is_rate:
                    line.grows += (machine.most - machine.now) * line.takes(tariff, policy.reserve_s)


def _bind_to(line: Line, gpus: int, tariff: Tariff, tier: Tier, part: Part) -> None:
    policy = line.policy
    if tier is Tier.FIXED:
        line.bound += gpus * line.takes(tariff, line.end_s - policy.now_s)
    elif tier is Tier.PASSING:
        line.bound += gpus * line.takes(tariff, policy.reserve_s)
    elif tier is Tier.KEPT:
        line.kept += gpus * line.takes(tariff, policy.reserve_s)
    else:
        line.leaving += gpus * line.takes(tariff, exit_s(part.variant, policy.state.spec))


def _matters(stake: Stake) -> tuple[int, str]:
    return -stake.priority, stake.key


def bind_coming(stakes: list[Stake], cycle: Cycle, known: Known) -> None:
    """Replicas without a node take GPUs that are idle; nodes that come for the others bring more than these need."""
    for policy in cycle.policies:
        policy.unclaim()
    surplus: dict[tuple[int, str], int] = {}  # GPUs by policy and pool
    for stake in stakes:
        for part in stake.parts:
            pool, gpus = part.variant.pool, part.gpus
            for policy in stake.policies if part.waiting else ():
                if policy.pays_nodes(pool):
                    key = id(policy), part.variant.spec.pool
                    more = sum(policy.put(pool, gpus, part.pods) - gpus for _ in range(part.waiting))
                    surplus[key] = surplus.get(key, 0) + more
    for policy in cycle.policies:
        for name in policy.rooms:
            more = surplus.get((id(policy), name), 0)
            tariff = tariff_in(name, cycle.pools.get(name), policy, known) if more else None
            if tariff is not None:
                policy.idle[name] = policy.idle.get(name, 0) + more
                for line in policy.lines_of_all:
                    line.bound += more * line.takes(tariff, policy.reserve_s)
        policy.empty = policy.rooms
        policy.unclaim()


def missing_rest(part: Part, policy: PolicyDraft) -> int:
    """GPUs that the nodes of its missing minimums have beside them, as many on each node as fit."""
    pool = part.variant.pool
    if not part.missing or pool is None or not policy.comes_and_goes(pool):
        return 0
    size, node = pod_gpus(part.gpus, part.pods), node_gpus(pool)
    nodes = -(-part.missing * part.pods // max(1, node // size)) * -(-size // node)
    return nodes * node - part.missing * part.gpus
