"""The table of a run: one row a measure, one column a size, and the growth from each size to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Result = Mapping[str, Any]

STEPS = ("observe", "plan", "record", "remember", "act", "report")
CPU_LIMIT_S, WRITES_LIMIT, QUERIES_LIMIT = 10.0, 20.0, 12
MEMORY_LIMIT_MIB = 488.0  # 512 MB


@dataclass(frozen=True)
class Row:
    """One measure: what it is called, its value in a result, and how it is shown."""

    name: str
    value: Callable[[Result], float]
    form: str = "{:.3f}"
    grows: bool = True  # whether a growth factor says anything


def _steady(pick: Callable[[Any], float]) -> Callable[[Result], float]:
    """The middle one of the steady cycles (the lower middle of an even number)."""
    return lambda result: sorted(pick(period) for period in result["steady"])[(len(result["steady"]) - 1) // 2]


def _changed(pick: Callable[[Any], float]) -> Callable[[Result], float]:
    """The cycle of the surge that wrote most scales."""
    return lambda result: pick(max(result["surge"], key=_requests("scale")))


def _cost(step: str, what: str) -> Callable[[Any], float]:
    return lambda period: float(period["steps"].get(step, {}).get(what, 0.0))


def _requests(*kinds: str) -> Callable[[Any], float]:
    return lambda period: float(sum(period["requests"].get(kind, 0) for kind in kinds))


def _writes(result: Result) -> float:
    """Status writes, reservations of policies included, and Events a second, over the steady periods."""
    periods = result["steady"]
    written = sum(_requests("status", "event")(period) for period in periods)
    return written / sum(len(period["statuses"]) for period in periods)


def rows() -> tuple[Row, ...]:
    """All of them, in the table's order."""
    return (
        Row("steady cycle, CPU s", _steady(_cost("cycle", "cpu_s"))),
        *(Row(f"  {step}", _steady(_cost(step, "cpu_s"))) for step in STEPS),
        Row("steady cycle, wall s", _steady(_cost("cycle", "wall_s"))),
        Row("dearest of the steady cycles, CPU s", lambda result: max(map(_cost("cycle", "cpu_s"), result["steady"]))),
        Row("cycle in which 5 % change, CPU s", _changed(_cost("cycle", "cpu_s"))),
        *(Row(f"  {step}", _changed(_cost(step, "cpu_s"))) for step in STEPS),
        Row("cycle in which 5 % change, wall s", _changed(_cost("cycle", "wall_s"))),
        Row("10 s between cycles, CPU s", _steady(lambda period: float(period["between"]["cpu_s"]))),
        Row("start until caches are warm, CPU s", lambda result: float(result["start"]["cpu_s"])),
        Row("first cycle after a start, CPU s", lambda result: _cost("cycle", "cpu_s")(result["first"])),
        Row("peak memory, MiB", lambda result: float(result["peak_mib"]), "{:.0f}"),
        Row("PromQL queries a cycle", _steady(lambda period: float(period["promql"])), "{:.0f}"),
        Row("steady: gets", _steady(_requests("get", "discovery")), "{:.0f}", False),
        Row("steady: lists and watches opened", _steady(_requests("list", "watch")), "{:.0f}", False),
        Row("steady: scale writes", _steady(_requests("scale")), "{:.0f}", False),
        Row("steady: status writes", _steady(_requests("status")), "{:.0f}", False),
        Row("steady: patches of Jobs", _steady(_requests("job")), "{:.0f}", False),
        Row("steady: Events", _steady(_requests("event")), "{:.0f}", False),
        Row("steady: status writes and Events a second", _writes, "{:.1f}", False),
        Row("5 % change: scale writes", _changed(_requests("scale")), "{:.0f}"),
        Row("5 % change: status writes", _changed(_requests("status")), "{:.0f}", False),
        Row("5 % change: Events", _changed(_requests("event")), "{:.0f}", False),
    )


def cells(results: Sequence[Result]) -> list[list[str]]:
    """Rows of text: the measure, then for each size its value and, from the second on, by how much it grew.

    Of a size under policies or beside Jobs: its ratio to the same size without.
    """
    lines = []
    for row in rows():
        line = [row.name]
        for index, result in enumerate(results):
            value = row.value(result)
            line.append(row.form.format(value))
            if index:
                before = row.value(_beside(results, index))
                digits = 2 if _under(result) else 1
                line.append(f"x{value / before:.{digits}f}" if row.grows and before > 0.0 else "")
        lines.append(line)
    return lines


def columns(results: Sequence[Result]) -> list[str]:
    """`measure`, `10`, `100`, `growth` …; of a size with more `100 under 10 policies`, `without`."""
    names = ["measure"]
    for index, result in enumerate(results):
        names.append(_name(result))
        if index:
            names.append("without" if _under(result) else "growth")
    return names


def _name(result: Result) -> str:
    return f"{result['services']:,}{_under(result)}"


def _services(result: Result) -> str:
    return f"{result['services']:,} services{_under(result)}"


def _under(result: Result) -> str:
    policies = f" under {result['policies']:,} policies" if result["policies"] else ""
    return f"{policies} beside {result['jobs']:,} Jobs" if result["jobs"] else policies


def _beside(results: Sequence[Result], index: int) -> Result:
    """What a result is compared with: the size before, or with policies or Jobs the same size without."""
    result = results[index]
    without = [each for each in results[:index] if each["services"] == result["services"] and not _under(each)]
    return without[0] if _under(result) and without else results[index - 1]


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table."""
    table = Table(title="One cycle of the whole operator, by number of services")
    for index, name in enumerate(columns(results)):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for line in cells(results):
        table.add_row(*line)
    console.print(table)


def markdown(results: Sequence[Result]) -> str:
    """The same table for docs/benchmarks/cycle.md."""
    names = columns(results)
    head = f"| {' | '.join(names)} |\n|---|{'---:|' * (len(names) - 1)}\n"
    body = "".join(f"| {' | '.join(line).replace('  ', '&nbsp;&nbsp;', 1)} |\n" for line in cells(results))
    return head + body


def missed(results: Sequence[Result]) -> list[str]:
    """The targets that were not reached, in words."""
    faults = []
    for result in results:
        measures = {row.name: row.value(result) for row in rows()}
        for name, limit in (
            ("steady cycle, CPU s", CPU_LIMIT_S),
            ("cycle in which 5 % change, CPU s", CPU_LIMIT_S),
            ("peak memory, MiB", MEMORY_LIMIT_MIB),
            ("PromQL queries a cycle", QUERIES_LIMIT),
            ("steady: status writes and Events a second", WRITES_LIMIT),
        ):
            if measures[name] > limit:
                faults.append(f"{_services(result)}: {name} is {measures[name]:.1f}, at most {limit:g} wanted")
        periods = [result["first"], *result["steady"], *result["surge"]]
        broken = sorted({step for period in periods for step in period["failed"]})
        if broken:
            faults.append(f"{_services(result)}: steps failed: {', '.join(broken)}")
    return faults
