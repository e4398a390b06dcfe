import pytest

from ebbtide.bench.case import EngineLimits
from ebbtide.bench.rivals.wva_v2 import Variant, WvaV2, choose, steady_tokens
from tests.bench.rivals.scenes import case, replay, seen, views

CHEAP, DEAR = Variant("cheap", 2.0, 30_000.0, 2), Variant("dear", 10.0, 60_000.0, 2)


@pytest.mark.parametrize(
    ("variants", "required", "spare", "shipped", "corrected"),
    [
        # cost per token: cheap 0.067, dear 0.167 per thousand
        ((CHEAP, DEAR), 70_000.0, 0.0, {"cheap": 5, "dear": 2}, {"cheap": 5, "dear": 2}),
        # the dear one at zero reads cost 0 and is chosen first
        (
            (CHEAP, Variant("dear", 10.0, 60_000.0, 0)),
            70_000.0,
            0.0,
            {"cheap": 2, "dear": 2},
            {"cheap": 5, "dear": 0},
        ),
        # down: the dear one first, 130,000 are two of 60,000, then none of 30,000
        ((CHEAP, DEAR), 0.0, 130_000.0, {"cheap": 2, "dear": 0}, {"cheap": 2, "dear": 0}),
        # all of it: the cheapest keeps one where no other has any
        ((CHEAP, DEAR), 0.0, 900_000.0, {"cheap": 1, "dear": 0}, {"cheap": 1, "dear": 0}),
        # the same defect the other way: the empty one is "the cheapest", so the last replica goes too
        (
            (CHEAP, Variant("dear", 10.0, 60_000.0, 0)),
            0.0,
            900_000.0,
            {"cheap": 0, "dear": 0},
            {"cheap": 1, "dear": 0},
        ),
        ((CHEAP,), 0.0, 0.0, {"cheap": 2}, {"cheap": 2}),
        ((Variant("unknown", 1.0, 0.0, 2),), 50_000.0, 0.0, {"unknown": 2}, {"unknown": 2}),
    ],
)
def test_choice_among_variants(variants, required, spare, shipped, corrected):
    assert choose(variants, required, spare, corrected=False) == shipped
    assert choose(variants, required, spare, corrected=True) == corrected


@pytest.mark.parametrize(
    ("prompt", "output", "want"),
    [
        (1000.0, 250.0, 288_000.0),  # min(409.6, 256) x 1125
        (4000.0, 100.0, 202_302.4),  # 2048 x 100 / 4100 = 49.95 x 4050
    ],
)
def test_tokens_held_when_prefill_keeps_a_replica_busy(prompt, output, want):
    assert steady_tokens(EngineLimits(), prompt, output) == pytest.approx(want, rel=1e-3)


def first_wish(usage, waiting, declared, ready=None, **more):
    """Where the corrected form (no wait upwards) goes at once; capacity 100,000 tokens a replica."""
    fleet = views(*[(10, waiting, usage)] * (ready or declared))
    return WvaV2(case(), 1.0, corrected=True).decide(seen(0.0, declared, ready, fleet, **more))


