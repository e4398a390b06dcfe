"""What Ebbtide costs when something around it goes wrong, against itself without its forecast under the same fault.

Each fault is a comparison of its own; both are told other objectives until they attain what Ebbtide attains at its
default, and then their costs are compared. The forecast may be of no use then, but must not cost more than a twentieth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebbtide.bench.results import Results, read
from ebbtide.bench.run import EBBTIDE

MOST_DEARER = 0.05
WITHOUT = "ebbtide-no-forecast"
POLICIES = f"{EBBTIDE},{WITHOUT}"
# moments are in the first minutes of the scored span, so that all of it shows the consequences
FAULTS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "a replica is declared to carry 15 % less than it does": ("--rate-factor", "0.85"),
    "a replica is declared to carry 30 % more than it does": ("--rate-factor", "1.3"),
    "metrics are 60 s late": ("--metric-delay-s", "60"),
    "no metrics for 10 minutes": ("--metrics-out", "8m:10m"),
    "the clock jumps an hour ahead": ("--clock-jump", "8m:1h"),
    "the clock jumps 10 minutes back": ("--clock-jump", "8m:-10m"),
    "all counters are reset": ("--counter-reset", "8m"),
    "the forecast is fed garbage for 10 minutes": ("--garbage", "8m:10m"),
}


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
        for number, (fault, options) in enumerate(FAULTS.items()):
            out = folder / f"fault-{number}"
            status = call([*typed, *options, "--no-cross-check", "--out", str(out)])
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
    over = [row for row in rows if (more := dearer(row)) is not None and more > MOST_DEARER]
    verdict = f"At most {MOST_DEARER:.0%} dearer in all of them."
    if over:
        verdict = f"More than {MOST_DEARER:.0%} dearer: " + "; ".join(f"{row.case}, {row.fault}" for row in over) + "."
    words = (
        "Ebbtide with its forecast and without it, under the same fault, each told other objectives until it attains "
        "what Ebbtide attains at its default."
    )
    return "\n\n".join(("## When something goes wrong", words, "\n".join(lines), verdict))


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
