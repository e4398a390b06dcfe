"""From the ticks of Dynamo's replay to vLLM's metrics: worked ticks, and rules that hold for any."""

from typing import Any

import pytest

from ebbtide.bench.driver import Driver
from ebbtide.bench.dynamo.lives import GivenUp, lives_of
from ebbtide.bench.dynamo.meters import Worker, Workers
from ebbtide.bench.dynamo.trace import trace_lines
from ebbtide.bench.dynamo.worker import Adapter, served_of
from ebbtide.bench.ledger import Life
from ebbtide.bench.run import PATH
from ebbtide.sim.requests import Request
from tests.bench.cases import a_case, steady


def gauges(worker: int, **changes: Any) -> dict[str, Any]:
    shown = {
        "worker_id": worker,
        "wall_time": 0.02,
        "num_prefill_requests": 0,
        "sum_prefill_tokens": 0,
        "sum_prefill_kv_tokens": 0,
        "num_decode_requests": 0,
        "sum_decode_kv_tokens": 0,
        "num_queued_prefill": 0,
        "sum_queued_prefill_tokens": 0,
        "num_queued_decode": 0,
    }
    return {**shown, **changes}


def take(workers: Workers, shown: dict[str, Any], came: tuple[int, int]) -> None:
    workers.take(shown, shown["now_ms"] / 1000, came)


def tick(now_s: float, snapshots=(), *, active=(0,), starting=(), draining=(), **traffic: Any) -> dict[str, Any]:
    nothing = {"ttft_count": 0, "avg_ttft_ms": 0.0, "avg_itl_ms": 0.0}
    tokens = {"accept_length_forward_count": 0, "avg_accept_length": None}
    return {
        "now_ms": 1000 * now_s,
        "decode_fpm_snapshots": list(snapshots),
        "active_decode_ids": list(active),
        "starting_decode_ids": list(starting),
        "draining_decode_ids": list(draining),
        "traffic": {"duration_s": 0.1, **nothing, **tokens, **traffic},
    }


def ended(count: int, ttft_s: float, itl_s: float) -> dict[str, float]:
    return {"ttft_count": count, "avg_ttft_ms": 1000 * ttft_s, "avg_itl_ms": 1000 * itl_s}


def misses(histogram, bound: float) -> int:
    return sum(histogram.counts[histogram.bounds.index(bound) + 1 :])


def test_gauges_are_vllms_and_a_worker_without_news_keeps_them() -> None:
    workers = Workers(a_case())
    shown = gauges(
        0,
        num_prefill_requests=2,
        num_decode_requests=10,
        num_queued_prefill=3,
        num_queued_decode=1,
        sum_decode_kv_tokens=44_000,
        sum_prefill_kv_tokens=800,
        sum_queued_prefill_tokens=3000,
        sum_prefill_tokens=500,
    )
    take(workers, tick(0.1, [shown]), (16, 16_000))
    take(workers, tick(0.2), (16, 16_000))
    sample = workers.alive[0].sample(0.2)
    assert (sample.running, sample.waiting, sample.kv_usage) == (12, 4, 0.1)
    assert (sample.queued_prompt_tokens, sample.scheduled_prompt_tokens) == (3000, 500)
    assert sample.prompt_tokens == 13_000, "prompts that wait were not read yet"


def test_arrivals_are_shared_evenly_and_what_left_has_finished() -> None:
    workers = Workers(a_case(start_replicas=2))
    busy = [gauges(0, num_decode_requests=3), gauges(1, num_decode_requests=5)]
    take(workers, tick(0.1, busy, active=(0, 1)), (10, 1000))
    assert [worker.sample(0.1).finished for worker in workers.alive] == [2.0, 0.0]
    take(workers, tick(0.2, [gauges(0, num_decode_requests=1)], active=(0, 1)), (10, 1000))
    assert [worker.sample(0.2).finished for worker in workers.alive] == [4.0, 0.0]


def test_a_request_that_ended_counts_where_the_batch_shrank() -> None:
    workers = Workers(a_case(start_replicas=2))
    take(workers, tick(0.1, [gauges(i, num_decode_requests=5) for i in (0, 1)], active=(0, 1)), (10, 1000))
    take(workers, tick(0.2, [gauges(1, num_decode_requests=4)], active=(0, 1), **ended(1, 1.4, 0.03)), (10, 1000))
    first, second = workers.alive
    assert (first.ttft.count, second.ttft.count, second.claimed) == (0, 1, 1)
    assert (misses(second.ttft, 1.0), misses(second.tpot, 0.05)) == (1, 0)


def test_several_that_ended_at_once_have_their_mean_and_the_usual_tail() -> None:
    workers = Workers(a_case())
    take(workers, tick(0.1, [gauges(0, num_decode_requests=50)]), (50, 5000))
    for i in range(32):  # one in four takes 3 s
        take(workers, tick(0.2 + i / 10, **ended(1, 3.0 if i % 4 == 3 else 0.2, 0.02)), (50, 5000))
    before = misses(workers.alive[0].ttft, 1.0)
    take(workers, tick(4.0, **ended(8, 0.9, 0.02)), (50, 5000))
    ttft = workers.alive[0].ttft
    assert before == 8
    assert misses(ttft, 1.0) - before == 2, "a mean of 0.9 s hides that some took longer"
    assert ttft.sum == pytest.approx(24 * 0.2 + 8 * 3.0 + 8 * 0.9)


