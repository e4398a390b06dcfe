"""`ebbtide bench batch` behind its options: reads them, plays all, writes what it found.

Files in the output folder appear at the end, all together; what was played is kept meanwhile.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ebbtide import __version__
from ebbtide.bench import question
from ebbtide.bench.batch.load import GENERATED, Stage, stage
from ebbtide.bench.batch.pictures import costs, timeline
from ebbtide.bench.batch.report import COSTS, TIMELINE, report
from ebbtide.bench.batch.results import Results, bars, pooled
from ebbtide.bench.batch.runner import Say, compare
from ebbtide.bench.batch.scenario import DAY_S, DEFAULT, Scenario, read
from ebbtide.bench.budget.command import writable
from ebbtide.bench.budget.demand import Source, sources
from ebbtide.bench.store import cache_root
from ebbtide.clock import monotonic_s
from ebbtide.errors import ConfigurationError
from ebbtide.units import format_duration

TRACES = Path("../shared/traces")
CHAT_TRACES = (
    "azure2024_conv_sun-wed.csv",
    "sageserve_C.csv:prod",
    "servegen_m-small_week1.csv",
)
MOST_DAYS, MOST_SEEDS, MOST_JOBS = 14, 20, 64
_CYCLES_S = {"1m": 60, "2m": 120, "3m": 180, "5m": 300, "10m": 600}


class Asked(msgspec.Struct, frozen=True):
    """The question: every trace with every seed."""

    name: str
    scenario: Scenario
    stages: tuple[Stage, ...]
    seeds: int
    jobs: int


def ask(options: Mapping[str, Any]) -> Asked:
    """The question that options of the command ask; ConfigurationError names the first that is wrong."""
    o = options
    scenario = read(o["scenario"])
    days = question.count("--days", o["days"], MOST_DAYS)
    lead_in = question.count("--lead-in-days", o["lead_in_days"], MOST_DAYS)
    seeds = question.count("--seeds", o["seeds"], MOST_SEEDS)
    jobs = question.count("--jobs", o["jobs"], MOST_JOBS)
    if o["cycle"] not in _CYCLES_S:
        raise ConfigurationError(f"--cycle {o['cycle']}: {', '.join(_CYCLES_S)} are allowed")
    cycle_s = _CYCLES_S[o["cycle"]]
    found = tuple(
        stage(source, seed, scenario, days, lead_in, cycle_s)
        for source in _traces(o["traces"])
        for seed in range(1, seeds + 1)
    )
    empty = next((one for one in found if not one.jobs), None)
    if empty is not None:
        raise ConfigurationError(f"trace {empty.trace}: so little comes that no whole Job is {_share(scenario)}")
    name = DEFAULT if o["scenario"] is None else o["scenario"].name
    return Asked(name, scenario, found, seeds, jobs)


def answer(asked: Asked, out: Path, page: Path | None, command: str, say: Say, cache: Path | None = None) -> Results:
    """Plays it and writes results.json, report.md and the pictures to `out`; the report and these to `page` too."""
    begin_s, first = monotonic_s(), asked.stages[0]
    for folder in (out, *([page.parent] if page is not None else [])):
        writable(folder)
    scenes, runs = compare(asked.stages, asked.jobs, cache or cache_root(), say)
    results = Results(
        scenario=asked.name,
        days=first.days,
        lead_in_days=first.lead_in_s // DAY_S,
        cycle_s=first.cycle_s,
        seeds=asked.seeds,
        scenes=scenes,
        pooled=pooled(runs),
        bars=bars(runs, scenes),
        runs=runs,
        command=command,
        versions={"ebbtide": __version__, "python": platform.python_version()},
        wall_s=round(monotonic_s() - begin_s, 1),
    )
    pictures = {TIMELINE: timeline(results), COSTS: costs(results)}
    text = report(results, asked.scenario)
    for place in (out / "report.md", *([page] if page is not None else [])):
        for name, picture in pictures.items():
            (place.parent / name).write_text(picture, encoding="utf-8")
        place.write_text(text, encoding="utf-8")
    (out / "results.json").write_bytes(encode(results))
    say(f"{format_duration(results.wall_s)} in all")
    return results


def encode(results: Results) -> bytes:
    """As JSON, for people too."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def summary(results: Results) -> str:
    """A line a player, and the bars."""
    rows = [f"{'':<26}{'USD/M tokens':>13}{'full price':>12}{'paid anyway':>12}{'cheapest':>10}{'missed':>12}"]
    rows += [
        f"{one.player:<26}{one.per_million:>13.4f}{one.per_million_full:>12.4f}{one.paid:>12.0%}{one.cheapest:>10.0%}"
        f"{f'{one.missed} of {one.feasible}':>12}"
        for one in results.pooled
    ]
    rows.append("")
    for bar in results.bars:
        full = "" if bar.found_full is None else f" (at full price {bar.found_full:.1%})"
        full += "" if bar.found_bound is None else f"; {bar.found_bound:.1%} of the fluid bound's saving"
        verdict = "reached" if bar.reached else "missed"
        rows.append(f"{verdict:<8} {bar.name}: {bar.found:.1%}{full}, wanted {bar.wanted:.1%}")
    return "\n".join(rows)


def _traces(text: str | None) -> Sequence[Source | str]:
    """Files with commas, or a folder with traces of chat; shapes of our own where the default one is not there."""
    folder = TRACES if text is None else Path(text)
    if folder.is_dir():
        found = [name for name in CHAT_TRACES if (folder / name.partition(":")[0]).is_file()]
        if not found:
            raise ConfigurationError(f"--traces {folder}: it holds none of {', '.join(CHAT_TRACES)}")
        return sources([str(folder / name) for name in found])
    if text is None:
        return GENERATED
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigurationError("--traces: a folder or files with commas are needed")
    return sources(names)


def _share(scenario: Scenario) -> str:
    return f"{scenario.batch.token_share:.0%} of the tokens"
