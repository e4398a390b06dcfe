"""The rivals by name, in the order of the roster that the benchmark publishes.

Each lives in a file of its own that says which project, version and formula it is. Where an original has a defect, it
runs as shipped and corrected, so that nobody can say that only a defect was beaten. Only the standard library and
msgspec are needed: rivals run inside the simulator's own environment.
"""

from ebbtide.bench.policy import Rival
from ebbtide.bench.rivals import (
    aibrix_apa,
    forecast,
    hpa_queue,
    keda_saturation,
    knative_kpa,
    kthena,
    ray_serve,
    schedule,
    slo_law,
    static,
    token_velocity,
    wva_v1,
    wva_v2,
)

_ROSTER = (
    static,
    schedule,
    hpa_queue,
    keda_saturation,
    slo_law,
    token_velocity,
    wva_v1,
    wva_v2,
    aibrix_apa,
    kthena,
    knative_kpa,
    ray_serve,
    forecast,
)

REGISTRY: dict[str, Rival] = {rival.name: rival for module in _ROSTER for rival in module.RIVALS}
