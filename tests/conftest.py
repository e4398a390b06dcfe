"""Settings for all tests."""

import signal

import pytest
from hypothesis import settings

from ebbtide.errors import NotFoundError
from ebbtide.sandbox.engines.environment import installed

# a slow machine is not a failing test: no property has a deadline
settings.register_profile("ebbtide", deadline=None)
settings.load_profile("ebbtide")

# A job that a shell put in the background ignores Ctrl-C, and so would every program that a test starts and ends by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
