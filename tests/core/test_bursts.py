"""More than was expected: what it needs is started at once and once, and what waited is worked off and forgotten."""

from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.core import sizing
from tests.builders import Fleet, fresh, pool, spec, variant_spec

ROOM = [pool(nodes=40)]
FULL = 24.0  # requests/s of one replica


def calm_fleet(startup_s: float, hours: float) -> Fleet:
    """Replicas that carry about 25 requests/s each, after so many hours of 40."""
    fleet = Fleet(spec(variants=[variant_spec(max_replicas=40)]), {"h100": 3}, startup_s=startup_s)
    fleet.run(40.0, hours * 3600, pools=ROOM)
    fleet.history.clear()
    return fleet


@pytest.mark.parametrize(
    ("story", "startup_s", "hours"),
    [
        ("replicas come in a minute", 60.0, 1.0),
        ("in three", 180.0, 1.0),
        ("in five, after four calm hours", 300.0, 4.0),
        ("in five, after one", 300.0, 1.0),
    ],
)
def test_four_times_the_load_starts_all_that_it_needs_in_one_cycle_and_hardly_more_later(
    story: str, startup_s: float, hours: float
) -> None:
    """Of 160 requests/s each replica carries 26: seven are needed.

    Until they come nothing changes, but that the leap has widened what is foreseen: for 109 to 172 one more may be
    worth having than for the 152 to 171 before.
    """
    fleet = calm_fleet(startup_s, hours)
    fleet.run(160.0, startup_s, pools=ROOM)
    assert 7 <= fleet.history[0] <= 10, story
    assert set(fleet.history[1:]) <= {fleet.history[0], fleet.history[0] + 1}, story
    assert fleet.history == sorted(fleet.history), story


@pytest.mark.parametrize(("story", "startup_s", "hours"), [("in a minute", 60.0, 1.0), ("in five", 300.0, 4.0)])
def test_what_is_starting_counts_when_a_burst_grows(story: str, startup_s: float, hours: float) -> None:
    """90 requests/s for half a minute, then 160: those that the 90 called for are among the seven."""
    fleet = calm_fleet(startup_s, hours)
    fleet.run(90.0, 30, pools=ROOM)
    assert 4 <= fleet.history[-1] <= 6, story
    fleet.run(160.0, startup_s - 30.0, pools=ROOM)
    assert 7 <= fleet.history[3] <= 10, story
    assert max(fleet.history) == fleet.history[-1] <= 10, story


@pytest.mark.parametrize(
    ("story", "startup_s", "waiting"),
    [
        ("what runs has room for it", 60.0, 600.0),
        ("it needs further replicas", 60.0, 3_000.0),
        ("it needs many", 60.0, 10_000.0),
        ("what runs is done with it before any other came", 300.0, 600.0),
        ("others come in five minutes", 300.0, 3_000.0),
        ("others come in five minutes, and need a while", 300.0, 10_000.0),
    ],
)
def test_what_waits_is_worked_off_within_two_start_ups_and_leaves_no_fleet_behind(
    story: str, startup_s: float, waiting: float
) -> None:
    """Requests that the gateway holds beside 40 a second: within a start-up, or a minute, after the first came."""
    fleet, took_s = calm_fleet(startup_s, 2.0), 0.0
    before = fleet.total
    for _ in range(180):
        ready = sum(fleet.now_s - born >= startup_s for born in fleet.born["h100"])
        served = min(40.0 + waiting / 10.0, FULL * ready)
        waiting = max(0.0, waiting + 10.0 * (40.0 - served))
        took_s += 10.0 if waiting else 0.0
        fleet.cycle(served, pools=ROOM, gateway_queue=fresh(waiting))
    assert took_s <= 2.0 * startup_s, f"{story}: {took_s:.0f} s"
    assert max(fleet.history[int(took_s / 10.0) + 90 :]) <= before, f"{story}: {fleet.history}"


@pytest.mark.parametrize(
    ("story", "queue", "waiting", "running", "startup_s", "extra"),
    [
        ("nothing waits", 0.0, 0.0, 100.0, 60.0, 0.0),
        ("less than one request is none", 0.4, 0.5, 100.0, 60.0, 0.0),
        ("at the gateway and at replicas, for one start-up", 400.0, 200.0, 100.0, 120.0, 5.0),
        ("in no less than a minute", 600.0, 0.0, 100.0, 5.0, 10.0),
        ("in batches, beyond what their replicas hold inside the objective", 0.0, 0.0, 520.0, 60.0, 2.0),
    ],
)
def test_what_waits_asks_for_as_much_as_takes_it_within_one_start_up(
    story: str, queue: float, waiting: float, running: float, startup_s: float, extra: float
) -> None:
    """Two replicas that hold 200 requests each."""
    draft: Any = SimpleNamespace(
        demand=SimpleNamespace(queue=queue, waiting=waiting, running=running),
        variants=[SimpleNamespace(ready=2, model=SimpleNamespace(limit=200.0), rate=25.0, startup_s=startup_s)],
    )
    assert sizing.drain_rate(draft) == pytest.approx(extra), story
