"""Raw, typed-by-the-caller access to the Kubernetes API.

The official client resolves credentials (kubeconfig, exec plugins, in-cluster tokens that rotate); requests go over
one aiohttp session and answers stay bytes, because decoding only the fields that matter is 50 times cheaper than the
typed models (10,000 pods: 0.28 CPU-s instead of 16).
"""

import asyncio
import io
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from kubernetes import client as k8s
from kubernetes import config as k8s_config

from ebbtide.clock import hear_server
from ebbtide.errors import ConfigurationError, ConflictError, EbbtideError, NotFoundError, RetryableError

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_RETRYABLE = {408, 429, 500, 502, 503, 504}


class ForbiddenError(EbbtideError):
    """RBAC or an admission policy refused (HTTP 401 or 403)."""


class InvalidError(EbbtideError):
    """The API server refused the object itself (HTTP 400 or 422); the text is its own."""


class GoneError(RetryableError):
    """The resourceVersion is too old (HTTP 410): list again."""


class KubeClient:
    """One cluster, one identity. Use as an async context manager.

    Errors: RetryableError (unreachable, 429, 5xx), ConflictError (409), GoneError (410), NotFoundError (404),
    ForbiddenError (401, 403), InvalidError (400, 422).
    """

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None, timeout_s: float = 30.0) -> None:
        self._configuration = _load(kubeconfig, context)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=_ssl_context(self._configuration), limit=100)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
    ) -> bytes:
        """One call; `body` is encoded as JSON (which is YAML too, so it serves apply patches)."""
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))  # aiohttp warns of bytes over 1 MiB
        headers = self._headers() | ({"Content-Type": content_type} if data is not None else {})
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        try:
            async with self._live().request(
                method, self.host + path, params=params, data=data, headers=headers, timeout=timeout
            ) as response:
                hear_server(response.headers.get("Date"))
                content = await response.read()
                if response.status >= 400:
                    raise _error(response.status, method, path, content)
                return content
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise RetryableError(f"{method} {path}: the API server did not answer: {error!r}") from error

    async def get(self, path: str, **params: str) -> Any:
        """GET decoded to plain Python values."""
        return msgspec.json.decode(await self.request("GET", path, params=params))

    async def watch(
        self, path: str, params: Mapping[str, str], inactivity_timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Lines of a watch, one JSON event each. Ends when the server ends it; RetryableError when it falls silent."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=inactivity_timeout_s)
        query = {**params, "watch": "true", "allowWatchBookmarks": "true"}
        try:
            async with self._live().get(
                self.host + path, params=query, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _error(response.status, "WATCH", path, await response.read())
                pending = b""
                async for chunk in response.content.iter_any():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RetryableError(f"WATCH {path}: the stream broke: {error!r}") from error

    async def apply(self, path: str, body: Any, *, field_manager: str, force: bool = False) -> Any:
        """Server-side apply of `body` to `path` (the object's own path, or its /status)."""
        params = {"fieldManager": field_manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        answer = await self.request("PATCH", path, params=params, body=body, content_type=APPLY_PATCH)
        return msgspec.json.decode(answer)

    def _headers(self) -> dict[str, str]:
        # get_api_key_with_prefix runs the refresh hook: rotated tokens are picked up here
        token = self._configuration.get_api_key_with_prefix("authorization") or (
            self._configuration.get_api_key_with_prefix("BearerToken")
        )
        headers = {"Accept": JSON, "User-Agent": "ebbtide"}
        if token:
            headers["Authorization"] = token
        elif self._configuration.username:
            headers["Authorization"] = str(self._configuration.get_basic_auth_token())
        return headers

    def _live(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EbbtideError("KubeClient is used outside its 'async with' block")
        return self._session


def resource_path(api_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """`/apis/apps/v1/namespaces/team-a/deployments/chat/scale` from its parts; empty parts are left out."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = [root, *(("namespaces", namespace) if namespace else ()), plural, name, subresource]
    return "/".join(part for part in parts if part)


def _load(kubeconfig: Path | None, context: str | None) -> k8s.Configuration:
    configuration = k8s.Configuration()
    try:
        if kubeconfig is not None or not Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists():
            path = None if kubeconfig is None else str(kubeconfig)
            k8s_config.load_kube_config(path, context, client_configuration=configuration)
        else:
            k8s_config.load_incluster_config(client_configuration=configuration)
    except k8s_config.ConfigException as error:
        raise ConfigurationError(
            f"no way to the API server: {error}. Set KUBECONFIG or --kubeconfig, or run inside a cluster."
        ) from error
    return configuration


def _ssl_context(configuration: k8s.Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # OpenSSL's strict mode refuses cluster CAs without the key-usage extension, which are common
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _error(status: int, method: str, path: str, content: bytes) -> EbbtideError:
    try:
        message = str(msgspec.json.decode(content).get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        message = content[:300].decode(errors="replace")
    text = f"{method} {path}: HTTP {status}: {message}"
    by_status: dict[int, type[EbbtideError]] = {
        400: InvalidError,
        401: ForbiddenError,
        403: ForbiddenError,
        404: NotFoundError,
        409: ConflictError,
        410: GoneError,
        422: InvalidError,
    }
    return by_status.get(status, RetryableError if status in _RETRYABLE else EbbtideError)(text)
