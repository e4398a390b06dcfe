import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.core import edge
from ebbtide.core.priors import length_shape, prior_for
from ebbtide.core.queueing import allowed_concurrency, pooled_spread, rate_at
from ebbtide.model.spec import CapacityPrior, Objectives
from tests.builders import (
    INPUT_TOKENS,
    KV_TOKENS,
    OUTPUT_TOKENS,
    Loop,
    condition,
    engine,
    fresh,
    latency,
    pod,
    pods,
    pool,
    service,
    settled,
    snapshot,
    spec,
    variant,
    variant_spec,
)


@pytest.mark.parametrize(
    ("accelerator", "billion", "gpus", "a_ms", "b_ms"),
    [
        ("H100-80GB", 8, 1, 6.0, 0.135),
        ("NVIDIA-A100-SXM4-80GB", 8, 1, 11.2, 0.35),
        ("H100-80GB", 70, 4, 14.5, 0.30),
        ("A100-80GB", 70, 4, 26.5, 0.80),
        ("NVIDIA-L40S", 8, 1, 22.0, 0.51),
    ],
)
def test_the_table_is_near_the_modelled_figures(accelerator, billion, gpus, a_ms, b_ms):
    prior = prior_for(accelerator, billion, gpus)
    assert prior.source == "table"
    assert prior.a_s * 1e3 == pytest.approx(a_ms, rel=0.12)
    assert prior.b_s * 1e3 == pytest.approx(b_ms, rel=0.12)


@pytest.mark.parametrize(("accelerator", "billion"), [("Gaudi-3", 8.0), ("H100", None), ("", None)])
def test_unknown_hardware_or_size_is_assumed_slow_and_says_so(accelerator, billion):
    assert prior_for(accelerator, billion, 1).source == "assumed"


def test_l40s_is_not_taken_for_l4_nor_a100_for_a10():
    assert prior_for("L40S", 8, 1).a_s < prior_for("L4", 8, 1).a_s
    assert prior_for("A100-40GB", 8, 1).a_s < prior_for("A10", 8, 1).a_s


def test_reference_lengths_have_shape_one_and_long_prompts_cost_more():
    assert length_shape(1024, 256) == pytest.approx(1.0)
    assert length_shape(2048, 64) > 4.0


@given(st.floats(5e-3, 0.03), st.floats(1e-4, 1e-3), st.floats(0.9, 0.999))
def test_pooling_raises_what_a_replica_carries_and_attainment_lowers_it(a_s, b_s, attainment):
    limit = (0.05 - a_s) / b_s
    alone = allowed_concurrency(a_s, b_s, limit, attainment, pooled_spread(0.2, 1))
    pooled = allowed_concurrency(a_s, b_s, limit, attainment, pooled_spread(0.2, 8))
    stricter = allowed_concurrency(a_s, b_s, limit, 1.0 - (1.0 - attainment) / 10.0, pooled_spread(0.2, 1))
    assert 0.0 < stricter < alone < pooled < limit


def test_capacity_is_a_rate_by_littles_law():
    # 62 requests in flight, each 211 tokens of 38.3 ms: 62 / 8.1 s.
    assert rate_at(0.0147, 0.00038, 62, 211) == pytest.approx(7.68, rel=0.01)


def capacity_of(loop):
    return loop.plan.services[0].variants[0].capacity


def test_a_replica_slower_than_the_table_is_learnt_within_minutes():
    table = capacity_of(settled(snapshot(service(variant("h100", pods(3, 5.0)))), 10))
    slow = [variant("h100", pods(3, rps, itl_s=0.012 / (1 - rps * 256 * 0.00027))) for rps in (3.0, 6.0, 9.0)]
    loop = Loop()
    for _ in range(5):
        for state in slow:
            loop.run(snapshot(service(state)), 60)
    learnt = capacity_of(loop)
    assert learnt.source == "observed"
    assert learnt.requests_per_second == pytest.approx(table.requests_per_second / 2, rel=0.25)


def test_a_declared_rate_is_believed_until_observed():
    declared = CapacityPrior(4.5, 1024, 256)
    state = service(variant("h100", (), 0), spec(variants=[variant_spec(capacity=declared)], min_replicas=1))
    capacity = capacity_of(settled(snapshot(state), 10))
    assert capacity.source == "declared"
    # Declared for one replica alone; the plan starts at one.
    assert capacity.requests_per_second == pytest.approx(4.5, rel=0.05)


