"""Settings for all tests."""

import pytest
from hypothesis import settings

from ebbtide.errors import NotFoundError
from ebbtide.sandbox.engines.environment import installed

# a slow machine is not a failing test: no property has a deadline
settings.register_profile("ebbtide", deadline=None)
settings.load_profile("ebbtide")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real vLLM, with the reason, where it is not installed."""
    needing = [item for item in items if item.get_closest_marker("vllm")]
    if not needing:
        return
    try:
        installed()
    except NotFoundError as error:
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=str(error)))
