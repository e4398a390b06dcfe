"""One case of the benchmark: a load's objectives, the replica that serves it, and how the outside is paced.

It is plain data that goes to another process and into results; it decides nothing and checks nothing.
"""

from decimal import Decimal

import msgspec

from ebbtide.bench.faults import NONE, Faults

# Second 0 of a replay in unix seconds, for it has to be some day: 1 January 2026, 00:00 UTC
EPOCH_S = 1_767_225_600.0


class EngineLimits(msgspec.Struct, frozen=True):
    """What one engine can hold: KV blocks of `block_size` tokens, sequences, and tokens of one iteration."""

    block_size: int = 64
    kv_blocks: int = 7000
    max_num_seqs: int = 256
    max_batched_tokens: int = 2048

    @property
    def kv_tokens(self) -> int:
        """KV cache in tokens: 7000 blocks of 64 hold 448,000."""
        return self.block_size * self.kv_blocks


class Carries(msgspec.Struct, frozen=True):
    """What one replica is believed to carry inside the objectives, in requests/s of these mean lengths.

    `per_s` is one of several, `alone_per_s` one on its own. Measured in the same simulator, as its user would have.
    """

    per_s: float
    alone_per_s: float
    input_tokens: float
    output_tokens: float


class LeadIn(msgspec.Struct, frozen=True):
    """What Ebbtide has run before second 0: for how long, and with how many replicas it began."""

    length_s: float
    start_replicas: int


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one kind of replica, with objectives.

    `attainment` is 0..1 of submitted requests. `startup_s` are drawn from in the order of starts, again from the
    first when they are used up; a simulator with a constant start-up takes the first alone. A scrape shows itself
    `metric_delay_s` late. `speeds`, by turns in the order of starts, are of replicas whose GPUs are not alike (1.1: a
    tenth faster); empty: they are alike. No other simulator than ours knows unlike ones. `carries` None: nobody
    measured it; `declared`: Ebbtide is told so too. `path` is for the policy `path`: (second from which, replicas).
    `epoch_s` is second 0 in unix seconds, `window_s` that of the objective (None: the whole span). `lead_in` None:
    Ebbtide begins with nothing but what history teaches of demand; else `memory` is what it remembers, packed.
    """

    name: str
    model: str
    system: str
    tensor_parallel: int = 1
    gpu_hour_price: Decimal = Decimal("2.50")
    ttft_s: float
    itl_s: float
    attainment: float
    startup_s: tuple[float, ...]
    speeds: tuple[float, ...] = ()
    max_replicas: int
    start_replicas: int
    min_replicas: int = 1
    scrape_s: float = 15.0
    rate_window_s: float = 60.0
    metric_delay_s: float = 0.0
    cycle_s: float = 15.0
    engine: EngineLimits = EngineLimits()
    carries: Carries | None = None
    declared: bool = False
    faults: Faults = NONE
    path: tuple[tuple[float, int], ...] = ()
    epoch_s: float = EPOCH_S
    window_s: float | None = None
    lead_in: LeadIn | None = None
    memory: bytes = b""


def fleet(case: Case, count: int) -> Case:
    """`case` with `count` replicas and no more or fewer."""
    return msgspec.structs.replace(case, start_replicas=count, min_replicas=count, max_replicas=count)


def ordered(case: Case, count: int) -> Case:
    """`case` with `count` replicas ordered at 0 s for good, for the policy `path`: it begins with the fleet of all."""
    return msgspec.structs.replace(case, path=((0.0, count),))
