"""Durations as the API writes them, Go strings such as `500ms` and `1h30m`, and back."""

import re

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration_s(text: str) -> float:
    """`1h30m` -> 5400.0 seconds.

    Units: ms, s, m, h, d (a day is 24 h). Raises ValueError on anything else.
    """
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration: write for example 500ms, 30s, 10m or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """5400.0 -> `1h30m`; whole milliseconds below 1 s; for people, so it rounds to two units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = round(seconds)
    shown: list[str] = []
    for unit, size_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size_s)
        if count:
            shown.append(f"{count}{unit}")
    return "".join(shown[:2])