def test_misses_lower_the_capacity_and_their_absence_at_the_edge_raises_it():
    def after(rps, missed):
        return settled(snapshot(service(variant("h100", pods(2, rps, missed=missed)))), 600).memory

    worse, better = after(22.0, 0.2), after(25.3, 0.0)
    reach = [edge.reach(m.services[0].variants[0].capacity.edge) for m in (worse, better)]
    assert reach[0] < 0.95
    assert reach[1] > 1.0


def test_correction_is_bounded_whatever_is_reported():
    memory = settled(snapshot(service(variant("h100", pods(2, 22.0, missed=1.0)))), 7200).memory
    least, most = edge.REACH
    assert least <= edge.reach(memory.services[0].variants[0].capacity.edge) <= most


def test_misses_on_idle_replicas_cannot_be_bought_off():
    """A share of long prompts exceeds the objective by itself: said, and not paid for."""
    loop = settled(snapshot(service(variant("h100", pods(6, 2.0, missed=0.14)))), 1800)
    assert condition(loop.plan.services[0], "SLOAttainable") == ("False", "SLOUnattainable")
    assert loop.plan.services[0].variants[0].wanted <= 2
    assert edge.reach(loop.memory.services[0].variants[0].capacity.edge) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("story", "missed", "replicas"),
    [
        ("nothing is missed anyway", 0.0, 5),
        ("what is left of the budget is bought more strictly, for the objective can be met", 0.006, 6),
        ("more is missed than may be: no fleet meets the objective, and none is paid for it", 0.012, 5),
        ("seven times as much", 0.07, 5),
    ],
)
def test_what_cannot_be_bought_is_made_up_for_only_where_the_objective_can_be_met(story, missed, replicas):
    """108 requests/s, of which a replica carries 25; 1 % may miss, and so many do on twelve that are a third full."""
    declared = spec(variants=[variant_spec(max_replicas=40)])
    state = snapshot(service(variant("h100", pods(12, 9.0, missed=missed)), declared), pool(nodes=40))
    assert settled(state, 3600).plan.services[0].variants[0].wanted == replicas, story


def test_an_objective_that_one_request_alone_exceeds_is_named():
    tight = spec(objectives=Objectives(ttft_s=1.0, itl_s=0.004, attainment=0.99))
    decided = settled(snapshot(service(variant("h100", pods(2, 1.0)), tight)), 600).plan.services[0]
    assert condition(decided, "SLOAttainable") == ("False", "SLOUnattainable")


def test_overload_without_any_queue_is_seen_by_latency():
    """F7: capacity as a rate. Nothing waits, the KV cache is nearly empty, and inter-token latency is missed."""
    jammed = pods(2, 40.0, itl_s=0.075, kv_usage=engine(0.0).kv_usage)
    decided = settled(snapshot(service(variant("h100", jammed))), 120).plan.services[0]
    assert decided.variants[0].wanted > 2


def test_kv_cache_binds_before_latency_for_long_prompts():
    small = {"kv_tokens": 20_000.0}
    roomy = settled(snapshot(service(variant("h100", pods(2, 3.0)))), 300).plan.services[0]
    tight = settled(snapshot(service(variant("h100", pods(2, 3.0, **small)))), 300).plan.services[0]
    assert tight.variants[0].capacity.requests_per_second < 0.5 * roomy.variants[0].capacity.requests_per_second
    assert "KV cache" in tight.variants[0].capacity.evidence


@pytest.mark.parametrize("most", [4.0, 8.0, 16.0])
def test_what_the_engine_lets_run_at_once_binds_where_it_is_less_than_latency_allows(most: float) -> None:
    """vLLM's --max-num-seqs, as its pod template says: beyond it requests wait though their gaps would be short."""
    free, bound = (
        settled(snapshot(service(variant("h100", pods(2, 2.0, max_running=limit)))), 300) for limit in (None, most)
    )
    assert "by inter-token latency" in free.plan.services[0].variants[0].capacity.evidence
    capacity = bound.plan.services[0].variants[0].capacity
    assert f"of {most:g} by max running" in capacity.evidence
    alone_s = 0.006  # a step of an almost empty batch: a full one is slower
    assert capacity.requests_per_second < most / (OUTPUT_TOKENS * alone_s)
    assert capacity.requests_per_second < 0.7 * capacity_of(free).requests_per_second


