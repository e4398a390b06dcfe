"""Reads real load from CSV and JSON-lines files: requests one by one, or rates over time.

Known forms, told by their header: requests with `TIMESTAMP,ContextTokens,GeneratedTokens` (CSV) or `timestamp` in
milliseconds, `input_length`, `output_length` (JSONL); rates with `utc,rpm` (requests per minute), `t_s,rps` (requests
per second), or `t_s` and columns of prompt tokens per minute. Times start at zero. It copies nothing and keeps nothing.
"""

import csv
import math
import random
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request
from ebbtide.sim.shapes import Sampled

_FRACTION = re.compile(r"(?<=:\d\d)\.\d+")  # of the seconds
_REQUEST_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class RequestTrace(msgspec.Struct, frozen=True):
    """Requests in the order of arrival, the first at 0 s."""

    requests: tuple[Request, ...]

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return self.requests[-1].arrival_s if self.requests else 0.0


class RateTrace(msgspec.Struct, frozen=True):
    """Curves by column. `unit` is `requests` (per second) or `prompt tokens` (per second)."""

    unit: str
    columns: dict[str, Sampled]

    def shape(self, column: str | None = None, tokens_per_request: float = 1024.0) -> Sampled:
        """The curve of `column` (default: the first) in requests per second; tokens are divided by their mean."""
        name = column or next(iter(self.columns))
        if name not in self.columns:
            raise ConfigurationError(f"trace column {name!r} does not exist; there are: {', '.join(self.columns)}")
        curve = self.columns[name]
        per_request = tokens_per_request if self.unit == "prompt tokens" else 1.0
        return Sampled(tuple((t_s, value / per_request) for t_s, value in curve.points))


