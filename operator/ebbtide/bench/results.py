"""What a comparison found, as it is written to results.json: plain data, the same bytes for the same inputs.

Shares are 0..1 and money is in the currency of the case's price. `cost_at_target` of a target that was not reached is
null, never a number from beyond what was seen.
"""

from pathlib import Path

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.score import Percentiles, Score
from ebbtide.errors import ConfigurationError

HINDSIGHT, FROZEN, PUBLISHED = "hindsight", "frozen", "published"
DEFAULT = "default"  # there is nothing to tune
HELD = "held"  # it had nothing to go by and kept the fleet that it began with: the note says why
BOUND = "bound"  # no policy: it knows the future
ABLATION = "ablation"  # Ebbtide without one of its parts


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One replay under one policy: see `Score`. `wall_s` is what it took by the clock when it was first run."""

    knob: float
    seed: int
    cost: float
    cost_hourly: float
    gpu_hours: float
    start_up_share: float
    attainment: float
    worst_5min: float | None
    ttft_ms: Percentiles
    itl_ms: Percentiles
    scale_events: int
    scale_events_per_replica_day: float
    wall_s: float

    @staticmethod
    def of(knob: float, seed: int, score: Score) -> "Run":
        """A setting, a seed and what they scored."""
        return Run(
            knob=knob,
            seed=seed,
            cost=score.cost,
            cost_hourly=score.cost_hourly,
            gpu_hours=score.gpu_hours,
            start_up_share=score.start_up_share,
            attainment=score.attainment,
            worst_5min=score.worst_5min,
            ttft_ms=score.ttft_ms,
            itl_ms=score.itl_ms,
            scale_events=score.scale_events,
            scale_events_per_replica_day=score.scale_events_per_replica_day,
            wall_s=score.wall_s,
        )


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """A policy and Ebbtide at one attainment: the target, or where neither reaches it the highest that both reach."""

    attainment: float
    cost: float
    ebbtide_cost: float

    @property
    def saving(self) -> float:
        """Share of the policy's cost that Ebbtide saves; below 0 where it is dearer, by that share."""
        return 1.0 - self.ebbtide_cost / self.cost


class AsPublished(msgspec.Struct, frozen=True, kw_only=True):
    """What a rival costs and attains at the setting that its project ships, all seeds together."""

    cost: float
    attainment: float


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy: what it costs at the target attainment, and every run that this was read from.

    `knob` is the setting at the target (hindsight), or the one it was run with. `interval` bounds 95 %
    of resampled seeds (null: there is one seed, or nothing was replayed); its upper end is null where some do not
    reach the target. `…_hourly` are the same replays and attainments with every begun hour of a replica paid whole;
    null where there is none, and in files from before it was computed. `published` null: it was not run so, has no
    setting, or the file is from before that was kept.
    """

    name: str
    tuning: str
    reached: bool
    cost_at_target: float | None
    interval: tuple[float | None, float | None] | None
    over_clairvoyant: float | None
    captured: float | None
    knob: float | None
    knob_name: str | None
    versus: Versus | None
    cost_at_target_hourly: float | None = None
    versus_hourly: Versus | None = None
    published: AsPublished | None = None
    note: str
    runs: tuple[Run, ...]

    @property
    def is_rival(self) -> bool:
        """Whether it can win or lose: no bound, neither Ebbtide nor a part of it, and not held throughout."""
        return self.tuning not in (BOUND, ABLATION, DEFAULT, HELD)


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Where the load came from, and how much of it was scored."""

    trace: str
    sha256: str
    format: str
    start_s: float
    hours: float
    scale: float
    noise: int
    input_tokens: str | None
    output_tokens: str | None
    train_hours: float
    requests: tuple[int, ...]  # by seed
    peak_per_s: float  # highest whole minute of the first seed
    mean_prompt_tokens: float
    mean_output_tokens: float
    lead_in_s: float = 0.0


class FrozenOn(msgspec.Struct, frozen=True, kw_only=True):
    """The span of a trace on which frozen settings were found."""

    trace: str
    sha256: str
    start_s: float
    hours: float


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked: the replica, the objectives, the traffic, and who tuned how.

    `frozen_on` null: settings are not frozen, or the file is from before that was kept.
    """

    simulator: str
    replica: Case
    traffic: Traffic
    seeds: tuple[int, ...]
    tune: str
    capacity_per_s: float  # requests a second that one replica of several carries at the target
    frozen_on: FrozenOn | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one knob in both simulators, over all seeds."""

    name: str
    knob: float
    cost: float
    attainment: float
    other_cost: float
    other_attainment: float


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The same traffic and settings in a second simulator. `same_order_…`: share of pairs of policies, 0..1."""

    simulator: str
    policies: tuple[Compared, ...]
    same_order_by_cost: float | None
    same_order_by_attainment: float | None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of results.json. `p0` is the share of misses that no number of replicas buys."""

    case: CaseResult
    policies: tuple[PolicyResult, ...]
    p0: float
    agreement: Agreement | None
    versions: dict[str, str]
    command: str

    def policy(self, name: str) -> PolicyResult | None:
        """The policy of that name, None where it did not take part."""
        return next((one for one in self.policies if one.name == name), None)


def encode(results: Results) -> bytes:
    """JSON for people and programs: indented, keys in the order of the schema."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"


def read(path: Path) -> Results:
    """What `encode` wrote; ConfigurationError that names the file and what is wrong with it."""
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path}: it is no regular file")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}: it is no results.json of `ebbtide bench replay`: {error}") from error


def frozen_knobs(path: Path) -> dict[str, float]:
    """The knob of each policy in a results.json of training days: the setting that met the target there.

    A policy that did not reach it keeps the knob with which it came nearest.
    """
    return {one.name: one.knob for one in read(path).policies if one.knob is not None}
