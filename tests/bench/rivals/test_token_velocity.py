import msgspec
import pytest

from ebbtide.bench.rivals.token_velocity import TokenVelocity, threshold_s
from tests.bench.rivals.scenes import case, p90, replay, seen, views


def prefilling(tokens, usage=0.1):
    """One replica with that many prompt tokens in flight, half of them admitted."""
    [view] = views((10, 0, usage))
    return (msgspec.structs.replace(view, queued_prompt_tokens=tokens / 2, scheduled_prompt_tokens=tokens / 2),)


@pytest.mark.parametrize(
    ("ttft_s", "tokens", "velocity", "want"),
    [
        (3.0, 4000.0, 15928.0, 1.787),  # 0.65 x (3 - 0.251)
        (0.5, 1020.0, 15928.0, 0.283),
        (0.3, 8000.0, 15928.0, 0.03),  # the prompt alone is longer: a tenth of the objective
    ],
)
def test_the_threshold_follows_the_guide(ttft_s, tokens, velocity, want):
    assert threshold_s(ttft_s, tokens, velocity) == pytest.approx(want, abs=5e-4)


@pytest.mark.parametrize(
    ("tokens", "usage", "want"),
    [
        (60_000.0, 0.1, 2),  # 60,000 / 15,928 = 3.77 s; threshold 0.65 x 3 = 1.95 s
        (150_000.0, 0.1, 5),
        (1_000.0, 0.9, 2),  # ceil(0.9 / 0.8): the KV caches ask for more
    ],
)
def test_prefill_in_flight_or_cache(tokens, usage, want):
    assert TokenVelocity(case(), 1.0).decide(seen(0.0, 1, replicas=prefilling(tokens, usage))) == want


def test_velocity_is_the_fastest_prefill_seen_while_nothing_waited():
    policy = TokenVelocity(case(ttft_s=1.0), 1.0)
    policy.decide(seen(0.0, 1, replicas=views((1, 0, 0.0)), input_tokens=4000.0, ttft=p90(0.1)))
    policy.decide(seen(15.0, 1, replicas=views((1, 0, 0.0)), input_tokens=4000.0, ttft=p90(0.4)))
    policy.decide(seen(30.0, 1, replicas=views((1, 3, 0.0)), input_tokens=4000.0, ttft=p90(0.01)))
    # 40,000 tokens/s; threshold 0.65 x (1 - 0.1) = 0.585 s; 40,000 in flight are 1 s
    last = seen(45.0, 1, replicas=prefilling(40_000.0), input_tokens=4000.0, ttft=p90(0.4))
    assert policy.decide(last) == 2


def test_an_empty_result_is_zero():
    assert replay(TokenVelocity(case(), 1.0), seen, 330, declared=6)[-1][1] == 1
