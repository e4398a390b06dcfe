"""One real control plane for all tests of this folder, and small helpers around it.

Tests that hurt the control plane (kill the API server, stop Prometheus) start a sandbox of their own with
`own_sandbox`.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.autoscaler import AutoscalerSettings
from ebbtide.sandbox.binaries import resolve
from ebbtide.sandbox.sandbox import Sandbox, SandboxConfig

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

ApplyYaml = Callable[[str], None]


def _ours(items: list[pytest.Item]) -> list[pytest.Item]:
    return [item for item in items if HERE in item.path.parents]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in _ours(items):
        item.add_marker(pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    # outside of any test, because a first Go build takes longer than a test may
    if _ours(session.items) and not session.config.option.collectonly:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        resolve(progress=print if reporter is None else reporter.write_line)


def manifests() -> tuple[Path, ...]:
    """What `kubectl apply` installs in a real cluster, as far as the tree has it."""
    candidates = (ROOT / "crds", ROOT / "manifests" / "rbac.yaml")
    return tuple(path for path in candidates if (any(path.glob("*.yaml")) if path.is_dir() else path.exists()))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The shared control plane: never kill its parts."""
    directory = tmp_path_factory.mktemp("sandbox")
    config = SandboxConfig(
        name="tests",
        directory=directory,
        manifests=manifests(),
        scrape_interval_s=1,
        autoscaler=AutoscalerSettings(lead_time_s=5, idle_s=15, retry_s=3),
    )
    with Sandbox.start(config) as running:
        yield running


@pytest.fixture
def own_sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A control plane for one test, which may hurt it."""
    config = SandboxConfig(name="own", directory=tmp_path / "sandbox", manifests=manifests(), scrape_interval_s=1)
    with Sandbox.start(config) as running:
        yield running


@pytest.fixture(scope="session")
def operator_kubeconfig(sandbox: Sandbox) -> Path:
    """The operator's identity, with exactly the rights of manifests/rbac.yaml."""
    if not (ROOT / "manifests" / "rbac.yaml").exists():
        pytest.fail("manifests/rbac.yaml is missing: the operator has no ServiceAccount")
    return sandbox.operator_kubeconfig()


@pytest.fixture
async def admin(sandbox: Sandbox) -> AsyncIterator[KubeClient]:
    """An API client that may do everything."""
    async with KubeClient(sandbox.admin_kubeconfig) as client:
        yield client


@pytest.fixture
def namespace(sandbox: Sandbox) -> Iterator[str]:
    """A namespace for one test, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    sandbox.kubectl("create", "namespace", name)
    yield name
    sandbox.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def apply_yaml(sandbox: Sandbox) -> ApplyYaml:
    """Apply a YAML text of one or several objects as admin."""

    def apply(text: str) -> None:
        documents: list[dict[str, Any]] = [item for item in yaml.safe_load_all(text) if item]
        sandbox.apply(documents)

    return apply
