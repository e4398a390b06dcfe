"""llm-d's SLO-aware law, the strongest public baseline: scale by how near P90 latencies are to their objectives.

Source: llm-d, SLO-aware autoscaling guide (recording rules and ScaledObject), as of autumn 2026; 3 s and 100 ms there
are the objectives, here the case's. The router is scraped each 5 s, rules run each 15 s:

    s = mean over 45 s of min(2, max(P90 TTFT / objective, P90 ITL / objective)); no traffic or NaN counts as 0
    c = ready / declared while pods start, else 1
    declared + ceil(declared (s c / 0.55 - 1))  where s > 0.55
    declared - floor(declared (1 - s / 0.40))   where s < 0.40

Then the HPA: its tolerance; up 30 s window, 100 % or 4 pods a minute; down 180 s window, one pod per 120 s.

Defect of the original: with pods starting, s above 0.55 and s c below it, the branch that scales up returns fewer than
are declared (s 0.8, 8 declared, 4 ready: 6). The window hides it while a start-up is shorter than 180 s.
`slo-law-corrected` never goes below the declared count in that branch.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob, Latency, Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Behaviour, Limit, Stage, average_value
from ebbtide.bench.rivals.parts import Window, ceil_of, floor_of

UP_AT = 0.55
DOWN_AT = 0.40
MOST_SIGNAL = 2.0
SMOOTHED_S = 45.0
BEHAVIOUR = Behaviour(
    up_window_s=30.0,
    down_window_s=180.0,
    up=Limit(pods=4, percent=100.0, period_s=60.0),
    down=Limit(pods=1, period_s=120.0),
)


def desired(signal: float, declared: int, ready: int, *, corrected: bool) -> int:
    """The law itself, before windows, limits and bounds."""
    credit = ready / declared if 0 < ready < declared else 1.0
    if signal > UP_AT:
        wanted = declared + ceil_of(declared * (signal * credit / UP_AT - 1.0))
        return max(declared, wanted) if corrected else wanted
    if signal < DOWN_AT:
        return declared - floor_of(declared * (1.0 - signal / DOWN_AT))
    return declared


def nearness(latency: Latency | None, objective_s: float) -> float:
    """P90 over its objective; 0 where nothing was observed."""
    return latency.p90_s / objective_s if latency is not None else 0.0


class SloLaw:
    """The law, its smoothing and its HPA."""

    period_s = PERIOD_S
    scrape_s = 5.0

    def __init__(self, case: Case, sensitivity: float, *, corrected: bool = False) -> None:
        self._case, self._sensitivity, self._corrected = case, sensitivity, corrected
        self._signal = Window(SMOOTHED_S)
        self._stage = Stage(case, BEHAVIOUR)

    def decide(self, seen: Observation) -> int | None:
        """One evaluation of the rules and of the HPA behind them."""
        raw = max(nearness(seen.ttft, self._case.ttft_s), nearness(seen.itl, self._case.itl_s))
        self._signal.add(seen.now_s, min(MOST_SIGNAL, self._sensitivity * raw))
        wanted = desired(self._signal.mean(), seen.declared, seen.ready, corrected=self._corrected)
        return self._stage.settle(seen.now_s, seen.declared, average_value(wanted, 1.0, seen.declared))


def _corrected(case: Case, knob: float) -> SloLaw:
    return SloLaw(case, knob, corrected=True)


KNOB = Knob("multiple of P90", 1.0, 0.2, 5.0, log=True)
NOTE = (
    "measured latencies stand in for the router's predicted ones; where the simulator shows only means, the P90 is "
    "read from a histogram of those means, each of which is of about one request"
)
RIVALS = (
    Rival("slo-law", KNOB, SloLaw, NOTE),
    Rival("slo-law-corrected", KNOB, _corrected, NOTE),
)
