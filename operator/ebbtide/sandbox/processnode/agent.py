"""Keeps the processes of this node in step with the pods that the scheduler put there.

Pods come from an informer: a deletion that nobody watched is found by the next list. A worker that fails in a way
that it should not ends the agent, and with it all its processes: a node that silently lost a pod would be worse.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from ebbtide.errors import SandboxError
from ebbtide.kube.client import KubeClient
from ebbtide.observe.informer import Change, Informer
from ebbtide.observe.settings import WatchSettings
from ebbtide.sandbox.processnode.node import NODE_NAME, NodeKeeper
from ebbtide.sandbox.processnode.process import end_marked
from ebbtide.sandbox.processnode.wire import Json, Pod
from ebbtide.sandbox.processnode.worker import Host, PodWorker
from ebbtide.sandbox.state import process_node_file

_PODS = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE_NAME}"
_WATCH = WatchSettings(backoff_max_s=2.0)
_WRITE_S = 0.2

log = logging.getLogger(__name__)


class Addresses:
    """Pod IPs 127.X.200.1 to 127.X.239.254, far above those that KWOK gives out; a freed one comes round last."""

    def __init__(self, prefix: str) -> None:
        names = (f"{prefix}.{third}.{fourth}" for third in range(200, 240) for fourth in range(1, 255))
        self._all = dict.fromkeys(names)
        self._taken: set[str] = set()
        self._round = self._walk()

    def take(self, wanted: str = "") -> str:
        """`wanted` where it is one of ours and free, else the next free one."""
        address = wanted if wanted in self._all and wanted not in self._taken else next(self._round)
        self._taken.add(address)
        return address

    def free(self, address: str) -> None:
        """Give it back."""
        self._taken.discard(address)

    def _walk(self) -> Iterator[str]:
        while True:
            if len(self._taken) == len(self._all):
                raise SandboxError(f"all {len(self._all)} addresses of the process node are in use")
            yield from (address for address in self._all if address not in self._taken)


class Agent:
    """One worker for each pod. `failed` holds the error of a worker that failed as it should not."""

    def __init__(self, host: Host, addresses: Addresses) -> None:
        self._host, self._addresses = host, addresses
        self._workers: dict[str, PodWorker] = {}  # by uid, until the object is gone
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_change(self, change: Change, old: Pod | None, new: Pod | None) -> None:
        """The informer's news."""
        if new is not None:
            worker = self._workers.get(new.metadata.uid) or self._begin(new)
            worker.update(new)
        elif old is not None and change is Change.DELETED and old.metadata.uid in self._workers:
            uid = old.metadata.uid
            self._workers[uid].gone()
            if uid not in self._tasks:  # its worker is done already
                self._forget(uid)

    def summary(self) -> list[Json]:
        """For the state file: what runs here."""
        return [
            {
                "pod": worker.pod.metadata.key,
                "phase": worker.record.phase,
                "ready": worker.record.ready,
                "address": worker.address,
                "pid": worker.record.pid,
                "log": str(worker.log),
            }
            for worker in self._workers.values()
        ]

    async def close(self) -> None:
        """End every process at once: the machine is switched off."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, pod: Pod) -> PodWorker:
        uid = pod.metadata.uid
        worker = PodWorker(pod, self._addresses.take(pod.status.pod_ip), self._host)
        self._workers[uid] = worker
        self._tasks[uid] = asyncio.create_task(worker.run(), name=pod.metadata.key)
        self._tasks[uid].add_done_callback(lambda task: self._ended(uid, task))
        return worker

    def _ended(self, uid: str, task: "asyncio.Task[None]") -> None:
        del self._tasks[uid]
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
            log.error("pod %s", task.get_name(), exc_info=error)
            self.failed.set_exception(error)
        # an object that is still there (a finalizer holds it) must not get a second worker
        if self._workers[uid].removed:
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        self._addresses.free(self._workers.pop(uid).address)
        self._host.changed()


async def run(kubeconfig: Path, directory: Path, prefix: str, slots: int, ended: asyncio.Event) -> None:
    """Play the node until `ended` is set. `directory` is the sandbox's, `prefix` its 127.X."""
    pods_folder = directory / "pods"
    pods_folder.mkdir(exist_ok=True)
    if left := end_marked(str(pods_folder)):
        log.warning("ended %d processes that an earlier agent had left", left)
    address = f"{prefix}.255.253"
    changed = asyncio.Event()
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with (
        KubeClient(kubeconfig) as client,
        aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as http,
    ):
        node = NodeKeeper(client, slots, address)
        agent = Agent(Host(client, http, pods_folder, address, changed.set), Addresses(prefix))
        informer = Informer(client, _PODS, Pod, settings=_WATCH, on_change=agent.on_change)
        uid = await node.register()
        showing = _show(directory, slots, agent, informer, changed)
        works: tuple[Coroutine[Any, Any, Any], ...] = (informer.run(), node.keep(uid), showing, ended.wait())
        tasks = [asyncio.create_task(work) for work in works]
        ends: list[asyncio.Future[Any]] = [*tasks, agent.failed]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agent.close()


async def _show(directory: Path, slots: int, agent: Agent, informer: Informer[Pod], changed: asyncio.Event) -> None:
    await informer.wait_synced()
    path = process_node_file(directory)
    new = path.with_suffix(".new")
    while True:
        changed.clear()
        document = {"node": NODE_NAME, "pid": os.getpid(), "slots": slots, "pods": agent.summary()}
        new.write_text(json.dumps(document, indent=2) + "\n")
        with contextlib.suppress(FileNotFoundError):
            new.replace(path)
        await changed.wait()
        await asyncio.sleep(_WRITE_S)
