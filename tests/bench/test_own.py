"""Our simulator under the benchmark's protocol: bounds, bills, start-up times and what a policy is shown."""

import pytest

from ebbtide.bench.case import EngineLimits
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Observation
from ebbtide.bench.run import EBBTIDE, HOLD, PATH
from ebbtide.errors import ConfigurationError
from tests.bench.cases import Told, a_case, as_rival, met, random_load, steady


def test_a_fleet_that_is_held_serves_everything_and_is_billed_for_the_span() -> None:
    requests = steady(2.0, 120.0)
    result = OwnSimulator().run(a_case(start_replicas=2), requests, HOLD, 0.0, 1)
    assert [s.arrival_s for s in result.served] == [r.arrival_s for r in requests]
    assert met(result, a_case()) == 1.0
    assert (result.replicas, result.scale_events, result.startup_billed_s) == (((0.0, 2, 2),), 0, 0.0)
    assert result.billed_s == pytest.approx(2 * requests[-1].arrival_s)


def test_more_replicas_never_attain_less() -> None:
    case, requests = a_case(), random_load(6.0, 300.0)
    shares = [
        met(OwnSimulator().run(a_case(start_replicas=count), requests, HOLD, 0.0, 1), case) for count in (1, 2, 4)
    ]
    assert shares == sorted(shares) and shares[0] < 0.9 < shares[2]


def test_a_path_is_followed_with_each_replicas_own_start_up() -> None:
    case = a_case(startup_s=(30.0, 90.0), path=((0.0, 1), (60.0, 3), (240.0, 1)))
    result = OwnSimulator().run(case, steady(1.0, 400.0), PATH, 0.0, 1)
    # the first replica took 30 s before the run, so the next two take 90 s and 30 s
    assert result.replicas[:4] == ((0.0, 1, 1), (60.0, 3, 1), (90.0, 3, 2), (150.0, 3, 3))
    assert result.replicas[-1][1:] == (1, 1)
    assert result.startup_billed_s == 120.0
    assert result.scale_events == 2
    assert met(result, case) == 1.0, "who drains serves what it has"


def test_a_replica_that_is_given_up_while_it_starts_is_billed_that_long() -> None:
    case = a_case(path=((60.0, 2), (80.0, 1)))
    result = OwnSimulator().run(case, steady(1.0, 200.0), PATH, 0.0, 1)
    assert result.startup_billed_s == pytest.approx(20.0)
    assert result.replicas == ((0.0, 1, 1), (60.0, 2, 1), (80.0, 1, 1))


def test_a_rivals_answer_is_kept_inside_the_bounds_and_it_sees_the_fleet_move() -> None:
    minutes = []

    def answer(seen: Observation) -> int:
        minutes.append(len(seen.history) == int(seen.now_s // 60))
        return 99 if seen.now_s < 100 else 0

    policy, case = Told(answer), a_case(max_replicas=4)
    result = OwnSimulator(as_rival(policy)).run(case, steady(1.0, 300.0), "told", 0.0, 1)
    assert max(billed for _, billed, _ in result.replicas) == 4
    assert min(billed for _, billed, _ in result.replicas) == 1
    assert [seen.now_s for seen in policy.seen[:3]] == [15.0, 30.0, 45.0]
    assert {(seen.declared, seen.ready, seen.starting) for seen in policy.seen} == {(1, 1, 0), (4, 1, 3), (4, 4, 0)}
    assert len(minutes) == 19 and all(minutes)


def test_what_a_policy_does_after_the_last_arrival_is_nobodys_gain() -> None:
    policy = Told(lambda seen: 5)
    requests = [*steady(1.0, 10.0), steady(1.0, 20.0, output=4000)[-1]]
    result = OwnSimulator(as_rival(policy)).run(a_case(), requests, "told", 0.0, 1)
    assert result.served[-1].end_s is not None and result.served[-1].end_s > 30.0
    assert max(seen.now_s for seen in policy.seen) <= 20.0


def test_requests_without_any_room_are_missed_and_the_run_ends() -> None:
    requests = [*steady(1.0, 10.0), steady(1.0, 11.0, prompt=500_000)[-1]]
    last = OwnSimulator().run(a_case(), requests, HOLD, 0.0, 1).served[-1]
    assert (last.ttft_s, last.itl_s, last.end_s) == (None, None, None)


def test_a_replica_with_less_kv_cache_carries_less() -> None:
    requests = steady(6.0, 200.0)
    found = [a_case(engine=EngineLimits(kv_blocks=blocks)) for blocks in (7000, 200)]
    much, little = (met(OwnSimulator().run(case, requests, HOLD, 0.0, 1), case) for case in found)
    assert much > 0.9
    assert little < 0.5


def test_ebbtide_grows_with_its_load_and_is_the_same_each_time() -> None:
    requests = [r for r in random_load(8.0, 900.0) if r.id % 4 == 0 or r.arrival_s > 200.0]
    case = a_case()
    first, second = (OwnSimulator().run(case, requests, EBBTIDE, 0.0, 1) for _ in range(2))
    assert max(ready for _, _, ready in first.replicas) > 1
    assert met(first, case) > met(OwnSimulator().run(case, requests, HOLD, 0.0, 1), case)
    assert (first.served, first.replicas, first.billed_s) == (second.served, second.replicas, second.billed_s)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "meta-llama/Meta-Llama-3.1-13B"}, "no model 'meta-llama/Meta-Llama-3.1-13B'; it has: meta-llama/"),
        ({"model": "deepseek-ai/DeepSeek-R1"}, "DeepSeek-R1"),
        ({"model": "nobody/Foo-8B"}, "no model 'nobody/Foo-8B'; it has: meta-llama/Meta-Llama-3.1-8B, "),
        ({"system": "h999"}, "h999"),
        ({"tensor_parallel": 8}, "8 x a100_sxm"),
    ],
)
def test_an_engine_that_does_not_exist_is_named(changes, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        OwnSimulator().run(a_case(**changes), steady(1.0, 10.0), HOLD, 0.0, 1)


def test_an_unknown_policy_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="'nobody' is unknown; known: ebbtide, hold, path, told"):
        OwnSimulator(as_rival(Told(lambda seen: None))).run(a_case(), steady(1.0, 10.0), "nobody", 0.0, 1)


def test_replicas_of_unlike_speed_take_turns_in_being_it() -> None:
    requests = steady(0.5, 200.0)

    def gaps(*speeds: float) -> list[float]:
        served = OwnSimulator().run(a_case(start_replicas=1, speeds=speeds), requests, HOLD, 0.0, 1).served
        return [one.itl_s or 0.0 for one in served]

    alike, faster = gaps(), gaps(1.25)
    assert sum(alike) / sum(faster) == pytest.approx(1.25, rel=0.02)
    both = OwnSimulator().run(a_case(start_replicas=2, speeds=(0.5, 1.0)), steady(6.0, 100.0), HOLD, 0.0, 1).served
    slow, quick = max(one.itl_s or 0.0 for one in both), min(one.itl_s or 0.0 for one in both)
    assert slow > 1.7 * quick


def test_what_ebbtide_believes_of_a_replica_is_told_and_of_others_nothing() -> None:
    requests, case = random_load(2.0, 300.0), a_case()
    believed = OwnSimulator().run(case, requests, EBBTIDE, 0.0, 1).believed
    assert [second for second, _ in believed] == [15.0 * i for i in range(1, 20)]
    assert all(0.5 < rate < 50.0 for _, rate in believed)
    assert OwnSimulator().run(case, requests, HOLD, 0.0, 1).believed == ()
