"""The error budget as the price of a miss: what one missed request may cost, in replica-hours of the service.

A declared attainment of 99 % is a budget: 1 % of the requests may miss. It is spent where it saves most when every miss
costs the same, whenever it happens. The price starts from the one at which the present forecast would just meet the
target (nine tenths of what may be missed: USED), averaged over hours by load, and is trimmed twice: slowly, so that the
misses that are planned come to the target (whole replicas overshoot it; by what a jump would miss in six hours, however
short the window), and by how many more or fewer came than were planned, over about a day. So no constant of headroom
for load exists, a day that began badly is paid back within bounds, and what was lucky is not spent at once. Whatever
the price, all replicas that the expected load fills are worth having.

Source: Lagrangian relaxation of "cheapest fleet under a budget of misses"; error budgets as in the SRE books of Google.
"""

import math
from dataclasses import dataclass

import msgspec

from ebbtide.core import edge
from ebbtide.core.forecast.outlook import Outlook
from ebbtide.core.learning import ENOUGH
from ebbtide.core.numeric import clip
from ebbtide.core.queueing import planned_share
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.memory import BudgetMemory

USED = 0.9  # of the budget that is left to buy: the rest is for what forecasts of a day are wrong about
LEAST_BUYABLE = 0.25  # of what may be missed; where idle replicas miss nearly all of it, that much is left to buy
PRICE_TAU_S = 6 * 3600.0  # or half a window
TRIMS = 8.0  # e-folds in six hours, or in a shorter window, at twice the target
TRIM_S = 6 * 3600.0
LEAST_TRIM, MOST_TRIM = -2.0, 4.0
RECORD_PRIOR_S = 2700.0  # of the budget: so many misses must come before more came than planned
SURPRISES = (0.5, 8.0)  # how far a record may move the price
# At this price of all that is missed, the replicas that the expected load fills are always worth starting.
WORTH_FILLING = 2.0
LONGEST_STEP_S = 600.0
KEPT_PLANS = 12
MOST_PLANNED = 0.3


@dataclass(slots=True)
class Spending:
    """What the plan may miss, and what it pays not to: `price` in replica-hours a missed request/s (an hour long)."""

    target: float  # share of requests, 0..1
    planned: float  # share missed at a load that just fills the capacity
    price: float
    surprise: float  # misses that came, over those that were planned


_SANE = (1e-200, 1e200)  # of a replica that carries 1e-308 requests/s the price of a miss is no number any more


def spending(draft: Draft, outlook: Outlook, rate: float, full: int, cycle: Cycle) -> Spending:
    """Today's price; `rate` is what one replica carries, and `full` so many the expected load fills.

    The draft's budget is brought up to date.
    """
    allowed, lost = 1.0 - draft.state.spec.objectives.attainment, anyway(draft)
    target = max(1e-6, buyable(allowed, lost) * USED)
    planned = min(MOST_PLANNED, planned_share(draft.state.spec.objectives.attainment) * draft.doubt)
    old, window_s = draft.memory.budget, draft.state.spec.objectives.window_s
    elapsed_s = clip(cycle.now_s - old.at, 0.0, LONGEST_STEP_S) if old.at else cycle.snapshot.cycle_s
    load = outlook.main.expected
    log, weight, seconds = old.price_log, old.price_weight, old.price_s
    if load > 0.0 and rate > 0.0:
        # kept as a price of the work that a replica does, so that it outlives a change of the variant that is weighed
        local = math.log(clip(_local(outlook, rate, target, planned) * rate, *_SANE))
        keep = math.exp(-elapsed_s / min(PRICE_TAU_S, 0.5 * window_s))
        weight, seconds = old.price_weight * keep + load * elapsed_s, old.price_s * keep + elapsed_s
        log = (old.price_log * old.price_weight * keep + local * load * elapsed_s) / max(weight, 1e-12)
        log = log if math.isfinite(log) else local
    budget = _recorded(draft, old, lost, elapsed_s, cycle)
    draft.budget = msgspec.structs.replace(
        budget,
        price_log=round(log, 5),
        price_weight=round(weight, 2),
        price_s=round(seconds, 1),
        at=round(cycle.now_s, 1),
    )
    mean_load = _mean_load(draft.budget, load)
    prior = min(RECORD_PRIOR_S, 0.5 * window_s) * target * max(mean_load, 1e-6)
    surprise = clip((budget.missed + prior) / (budget.planned + prior), *SURPRISES)
    price = math.exp(log + budget.trim) * surprise / max(rate, 1e-9)
    if not cycle.parts.price:
        price = _local(outlook, rate, target, planned)
    filling = WORTH_FILLING * full / load if load > 0.0 else 0.0
    return Spending(target, planned, max(price, filling), surprise)


