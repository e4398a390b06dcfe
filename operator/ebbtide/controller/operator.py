"""The process: starts every part in order, runs until it is told to stop, and stops in less than 5 s.

Start: a self-test of what money holds back, probes, caches, then the Lease (a candidate with cold caches would hold up
the others), then cycles.
Stop: no new cycle, the running one finishes (2 s), memory is kept, the Lease is released, Kopf ends. Nothing in it
changes a replica.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from ebbtide import __version__
from ebbtide.controller.heap import share_one_heap, spare_the_collector
from ebbtide.controller.intake import Intake
from ebbtide.controller.leadership import AlwaysLeading, GuardedClient, LeaseThread
from ebbtide.controller.lease import LeaseSettings
from ebbtide.controller.logs import fields
from ebbtide.controller.loop import Loop
from ebbtide.controller.probes import Health, application
from ebbtide.controller.selftest import self_test
from ebbtide.controller.settings import Settings
from ebbtide.controller.wiring import Wiring
from ebbtide.errors import ConfigurationError
from ebbtide.kube.client import KubeClient
from ebbtide.record.metrics import Metrics

log = logging.getLogger(__name__)

_STOP_LIMIT_S = 4.5
_CYCLE_GRACE_S = 2.0


async def run_operator(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Losing the Lease ends the process from within (exit code 3).

    Raises EbbtideError before anything else where the self-test fails.
    """
    self_test()
    share_one_heap()
    spare_the_collector()
    stop = asyncio.Event()
    with _signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            await _serve(settings, stop, stack)
    log.info("stopped")


async def _serve(settings: Settings, stop: asyncio.Event, stack: contextlib.AsyncExitStack) -> None:
    """Everything of one process; `stack` takes it apart in the opposite order."""
    metrics, wake = Metrics(), _Wake(asyncio.get_running_loop())
    election = _election(settings, wake.from_any_thread)
    leadership = election.leadership if election else AlwaysLeading()
    health = Health(settings.cycle_interval_s, lambda: leadership.holder)
    await stack.enter_async_context(_http(settings, health, metrics))
    stack.enter_context(_on_continue(election))

    reader = await stack.enter_async_context(KubeClient(settings.kubeconfig, settings.context))
    writer = await stack.enter_async_context(GuardedClient(leadership, settings.kubeconfig, settings.context))
    wiring = Wiring(settings, reader, writer, leadership, metrics)
    loop = Loop(wiring.parts, wiring.load_memory, wake.event, health, interval_s=settings.cycle_interval_s)
    stack.callback(lambda: wiring.close(loop.memory))
    health.sync_age_s = lambda: wiring.observer.sync_age_s
    await stack.enter_async_context(wiring.observer)
    log.info("started", extra=fields(version=__version__, identity=settings.identity, api=reader.host))

    if not await _first(wiring.observer.synced(), stop):
        return
    health.synced = True
    log.info("caches are warm", extra=fields(role="candidate" if election else "leader"))
    await stack.enter_async_context(_intake(settings, wake.from_any_thread, wiring.meters.intake_restarted))
    if election:
        election.start()
        stack.push_async_callback(election.stop)
    async with _beside(health.watch_lag(), *(work() for work in wiring.background), wake.follow(wiring.observer.wake)):
        await _cycles(loop, stop)


async def _cycles(loop: Loop, stop: asyncio.Event) -> None:
    running = asyncio.create_task(loop.run(), name="cycles")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    loop.stop()
    try:
        await asyncio.wait_for(running, _CYCLE_GRACE_S)
    except TimeoutError:
        log.warning("the last cycle did not finish within %g s and was cut off", _CYCLE_GRACE_S)


class _Wake:
    """One event for everything that wakes the loop, set from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.event = asyncio.Event()

    def from_any_thread(self) -> None:
        """Wake the loop; does nothing once it is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.event.set)

    async def follow(self, other: asyncio.Event) -> None:
        """Pass on the wakes of the observer: a gateway's queue, a spec seen by the informer."""
        while True:
            await other.wait()
            other.clear()
            self.event.set()


def _election(settings: Settings, on_leading: Callable[[], None]) -> LeaseThread | None:
    if not settings.leader_election:
        return None
    lease = LeaseSettings(
        namespace=settings.lease_namespace or settings.namespace,
        name=settings.lease_name,
        identity=settings.identity,
        duration_s=settings.lease_duration_s,
        renew_deadline_s=settings.renew_deadline_s,
        retry_s=settings.retry_period_s,
    )
    return LeaseThread(KubeClient(settings.kubeconfig, settings.context), lease, on_leading=on_leading)


@contextlib.asynccontextmanager
async def _http(settings: Settings, health: Health, metrics: Metrics) -> AsyncIterator[None]:
    runner = web.AppRunner(application(health, metrics.exposition), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await _listen(runner, settings)
        host, port = runner.addresses[0][:2]
        log.info("listening", extra=fields(address=f"http://{host}:{port}", paths="/healthz /readyz /metrics"))
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port).start()
    except OSError as error:
        where = f"http_host {settings.http_host!r}, http_port {settings.http_port}"
        raise ConfigurationError(
            f"{where}: cannot listen: {error}. Choose another port, or 0 for a free one"
        ) from error


@contextlib.asynccontextmanager
async def _intake(settings: Settings, wake: Callable[[], None], on_restart: Callable[[], None]) -> AsyncIterator[None]:
    intake = Intake(
        wake,
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        namespaces=settings.watch_namespaces,
        on_restart=on_restart,
    )
    intake.start()
    try:
        yield
    finally:
        await intake.stop(timeout_s=1.0)


@contextlib.asynccontextmanager
async def _beside(*coroutines: Any) -> AsyncIterator[None]:
    """Run coroutines beside the block; one that fails is logged, for the block is what matters."""
    tasks = [asyncio.create_task(_logged(coroutine)) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(coroutine: Any) -> None:
    try:
        await coroutine
    except Exception:
        log.exception("a background task failed")
        raise


async def _first(work: Any, stop: asyncio.Event) -> bool:
    """Wait for `work` or for the stop; whether it was `work`."""
    tasks = [asyncio.ensure_future(work), asyncio.create_task(stop.wait())]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    if tasks[0] in done:
        tasks[0].result()
    return tasks[0] in done


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Any:
    """SIGTERM and SIGINT stop; a stop that hangs (a query in a thread, say) is cut off."""
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        if stop.is_set():
            return
        log.info("stopping", extra=fields(signal=number.name))
        last_resort = threading.Timer(_STOP_LIMIT_S, os._exit, (0,))
        last_resort.daemon = True
        last_resort.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _on_continue(election: LeaseThread | None) -> Any:
    """After SIGSTOP and SIGCONT the Lease may long be another's. Python runs this handler before any further line of
    the main thread, so not even a write that had passed its check before the stop is sent."""
    if election is None:
        yield
        return
    before = signal.signal(signal.SIGCONT, lambda *_: election.leadership.end_if_late())
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)
