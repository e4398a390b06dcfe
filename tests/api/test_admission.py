"""What the real API server makes of bad and good objects."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ebbtide.api import parse_batch_policy, parse_policy, parse_pool, parse_service
from ebbtide.kube.client import KubeClient
from ebbtide.sandbox.sandbox import Sandbox
from tests.api.bad_case import Bad
from tests.api.bad_objects import BAD
from tests.api.constraints import Constraint, constraints, field_name, violating
from tests.api.good_case import Good
from tests.api.good_objects import GOOD
from tests.api.samples import ALL_FULL, FULL, Object, get_at
from tests.api.server import answer, errors, refusal, status_refusal

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))
PARSERS: dict[str, Callable[[Object], object]] = {
    "GPUPool": parse_pool,
    "InferenceService": parse_service,
    "CostPolicy": parse_policy,
    "BatchPolicy": parse_batch_policy,
}
GENERATED = [each for each in constraints() if violating(each) is not None]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
async def test_a_bad_object_is_refused_with_field_value_and_what_is_allowed(api: KubeClient, case: Bad) -> None:
    refused = await refusal(api, case.obj, before=case.before)
    assert refused is not None, "accepted"
    assert any(all(part in line for part in case.wanted) for line in errors(refused)), refused


async def test_every_bound_of_the_schema_is_kept(api: KubeClient) -> None:
    async def wrong(constraint: Constraint) -> str:
        obj = violating(constraint)
        assert obj is not None
        in_status = constraint.value_path[0] == "status"
        refused = await (status_refusal(api, obj) if in_status else refusal(api, obj))
        named = refused and any(line.startswith(field_name(constraint.value_path)) for line in errors(refused))
        return "" if named else f"{constraint.name}: {refused or 'accepted'}"

    for obj in (each for samples in ALL_FULL.values() for each in samples):
        assert await status_refusal(api, obj) is None  # the samples are good, so the one change is what is refused
    found = await asyncio.gather(*(wrong(each) for each in GENERATED))
    assert [line for line in found if line] == []


@pytest.mark.parametrize(("kind", "bad", "good"), [
    ("InferenceService", 40, 15),
    ("GPUPool", 40, 15),
    ("CostPolicy", 25, 10),
    ("BatchPolicy", 25, 10),
])  # fmt: skip
def test_there_are_enough_objects_of_each_kind(kind: str, bad: int, good: int) -> None:
    assert sum(case.obj["kind"] == kind for case in BAD) >= bad
    assert sum(case.obj["kind"] == kind for case in GOOD) >= good


def test_each_object_has_a_name_of_its_own() -> None:
    assert len({case.name for case in (*BAD, *GOOD)}) == len(BAD) + len(GOOD)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
async def test_a_good_object_is_accepted_and_gets_the_documented_defaults(api: KubeClient, case: Good) -> None:
    stored = await answer(api, case.obj)
    for dotted, wanted in case.wanted.items():
        path = [int(part) if part.isdigit() else part for part in dotted.split(".")]
        assert get_at(stored, path) == wanted, dotted


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
async def test_the_operator_reads_the_same_with_and_without_the_servers_defaults(api: KubeClient, case: Good) -> None:
    parse = PARSERS[case.obj["kind"]]
    stored = await answer(api, case.obj)
    stored["metadata"] = case.obj["metadata"]
    assert parse(stored) == parse(case.obj)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_accepted(api_sandbox: Sandbox, path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    said = api_sandbox.kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert said.count("created") == len(documents)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


def test_explain_shows_every_field(api_sandbox: Sandbox) -> None:
    shown = api_sandbox.kubectl("explain", "inferenceservice.spec.variants", "--recursive")
    for field in ("scaleTargetRef", "engine", "deletionPolicy", "podTemplate", "gpusPerReplica", "requestsPerSecond"):
        assert f"{field}\t" in shown
    shown = api_sandbox.kubectl("explain", "infs.spec.objectives.timeToFirstToken")
    assert "as a duration from 1ms to 1h. Unset: 1s." in " ".join(shown.split())


def test_the_columns_that_get_prints(api_sandbox: Sandbox) -> None:
    service = yaml.safe_dump({**FULL["InferenceService"], "metadata": {"name": "shown", "namespace": "default"}})
    api_sandbox.kubectl("apply", "-f", "-", stdin=service)
    api_sandbox.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=service)
    header, row = api_sandbox.kubectl("get", "infs", "shown").splitlines()
    assert header.split() == ["NAME", "MODE", "READY", "NOW", "WANT", "ALLOWED", "REASON", "$/H", "AGE"]
    assert row.split()[:-1] == ["shown", "Auto", "True", "2", "3", "2", "Paused", "5.00"]
    wide, row = api_sandbox.kubectl("get", "infs", "shown", "-o", "wide").splitlines()
    assert "MESSAGE" in wide
    assert "held at 2: paused by ada" in row
    pool = yaml.safe_dump({**FULL["GPUPool"], "metadata": {"name": "shown"}})
    api_sandbox.kubectl("apply", "-f", "-", stdin=pool)
    api_sandbox.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=pool)
    header, row = api_sandbox.kubectl("get", "gpool", "shown").splitlines()
    assert header.split() == ["NAME", "ACCELERATOR", "TYPE", "NODES", "GPUS", "FREE", "PRICE", "READY", "AGE"]
    assert row.split()[:-1] == ["shown", "H100-80GB", "Spot", "2", "16", "4", "2.50", "True"]
    batch = yaml.safe_dump({**FULL["BatchPolicy"], "metadata": {"name": "shown", "namespace": "default"}})
    api_sandbox.kubectl("apply", "-f", "-", stdin=batch)
    api_sandbox.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=batch)
    header, row = api_sandbox.kubectl("get", "batchp", "shown").splitlines()
    assert header.split()[:8] == ["NAME", "STRATEGY", "READY", "QUEUED", "RUNNING", "STOPPED", "GPUS", "MISSED"]
    assert header.split()[8:] == ["NEXT-START", "SAVED", "REASON", "AGE"]
    shown = ["shown", "Window", "True", "12", "3", "1", "24", "0", "2026-01-31T21:00:00Z", "-12.40", "JobsWait"]
    assert row.split()[:-1] == shown
    assert "shown" in api_sandbox.kubectl("get", "ebbtide", "-A")
