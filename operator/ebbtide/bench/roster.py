"""Which rivals there are, and which of them a simulator can run."""

from collections.abc import Mapping

from ebbtide.bench.dynamo.planner import PLANNERS
from ebbtide.bench.policy import Rival
from ebbtide.bench.rivals import REGISTRY

ALL: Mapping[str, Rival] = {**REGISTRY, **PLANNERS}


def rivals_in(simulator: str) -> Mapping[str, Rival]:
    """By name, in the order in which they are shown: Dynamo's own planner runs in Dynamo's own replay alone."""
    return ALL if simulator == "dynamo" else REGISTRY
