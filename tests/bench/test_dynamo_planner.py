"""Dynamo's own planner as a rival: what it is configured with, warmed by and counted for."""

from typing import Any

import pytest

from ebbtide.bench.dynamo.planner import PLANNERS, Counted, settings, warm_up_requests
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Minute
from ebbtide.errors import ConfigurationError
from tests.bench.cases import a_case, steady


@pytest.mark.parametrize(
    ("name", "throughput", "load"),
    [
        ("dynamo-planner-load", False, True),
        ("dynamo-planner-throughput", True, False),
        ("dynamo-planner", True, True),
    ],
)
def test_three_modes_with_the_cases_objectives_and_bounds(name: str, throughput: bool, load: bool) -> None:
    case = a_case(tensor_parallel=4, max_replicas=12, min_replicas=2)
    found = settings(name, 1.0, case, None)
    assert (found["enable_throughput_scaling"], found["enable_load_scaling"]) == (throughput, load)
    assert (found["ttft_ms"], found["itl_ms"]) == (1000.0, 50.0)
    assert (found["decode_engine_num_gpu"], found["max_gpu_budget"], found["min_endpoint"]) == (4, 48, 2)


def test_a_larger_knob_means_stricter_targets() -> None:
    found = settings("dynamo-planner", 2.0, a_case(), None)
    assert (found["ttft_ms"], found["itl_ms"]) == (500.0, 25.0)


def test_it_is_warmed_by_the_end_of_training_alone() -> None:
    history = [Minute(-60.0 * (400 - i), 3, 300, 30) for i in range(400)] + [Minute(0.0, 99, 9900, 99)]
    found = list(warm_up_requests(history))
    assert len(found) == 3 * 180
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in found[:2]] == [(10.0, 100, 10), (30.0, 100, 10)]
    assert found[-1].arrival_s == 180 * 60 - 10.0
    assert list(warm_up_requests([Minute(-60.0, 0, 0, 0)])) == []


def test_changes_are_counted_until_the_last_arrival() -> None:
    class Scripted:
        def __init__(self) -> None:
            self.answers: list[Any] = [None, {"target_decode": None}, {"target_decode": 1}, *[{"target_decode": 2}] * 2]

        def initial_tick_ms(self) -> float:
            return 5000.0

        def on_tick(self, tick: Any) -> Any:
            return self.answers.pop(0)

    counted = Counted(Scripted(), ends_s=20.0)
    assert counted.initial_tick_ms() == 5000.0
    for second in (5, 10, 15, 20, 25):
        ids = {f"{state}_decode_ids": [] for state in ("starting", "active", "draining")}
        counted.on_tick({"now_ms": 1000.0 * second, "non_draining_decode_count": 1, **ids})
    assert counted.changes == 1


def test_elsewhere_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--simulator dynamo alone"):
        OwnSimulator(PLANNERS).run(a_case(), steady(1.0, 10.0), "dynamo-planner", 1.0, 1)
