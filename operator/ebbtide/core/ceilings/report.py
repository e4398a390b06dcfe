"""What is said of ceilings: on services that do without replicas, and on the policies themselves."""

import math
from collections.abc import Sequence
from decimal import Decimal

from ebbtide.core.ceilings import outlook, overrun, pacing
from ebbtide.core.ceilings.lines import HOUR_S, NOTHING, SMALLEST, Line, PolicyDraft, running_raise
from ebbtide.core.ceilings.stake import Stake
from ebbtide.core.ceilings.words import A_PERIOD, NO_POOL, gpu_hours, moment, money, pods, replicas
from ebbtide.model.memory import OutlookMemory
from ebbtide.model.plan import CeilingPlan, Condition, ConditionStatus, Outlook, PolicyPlan
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.snapshot import Overrun
from ebbtide.model.spec import DEFAULT_PRIORITY, CeilingKind, OverrunCause, Pacing, PolicyScope

_CENT = Decimal("0.01")
_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
_MOST_NAMED = 20


def refusal_words(stake: Stake) -> tuple[Code, str]:
    """`CostPolicy a: 480.00 of 500.00 USD a day are spent and 19.20 bound; a replica takes 1.34 of ..., 0.80`."""
    if stake.held and stake.blocked is None:
        return stake.held
    line = stake.blocked
    if line is None:
        raise AssertionError("nothing refused it")
    spec = line.policy.state.spec
    if line.paced is not None:
        return Code.CEILING_PACED, _paced_words(stake, line, line.paced)
    left = money(max(NOTHING, line.free if stake.waits else line.left))
    takes = f"a replica takes {money(stake.blocked_need)} of what is left, {left}"
    return Code.CEILING_REACHED, f"CostPolicy {spec.name}: {_standing(line)}; {takes}{_given_up(stake)}"


def _given_up(stake: Stake) -> str:
    if stake.exchanged:
        return f"; {stake.exchanged}"
    let_go = sum(part.out for part in stake.parts)
    if let_go:
        return f"; {replicas(let_go)} given up"
    return ", until what gives way is gone" if stake.waits else ""


def _paced_words(stake: Stake, line: Line, period: Line) -> str:
    """`CostPolicy a: paced to 12.00 USD an hour, so that 300.00 of 500.00 USD a month last until ...`."""
    spec = line.policy.state.spec
    rate, left = money(line.ceiling), money(max(NOTHING, period.ceiling - period.spent))
    of = f"{left} of {money(period.ceiling)} {spec.currency} {A_PERIOD[period.kind]}"
    until = f"so that {of} last until {moment(period.end_s)}"
    takes = f"{money(line.committed)} are in use and a replica takes {money(stake.blocked_need)}"
    who = "" if line.is_of_all else f"services of {stake.standing} are "
    takes += "" if line.is_of_all else "; what matters more is paid first"
    return f"CostPolicy {spec.name}: {who}paced to {rate} {spec.currency} an hour {until}; {takes}{_given_up(stake)}"


def payable_words(line: Line, need: Decimal) -> str:
    """`CostPolicy a: 12.00 USD an hour now, 0.80 of 500.00 USD a day left; one replica more takes 1.34`."""
    spec, rate = line.policy.state.spec, money(line.policy.rate * HOUR_S)
    left = f"{money(max(NOTHING, line.free))} of {money(line.ceiling)} {spec.currency} {A_PERIOD[line.kind]}"
    left += " left" if line.paced is None else f" left, to which its {line.paced.kind.value.lower()} is paced"
    return f"CostPolicy {spec.name}: {rate} {spec.currency} an hour now, {left}; one replica more takes {money(need)}"


def policy_plans(policies: list[PolicyDraft]) -> tuple[PolicyPlan, ...]:
    """Sorted by name."""
    return tuple(_plan(policy) for policy in sorted(policies, key=lambda policy: policy.state.spec.name))


