"""What the ceilings of CostPolicies leave for batch Jobs, once it is decided what services get.

Only a policy with scope AllGPUPods pays for Jobs. To be started, a Job takes of each period's ceiling what it may cost:
one that may be stopped twice the reserve W and its exit, like a raise; one that may not, all of its run as long as it
may be. Of a rate it takes its price. Whole nodes where it brings nodes that the policy pays for. Running Jobs that may
be stopped give way as soon as services are refused something, or a ceiling would be crossed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from ebbtide.core.ceilings.lines import HOUR_S, NOTHING, Tariff
from ebbtide.core.ceilings.words import A_PERIOD, moment, money
from ebbtide.model.spec import CeilingKind, PolicySpec

AGAIN = Decimal("1.25")  # times what it takes must be left, where Jobs were stopped for want of money
AGAIN_S = 600.0  # and so long ago


class Refusal(NamedTuple):
    """Why something cannot be paid. `until_s`: when the period ends whose money does not suffice; 0: nobody knows."""

    text: str
    until_s: float = 0.0


@dataclass(slots=True)
class PurseLine:
    """One ceiling; money as in `ceilings.lines`, price x GPU-seconds. `lacks`: what services need beyond it."""

    kind: CeilingKind
    begin_s: int
    end_s: int
    ceiling: Decimal
    free: Decimal
    lacks: Decimal
    taken: Decimal = NOTHING  # by Jobs that are started or made wider

    @property
    def is_rate(self) -> bool:
        """Whether it is of what runs at a moment."""
        return self.kind is CeilingKind.HOUR

    def takes(self, tariff: Tariff, now_s: int, for_s: float) -> Decimal:
        """Of one GPU from now for `for_s` seconds; of a rate its dearest price meanwhile."""
        until_s = int(min(self.end_s, now_s + for_s)) + 1
        if self.is_rate:
            return tariff.dearest(now_s, max(now_s + 1, until_s)) * HOUR_S
        return tariff.cost(max(self.begin_s, now_s), until_s)


@dataclass(slots=True)
class Purse:
    """One policy."""

    spec: PolicySpec
    now_s: int
    reserve_s: int
    lines: list[PurseLine]
    tariffs: dict[str, Tariff | None]
    refuses: str  # why nothing is started, whatever is left
    suspends: str  # why what may be stopped is stopped
    was_short_at: float | None = None
    anyway: set[str] = field(default_factory=set)  # pools whose GPUs it pays for whoever uses them
    nodes: dict[str, int] = field(default_factory=dict)  # GPUs that come at a time, where it pays for nodes
    starts: set[str] = field(default_factory=set)  # keys of the Jobs that take from it

    def pays(self, namespace: str) -> bool:
        """Whether it pays for a Job there."""
        return self.spec.selects(namespace, ())

    @property
    def short(self) -> bool:
        """Whether Jobs must give way."""
        return bool(self.suspends) or any(line.lacks > NOTHING for line in self.lines)

    def refused(
        self, pool: str, gpus: int, idle: bool, for_s: float | None, exit_s: float, starts_s: float | None = None
    ) -> Refusal | None:
        """Why so many GPUs cannot be paid for, with the sum; None: they can. `for_s` None: it may be stopped.

        `starts_s`: not now but then. Of several ceilings the one that has no money for longest.
        """
        name = f"CostPolicy {self.spec.name}"
        if self.refuses or self.suspends:
            return Refusal(f"{name}: {self.refuses or self.suspends}")
        tariff = self.tariffs.get(pool)
        if tariff is None:
            return Refusal(f"{name}: what GPUs of {pool} cost in {self.spec.currency} is not known")
        found = []
        for line, need in self._needs(tariff, pool, gpus, idle, for_s, exit_s, starts_s):
            asked, lately = self._again(need)
            if asked <= line.free:
                continue
            left, currency = money(max(NOTHING, line.free)), self.spec.currency
            of = f"{money(line.ceiling)} {currency} {A_PERIOD[line.kind]}"
            short = f"{money(asked - max(NOTHING, line.free))} {currency} are lacking"
            until = "" if line.is_rate else f" until {moment(line.end_s)}"
            text = f"{name}: {left} of {of} are left, it takes {money(asked)}{lately}: {short}{until}"
            found.append(Refusal(text, 0.0 if line.is_rate else line.end_s))
        return max(found, key=lambda each: each.until_s) if found else None

    def take(self, job: str, pool: str, gpus: int, idle: bool, for_s: float | None, exit_s: float) -> None:
        """A Job is started, or made wider."""
        self.starts.add(job)
        tariff = self.tariffs.get(pool)
        if tariff is not None:
            for line, need in self._needs(tariff, pool, gpus, idle, for_s, exit_s):
                line.free -= need
                line.taken += need

    def give(self, pool: str, gpus: int) -> None:
        """A Job is stopped: what it would have taken for W is free for others once it is gone."""
        tariff = self.tariffs.get(pool)
        if tariff is not None and pool not in self.anyway:
            for line in self.lines:
                line.lacks -= gpus * line.takes(tariff, self.now_s, self.reserve_s)

    def pods_short(self, pool: str, gpus: int) -> int:
        """How many pods of so many GPUs must go until nothing is lacking; 0: none of them frees any money."""
        tariff = self.tariffs.get(pool)
        if tariff is None or pool in self.anyway or not gpus:
            return 0
        found = 0
        for line in self.lines:
            frees = gpus * line.takes(tariff, self.now_s, self.reserve_s)
            if line.lacks > NOTHING and frees <= NOTHING:
                return 0
            if line.lacks > NOTHING:
                found = max(found, math.ceil(line.lacks / frees))
        return found

    def _again(self, need: Decimal) -> tuple[Decimal, str]:
        """A quarter more than needed where Jobs gave way lately, so that nothing goes to and fro."""
        if self.was_short_at is None or not 0.0 <= self.now_s - self.was_short_at < AGAIN_S or not need:
            return need, ""
        return need * AGAIN, " with a quarter more, for Jobs gave way within ten minutes"

    def _needs(
        self,
        tariff: Tariff,
        pool: str,
        gpus: int,
        idle: bool,
        for_s: float | None,
        exit_s: float,
        starts_s: float | None = None,
    ) -> Iterable[tuple[PurseLine, Decimal]]:
        if pool in self.anyway:
            return
        size = self.nodes.get(pool, 0)
        brought = gpus if idle or not size else -(-gpus // size) * size
        runs_s = (2 * self.reserve_s if for_s is None else for_s) + exit_s
        at_s = self.now_s if starts_s is None else int(starts_s)
        for line in self.lines:
            if at_s < line.end_s:
                yield line, brought * line.takes(tariff, at_s, runs_s)
