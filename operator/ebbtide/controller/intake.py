"""Kopf, in a thread and an event loop of its own, tells our loop that a spec changed, so that it need not wait.

Truth comes from the informers: Kopf does not see deletions in a watch gap, and it ends as a whole on some watch
errors. So nothing is decided or kept here but the last generation of each object; when Kopf ends, it is started again
with a growing pause, and the loop goes on meanwhile.

Must never: write to the cluster, or register any handler but `on.event` on our own kinds (others would put
annotations of Kopf on every object and 200 KB of memory each).
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kopf
from kubernetes import client as k8s
from kubernetes import config as k8s_config

log = logging.getLogger(__name__)

GROUP, VERSION = "ebbtide.dev", "v1alpha1"
PLURALS = ("inferenceservices", "gpupools", "costpolicies", "batchpolicies")
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_LONGEST_MEMORY = 50_000  # objects; deletions that Kopf never saw would otherwise stay for ever


class Generations:
    """Whether an event is news: a new object, a changed spec, or a deletion. Status changes are not."""

    def __init__(self, limit: int = _LONGEST_MEMORY) -> None:
        self._by_uid: OrderedDict[str, int] = OrderedDict()
        self._limit = limit

    def is_news(self, event_type: str | None, uid: str, generation: int) -> bool:
        """`event_type` as in a watch; None in Kopf's first listing."""
        if event_type == "DELETED":
            self._by_uid.pop(uid, None)
            return True
        known = self._by_uid.get(uid)
        self._by_uid[uid] = generation
        self._by_uid.move_to_end(uid)
        if len(self._by_uid) > self._limit:
            self._by_uid.popitem(last=False)
        return known != generation


class Intake:
    """Runs Kopf in a thread. That thread calls `wake` on each change of a spec and `on_restart` after each failure."""

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        namespaces: tuple[str, ...] = (),
        on_restart: Callable[[], None] = lambda: None,
        serve: Callable[["Intake", asyncio.Event], Any] | None = None,
        backoff_s: tuple[float, ...] = _BACKOFF_S,
    ) -> None:
        self._wake, self._on_restart = wake, on_restart
        self._kubeconfig, self._context, self._namespaces = kubeconfig, context, namespaces
        self._serve, self._backoff_s = serve or Intake._kopf, backoff_s
        self._generations = Generations()
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_flag: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_running, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Ask Kopf to end and wait for its thread, at most `timeout_s`; the thread never keeps the process alive."""
        self._stopping.set()
        with self._lock:
            if self._loop is not None and self._stop_flag is not None:
                self._loop.call_soon_threadsafe(self._stop_flag.set)
        await asyncio.to_thread(self._thread.join, timeout_s)

    def _keep_running(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                asyncio.run(self._once())
                error: BaseException | None = None
            except (Exception, asyncio.CancelledError) as caught:
                error = caught
            if self._stopping.is_set():
                return
            pause_s = self._backoff_s[min(failures, len(self._backoff_s) - 1)]
            failures += 1
            log.warning("intake ended and starts again in %g s; informers go on: %r", pause_s, error)
            self._on_restart()
            self._wake()  # what changed meanwhile is not lost
            self._stopping.wait(pause_s)

    async def _once(self) -> None:
        stop_flag = asyncio.Event()  # of this loop: a threading.Event would keep an executor thread of Kopf for ever
        with self._lock:
            self._loop, self._stop_flag = asyncio.get_running_loop(), stop_flag
        if self._stopping.is_set():
            return
        try:
            await self._serve(self, stop_flag)
        finally:
            with self._lock:
                self._loop = self._stop_flag = None

    async def _kopf(self, stop_flag: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=_kopf_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop_flag,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await asyncio.to_thread(connection_info, self._kubeconfig, self._context)

        async def changed(event: kopf.RawEvent, uid: str, meta: kopf.Meta, **_: Any) -> None:
            if self._generations.is_news(event["type"], uid, int(meta.get("generation", 0))):
                self._wake()

        kopf.on.login(registry=registry)(login)
        for plural in PLURALS:
            kopf.on.event(GROUP, VERSION, plural, registry=registry)(changed)
        return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # else a namespaced install repeats a 403 for 54 s before it serves
    settings.posting.enabled = False  # Events are ours, de-duplicated
    settings.process.ultimate_exiting_timeout = None  # its last resort would SIGKILL our whole process
    settings.persistence.finalizer = "ebbtide.dev/intake"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="intake.ebbtide.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="intake.ebbtide.dev")
    settings.networking.request_timeout = 30
    settings.watching.server_timeout = 300  # an int: 300.0 is answered with HTTP 400
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    return settings


def connection_info(kubeconfig: Path | None, context: str | None) -> kopf.ConnectionInfo:
    """The same way to the API server as KubeClient's, in Kopf's words; called again whenever the server says 401."""
    configuration = k8s.Configuration()
    if kubeconfig is not None or not Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists():
        path = None if kubeconfig is None else str(kubeconfig)
        k8s_config.load_kube_config(path, context, client_configuration=configuration)
    else:
        k8s_config.load_incluster_config(client_configuration=configuration)
    header = configuration.get_api_key_with_prefix("authorization") or (
        configuration.get_api_key_with_prefix("BearerToken")
    )
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=str(configuration.host),
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )
