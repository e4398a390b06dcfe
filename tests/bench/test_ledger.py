"""Bills and curves of replica lives: worked by hand."""

import pytest

from ebbtide.bench.ledger import Life, bill, curve

STANDING = Life(-60.0, 0.0, None, None)
WHOLE = Life(10.0, 70.0, 180.0, 200.0)
CANCELLED = Life(50.0, None, 80.0, 80.0)
LATE = Life(990.0, None, None, None)
AFTERWARDS = Life(1100.0, 1160.0, None, None)


@pytest.mark.parametrize(
    ("lives", "billed_s", "startup_s"),
    [
        pytest.param([STANDING], 1000.0, 0.0, id="there from the beginning: its start-up is nobody's"),
        pytest.param([WHOLE], 190.0, 60.0, id="start-up and drain are billed"),
        pytest.param([CANCELLED], 30.0, 30.0, id="cancelled while it starts: all of it is start-up"),
        pytest.param([LATE], 10.0, 10.0, id="cut off by the end of the span"),
        pytest.param([AFTERWARDS], 0.0, 0.0, id="asked for after the end"),
        pytest.param([STANDING, WHOLE, CANCELLED, LATE], 1230.0, 100.0, id="together"),
    ],
)
def test_a_replica_is_billed_from_the_write_until_it_is_gone(lives, billed_s, startup_s) -> None:
    assert bill(lives, 1000.0) == (billed_s, startup_s)


def test_the_curve_shows_every_change_once() -> None:
    assert curve([STANDING, WHOLE, CANCELLED]) == (
        (0.0, 1, 1),
        (10.0, 2, 1),
        (50.0, 3, 1),
        (70.0, 3, 2),
        (80.0, 2, 2),
        (180.0, 2, 1),
        (200.0, 1, 1),
    )


def test_changes_of_one_moment_are_one_step() -> None:
    assert curve([Life(5.0, 65.0, None, None)] * 3) == ((5.0, 3, 0), (65.0, 3, 3))
