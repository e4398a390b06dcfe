"""A price table: a CSV file with the columns item, per_gpu_hour, currency and, if wanted, effective_from.

    item,per_gpu_hour,currency,effective_from
    p5.48xlarge-spot,2.10,USD,
    p5.48xlarge-spot,1.95,USD,2026-12-01T00:00:00Z

Of several rows of one item the latest whose effective_from has come holds; a row without one holds from the beginning.
The file is read again when it changes. A file with a line that cannot be read has no prices at all: half a table would
show old prices for what the new half corrected.
"""

import asyncio
import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import takewhile
from pathlib import Path

from ebbtide.clock import parse_rfc3339
from ebbtide.errors import ConfigurationError
from ebbtide.model.money import Listed, PriceStep

COLUMNS = ("item", "per_gpu_hour", "currency")
MOST = Decimal(10_000)
_AHEAD_S = 62 * 86_400.0  # farther than any policy's period goes: a table may have a row an hour, for years


@dataclass(frozen=True, slots=True)
class Row:
    """From `since_s` (unix seconds) on a GPU-hour costs this."""

    since_s: float
    per_gpu_hour: Decimal
    currency: str


class Table:
    """The file at `path`; None: the operator was told of none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._rows: dict[str, tuple[Row, ...]] = {}
        self.error = "" if path else "is not there: the operator was started without --price-table"

    async def collect(self) -> None:
        """Read the file if it changed."""
        if self._path is not None:
            await asyncio.to_thread(self._read, self._path)

    def listed(self, item: str, now_s: float) -> Listed:
        """What the table says of one item at `now_s` (unix seconds), and what it will say next."""
        if self.error:
            return Listed(None, why=self.error)
        rows = self._rows.get(item, ())
        past = [row for row in rows if row.since_s <= now_s]
        if not past:
            why = f"has none that holds yet of its rows for {item!r}" if rows else f"has no row {item!r}"
            return Listed(None, why=why)
        coming = (row for row in rows if now_s < row.since_s < now_s + _AHEAD_S)
        known = takewhile(lambda row: row.currency == past[-1].currency, coming)
        steps = tuple(PriceStep(row.since_s, row.per_gpu_hour) for row in known)
        return Listed(
            past[-1].per_gpu_hour,
            past[-1].currency,
            next_at=steps[0].at_s if steps else None,
            next_per_gpu_hour=steps[0].per_gpu_hour if steps else None,
            later=steps[1:],
        )

    def _read(self, path: Path) -> None:
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            self._stamp, self._rows, self.error = stamp, {}, ""
            self._rows = parse(path.read_text(encoding="utf-8"))
        except ConfigurationError as error:
            self.error = f"cannot be read: {path.name} {error}"
        except (OSError, UnicodeDecodeError) as error:
            self._stamp, self._rows, self.error = None, {}, f"cannot be read: {error}"


def parse(text: str) -> dict[str, tuple[Row, ...]]:
    """Rows by item, in order of time. Raises ConfigurationError that names line, column, value and what is allowed."""
    reader = csv.DictReader(io.StringIO(text))
    header = tuple(name.strip() for name in reader.fieldnames or ())
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ConfigurationError(f"line 1: the column {missing[0]} is missing; needed are {', '.join(COLUMNS)}")
    found: dict[str, list[Row]] = {}
    for values in reader:
        cells = {(name or "").strip(): (value or "").strip() for name, value in values.items() if name is not None}
        item, row = _row(reader.line_num, cells, values.get(None))
        if any(row.since_s == other.since_s for other in found.setdefault(item, [])):
            raise ConfigurationError(f"line {reader.line_num}: another row of {item!r} holds from the same moment")
        found[item].append(row)
    return {item: tuple(sorted(rows, key=lambda row: row.since_s)) for item, rows in found.items()}


def _row(line: int, cells: Mapping[str, str], more: Iterable[str] | None) -> tuple[str, Row]:
    if more:
        raise ConfigurationError(f"line {line}: more cells than the header has")
    if not cells["item"]:
        raise ConfigurationError(f"line {line}: item is empty")
    try:
        amount = Decimal(cells["per_gpu_hour"])
        allowed = amount.is_finite() and 0 < amount <= MOST
    except InvalidOperation:
        allowed = False
    if not allowed:
        said = f"per_gpu_hour {cells['per_gpu_hour']!r} is not allowed"
        raise ConfigurationError(f"line {line}: {said}: must be a number above 0 and at most {MOST}")
    currency = cells["currency"]
    if len(currency) != 3 or not (currency.isascii() and currency.isalpha() and currency.isupper()):
        raise ConfigurationError(f"line {line}: currency {currency!r} is not allowed: must be three capital letters")
    try:
        since_s = parse_rfc3339(cells["effective_from"]) if cells.get("effective_from") else float("-inf")
    except ValueError as error:
        said = f"effective_from {cells['effective_from']!r} is not allowed"
        raise ConfigurationError(f"line {line}: {said}: must be RFC 3339, such as 2026-12-01T00:00:00Z") from error
    return cells["item"], Row(since_s, amount, currency)
