"""A policy that was edited while nobody led: what its status says was counted under other terms."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from ebbtide.api import parse_policy
from ebbtide.controller.policies import Policies
from ebbtide.core.plan import plan
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.money.accounts import Key
from ebbtide.observe.holdings import Held
from tests.builders import NOW, engine, pod, pool, service, snapshot, spec, variant
from tests.shell.test_policies import Declared

MONTH = {"currency": "USD", "selector": {"namespaces": ["ml"]}, "ceilings": {"perMonth": "3000"}}
DAY = MONTH | {"ceilings": {"perDay": "100"}}
BUSY = service(variant("h100", [pod("a", engine(200.0))], 1), spec("ml/chat", max_replicas=40))


class Leader:
    """One that begins to lead now: three cycles pass before it raises anything."""

    def __init__(self, api: Declared) -> None:
        self.api, self.policies, self.memory = api, Policies(api, api.raw), Memory()  # type: ignore[arg-type]

    def leads(self, since_s: float) -> Plan:
        for turn in range(4):
            at = since_s + 10 * turn
            state = msgspec.structs.replace(snapshot([BUSY], [pool(price="3.00")], taken_at=at), cycle_s=10.0)
            specs = [parse_policy(self.api.raw("cap") or {})]
            observed = self.policies.observed(state, specs, Held((), {}, True))
            decided, self.memory = plan(observed, self.memory, at)
        return decided

    def asks_the_ledger(self, at: float) -> None:
        self.policies.settle(lambda asked, labels: ({"uid-cap": dict[Key, Any]()}, int(at), 0, {}), {})


async def led_before(api: Declared) -> None:
    """By somebody of whom the ledger was asked; it wrote the status and went."""
    leader = Leader(api)
    leader.leads(NOW - 80)
    leader.asks_the_ledger(NOW - 50)
    await leader.policies.report(leader.leads(NOW - 40))
    assert api.bodies[-1]["status"]["reason"] != "Pending"


@pytest.mark.parametrize(
    ("story", "before", "after", "raises"),
    [
        ("a day's ceiling is added", MONTH, MONTH | {"ceilings": {"perDay": "100", "perMonth": "3000"}}, False),
        ("it selects more", DAY, DAY | {"selector": {"namespaces": ["ml", "batch"]}}, False),
        ("it pays for others' pods too", DAY, DAY | {"scope": "AllGPUPods"}, False),
        ("its days begin elsewhere", DAY, DAY | {"timeZone": "Asia/Tokyo"}, False),
        ("its months begin later", MONTH, MONTH | {"monthStartsOn": 15}, False),
        ("a higher ceiling counts the same", DAY, DAY | {"ceilings": {"perDay": "200"}}, True),
        ("another reserve counts the same", DAY, DAY | {"outageReserve": "1m"}, True),
        ("nothing was edited", DAY, DAY, True),
    ],
)
async def test_what_was_counted_under_other_terms_is_asked_of_the_ledger_before_anything_is_raised(
    story: str, before: dict[str, Any], after: dict[str, Any], raises: bool
) -> None:
    api = Declared()
    api.spec = before
    await led_before(api)
    if after != before:
        api.edit(after)
    leader = Leader(api)
    decided = leader.leads(NOW)
    assert bool(decided.actions) is raises, story
    assert (decided.policies[0].reason.code.value == "Pending") is not raises
    leader.asks_the_ledger(NOW + 30)
    assert leader.leads(NOW + 40).actions, "the ledger was asked"


@pytest.mark.parametrize(
    ("story", "last", "generation", "raises"),
    [
        ("a spec too long for a status, and not edited", None, 1, True),
        ("a spec too long for a status, and edited", None, 2, False),
        ("what it holds is no spec", {"generation": 1, "spec": "{"}, 2, False),
    ],
)
async def test_without_the_spec_that_a_status_was_counted_under_its_generation_tells(
    story: str, last: Mapping[str, Any] | None, generation: int, raises: bool
) -> None:
    api = Declared()
    api.spec = DAY
    await led_before(api)
    status = api.bodies[-1]["status"]
    status.pop("lastRead")
    status |= {"lastRead": last} if last else {}
    api.generation = generation
    assert bool(Leader(api).leads(NOW).actions) is raises, story