def test_the_cache_that_requests_in_the_batch_hold_is_seen_and_not_taken_from_mean_lengths():
    """Few long answers fill the batch: four times what a mean request half way holds, so a quarter finds room."""
    in_batch = engine(10.0).kv_usage.value or 0.0
    alike, longer = (
        settled(snapshot(service(variant("h100", pods(2, 10.0, kv_usage=fresh(times * in_batch))))), 900)
        for times in (1.0, 4.0)
    )
    assert "by inter-token latency" in alike.plan.services[0].variants[0].capacity.evidence
    room = 0.95 * KV_TOKENS / (4.0 * (INPUT_TOKENS + 0.5 * OUTPUT_TOKENS))
    limit, by = re.search(r"of (\d+) by (.*?)[,)]", longer.plan.services[0].variants[0].capacity.evidence).groups()
    assert (float(limit), by) == (pytest.approx(room, rel=0.1), "KV cache")
    assert capacity_of(longer).requests_per_second < 0.8 * capacity_of(alike).requests_per_second


def test_a_first_glance_at_the_cache_says_little():
    """One cycle with a full cache, as after long prompts by chance, hardly moves what is believed of the rest."""
    loop = settled(snapshot(service(variant("h100", pods(2, 10.0)))), 60)
    before = capacity_of(loop).requests_per_second
    loop.run(snapshot(service(variant("h100", pods(2, 10.0, kv_usage=fresh(0.9))))), 10)
    assert capacity_of(loop).requests_per_second > 0.8 * before


def test_what_was_carried_is_taken_back_by_clear_misses():
    """A slower build after a busy day: at little more than half of what was carried all of them miss."""
    loop = settled(snapshot(service(variant("h100", pods(2, 20.0)))))
    before = capacity_of(loop).requests_per_second
    decided = loop.run(snapshot(service(variant("h100", pods(2, 14.0, itl_s=0.06, missed=1.0)))), 600).services[0]
    assert capacity_of(loop).requests_per_second < 0.5 * before
    assert decided.variants[0].wanted > 2


def test_misses_of_idle_replicas_buy_no_replicas_and_are_said():
    """A slower build at 60 requests a minute and replica: few, but enough to see that all miss whatever is added."""
    loop = settled(snapshot(service(variant("h100", pods(2, 20.0)))))
    decided = loop.run(snapshot(service(variant("h100", pods(2, 1.0, itl_s=0.06, missed=1.0)))), 600).services[0]
    assert decided.variants[0].wanted <= 3
    assert condition(decided, "SLOAttainable") == ("False", "SLOUnattainable")


def test_what_was_carried_on_short_prompts_is_not_believed_of_long_ones():
    """What was carried at 1024/256 says little of 4096/64, where prefill decides."""

    def rate(prompt, answer):
        tokens = {"prompt_tokens": fresh(0.5 * prompt), "generation_tokens": fresh(0.5 * answer)}
        loop = settled(snapshot(service(variant("h100", pods(3, 20.0)))))
        decided = loop.one(snapshot(service(variant("h100", pods(3, 0.5, **tokens)))), 1200)
        return decided.variants[0].capacity.requests_per_second

    assert rate(4096.0, 64.0) < 15.0
    assert rate(1024.0, 256.0) >= 20.0 * 0.95


def test_what_misses_while_prompts_are_longer_is_put_down_to_their_load():
    """3 % miss for three minutes: at the usual lengths they say more of it than with prompts twice as long."""

    def rate(prompts):
        loop = settled(snapshot(service(variant("h100", pods(3, 20.0)))))
        hard = pods(3, 20.0, missed=0.03, prompt_tokens=fresh(20.0 * prompts * INPUT_TOKENS))
        return loop.one(snapshot(service(variant("h100", hard))), 180).variants[0].capacity.requests_per_second

    assert rate(2.0) > 1.1 * rate(1.0)


def test_a_batch_that_long_prompts_slow_down_is_full_with_fewer_in_it():
    """12 requests/s at 40 ms: 123 in the batch are many while prompts are twice as long, so that 3 % miss.

    212 of them would last, each 256 tokens of 50 ms: 16.6 requests/s.
    """
    loop = settled(snapshot(service(variant("h100", pods(3, 20.0)))))
    slowed = pods(3, 12.0, missed=0.03, itl_s=0.04, prompt_tokens=fresh(12.0 * 2.0 * INPUT_TOKENS))
    learnt = loop.one(snapshot(service(variant("h100", slowed))), 180)
    assert learnt.variants[0].capacity.requests_per_second > 16.0


def test_long_prompts_of_a_pod_that_hardly_has_anything_to_do_explain_no_misses():
    busy = pods(2, 20.0, missed=0.03)
    tokens = {"prompt_tokens": fresh(12.8), "generation_tokens": fresh(0.25)}
    idle = pods(1, 0.01, "idle", **tokens)
    loop = settled(snapshot(service(variant("h100", pods(3, 20.0)))))
    learnt = loop.one(snapshot(service(variant("h100", (*busy, *idle)))), 180)
    assert learnt.variants[0].capacity.requests_per_second < 17.0


