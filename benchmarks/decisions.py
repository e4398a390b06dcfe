"""The standard set of comparisons: `ebbtide bench replay` over classes of traffic, and one page about all of them.

    python -m benchmarks.decisions --traces ../shared/traces            # an hour and a half on 2 cores
    python -m benchmarks.decisions --quick                              # the two short cases
    python -m benchmarks.decisions --full --slice 2/8                   # a part of the whole grid, beside the others
    python -m benchmarks.decisions --held-out                           # six cases that nothing was designed with
    python -m benchmarks.decisions --frozen                             # also rivals as tuned on an earlier span
    python -m benchmarks.decisions --ablations                          # and what each part is worth
    python -m benchmarks.decisions --robustness                         # and the short cases with faults
    python -m benchmarks.decisions --only code,collapse                 # two cases, on a page below --out
    python -m benchmarks.decisions --assemble                           # runs nothing: the page of what is kept

A case whose trace is not there is skipped, and the page says so. What was computed is kept: a run that was interrupted
goes on where it was. What a case gave is also kept in docs/benchmarks/results, to be committed: the page of a part, or
of another day, has the other cases from there, each with the commit that it was run on. The page of --full is
docs/benchmarks/grid.md, that of --held-out docs/benchmarks/held-out.md. Pages of tries (--quick,
--only, --policies, --seeds) lie below --out, and results of --quick and of other policies or seeds are not kept.
"""

import argparse
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cases, closed, kept, robustness
from benchmarks.cases import SIZES, STARTUPS, Case, write_shape
from ebbtide.bench import agreement
from ebbtide.bench.question import ABLATIONS
from ebbtide.bench.report import ATTAINMENT_PICTURE, TIME_PICTURE, as_published, guard_rails, hourly_losses
from ebbtide.bench.results import ABLATION, HELD, PolicyResult, Results, read
from ebbtide.bench.run import EBBTIDE
from ebbtide.cli.bench import INTERRUPTED, STRONGEST
from ebbtide.errors import ConfigurationError
from ebbtide.units import format_duration, parse_duration_s

OUT = Path("out/decisions")
PAGE, HELD_OUT_PAGE = Path("docs/benchmarks/decisions.md"), Path("docs/benchmarks/held-out.md")
GRID_PAGE = Path("docs/benchmarks/grid.md")
QUICK_PAGE, TRIED_PAGE = "quick.md", "tried.md"  # in --out
SHAPE_DAYS = 3
UNSEEN = "Nothing was looked at with these cases while decisions were designed."
ENOUGH_REQUESTS = 20_000
GUIDE = Path("docs/bench-replay.md")
PARTS_TOO = f",{ABLATIONS}"
IN_DYNAMO = ",dynamo-planner"  # which runs nowhere else


def arguments(case: Case, trace: Path, traces: Path, policies: str, seeds: int, jobs: int, out: Path) -> list[str]:
    """What is typed after `ebbtide`."""
    own = shlex.split(case.options.format(traces=traces))
    if policies.startswith(STRONGEST) and "--simulator dynamo" in case.options:
        policies = f"{STRONGEST}{IN_DYNAMO}{policies.removeprefix(STRONGEST)}"
    if case.startups:
        own += ["--startup-file", str(trace.with_name(STARTUPS))]
    size = ["--peak-replicas", str(case.peak), "--policies", policies, "--seeds", str(seeds), "--jobs", str(jobs)]
    return ["bench", "replay", "--trace", str(trace), *own, *size, "--out", str(out)]


def span_before(case: Case, options: Sequence[str]) -> list[str] | None:
    """The same options for an earlier span, with what came before that as training; None: there is none.

    The same hours of the day before, or where no whole day precedes the span as many hours just before it:
    `--train-until 4h --hours 2` becomes `--train-until 2h --hours 2`.
    """
    found = list(options)
    at = found.index("--train-until") + 1
    if case.daily:
        found[at] = re.sub(r"^\d+(?=d)", lambda days: str(int(days[0]) - 1), found[at])
        return found
    hours = found[found.index("--hours") + 1] if "--hours" in found else "inf"
    left_s = parse_duration_s(found[at]) - 3600.0 * float(hours)
    if left_s <= 0.0:
        return None
    found[at] = format_duration(left_s)
    return found


