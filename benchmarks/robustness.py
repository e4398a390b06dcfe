"""What Ebbtide costs when something around it goes wrong, against itself without its forecast under the same fault.

Each fault is a comparison of its own; both are told other objectives until they attain what Ebbtide attains at its
default, and then their costs are compared. The forecast may be of no use then, but must not cost more than a twentieth.
`benchmarks.faults` runs them and writes their page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebbtide.bench.results import Results, read
from ebbtide.bench.run import EBBTIDE

MOST_DEARER = 0.05
WITHOUT = "ebbtide-no-forecast"
POLICIES = f"{EBBTIDE},{WITHOUT}"
NONE = "none"
LASTS_MINUTES = 10
# moments are in the first minutes of the scored span, so that all of it shows the consequences
FAULTS: Mapping[str, tuple[str, ...]] = {
    NONE: (),
    "a replica is declared to carry 15 % less than it does": ("--rate-factor", "0.85"),
    "a replica is declared to carry 30 % more than it does": ("--rate-factor", "1.3"),
    "metrics are 60 s late": ("--metric-delay-s", "60"),
    "no metrics for 10 minutes": ("--metrics-out", "{begins}:10m"),
    "the clock jumps an hour ahead": ("--clock-jump", "8m:1h"),
    "the clock jumps 10 minutes back": ("--clock-jump", "8m:-10m"),
    "all counters are reset": ("--counter-reset", "8m"),
    "the forecast is fed garbage for 10 minutes": ("--garbage", "{begins}:10m"),
}


def options_of(fault: str, typed: Sequence[str]) -> list[str]:
    """What is typed for a fault beside the case's own words: one that lasts begins at 8 minutes, or where it would
    outlast the span at 4.
    """
    hours = float(typed[typed.index("--hours") + 1]) if "--hours" in typed else 24.0
    begins = "8m" if 60.0 * hours >= 8 + LASTS_MINUTES else "4m"
    return [word.format(begins=begins) for word in FAULTS[fault]]


@dataclass(frozen=True)
class Row:
    """One fault in one case; `results` None: the comparison failed with `status`."""

    case: str
    fault: str
    results: Results | None
    status: int = 0


def run(cases: Sequence[tuple[str, list[str], Path]], call: Callable[[list[str]], int]) -> list[Row]:
    """Every fault in every case: (name, what is typed up to --out, folder)."""
    rows = []
    for name, typed, folder in cases:
        for number, fault in enumerate(FAULTS):
            out = folder / f"fault-{number}"
            status = call([*typed, *options_of(fault, typed), "--no-cross-check", "--out", str(out)])
            rows.append(Row(name, fault, None if status else read(out / "results.json"), status))
    return rows


def kept(cases: Sequence[tuple[str, list[str], Path]]) -> list[Row]:
    """What `run` left behind the last time, as far as it came."""
    return [
        Row(name, fault, read(file))
        for name, _, folder in cases
        for number, fault in enumerate(FAULTS)
        if (file := folder / f"fault-{number}" / "results.json").is_file()
    ]


def table(rows: Sequence[Row]) -> str:
    """The section of the page; empty without rows."""
    if not rows:
        return ""
    lines = [
        "| case | fault | Ebbtide attains | its cost | with the forecast | without, at the same attainment | dearer |",
        "|---|---|---:|---:|---:|---:|---:|",
        *map(_line, rows),
    ]
    faulty = [row for row in rows if row.fault != NONE]
    within = [row for row in faulty if (more := dearer(row)) is not None and more <= MOST_DEARER]
    verdict = f"At most {MOST_DEARER:.0%} dearer in {len(within)} of {len(faulty)}: {_faults(faulty)}."
    over = [row for row in rows if (more := dearer(row)) is not None and more > MOST_DEARER]
    if over:
        verdict += (
            f" More than {MOST_DEARER:.0%} dearer: " + "; ".join(f"{row.case}, {row.fault}" for row in over) + "."
        )
    words = (
        "Ebbtide with its forecast and without it, under the same fault, each told other objectives until it attains "
        "what Ebbtide attains at its default."
    )
    return "\n\n".join(("## When something goes wrong", words, "\n".join(lines), verdict))


def _faults(rows: Sequence[Row]) -> str:
    """`8 faults in each of 2 cases`, or what a run that was broken off has of them."""
    cases, faults = {row.case for row in rows}, {row.fault for row in rows}
    each = "each of " if len(rows) == len(cases) * len(faults) else ""
    return f"{len(faults)} faults in {each}{len(cases)} cases"


def dearer(row: Row) -> float | None:
    """How much more Ebbtide costs with its forecast than without, as a share; None where that is not comparable."""
    without = None if row.results is None else row.results.policy(WITHOUT)
    if without is None or without.versus is None:
        return None
    return without.versus.ebbtide_cost / without.versus.cost - 1.0


def _line(row: Row) -> str:
    own = None if row.results is None else row.results.policy(EBBTIDE)
    if row.results is None or own is None:
        return f"| {row.case} | {row.fault} | it ended with status {row.status} | | | | |"
    attained = sum(run.attainment for run in own.runs) / len(own.runs)
    cost = sum(run.cost for run in own.runs) / len(own.runs)
    without = row.results.policy(WITHOUT)
    more = dearer(row)
    if more is None or without is None or without.versus is None:
        return f"| {row.case} | {row.fault} | {attained:.3%} | {cost:.2f} | | not comparable | |"
    at = "" if abs(without.versus.attainment - attained) < 5e-6 else f" at {without.versus.attainment:.3%}"
    costs = f"{without.versus.ebbtide_cost:.2f} | {without.versus.cost:.2f}{at}"
    return f"| {row.case} | {row.fault} | {attained:.3%} | {cost:.2f} | {costs} | {more:+.1%} |"
