"""Fleets that live through a month: what comes, what is answered, what is billed; each cycle somebody decides."""

from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from ebbtide.bench.budget.clerk import DAY_S, Clerk
from ebbtide.bench.budget.fleet import Fleet, Pace, Pod
from ebbtide.bench.budget.member import Member

_HOUR_S, _MINUTE_S = 3600, 60


class Began(msgspec.Struct, frozen=True):
    """Where all runs begin: each service's pods and how many it ever had, and what Ebbtide has learnt, packed."""

    pods: tuple[tuple[Pod, ...], ...]
    made: tuple[int, ...]
    memory: bytes


class Stage(msgspec.Struct, frozen=True):
    """A month: [begin_s, end_s) in unix seconds; `members` have the requests of `lead_in_s` before it too.

    Whoever decides is asked every `cycle_s`, whole minutes.
    """

    members: tuple[Member, ...]
    begin_s: int
    end_s: int
    lead_in_s: int
    price_per_hour: Decimal
    startup_s: int = 120
    exit_s: int = 30
    cycle_s: int = 60

    @property
    def pace(self) -> Pace:
        """How fast replicas come and go."""
        return Pace(self.startup_s, self.exit_s)

    @property
    def days(self) -> int:
        """Of the month."""
        return (self.end_s - self.begin_s) // DAY_S

    def requests(self, member: Member) -> Sequence[int]:
        """Of the month, by minute."""
        return member.requests[self.lead_in_s // _MINUTE_S :]


class Outcome(msgspec.Struct, frozen=True):
    """A month under one spender: money by day as the clerk counts it, answered requests by service and day.

    `held` are GPUs that are billed, averaged over each hour. `declared` are replicas by service in each minute.
    `short`: share of cycles in which a policy took something away. `wall_s`: what the run took by the clock.
    """

    cost_by_day: tuple[Decimal, ...]
    answered: tuple[tuple[float, ...], ...]
    held: tuple[float, ...]
    declared: tuple[tuple[int, ...], ...] = ()
    short: float = 0.0
    wall_s: float = 0.0

    @property
    def cost(self) -> Decimal:
        """Of the whole month."""
        return sum(self.cost_by_day, Decimal(0))


class World:
    """Fleets from `begin_s` on. `decide(world)` is asked once a cycle and calls `Fleet.scale`."""

    def __init__(self, stage: Stage, began: Began | None, begin_s: int, end_s: int) -> None:
        self.stage, self.now_s, self._end_s = stage, begin_s, end_s
        self.clerk = Clerk(begin_s, end_s, stage.price_per_hour)
        self.fleets = [Fleet(member, stage.pace, self.clerk) for member in stage.members]
        self._skip = (begin_s - stage.begin_s + stage.lead_in_s) // _MINUTE_S  # minutes of `requests` that are over
        self.came = [self._requests(fleet, -1) / _MINUTE_S for fleet in self.fleets]  # requests/s of the last minute
        days = (end_s - begin_s) // DAY_S
        self._answered = [[0.0] * days for _ in self.fleets]
        self._held = [0.0] * ((end_s - begin_s) // _HOUR_S)
        self._declared: list[list[int]] = [[] for _ in self.fleets]
        if began is not None:
            for fleet, pods, made in zip(self.fleets, began.pods, began.made, strict=True):
                fleet.take_over(pods, made)

    def run(self, decide: Callable[["World"], None]) -> None:
        """To the end."""
        begin_s, minute = self.now_s, 0
        while self.now_s < self._end_s:
            if (self.now_s - begin_s) % self.stage.cycle_s == 0:
                decide(self)
            self._minute(minute, (self.now_s - begin_s) // DAY_S, (self.now_s - begin_s) // _HOUR_S)
            minute += 1

    def outcome(self, wall_s: float, short: float = 0.0) -> Outcome:
        """After `run`."""
        return Outcome(
            cost_by_day=self.clerk.close(),
            answered=tuple(tuple(days) for days in self._answered),
            held=tuple(self._held),
            declared=tuple(tuple(counts) for counts in self._declared),
            short=short,
            wall_s=wall_s,
        )

    def began(self, memory: bytes) -> Began:
        """What goes on from here."""
        return Began(
            tuple(tuple(fleet.pods) for fleet in self.fleets), tuple(fleet.made for fleet in self.fleets), memory
        )

    def _requests(self, fleet: Fleet, minute: int) -> int:
        return fleet.member.requests[max(0, self._skip + minute)]

    def _minute(self, minute: int, day: int, hour: int) -> None:
        until_s = self.now_s + _MINUTE_S
        for number, fleet in enumerate(self.fleets):
            requests = self._requests(fleet, minute)
            self._answered[number][day] += fleet.answer(float(requests), self.now_s, until_s)
            self._declared[number].append(len(fleet.pods))
            self._held[hour] += (len(fleet.pods) + len(fleet.leaving)) * _MINUTE_S / _HOUR_S
            fleet.advance(until_s)
            self.came[number] = requests / _MINUTE_S
        self.now_s = until_s
