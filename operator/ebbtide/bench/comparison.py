"""Asks every policy the same question on the same traffic and puts the answers together.

Each policy has its own search, and so have two that know the span: the clairvoyant and the best fleet of one size. All
run at once; nothing in the answer depends on which run ends first.
"""

import functools
from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from ebbtide.bench import ablations, clairvoyant
from ebbtide.bench.ablations import ABLATIONS, WHOLE
from ebbtide.bench.case import Case, ordered
from ebbtide.bench.foresight import Foresight
from ebbtide.bench.loads import Span, rates
from ebbtide.bench.pictures import Timeline
from ebbtide.bench.policy import Knob
from ebbtide.bench.preparation import Stage
from ebbtide.bench.question import Question
from ebbtide.bench.report import hours_words, nearest_runs
from ebbtide.bench.results import (
    ABLATION,
    BOUND,
    DEFAULT,
    FROZEN,
    HELD,
    HINDSIGHT,
    PUBLISHED,
    Agreement,
    AsPublished,
    Compared,
    FrozenOn,
    PolicyResult,
    Run,
    Versus,
    frozen_knobs,
    read,
)
from ebbtide.bench.roster import ALL, rivals_in
from ebbtide.bench.run import EBBTIDE, PATH
from ebbtide.bench.runner import Runner
from ebbtide.bench.score import Score
from ebbtide.bench.search import (
    Found,
    Measure,
    Trial,
    at_target,
    by_begun_hours,
    captured,
    clipped,
    found,
    frozen_knob,
    search,
    shared_attainment,
)
from ebbtide.errors import ConfigurationError

CLAIRVOYANT, BY_TABLE, STATIC, FLUID = "clairvoyant", "clairvoyant-table", "static-hindsight", "fluid"
WHOLE_FLEETS = (STATIC, "static-peak", "static-mean")  # of one size: between three replicas and four there is none
PICTURE_STEP_S = 60.0
_TOUCHING_S = 1e-3  # hours times 3600 are not always the seconds that they were


def compare(question: Question, stage: Stage, runner: Runner) -> tuple[PolicyResult, ...]:
    """Every policy's answer, those that know the span first."""
    sight = Foresight(stage, runner)
    asked: dict[str, Callable[[], Found]] = {
        CLAIRVOYANT: _foreseeing(stage, runner, CLAIRVOYANT, sight.planned),
        BY_TABLE: _foreseeing(stage, runner, BY_TABLE, sight.by_table),
        STATIC: lambda: _whole(search(_fleet_knob(stage), question.attainment, _static(stage, runner))),
    }
    frozen = frozen_settings(question)
    for name in question.policies:
        if name not in ABLATIONS:
            asked[name] = _asking(question, stage, runner, name, frozen)
    answers = _all(runner, asked)
    answers |= _without_parts(question, stage, runner, answers)
    hourly = {name: by_begun_hours(answer, question.attainment) for name, answer in answers.items()}
    rows = [_row(question, stage, name, answers, hourly) for name in answers]
    rows[0] = bounded(rows, sight.bound())
    cheapest = rows[0].cost_at_target
    if cheapest is not None:
        rows = [_over(row, cheapest, answers, question.attainment) for row in rows]
    if (fluid := _fluid(stage)) is not None:
        rows.append(_fluid_row(fluid, cheapest))
    return tuple(rows)


def bounded(rows: Sequence[PolicyResult], least: float) -> PolicyResult:
    """The clairvoyant's row, the first: who knows every arrival can do what any policy did, so none is cheaper.

    `least` is the least cost by the misses that it knows, said only where nothing that was done is cheaper.
    """
    own = rows[0]
    reaching = [one for one in rows if one.cost_at_target is not None]
    best = min(reaching, key=lambda one: one.cost_at_target or 0.0, default=own)
    note = own.note
    if best.cost_at_target is None or least <= best.cost_at_target:
        note += f"; by the misses it knows, which are chance in part, the least is {least:.2f}"
    if best is own or best.cost_at_target is None:
        return msgspec.structs.replace(own, note=note)
    found = "do not reach the target" if own.cost_at_target is None else f"cost {own.cost_at_target:.2f}"
    note += f"; its own plans {found}. What {best.name} did is cheaper, and stands in for them"
    return msgspec.structs.replace(
        own,
        note=note,
        reached=True,
        cost_at_target=best.cost_at_target,
        cost_at_target_hourly=best.cost_at_target_hourly,
        interval=best.interval,
    )


