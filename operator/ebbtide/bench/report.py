"""Writes report.md from results.json: who pays what for the same attainment, losses of Ebbtide's first of all.

Words and tables only, nothing is told here that results.json does not hold.
"""

from collections.abc import Sequence
from statistics import fmean

from ebbtide.bench import agreement
from ebbtide.bench.ablations import WHOLE
from ebbtide.bench.agreement import A_TIE
from ebbtide.bench.case import Case
from ebbtide.bench.pictures import pooled
from ebbtide.bench.results import ABLATION, PolicyResult, Results, Run
from ebbtide.bench.run import EBBTIDE
from ebbtide.units import format_duration

ATTAINMENT_PICTURE, TIME_PICTURE = "attainment.svg", "replicas.svg"


def report(results: Results) -> str:
    """The page, in Markdown; pictures are files beside it."""
    return "\n\n".join(part for part in _parts(results) if part) + "\n"


def _parts(results: Results) -> list[str]:
    case = results.case
    return [
        f"# {case.replica.name}",
        _question(results),
        "## What it costs\n\n" + _table(results),
        _verdict(results),
        "## What else it did\n\n" + guard_rails(results),
        f"![cost against attainment]({ATTAINMENT_PICTURE})",
        "## Against Ebbtide at equal attainment\n\n" + _versus(results) if _ebbtide(results) else "",
        _parts_worth(results),
        "## Replicas and load\n\n" + _time_words(results) + f"\n\n![replicas over time]({TIME_PICTURE})",
        agreement.section(results),
        _notes(results),
        _reproduce(results),
    ]


def _question(results: Results) -> str:
    case, replica, traffic = results.case, results.case.replica, results.case.traffic
    lengths = f"{traffic.mean_prompt_tokens:.0f} prompt and {traffic.mean_output_tokens:.0f} output tokens a request"
    trained = f", after {traffic.train_hours:.4g} h of training" if traffic.train_hours else ", without training"
    led = f"{format_duration(traffic.lead_in_s)} of it under Ebbtide" if traffic.lead_in_s else "Ebbtide begins cold"
    return "\n".join(
        (
            f"- **Traffic**: `{traffic.trace}` ({traffic.format}) x {traffic.scale:.4g}, "
            f"{traffic.hours:.4g} h{trained}, {led}; {_range(traffic.requests)} requests, "
            f"{traffic.peak_per_s:.4g} a second in the busiest five minutes, {lengths}.",
            f"- **Replica**: {replica.model} on {replica.system}, {replica.tensor_parallel} GPU at "
            f"{replica.gpu_hour_price} an hour each, {replica.engine.kv_tokens:,} tokens of KV cache; "
            f"ready {_range(replica.startup_s)} s after the order; "
            f"{replica.min_replicas} to {replica.max_replicas} of them; one of several carries "
            f"{case.capacity_per_s:.4g} requests/s.",
            f"- **Objective**: {_percent(replica.attainment)} of the submitted requests, over the whole span, with "
            f"time to first token at most {format_duration(replica.ttft_s)} and gap between tokens at most "
            f"{format_duration(replica.itl_s)}. {_percent(results.p0)} are missed however many replicas run.",
            f"- **Simulator** `{case.simulator}`, seeds {', '.join(map(str, case.seeds))}{_sameness(results)}; "
            f"settings: {case.tune}{_found_on(results)}.",
            *_wrong(replica),
        )
    )


def _found_on(results: Results) -> str:
    there = results.case.frozen_on
    if there is None:
        return ""
    return f", as found on `{there.trace}`, {hours_words(there.start_s, there.start_s + 3600 * there.hours)} of it"


def hours_words(begin_s: float, end_s: float) -> str:
    """`54 to 55 h`."""
    return f"{begin_s / 3600:.4g} to {end_s / 3600:.4g} h"


def _wrong(replica: Case) -> list[str]:
    words = replica.faults.words()
    if replica.metric_delay_s:
        words.insert(0, f"metrics {format_duration(replica.metric_delay_s)} late")
    if replica.declared and replica.carries is not None:
        words.insert(0, f"a replica is declared to carry {replica.carries.per_s:.4g} requests/s")
    return [f"- **What is wrong**: {'; '.join(words)}."] if words else []


