"""What a comparison is asked: the options of `ebbtide bench replay`, read and checked before anything runs.

Every refusal is a ConfigurationError of one line that names the option, its value and what is allowed.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, overload

import msgspec

from ebbtide.bench.ablations import ABLATIONS as PARTS_OFF
from ebbtide.bench.ablations import WHOLE
from ebbtide.bench.faults import Faults
from ebbtide.bench.results import FROZEN, HINDSIGHT, PUBLISHED
from ebbtide.bench.roster import rivals_in
from ebbtide.bench.run import EBBTIDE
from ebbtide.bench.simulators import place_of
from ebbtide.errors import ConfigurationError
from ebbtide.units import parse_duration_s

MOST_PRICE = Decimal(10_000)  # as in a GPUPool, and so is its form
_PRICE, _PRICE_LENGTH = re.compile(r"[0-9]+(\.[0-9]+)?"), 16
FORMATS = ("mooncake", "tokens", "rate")
ALL, ABLATIONS = "all", "ablations"
CONSTANT_STARTUP = ("dynamo",)  # simulators in which every start takes as long


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: which traffic, on which replica, with which objectives, between whom.

    Seconds of `start_s` and `train_until_s` count from the first of the trace; what is scored begins at `start_s`, by
    default where training ends, and lasts `hours`, by default to the trace's end. Ebbtide has run the service for the
    last `lead_in_s` of training. A replica's KV cache has `kv_blocks` of 64 tokens. `attainment` is 0..1. `frozen` is
    the results.json of training days from which settings are taken where `tune` is frozen.
    """

    simulator: str
    trace: Path
    format: str | None
    column: str | None
    start_s: float | None
    hours: float | None
    train_until_s: float | None
    lead_in_s: float
    scale: float | None
    peak_replicas: int | None
    max_replicas: int | None
    noise: int
    input_tokens: str | None
    output_tokens: str | None
    model: str
    system: str
    tensor_parallel: int
    kv_blocks: int
    gpu_hour_price: Decimal
    ttft_s: float
    itl_s: float
    attainment: float
    startup_s: tuple[float, ...]
    metric_delay_s: float
    rate_factor: float | None
    faults: Faults
    policies: tuple[str, ...]
    tune: str
    frozen: Path | None
    seeds: tuple[int, ...]


def simulator_named(name: str) -> str:
    """`name`, if there is such a simulator."""
    place_of(name)
    return name


def policies_named(text: str, simulator: str) -> tuple[str, ...]:
    """`ebbtide,schedule` -> both. Each once, in order.

    `all` stands for Ebbtide and every rival that the simulator can run, `ablations` for Ebbtide without each part of
    its decision; with one of those, Ebbtide itself and the whole that it is held against take part too.
    """
    known = (EBBTIDE, *rivals_in(simulator))
    groups = {ALL: known, ABLATIONS: (EBBTIDE, *PARTS_OFF)}
    asked = [part.strip() for part in text.split(",") if part.strip()]
    names = tuple(dict.fromkeys(name for part in asked for name in groups.get(part, (part,))))
    if any(name in PARTS_OFF for name in names):
        names = tuple(dict.fromkeys((EBBTIDE, WHOLE, *names)))
    for name in names:
        if name not in (*known, *PARTS_OFF):
            raise ConfigurationError(
                f"--policies {name}: simulator {simulator} has no such policy; it has: {', '.join((*known, ABLATIONS))}"
            )
    if not names:
        raise ConfigurationError(f"--policies {text!r}: at least one is needed, of: {', '.join(known)}")
    return names


def tuning(text: str) -> tuple[str, Path | None]:
    """`hindsight`, `published`, or `frozen:FILE` with the results.json of training days."""
    kind, _, file = text.partition(":")
    if kind == FROZEN and file:
        return FROZEN, Path(file)
    if text not in (HINDSIGHT, PUBLISHED):
        allowed = f"{HINDSIGHT}, {PUBLISHED} or {FROZEN}:FILE, a results.json of training days"
        raise ConfigurationError(f"--tune {text}: allowed are {allowed}")
    return text, None


def price(text: str) -> Decimal:
    """A price as a GPUPool takes it: above zero, at most MOST_PRICE, in digits with a point."""
    if not (_PRICE.fullmatch(text) and len(text) <= _PRICE_LENGTH and 0 < Decimal(text) <= MOST_PRICE):
        raise ConfigurationError(
            f"--gpu-hour-price {text}: a price above 0 and at most {MOST_PRICE} is allowed, such as 2.50"
        )
    return Decimal(text)


