"""What Ebbtide learnt before second 0: it has run the service for a while, as an operator in a cluster has.

Rivals have settings that somebody found for them on the scored span itself; Ebbtide finds what a replica carries by
running. The last of the training is replayed under it on its own, and what it learnt of demand, of replicas and of the
price of a miss is where it begins, on fresh replicas. Nothing of that replay is billed or scored, and nothing of the
scored span is in it. What was missed before is neither owed nor saved: the budget of the scored span is its own.
"""

import math

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.faults import NONE
from ebbtide.bench.past import remembered
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import Simulator
from ebbtide.bench.shown import Metrics
from ebbtide.bench.store import Load
from ebbtide.model.memory import Memory, ServiceMemory, VariantMemory, WorthMemory

_MINUTE_S = 60.0


def remembered_after(
    simulator: Simulator, case: Case, scored: Load, before: Load, policy: str, knob: float, seed: int
) -> bytes:
    """The packed memory of Ebbtide after `before`, whose second 0 is that of its lead-in; empty if it never looked."""
    if case.lead_in is None:
        return b""
    window_s = scored.requests[-1].arrival_s
    earlier = msgspec.structs.replace(
        case,
        epoch_s=case.epoch_s - case.lead_in.length_s,
        start_replicas=case.lead_in.start_replicas,
        window_s=window_s,
        faults=NONE,
        lead_in=None,
    )
    packed = simulator.run(earlier, before.requests, policy, knob, seed, before.history).memory
    if not packed:
        return b""
    # a replay ends with its last request; then it was quiet
    first = math.ceil(before.requests[-1].arrival_s / _MINUTE_S)
    quiet = [
        Minute(minute * _MINUTE_S, 0.0, 0.0, 0.0) for minute in range(first, int(case.lead_in.length_s // _MINUTE_S))
    ]
    memory = msgspec.msgpack.decode(packed, type=Memory)
    memory = remembered(earlier, Metrics(earlier, window_s), quiet, memory)
    learnt = tuple(_learnt(service) for service in memory.services)
    return msgspec.msgpack.encode(msgspec.structs.replace(memory, services=learnt))


def _learnt(service: ServiceMemory) -> ServiceMemory:
    """Without what is about the replicas that ran, and without what was missed."""
    return msgspec.structs.replace(
        service,
        budget=msgspec.structs.replace(service.budget, planned=0.0, missed=0.0, plans=()),
        worth=WorthMemory(),
        arrivals_by_pod=b"",
        variants=tuple(VariantMemory(name=each.name, capacity=each.capacity) for each in service.variants),
        recommendations=(),
        moves=(),
        raise_since=None,
        raise_to=0,
    )
