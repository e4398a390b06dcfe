"""Makes somebody else's load one that a given fleet can be judged by.

What is too long for its replicas is left out, and the rest is lowered until the fleet carries it. Must never raise a
load, nor choose a fleet.
"""

from collections.abc import Callable, Sequence

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.model.spec import Objectives
from ebbtide.sim.engine import Engine
from ebbtide.sim.fleet import Scenario, ServiceScenario
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import Request
from ebbtide.sim.static import largest

_STEP = 0.85
_STEPS = 20  # 0.85^19 is a twentieth of the height asked for; of less there is hardly a load left to scale by


def answerable(requests: Sequence[Request], profile: EngineProfile, objectives: Objectives) -> list[Request]:
    """Those that a replica with nothing else to do answers with their first token in half of the objective.

    The other half is for one such prompt before it. A prompt of 30,000 tokens takes an A100 about 1.8 s: of two that
    meet on one replica the second misses 2 s, and no number of replicas keeps all of them apart.
    """
    known: dict[tuple[int, int], bool] = {}
    kept = []
    for request in requests:
        size = (request.prompt_tokens, request.output_tokens)
        if size not in known:
            known[size] = _meets_alone(request, profile, objectives)
        if known[size]:
            kept.append(request)
    return kept


def _meets_alone(request: Request, profile: EngineProfile, objectives: Objectives) -> bool:
    # without the luck of one pod or one moment, so that the answer is the same wherever it is asked
    engine = Engine(msgspec.structs.replace(profile, spread=0.0, jitter=0.0, stall_every=0), seed=0)
    engine.submit(msgspec.structs.replace(request, arrival_s=0.0), 0.0)
    while (next_s := engine.next_event_s()) is not None:
        for outcome in engine.advance(next_s):
            return outcome.meets(objectives.ttft_s / 2, objectives.itl_s)
    return False


def lowered(
    scenario: Scenario,
    service: ServiceScenario,
    load: Callable[[float], Sequence[Request]],
    share: float,
) -> tuple[float, tuple[Request, ...]]:
    """The largest height of 1, 0.85, 0.72, ... at which the fleet reaches the share, and the requests of that height.

    `load` gives the requests of a height, 1 being what was asked for; of less load a larger share is met. The fleet is
    the largest within the service's bounds and its pools, less one replica that an autoscaler may err by. Raises
    ConfigurationError where it does not reach the share at a twentieth of the load.
    """

    def carried(step: int) -> tuple[Request, ...]:
        """The requests of that height; none where they are too many."""
        requests = tuple(load(_STEP**step))
        result = largest(scenario, msgspec.structs.replace(service, requests=requests), spare=1).result
        return requests if result.met_both >= share else ()

    low, high, best = 0, _STEPS, carried(0)
    if best:
        return 1.0, best
    while high - low > 1:
        middle = (low + high) // 2
        if found := carried(middle):
            high, best = middle, found
        else:
            low = middle
    if not best:
        raise ConfigurationError(
            f"{service.spec.key}: even at {_STEP ** (_STEPS - 1):.0%} of the load its largest fleet does not meet both "
            f"objectives for {share:.0%} of the requests: use a trace with shorter prompts or smaller bursts"
        )
    return _STEP**high, best