@overload
def number(option: str, value: float, low: float, high: float, unit: str) -> float: ...
@overload
def number(option: str, value: None, low: float, high: float, unit: str) -> None: ...
def number(option: str, value: float | None, low: float, high: float, unit: str) -> float | None:
    """`value`, if it is above `low` and at most `high`; None stays None."""
    if value is not None and not (math.isfinite(value) and low < value <= high):
        raise ConfigurationError(f"{option} {value:g}: above {low:g} and at most {high:g} {unit} is allowed")
    return value


@overload
def count(option: str, value: int, most: int) -> int: ...
@overload
def count(option: str, value: None, most: int) -> None: ...
def count(option: str, value: int | None, most: int) -> int | None:
    """`value`, if it is from 1 to `most`; None stays None."""
    if value is not None and not 1 <= value <= most:
        raise ConfigurationError(f"{option} {value}: 1 to {most} is allowed")
    return value


def one_of(option: str, value: Any, allowed: Sequence[Any]) -> Any:
    """`value`, if it is among `allowed`; None stays None."""
    if value is not None and value not in allowed:
        raise ConfigurationError(f"{option} {value}: allowed are {', '.join(map(str, allowed))}")
    return value


def at_least_zero(option: str, value: float, high: float, unit: str) -> float:
    """`value`, if it is 0 to `high`."""
    if not 0 <= value <= high:
        raise ConfigurationError(f"{option} {value:g}: 0 to {high:g} {unit} is allowed")
    return value


def share(percent: float) -> float:
    """Percent of requests that must meet the objectives, as a share; 100 cannot be promised, and 0.99 is no percent."""
    if not 1 < percent < 100:
        meant = f"; a share of {percent:g} is written {100 * percent:g}" if 0 < percent < 1 else ""
        raise ConfigurationError(f"--attainment {percent:g}: above 1 and below 100 percent is allowed{meant}")
    return float(Decimal(repr(percent)) / 100)


def length(option: str, text: str, counted: str = "") -> float:
    """`30m` -> 1800; what cannot be read is refused with `counted` behind why."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise ConfigurationError(f"{option} {text}: {error}{counted}") from error


def moment(option: str, text: str | None) -> float | None:
    """`1d6h` -> seconds from the first of the trace."""
    return None if text is None else length(option, text, "; it counts from the first second of the trace")


def instant(option: str, text: str | None) -> float | None:
    """`20m` -> seconds of the replay."""
    return None if text is None else length(option, text, "; it counts from the first scored second")


def span(option: str, text: str | None, *, back: bool = False) -> tuple[float, float] | None:
    """`20m:10m` -> (1200, 600): from when, in seconds of the replay, and for how long; `back` allows `20m:-10m`."""
    if text is None:
        return None
    at, _, length = text.partition(":")
    sign = -1.0 if back and length.startswith("-") else 1.0
    try:
        found = parse_duration_s(at), sign * parse_duration_s(length.removeprefix("-") if back else length)
    except ValueError as error:
        allowed = "AT:BY such as 20m:-10m" if back else "AT:LENGTH such as 20m:10m"
        raise ConfigurationError(f"{option} {text}: {error}; {allowed} from the first scored second") from error
    return found


def start_up(seconds: float | None, file: Path | None, simulator: str) -> tuple[float, ...]:
    """Start-up times in the order in which they are drawn, from one number or from a file with one a line."""
    if file is None:
        return (number("--startup-s", 100.0 if seconds is None else seconds, 0, 86_400, "seconds"),)
    if seconds is not None:
        raise ConfigurationError("--startup-s and --startup-file: one of them is allowed")
    if simulator in CONSTANT_STARTUP:
        raise ConfigurationError(
            f"--startup-file {file}: in simulator {simulator} every start takes as long; use --startup-s there, "
            "or --simulator ebbtide"
        )
    if file.exists() and not file.is_file():
        raise ConfigurationError(f"--startup-file {file}: it is no regular file")
    try:
        lines = file.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--startup-file {file}: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise ConfigurationError(f"--startup-file {file}: it is empty; one number of seconds a line is expected")
    return tuple(_seconds(file, line, text) for line, text in enumerate(lines, 1))


def _seconds(file: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise ConfigurationError(
            f"--startup-file {file} line {line}: {text}: above 0 and at most 86400 seconds is allowed"
        )
    return value
