"""Slow work is done once in a while for each service, evenly over cycles, and at once when there is news."""

from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.turns import comes
from tests.builders import NOW, pods, service, settled, snapshot, variant


@given(st.text(max_size=40), st.floats(1e6, 2e9), st.sampled_from([10.0, 15.0, 60.0]), st.integers(2, 20))
def test_each_has_one_turn_in_that_time_however_long_cycles_are(key, start_s, every_s, cycles):
    """After a first look, n turns in n times the time."""
    last_s, turns = start_s, 0
    for index in range(1, 5 * cycles + 1):
        now_s = start_s + index * every_s / cycles
        if comes(key, last_s, now_s, every_s):
            last_s, turns = now_s, turns + 1
    assert abs(turns - 5) <= 1


def test_turns_are_spread_over_the_cycles():
    keys = [f"ml/chat-{number}" for number in range(600)]
    in_each = [sum(comes(key, NOW + 10.0 * i, NOW + 10.0 * (i + 1), 60.0) for key in keys) for i in range(6)]
    assert sum(in_each) == 600
    assert min(in_each) > 70
    assert max(in_each) < 130


def test_it_comes_at_first_and_after_a_clock_was_set_back():
    assert comes("ml/chat", 0.0, NOW, 60.0)
    assert comes("ml/chat", NOW + 5.0, NOW, 60.0)
    assert not comes("ml/chat", NOW, NOW, 60.0)


def weighed_at(loop):
    return loop.memory.services[0].worth.at


def test_under_a_load_that_stays_it_is_weighed_once_a_window_and_under_another_at_once():
    still, more = (snapshot(service(variant("h100", pods(4, rps)))) for rps in (15.0, 17.0))
    loop, moments = settled(still, 300.0), set()
    for _ in range(30):
        loop.run(still)
        moments.add(weighed_at(loop))
    assert 5 <= len(moments) <= 6, "30 cycles of 10 s are five windows"
    loop.run(still)
    loop.run(more)
    assert weighed_at(loop) == loop.now_s - 10.0


def test_what_holds_says_what_was_said_when_it_was_weighed():
    still = snapshot(service(variant("h100", pods(4, 15.0))))
    loop, said = settled(still, 1800.0), {}
    for _ in range(12):
        decided = loop.one(still)
        texts = tuple(step.text for step in decided.waterfall if step.name in ("forecast", "worth"))
        said.setdefault(weighed_at(loop), set()).add(texts)
    assert all(len(texts) == 1 for texts in said.values())
    assert any(len(texts) == 2 for each in said.values() for texts in each), "both lines are there"
