"""What placing services together costs: CPU seconds and the gap to the bound, with pools scarce enough to couple all.

`python -m benchmarks.placement [SERVICES ...]`: services with 3 variants each over 12 pools of unlike price and three
priorities; the pools have six tenths of the GPUs that everybody's cheapest mix would take. Timed is placement, without
and with the programme over all, and the programme within. No wall time: other work on the machine would be in it.
"""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from ebbtide.controller.heap import spare_the_collector
from ebbtide.core import coupling, placement, programme
from ebbtide.core.plan import STEPS, open_cycle
from ebbtide.core.work import Cycle
from ebbtide.model.memory import Memory
from ebbtide.model.snapshot import (
    EngineReadings,
    Latency,
    NodeState,
    PodPhase,
    PodState,
    PoolState,
    Quality,
    Reading,
    ServiceState,
    Snapshot,
    Source,
    TargetState,
    VariantState,
)
from ebbtide.model.spec import (
    CapacityPrior,
    CapacityType,
    Mode,
    Objectives,
    PoolSpec,
    Provisioning,
    Scaling,
    ServiceSpec,
    TargetRef,
    VariantSpec,
)

NOW_S = 1_000_000.0
POOLS, VARIANTS = 12, 3
KINDS = (("H100-80GB", 3.0, 12.0), ("A100-80GB", 1.6, 6.0), ("L40S", 0.8, 2.5))  # price an hour, requests/s
SCARCE = 0.6
TOKENS = 256.0


def reading(value: float) -> Reading:
    return Reading(Quality.FRESH, value, 5.0)


def pod(name: str, rate: float, carries: float) -> PodState:
    """A pod with `rate` of the `carries` requests/s that it could serve: 20 ms a token idle, 50 ms when full."""
    itl_s = 0.02 + 0.03 * min(1.0, rate / carries)
    tokens = Latency(rate * TOKENS, itl_s, ((0.025, 0.0), (0.05, rate * TOKENS), (float("inf"), rate * TOKENS)))
    readings = EngineReadings(
        "vLLM",
        running=reading(rate * TOKENS * itl_s),
        waiting=reading(0.0),
        kv_usage=reading(0.2),
        finished=reading(rate),
        arrivals=reading(rate),
        prompt_tokens=reading(rate * 1024.0),
        generation_tokens=reading(rate * TOKENS),
        ttft=Latency(rate, 0.1, ((0.5, rate), (float("inf"), rate))),
        itl=tokens,
        tpot=Latency(rate, itl_s, ((0.05, rate), (float("inf"), rate))),
    )
    return PodState(name, name, PodPhase.READY, NOW_S - 9000.0, f"on-{name}", 1, NOW_S - 8900.0, engine=readings)


def fleet(count: int, seed: int = 7) -> Snapshot:
    """`count` services of 1 to 12 replicas' worth of load, one replica of their first variant running."""
    draw = random.Random(seed)
    services, need = [], [0.0] * POOLS
    for number in range(count):
        key = f"team-{number // 20:03d}/chat-{number:05d}"
        chosen = draw.sample(range(POOLS), VARIANTS)
        speed, load = draw.uniform(0.6, 1.6), draw.uniform(4.0, 60.0)
        specs, states = [], []
        for place, at in enumerate(chosen):
            _, _, rate = KINDS[at % len(KINDS)]
            carries = rate * speed * draw.uniform(0.85, 1.15)
            name, target = f"v{place}", TargetRef("apps/v1", "Deployment", f"chat-{number}-{place}")
            prior = CapacityPrior(carries, 1024.0, TOKENS)
            specs.append(VariantSpec(name, f"pool-{at:02d}", target, gpus_per_replica=1, capacity=prior))
            pods = (pod(f"{key}-{place}", load, carries),) if place == 0 else ()
            states.append(VariantState(name, TargetState(True, uid=target.name, spec_replicas=len(pods)), pods))
        cheapest = min(chosen, key=lambda at: KINDS[at % len(KINDS)][1] / KINDS[at % len(KINDS)][2])
        need[cheapest] += load / (KINDS[cheapest % len(KINDS)][2] * speed)
        declared = ServiceSpec(
            key, key, 1, Mode.AUTO, "m", 8.0, Objectives(1.0, 0.05, 0.99), 100 * (number % 3), tuple(specs), Scaling()
        )
        services.append(ServiceState(declared, tuple(states)))
    total = SCARCE * sum(need) / POOLS
    pools = tuple(_pool(at, round(0.5 * total + 0.5 * SCARCE * need[at])) for at in range(POOLS))
    return Snapshot(NOW_S, tuple(services), pools, (Source("prometheus", healthy=True, age_s=1.0),))


def _pool(at: int, gpus: int) -> PoolState:
    accelerator, price, _ = KINDS[at % len(KINDS)]
    name = f"pool-{at:02d}"
    spec = PoolSpec(
        name,
        name,
        1,
        Provisioning.AUTOSCALED,
        CapacityType.ON_DEMAND,
        (),
        "nvidia.com/gpu",
        accelerator,
        None,
        gpus,
        240.0,
    )
    nodes = tuple(NodeState(f"{name}-{n}", 8, 0, ready=True, created_at=0.0) for n in range(gpus // 8))
    return PoolState(spec, nodes, Decimal(str(round(price * (1.0 + 0.07 * (at // 3)), 3))), "USD")


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    into[name] = into.get(name, 0.0) + time.process_time() - start


def prepared(snapshot: Snapshot) -> Cycle:
    """Everything up to placement."""
    cycle = open_cycle(snapshot, Memory(), NOW_S)
    for name, step in STEPS:
        if name == "placement":
            break
        step(cycle)
    return cycle


def alone(cycle: Cycle) -> None:
    """Placement as it is where nothing couples services: one after the other."""
    components = coupling.components
    coupling.components = lambda *_: []  # type: ignore[assignment]
    try:
        placement.step(cycle)
    finally:
        coupling.components = components


def together(cycle: Cycle, spent: dict[str, float]) -> None:
    """Placement with the programme; the solver's part is timed apart."""
    solve = programme.solve

    def watched(*arguments: Any, **options: Any) -> programme.Outcome:
        with timed(spent, "solver"):
            return solve(*arguments, **options)

    programme.solve = watched
    try:
        placement.step(cycle)
    finally:
        programme.solve = solve


def measure(count: int) -> str:
    """One line: CPU seconds, what is missed, who decided, and the gap."""
    spent: dict[str, float] = {}
    snapshot = fleet(count)
    first, second = prepared(snapshot), prepared(snapshot)
    with timed(spent, "alone"):
        alone(first)
    with timed(spent, "together"):
        together(second, spent)
    words = "; ".join(shown.text for shown in second.placements) or "nothing couples them"
    missed = [sum(draft.unplaced for draft in cycle.drafts) for cycle in (first, second)]
    return (
        f"{count:6d} services: placement {spent['together']:.2f} CPU s ({spent['alone']:.2f} one after the other), "
        f"solver {spent.get('solver', 0.0):.2f}; missed needs {missed[0]:.2f} -> {missed[1]:.2f}; {words}"
    )


def main() -> None:
    import highspy  # loaded before anything is timed

    spare_the_collector()  # as the operator does
    print(f"HiGHS by highspy {highspy.Highs().version()}, loaded; one thread, {programme.MOST_NODES} nodes at most")
    for count in [int(each) for each in sys.argv[1:]] or [100, 1_000, 10_000]:
        print(measure(count), flush=True)


if __name__ == "__main__":
    main()
