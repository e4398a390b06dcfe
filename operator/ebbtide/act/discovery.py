"""Which URL a target's kind has: `apps/v1 Deployment` -> `deployments`, by asking the API server once per group.

A kind that is unknown is asked for again after a while, because its CRD may be installed later.
"""

from collections.abc import Awaitable, Callable

from ebbtide.clock import monotonic_s
from ebbtide.errors import NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.spec import TargetRef

Resolver = Callable[[TargetRef], Awaitable[str]]
"""Gives the plural of a target's kind; raises NotFoundError when it is not served."""

_ASK_AGAIN_S = 10.0  # somebody who has just installed a CRD is waiting


class Discovery:
    """A Resolver with a cache. Raises the client's errors."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._plurals: dict[str, tuple[float, dict[str, str]]] = {}

    async def __call__(self, target: TargetRef) -> str:
        """The plural of the target's kind."""
        asked_at, plurals = self._plurals.get(target.api_version, (float("-inf"), {}))
        if target.kind not in plurals and monotonic_s() - asked_at > _ASK_AGAIN_S:
            plurals = await self._ask(target.api_version)
        if target.kind not in plurals:
            raise NotFoundError(f"the API server does not serve {target.api_version} {target.kind}")
        return plurals[target.kind]

    async def _ask(self, api_version: str) -> dict[str, str]:
        answer = await self._client.get(resource_path(api_version, ""))
        plurals = {
            str(resource["kind"]): str(resource["name"])
            for resource in answer.get("resources", ())
            if "/" not in resource["name"]  # `deployments/scale` is a subresource of kind Scale
        }
        self._plurals[api_version] = (monotonic_s(), plurals)
        return plurals
