"""The engine model: what goes in comes out once, tokens add up, memory holds, and the clock's grain does not matter."""

import random
from collections import Counter
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.sim.engine import Engine, Outcome, Request
from ebbtide.sim.profiles import EngineProfile, profile

H100 = profile("8B", "NVIDIA-H100-80GB-HBM3")
L40S = profile("8B", "NVIDIA-L40S")
# room for two or three of the requests below at a time: preemption is the rule here
CRAMPED = msgspec.structs.replace(L40S, kv_tokens=1500, max_num_seqs=8, max_num_batched_tokens=256, stall_every=50)


@st.composite
def streams(draw: st.DrawFn) -> list[Request]:
    gaps_s = draw(st.lists(st.sampled_from([0.0, 0.001, 0.05, 0.4, 3.0]), min_size=1, max_size=40))
    t_s, requests = 0.0, []
    for number, gap_s in enumerate(gaps_s):
        t_s += gap_s
        prompt, output = draw(st.integers(1, 700)), draw(st.integers(1, 300))
        requests.append(Request(number, t_s, prompt, output))
    return requests


def serve(engine: Engine, requests: list[Request]) -> list[Outcome]:
    """Submit each at its arrival and run until idle."""
    outcomes: list[Outcome] = []
    for request in requests:
        engine.submit(request, request.arrival_s)
    while (event_s := engine.next_event_s()) is not None:
        outcomes += engine.advance(event_s)
    return outcomes


@settings(deadline=None)
@given(requests=streams(), seed=st.integers(0, 1000), cramped=st.booleans())
def test_every_request_ends_exactly_once_and_the_tokens_add_up(
    requests: list[Request], seed: int, cramped: bool
) -> None:
    engine = Engine(CRAMPED if cramped else H100, seed)

    outcomes = serve(engine, requests)

    assert sorted(outcome.request.id for outcome in outcomes) == [request.id for request in requests]
    assert all(outcome.served for outcome in outcomes)
    assert all(
        outcome.request.arrival_s < outcome.first_token_s <= outcome.finish_s  # type: ignore[operator]
        for outcome in outcomes
    )
    counters = engine.counters
    assert counters.generation_tokens == sum(request.output_tokens for request in requests)
    assert counters.prompt_tokens == sum(request.prompt_tokens for request in requests)
    assert counters.finished["stop"] + counters.finished["length"] == len(requests)
    # each token but a request's first has a gap before it
    assert engine.itl.count == counters.generation_tokens - len(requests)
    assert engine.ttft.count == engine.meters.e2e.count == len(requests)
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0.0)


@settings(deadline=None)
@given(requests=streams(), seed=st.integers(0, 1000), grain_s=st.sampled_from([0.003, 0.05, 0.7]))
def test_the_grain_of_the_clock_changes_nothing(requests: list[Request], seed: int, grain_s: float) -> None:
    coarse, fine = Engine(CRAMPED, seed), Engine(CRAMPED, seed)
    end_s = requests[-1].arrival_s + 5.0
    from_fine: list[Outcome] = []
    t_s = 0.0
    for request in requests:
        coarse.submit(request, request.arrival_s)
        while t_s + grain_s < request.arrival_s:
            t_s += grain_s
            from_fine += fine.advance(t_s)
            assert 0.0 <= fine.kv_usage <= 1.0
            assert fine.running <= CRAMPED.max_num_seqs
        fine.submit(request, request.arrival_s)
    while t_s + grain_s < end_s:
        t_s = max(t_s, requests[-1].arrival_s) + grain_s
        from_fine += fine.advance(min(t_s, end_s))
    from_fine += fine.advance(end_s)

    assert coarse.advance(end_s) == from_fine
    assert coarse.counters == fine.counters
    assert coarse.itl.counts == fine.itl.counts
    assert (coarse.running, coarse.waiting, coarse.kv_usage) == (fine.running, fine.waiting, fine.kv_usage)


@settings(deadline=None)
@given(requests=streams(), seed=st.integers(0, 1000), killed_after_s=st.floats(0.0, 3.0))
def test_a_killed_engine_ends_every_request_and_counts_the_tokens_that_were_out(
    requests: list[Request], seed: int, killed_after_s: float
) -> None:
    engine = Engine(CRAMPED, seed)
    for request in requests:
        engine.submit(request, request.arrival_s)

    outcomes = engine.abort_all(requests[-1].arrival_s + killed_after_s)

    assert sorted(outcome.request.id for outcome in outcomes) == [request.id for request in requests]
    assert engine.counters.generation_tokens == sum(outcome.generated_tokens for outcome in outcomes)
    by_reason = Counter(outcome.finish_reason for outcome in outcomes)
    assert engine.counters.finished["abort"] == by_reason["abort"]
    assert (engine.running, engine.waiting, engine.kv_usage, engine.next_event_s()) == (0, 0, 0.0, None)