@pytest.mark.parametrize(
    ("story", "running", "learnt"),
    [
        ("nearly idle all the time, and half of the requests miss", 8.0, True),
        ("a jam that is over: the window still holds what missed in it", 1.0, False),
        ("a jam that begins: the window holds a calm load", 60.0, False),
    ],
)
def test_what_replicas_cannot_buy_is_learnt_on_even_load_alone(story: str, running: float, learnt: bool) -> None:
    """The window's mean is 8 in the batch: tokens/s times seconds a token."""
    missing = pods(2, 5.0, missed=0.5, running=fresh(running))
    decided = settled(snapshot(service(variant("h100", missing))), 300.0).plan.services[0]
    assert (condition(decided, "SLOAttainable")[1] == "SLOUnattainable") is learnt, story


@pytest.mark.parametrize(("running", "source"), [(3.0, "observed"), (60.0, "table")])
def test_no_line_is_learnt_over_a_window_that_was_idle_at_first(running: float, source: str) -> None:
    """3 in the batch on average at 12 ms; where 60 are in it now, the 12 ms are theirs and the 3 are not."""
    state = service(variant("h100", pods(2, 1.0, itl_s=0.012, running=fresh(running))))
    decided = settled(snapshot(state), 300.0).plan.services[0]
    assert decided.variants[0].capacity is not None
    assert decided.variants[0].capacity.source == source


def test_rates_over_a_window_without_metrics_in_it_teach_nothing() -> None:
    """After two minutes without any, a window is half filled: half the rates at the latency of the whole load."""
    whole, half = (
        snapshot(service(variant("h100", pods(2, rate, itl_s=0.012, running=fresh(61.0))))) for rate in (20.0, 10.0)
    )
    loop = settled(whole)
    before = capacity_of(loop).requests_per_second
    loop.now_s += 120.0
    loop.run(half, 50.0)
    assert capacity_of(loop).requests_per_second == pytest.approx(before, rel=0.02)
    loop.run(half, 900.0)
    assert capacity_of(loop).requests_per_second != pytest.approx(before, rel=0.02), "but what lasts is learnt"


def with_first_tokens(prompt: float, seconds: float, accelerator: str = "Gaudi-3", requests: float = 5.0) -> Loop:
    """Three replicas of a GPU that no table has, each with so many prompt tokens a request, first after 0.1 s."""
    loop, objectives = Loop(), Objectives(ttft_s=0.5, itl_s=0.05, attainment=0.99)
    readings = engine(requests, ttft=latency(0.1, requests, 0.0, 0.5), prompt_tokens=fresh(requests * prompt))
    declared = spec(objectives=objectives, variants=[variant_spec(max_replicas=60)])
    state = snapshot(
        service(variant("h100", [pod(f"p-{i}", readings) for i in range(3)]), declared), pool(accelerator=accelerator)
    )
    loop.run(state, seconds)
    return loop


def test_what_a_prompt_costs_is_no_more_than_first_tokens_show():
    """4,096 tokens are believed to take 0.8 s; first tokens come after 0.1 s, so a fleet that misses nothing stays."""
    loop = with_first_tokens(4096.0, 600)
    decided = loop.plan.services[0]
    memory = loop.memory.services[0].variants[0].capacity
    assert memory.first_token_s == pytest.approx(0.1 / 4096, rel=0.01)
    assert decided.variants[0].wanted <= 3
    assert condition(decided, "SLOAttainable") == ("True", "Attainable")


def test_the_least_that_first_tokens_took_is_forgotten_slowly():
    loop = with_first_tokens(4096.0, 600)
    known = loop.memory.services[0].variants[0].capacity
    slower = engine(5.0, ttft=latency(0.4, 5.0, 0.0, 0.5), prompt_tokens=fresh(5.0 * 4096))
    state = snapshot(service(variant("h100", [pod(f"p-{i}", slower) for i in range(3)])), pool(accelerator="Gaudi-3"))
    loop.run(state, 600)
    later = loop.memory.services[0].variants[0].capacity
    assert known.first_token_s < later.first_token_s < 1.1 * known.first_token_s


def test_the_range_of_what_one_carries_holds_it_and_narrows_as_more_is_seen():
    def width(loop: Loop) -> float:
        found = loop.plan.services[0].variants[0].capacity
        assert found is not None
        assert found.low <= found.requests_per_second <= found.high
        return found.high / found.low

    early = width(with_first_tokens(1024.0, 20))
    assert early > 1.5
    assert width(with_first_tokens(1024.0, 3600, requests=12.0)) < 0.9 * early
