import msgspec
import pytest

from ebbtide.core import departed
from ebbtide.model.snapshot import PodPhase
from tests.builders import Loop, pods, service, settled, snapshot, variant

WINDOW_S = 60.0
AT_S = 1_000_000.0


@pytest.mark.parametrize(
    ("story", "present", "seconds", "counted"),
    [
        ("nobody has gone", {"a", "b"}, 15.0, 0.0),
        ("one went a moment ago: all of its last window", {"a"}, 0.0, 4.0),
        ("a quarter of a window later", {"a"}, 15.0, 3.0),
        ("a window later nothing is left", {"a"}, 60.0, 0.0),
        ("both went", set(), 30.0, 3.5),
        ("the clock was set back", {"a"}, -10.0, 0.0),
    ],
)
def test_what_a_pod_took_is_counted_until_its_window_is_over(
    story: str, present: set[str], seconds: float, counted: float
) -> None:
    kept = departed.remember(b"", {"a": 3.0, "b": 4.0}, AT_S, WINDOW_S)
    assert departed.count(kept, present, AT_S + seconds, WINDOW_S) == pytest.approx(counted), story


def test_a_pod_that_is_not_read_for_a_while_is_not_forgotten_and_after_a_window_it_is() -> None:
    kept = departed.remember(b"", {"a": 3.0, "b": 4.0}, AT_S, WINDOW_S)
    later = departed.remember(kept, {"a": 3.0}, AT_S + 30.0, WINDOW_S)
    assert len(later) == len(kept)
    assert len(departed.remember(later, {"a": 3.0}, AT_S + 60.0, WINDOW_S)) == len(kept) / 2


def test_a_memory_that_was_cut_is_read_as_far_as_it_goes() -> None:
    kept = departed.remember(b"", {"a": 3.0, "b": 4.0}, AT_S, WINDOW_S)
    assert departed.count(kept[:-3], (), AT_S, WINDOW_S) == pytest.approx(3.0)


def demand_of(loop: Loop) -> float:
    shown = loop.plan.services[0].demand
    assert shown is not None
    return shown.requests_per_second


def test_the_load_does_not_seem_to_fall_because_a_pod_was_let_go() -> None:
    """22 requests/s on five; one leaves, and the windows of the others fill only within a minute."""
    loop = settled(snapshot(service(variant("h100", pods(5, 4.4)))), 600.0)
    for passed in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0):
        each = 4.4 + 1.1 * passed / WINDOW_S
        loop.run(snapshot(service(variant("h100", pods(4, each)))), 10.0)
        assert demand_of(loop) == pytest.approx(22.0, rel=0.02), passed


def test_one_that_leaves_is_counted_once_while_it_is_still_read() -> None:
    both = pods(2, 5.0)
    loop = settled(snapshot(service(variant("h100", both))), 600.0)
    going = (both[0], msgspec.structs.replace(both[1], phase=PodPhase.TERMINATING))
    loop.run(snapshot(service(variant("h100", going, 1))), 10.0)
    assert demand_of(loop) <= 10.0 * 1.02


def test_what_is_gone_for_good_is_no_load_after_a_window() -> None:
    loop = settled(snapshot(service(variant("h100", pods(5, 4.4)))), 600.0)
    loop.run(snapshot(service(variant("h100", pods(4, 4.4)))), 90.0)
    assert demand_of(loop) == pytest.approx(17.6)
