"""No ceiling is crossed in any weather: `weather` draws the cluster from a number; its clerk looks once a second."""

import pytest

from tests.shell.weather import Nodes, Weather

CYCLES = 150
MANY = range(40, 290)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[] if seed < 4 else pytest.mark.slow) for seed in range(MANY.start)]
)
def test_no_ceiling_is_crossed_in_any_weather(seed: int) -> None:
    """Unlike prices that change, days and months that end, failures, silence, restarts, absences up to the reserve."""
    Weather(seed).story(CYCLES)


@pytest.mark.full
@pytest.mark.parametrize("seed", MANY)
def test_no_ceiling_is_crossed_in_much_weather(seed: int) -> None:
    Weather(seed).story(CYCLES)


@pytest.mark.parametrize("kind", [Nodes.PACKED, Nodes.SCATTERED])
@pytest.mark.parametrize("managed", [True, False], ids=["managed", "everything"])
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.slow) for seed in range(24)])
def test_no_ceiling_is_crossed_where_nodes_come_and_go(seed: int, managed: bool, kind: Nodes) -> None:
    """Paid whole, empty for a while before they go, and shared with services of other policies."""
    Weather(seed, kind, managed=managed).story(CYCLES)
