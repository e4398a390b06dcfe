"""Drives core.forecast alone, fed with generated traffic as a scrape shows it, and judges what it said by what came.

Nothing here uses the forecaster's own record: claims are kept and judged by this module.
"""

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from ebbtide.core.forecast import record, scores, step
from ebbtide.core.forecast.line import fit
from ebbtide.core.forecast.outlook import Horizon, Outlook, look
from ebbtide.core.forecast.spread import LOADS, Misses, Spread
from ebbtide.core.parts import ALL
from ebbtide.core.work import Cycle, DemandView, Draft, VariantDraft
from ebbtide.model.memory import CapacityMemory, ForecastMemory, Memory, ScoreMemory, ServiceMemory, VariantMemory
from ebbtide.sim.shapes import Shape
from tests.builders import INPUT_TOKENS, NOW, OUTPUT_TOKENS, pods, service, snapshot, variant

CYCLE_S, WINDOW_S = 15.0, 60.0
MAIN = 1  # of the three horizons: the start-up
SHARES = (0.025, 0.5, 0.975)
PROMPT_WEIGHT = 0.5
WEIGHED_TOKENS = OUTPUT_TOKENS + PROMPT_WEIGHT * INPUT_TOKENS


def rates(shape: Shape, seconds: float, seed: int) -> Iterator[tuple[float, float]]:
    """(seconds, work in mean requests/s over the last minute): arrivals by chance, each as long as it happens to be."""
    draw, window, t_s = random.Random(seed), deque[float](maxlen=round(WINDOW_S / CYCLE_S)), 0.0
    while t_s < seconds:
        window.append(_work(draw, shape.rate(t_s) * CYCLE_S))
        t_s += CYCLE_S
        if len(window) == window.maxlen:
            yield t_s, sum(window) / WINDOW_S


def _work(draw: random.Random, mean: float) -> float:
    """Of as many requests as come by chance, with lengths that vary by 80 %."""
    if mean > 40.0:
        return max(0.0, draw.gauss(mean, math.sqrt(mean * (1.0 + 0.8**2))))
    count, left, limit = 0, draw.random(), math.exp(-mean)
    while left > limit:
        count, left = count + 1, left * draw.random()
    spread = math.sqrt(math.log(1.0 + 0.8**2))
    return sum(draw.lognormvariate(-0.5 * spread**2, spread) for _ in range(count))


class Forecaster:
    """One service of one variant, whose only news is its load."""

    def __init__(self, startup_s: float = 150.0, memory: ForecastMemory | None = None) -> None:
        state = snapshot(service(variant("h100", pods(1, 1.0))))
        self.state = msgspec.structs.replace(state, cycle_s=CYCLE_S)
        self.startup_s = startup_s
        self.memory = memory or ForecastMemory(prompt_weight=PROMPT_WEIGHT)
        self.horizon_s = self.period_s = 0.0

    def see(self, t_s: float, rate: float) -> tuple[Draft, bool]:
        """One cycle: (the draft, whether something was foreseen in it)."""
        seen, now_s = self.state.services[0], NOW + t_s
        capacity = CapacityMemory(startup_s=(self.startup_s,) * 5)
        draft = Draft(
            seen,
            ServiceMemory("ml/chat", forecast=self.memory),
            [VariantDraft(0, seen.spec.variants[0], seen.variants[0], VariantMemory("h100", capacity), None)],
        )
        draft.demand = DemandView("fresh", rate=rate, work=rate, prompt_weight=PROMPT_WEIGHT, lengths_known=True)
        draft.demand.input_tokens, draft.demand.output_tokens = INPUT_TOKENS, OUTPUT_TOKENS
        cycle = Cycle(self.state, Memory(), now_s, reaction_s=CYCLE_S + 0.5 * WINDOW_S)
        step.step(draft, cycle)
        self.memory = draft.forecast_memory
        self.horizon_s = step.horizon(draft, cycle)
        self.period_s = max(self.horizon_s / record.PER_HORIZON, WINDOW_S)
        return draft, self.memory.turn_at == now_s

    def claim(self, outlook: Outlook, now_s: float) -> tuple[float, float, float] | None:
        """(low, median, high) in tokens/s where a range is to be judged, as a plan would keep it."""
        ends = scores.range_of(outlook, self.memory.score)
        score = scores.claim(self.memory.score, outlook.main, ends, now_s, self.period_s)
        if score is self.memory.score:
            return None
        self.memory = msgspec.structs.replace(self.memory, score=score)
        return ends


