"""Cases, fleets and traffic for tests of rivals; every argument that matters is named at the test."""

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Latency, Minute, Observation, ReplicaView


def case(**changes):
    """Ten replicas at most, from 2; objectives 3 s and 100 ms; start-up 100 s."""
    base = Case(
        name="test",
        model="model",
        system="h100_sxm",
        ttft_s=3.0,
        itl_s=0.1,
        attainment=0.99,
        startup_s=(100.0,),
        max_replicas=10,
        start_replicas=2,
    )
    return msgspec.structs.replace(base, **changes)


def views(*loads, capacity=100_000.0):
    """One replica per (running, waiting, KV usage)."""
    return tuple(
        ReplicaView(f"r{i}", float(busy), float(queue), usage, usage * capacity, capacity)
        for i, (busy, queue, usage) in enumerate(loads)
    )


def p90(seconds):
    return Latency(seconds, seconds, seconds, seconds)


def seen(now_s=0.0, declared=2, ready=None, replicas=(), **more):
    """What a rival sees; all declared replicas are ready unless told otherwise."""
    ready = declared if ready is None else ready
    fields = {
        "arrivals_per_s": 0.0,
        "finished_per_s": 0.0,
        "input_tokens": None,
        "output_tokens": None,
        "ttft": None,
        "itl": None,
    }
    return Observation(
        now_s=now_s, declared=declared, ready=ready, starting=declared - ready, replicas=replicas, **(fields | more)
    )


def replay(policy, scenes_of, seconds, declared=2):
    """Ask `policy` at its own pace; its answers take effect at once. Returns (second, replicas) at each tick."""
    said, now_s = [], 0.0
    while now_s < seconds:
        wanted = policy.decide(scenes_of(now_s, declared))
        declared = declared if wanted is None else wanted
        said.append((now_s, declared))
        now_s += policy.period_s
    return said


def minutes(rate_of, start_s, end_s):
    """Whole minutes of history with `rate_of(second)` requests/s."""
    return [
        Minute(float(at), 60.0 * rate_of(at), 60_000.0 * rate_of(at), 6_000.0 * rate_of(at))
        for at in range(start_s, end_s, 60)
    ]
