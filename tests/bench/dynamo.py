"""What tests of Dynamo's replay need: its environment."""

import os

import pytest

from ebbtide.bench.dynamo.environment import Environment, installed


def require_dynamo() -> None:
    """Skips the test where it is not installed; in `make test-full`, where EBBTIDE_DYNAMO is `required`, it fails."""
    if os.environ.get("EBBTIDE_DYNAMO") == "required":
        installed()
    elif flaw := Environment().flaw:
        pytest.skip(f"simulator dynamo: {flaw}")