class _Lone:
    """One candidate on its own, with the same machinery around it: its errors, its jumps, its range."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.track = record.open_track(record.TrackMemory())
        self.score = ScoreMemory()

    def range_of(self, said: float, blended: Outlook, loads: Spread, rate: float) -> tuple[float, float, float]:
        around = record.around(self.track, Misses(), said)
        if_noise = Horizon(blended.main.ahead_s, said, around, self.track.jumps_seen, loads, WEIGHED_TOKENS)
        main = if_noise if blended.main is blended.if_noise else if_noise.raised(rate)
        return scores.range_of(Outlook(blended.nearest, main, blended.far, if_noise), self.score)


@dataclass
class Verdict:
    """What became of all claims."""

    claims: int = 0
    independent: float = 0.0  # a horizon counts once
    below: int = 0
    above: int = 0
    came: float = 0.0
    losses: list[float] = field(default_factory=lambda: [0.0] * len(SHARES))
    lone_losses: list[float] = field(default_factory=lambda: [0.0] * len(record.NAMES))

    @property
    def coverage(self) -> float:
        return 1.0 - (self.below + self.above) / self.claims

    @property
    def band(self) -> tuple[float, float]:
        """Where 19 of 20 shares lie if 95 % is right."""
        by = 1.96 * math.sqrt(0.95 * 0.05 / self.independent)
        return 0.95 - by, 0.95 + by

    @property
    def over_best(self) -> tuple[float, str]:
        """Pinball loss over that of the best candidate in hindsight, and which that is."""
        best = min(range(len(record.NAMES)), key=lambda index: self.lone_losses[index])
        return sum(self.losses) / self.lone_losses[best], record.NAMES[best]


def judged(shape: Shape, seconds: float, seed: int, startup_s: float = 150.0, *, lone: bool = False) -> Verdict:
    """Watch the traffic, and judge each claim by the reading at the moment that it spoke of."""
    found, forecaster = Verdict(), Forecaster(startup_s)
    others = [_Lone(index) for index in range(len(record.NAMES))] if lone else []
    waiting: deque[tuple[float, list[float], list[tuple[float, float, float]]]] = deque()
    for t_s, rate in rates(shape, seconds, seed):
        draft, turn = forecaster.see(t_s, rate)
        load, now_s = rate * WEIGHED_TOKENS, NOW + t_s
        while waiting and waiting[0][0] <= now_s:
            due_s, said, ranges = waiting.popleft()
            _judge(found, ranges, load, forecaster)
            loads = LOADS.unpack(forecaster.memory.loads)
            for other in others:
                row = (due_s, said[other.index], *said)
                record.score(other.track, row, load, loads, forecaster.horizon_s, forecaster.period_s)
        for other in others:
            other.score = scores.judge(
                other.score,
                load,
                now_s,
                horizon_s=forecaster.horizon_s,
                period_s=forecaster.period_s,
                cycle_s=CYCLE_S,
            )
        outlook = look(draft, Misses(), ALL) if turn else None
        ends = forecaster.claim(outlook, now_s) if outlook is not None else None
        if outlook is None or ends is None:
            continue
        said, ranges = [], [ends]
        if others:
            line = fit(forecaster.memory.samples, forecaster.horizon_s, now_s, WINDOW_S)
            said = step.candidates(forecaster.memory, line, now_s, forecaster.horizon_s, WINDOW_S)
            loads_seen = Spread(LOADS, LOADS.unpack(forecaster.memory.loads))
            for other in others:
                other_ends = other.range_of(said[other.index], outlook, loads_seen, rate)
                other.score = scores.claim(other.score, outlook.main, other_ends, now_s, forecaster.period_s)
                ranges.append(other_ends)
        waiting.append((now_s + forecaster.horizon_s, said, ranges))
    return found


def _judge(found: Verdict, ranges: list[tuple[float, float, float]], load: float, forecaster: Forecaster) -> None:
    low, _, high = ranges[0]
    found.claims += 1
    found.independent += min(1.0, forecaster.period_s / forecaster.horizon_s)
    found.below += load < low
    found.above += load > high
    found.came += load
    for index, (share, end) in enumerate(zip(SHARES, ranges[0], strict=True)):
        found.losses[index] += scores.pinball(share, end, load)
    for index, ends in enumerate(ranges[1:]):
        found.lone_losses[index] += sum(
            scores.pinball(share, end, load) for share, end in zip(SHARES, ends, strict=True)
        )
