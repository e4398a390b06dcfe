"""The two pictures of a comparison: what each policy pays for what it attains, and what it ran over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ebbtide.bench.results import PolicyResult, Results, Run
from ebbtide.bench.svg import Axis, Mark, Panel, axis, chart

_EBBTIDE, _BOUND = "#d1242f", "#24292f"
_COLOURS = (
    "#0969da", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7ea4", "#57606a", "#bc4c00",
    "#6fdd8b", "#54aeff", "#d4a72c", "#c297ff", "#ff80c8", "#76e3ea", "#afb8c1", "#ffa657",
)  # fmt: skip
_LOAD = "#ddf4ff"
_LEAST_MISSED = 1e-4
_WIDTH = 920.0


@dataclass(frozen=True)
class Timeline:
    """One run of a policy over time: (second, billed, ready) at each change, up to `end_s`."""

    name: str
    detail: str  # its knob, cost and attainment, in words
    replicas: Sequence[tuple[float, int, int]]


def colours(names: Sequence[str]) -> dict[str, str]:
    """Ebbtide red, the clairvoyant black, the rest from a fixed list in their order."""
    fixed = {"ebbtide": _EBBTIDE, "clairvoyant": _BOUND}
    others = [name for name in names if name not in fixed]
    return fixed | {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(others)}


def cost_against_attainment(results: Results) -> str:
    """One line a policy through its settings, each pooled over seeds; the target as a level. Misses on a log scale."""
    paint = colours([one.name for one in results.policies])
    lines = [(one, pooled(one)) for one in results.policies if one.runs]
    costs = [cost for _, points in lines for _, cost, _ in points] or [0.0, 1.0]
    # whoever pays several times the middle would press all others together: the edge shows that they are beyond
    most = min(max(costs), 3.0 * sorted(costs)[len(costs) // 2])
    marks = []
    for one, points in lines:
        places = [(cost, max(1.0 - attained, _LEAST_MISSED)) for _, cost, attained in points]
        label = one.name if one.reached else f"{one.name} (not reached)"
        marks.append(Mark(places, paint[one.name], "line", label=label, dashed=one.name == "clairvoyant"))
        marks.append(Mark(places, paint[one.name], "dots"))
    target = results.case.replica.attainment
    panel = Panel(
        title=f"{results.case.replica.name}: cost against attainment ({results.case.simulator})",
        x=axis(min(costs) * 0.95, most * 1.02, 7),
        y=_missed_axis([y for mark in marks for _, y in mark.points]),
        marks=marks,
        x_title="cost of the scored span",
        y_title="requests that met both objectives",
        levels=((1.0 - target, f"target {target:.2%}"),),
    )
    return chart([panel], _WIDTH, 380.0, legend=True)


def replicas_over_time(
    load_per_s: Sequence[float], step_s: float, capacity_per_s: float, timelines: Sequence[Timeline]
) -> str:
    """One panel a policy: what was billed (line) and ready (thin), over the load in replicas at capacity (area)."""
    end_h = len(load_per_s) * step_s / 3600
    load = [(number * step_s / 3600, rate / capacity_per_s) for number, rate in enumerate(load_per_s)]
    load.append((end_h, load[-1][1] if load else 0.0))
    highest = max(
        [y for _, y in load] + [float(billed) for line in timelines for _, billed, _ in line.replicas] + [1.0]
    )
    scale = axis(0.0, highest, 4)
    paint = colours([line.name for line in timelines])
    panels = []
    for line in timelines:
        billed = _held([(second / 3600, float(count)) for second, count, _ in line.replicas], end_h)
        ready = _held([(second / 3600, float(count)) for second, _, count in line.replicas], end_h)
        marks = [
            Mark(load, _LOAD, "area"),
            Mark(ready, "#8c959f", "steps", 1.0),
            Mark(billed, paint[line.name], "steps"),
        ]
        title = f"{line.name}: {line.detail}"
        panels.append(Panel(title, axis(0.0, end_h, 8, " h", tight=True), scale, marks, y_title="replicas"))
    return chart(panels, _WIDTH, 130.0)


def pooled(policy: PolicyResult) -> list[tuple[float, float, float]]:
    """(knob, mean cost, mean attainment) of each setting over its seeds, the cheapest first."""
    by_knob = sorted(policy.runs, key=lambda run: run.knob)
    groups: list[tuple[float, list[Run]]] = [
        (knob, list(runs)) for knob, runs in groupby(by_knob, lambda run: run.knob)
    ]
    points = [
        (knob, sum(run.cost for run in runs) / len(runs), sum(run.attainment for run in runs) / len(runs))
        for knob, runs in groups
    ]
    return sorted(points, key=lambda point: point[1:])


def _held(points: list[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    inside = [(min(x, end), y) for x, y in points]
    return [*inside, (end, inside[-1][1])] if inside else []


def _missed_axis(missed: Sequence[float]) -> Axis:
    """Attained shares from bottom to top, on the log scale of what is missed: 90, 99, 99.9 % at equal distances."""
    least = 10.0 ** math.floor(math.log10(min([*missed, 1e-3])))
    most = min(0.5, max([*missed, 1e-1]) * 1.05)  # who misses more stands at the edge
    shown = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-3, 1e-4)
    ticks = tuple((miss, f"{100 * (1 - miss):.10g} %") for miss in shown if least <= miss <= most)
    return Axis(most, least, ticks, log=True)
