"""The way to Prometheus: the session, authentication and URL of prometheus-api-client, with deadlines of our own.

Its `custom_query` decodes an answer into dictionaries: the buckets of 20,000 pods are 60 MB of JSON and would become
over a gigabyte of Python objects. So answers are read here as a stream and decoded in pieces into typed structs, while
the connection object stays the library's. Errors are RetryableError; what to do about them is not decided here.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import msgspec
import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from ebbtide.clock import monotonic_s
from ebbtide.errors import ConfigurationError, EbbtideError, RetryableError
from ebbtide.observe.settings import PrometheusSettings

_CHUNK_BYTES = 1 << 16  # the rows of 64 KiB stay in the processor's cache until they are read: of 256 they do not
_RESULT = b'"result":['
_BETWEEN = b'},{"metric":'
_END = b'"]}]'


class Labels(msgspec.Struct, frozen=True, gc=False):
    """The labels that the queries keep. `pod` is the pod, unless `exported_pod` names a live one."""

    namespace: str = ""
    pod: str = ""
    exported_namespace: str = ""
    exported_pod: str = ""
    node: str = ""
    slot: str = ""
    le: str = ""
    engine: str = ""
    num_gpu_blocks: str = ""
    block_size: str = ""
    num_pages: str = ""
    page_size: str = ""


class Point(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Evaluation time (unix seconds) and value as text, maybe `NaN` or `+Inf`."""

    at_s: float
    text: str


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One row of an instant vector. Structs all the way: a million tuples would keep the garbage collector busy."""

    metric: Labels
    value: Point


class _Data(msgspec.Struct, rename="camel"):
    result_type: str = ""
    result: list[Sample] = []


class _Envelope(msgspec.Struct, rename="camel"):
    status: str
    data: _Data = msgspec.field(default_factory=_Data)
    error: str = ""
    warnings: list[str] = []


_samples = msgspec.json.Decoder(list[Sample])
_envelope = msgspec.json.Decoder(_Envelope)

Consumer = Callable[[list[Sample]], None]


class TokenFile(AuthBase):
    """Bearer token from a file, read for every request: a rotated token is used at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {_secret(self._path)}"
        return request


class PasswordFile(AuthBase):
    """Basic authentication with a password from a file, read for every request."""

    def __init__(self, username: str, path: Path) -> None:
        self._username = username
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        authorised: requests.PreparedRequest = HTTPBasicAuth(self._username, _secret(self._path))(request)
        return authorised


