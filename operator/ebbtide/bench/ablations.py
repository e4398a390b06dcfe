"""Ebbtide with one part of its decision left out, so that a comparison can say what that part is worth.

They are no rivals: each is asked what it costs to attain what Ebbtide attains. The knob that gets it there is the
objective that it is told: at 2 it is told to miss half of what is allowed (at 99 %: 99.5 %). The same is asked of the
whole, so that a part is not praised for what the knob does. Ebbtide itself is told nothing but what was declared.
"""

from collections.abc import Mapping

import msgspec

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Knob
from ebbtide.core.parts import Parts

TOLD = Knob("misses allowed over those it is told", published=1.0, low=0.2, high=8.0, log=True)
TRIALS = 8  # of the knob: a diagnosis, not a competition

WHOLE = "ebbtide-whole"
ABLATIONS: Mapping[str, Parts] = {
    WHOLE: Parts(),
    "ebbtide-no-forecast": Parts(forecast=False),
    "ebbtide-no-record": Parts(record=False),
    "ebbtide-no-price": Parts(price=False),
    "ebbtide-no-tail": Parts(tail=False),
    "ebbtide-no-keep": Parts(keep=False),
}
NOTES: Mapping[str, str] = {
    WHOLE: "Ebbtide with all of its parts, told other objectives: what those without a part are held against",
    "ebbtide-no-forecast": "what comes now is taken for what will come; its error is still recorded",
    "ebbtide-no-record": "forecasts are doubted as one without a record is, for ever; no jumps to loads seen before",
    "ebbtide-no-price": "each moment's forecast meets the target by itself, whatever was missed or saved before",
    "ebbtide-no-tail": "a replica is filled to 80 % of its limit, however many there are",
    "ebbtide-no-keep": "a replica runs while it pays, without counting its start-up",
}


def told(case: Case, knob: float) -> Case:
    """`case` with the objective that the policy is told at that setting."""
    if knob == TOLD.published:
        return case
    return msgspec.structs.replace(case, attainment=1.0 - (1.0 - case.attainment) / knob)