def _over(row: PolicyResult, cheapest: float, answers: dict[str, Found], target: float) -> PolicyResult:
    """With what it costs over the clairvoyant, and what it captures of what the clairvoyant saves."""
    cost, static, saved = row.cost_at_target, _cost(STATIC, answers[STATIC], target), None
    if cost is None:
        return row
    if static is not None and row.name != CLAIRVOYANT:
        saved = captured(static, cost, cheapest)
    return msgspec.structs.replace(row, over_clairvoyant=cost / cheapest, captured=saved)


def cross_check(policies: Sequence[PolicyResult], question: Question, stage: Stage, other: Runner) -> Agreement:
    """The settings found, replayed in the other simulator on the same traffic."""
    there = {STATIC, EBBTIDE, *rivals_in(other.name)}
    chosen = [(one, nearest_runs(one, question.attainment)) for one in policies if one.name in there]
    asked = {one.name: _repeat(other, stage, one.name, runs[0].knob) for one, runs in chosen}
    answers = _all(other, asked)
    compared = []
    for one, runs in chosen:
        found_there = answers[one.name].trials[0].point
        here = fmean([run.cost for run in runs]), fmean([run.attainment for run in runs])
        compared.append(
            Compared(
                name=one.name,
                knob=runs[0].knob,
                cost=here[0],
                attainment=here[1],
                other_cost=found_there.cost,
                other_attainment=found_there.attainment,
            )
        )
    return Agreement(
        simulator=other.name,
        policies=tuple(compared),
        same_order_by_cost=same_order([(one.cost, one.other_cost) for one in compared]),
        same_order_by_attainment=same_order([(one.attainment, one.other_attainment) for one in compared]),
    )


def timelines(policies: Sequence[PolicyResult], question: Question, stage: Stage, runner: Runner) -> list[Timeline]:
    """Each policy on the first seed, at its setting nearest to the target."""
    lines, sight = [], Foresight(stage, runner)
    for one in policies:
        if not one.runs:
            continue
        run = nearest_runs(one, question.attainment)[0]
        detail = f"{run.attainment:.2%} for {run.cost:.2f}" + (f" at {run.knob:.4g}" if one.knob_name else "")
        case, name, knob = _as_run(stage, one.name, run.knob, sight)(0)
        [result] = runner.results(case, stage.loads[:1], name, knob)
        lines.append(Timeline(one.name, detail, result.replicas))
    return lines


def load_picture(stage: Stage) -> list[float]:
    """Requests per second of the first seed, a value a minute."""
    return rates(stage.requests[0], stage.span.length_s, PICTURE_STEP_S)


