"""Which minor of Kubernetes the API server is: some of what may change on a Job depends on it."""

import re

from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient

_TTL_S = 600.0
_TIMEOUT_S = 5.0  # a cycle waits for this


class ServerMinor:
    """Asked now and then. What is not known yet is 0, as of a server that allows least."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._asked_at = float("-inf")
        self.minor = 0

    async def refresh(self) -> None:
        """Ask again, if the last answer is old; without an answer the last one stays."""
        if monotonic_s() - self._asked_at < _TTL_S:
            return
        try:
            answer = await self._client.request("GET", "/version", timeout_s=_TIMEOUT_S)
        except EbbtideError:
            return
        self.minor, self._asked_at = minor_of(answer), monotonic_s()


def minor_of(answer: bytes) -> int:
    """Of the answer of `/version`: `"minor": "36+"` -> 36; 0 where it says none."""
    found = re.search(rb'"minor":\s*"([0-9]{1,4})', answer)
    return int(found[1]) if found else 0