def missing(case: Case, traces: Path) -> str | None:
    """The first file of the case that is not there."""
    wanted = re.findall(r"\{traces\}/(\S+)", case.options)
    if isinstance(case.trace, str):
        wanted.insert(0, case.trace)
    return next((name for name in wanted if not (traces / name).is_file()), None)


@dataclass(frozen=True)
class Done:
    """What became of a case: its results (tuned in hindsight, and frozen where there is a span before), or why not.

    `earlier`: another run left them. `commit` is that of the code that was run.
    """

    case: Case
    results: Results | None = None
    frozen: Results | None = None
    why_not: str = ""
    earlier: bool = False
    commit: str = ""


def trace_of(case: Case, options: argparse.Namespace) -> Path:
    """Its file, written where it is generated, start-up times that differ beside it."""
    if isinstance(case.trace, str):
        return Path(options.traces / case.trace)
    path = Path(options.out / case.name / f"{case.name}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shape(case.trace, path, SHAPE_DAYS)
    if case.startups:
        path.with_name(STARTUPS).write_text("".join(f"{seconds:g}\n" for seconds in case.startups))
    return path


def asked_under_faults(options: argparse.Namespace) -> list[tuple[str, list[str], Path]]:
    """Of each short case whose trace is there: its name, what is typed up to --out, and the folder of its faults."""
    asked = []
    for case in cases.quick():
        if missing(case, options.traces) is None:
            trace, folder = trace_of(case, options), options.out / f"{case.name}-faults"
            typed = arguments(case, trace, options.traces, robustness.POLICIES, options.seeds, options.jobs, folder)
            asked.append((case.name, typed[: typed.index("--out")], folder))
    return asked


def with_faults(options: argparse.Namespace, call: Callable[[list[str]], int]) -> list[robustness.Row]:
    """The short cases under each fault; the whole grid's first part runs them, the others show what that one left."""
    asked = asked_under_faults(options)
    if options.robustness or options.slice[0] == 1:
        return robustness.run(asked, call)
    return robustness.kept(asked)


def run(case: Case, options: argparse.Namespace, call: Callable[[list[str]], int]) -> Done:
    """Runs one case, and on an earlier span first where settings are frozen too."""
    if (name := missing(case, options.traces)) is not None:
        return Done(case, why_not=f"{name} is not in {options.traces}")
    out = options.out / case.name
    out.mkdir(parents=True, exist_ok=True)
    trace = trace_of(case, options)
    typed = arguments(case, trace, options.traces, options.policies, options.seeds, options.jobs, out)
    print(f"==> {case.name}: {case.what}", file=sys.stderr)
    if status := call(typed):
        return Done(case, why_not=f"it ended with status {status}: ebbtide {shlex.join(typed)}")
    results = read(out / "results.json")
    _keep(case.name, results, options)
    again = [word.removesuffix(PARTS_TOO) for word in typed[: typed.index("--out")]]
    peak = again.index("--peak-replicas")
    again[peak : peak + 2] = ["--scale", repr(results.case.traffic.scale)]
    earlier = span_before(case, again) if options.frozen else None
    if earlier is None:
        return Done(case, results, commit=options.commit)
    before, frozen = options.out / f"{case.name}-before", options.out / f"{case.name}-frozen"
    for more in (
        [*earlier, "--no-cross-check", "--out", str(before)],
        [*again, "--no-cross-check", "--tune", f"frozen:{before / 'results.json'}", "--out", str(frozen)],
    ):
        if status := call(more):
            why_not = f"frozen: it ended with status {status}: ebbtide {shlex.join(more)}"
            return Done(case, results, why_not=why_not, commit=options.commit)
    found = read(frozen / "results.json")
    _keep(f"{case.name}-frozen", found, options)
    return Done(case, results, found, commit=options.commit)


def _keep(name: str, results: Results, options: argparse.Namespace) -> None:
    """What the page shows of it, with the pictures of that run, to be committed; of a try nothing."""
    if not options.keeps:
        return
    kept.write(options.results, name, results, options.commit)
    folder = options.pages.parent / options.pages.stem
    for picture in (ATTAINMENT_PICTURE, TIME_PICTURE):
        if not name.endswith("-frozen"):
            _copy(options.out / name / picture, folder / f"{name}-{picture}")


def _copy(picture: Path, place: Path) -> None:
    if picture.is_file() and picture != place:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, place)


