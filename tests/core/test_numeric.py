import math
import random
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebbtide.core.numeric import share_above, tail_quantile, upper_tail


@pytest.mark.parametrize(
    ("story", "limit", "want"),
    [
        ("between the bounds the tail falls as a normal one of the logarithm does", 0.075, 0.0097),
        ("a limit on a bound needs no guess", 0.05, 0.10),
        ("below the first bound observations spread down to zero", 0.025, 0.55),
        ("above what was never seen there is nothing", 0.5, 0.0),
    ],
)
def test_share_above_interpolates_inside_the_bucket(story, limit, want):
    buckets = ((0.05, 900.0), (0.1, 999.0), (0.25, 1000.0), (math.inf, 1000.0))
    assert share_above(buckets, limit, None, 1000.0) == pytest.approx(want, abs=5e-4), story


def test_share_above_counts_all_of_the_last_bucket():
    assert share_above(((1.0, 6.0), (math.inf, 8.0)), 2.0, 0.5, 8.0) == pytest.approx(0.25)


@pytest.mark.parametrize("buckets", [(), ((1.0, 0.0), (math.inf, 0.0))])
def test_no_observations_are_not_zero_misses(buckets):
    assert share_above(buckets, 1.0, None, 0.0) is None


_SCATTERED = {
    "normal": lambda draw: max(0.3, draw.gauss(1.0, 0.15)),
    "log-normal, narrow": lambda draw: math.exp(draw.gauss(0.0, 0.15)),
    "log-normal, wide": lambda draw: math.exp(draw.gauss(0.0, 0.4)),
    "gamma": lambda draw: draw.gammavariate(4.0, 0.25),
}


@pytest.mark.parametrize("mean_ms", [15, 20, 24, 28, 30, 35, 45])
@pytest.mark.parametrize("kind", _SCATTERED)
def test_a_limit_inside_a_wide_bucket_is_told_from_the_shape_of_what_was_seen(kind, mean_ms):
    draw = random.Random(1)
    values = [mean_ms / 1000 * _SCATTERED[kind](draw) for _ in range(1500)]
    bounds = (0.01, 0.025, 0.05, 0.075, 0.1, math.inf)
    buckets = [(bound, float(sum(value <= bound for value in values))) for bound in bounds]
    true = sum(value > 0.04 for value in values) / len(values)
    found = share_above(buckets, 0.04, sum(values) / len(values), float(len(values)))
    # evenly spread, 40 % would be above 40 ms at a mean of 30 where 1 to 4 % are
    assert found == pytest.approx(true, rel=0.45, abs=0.02)


@example(counts=[0.0, 1.0], limit=1 / 128, mean=1 / 128)  # a mean that cannot be, below all that was counted
@given(
    st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=1, max_size=6),
    st.floats(min_value=1e-4, max_value=20.0),
    st.none() | st.floats(min_value=0.0, max_value=30.0),
)
def test_the_share_is_between_those_of_the_buckets_bounds_and_never_rises(counts, limit, mean):
    rates = list(accumulate(counts))
    buckets = [*((0.01 * 3.0**i, rate) for i, rate in enumerate(rates)), (math.inf, rates[-1])]
    found, further = (share_above(buckets, at, mean, 1000.0) for at in (limit, 1.3 * limit))
    if rates[-1] <= 0.0:
        assert found is None
        return
    below = max((rate for bound, rate in buckets if bound <= limit), default=0.0)
    within = next(rate for bound, rate in buckets if bound >= limit)
    assert 1.0 - within / rates[-1] - 1e-9 <= found <= 1.0 - below / rates[-1] + 1e-9
    assert further <= found + 1e-9


@given(st.floats(min_value=1e-6, max_value=0.5))
def test_tail_quantile_inverts_the_tail(share):
    assert upper_tail(tail_quantile(share)) == pytest.approx(share, rel=1e-6)
