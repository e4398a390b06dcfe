"""Dynamo's replay itself, in its own environment: skipped where that is not installed, but in `make test-full`."""

import bisect
from collections.abc import Iterator

import pytest

from ebbtide.bench.dynamo.simulator import DynamoSimulator
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import EBBTIDE, HOLD, PATH
from ebbtide.errors import ConfigurationError
from tests.bench.cases import a_case, met, random_load
from tests.bench.dynamo import require_dynamo

pytestmark = [pytest.mark.full]


@pytest.fixture(scope="module")
def dynamo() -> Iterator[DynamoSimulator]:
    require_dynamo()
    with DynamoSimulator() as simulator:
        yield simulator


def test_both_simulators_rank_static_fleets_alike(dynamo: DynamoSimulator) -> None:
    requests, case = random_load(6.0, 300.0), a_case()
    shares = [
        [met(simulator.run(a_case(start_replicas=n), requests, HOLD, 0.0, 1), case) for n in (1, 2, 3, 6)]
        for simulator in (dynamo, OwnSimulator())
    ]
    for row in shares:
        assert row == sorted(row) and row[0] < 0.9 and row[-1] > 0.98, shares


def test_every_request_is_accounted_for_and_runs_are_equal(dynamo: DynamoSimulator) -> None:
    requests = random_load(5.0, 300.0)
    first, second = (dynamo.run(a_case(start_replicas=2), requests, EBBTIDE, 0.0, 1) for _ in range(2))
    assert [(s.arrival_s, s.prompt_tokens, s.output_tokens) for s in first.served] == [
        (pytest.approx(r.arrival_s), r.prompt_tokens, r.output_tokens) for r in requests
    ]
    assert (first.served, first.replicas) == (second.served, second.replicas)


def test_a_path_is_followed_and_billed_from_the_write(dynamo: DynamoSimulator) -> None:
    case = a_case(path=((0.0, 1), (60.0, 3), (200.0, 1)))
    result = dynamo.run(case, random_load(2.0, 300.0), PATH, 0.0, 1)
    counts = [(billed, ready) for _, billed, ready in result.replicas]
    assert counts[:3] == [(1, 1), (3, 1), (3, 3)] and counts[-1] == (1, 1)
    seconds = [second for second, _, _ in result.replicas]
    assert seconds[1] == pytest.approx(60.0) and seconds[2] == pytest.approx(120.0, abs=0.6)
    assert result.startup_billed_s == pytest.approx(120.0, abs=1.2)


def test_ebbtide_sees_load_come_and_acts(dynamo: DynamoSimulator) -> None:
    requests = [r for r in random_load(9.0, 600.0) if r.id % 4 == 0 or r.arrival_s > 150.0]
    result = dynamo.run(a_case(), requests, EBBTIDE, 0.0, 1)
    rises = [second for second, billed, _ in result.replicas if billed > 1]
    assert rises and rises[bisect.bisect(rises, 0.0)] < 300.0
    assert met(result, a_case()) > met(dynamo.run(a_case(), requests, HOLD, 0.0, 1), a_case())


def test_a_worker_that_is_given_up_while_it_starts_is_billed_that_long(dynamo: DynamoSimulator) -> None:
    result = dynamo.run(a_case(path=((60.0, 2), (80.0, 1))), random_load(1.0, 200.0), PATH, 0.0, 1)
    assert result.startup_billed_s == pytest.approx(20.0, abs=0.1)
    assert result.replicas[-1][1:] == (1, 1)


_TRAINING = [Minute(60.0 * i, 120 + 60 * (i % 5), 180_000, 30_000) for i in range(-30, 0)]


# with training that never saw such a load, its mode without load scaling believes the training
@pytest.mark.parametrize(
    ("name", "history"),
    [("dynamo-planner-load", _TRAINING), ("dynamo-planner-throughput", []), ("dynamo-planner", _TRAINING)],
)
def test_dynamos_own_planner_scales(dynamo: DynamoSimulator, name: str, history: list[Minute]) -> None:
    requests = [r for r in random_load(14.0, 500.0) if r.id % 8 == 0 or r.arrival_s > 100.0]
    result = dynamo.run(a_case(), requests, name, 1.0, 1, history)
    assert result.scale_events > 0 and max(ready for _, _, ready in result.replicas) > 1


def test_a_degree_of_parallelism_that_does_not_divide_the_model_is_refused_with_its_reason(
    dynamo: DynamoSimulator,
) -> None:
    case = a_case(tensor_parallel=3)
    with pytest.raises(
        ConfigurationError, match=r"no meta-llama/Meta-Llama-3\.1-8B on 3 x a100_sxm: --tp must .* 1, 2, 4,"
    ):
        dynamo.run(case, random_load(1.0, 20.0), HOLD, 0.0, 1)
