"""`ebbtide bench budget` behind its options: reads them, runs the month, writes what it found.

Files in the output folder appear at the end, all together; what ran is kept meanwhile.
"""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ebbtide import __version__
from ebbtide.bench import question
from ebbtide.bench.budget.clerk import DAY_S
from ebbtide.bench.budget.demand import BUILT_IN, Source, members, sources
from ebbtide.bench.budget.member import MEMBERS
from ebbtide.bench.budget.pictures import attained_for_bill, money_over_time
from ebbtide.bench.budget.report import ATTAINED_PICTURE, MONEY_PICTURE, report
from ebbtide.bench.budget.results import Load, Results, Spent, UnderCeiling
from ebbtide.bench.budget.runner import ALERT, CLAIRVOYANT, Say, compare
from ebbtide.bench.budget.world import Stage
from ebbtide.bench.store import cache_root
from ebbtide.errors import ConfigurationError
from ebbtide.units import format_duration

END_S = 1_782_864_000  # 1 July 2026, 0 h UTC: the last days of June, whose 1st is a Monday, are played
MOST_DAYS, MOST_LEAD_IN_DAYS, MOST_REPLICAS, MOST_JOBS = 30, 28, 40, 64
_CYCLES_S = {"1m": 60, "2m": 120, "3m": 180, "4m": 240, "5m": 300}
_MINUTE_S, _FIVE = 60, 5


class Asked(msgspec.Struct, frozen=True):
    """The question: the month with its load, and where that is from."""

    stage: Stage
    sources: tuple[str, ...]
    seed: int
    jobs: int


def ask(options: Mapping[str, Any]) -> Asked:
    """The question that options of the command ask; ConfigurationError names the first that is wrong."""
    o = options
    days = question.count("--days", o["days"], MOST_DAYS)
    lead_in = question.count("--lead-in-days", o["lead_in_days"], MOST_LEAD_IN_DAYS)
    cycle_s = _cycle_s(o["cycle"])
    startup_s = int(question.number("--startup-s", o["startup_s"], 0, 3600, "seconds"))
    price = question.price(o["gpu_hour_price"])
    jobs = question.count("--jobs", o["jobs"], MOST_JOBS)
    peaks, traces = _peaks(o["peak_replicas"]), _traces(o["traces"])
    begin_s = END_S - days * DAY_S
    weekday = datetime.fromtimestamp(begin_s, UTC).weekday()
    found = members(traces, peaks, lead_in * DAY_S, days * DAY_S, weekday, o["seed"])
    stage = Stage(found, begin_s, END_S, lead_in * DAY_S, price, startup_s=startup_s, cycle_s=cycle_s)
    return Asked(stage, tuple(one.name for one in traces) or (BUILT_IN,) * len(MEMBERS), o["seed"], jobs)


def answer(asked: Asked, out: Path, command: str, say: Say, kept: Path | None = None) -> Results:
    """Runs it and writes results.json, report.md and the pictures to `out`. Raises what stands in the way.

    Runs are kept below `kept`, by default in the cache folder.
    """
    stage = asked.stage
    writable(out)
    alone, under = compare(stage, asked.jobs, kept or cache_root(), say)
    results = Results(
        days=stage.days,
        lead_in_days=stage.lead_in_s // DAY_S,
        seed=asked.seed,
        cycle_s=stage.cycle_s,
        startup_s=stage.startup_s,
        exit_s=stage.exit_s,
        price_per_gpu_hour=stage.price_per_hour,
        loads=_loads(asked),
        unconstrained=alone,
        ceilings=under,
        command=command,
        versions={"ebbtide": __version__, "python": platform.python_version()},
        wall_s=round(sum(one.wall_s for one in (alone, *(one for each in under for one in _ran(each)))), 1),
    )
    pictures = {ATTAINED_PICTURE: attained_for_bill(results), MONEY_PICTURE: money_over_time(results)}
    for name, text in pictures.items():
        if text:
            (out / name).write_text(text, encoding="utf-8")
    (out / "results.json").write_bytes(encode(results))
    (out / "report.md").write_text(report(results), encoding="utf-8")
    say(f"runs of {format_duration(results.wall_s)} in all")
    return results


def _ran(under: UnderCeiling) -> list[Spent]:
    """Those that were played: the alert is the run without a ceiling, the clairvoyant is no run."""
    return [one for one in under.spenders if one.spender not in (ALERT, CLAIRVOYANT)]


def encode(results: Results) -> bytes:
    """As JSON, for people too."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def summary(results: Results) -> str:
    """A line a spender and ceiling."""
    rows = [f"{'ceiling':<22}{'spender':<34}{'bill':>12}{'overrun':>11}{'used':>9}{'weighted':>10}"]
    for under in results.ceilings:
        ceiling = under.ceiling
        name = f"{ceiling.kind.value} {ceiling.share:.0%} {ceiling.amount}"
        for one in under.spenders:
            used = "" if one.used is None else f"{one.used:.2%}"
            spender = f"{one.spender} {one.setting}".strip()
            rows.append(f"{name:<22}{spender:<34}{one.cost:>12}{one.overrun:>11}{used:>9}{one.weighted:>10.2%}")
    return "\n".join(rows)


def _loads(asked: Asked) -> tuple[Load, ...]:
    found = []
    for member, source in zip(asked.stage.members, asked.sources, strict=True):
        requests = asked.stage.requests(member)
        carries = member.capacity_per_s * _MINUTE_S
        most = max(sum(requests[at : at + _FIVE]) for at in range(0, len(requests), _FIVE))
        found.append(
            Load(
                name=member.name,
                source=source,
                priority=member.priority,
                requests=sum(requests),
                capacity_per_s=member.capacity_per_s,
                needs=sum(requests) / len(requests) / carries,
                needs_most=most / _FIVE / carries,
            )
        )
    return tuple(found)


def _traces(text: str | None) -> list[Source]:
    if text is None:
        return []
    found = [part.strip() for part in text.split(",") if part.strip()]
    if len(found) != len(MEMBERS):
        names = ", ".join(member.name for member in MEMBERS)
        raise ConfigurationError(f"--traces {text}: {len(MEMBERS)} files are needed, with commas: for {names}")
    return sources(found)


def _cycle_s(text: str) -> int:
    """Whole minutes, of which an hour has a whole number."""
    if text not in _CYCLES_S:
        raise ConfigurationError(f"--cycle {text}: {', '.join(_CYCLES_S)} are allowed")
    return _CYCLES_S[text]


def _peaks(text: str) -> list[int]:
    """`10,8,6`: replicas that the busiest five minutes of each service need."""
    parts = text.split(",")
    try:
        found = [int(part) for part in parts]
    except ValueError:
        found = []
    if len(found) != len(MEMBERS) or not all(1 <= each <= MOST_REPLICAS for each in found):
        raise ConfigurationError(
            f"--peak-replicas {text}: {len(MEMBERS)} numbers of 1 to {MOST_REPLICAS} are allowed, such as 10,8,6"
        )
    return found


def writable(out: Path) -> None:
    """Makes the folder; ConfigurationError where nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"--out {out}: {error.strerror}") from error
