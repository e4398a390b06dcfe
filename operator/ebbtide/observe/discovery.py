"""Which kinds the API server knows, and whether they can be scaled. Answers are kept for a while, never guessed."""

from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.clock import monotonic_s
from ebbtide.errors import NotFoundError
from ebbtide.kube.client import KubeClient

_TIMEOUT_S = 5.0  # a cycle waits for this


@dataclass(frozen=True, slots=True)
class KindInfo:
    """One served kind. `scalable`: it has a scale subresource."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    scalable: bool


class Discovery:
    """Looks kinds up by apiVersion, one request for a whole group version, kept for `ttl_s`.

    That a kind is not served is believed for `absent_ttl_s`: somebody who has just installed its CRD is waiting.
    """

    def __init__(self, client: KubeClient, ttl_s: float = 60.0, absent_ttl_s: float = 10.0) -> None:
        self._client = client
        self._ttl_s, self._absent_ttl_s = ttl_s, min(ttl_s, absent_ttl_s)
        self._known: dict[str, tuple[float, dict[str, KindInfo]]] = {}

    async def find(self, api_version: str, kind: str) -> KindInfo | None:
        """The kind, or None when this API server does not serve it. RetryableError when it does not answer."""
        return (await self._group_version(api_version, kind)).get(kind)

    async def _group_version(self, api_version: str, kind: str) -> dict[str, KindInfo]:
        read_at, kinds = self._known.get(api_version, (float("-inf"), {}))
        ttl_s = self._ttl_s if kind in kinds else self._absent_ttl_s
        if monotonic_s() - read_at < ttl_s:
            return kinds
        try:
            path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            answer = msgspec.json.decode(await self._client.request("GET", path, timeout_s=_TIMEOUT_S))
            kinds = _kinds(api_version, answer.get("resources") or [])
        except NotFoundError:
            kinds = {}
        self._known[api_version] = (monotonic_s(), kinds)
        return kinds


def _kinds(api_version: str, resources: list[dict[str, Any]]) -> dict[str, KindInfo]:
    names = {resource["name"] for resource in resources}
    return {
        resource["kind"]: KindInfo(
            api_version=api_version,
            kind=resource["kind"],
            plural=resource["name"],
            namespaced=bool(resource.get("namespaced")),
            scalable=f"{resource['name']}/scale" in names,
        )
        for resource in resources
        if "/" not in resource["name"]
    }
