"""Bars over time in a terminal: hours as columns, one row a Job, windows marked. Pure: the moments are arguments."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from zoneinfo import ZoneInfo

from rich.text import Text

Spans = Sequence[tuple[float, float]]

# what one column may stand for, in seconds: 24 h in 55 columns are columns of half an hour
_CELLS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)
_TICKS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)
_HOUR_S, _DAY_S = 3600, 86_400


class Kind(Enum):
    """What a span of a row is."""

    RUNS = "runs"
    PLANNED = "planned"
    LATE = "late"


@dataclass(frozen=True)
class Span:
    """[start_s, end_s) in unix seconds."""

    start_s: float
    end_s: float
    kind: Kind


@dataclass(frozen=True)
class Row:
    """One Job; what comes later in `spans` is drawn over what comes before."""

    name: str
    spans: tuple[Span, ...] = ()
    deadline_s: float | None = None


@dataclass(frozen=True)
class _Marks:
    bars: dict[Kind, str]
    deadline: str
    window: str
    open: str  # behind bars, where a window is open
    cut: str  # the end of a name that is too long


_DRAWN = _Marks({Kind.RUNS: "█", Kind.PLANNED: "▒", Kind.LATE: "▓"}, "│", "━", "·", "…")
_TYPED = _Marks({Kind.RUNS: "#", Kind.PLANNED: "=", Kind.LATE: "!"}, "|", "-", ".", "~")
_STYLES = {Kind.RUNS: "green", Kind.PLANNED: "cyan", Kind.LATE: "red"}


class Timeline:
    """From `begin_s` to `end_s` (unix seconds; the first column is a whole one) in at most `width` columns.

    `plain`: with characters that any terminal and file has.
    """

    def __init__(
        self, begin_s: float, end_s: float, zone: ZoneInfo, width: int, names: Iterable[str], plain: bool
    ) -> None:
        self._zone, self._marks = zone, _TYPED if plain else _DRAWN
        # a third of the width at most
        self._name = min(max(map(len, ("windows", *names))), max(8, width // 3))
        room = max(4, width - self._name - 1)
        self.cell_s = next((cell_s for cell_s in _CELLS_S if end_s - begin_s <= cell_s * room), _CELLS_S[-1])
        self._begin_s = _whole(begin_s, self.cell_s, zone)
        self._count = min(room, max(1, math.ceil((end_s - self._begin_s) / self.cell_s)))

    def ruler(self) -> Text:
        """Hours above their columns; minutes too where columns are that fine."""
        # "22 " needs 3 columns, "22:10 " 6
        tick_s = next(
            (s for s in _TICKS_S if s >= self.cell_s * (3 if s % _HOUR_S == 0 else 6) and s % self.cell_s == 0), _DAY_S
        )
        form = "%H" if tick_s % _HOUR_S == 0 else "%H:%M"
        cells = [" "] * self._count
        free_from = 0
        for column in range(self._count):
            at = self._local(self._begin_s + column * self.cell_s)
            since_midnight_s = at.hour * _HOUR_S + at.minute * 60 + at.second
            label = f"{at:{form}}"
            if since_midnight_s % tick_s == 0 and free_from <= column <= self._count - len(label):
                cells[column : column + len(label)] = label
                free_from = column + len(label) + 1  # where clocks go back an hour comes twice
        return self._line("", Text("".join(cells), style="dim"))

    def windows(self, spans: Spans) -> Text:
        """When windows are open."""
        cells = [" "] * self._count
        for begin_s, end_s in spans:
            for column in self._columns(begin_s, end_s):
                cells[column] = self._marks.window
        return self._line("windows", Text("".join(cells), style="yellow"))

    def row(self, row: Row, spans: Spans = ()) -> Text:
        """One Job; `spans`: when windows are open."""
        cells = [(" ", "")] * self._count
        for begin_s, end_s in spans:
            for column in self._columns(begin_s, end_s):
                cells[column] = (self._marks.open, "dim")
        for span in row.spans:
            for column in self._columns(span.start_s, span.end_s):
                cells[column] = (self._marks.bars[span.kind], _STYLES[span.kind])
        if row.deadline_s is not None and 0 <= (column := self._column(row.deadline_s)) < self._count:
            cells[column] = (self._marks.deadline, "red")
        drawn = Text()
        for mark, style in cells:
            drawn.append(mark, style)
        return self._line(row.name, drawn)

    def legend(self, kinds: Iterable[Kind]) -> str:
        """`# runs  = planned  | deadline  - window`, and how long a column is."""
        parts = [f"{self._marks.bars[kind]} {kind.value}" for kind in Kind if kind in set(kinds)]
        column = f"{self.cell_s} s" if self.cell_s < 60 else f"{self.cell_s // 60} min"
        if self.cell_s >= _HOUR_S:
            column = f"{self.cell_s // _HOUR_S} h"
        return "  ".join(
            [*parts, f"{self._marks.deadline} deadline", f"{self._marks.window} window", f"{column} a column"]
        )

    def _line(self, name: str, drawn: Text) -> Text:
        line = Text(cut(name, self._name, self._marks.cut).ljust(self._name) + " ", no_wrap=True)
        line.append_text(drawn)
        line.rstrip()
        return line

    def _columns(self, begin_s: float, end_s: float) -> range:
        """Those that the span touches: one at least, however short it is."""
        first = self._column(begin_s)
        last = max(first, math.ceil((end_s - self._begin_s) / self.cell_s) - 1)
        return range(max(0, first), min(self._count - 1, last) + 1)

    def _column(self, at_s: float) -> int:
        return math.floor((at_s - self._begin_s) / self.cell_s)

    def _local(self, at_s: float) -> datetime:
        return datetime.fromtimestamp(at_s, UTC).astimezone(self._zone)


def cut(text: str, most: int, mark: str) -> str:
    """Its beginning, with a mark where it was longer."""
    return text if len(text) <= most else text[: most - len(mark)] + mark


def _whole(begin_s: float, cell_s: int, zone: ZoneInfo) -> float:
    """Where the column that `begin_s` is in begins, by the zone's clock."""
    offset = datetime.fromtimestamp(begin_s, UTC).astimezone(zone).utcoffset()
    offset_s = 0.0 if offset is None else offset.total_seconds()
    return math.floor((begin_s + offset_s) / cell_s) * cell_s - offset_s
