"""The rig for scenarios that leave the shared control plane as they found it."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebbtide.sandbox.sandbox import Sandbox
from tests.cluster.rig import Rig


@contextlib.contextmanager
def open_rig(sandbox: Sandbox, data: Path, dispatch: str = "least-loaded") -> Iterator[Rig]:
    """A namespace with an emulator; whoever uses it starts the operator when the objects are there."""
    made = Rig(sandbox, f"test-{uuid.uuid4().hex[:8]}", data)
    sandbox.kubectl("create", "namespace", made.namespace)
    try:
        made.start_emulator(dispatch)
        yield made
    finally:
        made.close()


@pytest.fixture
def rig(sandbox: Sandbox, tmp_path: Path) -> Iterator[Rig]:
    """A rig for one test."""
    with open_rig(sandbox, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared_rig(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A rig for all tests of a module, whose services wait and scale side by side."""
    with open_rig(sandbox, tmp_path_factory.mktemp("rig")) as made:
        yield made