def _sameness(results: Results) -> str:
    """Where no seed changes anything, the interval over seeds says nothing."""
    outcomes: dict[tuple[str, float], set[tuple[float, float]]] = {}
    for policy in results.policies:
        for run in policy.runs:
            outcomes.setdefault((policy.name, run.knob), set()).add((run.cost, run.attainment))
    differ = any(len(found) > 1 for found in outcomes.values())
    return "" if len(results.case.seeds) == 1 or differ else " (which all gave the same)"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,g}" if low == high else f"{low:,g} to {high:,g}"


def _table(results: Results) -> str:
    rows = [
        "| policy | settings | cost at the target | 95 % over seeds | over clairvoyant | captured | by begun hours "
        "| as published |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in sorted(results.policies, key=_by_cost):
        cells = (
            _name(one),
            one.tuning,
            f"{one.cost_at_target:.2f}" if one.cost_at_target is not None else "not reached",
            _interval(one.interval),
            f"{one.over_clairvoyant:.3f}" if one.over_clairvoyant is not None else "",
            f"{one.captured:.2f}" if one.captured is not None else "",
            f"{one.cost_at_target_hourly:.2f}" if one.cost_at_target_hourly is not None else "",
            as_published(one),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + (
        "\n\nBilled by the second; *by begun hours*: what the target costs by the same replays where every begun hour "
        "of a replica is paid whole. Captured: share of what the clairvoyant saves over static-hindsight. As "
        "published: cost @ attained with the setting that its project ships, whether it meets the target or not."
    )


def as_published(one: PolicyResult) -> str:
    """`14.00 @ 98.00%`; empty where that was not run or not kept."""
    return f"{one.published.cost:.2f} @ {one.published.attainment:.2%}" if one.published is not None else ""


def guard_rails(results: Results) -> str:
    """A row a policy that was replayed: what else it did, at its measured setting nearest to the target."""
    rows = [
        "| policy | attained | for | worst 5 min | p95 TTFT | p99 TTFT | p95 ITL | changes per replica-day "
        "| start-up share |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in sorted(results.policies, key=_by_cost):
        if not one.runs:
            continue
        nearest = nearest_runs(one, results.case.replica.attainment)
        worst = [run.worst_5min for run in nearest if run.worst_5min is not None]
        cells = (
            _name(one),
            f"{fmean([run.attainment for run in nearest]):.2%}",
            f"{fmean([run.cost for run in nearest]):.2f}",
            f"{min(worst):.1%}" if worst else "",
            _slowest([run.ttft_ms.p95 for run in nearest], "never came"),
            _slowest([run.ttft_ms.p99 for run in nearest], "never came"),
            _slowest([run.itl_ms.p95 for run in nearest], ""),
            f"{fmean([run.scale_events_per_replica_day for run in nearest]):.1f}",
            f"{fmean([run.start_up_share for run in nearest]):.1%}",
        )
        rows.append("| " + " | ".join(cells) + " |")
    several = ", over all seeds: five minutes and percentiles of the worst one" if len(results.case.seeds) > 1 else ""
    return "\n".join(rows) + f"\n\nAt the measured setting nearest to the target{several}."


def _slowest(values_ms: Sequence[float | None], without: str) -> str:
    """The worst seed's; `without` where one has none: the rank is among requests that got no token."""
    known = [value for value in values_ms if value is not None]
    return f"{max(known):.0f} ms" if known and len(known) == len(values_ms) else without


def _name(one: PolicyResult) -> str:
    return f"**{one.name}**" if one.name == EBBTIDE else one.name


def _by_cost(one: PolicyResult) -> tuple[bool, float]:
    return one.cost_at_target is None, one.cost_at_target or 0.0


def nearest_runs(policy: PolicyResult, target: float) -> list[Run]:
    """The runs, one a seed, of the setting that comes nearest to the target: above it if any is."""
    points = pooled(policy)
    above = [point for point in points if point[2] >= target]
    chosen = min(above, key=lambda point: point[1]) if above else max(points, key=lambda point: point[2])
    return [run for run in policy.runs if run.knob == chosen[0]]


def _interval(bounds: tuple[float | None, float | None] | None) -> str:
    if bounds is None:
        return ""
    low, high = bounds
    return f"{'' if low is None else f'{low:.2f}'} – {'not reached' if high is None else f'{high:.2f}'}"


def _ebbtide(results: Results) -> PolicyResult | None:
    return results.policy(EBBTIDE)


def _verdict(results: Results) -> str:
    """A target that is not reached, and then nothing of costs; losses; the rest."""
    own = _ebbtide(results)
    if own is None:
        return ""
    rivals = [one for one in results.policies if one.is_rival]
    if not own.reached:
        attained, target = fmean([run.attainment for run in own.runs]), results.case.replica.attainment
        reach = [one.name for one in rivals if one.reached]
        who = f"Rivals that reach it: {', '.join(reach)}." if reach else "No rival reaches it."
        return f"**Ebbtide does not reach the target**: {attained:.3%} where {_percent(target)} is asked.\n\n{who}"
    compared = sorted((one.versus.saving, one.name, one.versus) for one in rivals if one.versus is not None)
    lines = [
        f"**{name} wins here**: Ebbtide is {-saving:.1%} dearer at {versus.attainment:.2%}."
        for saving, name, versus in compared
        if saving < -A_TIE
    ]
    if not lines and compared:
        lines.append(f"No rival is cheaper at equal attainment; the nearest is {compared[0][1]}.")
    lines.append(hourly_losses(results))
    return "\n\n".join(line for line in lines if line)


def hourly_losses(results: Results) -> str:
    """Rivals that are cheaper where begun hours are paid whole; empty without any, or where that was not computed."""
    compared = sorted(
        (one.versus_hourly.saving, one.name) for one in results.policies if one.is_rival and one.versus_hourly
    )
    dearer = [f"{name} ({-saving:.1%})" for saving, name in compared if saving < -A_TIE]
    return f"Billed by begun hours, Ebbtide is dearer than {', '.join(dearer)}." if dearer else ""


def _versus(results: Results) -> str:
    rows = [
        "| policy | compared at | its cost | Ebbtide's | Ebbtide saves | by begun hours |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    others = [one for one in results.policies if one.tuning != ABLATION]
    compared = [(one, one.versus) for one in others if one.versus is not None]
    for one, versus in sorted(compared, key=lambda pair: pair[1].saving):
        hourly = "" if one.versus_hourly is None else f"{one.versus_hourly.saving:+.1%}"
        costs = f"{versus.cost:.2f} | {versus.ebbtide_cost:.2f}"
        rows.append(f"| {one.name} | {versus.attainment:.2%} | {costs} | {versus.saving:+.1%} | {hourly} |")
    alone = [one.name for one in others if one.versus is None and one.runs and one.name != EBBTIDE]
    rest = (
        f"\n\nNot compared, because either Ebbtide or they reach the target and not both: {', '.join(alone)}."
        if alone
        else ""
    )
    return "\n".join(rows) + (
        "\n\nAt the target, or where neither reaches it at the highest share that both attain." + rest
    )


def _parts_worth(results: Results) -> str:
    """What Ebbtide would cost without each of its parts, at what it attains with all of them."""
    rows = []
    for one in results.policies:
        if one.tuning != ABLATION or one.name == WHOLE:
            continue
        default = [run for run in one.runs if run.knob == 1.0]
        as_it_is = f"{fmean([run.attainment for run in default]):.3%} for {fmean([run.cost for run in default]):.2f}"
        compared = "not reached | | "
        if one.versus is not None:
            compared = f"{one.versus.cost:.2f} at {one.versus.attainment:.3%} | {one.versus.ebbtide_cost:.2f} | "
            compared += f"{one.versus.saving:+.1%}"
        rows.append(f"| {one.name.removeprefix('ebbtide-no-')} | {as_it_is} | {compared} |")
    if not rows:
        return ""
    head = "| part | without it | told otherwise | with it, likewise | the part saves |\n|---|---:|---:|---:|---:|\n"
    words = (
        "\n\nWithout a part Ebbtide attains more or less than with it. Both are told stricter or laxer objectives "
        "until they attain what Ebbtide does as it is: then their costs are compared. What saves nothing here may "
        "save elsewhere."
    )
    return "## What each part is worth\n\n" + head + "\n".join(rows) + words


def _time_words(results: Results) -> str:
    seed = results.case.seeds[0]
    return (
        f"Seed {seed}, each policy at its setting nearest to the target. Area: load in replicas at full capacity; "
        "coloured: billed; grey: ready."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.5g} %"


def _notes(results: Results) -> str:
    lines = []
    for one in results.policies:
        setting = f"{one.knob_name} = {one.knob:.4g}" if one.knob is not None and one.knob_name else "no setting"
        lines.append(f"- **{one.name}** ({setting}): {one.note or 'as published'}")
    return "## How each stands in for its original\n\n" + "\n".join(lines)


def _reproduce(results: Results) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    return f"## Reproduce\n\n```\n{results.command}\n```\n\n{versions}. Trace sha256 `{results.case.traffic.sha256}`."
