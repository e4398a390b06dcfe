"""Where simulators are: by name, as `module:class`, so that a worker process imports none but the one it needs."""

import importlib
from collections.abc import Callable

from ebbtide import __version__
from ebbtide.bench.run import Simulator
from ebbtide.errors import ConfigurationError

SIMULATORS = {
    "dynamo": "ebbtide.bench.dynamo.simulator:DynamoSimulator",
    "ebbtide": "ebbtide.bench.own:OwnSimulator",
}
WITHOUT_CHANCE = ("dynamo",)  # a seed is the phase at which a policy looks, and nothing else


def place_of(name: str) -> str:
    """`module:class` of the simulator; ConfigurationError with those that there are."""
    if name not in SIMULATORS:
        raise ConfigurationError(f"--simulator {name}: it does not exist; there are: {', '.join(SIMULATORS)}")
    return SIMULATORS[name]


def install(name: str, say: Callable[[str], None]) -> None:
    """Gets what the simulator needs beside Ebbtide, once; ConfigurationError where this machine cannot have it."""
    if name == "dynamo":
        from ebbtide.bench.dynamo.environment import ensure

        ensure(say)


def release(name: str) -> str:
    """The version of what it is made of."""
    if name == "dynamo":
        from ebbtide.bench.dynamo.environment import VERSION

        return VERSION
    return __version__


def make(place: str) -> Simulator:
    """A new simulator of the class at `module:class`."""
    module, _, name = place.partition(":")
    found: Simulator = getattr(importlib.import_module(module), name)()
    return found