def from_other_runs(case: Case, options: argparse.Namespace, left_out: str) -> Done:
    """What another run left of a case; where none did, it was left out by the option `left_out`."""
    try:
        found, frozen = (kept.read(options.results, name) for name in (case.name, f"{case.name}-frozen"))
    except ConfigurationError as error:
        return Done(case, why_not=f"left out by {left_out}; {error}")
    if found is None:
        return Done(case, why_not=f"left out by {left_out}")
    return Done(case, found.results, frozen.results if frozen else None, earlier=True, commit=found.commit)


def adopted(case: Case, options: argparse.Namespace) -> Done:
    """What an earlier run left in --out, kept as of the commit that is given; else what is kept already."""
    file = options.out / case.name / "results.json"
    if file.is_file():
        _keep(case.name, read(file), options)
    file = options.out / f"{case.name}-frozen" / "results.json"
    if file.is_file():
        _keep(f"{case.name}-frozen", read(file), options)
    return from_other_runs(case, options, "--adopt")


def page(
    done: Sequence[Done],
    command: str,
    pictures: Path,
    faults: Sequence[robustness.Row] = (),
    guide: str = f"../{GUIDE.name}",
    about: str = "",
) -> str:
    """The page about all cases. `pictures` is where theirs lie and `guide` the command's, as seen from the page."""
    shown = [one for one in done if one.results is not None]
    parts = [
        "# Decisions: what they cost beside those of others",
        f"Written by `{command}`. Every rival has the setting that would have been right on the test span itself "
        "(hindsight), which no user can know; Ebbtide runs at its default. "
        f"[How it is measured]({guide}).",
        about,
        _limits(shown),
        _summary(shown) if shown else "No case was run.",
        _losses(shown),
        closed.section([(one.case.name, one.results) for one in shown if one.results is not None]),
        _frozen(shown),
        _parts(shown),
        robustness.table(faults),
        _earlier(done),
        _skipped(done),
        *(_case(one.case, one.results, pictures, one.commit) for one in shown if one.results is not None),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def unseen(done: Sequence[Done], named: str, changed: str) -> str:
    """What is known of cases that were held out: the commits that named them, and those that they were run on."""
    later = "" if changed == named else f", last changed by {changed}"
    lines = [f"- {one.case.name}: {f'run on {one.commit}' if one.results else 'not run'}" for one in done]
    return (
        f"{UNSEEN} They were named by commit {named}{later}. Whether decisions were changed between that and a run, or "
        "after one, the history between these commits says:\n\n" + "\n".join(lines)
    )


def rivals(results: Results) -> list[PolicyResult]:
    """Those that Ebbtide is compared with at equal attainment."""
    return [one for one in results.policies if one.is_rival]


def dearest_to_beat(results: Results) -> PolicyResult | None:
    """The rival over which Ebbtide saves least, among those that can be compared."""
    compared = [(one.versus.saving, one.name, one) for one in rivals(results) if one.versus is not None]
    return min(compared, default=(0.0, "", None))[2]


def _summary(shown: Sequence[Done]) -> str:
    rows = [
        "| case | simulator | target | Ebbtide attains | its cost | over clairvoyant | strongest rival | saved |",
        "|---|---|---:|---:|---:|---:|---|---:|",
    ]
    ratios, failed = [], 0
    for one in shown:
        assert one.results is not None
        own, rival = one.results.policy(EBBTIDE), dearest_to_beat(one.results)
        if own is None:
            continue
        attained = sum(run.attainment for run in own.runs) / len(own.runs)
        cost = sum(run.cost for run in own.runs) / len(own.runs)
        over = "not reached" if own.over_clairvoyant is None else f"{own.over_clairvoyant:.3f}"
        beside = " | "
        if not own.reached and any(other.reached for other in rivals(one.results)):
            beside, failed = "others reach it | lost", failed + 1
        elif rival is not None and rival.versus is not None:
            beside = f"{rival.name} | {rival.versus.saving:+.1%}"
            ratios.append(1.0 - rival.versus.saving)
        rows.append(
            f"| {one.case.name} | {one.results.case.simulator} | {one.results.case.replica.attainment:.4g} "
            f"| {attained:.4f} | {cost:.2f} | {over} | {beside} |"
        )
    lost = f"\n\nIn {failed} of {len(rows) - 2} cases Ebbtide misses a target that others reach." if failed else ""
    if not ratios:
        return "\n".join(rows) + lost
    mean = 1.0 - math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
    words = (
        f"Geometric mean over {len(ratios)} cases: {mean:+.1%} saved against the strongest rival of each, at the "
        "target or where neither reaches it at the highest attainment that both show. A rival that does not reach what "
        "Ebbtide reaches is none of them."
    )
    return "\n".join(rows) + lost + f"\n\n{words}"


def _limits(shown: Sequence[Done]) -> str:
    """What these cases cannot show, in one paragraph."""
    found = [(one.case, one.results.case) for one in shown if one.results is not None]
    if not found:
        return ""
    seeds, peaks = [len(result.seeds) for _, result in found], [case.peak for case, _ in found]
    simulators = [f"`{name}`" for name in sorted({result.simulator for _, result in found})]
    sizes = sorted((min(result.traffic.requests), case.name) for case, result in found)
    few = [f"{name} ({count:,})" for count, name in sizes if count < ENOUGH_REQUESTS]
    words = [
        "One seed a case, so no figure has an interval and some percent may be chance."
        if max(seeds) == 1
        else f"{_range(seeds)} seeds a case.",
        f"Costs are those of simulator {simulators[0]} alone: another only replays settings found in it."
        if len(simulators) == 1
        else f"Costs are those of the simulators {' and '.join(simulators)}, each case in one of them.",
        f"The busiest five minutes need {_range(peaks)} replicas, and each trace is played at one phase: larger "
        f"fleets ({' and '.join(map(str, SIZES))} replicas) are those of the whole grid."
        if max(peaks) < max(SIZES)
        else "",
        f"With fewer than {ENOUGH_REQUESTS:,} requests, which of them are missed is chance in part: {', '.join(few)}."
        if few
        else "",
        "" if any(one.frozen for one in shown) else "No rival's setting was found on another day and then kept.",
        "All have one pool at one price: several pools, zero replicas, lost spot nodes, budgets and batch work are in "
        "none of them.",
    ]
    return "**What these cases cannot show.** " + " ".join(word for word in words if word)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _losses(shown: Sequence[Done]) -> str:
    """Targets that are missed first; then who is cheaper, also where neither reaches the target."""
    lines = []
    for one in shown:
        own = None if one.results is None else one.results.policy(EBBTIDE)
        if own is not None and not own.reached:
            reach = [rival.name for rival in rivals(one.results) if rival.reached] if one.results else []
            who = f"reached by {', '.join(reach)}" if reach else "no rival reaches it either"
            lines.append(f"- {one.case.name}: Ebbtide does not reach the target; {who}.")
    lines += [
        f"- {one.case.name}: {-rival.versus.saving:.1%} dearer than {rival.name} at {rival.versus.attainment:.2%}"
        f"{'.' if rival.reached else ', where neither reaches the target.'}"
        for one in shown
        if one.results is not None
        for rival in rivals(one.results)
        if rival.versus is not None and rival.versus.saving < 0
    ]
    return "## Losses\n\n" + ("\n".join(lines) or "None.") if shown else ""


def _frozen(shown: Sequence[Done]) -> str:
    rows = []
    for one in shown:
        rival = None if one.frozen is None else dearest_to_beat(one.frozen)
        if rival is not None and rival.versus is not None:
            rows.append(
                f"| {one.case.name} | {rival.name} | {rival.versus.attainment:.2%} | {rival.versus.saving:+.1%} |"
            )
    head = "| case | strongest rival | compared at | Ebbtide saves |\n|---|---|---:|---:|\n"
    words = (
        "Found on the same hours of the day before, or where no day precedes the span on as many hours just before it."
    )
    return f"## Rivals with the settings of an earlier span\n\n{words}\n\n" + head + "\n".join(rows) if rows else ""


def _parts(shown: Sequence[Done]) -> str:
    """What each part of the decision saves, case by case."""
    saved: dict[str, dict[str, float]] = {}
    for one in shown:
        for policy in one.results.policies if one.results is not None else ():
            if policy.tuning == ABLATION and policy.versus is not None:
                part = policy.name.removeprefix("ebbtide-no-")
                saved.setdefault(part, {})[one.case.name] = policy.versus.saving
    if not saved:
        return ""
    cases = list(dict.fromkeys(name for row in saved.values() for name in row))
    rows = [f"| part | {' | '.join(cases)} | mean |", "|---|" + "---:|" * (len(cases) + 1)]
    for part, row in saved.items():
        mean = 1.0 - math.exp(sum(math.log(1.0 - saving) for saving in row.values()) / len(row))
        cells = [f"{row[name]:+.1%}" if name in row else "not reached" for name in cases]
        rows.append(f"| {part} | {' | '.join(cells)} | {mean:+.1%} |")
    words = (
        "What Ebbtide saves by each part of its decision, over itself without it, both told other objectives until "
        "they attain what it attains at its default. The mean is geometric."
    )
    return f"## What each part is worth\n\n{words}\n\n" + "\n".join(rows)


def _earlier(done: Sequence[Done]) -> str:
    names = [f"- {one.case.name}, commit {one.commit}" for one in done if one.earlier]
    words = "What other runs of the set left, with the code of then; each case has its command."
    return f"## From other runs\n\n{words}\n\n" + "\n".join(names) if names else ""


def _skipped(done: Sequence[Done]) -> str:
    lines = [f"- {one.case.name}: {one.why_not}" for one in done if one.why_not]
    return "## Not run\n\n" + "\n".join(lines) if lines else ""


def _case(case: Case, results: Results, pictures: Path, commit: str) -> str:
    replica, traffic = results.case.replica, results.case.traffic
    rows = [
        "| policy | cost at the target | by begun hours | over clairvoyant | captured | as published |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in sorted(results.policies, key=lambda one: (one.cost_at_target is None, one.cost_at_target or 0.0)):
        cost = "not reached" if one.cost_at_target is None else f"{one.cost_at_target:.2f}"
        hourly = "" if one.cost_at_target_hourly is None else f"{one.cost_at_target_hourly:.2f}"
        over = "" if one.over_clairvoyant is None else f"{one.over_clairvoyant:.3f}"
        captured = "" if one.captured is None else f"{one.captured:.2f}"
        held = f" ({one.note.partition(';')[0]})" if one.tuning == HELD else ""
        rows.append(f"| {one.name}{held} | {cost} | {hourly} | {over} | {captured} | {as_published(one)} |")
    told = ("\n".join(rows), hourly_losses(results), guard_rails(results), agreement.sentence(results))
    return (
        f"## {case.name}\n\n{case.what[0].upper()}{case.what[1:]}. {traffic.requests[0]:,} requests in "
        f"{traffic.hours:.3g} h, {replica.model} on {replica.system} x {replica.tensor_parallel}, start-up "
        f"{_start_up(replica.startup_s)}, first token {replica.ttft_s * 1000:g} ms, gap {replica.itl_s * 1000:g} ms; "
        f"{results.p0:.2%} cannot be bought.\n\n"
        + "\n\n".join(part for part in told if part)
        + f"\n\nRun on commit {commit}:\n\n```\n{results.command}\n```\n\n"
        f"![cost against attainment]({pictures}/{case.name}-{ATTAINMENT_PICTURE})\n\n"
        f"![replicas over time]({pictures}/{case.name}-{TIME_PICTURE})"
    )


def _start_up(seconds: Sequence[float]) -> str:
    if min(seconds) == max(seconds):
        return f"{seconds[0]:g} s"
    return f"{min(seconds):g} to {max(seconds):g} s (half of them up to {statistics.median(seconds):g} s)"


def ebbtide(typed: list[str]) -> int:
    """The command itself; its exit code."""
    status = subprocess.run([sys.executable, "-m", "ebbtide", *typed], check=False).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


def slice_of(text: str) -> tuple[int, int]:
    """`2/8`: the second of eight parts."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: a part of how many, such as 2/8")
    return int(part), int(parts)


def _options(given: list[str] | None) -> argparse.Namespace:
    """What is asked, with what follows from it: `keeps` results, of which `commit`, and where pages lie."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder of the trace files")
    which = parser.add_mutually_exclusive_group()
    for option, const, words in (
        ("--quick", cases.quick, "two short cases, one seed"),
        ("--held-out", cases.held_out, "cases that nothing was designed with"),
        ("--full", cases.grid, "the whole grid, all policies, frozen settings too"),
    ):
        which.add_argument(option, dest="chosen", action="store_const", const=const, help=words)
    parser.add_argument("--slice", type=slice_of, default=(1, 1), help="of the full grid, such as 2/8")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of cases with commas")
    parser.add_argument("--frozen", action="store_true", help="cases also with settings of an earlier span")
    parser.add_argument("--ablations", action="store_true", help="also Ebbtide without each of its parts")
    parser.add_argument("--robustness", action="store_true", help="also the short cases with faults")
    parser.add_argument("--policies", help="names with commas; by default the strongest, all of them with --full")
    parser.add_argument("--seeds", type=int, help="by default 1, and 5 with --full")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT, help="where each case's own report goes")
    parser.add_argument("--page", type=Path, help=f"by default {PAGE}, {GRID_PAGE} with --full, of a try one in --out")
    parser.add_argument("--results", type=Path, default=kept.FOLDER, help="where results are kept, to be committed")
    left = parser.add_mutually_exclusive_group()
    left.add_argument("--assemble", action="store_true", help="run nothing: the page of what is kept")
    left.add_argument("--adopt", metavar="COMMIT", help="run nothing: keep what a run on that commit left in --out")
    options = parser.parse_args(given)
    options.chosen = options.chosen or cases.standard
    names = {case.name for case in options.chosen()}
    if unknown := set(options.only or ()) - names:
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(sorted(names))}")
    _settle(options)
    return options


