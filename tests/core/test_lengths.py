"""How long answers are, measured while the batch fills up, overflows and drains: never from answers still to come."""

import pytest

from ebbtide.core.demand import measure
from ebbtide.core.plan import open_cycle, plan
from ebbtide.model.memory import Memory
from tests.builders import NOW, Loop, engine, fresh, pod, pool, service, snapshot, spec, variant, variant_spec


def seen(arrivals, finished, generated, *, running=100.0, waiting=0.0, prompt=None, others=2.0):
    """One pod with these rates a second."""
    readings = engine(
        arrivals,
        itl_s=0.03,
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
        load = seen(9.0, ended, 60.0 + 1200.0 * min(1.0, second / 60.0), running=27.0 + second, others=10.0)
        decided = loop.one(load)
        assert decided.variants[0].allowed >= 1
    remembered = loop.memory.services[0]
    assert 140.0 < remembered.output_tokens < 260.0
    assert plan(load, loop.memory, loop.now_s)[0].services[0].variants[0].wanted > 1
