"""Thresholds: which shares of a ceiling are reached, what acts upon it, and which comes next.

One is said when it begins to act. What was spent acts until the period ends or the ceiling is raised above it; a
forecast, made of half a day at least, until it is 5 % lower, so that nothing goes to and fro with it.
"""

from collections.abc import Iterator
from decimal import Decimal

from ebbtide.core.ceilings import outlook
from ebbtide.core.ceilings.lines import HOUR_S, Line, PolicyDraft
from ebbtide.core.ceilings.words import A_PERIOD, moment, money
from ebbtide.model.plan import NextThreshold
from ebbtide.model.snapshot import Reached
from ebbtide.model.spec import Threshold, ThresholdAction, ThresholdBasis

_ENDS = Decimal("0.95")  # of a forecast's threshold
_PERCENT = Decimal(100)


def judge(policy: PolicyDraft) -> None:
    """Note in the policy what is reached, what acts, and what is next."""
    before = {(item.period, item.basis, item.percent, item.start_s): item for item in policy.state.reached}
    coming: list[NextThreshold] = []
    for threshold, line, amount in _compared(policy):
        limit = line.ceiling / HOUR_S * threshold.percent / _PERCENT
        key = threshold.period, threshold.basis, threshold.percent, float(line.begin_s)
        known, over = before.get(key), amount >= limit
        if known is None and not over:
            coming.append(NextThreshold(threshold, limit - amount))
            continue
        acting = over
        if known is not None and threshold.basis is ThresholdBasis.FORECAST:
            acting = over or (known.acting and amount >= limit * _ENDS)
        at_s = float(policy.now_s) if known is None else known.at_s
        found = Reached(threshold.period, threshold.basis, threshold.percent, float(line.begin_s), at_s, acting)
        text = _words(threshold, line, amount)
        policy.reached.append(found)
        if known is None or (acting and not known.acting):
            policy.newly_reached.append((found, text))
        if acting:
            for action in threshold.actions:
                policy.acting.setdefault(action, text)
    policy.next_threshold = min(coming, key=lambda item: item.missing, default=None)


def _compared(policy: PolicyDraft) -> Iterator[tuple[Threshold, Line, Decimal]]:
    """Each threshold with the line of its period and what is compared with it."""
    lines = {line.kind: line for line in reversed(policy.lines) if line.is_now}
    outlooks = {(item.kind, item.start_s): item for item in policy.outlooks}
    for threshold in policy.state.spec.thresholds:
        line = lines.get(threshold.period)
        if line is None:
            continue
        amount = line.spent / HOUR_S
        if threshold.basis is ThresholdBasis.FORECAST:
            foreseen = outlooks.get((line.kind, float(line.begin_s)))
            if foreseen is None or outlook.is_young(policy.memory):
                continue  # of some hours nothing is foretold that something should act upon
            amount = max(amount, Decimal(foreseen.expected))
        yield threshold, line, amount


def _words(threshold: Threshold, line: Line, amount: Decimal) -> str:
    """`400.10 of 500.00 USD a day are spent, 80 % and more: HoldScaleUp until 2026-11-24T00:00:00Z`."""
    currency = line.policy.state.spec.currency
    forecast = threshold.basis is ThresholdBasis.FORECAST
    are = "are forecast by its end" if forecast else "are spent"
    acts = ", ".join(action.value for action in threshold.actions if action is not ThresholdAction.NOTIFY)
    until = "while that is forecast" if forecast else f"until {moment(line.end_s)}"
    of = f"{money(amount * HOUR_S)} of {money(line.ceiling)} {currency} {A_PERIOD[line.kind]} {are}"
    return f"{of}, {threshold.percent} % and more" + (f": {acts} {until}" if acts else "")