@pytest.mark.parametrize(
    ("usage", "waiting", "declared", "more", "want"),
    [
        # P = 80,000; D = 3 x 75,000; RC = 264,706 - 240,000: one more
        (0.75, 0, 3, {}, 4),
        # the queue counts with its prompts: D = 3 x (60,000 + 4 x 4000), RC = 268,235 - 240,000
        (0.60, 4, 3, {"input_tokens": 4000.0}, 4),
        (0.60, 4, 3, {}, 3),  # lengths unknown: the queue counts for nothing
        # saturated at 5 waiting: P = 60,000 in use; D = 3 x 80,000; RC = 282,353 - 180,000: two more
        (0.60, 5, 3, {"input_tokens": 4000.0}, 5),
        # k2 from lengths: min(0.8 x 100,000, 30,720) with N = 2048 x 15 / 1015 = 30.3 and 1007.5 tokens each
        (0.20, 0, 3, {"input_tokens": 1000.0, "output_tokens": 15.0}, 3),
        (0.30, 0, 3, {"input_tokens": 1000.0, "output_tokens": 15.0}, 4),
    ],
)
def test_demand_against_the_stock(usage, waiting, declared, more, want):
    assert first_wish(usage, waiting, declared, **more) == want


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        (160_000.0, 3),  # P = 80,000: 320,000 - 160,000 / 0.70 = 91,429 are spare, one replica
        (170_000.0, 4),  # 77,143 are less than one
    ],
)
def test_what_goes_is_spare_at_70_percent(tokens, want):
    def spread(now_s, declared):
        return seen(now_s, declared, replicas=views(*[(10, 0, tokens / declared / 100_000.0)] * declared))

    assert replay(WvaV2(case(), 1.0), spread, 600, declared=4)[-1][1] == want


def test_what_is_starting_counts_as_stock_but_not_as_spare():
    assert first_wish(0.75, 0, 4, ready=3) == 4, "D = 225,000, RC = 264,706 - 320,000"

    def half_empty(now_s, declared):
        return seen(now_s, declared, ready=3, replicas=views(*[(10, 0, 0.5)] * 3))

    # D = 150,000, D / 0.70 = 214,286: 25,714 of the ready three are spare, of all four one replica would be
    assert replay(WvaV2(case(), 1.0), half_empty, 600, declared=4)[-1][1] == 4


def test_one_slow_replica_does_not_set_the_capacity_of_all():
    fleet = views((9, 0, 0.5), (9, 0, 0.5), (9, 5, 0.2))
    assert WvaV2(case(), 1.0, corrected=True).decide(seen(0.0, 3, replicas=fleet)) == 3


def test_saturation_is_remembered_by_length_of_output():
    policy = WvaV2(case(), 1.0, corrected=True)
    policy.decide(seen(0.0, 2, replicas=views((9, 5, 0.5), (9, 5, 0.3)), output_tokens=50.0))
    later = views((9, 0, 0.35), (9, 0, 0.35))
    # P = (50,000 + 30,000) / 2, D = 70,000, RC = 82,353 - 80,000
    assert policy.decide(seen(60.0, 2, replicas=later, output_tokens=60.0)) == 3
    assert policy.decide(seen(120.0, 2, replicas=later, output_tokens=600.0)) == 2, "another bucket knows nothing"


def test_the_last_ten_saturations_are_remembered():
    policy = WvaV2(case(), 1.0, corrected=True)
    for minute, usage in enumerate([0.05, 0.74, *[0.41] * 9]):
        policy.decide(seen(60.0 * minute, 2, replicas=views((9, 5, usage)), output_tokens=50.0))
    later = views((9, 0, 0.35), (9, 0, 0.35))
    # P = (74,000 + 9 x 41,000) / 10 = 44,300 and RC = 82,353 - 88,600; of the last nine P = 41,000, of all 40,727
    assert policy.decide(seen(1000.0, 2, replicas=later, output_tokens=50.0)) == 2


def test_shipped_waits_four_minutes_also_upwards():
    def full(now_s, declared):
        return seen(now_s, declared, replicas=views(*[(10, 0, 0.75)] * declared))

    def after(corrected):
        said = replay(WvaV2(case(), 1.0, corrected=corrected), full, 600, declared=3)
        return next(t for t, n in said if n > 3)

    assert (after(corrected=True), after(corrected=False)) == (0.0, 240.0)


def test_down_to_one_but_never_to_none():
    said = replay(WvaV2(case(), 1.0), lambda t, n: seen(t, n, replicas=views(*[(0, 0, 0.0)] * n)), 600, declared=6)
    assert said[-1][1] == 1


def test_no_metrics_hold():
    assert WvaV2(case(), 1.0).decide(seen(0.0, 4)) is None
