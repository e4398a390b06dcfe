"""A control plane of its own for this folder: without nodes, and ended before the next folder's tests start."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.binaries import resolve
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    # outside of any test, because a first Go build takes longer than a test may
    needed = any(HERE in item.path.parents and item.get_closest_marker("cluster") for item in session.items)
    if needed and not session.config.option.collectonly:
        resolve()


@pytest.fixture(scope="package")
def api_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    config = SandboxConfig(
        name="api", directory=tmp_path_factory.mktemp("api-sandbox"), pools=(), manifests=(ROOT / "crds",)
    )
    with Sandbox.start(config) as running:
        yield running


@pytest.fixture
async def api(api_sandbox: Sandbox) -> AsyncIterator[KubeClient]:
    """An API client that may do everything."""
    async with KubeClient(api_sandbox.admin_kubeconfig) as client:
        yield client
