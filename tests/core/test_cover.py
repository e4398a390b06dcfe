import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ebbtide.core.cover import Option, cheapest, cheapest_of_few


def option(index, share, cost, running=0, low=0, high=20, startup=0.0):
    return Option(index, share, cost, cost * (1.0 + startup), running, low, high)


def test_one_variant_rounds_up():
    assert cheapest([option(0, 0.3, 1.0)]) == ({0: 4}, 0.0)


def test_the_cheaper_per_share_is_filled_first_and_the_rest_is_the_cheapest_that_fits():
    counts, missing = cheapest([option(0, 0.4, 3.0), option(1, 0.15, 1.2, high=3)])
    assert (counts, missing) == ({0: 3, 1: 0}, 0.0) or counts == {0: 2, 1: 2}
    assert 3.0 * counts[0] + 1.2 * counts[1] == pytest.approx(8.4)


def test_what_runs_is_kept_while_the_saving_does_not_pay_its_start_up():
    running = option(0, 0.25, 1.00, running=4, startup=0.1)
    assert cheapest([running, option(1, 0.25, 0.95, startup=0.1)])[0] == {0: 4, 1: 0}
    assert cheapest([running, option(1, 0.25, 0.80, startup=0.1)])[0] == {0: 0, 1: 4}


def test_no_room_fills_everything_and_says_how_much_is_missing():
    counts, missing = cheapest([option(0, 0.1, 1.0, high=3), option(1, 0.2, 1.0, high=2)])
    assert counts == {0: 3, 1: 2}
    assert missing == pytest.approx(0.3)


def test_minimums_hold_even_where_they_are_dear():
    counts, _ = cheapest([option(0, 1.0, 1.0), option(1, 1.0, 50.0, low=2)])
    assert counts == {0: 0, 1: 2}


options = st.lists(
    st.tuples(
        st.floats(0.02, 0.8),
        st.floats(0.1, 10.0),
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(2, 6),
        st.floats(0.0, 0.5),
    ),
    min_size=1,
    max_size=3,
).map(lambda rows: [option(i, *row) for i, row in enumerate(rows)])


@given(options)
def test_it_finds_what_trying_everything_finds(choices):
    counts, missing = cheapest(choices)
    tried = [
        (sum(o.price(n) for o, n in zip(choices, ns, strict=True)))
        for ns in itertools.product(*(range(o.low, o.high + 1) for o in choices))
        if sum(o.share * n for o, n in zip(choices, ns, strict=True)) >= 1.0 - 1e-9
    ]
    if not tried:
        assert missing > 0.0
        return
    if len(choices) > 1:
        assert sum(o.price(counts[o.index]) for o in choices) == pytest.approx(min(tried), abs=1e-6)
    assert sum(o.share * counts[o.index] for o in choices) >= 1.0 - 1e-6


@given(options, st.integers(0, 18))
def test_of_few_replicas_it_finds_what_trying_everything_finds(choices, most):
    found = cheapest_of_few(choices, most)
    tried = [
        sum(o.price(n) for o, n in zip(choices, ns, strict=True))
        for ns in itertools.product(*(range(o.low, o.high + 1) for o in choices))
        if sum(o.share * n for o, n in zip(choices, ns, strict=True)) >= 1.0 - 1e-9 and sum(ns) <= most
    ]
    assert (found is None) == (not tried)
    if found is not None:
        assert sum(found.values()) <= most
        assert sum(o.price(found[o.index]) for o in choices) == pytest.approx(min(tried), abs=1e-6)
        assert sum(o.share * found[o.index] for o in choices) >= 1.0 - 1e-6


def test_a_search_among_few_ends_though_it_finds_nothing():
    """Twelve variants of which 40 replicas just fail to do it: more mixes than could be looked at."""
    unlike = [option(n, 0.0249 - 1e-5 * n, 1.0 + n, high=4 + n % 3) for n in range(12)]
    assert cheapest_of_few(unlike, 40) is None


@given(options, st.lists(st.booleans(), min_size=3, max_size=3), st.floats(0.0, 1.0))
def test_what_must_not_be_taken_away_is_covered_for_least(choices, firm, floor):
    """As much of `floor` as the firm ones have room for, and nothing that covers both is cheaper."""
    choices = [replace(each, firm=stays) for each, stays in zip(choices, firm, strict=False)]
    assume(len(choices) > 1)
    floor = min(floor, sum(o.high * o.share for o in choices if o.firm))
    tried = [
        sum(o.price(n) for o, n in zip(choices, ns, strict=True))
        for ns in itertools.product(*(range(o.low, o.high + 1) for o in choices))
        if sum(o.share * n for o, n in zip(choices, ns, strict=True)) >= 1.0 - 1e-9
        and sum(o.share * n for o, n in zip(choices, ns, strict=True) if o.firm) >= floor - 1e-9
    ]
    assume(tried)
    counts, missing = cheapest(choices, 1.0, floor)
    assert missing == 0.0
    assert sum(o.share * counts[o.index] for o in choices if o.firm) >= floor - 1e-6
    assert sum(o.price(counts[o.index]) for o in choices) == pytest.approx(min(tried), abs=1e-6)


@given(options, st.floats(0.1, 0.99))
def test_a_higher_need_never_gets_less_capacity(choices, smaller):
    def capacity(need):
        counts, _ = cheapest(choices, need)
        return sum(o.share * counts[o.index] for o in choices)

    assert capacity(1.0) >= capacity(smaller) - 1e-6 or math.isclose(capacity(1.0), capacity(smaller))


def test_capacities_that_cannot_be_added_up_still_get_an_answer():
    """One carries a billion times the other: what is too small to count must not make the search come home empty."""
    tiny, huge = option(0, 1e-9, 1.0, high=1), option(1, 1.0 - 1e-9, 1.0, high=1)
    counts, missing = cheapest([tiny, huge], 1.0)
    assert missing == 0.0
    assert set(counts) == {0, 1}


def test_the_search_over_thousands_of_unlike_replicas_ends():
    unlike = [(0.0001 * (1.0 + 0.37 * i), 1.0 + 0.371 * i) for i in range(4)]
    many = [option(i, share, cost, running=i, high=10_000, startup=0.1) for i, (share, cost) in enumerate(unlike)]
    counts, missing = cheapest(many, 1.0)
    carried = sum(each.share * counts[each.index] for each in many)
    assert missing == 0.0
    assert 1.0 - 1e-6 <= carried < 1.01
