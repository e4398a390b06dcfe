"""Two pictures of a month of budgets: what each spender attains for its bill, and how the money goes over the month."""

from collections.abc import Sequence

from ebbtide.bench.budget.results import Results, Spent, UnderCeiling, cumulated
from ebbtide.bench.svg import Mark, Panel, axis, chart
from ebbtide.model.spec import CeilingKind

_COLOURS = {
    "ebbtide pacing None": "#d1242f",
    "ebbtide pacing Smooth": "#bf3989",
    "GPU quota": "#0969da",
    "alert only": "#57606a",
    "hard stop": "#9a6700",
    "clairvoyant by priority": "#24292f",
    "clairvoyant by value": "#8c959f",
}
_WIDTH = 920.0


def label(found: Spent) -> str:
    """The spender, with what tells it from its like; a quota's number is another each time."""
    return found.spender if found.spender == "GPU quota" else f"{found.spender} {found.setting}".strip()


def attained_for_bill(results: Results) -> str:
    """One panel a kind of ceiling, a line a spender through the shares, the unconstrained run as a level."""
    free, panels = results.unconstrained, []
    kinds = (CeilingKind.DAY, CeilingKind.MONTH)
    found = [one for under in results.ceilings for one in under.spenders]
    costs = [float(one.cost) for one in (*found, free)]
    attained = [100 * one.weighted for one in (*found, free)]
    for kind in kinds:
        lines: dict[str, list[tuple[float, float]]] = {}
        for under in results.ceilings:
            for one in under.spenders if under.ceiling.kind is kind else ():
                lines.setdefault(label(one), []).append((float(one.cost), 100 * one.weighted))
        marks = []
        for name, points in lines.items():
            dashed = name.startswith("clairvoyant")
            places = sorted(points)
            marks.append(Mark(places, _COLOURS.get(name, "#1a7f37"), "line", label=name, dashed=dashed))
            marks.append(Mark(places, _COLOURS.get(name, "#1a7f37"), "dots"))
        panels.append(
            Panel(
                title=f"ceilings a {kind.value.lower()}: attainment against the bill",
                x=axis(min(costs) * 0.98, max(costs) * 1.02, 7, tight=True),
                y=axis(min(attained), 100.0, 6, " %"),
                marks=marks,
                x_title=f"bill of the {results.days} days, USD",
                y_title="weighted by priority",
            )
        )
    return chart(panels, _WIDTH, 280.0, legend=True)


def money_over_time(results: Results) -> str:
    """What was spent by the end of each day under each ceiling a month that binds, and the GPUs of each hour."""
    panels = [
        panel
        for under in results.ceilings
        if under.ceiling.kind is CeilingKind.MONTH and under.binding
        for panel in (_spent_panel(under, results), *_gpus_panels(under, results))
    ]
    return chart(panels, _WIDTH, 170.0, legend=True) if panels else ""


def _spent_panel(under: UnderCeiling, results: Results) -> Panel:
    marks = []
    for one in under.spenders:
        name = label(one)
        line = [(0.0, 0.0), *((day + 1.0, total) for day, total in enumerate(cumulated(one.cost_by_day)))]
        dashed = name.startswith("clairvoyant")
        marks.append(Mark(line, _COLOURS.get(name, "#1a7f37"), "line", label=name, dashed=dashed))
    most = float(max(one.cost for one in under.spenders))
    return Panel(
        title=f"a ceiling a month at {under.ceiling.share:.0%} of the bill: spent so far, USD",
        x=axis(0.0, float(results.days), 10, " d", tight=True),
        y=axis(0.0, most, 5),
        marks=marks,
        levels=((float(under.ceiling.amount), f"{under.ceiling.amount}"),),
    )


def _gpus_panels(under: UnderCeiling, results: Results) -> list[Panel]:
    """Of Ebbtide: GPUs that are billed, over those of the unconstrained run."""
    wanted = _steps(results.unconstrained.gpus_by_hour)
    top = max(results.unconstrained.gpus_by_hour)
    panels = []
    for one in under.spenders:
        if one.spender == "ebbtide":
            marks = [
                Mark(wanted, "#ddf4ff", "area"),
                Mark(_steps(one.gpus_by_hour), _COLOURS.get(label(one), "#1a7f37"), "steps", 1.0),
            ]
            title = f"{label(one)}: GPUs, over those without a ceiling"
            panels.append(Panel(title, axis(0.0, float(results.days), 10, " d", tight=True), axis(0.0, top, 4), marks))
    return panels


def _steps(by_hour: Sequence[float]) -> list[tuple[float, float]]:
    return [*((hour / 24, gpus) for hour, gpus in enumerate(by_hour)), (len(by_hour) / 24, by_hour[-1])]
