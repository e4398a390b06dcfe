"""What goes wrong around a policy in a replay, so that it can be seen what that costs. By default nothing does.

Moments are seconds of the replay. Requests and replicas are never touched: only what is seen of them, the operator's
clock, and what it remembers. Must never help: what is wrong is not announced to anybody.
"""

import random
from dataclasses import replace

import msgspec

from ebbtide.model.memory import ForecastMemory, Memory
from ebbtide.sim.scrape import Counts, Sample
from ebbtide.units import format_duration

_GARBAGE = 10.0  # demand that is made up is up to so many times too high or too low


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """`metrics_out` and `garbage`: (from second, for how long); `clock_jump`: (at second, by how many).

    While metrics are out nothing is scraped, for any policy. The rest befalls Ebbtide: its clock jumps for good; what
    it remembers of demand is made up anew in each cycle. From `reset_s` on all counters start again at zero, as when
    engines restart. With `every_s` metrics are out, and counters reset, again each so many seconds.
    """

    metrics_out: tuple[float, float] | None = None
    clock_jump: tuple[float, float] | None = None
    reset_s: float | None = None
    garbage: tuple[float, float] | None = None
    every_s: float | None = None

    def hides(self, now_s: float) -> bool:
        """Whether nothing is scraped now."""
        if self.metrics_out is None or not self.every_s or now_s < self.metrics_out[0]:
            return _within(self.metrics_out, now_s)
        return (now_s - self.metrics_out[0]) % self.every_s < self.metrics_out[1]

    def last_reset_s(self, now_s: float) -> float | None:
        """When counters last began again at zero; None: they have not."""
        if self.reset_s is None or now_s < self.reset_s:
            return None
        return self.reset_s + self.every_s * ((now_s - self.reset_s) // self.every_s) if self.every_s else self.reset_s

    def clock_s(self, now_s: float) -> float:
        """What the operator's clock shows."""
        return now_s + self.clock_jump[1] if self.clock_jump and now_s >= self.clock_jump[0] else now_s

    def remembered(self, memory: Memory, now_s: float, seed: int) -> Memory:
        """`memory`, or what is left of it."""
        if not _within(self.garbage, now_s):
            return memory
        draw = random.Random(f"{seed}/garbage/{now_s:.3f}")
        services = tuple(
            msgspec.structs.replace(service, forecast=_made_up(service.forecast, draw)) for service in memory.services
        )
        return msgspec.structs.replace(memory, services=services)

    def words(self) -> list[str]:
        """Each fault for people: `metrics out from 20m for 10m`."""
        found = []
        if self.metrics_out:
            found.append(f"metrics out {_from_for(self.metrics_out)}{self._again()}")
        if self.clock_jump:
            at_s, by_s = self.clock_jump
            ahead = "ahead" if by_s > 0 else "back"
            found.append(f"the operator's clock {format_duration(abs(by_s))} {ahead} from {format_duration(at_s)} on")
        if self.reset_s is not None:
            found.append(f"counters reset at {format_duration(self.reset_s)}{self._again()}")
        if self.garbage:
            found.append(f"remembered demand made up {_from_for(self.garbage)}")
        return found

    def _again(self) -> str:
        return f", again each {format_duration(self.every_s)}" if self.every_s else ""


NONE = Faults()


def since(sample: Sample, base: Sample) -> Sample:
    """`sample` as an engine would show it that restarted when `base` was taken: gauges as they are, counters anew."""
    return replace(
        sample,
        finished=max(0.0, sample.finished - base.finished),
        prompt_tokens=max(0.0, sample.prompt_tokens - base.prompt_tokens),
        generation_tokens=max(0.0, sample.generation_tokens - base.generation_tokens),
        preempted=max(0.0, sample.preempted - base.preempted),
        ttft=_less(sample.ttft, base.ttft),
        itl=_less(sample.itl, base.itl),
        tpot=_less(sample.tpot, base.tpot),
        rejected=max(0.0, sample.rejected - base.rejected),
    )


def _less(counts: Counts, base: Counts) -> Counts:
    return tuple(max(0.0, one - other) for one, other in zip(counts[0], base[0], strict=True)), counts[1] - base[1]


def _made_up(kept: ForecastMemory, draw: random.Random) -> ForecastMemory:
    """The same with every remembered demand another one; times and records of errors stay."""

    def wrong() -> float:
        return float(_GARBAGE ** draw.uniform(-1.0, 1.0))

    samples = tuple(
        msgspec.structs.replace(one, requests_per_second=one.requests_per_second * wrong()) for one in kept.samples
    )
    return msgspec.structs.replace(
        kept,
        samples=samples,
        levels=tuple(level * wrong() for level in kept.levels),
        days=draw.randbytes(len(kept.days)),
    )


def _within(span: tuple[float, float] | None, now_s: float) -> bool:
    return span is not None and span[0] <= now_s < span[0] + span[1]


def _from_for(span: tuple[float, float]) -> str:
    return f"from {format_duration(span[0])} for {format_duration(span[1])}"
