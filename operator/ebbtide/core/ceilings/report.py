"""What is said of ceilings: on services that do without replicas, and on the policies themselves."""

import math
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from ebbtide.core.ceilings.lines import HOUR_S, NOTHING, Line, PolicyDraft, running_raise
from ebbtide.core.ceilings.stake import Stake
from ebbtide.model.plan import CeilingPlan, Condition, ConditionStatus, PolicyPlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.spec import CeilingKind

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
_PLACES = Decimal("0.01")
_A = {CeilingKind.HOUR: "an hour", CeilingKind.DAY: "a day", CeilingKind.MONTH: "a month"}
_MOST_NAMED = 20


def refusal_words(stake: Stake) -> tuple[Code, str]:
    """`CostPolicy a: 480.00 of 500.00 USD a day are spent and 19.20 bound; a replica takes 1.34 of ..., 0.80`."""
    if stake.refusal and stake.blocked is None:
        return Code.POLICIES_UNKNOWN, f"{stake.refusal}: nothing under it is raised"
    line = stake.blocked
    if line is None:
        raise AssertionError("nothing refused it")
    spec = line.policy.state.spec
    left = _money(max(NOTHING, line.free if stake.waits else line.left))
    takes = f"a replica takes {_money(stake.blocked_need)} of what is left, {left}"
    text = f"CostPolicy {spec.name}: {_standing(line)}; {takes}"
    let_go = sum(part.out for part in stake.parts)
    if let_go:
        text += f"; {_count(let_go)} given up"
    elif stake.waits:
        text += ", until what gives way is gone"
    return Code.CEILING_REACHED, text


def policy_plans(policies: list[PolicyDraft]) -> tuple[PolicyPlan, ...]:
    """Sorted by name."""
    return tuple(_plan(policy) for policy in sorted(policies, key=lambda policy: policy.state.spec.name))


def _plan(policy: PolicyDraft) -> PolicyPlan:
    shown = [line for line in policy.lines if line.kind is CeilingKind.HOUR or line.begin_s <= policy.now_s]
    conditions = (_within(policy, shown), _prices(policy), _selects(policy))
    first = next((item for item in conditions if item.status is _FALSE), conditions[0])
    ready = Condition("Ready", first.status, first.reason, first.message)
    gave_way = sorted(policy.gave_way.items(), key=lambda item: (-item[1], item[0]))
    return PolicyPlan(
        name=policy.state.spec.name,
        services=policy.services,
        ceilings=tuple(_ceiling(line) for line in shown),
        per_hour=policy.rate,
        wanted_per_hour=policy.wanted_rate,
        uncontrollable_per_hour=policy.fixed_rate,
        unpriced_gpus=sum(policy.unpriced.values()),
        gave_way=tuple(gave_way[:_MOST_NAMED]),
        given_up=sum(policy.gave_way.values()),
        raised=tuple(sorted(policy.raised)),
        reason=Reason(Code(ready.reason), ready.message),
        conditions=(ready, *conditions),
        accrued_through=policy.now_s if policy.state.through_s else 0.0,
    )


def _ceiling(line: Line) -> CeilingPlan:
    spent, bound = line.spent / HOUR_S, line.committed / HOUR_S
    if line.kind is CeilingKind.HOUR:
        spent = line.policy.rate
        bound = max(NOTHING, bound - spent)
    return CeilingPlan(line.kind, line.begin_s, line.end_s, line.ceiling / HOUR_S, spent, bound)


def _within(policy: PolicyDraft, lines: list[Line]) -> Condition:
    """What cannot be reduced may cross a ceiling; then by how much, and from when."""
    if policy.state.faults:
        code, text = policy.state.faults[0]
        return Condition("WithinCeilings", _FALSE, code, f"{text}; nothing under it is raised")
    for line in lines:
        over = line.spent + line.bound - line.ceiling
        if over > 0:
            return Condition("WithinCeilings", _FALSE, Code.CEILING_EXCEEDED.value, _exceeded(policy, line, over))
    currency = policy.state.spec.currency
    said = "; ".join(_standing(line) for line in lines)
    given = sum(policy.gave_way.values())
    gave = f"; {len(policy.gave_way)} services do without {_count(given)}" if given else ""
    text = f"{policy.services} services spend {_money(policy.rate * HOUR_S)} {currency} an hour; {said}{gave}"
    text += _raised(policy)
    return Condition("WithinCeilings", _TRUE, Code.WITHIN_CEILINGS.value, text)


def _raised(policy: PolicyDraft) -> str:
    more = running_raise(policy)
    return "" if more is None else f"; raised by {more.by} until {_moment(more.until_unix_s)}: {more.reason}"


def _moment(at_s: float) -> str:
    return f"{datetime.fromtimestamp(math.floor(at_s), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _exceeded(policy: PolicyDraft, line: Line, over: Decimal) -> str:
    currency, rate = policy.state.spec.currency, policy.fixed_rate + policy.missing_rate
    what = f"what may not be reduced costs {_money(rate * HOUR_S)} {currency} an hour"
    if line.kind is CeilingKind.HOUR:
        return f"{what}: {_money(over)} more than the {_money(line.ceiling)} {currency} of a rate that are allowed"
    left = line.ceiling - line.spent
    if left <= 0:
        since = "it is crossed already"
    else:
        at_s = policy.now_s + float(left / rate) if rate > 0 else math.inf
        since = f"it is crossed from {_moment(min(at_s, line.end_s))}"
    more = f"with {_money(line.spent)} spent that is {_money(over)} more than the {_money(line.ceiling)} {currency}"
    return f"{what}: {more} of {_A[line.kind]} by its end; {since}"


def _prices(policy: PolicyDraft) -> Condition:
    if not policy.unpriced:
        return Condition("PricesKnown", _TRUE, Code.PRICES_KNOWN.value, "every pool in use has a price")
    pools, currency = policy.unpriced_words, policy.state.spec.currency
    code = Code.CURRENCY_DIFFERS if policy.wrong_currency else Code.PRICE_UNKNOWN
    text = f"what GPUs in use cost in {currency} is not known ({pools}): it is not counted, and nothing is raised"
    return Condition("PricesKnown", _FALSE, code.value, text)


def _selects(policy: PolicyDraft) -> Condition:
    if policy.services or policy.state.others:
        text = f"{policy.services} inference services fall under it"
        return Condition("Selects", _TRUE, Code.RESOLVED.value, text)
    return Condition("Selects", _FALSE, Code.SELECTS_NOTHING.value, "no inference service falls under it")


def _standing(line: Line) -> str:
    """`480.00 of 500.00 USD a day are spent and 19.20 bound`."""
    currency, bound = line.policy.state.spec.currency, line.committed
    if line.kind is CeilingKind.HOUR:
        return f"{_money(bound)} of {_money(line.ceiling)} {currency} an hour are in use"
    spent = f"{_money(line.spent)} of {_money(line.ceiling)} {currency} {_A[line.kind]} are spent"
    return f"{spent} and {_money(bound)} bound"


def _money(amount: Decimal) -> str:
    return str((amount / HOUR_S).quantize(_PLACES, ROUND_HALF_EVEN))


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