def _settle(options: argparse.Namespace) -> None:
    full, quick = options.chosen is cases.grid, options.chosen is cases.quick
    options.keeps = options.policies is None and options.seeds is None and not quick
    options.policies = options.policies or ("all" if full else STRONGEST)
    if options.ablations or full:
        options.policies += PARTS_TOO
    options.seeds = options.seeds or (5 if full else 1)
    options.frozen = options.frozen or full
    options.runs = not (options.assemble or options.adopt)
    options.robustness_too = options.runs and (options.robustness or full)
    options.commit = options.adopt or kept.commit_now()
    options.pages = options.page or {cases.held_out: HELD_OUT_PAGE, cases.grid: GRID_PAGE}.get(options.chosen, PAGE)
    tried = options.out / (QUICK_PAGE if quick else TRIED_PAGE)
    options.page = options.page or (tried if options.only or not options.keeps else options.pages)


def _done(case: Case, number: int, options: argparse.Namespace, call: Callable[[list[str]], int]) -> Done:
    part, parts = options.slice
    if options.assemble:
        return from_other_runs(case, options, "--assemble")
    if number % parts != part - 1:
        return from_other_runs(case, options, f"--slice {part}/{parts}")
    if options.only and case.name not in options.only:
        return from_other_runs(case, options, "--only")
    return adopted(case, options) if options.adopt else run(case, options, call)