def same_order(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Share of all pairs of items that stand in the same order by both numbers; ties count half. None below two."""
    agreeing, count = 0.0, 0
    for index, (first, first_other) in enumerate(pairs):
        for second, second_other in pairs[index + 1 :]:
            product = (first - second) * (first_other - second_other)
            agreeing += 1.0 if product > 0 else 0.5 if product == 0 else 0.0
            count += 1
    return agreeing / count if count else None


# ---- how each is asked ----


def _asking(
    question: Question, stage: Stage, runner: Runner, name: str, frozen: dict[str, float]
) -> Callable[[], Found]:
    measure, knob = _policy(stage, runner, name), None if name == EBBTIDE else ALL[name].knob
    held = knob is not None and _held(stage, name)
    if knob is None or (question.tune == HINDSIGHT and not held):
        return lambda: search(knob, question.attainment, measure)
    setting = knob.published if held or question.tune == PUBLISHED else frozen[name]
    return lambda: found([Trial(setting, tuple(measure(setting)))], question.attainment, knob.log)


def _without_parts(question: Question, stage: Stage, runner: Runner, answers: dict[str, Found]) -> dict[str, Found]:
    """Ebbtide without one of its parts, each at what the whole attains: only then can their costs be compared."""
    asked: dict[str, Callable[[], Found]] = {}
    for name in question.policies:
        if name in ABLATIONS:
            attained, measure = answers[EBBTIDE].best_attainment, _policy(stage, runner, name)
            asked[name] = functools.partial(search, ablations.TOLD, attained, measure, ablations.TRIALS)
    return _all(runner, asked)


def frozen_settings(question: Question) -> dict[str, float]:
    """Settings from training days for each rival that has one to set."""
    if question.tune != FROZEN or question.frozen is None:
        return {}
    knobs = frozen_knobs(question.frozen)
    for name in question.policies:
        if name in ALL and ALL[name].knob is not None and name not in knobs:
            raise ConfigurationError(f"--tune frozen:{question.frozen}: it has no setting of policy {name}")
    return knobs


def frozen_on(question: Question, span: Span) -> FrozenOn | None:
    """Where frozen settings come from; ConfigurationError where that is part of what is scored, which is hindsight."""
    if question.tune != FROZEN or question.frozen is None:
        return None
    there = read(question.frozen).case.traffic
    until_s, end_s = there.start_s + 3600 * there.hours, span.start_s + span.length_s
    shared_s = min(until_s, end_s) - max(there.start_s, span.start_s)
    if there.sha256 == span.sha256 and shared_s > _TOUCHING_S:
        raise ConfigurationError(
            f"--tune frozen:{question.frozen}: its settings were found on {hours_words(there.start_s, until_s)} of the "
            f"same trace, and {hours_words(span.start_s, end_s)} is scored: a file of a span that does not overlap is "
            "allowed"
        )
    return FrozenOn(trace=there.trace, sha256=there.sha256, start_s=there.start_s, hours=there.hours)


def _policy(stage: Stage, runner: Runner, name: str) -> Measure:
    return lambda knob: runner.told(name, knob, runner.scores(stage.case, stage.loads, name, knob))


def _static(stage: Stage, runner: Runner) -> Measure:
    @functools.cache  # the search comes close to a whole number from both sides
    def whole(count: int) -> tuple[Score, ...]:
        return runner.told(STATIC, count, runner.scores(ordered(stage.case, count), stage.loads, PATH, 0.0))

    return lambda replicas: whole(round(replicas))


def _whole(answer: Found) -> Found:
    """The same with the fleets that were replayed, each once, in place of the numbers between them."""
    fleets = {round(one.knob): msgspec.structs.replace(one, knob=float(round(one.knob))) for one in answer.trials}
    return msgspec.structs.replace(answer, trials=tuple(fleets.values()))


def _fleet_knob(stage: Stage) -> Knob:
    return Knob("replicas", stage.case.start_replicas, 1.0, float(stage.case.max_replicas))


def _foreseeing(stage: Stage, runner: Runner, name: str, planned: Callable[[int, float], Case]) -> Callable[[], Found]:
    def measure(caution: float) -> tuple[Score, ...]:
        found: list[Score] = []
        for index, load in enumerate(stage.loads):
            found += runner.scores(planned(index, caution), [load], PATH, 0.0)
        return runner.told(name, caution, found)

    return lambda: search(clairvoyant.CAUTION, stage.case.attainment, measure)


def _as_run(stage: Stage, name: str, knob: float, sight: Foresight) -> Callable[[int], tuple[Case, str, float]]:
    """(case, policy, knob) with which the setting `knob` of `name` was replayed for the seed of an index."""
    if name == CLAIRVOYANT:
        return lambda index: (sight.planned(index, knob), PATH, 0.0)
    if name == BY_TABLE:
        return lambda index: (sight.by_table(index, knob), PATH, 0.0)
    if name == STATIC:
        return lambda index: (ordered(stage.case, round(knob)), PATH, 0.0)
    return lambda index: (stage.case, name, knob)


def _repeat(other: Runner, stage: Stage, name: str, knob: float) -> Callable[[], Found]:
    sight = Foresight(stage, other)

    def ask() -> Found:
        scores: list[Score] = []
        for index, load in enumerate(stage.loads):
            case, policy, setting = _as_run(stage, name, knob, sight)(index)
            scores += other.scores(case, [load], policy, setting)
        return found([Trial(knob, other.told(name, knob, scores))], stage.case.attainment, log=False)

    return ask


def _all(runner: Runner, asked: dict[str, Callable[[], Found]]) -> dict[str, Found]:
    """All answers, asked at the same time, in the order of the questions."""
    return dict(zip(asked, runner.side_by_side(lambda ask: ask(), asked.values()), strict=True))


# ---- what is said of each ----


def _row(
    question: Question, stage: Stage, name: str, answers: dict[str, Found], hourly: dict[str, Found]
) -> PolicyResult:
    target, answer = question.attainment, answers[name]
    (knob, note), held = _about(stage, name), _held(stage, name)
    cost = _cost(name, answer, target)
    return PolicyResult(
        name=name,
        tuning=HELD if held else _tuning(question, name, knob),
        reached=cost is not None,
        cost_at_target=cost,
        interval=_seeds_apart(name, cost, answer) if len(stage.loads) > 1 else None,
        over_clairvoyant=None,
        captured=None,
        knob=None if knob is None else _setting(question, name, knob, answer),
        knob_name=None if knob is None else knob.name,
        versus=_versus(name, answers, target),
        cost_at_target_hourly=_cost(name, hourly[name], target),
        versus_hourly=_versus(name, hourly, target),
        published=_as_published(name, answer),
        note=f"{held}; {note}" if held else note,
        runs=tuple(
            Run.of(trial.knob, load.seed, one)
            for trial in answer.trials
            for load, one in zip(stage.loads, trial.scores, strict=True)
        ),
    )


def _seeds_apart(name: str, cost: float | None, answer: Found) -> tuple[float | None, float | None]:
    """95 % of resampled seeds; a fleet of one size costs what it costs."""
    return (cost, cost) if name in WHOLE_FLEETS and cost is not None else answer.interval


def _cost(name: str, answer: Found, attainment: float) -> float | None:
    """What the policy costs at that attainment, None where it does not reach it."""
    points = [trial.point for trial in answer.trials]
    if name in WHOLE_FLEETS:
        return min((point.cost for point in points if point.attainment >= attainment), default=None)
    way = at_target(points, attainment)
    return None if way is None else way.cost


def _as_published(name: str, answer: Found) -> AsPublished | None:
    """A search begins with the published setting, so in hindsight too it is known what that gives."""
    knob = ALL[name].knob if name in ALL else None
    if knob is None:
        return None
    points = (trial.point for trial in answer.trials if trial.knob == clipped(knob, knob.published))
    return next((AsPublished(cost=point.cost, attainment=point.attainment) for point in points), None)


def _about(stage: Stage, name: str) -> tuple[Knob | None, str]:
    if name == EBBTIDE:
        return None, "its own plan at its default, fed with the engines' metrics alone"
    if name in ABLATIONS:
        return ablations.TOLD, ablations.NOTES[name]
    if name == CLAIRVOYANT:
        note = "dynamic programme over minutes with every arrival known and a miss budget for the whole span; replayed"
        return clairvoyant.CAUTION, note
    if name == BY_TABLE:
        return clairvoyant.CAUTION, "the same with misses from the table of steady loads alone"
    if name == STATIC:
        return _fleet_knob(stage), "the fleet of one size that meets the target, chosen by who knows the span"
    return ALL[name].knob, ALL[name].note


def _held(stage: Stage, name: str) -> str:
    """Why the rival has nothing to go by in all of the span; empty where it acts."""
    rival = ALL.get(name)
    if rival is None or rival.held is None:
        return ""
    return rival.held(stage.case, stage.span.training, stage.span.length_s)


def _tuning(question: Question, name: str, knob: Knob | None) -> str:
    if name in (CLAIRVOYANT, BY_TABLE):
        return BOUND
    if name == STATIC:
        return HINDSIGHT
    if name in ABLATIONS:
        return ABLATION
    return question.tune if knob is not None else DEFAULT


def _setting(question: Question, name: str, knob: Knob, answer: Found) -> float:
    """What was run with, or what a search would freeze."""
    if len(answer.trials) == 1:
        return answer.trials[0].knob
    if name in WHOLE_FLEETS and (cost := _cost(name, answer, question.attainment)) is not None:
        return next(trial.knob for trial in answer.trials if trial.point.cost == cost)
    return frozen_knob(knob, question.attainment, answer)


def _versus(name: str, answers: dict[str, Found], target: float) -> Versus | None:
    """Against Ebbtide at the target; without a part, against the whole at what Ebbtide attains."""
    answer, own = answers[name], answers.get(WHOLE if name in ABLATIONS else EBBTIDE)
    if own is None or name in (EBBTIDE, WHOLE):
        return None
    level = answers[EBBTIDE].best_attainment if name in ABLATIONS else target
    attainment = shared_attainment(answer, own, level)
    if attainment is None:
        return None
    here, there = _cost(name, answer, attainment), _cost(EBBTIDE, own, attainment)
    if here is None or there is None:
        return None
    return Versus(attainment=attainment, cost=here, ebbtide_cost=there)


def _fluid(stage: Stage) -> float | None:
    """Mean cost over the seeds of replicas in any fraction, without start-up."""
    hours = [clairvoyant.fluid_replica_s(stage.case, requests, stage.table) for requests in stage.requests]
    known = [seconds / 3600 for seconds in hours if seconds is not None]
    per_hour = float(stage.case.gpu_hour_price) * stage.case.tensor_parallel
    return fmean(known) * per_hour if len(known) == len(hours) else None


def _fluid_row(cost: float, best: float | None) -> PolicyResult:
    return PolicyResult(
        name=FLUID,
        tuning=BOUND,
        reached=True,
        cost_at_target=cost,
        interval=None,
        over_clairvoyant=None if best is None else cost / best,
        captured=None,
        knob=None,
        knob_name=None,
        versus=None,
        note="replicas in any fraction that start for nothing, from the measured table; not replayed, only a bound",
        runs=(),
    )
