"""How long answers are, measured while the batch fills up, overflows and drains: never from answers still to come."""

import pytest

from ebbtide.core.demand import measure
from ebbtide.core.plan import open_cycle, plan
from ebbtide.model.memory import Memory, ServiceMemory
from tests.builders import NOW, Loop, engine, fresh, pod, pool, service, snapshot, spec, variant, variant_spec


def seen(arrivals, finished, generated, *, running=100.0, waiting=0.0, prompt=None, others=2.0, itl_s=0.03, missed=0.0):
    """One pod with these rates a second."""
    readings = engine(
        arrivals,
        itl_s=itl_s,
        missed=missed,
        waiting=waiting,
        finished=fresh(finished),
        generation_tokens=fresh(generated),
        prompt_tokens=fresh(500.0 * arrivals if prompt is None else prompt),
        running=fresh(running),
    )
    declared = spec(variants=[variant_spec("a100", "a100")], max_replicas=20)
    return snapshot(
        service([variant("a100", [pod("p", readings)], 1)], declared), [pool("a100", price="1.00")], cycle_s=others
    )


def measured(state):
    return measure(open_cycle(state, Memory(), NOW).drafts[0], open_cycle(state, Memory(), NOW))


@pytest.mark.parametrize(
    ("story", "state", "output_tokens"),
    [
        ("as many end as come", seen(9.0, 9.0, 1800.0), 200.0),
        ("the batch fills up: an answer in it is half done", seen(9.0, 6.6, 1560.0), 200.0),
        ("the batch drains", seen(5.0, 9.0, 1400.0), 200.0),
        ("the batch is full, and the rest waits", seen(9.0, 5.0, 1000.0, waiting=200.0, prompt=2500.0), 200.0),
        (
            "hardly any of many has ended, but a full batch turned over",
            seen(30.0, 5.0, 1000.0, waiting=900.0, prompt=2500.0),
            200.0,
        ),
    ],
)
def test_answers_are_as_long_as_they_are(story, state, output_tokens):
    view = measured(state)
    assert view.lengths_known, story
    assert view.output_tokens == pytest.approx(output_tokens, rel=0.02), story
    assert view.input_tokens == pytest.approx(500.0, rel=0.02), story


def test_a_step_of_load_on_an_idle_replica_teaches_nothing_until_answers_have_ended():
    """9 requests/s of 200 tokens came 3 s ago: 120 tokens/s over the window, and not one answer has ended."""
    view = measured(seen(9.0, 0.0, 120.0, running=27.0))
    assert not view.lengths_known
    assert view.output_tokens == 256.0, "the usual, until more is known"
    long = measured(seen(1.0, 0.0, 900.0, running=60.0))
    assert long.output_tokens == 900.0, "they have that many already"


def test_an_overload_from_the_first_second_is_never_taken_for_short_answers_and_scaled_down():
    """As on one replica whose batch fills up: arrivals 9 requests/s, completions lag behind for as long as it lasts."""
    loop = Loop()
    for second in range(0, 300, 10):
        ended = 6.6 * min(1.0, second / 100.0)
        generated, running = 60.0 + 1200.0 * min(1.0, second / 60.0), 27.0 + second
        load = seen(9.0, ended, generated, running=running, others=10.0, itl_s=0.055, missed=0.6)
        decided = loop.one(load)
        assert decided.variants[0].allowed >= 1
    remembered = loop.memory.services[0]
    assert 140.0 < remembered.output_tokens < 260.0
    assert plan(load, loop.memory, loop.now_s)[0].services[0].variants[0].wanted > 1


@pytest.mark.parametrize("trickle", [1.0, 0.1, 1e-15, 0.0])
def test_a_queue_that_drains_says_nothing_of_how_long_prompts_are(trickle):
    """10/s leave the queue while 1/s comes: prompts are 500 tokens still, and afterwards the load is what it is."""
    loop = Loop()
    for _ in range(30):
        loop.one(seen(10.0, 10.0, 2000.0, running=200.0, others=10.0))
    before = loop.memory.services[0]
    for _ in range(6):
        loop.one(seen(trickle, 10.0, 2000.0, running=200.0, waiting=300.0, prompt=5000.0, others=10.0))
    for _ in range(3):  # the window still holds what was begun from the queue
        loop.one(seen(trickle, 8.0, 1500.0, running=100.0, prompt=4000.0, others=10.0))
    for _ in range(10):
        decided = loop.one(seen(1.0, 1.0, 200.0, running=6.0, others=10.0))
    after = loop.memory.services[0]
    assert after.input_tokens == pytest.approx(before.input_tokens, rel=0.05)
    assert after.output_tokens == pytest.approx(before.output_tokens, rel=0.15)
    assert decided.variants[0].wanted == 1


def test_a_remembered_length_that_no_engine_could_hold_is_forgotten():
    state = seen(2.0, 2.0, 400.0)
    absurd = Memory(services=(ServiceMemory("ml/chat", input_tokens=4e12, output_tokens=200.0, lengths_s=600.0),))
    view = measure(open_cycle(state, absurd, NOW).drafts[0], open_cycle(state, absurd, NOW))
    assert view.input_tokens < 1100.0
