"""What nodes cost that come for a Job and stand empty after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.batch.comings import Comings
from ebbtide.core.batch.grid import Grid
from ebbtide.core.batch.price import beside_services

SLOT_S = 900.0
PRICE = 1.45
A_NODE = 780.0 / 3600.0 * PRICE  # 3 minutes until it is there, 10 until it is gone


def pool(level, there: float = 0.0, size: int = 1, stays_s: float = 600.0) -> Comings:
    slots = Grid(tuple(SLOT_S * n for n in range(len(level) + 1)))
    return Comings(slots, level, there, size, 180.0, stays_s)


def costs(comings: Comings, start: int, last: int, gpus: int, used=None) -> float:
    count = comings.grid.slots
    return comings.costs(start, last, gpus, used or [0.0] * count, [PRICE] * count)


CASES = {
    "on nodes of its own": (pool([0.0] * 9), 2, 4, None, 4 * A_NODE),
    "on those of a Job that ends then": (pool([0.0] * 9), 4, 6, [0, 4, 4, 4, 0, 0, 0, 0, 0], 0.0),
    "on two of those of a Job that ends then": (pool([0.0] * 9), 4, 6, [0, 2, 2, 2, 0, 0, 0, 0, 0], 2 * A_NODE),
    "on nodes that have gone for long": (pool([0.0] * 9), 6, 7, [0, 4, 4, 4, 0, 0, 0, 0, 0], 4 * A_NODE),
    "on those that services leave": (pool([4.0, 4, 4, 0, 0, 0, 0, 0, 0]), 3, 5, None, 0.0),
    "on those that are empty now": (pool([0.0] * 9, there=4.0), 0, 3, None, 0.0),
    "on those that are empty now, and are gone by then": (pool([0.0] * 9, there=4.0), 3, 5, None, 4 * A_NODE),
    "and leaves them to one that begins then": (pool([0.0] * 9), 1, 3, [0, 0, 0, 0, 4, 4, 0, 0, 0], 0.0),
    "beside services, on the rest of their node": (pool([4.0] * 9, size=8), 1, 3, None, 0.0),
    "where nodes stay": (pool([0.0] * 9, stays_s=0.0), 1, 3, None, 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_four_gpus(case: str):
    comings, start, last, used, money = CASES[case]
    assert costs(comings, start, last, 4, used) == pytest.approx(money)


LEVELS = st.lists(st.integers(0, 12), min_size=12, max_size=12)


@given(LEVELS, LEVELS, st.integers(0, 12), st.integers(0, 11), st.integers(0, 11), st.sampled_from([1, 2, 8]))
def test_it_is_never_more_than_nodes_of_its_own_and_never_saves_more_than_those_of_others(
    level, used, there, one, other, size
):
    comings = pool([float(each) for each in level], float(there), size)
    own = -(-4 // size) * size * A_NODE
    found = costs(comings, min(one, other), max(one, other), 4, [float(each) for each in used])
    assert -own - 1e-9 <= found <= own + 1e-9


@given(st.integers(1, 8), st.integers(1, 11))
def test_jobs_that_follow_each_other_pay_for_nodes_once(gpus, at):
    first = [float(gpus) if slot < at else 0.0 for slot in range(12)]
    nodes = pool([0.0] * 12)
    assert costs(nodes, 0, at - 1, gpus) == pytest.approx(gpus * A_NODE)
    assert costs(nodes, at, 11, gpus, first) == 0.0


def test_part_of_a_gpu_is_nobodys():
    assert beside_services(2.4, 1) == 0.0
    assert beside_services(13.0, 8) == 3.0
    assert beside_services(12.4, 8) == 3.0
