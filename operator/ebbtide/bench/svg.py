"""Draws two kinds of charts as SVG text: lines and points over numeric axes, in one panel or in several below another.

Everything is text made from numbers, without a font, a raster or a library, so that pictures of equal results are equal
byte for byte and differ readably in a review. It chooses ticks and places; it knows nothing of policies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

INK, FAINT, PAPER = "#24292f", "#d0d7de", "#ffffff"
_LEFT, _RIGHT, _TOP, _BOTTOM = 76.0, 16.0, 34.0, 42.0
_GAP = 18.0
_FONT = "font-family='system-ui,sans-serif'"

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, with labelled ticks; a log axis needs `low` above zero."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`, not beyond the panel's edge."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, 1e-12)) if self.log else value
        return min(1.0, max(0.0, (at - low) / (high - low or 1.0)))


@dataclass(frozen=True)
class Mark:
    """A series: a line through the points, steps between them, an area below, or points alone."""

    points: Sequence[Point]
    colour: str
    form: str  # line, steps, area or dots
    width: float = 1.6
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes, what is drawn in them in that order, and a title."""

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    x_title: str = ""
    y_title: str = ""
    levels: Sequence[tuple[float, str]] = field(default=())  # dashed lines across, with a word each


def axis(low: float, high: float, about: int = 5, unit: str = "", *, tight: bool = False) -> Axis:
    """A linear axis around [low, high], or from `low` to `high` sharp, with ticks at 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((number * step, f"{number * step:.10g}{unit}") for number in range(first, last + 1))
    if tight:
        return Axis(low, high, tuple(tick for tick in ticks if low <= tick[0] <= high))
    return Axis(first * step, last * step, ticks)


def chart(panels: Sequence[Panel], width: float, panel_height: float, *, legend: bool = False) -> str:
    """All panels below one another; with a legend of the labelled marks of the first on its right."""
    side = 190.0 if legend else 0.0
    inner = width - _LEFT - _RIGHT - side
    each = panel_height + _TOP + _BOTTOM
    height = each * len(panels) + _GAP
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:g}' height='{height:g}' "
        f"viewBox='0 0 {width:g} {height:g}' {_FONT} font-size='12' fill='{INK}'>",
        f"<rect width='100%' height='100%' fill='{PAPER}'/>",
    ]
    for number, panel in enumerate(panels):
        parts += _Frame(panel, _LEFT, _TOP + number * each, inner, panel_height).draw()
    if legend:
        parts += _legend(panels[0].marks, _LEFT + inner + 18, _TOP + 6)
    return "\n".join([*parts, "</svg>", ""])


def _legend(marks: Sequence[Mark], x: float, y: float) -> list[str]:
    rows = []
    for number, mark in enumerate(mark for mark in marks if mark.label):
        at = y + 17 * number
        dash = " stroke-dasharray='5 3'" if mark.dashed else ""
        rows.append(
            f"<line x1='{x:g}' x2='{x + 20:g}' y1='{at:g}' y2='{at:g}' stroke='{mark.colour}' stroke-width='3'{dash}/>"
            f"<text x='{x + 26:g}' y='{at + 4:g}'>{escape(mark.label)}</text>"
        )
    return rows


@dataclass(frozen=True)
class _Frame:
    panel: Panel
    left: float
    top: float
    width: float
    height: float

    def draw(self) -> list[str]:
        panel = self.panel
        middle = self.left + self.width / 2
        return [
            *self._grid(),
            *(self._mark(mark) for mark in panel.marks if mark.points),
            *self._levels(),
            f"<text x='{self.left:g}' y='{self.top - 12:g}' font-weight='600'>{escape(panel.title)}</text>",
            _words(panel.x_title, middle, self.top + self.height + 34, "middle"),
            f"<text transform='translate({self.left - 60:g} {self.top + self.height / 2:g}) rotate(-90)' "
            f"text-anchor='middle'>{escape(panel.y_title)}</text>",
        ]

    def _at(self, point: Point) -> tuple[float, float]:
        x = self.left + self.width * self.panel.x.share(point[0])
        return x, self.top + self.height * (1 - self.panel.y.share(point[1]))

    def _grid(self) -> list[str]:
        lines = []
        bottom, right = self.top + self.height, self.left + self.width
        for value, text in self.panel.x.ticks:
            x, _ = self._at((value, self.panel.y.low))
            lines.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{self.top:g}' y2='{bottom:g}' stroke='{FAINT}'/>")
            lines.append(_words(text, x, bottom + 16, "middle"))
        for value, text in self.panel.y.ticks:
            _, y = self._at((self.panel.x.low, value))
            lines.append(f"<line x1='{self.left:g}' x2='{right:g}' y1='{y:.1f}' y2='{y:.1f}' stroke='{FAINT}'/>")
            lines.append(_words(text, self.left - 6, y + 4, "end"))
        return lines

    def _levels(self) -> list[str]:
        lines = []
        right = self.left + self.width
        for value, text in self.panel.levels:
            _, y = self._at((self.panel.x.low, value))
            lines.append(
                f"<line x1='{self.left:g}' x2='{right:g}' y1='{y:.1f}' y2='{y:.1f}' stroke='{INK}' "
                f"stroke-dasharray='6 4'/>" + _words(text, right - 4, y - 5, "end")
            )
        return lines

    def _mark(self, mark: Mark) -> str:
        spots = [self._at(point) for point in mark.points]
        if mark.form == "dots":
            return "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.2' fill='{mark.colour}'/>" for x, y in spots)
        path = _steps(spots) if mark.form in ("steps", "area") else _line(spots)
        if mark.form == "area":
            bottom = self.top + self.height
            return f"<path d='{path}V{bottom:g}H{spots[0][0]:.1f}Z' fill='{mark.colour}' stroke='none'/>"
        dash = " stroke-dasharray='5 3'" if mark.dashed else ""
        return f"<path d='{path}' fill='none' stroke='{mark.colour}' stroke-width='{mark.width:g}'{dash}/>"


def _line(spots: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)


def _steps(spots: Sequence[Point]) -> str:
    """Each value holds until the next one's place."""
    first, *rest = spots
    return f"M{first[0]:.1f} {first[1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _words(text: str, x: float, y: float, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>" if text else ""