def test_tokens_are_the_fleets_and_follow_the_speed_of_workers() -> None:
    workers = Workers(a_case(start_replicas=2))
    shown = [gauges(0, num_decode_requests=30), gauges(1, num_decode_requests=20, wall_time=0.04)]
    count = {"accept_length_forward_count": 200, "avg_accept_length": 1.05}
    take(workers, tick(0.1, shown, active=(0, 1), **count), (50, 5000))
    samples = [worker.sample(0.1) for worker in workers.alive]
    assert [sample.generation_tokens for sample in samples] == [pytest.approx(157.5), pytest.approx(52.5)]
    # 30 requests for 0.1 s made 150 gaps
    assert [sum(sample.itl[0]) for sample in samples] == [150, 50]
    assert [sample.itl[1] for sample in samples] == [pytest.approx(3.0), pytest.approx(2.0)]


def test_counters_never_go_back() -> None:
    worker = Worker(0, a_case(), -60.0, 0.0)
    worker.arrived, worker.arrived_tokens = 10.0, 1000.0
    before = worker.sample(1.0)
    worker.show(gauges(0, num_queued_prefill=4, sum_queued_prefill_tokens=400))
    after = worker.sample(2.0)
    assert (after.finished, after.prompt_tokens) == (before.finished, before.prompt_tokens) == (10.0, 1000.0)


def test_workers_are_known_from_the_decision_that_asked_for_them() -> None:
    workers = Workers(a_case())
    workers.asked(15.0)
    take(workers, tick(15.1, starting=(1, 2)), (0, 0))
    workers.asked(30.0)
    take(workers, tick(30.1, starting=(1,)), (0, 0))
    take(workers, tick(75.05, active=(0, 1)), (0, 0))
    take(workers, tick(90.1, active=(0,), draining=(1,)), (0, 0))
    assert [(w.name, w.created_s, w.ready_s, w.draining) for w in workers.alive] == [
        ("replica-0", -60.0, 0.0, False),
        ("replica-1", 15.0, 75.0, True),
    ]
    take(workers, tick(99.5, active=(0,)), (0, 0))
    assert len(workers.alive) == 1


def test_lives_are_read_from_the_replays_records_and_from_ticks_where_it_has_none() -> None:
    def at(at_ms: float, *changes: tuple[int, str]) -> dict[str, Any]:
        return {"at_ms": at_ms, "transitions": [{"worker_id": worker, "state": state} for worker, state in changes]}

    operations = [
        at(15_000.0, (1, "starting"), (2, "starting")),
        at(75_000.0, (1, "active")),
        at(90_000.0, (1, "draining")),
        at(99_500.0, (1, "removed")),
    ]
    given_up = GivenUp()
    for second, active, starting in ((15.0, (0,), ()), (16.0, (0,), (1, 2)), (30.0, (0,), (1, 2)), (31.0, (0,), (1,))):
        given_up.take(tick(second, active=active, starting=starting))
    given_up.take(tick(76.0, active=(0, 1)))
    assert lives_of(operations, given_up.gone_ms, a_case(), 0.5) == [
        Life(-60.0, 0.0, None, None),
        Life(15.5, 75.5, 90.5, 100.0),
        Life(15.5, None, None, 30.5),
    ]


def test_ticks_come_faster_the_more_requests_end() -> None:
    workers = Workers(a_case())
    assert workers.gap_s == 0.5
    for i in range(2000):
        take(workers, tick(0.1 * i, **ended(4, 0.1, 0.02)), (0, 0))
    assert workers.gap_s == pytest.approx(0.5 / 40, rel=0.01)


@pytest.mark.parametrize("zero_s", [0.0, 0.25])
def test_the_adapter_asks_for_workers_when_the_driver_does(zero_s: float) -> None:
    """Dynamo's clock begins with the first request, the policy's does not."""
    case = a_case(path=((2.5, 3),))
    adapter = Adapter(Driver(case, steady(1.0, 60.0), PATH, 0.0, 1, ()), Workers(case), zero_s)
    assert adapter.initial_tick_ms() == 500
    answers = [adapter.on_tick(tick(second - zero_s)) for second in (0.5, 1.0, 2.0, 3.0, 3.5)]
    assert [answer["target_decode"] for answer in answers] == [None, None, None, 3, None]
    assert [answer["next_tick_ms"] + 1000 * zero_s for answer in answers] == [1000, 1500, 2500, 3500, 4000]


def test_every_prompt_has_blocks_of_its_own() -> None:
    lines = list(trace_lines([Request(0, 0.0, 513, 7), Request(1, 1.5, 512, 1)]))
    assert lines == [
        b'{"timestamp":0.0,"input_length":513,"output_length":7,"hash_ids":[0,1]}',
        b'{"timestamp":1500.0,"input_length":512,"output_length":1,"hash_ids":[2]}',
    ]


def test_what_became_of_requests_is_read_from_the_report() -> None:
    row = {"input_length": 100, "requested_output_length": 1, "ttft_ms": 250.0, "itl_ms": None}
    done = {**row, "arrival_time_ms": 2000.0, "terminal_status": "completed", "terminal_time_ms": 2250.0}
    failed = {**row, "arrival_time_ms": 1000.0, "terminal_status": "rejected", "ttft_ms": None, "terminal_time_ms": 1.0}
    lost, served = served_of([done, failed], 0.5)
    assert (lost.arrival_s, lost.ttft_s, lost.itl_s, lost.end_s) == (1.5, None, None, None)
    assert (served.ttft_s, served.itl_s, served.end_s) == (0.25, 0.0, 2.75)
