"""A template of an engine block that asks for more GPUs is a raise of every replica: how many every ceiling can pay.

Asked once raises are granted, of what they left; what one template takes no other has. Replicas that may not be reduced
are paid to the end of the period, others as any raise. Worked example: 4 replicas of 1 GPU at 2.50 USD/h, of a day 10
USD are free, and a GPU takes 1.42 for 2 W and its start-up: 10 / (4 x 1.42) is 1 more for each, so 2 GPUs a replica.
"""

from decimal import Decimal

from ebbtide.core.ceilings.lines import NOTHING, Line, Tariff
from ebbtide.core.ceilings.report import payable_words
from ebbtide.core.ceilings.stake import Known, Part, Stake, tariff_for
from ebbtide.model.spec import ThresholdAction

_ANY = 1_000_000
_NO_PRICE = "what its pool's GPUs cost is not known"


def note(part: Part, stake: Stake, known: Known) -> None:
    """Say how many GPUs a replica the variant's template may ask for, and take what is declared of that."""
    variant = part.variant
    present = variant.state.target.template_gpus
    replicas = max(part.runs, part.fixed, variant.count)
    if variant.spec.engine is None or present is None or not replicas or not stake.policies:
        return
    declared = variant.spec.gpus_per_replica or present
    found: list[tuple[Line, Decimal]] = []
    more, because = None, ""
    for policy in stake.policies:
        tariff = tariff_for(part, policy, known)
        stop = policy.refuses or policy.acting.get(ThresholdAction.FREEZE, "")
        if tariff is None or stop:
            variant.template_gpus = present
            variant.template_because = stop or f"CostPolicy {policy.state.spec.name}: {_NO_PRICE}"
            return
        for line in policy.lines_of(stake.priority):
            need = _takes(line, tariff, part, replicas)
            fits = int(max(NOTHING, line.free) // need) if need else _ANY
            found.append((line, need))
            if more is None or fits < more:
                more, because = fits, payable_words(line, need)
    if more is None or more >= _ANY:
        return
    variant.template_gpus = present + more
    variant.template_because = because.replace("one replica", "one GPU a replica")
    if present < declared <= present + more:
        for line, need in found:
            line.free -= (declared - present) * need


def _takes(line: Line, tariff: Tariff, part: Part, replicas: int) -> Decimal:
    """Of one GPU more in each replica."""
    policy = line.policy
    to_end = line.takes(tariff, line.end_s - policy.now_s)
    rise = line.takes(tariff, 2 * policy.reserve_s + part.variant.startup_s)
    fixed = replicas if part.stays else min(part.fixed, replicas)
    return fixed * to_end + (replicas - fixed) * rise
