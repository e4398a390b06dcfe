"""A scenario: chat, two pools with their prices by the hour, and kinds of Jobs; read from a TOML file and checked."""

import tomllib
from decimal import Decimal
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.model.money import PriceStep

DAY_S, HOUR_S, MINUTE_S = 86_400, 3600, 60
RESERVED, ON_DEMAND, APART = "reserved", "on-demand", "batch-fleet"
DEFAULT = "off-peak"
MOST_PRICE = 1000

_Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=3600)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Clock = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Hours(_Part, frozen=True, rename={"begins": "from", "ends": "to"}):
    """Hours of each day, across midnight where they end before they begin."""

    begins: _Clock
    ends: _Clock
    price: Decimal

    def holds(self, at_s: int) -> bool:
        """Whether the second (unix) lies in them."""
        return _within(_second(self.begins), _second(self.ends), at_s)


class Chat(_Part, frozen=True):
    """The interactive service; `peak_replicas` carry its busiest five minutes."""

    peak_replicas: Annotated[int, msgspec.Meta(ge=1, le=200)]
    startup_s: _Seconds
    exit_s: _Seconds


class Reserved(_Part, frozen=True):
    """A pool that is paid whether it is used or not."""

    nodes: Annotated[int, msgspec.Meta(ge=0, le=100)]
    gpus_per_node: _Count
    price: Decimal

    @property
    def gpus(self) -> int:
        """Of all its nodes."""
        return self.nodes * self.gpus_per_node


class OnDemand(_Part, frozen=True, dict=True):
    """A pool whose nodes come when pods wait for them, and are paid until they are gone."""

    gpus_per_node: _Count
    max_gpus: _Count
    lead_time_s: _Seconds
    release_s: _Seconds
    price: Decimal
    off_peak: tuple[Hours, ...] = ()

    def price_at(self, at_s: int) -> Decimal:
        """Of a GPU-hour; the first hours that hold the second win."""
        return next((each.price for each in self.off_peak if each.holds(at_s)), self.price)

    @cached_property
    def prices(self) -> tuple[Decimal, ...]:
        """By minute of the day."""
        return tuple(self.price_at(minute * MINUTE_S) for minute in range(DAY_S // MINUTE_S))

    @property
    def cheapest(self) -> Decimal:
        """Its lowest price of the day."""
        return min(self.prices)

    def steps(self, from_s: int, to_s: int) -> tuple[PriceStep, ...]:
        """As a snapshot shows them; the first holds at `from_s`."""
        found = [PriceStep(float(from_s), self.price_at(from_s))]
        for at_s in range(from_s - from_s % MINUTE_S + MINUTE_S, to_s, MINUTE_S):
            price = self.prices[at_s % DAY_S // MINUTE_S]
            if price != found[-1].per_gpu_hour:
                found.append(PriceStep(float(at_s), price))
        return tuple(found)


class Batch(_Part, frozen=True):
    """What all Jobs have in common."""

    token_share: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    grace_s: _Seconds
    restart_s: _Seconds
    checkpoint_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)]


class Kind(_Part, frozen=True, rename={"begins": "from", "ends": "to"}):
    """One kind of Jobs."""

    name: _Name
    share: _Share
    pods: Annotated[int, msgspec.Meta(ge=1, le=64)]
    gpus_per_pod: Annotated[int, msgspec.Meta(ge=1, le=16)]
    expected_min: Annotated[float, msgspec.Meta(gt=0, le=1440)]
    spread: Annotated[float, msgspec.Meta(ge=0, le=1)]
    deadline_h: Annotated[float, msgspec.Meta(gt=0, le=72)]
    begins: _Clock
    ends: _Clock
    restartable: bool
    elastic: bool = False

    @property
    def span(self) -> tuple[int, int]:
        """Seconds of the day in which they come: from, and for how long."""
        begin_s, end_s = _second(self.begins), _second(self.ends)
        return begin_s, (end_s - begin_s) % DAY_S or DAY_S


class Scenario(_Part, frozen=True):
    """All of it."""

    chat: Chat
    reserved: Reserved
    on_demand: OnDemand
    batch: Batch
    job: Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1, max_length=20)]

    @property
    def longest_s(self) -> int:
        """The latest deadline of a Job that comes now."""
        return round(max(kind.deadline_h for kind in self.job) * HOUR_S)

    def price_at(self, pool: str, at_s: int) -> Decimal:
        """Of a GPU-hour of that pool."""
        return self.reserved.price if pool == RESERVED else self.on_demand.prices[at_s % DAY_S // MINUTE_S]


def read(path: Path | None) -> Scenario:
    """The scenario in that file, the built-in one without; ConfigurationError says what is wrong with it."""
    named = f"scenario {path}" if path is not None else f"scenario {DEFAULT}"
    try:
        place = files(__package__) / f"{DEFAULT}.toml" if path is None else path
        said = tomllib.loads(place.read_text(encoding="utf-8"), parse_float=str)
        scenario = msgspec.convert(said, Scenario, strict=False)
    except OSError as error:
        raise ConfigurationError(f"{named}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{named}: it is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{named}: {error}") from error
    fault = _fault(scenario)
    if fault:
        raise ConfigurationError(f"{named}: {fault}")
    return scenario


def _fault(scenario: Scenario) -> str:
    """What only several fields together show."""
    total = sum(kind.share for kind in scenario.job)
    names = [kind.name for kind in scenario.job]
    if abs(total - 1.0) > 1e-6:
        return f"job.share: they add up to {total:g}, 1 is needed"
    if len(set(names)) < len(names):
        return f"job.name: {', '.join(sorted(names))}: each is allowed once"
    for name, price in _prices(scenario):
        if not 0 <= price <= MOST_PRICE:
            return f"{name} {price}: 0 to {MOST_PRICE} are allowed"
    for kind in scenario.job:
        if kind.pods * kind.gpus_per_pod > scenario.on_demand.max_gpus:
            return f"job {kind.name}: its {kind.pods * kind.gpus_per_pod} GPUs are more than on_demand.max_gpus"
        if kind.gpus_per_pod > scenario.on_demand.gpus_per_node:
            return f"job {kind.name}: gpus_per_pod {kind.gpus_per_pod} is more than on_demand.gpus_per_node"
    if scenario.chat.peak_replicas > scenario.on_demand.max_gpus:
        return f"chat.peak_replicas {scenario.chat.peak_replicas} is more than on_demand.max_gpus"
    return ""


def _prices(scenario: Scenario) -> list[tuple[str, Decimal]]:
    off_peak = [(f"on_demand.off_peak[{n}].price", each.price) for n, each in enumerate(scenario.on_demand.off_peak)]
    own = [("reserved.price", scenario.reserved.price), ("on_demand.price", scenario.on_demand.price)]
    return [(name, price if price.is_finite() else Decimal(-1)) for name, price in (*own, *off_peak)]


def _second(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * HOUR_S + int(minutes) * MINUTE_S


def _within(begin_s: int, end_s: int, at_s: int) -> bool:
    at_s %= DAY_S
    return begin_s <= at_s < end_s if begin_s < end_s else at_s >= begin_s or at_s < end_s
