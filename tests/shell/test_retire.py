"""`ebbtide release --operator`: its Deployment goes to zero, and Jobs are given back when its pods are gone."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from ebbtide.cli.release import release
from ebbtide.controller.retire import stop_operator
from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import KubeClient

DEPLOYMENT = "/apis/apps/v1/namespaces/ebbtide-system/deployments/ebbtide"
PODS = "/api/v1/namespaces/ebbtide-system/pods"


class Fleet(KubeClient):
    """A Deployment whose pods go one look after another; `sticks`: one of them never does."""

    def __init__(self, pods: int = 2, *, sticks: bool = False, there: bool = True) -> None:
        self.pods, self.sticks, self.there = pods, sticks, there
        self.written: list[tuple[str, Any]] = []
        self.selectors: list[str] = []

    async def get(self, path: str, **params: str) -> Any:
        if path == DEPLOYMENT:
            if not self.there:
                raise NotFoundError("HTTP 404")
            return {"spec": {"selector": {"matchLabels": {"tier": "x", "app": "ebbtide"}}}}
        assert path == PODS
        self.selectors.append(params["labelSelector"])
        names = [f"ebbtide-{n}" for n in range(self.pods)]
        self.pods = max(int(self.sticks), self.pods - 1)
        done = {"metadata": {"name": "done"}, "status": {"phase": "Succeeded"}}
        return {"items": [done, *({"metadata": {"name": name}, "status": {"phase": "Running"}} for name in names)]}

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None, **_: Any
    ) -> bytes:
        self.written.append((f"{method} {path}", body))
        return msgspec.json.encode({})


async def test_it_goes_to_zero_and_its_pods_are_waited_for() -> None:
    fleet = Fleet()
    assert await stop_operator(fleet, "ebbtide-system/ebbtide") is True
    assert fleet.written == [(f"PATCH {DEPLOYMENT}/scale", {"spec": {"replicas": 0}})]
    assert fleet.selectors == ["app=ebbtide,tier=x"] * 3
    assert fleet.pods == 0


async def test_one_that_is_not_there_is_said_and_nothing_is_written() -> None:
    fleet = Fleet(there=False)
    assert await stop_operator(fleet, "ebbtide-system/ebbtide") is False
    assert fleet.written == []


async def test_a_pod_that_does_not_go_is_named() -> None:
    with pytest.raises(EbbtideError, match="ebbtide-system/ebbtide still has pods after 0 s: ebbtide-0"):
        await stop_operator(Fleet(sticks=True), "ebbtide-system/ebbtide", within_s=0.0)


def test_a_name_without_a_namespace_is_refused() -> None:
    result = CliRunner().invoke(release, ["--operator", "ebbtide"])
    assert result.exit_code == 2
    assert "'ebbtide' is not NAMESPACE/NAME of a Deployment" in result.output
