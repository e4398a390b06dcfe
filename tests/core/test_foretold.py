"""What Ebbtide may not reduce is said before it crosses a ceiling: by how much, from when, as Event and status."""

from decimal import Decimal

import msgspec
import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.model.plan import ConditionStatus
from ebbtide.model.snapshot import Others
from ebbtide.model.spec import Floor, Mode, Pause, PauseDirection, PolicyScope
from ebbtide.record.events import cycle_events
from tests.builders import NOW
from tests.core.purse import Member, World, policy

DAY_S = 7200


def _spec(state, **changes):
    first, *others = state.services
    scaling = msgspec.structs.replace(first.spec.scaling, **{"pause": changes.pop("pause", None)})
    first = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, scaling=scaling, **changes))
    return msgspec.structs.replace(state, services=(first, *others))


def _off(state):
    return _spec(state, mode=Mode.OFF)


def _recommend(state):
    return _spec(state, mode=Mode.RECOMMEND)


def _paused(state):
    return _spec(state, pause=Pause(PauseDirection.DOWN))


def _conflict(state):
    first, *others = state.services
    (only,) = first.variants
    target = msgspec.structs.replace(only.target, rivals=("HorizontalPodAutoscaler a",))
    first = msgspec.structs.replace(first, variants=(msgspec.structs.replace(only, target=target),))
    return msgspec.structs.replace(state, services=(first, *others))


class Crowded(World):
    """Four GPUs of the policy's are held by somebody else's pods, since long before."""

    foreign = 0

    def _second(self):
        for name in self.spent:
            self.spent[name] += self.price(self.now_s) * self.foreign
        super()._second()


def _foreign(state):
    paid = msgspec.structs.replace(state.policies[0], others=(Others("h100", 4, 0),))
    return msgspec.structs.replace(state, policies=(paid,))


STAYS = [
    ("minimums under KeepMin", 4, lambda state: state),
    ("a service in mode Off", 0, _off),
    ("a service in mode Recommend", 0, _recommend),
    ("a service that a rival writes", 0, _conflict),
    ("a service whose replicas may not be lowered", 0, _paused),
    ("others' pods", 0, _foreign),
]


@pytest.mark.parametrize(("story", "least", "seen"), STAYS, ids=[story for story, _, _ in STAYS])
def test_what_may_not_be_reduced_is_said_before_it_crosses_a_ceiling(story, least, seen):
    """Four GPUs at 12.00 USD an hour under 20.00 for two hours: crossed by 4.00 and more, whatever gives way."""
    foreign = seen is _foreign
    first = Member("stays", 30.0, least=0 if foreign else least, born=[0] * (0 if foreign else 4))
    cap = policy(
        per_day="20",
        floor=Floor.KEEP_MIN if least else Floor.ALLOW_ZERO,
        scope=PolicyScope.ALL_GPU_PODS if foreign else PolicyScope.MANAGED,
        outage_reserve_s=300.0,
    )
    world = Crowded([first, Member("chat", 40.0, least=0)], [cap], day_s=DAY_S)
    world.foreign = 4 if foreign else 0
    if foreign:
        first.load = 0.0
    world.seen = seen
    said_s, crossed_s, told = 0, 0, ""
    while not crossed_s:
        world.cycle()
        notes = cycle_events(world.plan, world.snapshot(), [])
        over = [note for note in notes if (note.subject.kind, note.reason) == ("CostPolicy", "CeilingExceeded")]
        if over and not said_s:
            said_s, told = world.now_s, over[0].text
            (within,) = [item for item in world.policy().conditions if item.type == "WithinCeilings"]
            assert (within.status, within.message) == (ConditionStatus.FALSE, told), "status says the same"
        crossed_s = world.now_s if world.spent["cap"] > 20 * 3600 else 0
    assert said_s, story
    assert said_s <= crossed_s - 3000, (story, "in good time: as soon as it is known to stay")
    from_s = parse_rfc3339(told.partition("crossed from ")[2][:20])
    assert abs(from_s - crossed_s) <= 200, (story, told, crossed_s - NOW)
    assert world.policy().uncontrollable_per_hour >= Decimal(12)
    assert world.replicas()["chat"] == (1 if least else 0), "all else gave way, but for its own minimum"


def test_a_rival_that_was_there_for_as_long_as_the_reserve_is_taken_to_stay_and_once_it_is_gone_no_more():
    world = World(
        [Member("stays", 30.0, born=[0] * 4, least=0)],
        [policy(per_day="500", floor=Floor.ALLOW_ZERO, outage_reserve_s=300.0)],
    )
    bound = []
    for seconds, seen in ((10, _conflict), (290, _conflict), (20, _conflict), (10, lambda state: state)):
        world.seen = seen
        world.run(seconds)
        bound.append(world.policy().ceilings[0].committed)
    reserve = Decimal(4 * 3 * 340) / 3600
    assert bound[0] == bound[1] == reserve >= bound[3]
    assert bound[2] > 4 * 3 * 23, "to the end of the day"
