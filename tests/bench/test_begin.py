"""The fleet that every policy begins with."""

import pytest

from ebbtide.bench.case import ordered
from ebbtide.bench.misses import MissTable
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.preparation import start_replicas
from ebbtide.bench.run import PATH
from ebbtide.sim.requests import Request
from tests.bench.cases import a_case

# one replica misses 1 % at 6 requests/s, two of them at 7 each, four at 8
SHARES = ((1e-4, 0.01, 0.1, 0.4), (1e-4, 1e-3, 0.01, 0.1), (1e-4, 1e-4, 1e-4, 0.01))
TABLE = MissTable((1, 2, 4), (4.0, 6.0, 7.0, 8.0), SHARES)


@pytest.mark.parametrize(
    ("rate_per_s", "missable", "most", "replicas"),
    [
        (0.0, 0.01, 9, 1),
        (5.9, 0.01, 9, 1),
        (6.1, 0.01, 9, 2),
        (13.9, 0.01, 9, 2),
        (14.1, 0.01, 9, 3),
        (31.9, 0.01, 9, 4),
        (13.9, 0.001, 9, 3),
        (31.9, 0.01, 3, 3),
        (6.1, 1e-5, 9, 9),
    ],
    ids=[
        "nothing comes",
        "one is enough",
        "one is not",
        "two by themselves",
        "eight each is four's, three are needed",
        "four",
        "a stricter target",
        "no more than there may be",
        "even idle ones miss more",
    ],
)
def test_it_is_the_smallest_that_carries_the_load_by_itself(rate_per_s, missable, most, replicas) -> None:
    assert start_replicas(TABLE, missable, rate_per_s, most) == replicas


def test_a_fleet_of_one_size_begins_with_it_too_and_pays_for_what_it_adds() -> None:
    case = a_case(start_replicas=2, startup_s=(30.0,), max_replicas=6)
    requests = [Request(number, 2.0 * number, 100, 10) for number in range(60)]
    result = OwnSimulator().run(ordered(case, 5), requests, PATH, 0.0, 1, ())
    assert result.replicas[0] == (0.0, 2, 2)
    assert [ready for at_s, _, ready in result.replicas if at_s <= 31.0][-1] == 5
    assert result.startup_billed_s == pytest.approx(3 * 30.0)
