"""Small stages for the batch benchmark: flat chat on a small cluster, a few Jobs, a day and less."""

from decimal import Decimal

from ebbtide.bench.batch import own
from ebbtide.bench.batch.load import BEGIN_S, CHAT, BatchJob, Stage
from ebbtide.bench.batch.scenario import Batch, Chat, Hours, Kind, OnDemand, Reserved, Scenario
from ebbtide.bench.batch.world import Began, World

HOUR_S = 3600
NIGHT = Hours("22:00", "06:00", Decimal("1.00"))
ON_DEMAND = OnDemand(1, 64, 180, 600, Decimal("3.00"), (NIGHT,))
KIND = Kind("jobs", 1.0, 2, 1, 30.0, 0.2, 4.0, "00:00", "24:00", restartable=True)


def scenario(reserved=4, on_demand=ON_DEMAND, kinds=(KIND,)):
    """Four reserved GPUs, on demand 3.00 by day and 1.00 by night."""
    nodes = Reserved(1 if reserved else 0, reserved or 1, Decimal("0.80"))
    return Scenario(Chat(4, 120, 30), nodes, on_demand, Batch(0.3, 30, 120, 300), tuple(kinds))


def job(name="a", at_h=8.0, deadline_h=4.0, work_s=1800, pods=2, restartable=True, elastic=False, expected_s=None):
    """A Job that comes at that hour of the first day."""
    created_s = BEGIN_S + round(at_h * HOUR_S)
    return BatchJob(
        name=name,
        kind="jobs",
        created_s=created_s,
        deadline_s=created_s + round(deadline_h * HOUR_S),
        pods=pods,
        gpus_per_pod=1,
        work_s=work_s,
        expected_s=expected_s or work_s + 120,
        restartable=restartable,
        elastic=elastic,
    )


def stage(jobs=(), replicas=2.0, setting=None, days=1):
    """Chat that fills so many replicas at all minutes, an hour of lead-in."""
    setting = setting or scenario()
    minutes = 60 + days * 24 * 60 + 16 * 60
    requests = (round(replicas * 0.9 * CHAT.capacity_per_s * 60),) * minutes
    return Stage("flat", 1, setting, days, HOUR_S, 300, requests, tuple(sorted(jobs, key=lambda j: j.created_s)))


def lived(found, rival, path, hours=24):
    """A rival for so many hours; `path(hour)` are chat's replicas on (reserved, on demand)."""
    world = World(found, Began(path(0.0), b""), found.begin_s, found.begin_s + round(hours * HOUR_S), jobs=True)
    steps = tuple(path(minute / 60) for minute in range(round(hours * 60)))
    held = []

    def decide(world):
        own.along(world, steps)
        rival(world)
        held.append({name: job.pool if not job.is_open else "" for name, job in world.jobs.items()})

    world.run(decide, 60)
    return world.lived(0.0), world


def steady(reserved=2, on_demand=0):
    """A path that never moves."""
    return lambda hour: (reserved, on_demand)


def ended(found, name="a"):
    """(hours from midnight at which it started and was done, stops)."""
    one = next(each for each in found.jobs if each.name == name)
    return (
        None if one.started_s is None else (one.started_s - BEGIN_S) / HOUR_S,
        None if one.done_s is None else (one.done_s - BEGIN_S) / HOUR_S,
        one.stops,
    )
