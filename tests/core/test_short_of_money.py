"""What was missed for want of money teaches nothing about what a miss is worth."""

import pytest

from tests.core.purse import Member, World, policy


@pytest.mark.parametrize("load", [60.0, 150.0])
def test_after_hours_under_a_ceiling_no_more_is_wanted_than_before(load):
    """Nine of ten requests miss for hours; nobody planned that, and no further replica will bring them back."""
    world = World([Member("chat", load)], [policy(per_hour="300")])
    world.run(3600)
    before = world.replicas()["chat"]
    world.policies = [policy(per_hour="3")]
    world.run(4 * 3600)
    assert world.replicas() == {"chat": 1}
    world.policies = [policy(per_hour="300")]
    world.run(600)
    assert world.replicas()["chat"] <= before + 1
    (memory,) = world.memory.services
    assert memory.budget.missed < 0.1 * load * 4 * 3600