class Prometheus:
    """Instant queries at an explicit time. Use as an async context manager."""

    def __init__(self, settings: PrometheusSettings, workers: int = 8) -> None:
        self._settings = settings
        self._gate = asyncio.Semaphore(workers)
        self._connection = _connect(settings, workers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    async def query(self, text: str, at_s: float, consume: Consumer) -> None:
        """Evaluate at `at_s` (unix seconds) and hand the rows over in batches, from a worker thread.

        Tried twice within the query timeout when the connection breaks before any row was handed over.
        """
        async with self._gate:
            await _in_daemon_thread(lambda: self._query(text, at_s, consume))

    def _query(self, text: str, at_s: float, consume: Consumer) -> None:
        deadline_s = monotonic_s() + self._settings.query_timeout_s
        handed_over = False

        def watched(batch: list[Sample]) -> None:
            nonlocal handed_over
            handed_over = True
            consume(batch)

        for last in (False, True):
            try:
                self._attempt(text, at_s, watched, deadline_s)
                return
            except _FAILURES as error:
                if last or handed_over or monotonic_s() > deadline_s - 1.0:
                    raise RetryableError(f"Prometheus at {self._settings.url}: {_said(error)}") from error

    def _attempt(self, text: str, at_s: float, consume: Consumer, deadline_s: float) -> None:
        left_s = max(0.5, deadline_s - monotonic_s())
        form = {
            "query": text,
            "time": f"{at_s:.3f}",
            "timeout": f"{left_s * 1000:.0f}ms",  # a Prometheus duration has no fractions
            "partial_response": "false",  # Thanos: an error instead of silently fewer series
        }
        with self._session.post(
            f"{self._connection.url}/api/v1/query",
            data=form,  # in the body, where prometheus-api-client puts it into the URL even for POST
            headers=self._connection.headers,
            auth=self._connection.auth,
            timeout=(self._settings.connect_timeout_s, left_s + 0.5),
            stream=True,
        ) as response:
            if response.status_code != 200:
                raise PrometheusApiClientException(f"HTTP {response.status_code}: {_reason(response)}")
            for batch in decode_stream(_chunks(response, deadline_s)):
                consume(batch)

    @property
    def _session(self) -> requests.Session:
        session: requests.Session = self._connection._session  # ours: it was handed to the constructor
        return session


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Like asyncio.to_thread, but a Prometheus that hangs does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    Thread(target=run, daemon=True, name="prometheus").start()
    await done


def decode_stream(chunks: Iterable[bytes]) -> Iterator[list[Sample]]:
    """Rows of an answer in batches of about the size of a chunk; ValueError when it is cut off, partial or an error.

    Relies on the compact JSON that Prometheus, Thanos and Mimir write; anything else is decoded in one piece.
    """
    head, buffer = b"", b""
    for chunk in chunks:
        buffer += chunk
        if not head:
            start = buffer.find(_RESULT) + len(_RESULT)
            if start < len(_RESULT):
                continue
            head, buffer = buffer[:start], buffer[start:]
        cut = buffer.rfind(_BETWEEN)
        if cut > 0:
            yield _samples.decode(b"[" + buffer[: cut + 1] + b"]")
            buffer = buffer[cut + 2 :]
    if not head:  # an error, or another writer's spacing
        yield _checked(_envelope.decode(buffer)).data.result
        return
    end = 0 if buffer.startswith(b"]") else buffer.find(_END) + len(_END) - 1
    if 0 < end < len(_END):
        raise ValueError("the answer was cut off")
    if end:
        yield _samples.decode(b"[" + buffer[:end] + b"]")
    _checked(_envelope.decode(head + buffer[end:]))


def _checked(envelope: _Envelope) -> _Envelope:
    if envelope.status != "success":
        raise ValueError(envelope.error or f"status {envelope.status!r}")
    if envelope.data.result_type != "vector":
        raise ValueError(f"a vector was expected, not {envelope.data.result_type!r}")
    # "PromQL info/warning" comments on the query; anything else says that series are missing
    partial = [warning for warning in envelope.warnings if not warning.startswith("PromQL")]
    if partial:
        raise ValueError(f"a partial answer: {partial[0]}")
    return envelope


def _chunks(response: requests.Response, deadline_s: float) -> Iterator[bytes]:
    """The body in chunks, looked at piece by piece as it comes: a read of a whole chunk returns only once it is full.

    A server that sends 2 KB a second would fill 64 KiB in half a minute, and no socket timeout ends that.
    """
    chunk = bytearray()
    while piece := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        if monotonic_s() > deadline_s:
            raise TimeoutError("the answer took longer than the query timeout")
        chunk += piece
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


_FAILURES = (
    requests.RequestException,
    HTTPError,
    PrometheusApiClientException,
    msgspec.MsgspecError,
    KeyError,
    ValueError,
    OSError,
    EbbtideError,
)


def _connect(settings: PrometheusSettings, workers: int) -> Any:
    if not settings.url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"prometheus.url is {settings.url!r}: it must start with http:// or https://, "
            "for example http://prometheus.monitoring:9090"
        )
    session = requests.Session()
    session.trust_env = False  # no proxies and no .netrc from the environment
    if settings.ca_file is not None:
        session.verify = str(settings.ca_file)
    url = settings.url.rstrip("/")
    headers = {settings.tenant_header: settings.tenant} if settings.tenant else {}
    connection = PrometheusConnect(
        url=url,
        session=session,
        headers=headers,
        auth=_auth(settings),
        retry=Retry(0),
        timeout=settings.query_timeout_s,
    )
    # its constructor mounted an adapter of its own: ours has a connection for each worker and never retries by itself
    session.mount(url, HTTPAdapter(max_retries=Retry(0), pool_maxsize=workers))
    return connection


def _auth(settings: PrometheusSettings) -> AuthBase | None:
    if settings.token_file is not None:
        return TokenFile(settings.token_file)
    if settings.username and settings.password_file is not None:
        return PasswordFile(settings.username, settings.password_file)
    return None


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise RetryableError(f"cannot read {path}: {error.strerror}") from error


def _reason(response: requests.Response) -> str:
    body = response.raw.read(2000, decode_content=True)
    try:
        return _envelope.decode(body).error
    except msgspec.MsgspecError:
        return str(body[:300].decode(errors="replace"))


def _said(error: Exception) -> str:
    # urllib3 wraps the cause in its pool, its retries and the whole query; a person needs "Connection refused"
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(reason, Exception):
        return str(reason).rpartition(": ")[2]
    return str(error) or type(error).__name__