class _JsonRequest(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int


def read_trace(path: Path, strict: bool = False) -> RequestTrace | RateTrace:
    """The trace in `path`; ConfigurationError that names the file, the line and what was expected.

    `strict` refuses what is otherwise mended: no requests, times out of order or before zero, empty prompts or answers.
    """
    if path.exists() and not path.is_file():  # a FIFO would be waited for, without a word
        raise ConfigurationError(f"trace {path}: it is no regular file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:  # spreadsheets write a byte order mark
            if path.suffix == ".jsonl":
                return _ordered(path, _json_requests(path, lines), 1 if strict else None)
            return _read_csv(path, lines, strict)
    except OSError as error:
        raise ConfigurationError(f"trace {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"trace {path}: it is no text in UTF-8 with commas: {error}") from error


def window(requests: Iterable[Request], start_s: float, length_s: float) -> list[Request]:
    """Those that arrive within [start_s, start_s + length_s), with times from zero and new numbers."""
    inside = (r for r in requests if start_s <= r.arrival_s < start_s + length_s)
    return [Request(number, r.arrival_s - start_s, r.prompt_tokens, r.output_tokens) for number, r in enumerate(inside)]


def scaled(requests: Iterable[Request], factor: float, duration_s: float, seed: int) -> list[Request]:
    """`factor` times as many requests in [0, duration_s): whole copies turned by a random time, the rest by a draw.

    Turning keeps bursts and runs of long answers together, which drawing requests one by one would lose.
    """
    draw = random.Random(seed)
    source = list(requests)
    found: list[tuple[float, int, int]] = []
    left = factor
    while left > 0:
        turn_s = draw.uniform(0.0, duration_s) if found else 0.0
        keep = min(1.0, left)
        found += [
            ((r.arrival_s + turn_s) % duration_s, r.prompt_tokens, r.output_tokens)
            for r in source
            if keep == 1.0 or draw.random() < keep
        ]
        left -= 1.0
    return [Request(number, *parts) for number, parts in enumerate(sorted(found))]


def _read_csv(path: Path, lines: Iterable[str], strict: bool) -> RequestTrace | RateTrace:
    rows = csv.reader(lines)
    header = tuple(next(rows, []))
    if header == _REQUEST_COLUMNS:
        return _ordered(path, _csv_requests(path, rows), 2 if strict else None)
    if header == ("utc", "rpm"):
        return RateTrace("requests", {"rpm": _curve(path, rows, 1, 2, per_s=1 / 60)})
    if header == ("t_s", "rps"):
        return RateTrace("requests", {"rps": _curve(path, rows, 1, 2, per_s=1.0)})
    if len(header) > 1 and header[0] == "t_s":
        kept = list(rows)
        columns = {name: _curve(path, kept, i, len(header), per_s=1 / 60) for i, name in enumerate(header) if i}
        return RateTrace("prompt tokens", columns)
    expected = "TIMESTAMP,ContextTokens,GeneratedTokens or utc,rpm or t_s,rps or t_s and token columns"
    wrong = f"header {','.join(header)!r} is unknown" if header or any(rows) else "it is empty"
    raise ConfigurationError(f"trace {path}: {wrong}; expected {expected}")


def _csv_requests(path: Path, rows: Iterable[list[str]]) -> list[tuple[float, int, int]]:
    found = []
    for line, row in enumerate(rows, 2):
        _require_columns(path, line, row, len(_REQUEST_COLUMNS))
        try:
            found.append((_time_s(row[0]), int(row[1]), int(row[2])))
        except ValueError as error:
            raise ConfigurationError(f"trace {path} line {line}: {','.join(row)!r}: {error}") from error
    return found


def _require_columns(path: Path, line: int, row: Sequence[str], expected: int) -> None:
    if len(row) < expected:
        columns = "1 column" if len(row) == 1 else f"{len(row)} columns"
        raise ConfigurationError(
            f"trace {path} line {line}: {','.join(row)!r}: {columns}, {expected} are expected as in its header"
        )


def _json_requests(path: Path, lines: Iterable[str]) -> list[tuple[float, int, int]]:
    decoder, found = msgspec.json.Decoder(_JsonRequest), []
    for line, text in enumerate(lines, 1):
        try:
            row = decoder.decode(text)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"trace {path} line {line}: {error}") from error
        found.append((row.timestamp / 1000, row.input_length, row.output_length))
    return found


def _ordered(path: Path, found: list[tuple[float, int, int]], strict_from_line: int | None) -> RequestTrace:
    """Sorted, from zero; an empty prompt or answer counts as one token, because no engine serves less."""
    if strict_from_line is not None:
        _refuse_mended(path, found, strict_from_line)
    found.sort(key=lambda parts: parts[0])
    zero_s = found[0][0] if found else 0.0
    return RequestTrace(
        tuple(
            Request(number, t_s - zero_s, max(1, prompt), max(1, output))
            for number, (t_s, prompt, output) in enumerate(found)
        )
    )


def _refuse_mended(path: Path, found: Sequence[tuple[float, int, int]], first_line: int) -> None:
    if not found:
        raise ConfigurationError(f"trace {path}: it holds no requests")
    before_s = 0.0
    for line, (t_s, prompt, output) in enumerate(found, first_line):
        if not before_s <= t_s < math.inf:
            order = f"it is {before_s - t_s:.4g} s before the line above" if before_s > 0 else "it is before zero"
            raise ConfigurationError(f"trace {path} line {line}: time {t_s:.4f} s: {order}; times must not go back")
        if prompt < 1 or output < 1:
            lengths = f"{prompt} prompt and {output} output tokens"
            raise ConfigurationError(f"trace {path} line {line}: {lengths}: 1 or more of each are allowed")
        before_s = t_s


def _curve(path: Path, rows: Iterable[list[str]], column: int, columns: int, per_s: float) -> Sampled:
    points: list[tuple[float, float]] = []
    for line, row in enumerate(rows, 2):
        _require_columns(path, line, row, columns)
        try:
            t_s, value = _time_s(row[0]), _rate(row[column]) * per_s
        except ValueError as error:
            raise ConfigurationError(f"trace {path} line {line}: {','.join(row)!r}: {error}") from error
        if t_s < 0:
            raise ConfigurationError(f"trace {path} line {line}: time {row[0]}: it is before zero")
        if points and t_s < points[-1][0]:  # as it is written: of unix seconds six digits say little
            raise ConfigurationError(
                f"trace {path} line {line}: time {row[0]}: it is {points[-1][0] - t_s:.4g} s before the line above; "
                "times must not go back"
            )
        points.append((t_s, value))
    if not points or points[-1][0] <= points[0][0]:
        raise ConfigurationError(f"trace {path}: its {len(points)} rates cover no time: two or more, in order of time")
    zero_s = points[0][0]
    return Sampled(tuple((t_s - zero_s, value) for t_s, value in points))


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{text} is no rate: 0 or more is allowed")
    return value


def _time_s(text: str) -> float:
    """Seconds: a plain number, or a time with up to seven digits of fraction (Python keeps six), by ISO 8601.

    It is UTC where it says no offset: 2023-11-16T18:16:03.5+01:00 is 17:16:03.5.
    """
    if "-" not in text.lstrip("-"):
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no time")
        return value
    fraction = _FRACTION.search(text)
    moment = datetime.fromisoformat(_FRACTION.sub("", text))
    whole_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return whole_s + (float(fraction[0]) if fraction else 0.0)