def note(draft: Draft, outlook: Outlook, spent: Spending, capacity: float, *, at_bound: int, cycle: Cycle) -> None:
    """What the capacity that stays plans to miss; trims the price so that it comes to the target.

    `at_bound`: 1 at the maximum, where a higher price would buy nothing, -1 at the minimum, where a lower one would
    save nothing.
    """
    load = outlook.main.expected
    if load <= 0.0:
        return
    share = min(1.0, outlook.main.missed(capacity, spent.planned) / load)
    near_share = min(share, outlook.main.missed_near(capacity, spent.planned) / load)
    budget, before = draft.budget, draft.memory.budget.at
    step_s = clip(cycle.now_s - before, 0.0, LONGEST_STEP_S) if before else 0.0
    weight = min(1.0, load / max(1e-9, _mean_load(budget, load)))
    window_s = draft.state.spec.objectives.window_s
    steps = TRIMS * weight * step_s
    off = clip(share * spent.surprise / spent.target - 1.0, -1.0, 2.0)
    # how often loads jump is learnt over many hours, so what a jump would miss does not hurry with a short window
    near = min(off, clip(near_share * spent.surprise / spent.target - 1.0, 0.0, 2.0))
    change = steps * (near / min(TRIM_S, window_s) + (off - near) / TRIM_S)
    if change * at_bound > 0.0:
        change = 0.0
    due = round(cycle.now_s + outlook.main.ahead_s, 1)
    plans = budget.plans
    if not plans or due - plans[-1][0] >= outlook.main.ahead_s / KEPT_PLANS:
        plans = (*plans, (due, round(share, 6)))[-2 * KEPT_PLANS :]
    trim = round(clip(budget.trim + change, LEAST_TRIM, MOST_TRIM), 4)
    draft.budget = msgspec.structs.replace(budget, trim=trim, plans=plans)


def buyable(allowed: float, lost: float) -> float:
    """The share that may miss beside what misses anyway, each 0..1.

    1 % may and 0.6 % does anyway: 0.4 %, bought as if nothing else missed. Where 2 % does no fleet meets the objective,
    and the last misses cost most: 1 % may then miss beside the 2 %, as it would without them.
    """
    return allowed if lost >= allowed else max(LEAST_BUYABLE * allowed, allowed - lost)


def _mean_load(budget: BudgetMemory, load: float) -> float:
    """Requests/s over the last hours; the present ones as if there had been an hour of them before."""
    return (budget.price_weight + 3600.0 * load) / (budget.price_s + 3600.0)


def _recorded(draft: Draft, old: BudgetMemory, lost: float, elapsed_s: float, cycle: Cycle) -> BudgetMemory:
    """Misses that came beside those that were planned for now, each in requests.

    Nothing is recorded while what was planned cannot come about: nothing may be written, replicas fail, money is short.
    """
    due = [plan for plan in old.plans if plan[0] <= cycle.now_s]
    waiting = tuple(plan for plan in old.plans if cycle.now_s < plan[0] < cycle.now_s + 2.0 * LONGEST_STEP_S)
    plans = (due[-1], *waiting) if due else waiting  # the newest that is due holds until the next
    failing = any(variant.backing_off or variant.hung for variant in draft.variants)
    hindered = draft.no_write is not None or failing or _held_back(draft, cycle)
    if not due or hindered or draft.misses is None or cycle.now_s - due[-1][0] > LONGEST_STEP_S:
        return msgspec.structs.replace(old, plans=plans)
    keep = math.exp(-elapsed_s / draft.state.spec.objectives.window_s)
    requests = draft.demand.rate * elapsed_s
    return msgspec.structs.replace(
        old,
        plans=plans,
        planned=round(old.planned * keep + due[-1][1] * requests, 4),
        missed=round(old.missed * keep + max(0.0, draft.misses - lost) * requests, 4),
    )


def _held_back(draft: Draft, cycle: Cycle) -> bool:
    """There are ceilings, and what was wanted in the cycle before is more than what is declared now.

    What is missed for want of money nobody planned, and no later replica buys it back: with 60 % of the money of a day
    its evening missed most requests, the price of a miss rose twelvefold, and the next morning ran 21 replicas for 8.
    """
    wanted = draft.memory.recommendations
    return bool(cycle.snapshot.policies and wanted) and wanted[-1].replicas > draft.observed


def unbuyable(draft: Draft) -> float:
    """The share that misses however many replicas there are, of the variant where it is largest."""
    known = (variant.memory.capacity for variant in draft.variants)
    return max((memory.unbuyable for memory in known if memory.unbuyable_weight >= ENOUGH), default=0.0)


def anyway(draft: Draft) -> float:
    """The share that misses at every load alike, that of idle replicas included."""
    planned = planned_share(draft.state.spec.objectives.attainment)
    floors = [edge.floor(each.memory.capacity.edge, planned) for each in draft.variants if each.observed]
    return unbuyable(draft) + max(floors, default=0.0)


def _local(outlook: Outlook, rate: float, target: float, planned: float) -> float:
    """The price at which the capacity that just meets the target at the horizon is the cheapest.

    One more replica there saves elasticity x target x load / replicas of misses, so that much must be worth one
    replica. 60 requests/s on 12 replicas at 1 %, of which a percent more capacity saves 8 %: 12 / (8 x 0.6) = 2.5
    replica-hours for each request/s that misses for an hour.
    """
    load = outlook.main.expected
    if load <= 0.0 or rate <= 0.0:
        return 1.0
    low, high = math.log(0.3 * load), math.log(20.0 * load)
    for _ in range(9):
        middle = 0.5 * (low + high)
        more = outlook.main.missed(math.exp(middle), planned) > target * load
        low, high = (middle, high) if more else (low, middle)
    capacity = math.exp(high)
    less = outlook.main.missed(capacity * 1.05, planned)
    more_missed = outlook.main.missed(capacity / 1.05, planned)
    elasticity = math.log(max(more_missed, 1e-12) / max(less, 1e-12)) / (2.0 * math.log(1.05))
    return max(0.3, capacity / rate) / (clip(elasticity, 0.5, 20.0) * target * load)
