"""Forwards one request after the other to an engine and streams the answer back, as it comes, without a limit in time.

A request is asked a second time, of another engine, only while the client has seen nothing of an answer, and only where
the first engine was not reached, broke off, said nothing, shuts down, or refused because its queue is full. A
completion changes nothing in an engine, so that asking twice costs at most the work of the first try; of any other
request, one that may have begun is never repeated. To see refusals that come as an error in the stream (HTTP 200 was
said before the engine knew), the answer begins for the client with the engine's first bytes, not with its headers.
"""

import contextlib
import logging
from collections.abc import Mapping

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from ebbtide.sandbox.realgateway.backends import Backend, BackendRoute, NobodyReadyError

ENDPOINT_HEADER = "X-Sandbox-Endpoint"
MAX_BODY_BYTES = 64 * 2**20  # of one request, which is kept whole

_CONNECT_S = 5.0
_RETRY_AFTER_S = "5"
# of one connection, not of the message
_HOP_BY_HOP = {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
_REPEATABLE = ("/completions", "/embeddings")
# how vLLM 0.32 says that it drains (HTTP 500) or that its engine has ended (an error in the stream)
_SHUT_DOWN = ("cannot schedule new futures after shutdown", "EngineCore encountered an issue")

log = logging.getLogger(__name__)


class _AgainError(Exception):
    """Nothing reached the client, and another endpoint may be asked. `rest`: this one is out of reach for everybody."""

    def __init__(self, reason: str, *, rest: bool) -> None:
        super().__init__(reason)
        self.rest = rest


class _BrokenError(Exception):
    """The endpoint gave no whole answer."""


class _Call(msgspec.Struct, frozen=True):
    """What the client wants; its body is kept whole, to be sent twice."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def repeatable(self) -> bool:
        """Whether asking again is safe although the first engine may have begun."""
        return self.path.partition("?")[0].endswith(_REPEATABLE)


def upstream_session() -> aiohttp.ClientSession:
    """A session without limits. A connection for each request: none that an engine has just closed is used again."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        auto_decompress=False,
        trust_env=False,
    )


class Forwarder:
    """Serves requests of one route each; the session must come from `upstream_session`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def serve(self, http: web.Request, route: BackendRoute, path: str) -> web.StreamResponse:
        """The answer of an engine to `http`, asked at `path` (`/v1/...`), or 503 with the reason."""
        headers = {name: value for name, value in http.headers.items() if name.lower() not in _HOP_BY_HOP}
        call = _Call(http.method, path, headers, await http.read())
        route.arrived += 1
        end = "left"  # cancelled, because the client is gone, unless something better comes
        try:
            response, status = await self._served(http, route, call)
            end = "failed" if status >= 500 else "served"
        except NobodyReadyError as error:
            end = "refused"
            return _unavailable(str(error))
        except _BrokenError as error:
            end = "failed"
            log.warning("%s: %s", route.key, error)
            return _unavailable(str(error))
        except ConnectionError:
            return web.Response()  # there is nobody to read it
        finally:
            route.ends[end] += 1
        return response

    async def _served(self, http: web.Request, route: BackendRoute, call: _Call) -> tuple[web.StreamResponse, int]:
        until_s = route.hold_until_s()
        first: Backend | None = None
        while True:
            backend = await route.take(until_s, avoid=first)
            try:
                others = any(other is not backend for other in route.ready)
                response, status = await self._asked(http, backend, call, may_repeat=first is None, others=others)
                backend.served += status < 500
                return response, status
            except _AgainError as again:
                log.info("%s: %s; asking another endpoint", route.key, again)
                first = backend
                route.retried += 1
                if again.rest:
                    route.rest(backend)
            except _BrokenError:
                route.rest(backend)
                raise
            finally:
                route.put_back(backend)

    async def _asked(
        self, http: web.Request, backend: Backend, call: _Call, *, may_repeat: bool, others: bool
    ) -> tuple[web.StreamResponse, int]:
        upstream = await self._upstream(backend, call, may_repeat)
        try:
            try:
                # an error's text is short, and must be known as a whole
                first = await (upstream.read() if upstream.status >= 500 else upstream.content.readany())
                if upstream.content_type == "text/event-stream" and _says_nothing(first):
                    raise aiohttp.ClientPayloadError("the stream ended before it began")
            except (aiohttp.ClientError, ConnectionError) as error:
                raise _broken(backend, error, may_repeat and call.repeatable) from error
            status = _meant_status(upstream, first)
            if may_repeat:
                _check_refusal(backend, status, first, others)
            return await _passed_on(http, backend, upstream, first), status
        finally:
            upstream.close()  # at its end already, or it aborts in the engine what nobody reads

    async def _upstream(self, backend: Backend, call: _Call, may_repeat: bool) -> aiohttp.ClientResponse:
        try:
            url = URL(backend.url + call.path, encoded=True)  # as the client wrote it
            return await self._session.request(
                call.method, url, headers=call.headers, data=call.body, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _broken(backend, error, may_repeat) from error  # it got nothing
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _broken(backend, error, may_repeat and call.repeatable) from error


def _broken(backend: Backend, error: Exception, may_repeat: bool) -> Exception:
    reason = f"endpoint {backend.key} at {backend.url}: {error or type(error).__name__}"
    return _AgainError(reason, rest=True) if may_repeat else _BrokenError(reason)


def _says_nothing(first: bytes) -> bool:
    """Whether a stream that begins so has no token: a vLLM that drains sends a new request its end, and no error."""
    line = first.partition(b"\n")[0].removeprefix(b"data:").strip()
    return line in (b"", b"[DONE]") or (b'"choices":[]' in line.replace(b" ", b"") and b'"usage"' in line)


def _check_refusal(backend: Backend, status: int, first: bytes, others: bool) -> None:
    """Raise _AgainError if the answer is a refusal that somebody else may not give."""
    if status >= 500 and any(text.encode() in first for text in _SHUT_DOWN):
        raise _AgainError(f"endpoint {backend.key} shuts down", rest=True)
    if status == 503 and others:
        raise _AgainError(f"endpoint {backend.key} refused with 503", rest=False)


def _meant_status(upstream: aiohttp.ClientResponse, first: bytes) -> int:
    """The HTTP status, or the one of the error that the stream begins with: `data: {"error": {"code": 503, ...`."""
    if upstream.status == 200 and first.startswith(b'data: {"error"'):
        line = first.partition(b"\n")[0].removeprefix(b"data: ")
        with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, ValueError):
            return int(msgspec.json.decode(line)["error"]["code"])
    return upstream.status


async def _passed_on(
    http: web.Request, backend: Backend, upstream: aiohttp.ClientResponse, first: bytes
) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    for name, value in upstream.headers.items():
        if name.lower() not in _HOP_BY_HOP or name.lower() == "content-length":
            response.headers.add(name, value)
    response.headers[ENDPOINT_HEADER] = backend.key
    await response.prepare(http)
    chunk = first
    while chunk:
        await response.write(chunk)
        try:
            chunk = await upstream.content.readany()
        except (aiohttp.ClientError, ConnectionError) as error:
            if http.transport is not None:
                http.transport.close()  # without the end of the message: the client sees that it is not whole
            raise _BrokenError(f"endpoint {backend.key} at {backend.url} broke off in an answer: {error}") from error
    await response.write_eof()
    return response


def _unavailable(reason: str) -> web.Response:
    body = {"error": {"message": reason, "type": "Service Unavailable", "param": None, "code": 503}}
    return web.Response(
        status=503,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"Retry-After": _RETRY_AFTER_S},
    )
