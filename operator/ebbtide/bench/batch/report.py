"""Writes report.md from what a comparison found. Words and tables only, nothing that results.json lacks."""

from collections.abc import Sequence

from ebbtide.bench.batch.players import AT_ONCE, EBBTIDE, KNOWING, LISTED
from ebbtide.bench.batch.results import Bar, Pooled, Results
from ebbtide.bench.batch.scenario import Scenario
from ebbtide.units import format_duration

TIMELINE, COSTS = "batch-timeline.svg", "batch.svg"
_HOW = """\
- Time is virtual, decisions are real: each cycle builds a snapshot of what an operator would see and asks Ebbtide's own
  `plan`, for chat's replicas and for the Jobs. A cycle is {cycle} here, where an operator takes 10 s: a Job waits that
  much longer to be started. A fake cluster binds pods, brings and releases nodes, evicts batch pods for chat's, minute
  by minute.
- Rivals decide about Jobs each minute; chat's replicas follow the run without batch, which Ebbtide decided.
- Chat is a fluid: ready replicas answer up to their capacity, what exceeds that is refused and counts as missed. A Job
  works while all its pods run (an elastic one with those that do) after loading; what is newer than its last checkpoint
  is lost when it stops.
- **Cost of batch** is the bill with it minus the bill without it on the same traffic; at full price, that and the list
  price of each GPU-hour that Jobs held of what idles without them. **Paid for anyway** is what idles in the run without
  batch; **cheapest** are the hours at the day's lowest price. A **feasible** deadline is one that a clairvoyant
  earliest-deadline plan keeps on all the GPUs there are.
- The clairvoyant plan knows chat's replicas and what each Job takes; it is placed by slots of 15 minutes and played
  like the others, so evictions and nodes that stay a while cost it too; once with paid-for GPUs as free, once with all
  at list prices. What it saves is that of the cheapest run of anybody, Ebbtide too, that keeps as many deadlines on
  that trace and seed, free and at full price each for itself. Its bound is a linear programme in which Jobs
  are divisible and nodes come and go at once: no plan that keeps the deadlines is cheaper, and none comes near it."""


