"""What a comparison found, as it is written to results.json: plain data, the same for the same question."""

from collections.abc import Callable, Sequence

import msgspec

from ebbtide.bench.batch.players import APART, AT_ONCE, EBBTIDE, KNOWING, PLAYERS
from ebbtide.bench.batch.score import Score

LEAST_CHEAPER, LEAST_SAVING, LEAST_PLACED, MOST_MISSED, MOST_LOWER = 0.40, 0.85, 0.90, 0.01, 0.001


class Hour(msgspec.Struct, frozen=True, array_like=True):
    """Mean GPUs of an hour: reserved, chat's, Jobs' on what is paid for anyway, Jobs' beyond that, all paid ones."""

    reserved: float
    chat: float
    anyway: float
    beyond: float
    paid: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One player on one trace and seed."""

    trace: str
    seed: int
    score: Score
    hours: tuple[Hour, ...]


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One trace and seed: USD without batch, of the fluid bound; the share of work that could be well placed."""

    trace: str
    seed: int
    jobs: int
    feasible: int
    bill: float
    bound: float
    well_placed: float


class Pooled(msgspec.Struct, frozen=True, kw_only=True):
    """One player over all runs: sums of money over sums of tokens, shares by tokens, attainment as a mean."""

    player: str
    note: str
    per_million: float
    per_million_full: float
    paid: float
    cheapest: float
    missed: int
    feasible: int
    undone: float
    lower: float  # attainment without batch less that with it, 0..1, mean of runs
    lower_most: float  # of the worst run
    stops: int
    lost: float
    short: int


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar: what is wanted, what was found with paid-for GPUs as free and at full price; `worst` of single runs.

    `found_bound`: of what the fluid bound saves, which no plan reaches.
    """

    name: str
    wanted: float
    found: float
    found_full: float | None
    worst: float
    reached: bool
    found_bound: float | None = None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    scenario: str
    days: int
    lead_in_days: int
    cycle_s: int
    seeds: int
    scenes: tuple[Scene, ...]
    pooled: tuple[Pooled, ...]
    bars: tuple[Bar, ...]
    runs: tuple[Run, ...]
    command: str
    versions: dict[str, str]
    wall_s: float


def pooled(runs: Sequence[Run]) -> tuple[Pooled, ...]:
    """Of each player, in the order of PLAYERS."""
    found = []
    for player in PLAYERS:
        mine = [run.score for run in runs if run.score.player == player]
        if mine:
            found.append(_pooled(player, mine))
    return tuple(found)


def _pooled(player: str, mine: Sequence[Score]) -> Pooled:
    tokens = sum(one.tokens_m for one in mine) or 1.0

    def by_tokens(value: Callable[[Score], float]) -> float:
        return sum(value(one) * one.tokens_m for one in mine) / tokens

    lower = [one.attained_without - one.attained for one in mine]
    return Pooled(
        player=player,
        note=mine[0].note,
        per_million=sum(one.free for one in mine) / tokens,
        per_million_full=sum(one.full for one in mine) / tokens,
        paid=by_tokens(lambda one: one.paid),
        cheapest=by_tokens(lambda one: one.cheapest),
        missed=sum(one.missed for one in mine),
        feasible=sum(one.feasible for one in mine),
        undone=by_tokens(lambda one: one.undone),
        lower=sum(lower) / len(lower),
        lower_most=max(lower),
        stops=sum(one.stops for one in mine),
        lost=by_tokens(lambda one: one.lost),
        short=sum(one.short for one in mine),
    )


def bars(runs: Sequence[Run], scenes: Sequence[Scene]) -> tuple[Bar, ...]:
    """Ebbtide's, over all runs; `worst` is that of the run that is furthest from the bar."""
    by_scene = [
        {run.score.player: run.score for run in runs if (run.trace, run.seed) == (scene.trace, scene.seed)}
        for scene in scenes
    ]
    every = {one.player: one for one in pooled(runs)}
    own = every[EBBTIDE]
    found = [_cheaper(every, by_scene), *(_saving(base, every, by_scene, scenes) for base in (AT_ONCE, APART))]
    shares = [
        (scores[EBBTIDE].well_placed / scene.well_placed if scene.well_placed else 1.0, scores[EBBTIDE].tokens_m)
        for scores, scene in zip(by_scene, scenes, strict=True)
    ]
    placed = sum(share * tokens for share, tokens in shares) / (sum(tokens for _, tokens in shares) or 1.0)
    found.append(_bar("tokens well placed, of what could be", LEAST_PLACED, placed, min(share for share, _ in shares)))
    each = [scores[EBBTIDE].missed / max(1, scores[EBBTIDE].feasible) for scores in by_scene]
    missed = own.missed / max(1, own.feasible)
    found.append(_bar("feasible deadlines missed", MOST_MISSED, missed, max(each), most=True))
    found.append(_bar("attainment of chat lower by", MOST_LOWER, own.lower, own.lower_most, most=True))
    return tuple(found)