def _plan(policy: PolicyDraft) -> PolicyPlan:
    shown = [line for line in policy.lines if line.paced is None and line.begin_s <= policy.now_s]
    overruns = overrun.judge(policy, shown)
    conditions = (_within(policy, shown, overruns), _prices(policy, shown), _selects(policy))
    first = next((item for item in conditions if item.status is _FALSE), conditions[0])
    ready = Condition("Ready", first.status, first.reason, first.message)
    if policy.state.outdated:
        kept = f"until it can be read, its ceilings as of generation {policy.state.spec.generation} hold"
        ready = Condition("Ready", _FALSE, Code.INVALID_SPEC.value, f"{policy.state.outdated}; {kept}")
    gave_way = sorted(policy.gave_way.items(), key=lambda item: (-item[1], item[0]))
    return PolicyPlan(
        name=policy.state.spec.name,
        uid=policy.state.spec.uid,
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
        conditions=(ready, *conditions, *_agrees(policy, shown)),
        accrued_through=policy.now_s if policy.state.through_s else 0.0,
        outlooks=tuple(_outlook(item) for item in policy.outlooks if policy.memory.at),
        allowed_per_hour=_allowed(policy),
        paced=_paced(policy),
        scored_days=len(policy.memory.errors),
        mean_error=outlook.mean_error(policy.memory),
        in_range=outlook.in_range(policy.memory),
        reached=tuple(policy.reached),
        newly_reached=tuple(policy.newly_reached),
        stuck=_stuck(policy),
        overruns=overruns,
        next_threshold=policy.next_threshold,
    )


def _allowed(policy: PolicyDraft) -> Decimal | None:
    """What all may cost an hour; None: neither pacing nor a rate's ceiling holds."""
    rates = [line.ceiling / HOUR_S for line in policy.lines if line.is_rate and line.paced is None]
    if policy.state.spec.pacing is Pacing.SMOOTH:
        paced = [item.allowed_per_hour for item in policy.outlooks if item.allowed_per_hour >= 0]
        rates += [Decimal(each).quantize(SMALLEST) for each in paced]
    return min(rates, default=None)


def _paced(policy: PolicyDraft) -> tuple[tuple[int, Decimal], ...]:
    """Each class by its lowest priority, the highest first; of several periods the rate that is least."""
    found: dict[int, Decimal] = {}
    known = [each for each in policy.classes if each != pacing.OTHERS]
    for line in policy.lines:
        if line.paced is not None and line.least != pacing.OTHERS:
            priority = min(known, default=DEFAULT_PRIORITY) if line.least == pacing.LEAST else line.least
            found[priority] = min(found.get(priority, line.ceiling), line.ceiling)
    return tuple((priority, rate / HOUR_S) for priority, rate in sorted(found.items(), reverse=True))


def _outlook(item: OutlookMemory) -> Outlook:
    amounts = (item.expected, item.low, item.high, item.held)
    expected, low, high, held = (Decimal(each).quantize(_CENT) for each in amounts)
    return Outlook(item.kind, item.start_s, expected, low, high, held, item.exceeded_s or None)


def _ceiling(line: Line) -> CeilingPlan:
    spent, bound = line.spent / HOUR_S, line.committed / HOUR_S
    if line.kind is CeilingKind.HOUR:
        spent = line.policy.rate
        bound = max(NOTHING, bound - spent)
    ceiling = line.ceiling / HOUR_S
    return CeilingPlan(line.kind, line.begin_s, line.end_s, ceiling, spent, bound, line.unpriced)


def _within(policy: PolicyDraft, lines: list[Line], overruns: Sequence[Overrun]) -> Condition:
    """What cannot be reduced may cross a ceiling, and an outage may have; then why, by how much, and from when."""
    if policy.state.faults:
        code, text = policy.state.faults[0]
        return Condition("WithinCeilings", _FALSE, code, f"{text}; nothing under it is raised")
    for line in lines:
        causes = [item for item in overruns if item.kind is line.kind]
        if causes:
            return Condition("WithinCeilings", _FALSE, Code.CEILING_EXCEEDED.value, _exceeded(policy, line, causes))
    currency = policy.state.spec.currency
    said = "; ".join(_standing(line) for line in lines)
    given = sum(policy.gave_way.values())
    gave = f"; {len(policy.gave_way)} services do without {replicas(given)}" if given else ""
    text = f"{policy.services} services spend {money(policy.rate * HOUR_S)} {currency} an hour; {said}{gave}"
    text += _raised(policy) + _beside(policy)
    if policy.unpriced:
        text = f"not known, for of GPUs in use ({policy.unpriced_words}) nobody knows the price; of the others: {text}"
        return Condition("WithinCeilings", _UNKNOWN, Code.PRICE_UNKNOWN.value, text)
    ran = _ran_unpriced(lines)
    if ran:
        text = f"not known, for of what ran nobody knows the price ({ran}); of all else: {text}"
        return Condition("WithinCeilings", _UNKNOWN, Code.PRICE_UNKNOWN.value, text)
    return Condition("WithinCeilings", _TRUE, Code.WITHIN_CEILINGS.value, text)


