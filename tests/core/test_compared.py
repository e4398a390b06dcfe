"""What a policy says of the ledger: what was mended, by how much and when, beside Ready."""

import msgspec
import pytest

from ebbtide.clock import rfc3339
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Condition, ConditionStatus
from ebbtide.model.snapshot import Compared
from ebbtide.record.events import cycle_events
from ebbtide.record.view import policy_status
from tests.builders import NOW
from tests.core.purse import Member, World, policy

YES, NO = ConditionStatus.TRUE, ConditionStatus.FALSE
AT = rfc3339(NOW - 60)


@pytest.mark.parametrize(
    ("story", "compared", "want"),
    [
        ("not compared yet", None, None),
        (
            "the same",
            Compared(NOW - 60),
            (YES, "LedgerAgrees", f"what was spent up to {AT} is what the ledger makes of lifetimes"),
        ),
        (
            "mended",
            Compared(NOW - 60, "Day 50.00 -> 35.00"),
            (
                NO,
                "LedgerMended",
                f"at {AT} what was spent was set to what the ledger makes of lifetimes, in USD: Day 50.00 -> 35.00",
            ),
        ),
        (
            "new here, or its status was lost",
            Compared(NOW - 60, "Day 0.00 -> 35.00", first=True),
            (YES, "LedgerAgrees", f"what was spent up to {AT} was asked of the ledger, in USD: Day 0.00 -> 35.00"),
        ),
        (
            "it knows less, and not enough to lower it",
            Compared(NOW - 60, less="Day 35.00 of 50.00"),
            (
                YES,
                "LedgerAgrees",
                f"as of {AT} the ledger knows USD Day 35.00 of 50.00, and not all that it would take to lower that",
            ),
        ),
    ],
)
def test_what_is_said(story: str, compared: Compared | None, want: tuple[ConditionStatus, str, str] | None) -> None:
    state = World([Member("chat", 5.0)], [policy(per_day="100")]).snapshot()
    told = tuple(msgspec.structs.replace(item, compared=compared) for item in state.policies)
    state = msgspec.structs.replace(state, policies=told)
    decided, _ = plan(state, Memory(), NOW)
    found = [item for item in decided.policies[0].conditions if item.type == "LedgerAgrees"]
    assert found == ([Condition("LedgerAgrees", *want)] if want else []), story
    ready = next(item for item in decided.policies[0].conditions if item.type == "Ready")
    assert ready.status is YES, "its ceilings hold"
    notes = [note for note in cycle_events(decided, state, []) if note.reason.startswith("Ledger")]
    mended = want is not None and want[0] is NO
    assert [(note.type, note.text) for note in notes] == ([("Normal", want[2])] if want and mended else []), story
    shown = policy_status(decided.policies[0], 1, {}, NOW)["conditions"]
    assert [item["reason"] for item in shown if item["type"] == "LedgerAgrees"] == ([want[1]] if want else [])
