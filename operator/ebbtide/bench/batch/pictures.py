"""Two pictures: GPUs by use over the days, and what a million tokens cost under each player."""

from collections.abc import Sequence

from ebbtide.bench.batch.players import AT_ONCE, EBBTIDE, KNOWING
from ebbtide.bench.batch.results import Hour, Results
from ebbtide.bench.svg import Axis, Mark, Panel, axis, chart

_WIDTH = 920.0
_CHAT, _ANYWAY, _BEYOND, _PAID, _RESERVED = "#54aeff", "#2da44e", "#d1242f", "#eaeef2", "#24292f"
_DOT = "#0969da"


def timeline(results: Results) -> str:
    """The first trace and seed under Ebbtide, at once, and the clairvoyant plan."""
    first = results.scenes[0]
    shown = {run.score.player: run.hours for run in results.runs if (run.trace, run.seed) == (first.trace, first.seed)}
    chosen = [player for player in (EBBTIDE, AT_ONCE, KNOWING) if player in shown]
    top = max(max(hour.paid, hour.chat + hour.anyway + hour.beyond) for p in chosen for hour in shown[p])
    panels = [
        _panel(f"{player}: GPUs by use, {first.trace}, seed {first.seed}", shown[player], top) for player in chosen
    ]
    return chart(panels, _WIDTH, 190.0, legend=True)


def _panel(title: str, hours: Sequence[Hour], top: float) -> Panel:
    def row(values: Sequence[float]) -> list[tuple[float, float]]:
        return [*((number / 24, value) for number, value in enumerate(values)), (len(values) / 24, values[-1])]

    # each area down to the axis, the widest first: what is seen of it is its own
    marks = [
        Mark(row([h.paid for h in hours]), _PAID, "area", label="paid and idle"),
        Mark(row([h.chat + h.anyway + h.beyond for h in hours]), _BEYOND, "area", label="Jobs, paid for them"),
        Mark(row([h.chat + h.anyway for h in hours]), _ANYWAY, "area", label="Jobs, paid for anyway"),
        Mark(row([h.chat for h in hours]), _CHAT, "area", label="chat"),
        Mark(row([h.reserved for h in hours]), _RESERVED, "steps", 1.0, label="reserved", dashed=True),
    ]
    return Panel(title, axis(0.0, len(hours) / 24, 6, " d", tight=True), axis(0.0, top, 5), marks)


def costs(results: Results) -> str:
    """One panel for each way to count: a dot a run, a line for all."""
    names = [one.player for one in results.pooled]
    x = Axis(0.0, float(len(names)), tuple((number + 0.5, name) for number, name in enumerate(names)))
    ways = (
        ("USD per million batch tokens, paid-for GPUs as free", False),
        ("the same at full price", True),
    )
    panels = []
    for title, is_full in ways:
        dots = [
            (names.index(run.score.player) + 0.5, run.score.per_million_full if is_full else run.score.per_million)
            for run in results.runs
        ]
        levels = [one.per_million_full if is_full else one.per_million for one in results.pooled]
        line = [
            point for number, level in enumerate(levels) for point in ((number + 0.2, level), (number + 0.8, level))
        ]
        bars = [Mark(line[2 * n : 2 * n + 2], "#24292f", "line", 2.5) for n in range(len(levels))]
        low = min(0.0, *(value for _, value in dots))
        most = max(*(value for _, value in dots), *levels)
        panels.append(Panel(title, x, axis(low, most, 5), [*bars, Mark(dots, _DOT, "dots")]))
    return chart(panels, _WIDTH, 220.0)
