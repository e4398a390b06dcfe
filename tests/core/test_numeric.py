import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core.numeric import share_above, tail_quantile, upper_tail


@pytest.mark.parametrize(
    ("story", "limit", "want"),
    [
        ("half of the bucket that holds the limit lies above it", 0.075, 0.05),
        ("a limit on a bound needs no guess", 0.05, 0.10),
        ("below the first bound observations spread down to zero", 0.025, 0.55),
        ("of the unbounded bucket everything is above", 0.5, 0.0),
    ],
)
def test_share_above_interpolates_inside_the_bucket(story, limit, want):
    buckets = ((0.05, 9.0), (0.1, 10.0), (math.inf, 10.0))
    assert share_above(buckets, limit) == pytest.approx(want), story


def test_share_above_counts_all_of_the_last_bucket():
    assert share_above(((1.0, 6.0), (math.inf, 8.0)), 2.0) == pytest.approx(0.25)


@pytest.mark.parametrize("buckets", [(), ((1.0, 0.0), (math.inf, 0.0))])
def test_no_observations_are_not_zero_misses(buckets):
    assert share_above(buckets, 1.0) is None


@given(st.floats(min_value=1e-6, max_value=0.5))
def test_tail_quantile_inverts_the_tail(share):
    assert upper_tail(tail_quantile(share)) == pytest.approx(share, rel=1e-6)
