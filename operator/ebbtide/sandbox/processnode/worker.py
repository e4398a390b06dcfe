"""The life of one pod on this node: address, start, probes, restarts with back-off, an orderly end.

A kubelet's order of things: the address is known before the process starts; an end is preStop, SIGTERM, the rest of
the grace period (at least 2 s), SIGKILL, the final status, and only then is the object removed. Never ends a process
of another pod, and never decides where pods go or how many there are.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from ebbtide.clock import monotonic_s, parse_rfc3339, rfc3339, unix_time_s
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.processnode.environment import Launch, RefusedError, prepare
from ebbtide.sandbox.processnode.probes import Asker, Health
from ebbtide.sandbox.processnode.process import MARKER, Process, StartError
from ebbtide.sandbox.processnode.status import BackOff, pod_status, recovered
from ebbtide.sandbox.processnode.wire import Hook, Pod
from ebbtide.sandbox.processnode.writer import StatusWriter

_LEAST_GRACE_S = 2.0  # a kubelet's: also after a preStop that took all the time
_LOOK_S = 0.1
_START_ERROR = 128  # the exit code of a container whose program could not be started

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """What all pods of the node share. `folder` holds a folder for each; `changed` is told of each change."""

    client: KubeClient
    http: aiohttp.ClientSession
    folder: Path
    address: str
    changed: Callable[[], None]


class PodWorker:
    """One pod. `run` works until the pod is gone; cancelled, it ends the process at once."""

    def __init__(self, pod: Pod, address: str, host: Host) -> None:
        self.pod, self.address = pod, address
        self.record = recovered(pod, unix_time_s())
        self.folder = host.folder / pod.folder_name
        self._host = host
        self._writer = StatusWriter(host.client, pod.metadata)
        self._since = {
            condition.type: (condition.status == "True", condition.last_transition_time or "")
            for condition in pod.status.conditions or ()
        }
        self._start_time = pod.status.start_time or rfc3339(unix_time_s())
        self._back_off = BackOff()
        self._ran_s = 0.0
        self._ending = asyncio.Event()
        self._end_by_s = float("inf")
        self.removed = False  # the object is gone

    @property
    def log(self) -> Path:
        """What the container writes."""
        return self.folder / f"{self.pod.container.name}.log"

    def update(self, pod: Pod) -> None:
        """The object has changed."""
        self.pod = pod
        stamp = pod.metadata.deletion_timestamp
        if stamp is not None:
            grace_s = pod.metadata.deletion_grace_period_seconds
            grace_s = pod.grace_s if grace_s is None else grace_s
            # the stamp is request + grace in whole seconds: less is left where the order was seen late
            self._end(min(float(grace_s), max(0.0, parse_rfc3339(stamp) + 1 - unix_time_s())))
        self._publish()

    def gone(self) -> None:
        """The object was removed, by force or in a gap of the watch: the process ends with little ado."""
        self._writer.stop()
        self.removed = True
        self._end(0.0)

    async def run(self) -> None:
        """From here to the end of the pod."""
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._writer.run())
            await self._live()
            await self._writer.flush()
            await self._writer.remove()
            shutil.rmtree(self._work, ignore_errors=True)  # the logs stay
            writing.cancel()

    @property
    def _work(self) -> Path:
        return self.folder / "work"

    def _end(self, grace_s: float) -> None:
        self._end_by_s = min(self._end_by_s, monotonic_s() + grace_s)
        self._ending.set()

    async def _live(self) -> None:
        self._publish()
        await self._writer.flush()  # the address is known before anything runs there
        try:
            launch = prepare(self.pod, self.address, self._host.address, os.environ)
        except RefusedError as error:
            log.warning("pod %s: %s: %s", self.pod.metadata.key, error.reason, error)
            self.record.wait(error.reason, str(error))
            self._publish()
            await self._ending.wait()
            return
        self._work.mkdir(parents=True, exist_ok=True)
        launch = Launch(launch.command, {**launch.env, MARKER: str(self.folder)}, launch.ports)
        while not (self._ending.is_set() or self.record.over):
            if self.record.terminated is not None or self.record.last is not None:
                await self._pause()
            if not self._ending.is_set():
                await self._run_once(launch)
        await self._ending.wait()
        self.record.over = True
        self._publish()

    async def _pause(self) -> None:
        pause_s = self._back_off.pause_s(self._ran_s)
        if pause_s > 0:
            name, meta = self.pod.container.name, self.pod.metadata
            message = f"back-off {pause_s:.0f}s restarting failed container={name} pod={meta.name}_{meta.namespace}"
            self.record.wait("CrashLoopBackOff", f"{message}({meta.uid})")
            self._publish()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
        if not self._ending.is_set():
            self.record.restart_count += 1
            with self.log.open("a") as out:
                out.write(f"--- restart {self.record.restart_count} at {rfc3339(unix_time_s())} ---\n")

    async def _run_once(self, launch: Launch) -> None:
        record, key = self.record, self.pod.metadata.key
        began_s = monotonic_s()
        try:
            process = await Process.start(launch.command, launch.env, self._work, self.log)
        except StartError as error:
            log.warning("pod %s: %s", key, error)
            record.end(_START_ERROR, unix_time_s(), reason="StartError", message=str(error))
            self._decide()
            return
        log.info("pod %s: process %d at %s", key, process.pid, self.address)
        record.run(process.pid, unix_time_s())
        try:
            why = await self._attend(process, launch)
        finally:
            process.kill()
            status = await process.wait()
            self._ran_s = monotonic_s() - began_s
        log.info("pod %s: ended with status %d %s", key, status, why)
        record.end(status, unix_time_s(), message=why)
        record.trouble = {}
        self._decide()

    def _decide(self) -> None:
        if not self._ending.is_set():
            self.record.over = not self.record.restarts(self.pod.spec.restart_policy)
        self._publish()

    async def _attend(self, process: Process, launch: Launch) -> str:
        """Watch over a process until it has ended or has been ended; answers why it had to be."""
        asker = Asker(self._host.http, launch, self.address, self._work)

        def changed() -> None:
            self.record.started, self.record.ready = health.started, health.ready
            self.record.trouble = dict(health.trouble)
            self._publish()

        health = Health(self.pod.container, asker, self.pod.grace_s, changed)
        changed()
        probing = asyncio.create_task(health.watch())
        events = (process.wait(), self._ending.wait(), health.failed.wait())
        waits = [probing, *(asyncio.ensure_future(event) for event in events)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                probing.result()  # it never ends by itself
            if process.ended:
                return ""
            if self._ending.is_set():
                await self._stop(process, launch, asker, self._end_by_s)
                return ""
            log.warning("pod %s: %s", self.pod.metadata.key, health.failure)
            await self._stop(process, launch, asker, monotonic_s() + health.grace_s)
            return health.failure
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _stop(self, process: Process, launch: Launch, asker: Asker, by_s: float) -> None:
        hook = self.pod.container.lifecycle.pre_stop if self.pod.container.lifecycle is not None else None
        if hook is not None and not self.removed:
            doing = asyncio.create_task(self._pre_stop(hook, asker))
            try:
                await self._wait(lambda: doing.done() or process.ended, by_s)
            finally:
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
        process.signal(signal.SIGTERM)
        await self._wait(lambda: process.ended, by_s, monotonic_s() + _LEAST_GRACE_S)
        if not process.ended:
            log.warning("pod %s: its grace period is over: SIGKILL", self.pod.metadata.key)

    async def _wait(self, done: Callable[[], bool], by_s: float, not_before_s: float = 0.0) -> None:
        """Until `done`, or the deadline, which a second deletion with a shorter grace brings forward."""
        while not done() and monotonic_s() < max(min(by_s, self._end_by_s), not_before_s):  # noqa: ASYNC110 - a deadline that moves
            await asyncio.sleep(_LOOK_S)

    async def _pre_stop(self, hook: Hook, asker: Asker) -> None:
        try:
            if hook.sleep is not None:
                await asyncio.sleep(hook.sleep.seconds)
            elif hook.exec is not None:
                if (status := await asker.run(hook.exec)) != 0:
                    log.warning("pod %s: preStop ended with status %d", self.pod.metadata.key, status)
            elif hook.http_get is not None:
                await asker.get(hook.http_get)
        except (EbbtideError, OSError, aiohttp.ClientError, ValueError) as error:
            log.warning("pod %s: preStop: %s", self.pod.metadata.key, error)

    def _publish(self) -> None:
        now_s = unix_time_s()
        addresses = (self.address, self._host.address)
        status = pod_status(self.pod, self.record, *addresses, self._start_time, self._since, now_s)
        self._since = {
            item["type"]: (item["status"] == "True", item["lastTransitionTime"]) for item in status["conditions"]
        }
        self._writer.put(status)
        self._host.changed()
