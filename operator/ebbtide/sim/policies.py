"""Ebbtide's own plan as the policy of a simulated fleet."""

from collections.abc import Sequence

from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan, ScaleAction
from ebbtide.model.snapshot import Snapshot


class EbbtidePolicy:
    """The same `plan` as in a cluster; keeps its memory between cycles and the plans for inspection."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.plans: list[Plan] = []

    def __call__(self, snapshot: Snapshot, now_s: float) -> Sequence[ScaleAction]:
        """Plan, remember, and return what to write."""
        decided, self.memory = plan(snapshot, self.memory, now_s)
        self.plans.append(decided)
        return decided.actions