def main(given: list[str] | None = None, call: Callable[[list[str]], int] = ebbtide) -> int:
    """Returns 1 when a case failed, or when there is nothing to write a page of."""
    options = _options(given)
    done = [_done(case, number, options, call) for number, case in enumerate(options.chosen())]
    faults = with_faults(options, call) if options.robustness_too else []
    if not faults and all(one.results is None for one in done):
        return _without_a_page(done)
    folder, committed = options.page.parent / options.page.stem, options.pages.parent / options.pages.stem
    folder.mkdir(parents=True, exist_ok=True)
    for one in done:
        for picture in (ATTAINMENT_PICTURE, TIME_PICTURE) if one.results is not None else ():
            name = f"{one.case.name}-{picture}"
            _copy(committed / name if one.earlier else options.out / one.case.name / picture, folder / name)
    words = shlex.join(["python", "-m", "benchmarks.decisions", *(sys.argv[1:] if given is None else given)])
    guide = os.path.relpath(GUIDE, options.page.parent)
    about = unseen(done, *kept.commits_of("HELD_OUT", "cases.py")) if options.chosen is cases.held_out else ""
    options.page.write_text(page(done, words, Path(options.page.stem), faults, guide, about))
    print(options.page)
    failed = any("status" in one.why_not for one in done) or any(row.status for row in faults)
    return 1 if failed else 0


def _without_a_page(done: Sequence[Done]) -> int:
    """A page about nothing would only hide one that is there."""
    for one in done:
        print(f"{one.case.name}: {one.why_not}", file=sys.stderr)
    print("no case was ever run: no page is written", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