def _ran_unpriced(lines: list[Line]) -> str:
    """`0.05 GPU-hours of h100 in a day`; empty: in no running period any."""
    found = []
    for line in lines:
        if line.unpriced:
            hours = " and ".join(f"{gpu_hours(seconds)} of {pool or NO_POOL}" for pool, seconds in line.unpriced)
            found.append(f"{hours} in {A_PERIOD[line.kind]}")
    return "; ".join(found)


def _raised(policy: PolicyDraft) -> str:
    more = running_raise(policy)
    return "" if more is None else f"; raised by {more.by} until {moment(more.until_unix_s)}: {more.reason}"


def _stuck(policy: PolicyDraft) -> str:
    """`past their exit ...: 3 pods of ml/chat, 9.00 USD an hour until somebody removes them`; empty: none is."""
    if not policy.stuck:
        return ""
    most = sorted(policy.stuck.items(), key=lambda item: (-item[1][0], item[0]))
    named = ", ".join(f"{pods(count)} of {key}" for key, (count, _) in most[:_MOST_NAMED])
    more = f" and {len(most) - _MOST_NAMED} services more" if len(most) > _MOST_NAMED else ""
    rate = sum((rate for _, rate in policy.stuck.values()), NOTHING)
    cost = f"{money(rate * HOUR_S)} {policy.state.spec.currency} an hour until somebody removes them"
    return f"past their exit and holding GPUs that nobody may take: {named}{more}, {cost}"


def _beside(policy: PolicyDraft) -> str:
    stuck = _stuck(policy)
    return f"; {stuck}" if stuck else ""


def _exceeded(policy: PolicyDraft, line: Line, causes: Sequence[Overrun]) -> str:
    currency, rate = policy.state.spec.currency, policy.fixed_rate + policy.missing_rate
    over = overrun.over_of(line) * HOUR_S
    parted = "" if len(causes) == 1 else ", {} more"
    what = "; ".join(_cause(policy, item) + parted.format(money(item.amount * HOUR_S)) for item in causes)
    if line.kind is CeilingKind.HOUR:
        more = f"{money(over)} more than the {money(line.ceiling)} {currency} of a rate that are allowed"
        return f"{what}: {more}{_beside(policy)}"
    left = line.ceiling - line.spent
    if left <= 0:
        since = "it is crossed already"
    else:
        at_s = policy.now_s + float(left / rate) if rate > 0 else math.inf
        since = f"it is crossed from {moment(min(at_s, line.end_s))}"
    over_words, by = f"{money(over)} more", " by its end"
    if line.passing and policy.passing_rate:  # a pod of a minute is not reserved for weeks: less is known than wanted
        lately = f"{money(policy.passing_rate * HOUR_S)} {currency} an hour that came lately"
        minutes = math.ceil(min(policy.reserve_s, line.end_s - policy.now_s) / 60)
        over_words, by = f"at least {over_words}", f": of {lately} the next {minutes} min alone are counted"
    more = f"with {money(line.spent)} spent that is {over_words} than the {money(line.ceiling)} {currency}"
    return f"{what}: {more} of {A_PERIOD[line.kind]}{by}; {since}{_beside(policy)}"


def _cause(policy: PolicyDraft, item: Overrun) -> str:
    currency, rate = policy.state.spec.currency, policy.fixed_rate + policy.missing_rate
    name, seen = item.cause.value, moment(item.seen_s)
    if item.cause is OverrunCause.OPERATOR_DOWN:
        away = f"nothing was decided between {moment(item.since_s)} and {seen}"
        return f"{name}: {away}, longer than the {policy.reserve_s} s that are paid for in advance"
    if item.cause is OverrunCause.CEILING_BELOW_SPENT:
        return f"{name}: the ceiling was set to less than what had been spent by {seen}"
    if item.cause is OverrunCause.RECOUNTED:
        return f"{name}: {money(item.amount * HOUR_S)} {currency} more were spent than was known before {seen}"
    if rate > 0:
        return f"what may not be reduced costs {money(rate * HOUR_S)} {currency} an hour"
    return f"{name}: not all that ran could be reduced in time, as seen at {seen}"