def test_a_full_cache_preempts_and_a_preempted_request_still_gets_all_its_tokens() -> None:
    engine = Engine(CRAMPED, 1)

    outcomes = serve(engine, [Request(number, 0.0, 300, 400) for number in range(6)])

    assert engine.counters.preemptions > 0
    assert [outcome.generated_tokens for outcome in outcomes] == [400] * 6
    assert engine.meters.preemptions.sum == engine.counters.preemptions


def test_memory_goes_in_blocks_and_the_last_block_of_a_sequence_is_half_empty() -> None:
    engine = Engine(
        msgspec.structs.replace(L40S, kv_tokens=12_800, kv_block_tokens=128, max_num_batched_tokens=8192), 1
    )
    for number in range(10):
        engine.submit(Request(number, 0.0, 300, 50), 0.0)
    engine.advance(0.3)  # the first prompt alone, then the others together

    assert engine.running == 10
    fed_back = engine.counters.generation_tokens - 10  # the newest token of each is not in the cache yet
    assert engine.kv_usage == pytest.approx((3000 + fed_back + 10 * 63.5) / 12_800)
    serve(engine, [])
    assert engine.kv_usage == 0.0


def test_a_request_as_large_as_the_whole_cache_is_served_alone() -> None:
    engine = Engine(msgspec.structs.replace(CRAMPED, kv_block_tokens=128), 1)

    outcomes = serve(engine, [Request(1, 0.0, 700, 800), Request(2, 0.0, 700, 800), Request(3, 0.0, 700, 801)])

    assert [one.generated_tokens for one in outcomes] == [0, 800, 800]
    assert outcomes[0].finish_reason == "error"
    assert outcomes[1].finish_s < outcomes[2].finish_s


def test_waiting_requests_are_admitted_first_in_first_out_up_to_the_sequence_limit() -> None:
    engine = Engine(msgspec.structs.replace(H100, max_num_seqs=2), 1)
    for number in range(5):
        engine.submit(Request(number, 0.0, 100, 50), 0.0)
    engine.advance(0.1)

    assert (engine.running, engine.waiting) == (2, 3)

    outcomes = engine.advance(10.0)
    starts = [outcome.first_token_s for outcome in sorted(outcomes, key=lambda outcome: outcome.request.id)]
    assert starts == sorted(starts, key=lambda start_s: start_s or 0.0)


def test_a_long_prompt_slows_the_tokens_of_others_while_it_is_computed() -> None:
    quiet, disturbed = Engine(L40S, 1), Engine(L40S, 1)
    for engine in (quiet, disturbed):
        engine.submit(Request(1, 0.0, 100, 200), 0.0)
    disturbed.submit(Request(2, 1.0, 8000, 1), 1.0)

    alone = next(outcome for outcome in quiet.advance(60.0) if outcome.request.id == 1)
    beside = next(outcome for outcome in disturbed.advance(60.0) if outcome.request.id == 1)

    assert (beside.inter_token_latency_s or 0) > 1.05 * (alone.inter_token_latency_s or 0)


def test_prompts_that_come_together_share_one_token_budget() -> None:
    engine = Engine(L40S, 1)  # 2048 tokens an iteration

    outcomes = serve(engine, [Request(number, 0.0, 1500, 1) for number in range(6)])

    # 1500 + 548, 952 + 1096, 404 + 1500 + 144, 1356 + 692, 808: the third iteration ends two prompts
    assert len({outcome.first_token_s for outcome in outcomes}) == 5


def test_iterations_are_counted_as_they_come_and_a_prompt_with_its_first_token() -> None:
    """As vLLM does, which says nothing of a prompt's first chunks: 5000 tokens are three iterations, one counted."""
    engine = Engine(L40S, 1)
    engine.submit(Request(1, 0.0, 5000, 41), 0.0)
    engine.advance(0.9)
    under_way = engine.iteration_tokens
    serve(engine, [])

    assert 2 < under_way.count < 41
    assert under_way.sum == 5000 + under_way.count
    assert (engine.iteration_tokens.count, engine.iteration_tokens.sum) == (41, 5041)


def test_a_newcomer_joins_the_next_iteration_of_a_busy_engine() -> None:
    engine = Engine(H100, 1)
    engine.submit(Request(1, 0.0, 100, 2000), 0.0)
    engine.submit(Request(2, 1.0, 100, 1), 1.0)

    newcomer = next(outcome for outcome in engine.advance(60.0) if outcome.request.id == 2)

    # two iterations of 6 ms, a short prompt and 32 ms of front end, not the 64 iterations that were planned
    assert (newcomer.time_to_first_token_s or 9) < 0.08


def test_stalls_come_as_often_as_the_profile_says_also_under_many_arrivals() -> None:
    steady_beat = msgspec.structs.replace(H100, stall_every=100, jitter=0.0, spread=0.0)
    engine = Engine(steady_beat, 1)
    engine.submit(Request(0, 0.0, 10, 20_000), 0.0)
    for number in range(1, 3000):
        engine.submit(Request(number, number * 0.02, 1, 1), number * 0.02)

    # iterations take 6 to 7 ms, a stall at least twice that: the first bucket ends at 10 ms
    assert engine.itl.count > 5000
    assert 0.005 < sum(engine.itl.counts[1:]) / engine.itl.count < 0.02


