"""What a run amounts to, beside the run without batch on the same traffic.

    cost, free     bill with batch minus bill without: GPUs that were paid for anyway cost nothing
    cost, full     that, and the list price of each GPU-hour that a Job held of what stood idle without batch
    paid anyway    of what Jobs hold of a pool in a minute, as much as stands idle there in the run without batch
    cheapest       the rest in minutes at the lowest price of the day

A token's share follows the GPUs that Jobs hold of its pool in its minute. Worked example: 6 GPUs of Jobs where 4 idle
without them: two thirds of their tokens are on GPUs that are paid for anyway.
"""

import msgspec

from ebbtide.bench.batch.load import Stage
from ebbtide.bench.batch.scenario import MINUTE_S, RESERVED
from ebbtide.bench.batch.world import POOLS, Lived

_HOURS = MINUTE_S / 3600


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Money in USD; tokens in millions of Jobs that were done, by the end or after their deadlines.

    `missed`: deadlines missed of the `feasible` ones. `attained` and `attained_without`: of chat's requests, 0..1.
    """

    player: str
    note: str
    free: float
    full: float
    tokens_m: float
    undone: float  # share of the work that was not done by the end
    paid: float  # share of tokens on GPUs that were paid for anyway
    cheapest: float  # share beside these in the cheapest hours
    missed: int
    feasible: int
    jobs: int
    stops: int
    lost: float  # share of the work that was lost by stops
    attained: float
    attained_without: float
    short: int  # pod-minutes for which chat waited for a Job's GPUs
    gpu_hours: float  # that Jobs held
    wall_s: float

    @property
    def per_million(self) -> float:
        """USD for a million tokens, GPUs that were paid for anyway being free."""
        return self.free / self.tokens_m if self.tokens_m else 0.0

    @property
    def per_million_full(self) -> float:
        """The same at full price."""
        return self.full / self.tokens_m if self.tokens_m else 0.0

    @property
    def well_placed(self) -> float:
        """Share of tokens on GPUs that were paid for anyway or in the cheapest hours."""
        return self.paid + self.cheapest


def bill(stage: Stage, lived: Lived) -> float:
    """USD of all nodes, reserved ones too."""
    prices, reserved = stage.prices(), float(stage.scenario.reserved.price)
    total = 0.0
    for pool, row in zip(POOLS, lived.paid, strict=True):
        for minute, gpus in enumerate(row):
            total += gpus * (reserved if pool == RESERVED else prices[minute])
    return total * _HOURS


def score(player: str, stage: Stage, lived: Lived, free: Lived, feasible: frozenset[str]) -> Score:
    """Of one run beside `free`."""
    prices, reserved = stage.prices(), float(stage.scenario.reserved.price)
    cheapest = float(stage.scenario.on_demand.cheapest)
    by_name = {job.name: job for job in stage.jobs}
    done = [by_name[each.name] for each in lived.jobs if each.done_s is not None]
    kept = {e.name for e in lived.jobs if e.done_s is not None and e.done_s <= by_name[e.name].deadline_s}
    anyway = work = on_paid = on_cheap = held = 0.0
    for number, pool in enumerate(POOLS):
        for minute, gpus in enumerate(lived.batch[number]):
            price = reserved if pool == RESERVED else prices[minute]
            idle = min(gpus, free.paid[number][minute] - free.chat[number][minute])
            anyway += idle * price * _HOURS
            held += gpus * _HOURS
            if gpus:
                did = lived.work[number][minute]
                work += did
                on_paid += did * idle / gpus
                on_cheap += did * (gpus - idle) / gpus if pool != RESERVED and price == cheapest else 0.0
    all_s = sum(job.gpu_s for job in stage.jobs)
    done_s = sum(job.gpu_s for job in done)
    cost = bill(stage, lived) - bill(stage, free)
    return Score(
        player=player,
        note=lived.note,
        free=cost,
        full=cost + anyway,
        tokens_m=done_s * stage.tokens_per_gpu_s / 1e6,
        undone=1.0 - done_s / all_s if all_s else 0.0,
        paid=on_paid / work if work else 0.0,
        cheapest=on_cheap / work if work else 0.0,
        missed=len(feasible - kept),
        feasible=len(feasible),
        jobs=len(stage.jobs),
        stops=sum(each.stops for each in lived.jobs),
        lost=sum(each.lost_s * by_name[each.name].gpus for each in lived.jobs) / all_s if all_s else 0.0,
        attained=lived.attained,
        attained_without=free.attained,
        short=lived.short,
        gpu_hours=held,
        wall_s=round(lived.wall_s, 1),
    )
