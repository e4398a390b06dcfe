"""What the demo says of the forecast and of capacity: numbers, how far to trust them, and where they come from."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

Status = Mapping[str, Any]

_WHOLE = ("service", "in")
_NO_SCORE = "none yet"


def forecast_table(statuses: Mapping[str, Status], title: str = "") -> Table:
    """One row a service, by name: `status` of its InferenceService. What is too wide for the terminal goes on below."""
    table = Table(title=title or None, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("service", "forecast req/s", "in", "95 % range", "in range, off by", "req/s that one replica carries"):
        table.add_column(name, no_wrap=name in _WHOLE, overflow="fold")
    for name, status in statuses.items():
        forecast = status.get("forecast")
        table.add_row(
            name,
            expected(forecast),
            f"{forecast['horizonSeconds']} s" if forecast else "-",
            span(forecast),
            score(forecast),
            capacity(status),
        )
    return table


def expected(forecast: Status | None) -> str:
    """`9.6 (level)`."""
    return f"{forecast['expected']} ({forecast['method']})" if forecast else "-"


def span(forecast: Status | None) -> str:
    """`7.1 to 12.2`, in which 95 % of what comes should lie."""
    return f"{forecast['low']} to {forecast['high']}" if forecast else "-"


def score(forecast: Status | None) -> str:
    """`94 % of 12, 6 %`: so many lay in the range, and the mean absolute error of the median over what came."""
    found = (forecast or {}).get("score")
    if not found:
        return _NO_SCORE
    inside, off = float(found["coverage"]) * 100, 2 * float(found["pinballMedian"]) * 100
    return f"{inside:.0f} % of {found['errors']}, {off:.0f} %"


def in_a_line(forecast: Status | None) -> str:
    """`9.6 (level), 95 % range 7.1 to 12.2, in range 94 % of 12, 6 % off`."""
    if not forecast:
        return "-"
    found = score(forecast)
    record = "not scored yet" if found == _NO_SCORE else f"in range {found} off"
    return f"{expected(forecast)}, 95 % range {span(forecast)}, {record}"


def capacity(status: Status) -> str:
    """`h100 2.4 (2.1 to 2.7) observed, l40s 1.1 table`."""
    known = [(row["name"], row["capacity"]) for row in status.get("variants", ()) if row.get("capacity")]
    return ", ".join(f"{name} {_carried(found)} {found['source']}" for name, found in known) or "-"


def _carried(found: Mapping[str, Any]) -> str:
    span = f" ({found['low']} to {found['high']})" if "low" in found else ""
    return f"{found['requestsPerSecond']}{span}"
