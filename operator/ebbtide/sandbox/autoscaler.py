"""A small node autoscaler for one pool of fake nodes: `python -m ebbtide.sandbox.autoscaler --help`.

It sees Pending pods that the scheduler calls unschedulable and that fit the pool, adds a node a lead time later, and
removes nodes that stayed empty, never below the size the pool began with. While the file given by `--fail-file` exists,
nodes that are due do not come, as when a cloud has none left. What it knows and does is in `--state-file`, as JSON.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ebbtide.clock import unix_time_s
from ebbtide.errors import ConfigurationError, EbbtideError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox import nodes
from ebbtide.sandbox.nodes import NodePool

_LOG = logging.getLogger("ebbtide.sandbox.autoscaler")
_TICK_S = 1.0
_REMOVAL_TAINT = "sandbox.ebbtide.dev/to-be-removed"
NO_CAPACITY = "the cloud has no capacity for this node (told to fail)"


@dataclass(frozen=True)
class AutoscalerSettings:
    """Times in seconds. `retry_s` is the wait after a node that did not come."""

    lead_time_s: float = 20.0
    idle_s: float = 60.0
    max_nodes: int = 6
    min_nodes: int = 0
    retry_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_nodes <= self.max_nodes <= 1000:
            raise ConfigurationError(
                f"min_nodes is {self.min_nodes} and max_nodes {self.max_nodes}: allowed is 0 <= min <= max <= 1000"
            )
        for name in ("lead_time_s", "idle_s", "retry_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: allowed are 0 seconds and more")


@dataclass(frozen=True)
class Launch:
    """A node that was asked for; `due_s` is when it comes, since 1970."""

    name: str
    due_s: float


@dataclass(frozen=True)
class State:
    """What the autoscaler remembers and shows. `empty_since_s` holds empty nodes only."""

    launching: tuple[Launch, ...] = ()
    empty_since_s: Mapping[str, float] = field(default_factory=dict)
    next_index: int = 0
    failing: bool = False
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: str = ""


@dataclass(frozen=True)
class World:
    """One look at the cluster: GPUs asked for by each waiting pod, free GPUs by node, empty nodes."""

    waiting_gpus: tuple[int, ...]
    free_gpus: Mapping[str, int]
    empty: frozenset[str]
    cloud_fails: bool = False


@dataclass(frozen=True)
class Decision:
    """Nodes to create now, nodes to remove now, and the state to remember."""

    create: tuple[str, ...]
    remove: tuple[str, ...]
    state: State


@dataclass(frozen=True)
class Autoscaler:
    """The decision, without any input or output."""

    pool: NodePool
    settings: AutoscalerSettings

    def decide(self, world: World, state: State, now_s: float) -> Decision:
        """What to do now. Order: due nodes come (or fail), missing ones are asked for, idle ones go."""
        state = replace(state, failing=world.cloud_fails)
        due = tuple(launch.name for launch in state.launching if launch.due_s <= now_s)
        later = tuple(launch for launch in state.launching if launch.due_s > now_s)
        if due and world.cloud_fails:
            retry_at_s = now_s + self.settings.retry_s
            failures = state.failures + len(due)
            state = replace(state, failures=failures, retry_at_s=retry_at_s, last_error=NO_CAPACITY)
            due = ()
        elif due:
            state = replace(state, last_error="")
        state = self._ask(world, replace(state, launching=later), now_s, len(due))
        state, removed = self._retire(world, state, now_s)
        return Decision(due, removed, state)

    def _ask(self, world: World, state: State, now_s: float, arriving: int) -> State:
        coming = len(state.launching) + arriving
        free = [*world.free_gpus.values(), *([self.pool.gpus_per_node] * coming)]
        room = self.settings.max_nodes - len(world.free_gpus) - coming
        count = min(missing_nodes(world.waiting_gpus, free, self.pool.gpus_per_node), max(0, room))
        if count == 0 or now_s < state.retry_at_s:
            return state
        taken = {*world.free_gpus, *(launch.name for launch in state.launching)}
        index, asked = state.next_index, list(state.launching)
        while count:
            if (name := self.pool.node_name(index)) not in taken:
                asked.append(Launch(name, now_s + self.settings.lead_time_s))
                count -= 1
            index += 1
        return replace(state, launching=tuple(asked), next_index=index)

    def _retire(self, world: World, state: State, now_s: float) -> tuple[State, tuple[str, ...]]:
        since = {name: state.empty_since_s.get(name, now_s) for name in world.empty}
        expired = sorted((name for name in since if now_s - since[name] >= self.settings.idle_s), reverse=True)
        surplus = max(0, len(world.free_gpus) - self.settings.min_nodes)
        removed = tuple(expired[:surplus]) if not world.waiting_gpus else ()
        kept = {name: at_s for name, at_s in since.items() if name not in removed}
        return replace(state, empty_since_s=kept), removed


def missing_nodes(waiting_gpus: Sequence[int], free_gpus: Sequence[int], gpus_per_node: int) -> int:
    """How many new nodes hold what does not fit: biggest pods first, first fit.

    Waiting 4, 4, 2 with 2 GPUs free and nodes of 4: the 2 fits what is free, the fours need two nodes.
    """
    free, new = list(free_gpus), 0
    for gpus in sorted(waiting_gpus, reverse=True):
        if gpus > gpus_per_node:
            continue  # no node of this pool can ever hold it
        place = next((index for index, room in enumerate(free) if room >= gpus), None)
        if place is None:
            new += 1
            free.append(gpus_per_node - gpus)
        else:
            free[place] -= gpus
    return new


async def look(client: KubeClient, pool: NodePool, cloud_fails: bool = False) -> World:
    """Read pods and nodes."""
    listed = await client.get("/api/v1/nodes", labelSelector=f"{nodes.POOL_LABEL}={pool.name}")
    pods = await client.get("/api/v1/pods", fieldSelector="status.phase!=Succeeded,status.phase!=Failed")
    room = {node["metadata"]["name"]: int(node["status"]["allocatable"].get(nodes.GPU, 0)) for node in listed["items"]}
    used: dict[str, int] = dict.fromkeys(room, 0)
    holders = set()
    for pod in pods["items"]:
        place = pod["spec"].get("nodeName", "")
        if place in used:
            used[place] += gpus_of(pod)
            holders.add(place)
    waiting = tuple(gpus_of(pod) for pod in pods["items"] if is_waiting_for(pod, pool))
    free = {name: room[name] - used[name] for name in room}
    return World(waiting, free, frozenset(set(room) - holders), cloud_fails)


def gpus_of(pod: Mapping[str, Any]) -> int:
    """GPUs that the pod's containers ask for."""
    limits = (container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"])
    return sum(int(limit.get(nodes.GPU, 0)) for limit in limits)


def is_waiting_for(pod: Mapping[str, Any], pool: NodePool) -> bool:
    """Whether the scheduler found no place for this GPU pod and a new node of the pool would be one."""
    if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp") or gpus_of(pod) == 0:
        return False
    conditions = pod.get("status", {}).get("conditions", [])
    unschedulable = any(
        item["type"] == "PodScheduled" and item["status"] == "False" and item.get("reason") == "Unschedulable"
        for item in conditions
    )
    offered = nodes.labels(pool, "")
    selected = all(offered.get(key) == value for key, value in pod["spec"].get("nodeSelector", {}).items())
    return unschedulable and selected and _tolerates(pod["spec"].get("tolerations", []))


def _tolerates(tolerations: Sequence[Mapping[str, str]]) -> bool:
    def matches(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
        key = toleration.get("key") in (None, "", taint["key"])
        exists = toleration.get("operator") == "Exists"
        value = exists or toleration.get("value", "") == taint["value"]
        return key and value and toleration.get("effect") in (None, "", taint["effect"])

    return all(any(matches(toleration, taint) for toleration in tolerations) for taint in nodes.taints())


async def _carry_out(client: KubeClient, pool: NodePool, decision: Decision) -> None:
    for name in decision.create:
        _LOG.info("adding node %s", name)
        await nodes.add_node(client, pool, name)
    for name in decision.remove:
        # first closed to new pods, then looked at again: the scheduler may have used it a moment ago
        await nodes.taint(client, name, _REMOVAL_TAINT)
        if name in (await look(client, pool)).empty:
            _LOG.info("removing idle node %s", name)
            await nodes.remove_node(client, name)
        else:
            await nodes.untaint(client, name, _REMOVAL_TAINT)


async def run(
    kubeconfig: Path, pool: NodePool, settings: AutoscalerSettings, fail_file: Path, state_file: Path
) -> None:
    """Look, decide, act, show; once a second, for ever. An API server that is away is waited for."""
    state, scaler = State(next_index=pool.nodes), Autoscaler(pool, settings)
    async with KubeClient(kubeconfig) as client:
        while True:
            try:
                world = await look(client, pool, _exists(fail_file))
                decision = scaler.decide(world, state, unix_time_s())
                state = decision.state
                await _carry_out(client, pool, decision)
                _show(state_file, pool, world, state)
            except EbbtideError as error:
                _LOG.warning("%s", error)
            await asyncio.sleep(_TICK_S)


def _exists(path: Path) -> bool:
    return path.exists()


def _show(path: Path, pool: NodePool, world: World, state: State) -> None:
    shown = {"pool": pool.name, "nodes": sorted(world.free_gpus), "waiting_gpus": sum(world.waiting_gpus)}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(shown | asdict(state), indent=2) + "\n")
    new.replace(path)


def arguments(
    kubeconfig: Path, pool: NodePool, settings: AutoscalerSettings, fail_file: Path, state_file: Path
) -> list[str]:
    """The command-line arguments that `main` reads back."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--pool={json.dumps(asdict(pool))}",
        f"--settings={json.dumps(asdict(settings))}",
        f"--fail-file={fail_file}",
        f"--state-file={state_file}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the process; the sandbox starts one for each autoscaled pool."""
    parser = argparse.ArgumentParser(prog="ebbtide.sandbox.autoscaler", description="node autoscaler of the sandbox")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--pool", required=True, help="the pool, as JSON of its fields")
    parser.add_argument("--settings", default="{}", help="lead_time_s, idle_s, max_nodes, min_nodes, retry_s as JSON")
    parser.add_argument("--fail-file", type=Path, required=True, help="while it exists, nodes do not come")
    parser.add_argument("--state-file", type=Path, required=True, help="written every second")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pool, settings = NodePool(**json.loads(given.pool)), AutoscalerSettings(**json.loads(given.settings))
    # an orderly exit, in which the client takes away the files that it wrote the key to
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(run(given.kubeconfig, pool, settings, given.fail_file, given.state_file))


if __name__ == "__main__":
    main()