@pytest.mark.parametrize(
    ("request_", "queue_limit", "reason"),
    [
        pytest.param(Request(1, 0.0, 40_000, 1), None, "error", id="longer than the model's context"),
        pytest.param(Request(1, 0.0, 100, 10), 0, "rejected", id="the queue is full"),
    ],
)
def test_requests_that_cannot_be_served_end_at_once(request_: Request, queue_limit: int | None, reason: str) -> None:
    engine = Engine(msgspec.structs.replace(H100, max_queued_requests=queue_limit), 1)

    engine.submit(request_, 0.0)
    (outcome,) = engine.advance(0.0)

    assert (outcome.finish_reason, outcome.first_token_s, outcome.served) == (reason, None, False)
    assert not outcome.meets(1e9, 1e9)
    assert (engine.counters.rejected, engine.counters.finished["error"]) == (reason == "rejected", reason == "error")


def test_time_cannot_run_backwards() -> None:
    engine = Engine(H100, 1)
    engine.advance(5.0)

    with pytest.raises(ValueError, match=r"4\.0 s after 5\.0 s"):
        engine.submit(Request(1, 0.0, 10, 10), 4.0)


@pytest.mark.parametrize("empty", [Request(7, 0.0, 0, 1), Request(7, 0.0, 1, 0)])
def test_empty_requests_are_refused_by_number(empty: Request) -> None:
    with pytest.raises(ValueError, match="request 7"):
        Engine(H100, 1).submit(empty, 0.0)


def test_seeds_draw_unlike_pods_within_the_spread() -> None:
    gaps_s = {steady(H100, 32, seed).tpot_s for seed in range(6)}

    assert len(gaps_s) == 6
    assert max(gaps_s) / min(gaps_s) < 1.15


@dataclass(frozen=True)
class Steady:
    ttft_s: float
    tpot_s: float


def steady(profile_: EngineProfile, concurrency: int, seed: int = 1) -> Steady:
    """Means at a constant number of requests of 1024 + 256 tokens, the first generations left out."""
    engine, number = Engine(profile_, seed), concurrency
    kept: list[Outcome] = []
    draw = random.Random(seed)
    for first in range(concurrency):
        # not all in step: each starts somewhere in its answer
        engine.submit(Request(first, 0.0, 1024, draw.randint(1, 256)), 0.0)
    while len(kept) < max(60, 4 * concurrency):
        now_s = engine.next_event_s() or 0.0
        for outcome in engine.advance(now_s):
            engine.submit(Request(number, now_s, 1024, 256), now_s)
            number += 1
            kept += [outcome] if outcome.request.id >= 2 * concurrency else []
    return Steady(
        ttft_s=sum(outcome.time_to_first_token_s or 0.0 for outcome in kept) / len(kept),
        tpot_s=sum(outcome.inter_token_latency_s or 0.0 for outcome in kept) / len(kept),
    )


# published performance model: prompts of 1024 tokens, answers of 256; (TTFT, TPOT) in ms at 1, 8, 32, 64, 128
PUBLISHED = {
    ("8B", "NVIDIA-H100-80GB-HBM3"): ((48, 6.2), (68, 7.2), (83, 10.6), (94, 15.0), (107, 22.6)),
    ("8B", "NVIDIA-H200"): ((47, 4.9), (67, 5.7), (81, 8.7), (91, 12.4), (103, 20.0)),
    ("8B", "NVIDIA-B200"): ((37, 3.5), (53, 3.7), (64, 5.4), (71, 7.5), (79, 11.5)),
    ("8B", "NVIDIA-A100-SXM4-80GB"): ((90, 11.9), (127, 14.4), (156, 22.9), (176, 32.6), (205, 54.8)),
    ("8B", "NVIDIA-L40S"): ((96, 22.0), (151, 25.5), (190, 39.7), (220, 55.0), (267, 86.3)),
    ("70B", "NVIDIA-H100-80GB-HBM3"): ((131, 14.9), (185, 17.8), (222, 24.0), (245, 33.5), (273, 52.5)),
    ("70B", "NVIDIA-A100-SXM4-80GB"): ((246, 27.2), (343, 34.8), (414, 53.0), (458, 77.0), (517, 129.3)),
}


@pytest.mark.parametrize(("model", "product"), PUBLISHED)
def test_latencies_follow_the_published_ones(model: str, product: str) -> None:
    for concurrency, (ttft_ms, tpot_ms) in zip((1, 8, 32, 64, 128), PUBLISHED[model, product], strict=True):
        measured = steady(profile(model, product), concurrency)
        assert measured.tpot_s * 1000 == pytest.approx(tpot_ms, rel=0.25), f"TPOT at {concurrency}"
        assert measured.ttft_s * 1000 == pytest.approx(ttft_ms, rel=0.40), f"TTFT at {concurrency}"