def _prices(policy: PolicyDraft, lines: list[Line]) -> Condition:
    """Whether all that runs has a price, and all that ran in a running period had one."""
    pools, currency, ran = policy.unpriced_words, policy.state.spec.currency, _ran_unpriced(lines)
    if not policy.unpriced and not ran:
        return Condition("PricesKnown", _TRUE, Code.PRICES_KNOWN.value, "every pool in use has a price")
    late = f"not in what was spent, until a price is known by which they are paid late ({ran})" if ran else ""
    if not policy.unpriced:
        text = f"what ran at a price that nobody knew in {currency} is {late}, or the period ends"
        return Condition("PricesKnown", _FALSE, Code.PRICE_UNKNOWN.value, text)
    code = Code.CURRENCY_DIFFERS if policy.wrong_currency else Code.PRICE_UNKNOWN
    text = f"what GPUs in use cost in {currency} is not known ({pools}): it is not counted, and nothing is raised"
    text += f"; what ran so far is {late}" if late else ""
    return Condition("PricesKnown", _FALSE, code.value, text)


def _agrees(policy: PolicyDraft, lines: list[Line]) -> tuple[Condition, ...]:
    """With the ledger; beside Ready, for ceilings hold by what was mended."""
    compared, ran = policy.state.compared, _ran_unpriced(lines)
    if compared is None:
        return ()
    at, currency = moment(compared.at_s), policy.state.spec.currency
    if compared.mended and not compared.first:
        text = f"at {at} what was spent was set to what the ledger makes of lifetimes, in {currency}: {compared.mended}"
        return (Condition("LedgerAgrees", _FALSE, Code.LEDGER_MENDED.value, text),)
    text = f"what was spent up to {at} is what the ledger makes of lifetimes"
    if compared.mended:
        text = f"what was spent up to {at} was asked of the ledger, in {currency}: {compared.mended}"
    elif compared.less:
        text = f"as of {at} the ledger knows {currency} {compared.less}, and not all that it would take to lower that"
    if ran:
        text = f"{text}; neither knows what all of it cost ({ran})"
        return (Condition("LedgerAgrees", _UNKNOWN, Code.PRICE_UNKNOWN.value, text),)
    return (Condition("LedgerAgrees", _TRUE, Code.LEDGER_AGREES.value, text),)


def _selects(policy: PolicyDraft) -> Condition:
    """Of scope AllGPUPods pods of others are selected too, and may come at any time."""
    spec, others = policy.state.spec, policy.state.others
    foreign = sum(item.lasting + item.passing for item in others)
    if policy.services or others or spec.pays_all:
        text = f"{policy.services} inference services fall under it"
        if spec.scope is PolicyScope.ALL_GPU_PODS:
            text += f", and pods of others that hold {foreign} GPUs"
        return Condition("Selects", _TRUE, Code.RESOLVED.value, text)
    if spec.scope is PolicyScope.ALL_GPU_PODS:
        where = ", ".join(spec.namespaces[:_MOST_NAMED])
        text = f"no inference service and no pod that holds GPUs is in {where} now; those that come fall under it"
        return Condition("Selects", _UNKNOWN, Code.SELECTS_NOTHING.value, text)
    return Condition("Selects", _FALSE, Code.SELECTS_NOTHING.value, "no inference service falls under it")


def _standing(line: Line) -> str:
    """`480.00 of 500.00 USD a day are spent and 19.20 bound`."""
    currency, bound = line.policy.state.spec.currency, line.committed
    if line.kind is CeilingKind.HOUR:
        return f"{money(bound)} of {money(line.ceiling)} {currency} an hour are in use"
    spent = f"{money(line.spent)} of {money(line.ceiling)} {currency} {A_PERIOD[line.kind]} are spent"
    return f"{spent} and {money(bound)} bound"
