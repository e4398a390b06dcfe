"""Off and Recommend never write: what would be done is planned and shown all the same."""

from ebbtide.core.guardrails.verdict import Verdict
from ebbtide.core.work import Cycle, Draft
from ebbtide.model.reasons import Code
from ebbtide.model.spec import Mode

_CODES = {Mode.OFF: Code.MODE_OFF, Mode.RECOMMEND: Code.MODE_RECOMMEND}


def apply(draft: Draft, cycle: Cycle) -> Verdict | None:
    """Leave the counts alone; forbid the write."""
    del cycle
    mode = draft.state.spec.mode
    if mode is not Mode.AUTO and draft.no_write is None:
        draft.no_write = (_CODES[mode], f"mode is {mode.value}: nothing is written to the targets")
    return None