def _bar(name: str, wanted: float, found: float, worst: float, *, most: bool = False) -> Bar:
    reached = found <= wanted + 1e-12 if most else found >= wanted - 1e-12
    return Bar(name=name, wanted=wanted, found=found, found_full=None, worst=worst, reached=reached)


def _cheaper(every: dict[str, Pooled], by_scene: Sequence[dict[str, Score]]) -> Bar:
    def share(own: Pooled | Score, other: Pooled | Score) -> float:
        return 1.0 - own.per_million / other.per_million if other.per_million else 0.0

    own, apart = every[EBBTIDE], every[APART]
    full = 1.0 - own.per_million_full / apart.per_million_full if apart.per_million_full else 0.0
    found = share(own, apart)
    return Bar(
        name="cheaper than a separate fleet",
        wanted=LEAST_CHEAPER,
        found=found,
        found_full=full,
        worst=min(share(scores[EBBTIDE], scores[APART]) for scores in by_scene),
        reached=min(found, full) >= LEAST_CHEAPER,
    )


def _plan(scores: dict[str, Score]) -> tuple[float, float]:
    """USD for a million tokens of the clairvoyant plan, free and at full price: of whichever run is the cheapest.

    A schedule by slots need not be the best there is: whoever keeps as many deadlines for less shows that it was not.
    """
    knowing = scores[KNOWING]
    keep = [one for one in scores.values() if one.missed <= knowing.missed and one.undone <= knowing.undone + 1e-9]
    return min(one.per_million for one in keep), min(one.per_million_full for one in keep)


def _saving(base: str, every: dict[str, Pooled], by_scene: Sequence[dict[str, Score]], scenes: Sequence[Scene]) -> Bar:
    """The share of what the clairvoyant plan saves beside `base`."""

    def share(own: float, best: float, other: float) -> float:
        return (other - own) / (other - best) if other > best else float(own <= other)

    plans = [_plan(scores) for scores in by_scene]
    tokens = [scores[KNOWING].tokens_m for scores in by_scene]
    total = sum(tokens) or 1.0
    free, full = (sum(plan[way] * of for plan, of in zip(plans, tokens, strict=True)) / total for way in (0, 1))
    own, other = every[EBBTIDE], every[base]
    found = share(own.per_million, free, other.per_million)
    found_full = share(own.per_million_full, full, other.per_million_full)
    each = zip(by_scene, plans, strict=True)
    where = "at once on own GPUs" if base == AT_ONCE else "a separate fleet"
    return Bar(
        name=f"of the clairvoyant plan's saving beside {where}",
        wanted=LEAST_SAVING,
        found=found,
        found_full=found_full,
        worst=min(share(one[EBBTIDE].per_million, plan[0], one[base].per_million) for one, plan in each),
        reached=min(found, found_full) >= LEAST_SAVING,
        found_bound=share(own.per_million, sum(scene.bound for scene in scenes) / total, other.per_million),
    )