def report(results: Results, scenario: Scenario) -> str:
    """The page, in Markdown; pictures are files beside it."""
    parts = [
        "# Batch beside chat",
        _setup(results, scenario),
        "## In short\n\n" + _bars(results.bars),
        _lost(results),
        "## Who runs the Jobs\n\n" + _table(results.pooled),
        f"![what a million tokens cost]({COSTS})",
        f"![GPUs by use]({TIMELINE})",
        "## By trace and seed\n\n" + _scenes(results),
        "## How it is measured\n\n" + _HOW.format(cycle=format_duration(results.cycle_s)),
        _again(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setup(results: Results, scenario: Scenario) -> str:
    spec, reserved = scenario.on_demand, scenario.reserved
    hours = ", ".join(f"{each.price} from {each.begins} to {each.ends}" for each in spec.off_peak)
    kinds = [
        f"| {kind.name} | {kind.share:.0%} | {kind.pods} x {kind.gpus_per_pod} | {kind.expected_min:g} min "
        f"| {kind.deadline_h:g} h | {kind.begins} to {kind.ends} | {_words(kind.restartable, kind.elastic)} |"
        for kind in scenario.job
    ]
    table = [
        "| Jobs | of batch tokens | pods x GPUs | expected | deadline | come | |",
        "|---|---:|---:|---:|---:|---|---|",
        *kinds,
    ]
    traces = ", ".join(dict.fromkeys(scene.trace for scene in results.scenes))
    there = f"there {format_duration(spec.lead_time_s)} after the order"
    words = (
        f"Scenario `{results.scenario}`. Chat of {scenario.chat.peak_replicas} replicas at its busiest, as in "
        f"{traces}, with seeds 1 to {results.seeds}. Jobs of {scenario.batch.token_share:.0%} of all tokens come for "
        f"{results.days} days, after {results.lead_in_days} days of chat alone. Reserved: {reserved.gpus} GPUs at "
        f"{reserved.price} USD an hour. On demand: nodes of {spec.gpus_per_node} at {spec.price}, "
        f"{hours or 'at all hours'}; {there}, gone {format_duration(spec.release_s)} after their last pod."
    )
    return words + "\n\n" + "\n".join(table)


def _words(restartable: bool, elastic: bool) -> str:
    return ("restartable" if restartable else "may not be stopped") + (", elastic" if elastic else "")


def _bars(bars: Sequence[Bar]) -> str:
    rows = [
        "| bar | wanted | found | at full price | worst run | of the fluid bound's saving | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for bar in bars:
        most = bar.wanted < 0.5 and "cheaper" not in bar.name
        rows.append(
            f"| {bar.name} | {'at most' if most else 'at least'} {_share(bar.wanted)} | {_share(bar.found)} "
            f"| {'' if bar.found_full is None else _share(bar.found_full)} | {_share(bar.worst)} "
            f"| {'' if bar.found_bound is None else _share(bar.found_bound)} "
            f"| {'reached' if bar.reached else '**missed**'} |"
        )
    return "\n".join(rows)


def _share(value: float) -> str:
    return f"{100 * value:.2f} %" if abs(value) < 0.05 else f"{100 * value:.0f} %"


def _lost(results: Results) -> str:
    """Rivals that are cheaper than Ebbtide, said first of all."""
    own = next(one for one in results.pooled if one.player == EBBTIDE)
    ours = f"{own.per_million:.4f} ({own.per_million_full:.4f}) and misses {_of(own.missed, own.feasible)}"
    better = [
        f"- **{one.player}** pays {one.per_million:.4f} USD a million tokens ({one.per_million_full:.4f} at full "
        f"price) and misses {_of(one.missed, one.feasible)} of the feasible deadlines, where Ebbtide pays {ours}."
        for one in results.pooled
        if one.player not in (EBBTIDE, KNOWING, LISTED)
        and (one.per_million < own.per_million or one.per_million_full < own.per_million_full)
    ]
    return "Cheaper than Ebbtide:\n\n" + "\n".join(better) if better else ""


def _of(count: int, of: int) -> str:
    return f"{count / max(1, of):.1%}"


def _table(found: Sequence[Pooled]) -> str:
    rows = [
        "| | USD per million tokens | at full price | paid anyway | cheapest hours | deadlines missed | stops "
        "| work lost | undone | attainment of chat lower by | chat waited |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {f'**{one.player}**' if one.player == EBBTIDE else one.player} | {one.per_million:.4f} "
        f"| {one.per_million_full:.4f} | {one.paid:.0%} | {one.cheapest:.0%} | {one.missed} of {one.feasible} "
        f"| {one.stops} | {one.lost:.1%} | {one.undone:.1%} | {100 * one.lower:.3f} points | {one.short} pod-min |"
        for one in found
    ]
    notes = [f"- **{one.player}**: {one.note}." for one in found if one.note]
    return "\n".join(rows) + "\n\n" + "\n".join(notes)


def _scenes(results: Results) -> str:
    names = [one.player for one in results.pooled]
    rows = [
        "| trace | seed | Jobs | feasible | bill without | fluid bound | could be well placed "
        f"| well placed, {EBBTIDE} | {AT_ONCE} | " + " | ".join(f"{name}, USD" for name in names) + " |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|" + "---:|" * len(names),
    ]
    for scene in results.scenes:
        scores = {
            run.score.player: run.score for run in results.runs if (run.trace, run.seed) == (scene.trace, scene.seed)
        }
        placed = [f"{scores[name].well_placed:.0%}" for name in (EBBTIDE, AT_ONCE)]
        costs = " | ".join(f"{scores[name].free:.0f} / {scores[name].full:.0f}" for name in names)
        rows.append(
            f"| {scene.trace} | {scene.seed} | {scene.jobs} | {scene.feasible} | {scene.bill:.0f} | {scene.bound:.0f} "
            f"| {scene.well_placed:.0%} | {' | '.join(placed)} | {costs} |"
        )
    return "\n".join(rows) + "\n\nCosts: paid-for GPUs as free / at full price."


def _again(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return f"## Again\n\n```\n{results.command}\n```\n\n{versions}; {format_duration(results.wall_s)} in all."
