"""Which services want of money moves to their degraded variants: before anybody of lower priority gives way.

Asked is whether all would fit if no stand-in served, so that what they save does not end what they were called for.
Where it would not, services are pressed in order of priority, the lowest first, until what their stand-ins save is
enough; by a threshold with UseDegraded all of them. Worked example: 36 USD an hour are wanted of 24. The lowest of
three would save 9 with its stand-ins and the next one 6: these two are pressed, and the third keeps what it has.

Who is pressed and serves by stand-ins goes back only where the first of the others can be paid beside them, and with
the cost of one stand-in to spare.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal

from ebbtide.core import stand_in
from ebbtide.core.ceilings.claims import refuse_raises
from ebbtide.core.ceilings.lines import NOTHING, Line, PolicyDraft
from ebbtide.core.ceilings.stake import Known, Part, Stake, takes, tariff_for
from ebbtide.core.ceilings.words import A_PERIOD, money
from ebbtide.core.guardrails import bounds
from ebbtide.core.work import VariantDraft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Floor, ThresholdAction


def judge(stakes: Iterable[Stake], known: Known, now_s: float) -> None:
    """Note in the drafts whom want of money presses; nothing is raised for who is pressed for the first time.

    The next cycle finds cheaper ones for it; meanwhile its raises would take from those below.
    """
    under: dict[int, tuple[PolicyDraft, list[Stake]]] = {}
    movable = [stake for stake in stakes if stake.draft.stand_ins and stake.movable]
    for stake in sorted(movable, key=lambda stake: (stake.priority, stake.key)):
        for policy in stake.policies:
            under.setdefault(id(policy), (policy, []))[1].append(stake)
    for policy, able in under.values():
        why = policy.acting.get(ThresholdAction.USE_DEGRADED)
        if why:
            for stake in able:
                _press(stake, policy, f"CostPolicy {policy.state.spec.name}: {why}", now_s)
            continue
        for line in policy.lines:
            under_it = [stake for stake in able if line.least <= stake.priority < line.below]
            _relieve(line, under_it, known, now_s)


def _relieve(line: Line, able: list[Stake], known: Known, now_s: float) -> None:
    """Press as many as it takes for all to fit."""
    total = line.spent + line.planned
    for stake in able:
        total += _without(stake, line, known) - stake.planned[id(line)]
    over, words = total - line.ceiling, _words(line, total)
    for stake in able:
        if over <= 0:
            return
        saves = _steady(stake, line, known, _plain) - _steady(stake, line, known, _cheap)
        if saves > 0:
            _press(stake, line.policy, words, now_s)
            over -= saves


def _press(stake: Stake, policy: PolicyDraft, words: str, now_s: float) -> None:
    stand_in.press(stake.draft, now_s, words)
    if not stake.draft.pressed:
        why = Code.USES_DEGRADED, f"{words}; cheaper ones are raised instead"
        refuse_raises(stake, policy, stake.parts, why, minimums=False)


def _words(line: Line, total: Decimal) -> str:
    """`CostPolicy cap: without degraded variants 36.00 of 24.00 USD an hour would be in use`."""
    spec = line.policy.state.spec
    without = f"CostPolicy {spec.name}: without degraded variants {money(total)}"
    if line.paced is not None:
        return f"{without} {spec.currency} an hour would be in use of the {money(line.ceiling)} to which it is paced"
    verb = "in use" if line.is_rate else "spent or bound"
    return f"{without} of {money(line.ceiling)} {spec.currency} {A_PERIOD[line.kind]} would be {verb}"


def _plain(variant: VariantDraft) -> int:
    return variant.plain


def _cheap(variant: VariantDraft) -> int:
    return variant.cheap


def _steady(stake: Stake, line: Line, known: Known, count: Callable[[VariantDraft], int]) -> Decimal:
    """What so many of each variant take of the line while they run, the minimum to its end where it is kept."""
    total, least = NOTHING, bounds.minimum(stake.draft) if _keeps(stake) else 0
    for part in stake.parts:
        number = count(part.variant)
        fixed = min(number, least)
        least -= fixed
        keep, _ = _prices(part, line, known)
        if fixed and keep:
            tariff = tariff_for(part, line.policy, known)
            to_end = NOTHING if tariff is None else line.takes(tariff, line.end_s - line.policy.now_s)
            total += fixed * part.gpus * to_end
        total += (number - fixed) * keep
    return total


def _without(stake: Stake, line: Line, known: Known) -> Decimal:
    """What it would take of the line without stand-ins: what is still to be raised of it as a raise, and a margin."""
    total, spare, serving, first = _steady(stake, line, known, _plain), NOTHING, NOTHING, NOTHING
    for part in stake.parts:
        keep, rise = _prices(part, line, known)
        more = max(0, part.variant.plain - part.runs)
        idle = min(more, line.policy.idle.get(part.variant.spec.pool, 0) // part.gpus)  # paid for anyway
        total += (more - idle) * rise - more * keep
        if part.variant.spec.degraded and part.runs and stake.draft.pressed:
            spare, serving = max(spare, keep), serving + part.runs * keep
        elif part.variant.plain:
            first = max(first, rise)
    return max(total + spare, serving + first) if serving else total


def _prices(part: Part, line: Line, known: Known) -> tuple[Decimal, Decimal]:
    """As `takes`; nothing of nodes that are paid for whoever leaves, and where nobody knows the price."""
    tariff = tariff_for(part, line.policy, known)
    if tariff is None or line.policy.paid_anyway(part.variant.pool):
        return NOTHING, NOTHING
    return takes(line, tariff, part)


def _keeps(stake: Stake) -> bool:
    return any(policy.state.spec.floor is Floor.KEEP_MIN for policy in stake.policies)
