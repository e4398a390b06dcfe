"""What Ebbtide learnt before second 0: it has run the service for a while, as an operator in a cluster has.

Rivals have settings that somebody found for them on the scored span itself; Ebbtide finds what a replica carries by
running. The last of the training is replayed under it on its own, and what it remembers afterwards is where it begins.
Nothing of that replay is billed or scored, and nothing of the scored span is in it. The error budget of the scored span
is its own: what was missed before is neither owed nor saved.
"""

import msgspec

from ebbtide.bench.ablations import ABLATIONS
from ebbtide.bench.case import Case
from ebbtide.bench.faults import NONE
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import EBBTIDE, Simulator
from ebbtide.bench.store import Load
from ebbtide.model.memory import Memory

_BALANCE_S = 300.0  # of its arrivals, which the fleet that it begins with is made for


def remembered_after(simulator: Simulator, case: Case, load: Load, policy: str, knob: float, seed: int) -> bytes:
    """The packed memory of Ebbtide after `load.before`; empty for who remembers nothing, and where nothing was."""
    if not load.before or not (policy == EBBTIDE or policy in ABLATIONS):
        return b""
    learnt = simulator.run(_earlier(case, load), load.before, policy, knob, seed, _history(load)).memory
    return _with_even_account(msgspec.msgpack.decode(learnt, type=Memory))


def _earlier(case: Case, load: Load) -> Case:
    """`case` so much earlier, without faults, and with a fleet for what came then."""
    length_s = min(_BALANCE_S, load.before_s)
    came_per_s = sum(request.arrival_s < length_s for request in load.before) / length_s
    needed = case.start_replicas if case.carries is None else int(came_per_s / case.carries.per_s) + 1
    return msgspec.structs.replace(
        case,
        epoch_s=case.epoch_s - load.before_s,
        faults=NONE,
        start_replicas=min(case.max_replicas, max(1, case.min_replicas, needed)),
    )


def _history(load: Load) -> tuple[Minute, ...]:
    """The minutes that were over when it began, by its own clock."""
    over = (minute for minute in load.history if minute.start_s + 60.0 <= -load.before_s)
    return tuple(minute._replace(start_s=minute.start_s + load.before_s) for minute in over)


def _with_even_account(memory: Memory) -> bytes:
    services = (
        msgspec.structs.replace(
            service, budget=msgspec.structs.replace(service.budget, planned=0.0, missed=0.0, plans=())
        )
        for service in memory.services
    )
    return msgspec.msgpack.encode(msgspec.structs.replace(memory, services=tuple(services)))
