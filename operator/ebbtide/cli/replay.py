"""`ebbtide replay`: decides a recorded cycle again, here, and says whether the same comes out, bit for bit.

Works on a copy of the recorder's directory on any machine; needs neither a cluster nor a network.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from ebbtide import __version__
from ebbtide.clock import rfc3339
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan, ServicePlan
from ebbtide.model.snapshot import Snapshot
from ebbtide.record.recorder import LAST, FlightRecorder, Recording, digest_of

PlanFunction = Callable[[Snapshot, Memory, float], tuple[Plan, Memory]]

_MAX_DIFF_LINES = 200


@dataclass(frozen=True, slots=True)
class Replay:
    """A recording and what deciding it again gave."""

    recording: Recording
    plan: Plan
    digest: str

    @property
    def same(self) -> bool:
        """True when both plans are equal, bit for bit."""
        return self.digest == self.recording.plan_digest


def decide_again(recording: Recording, plan_function: PlanFunction) -> Replay:
    """Runs `plan_function` on the recorded arguments."""
    plan, _ = plan_function(recording.snapshot, recording.memory, recording.now_s)
    return Replay(recording=recording, plan=plan, digest=digest_of(plan))


def diff(replay: Replay) -> list[str]:
    """The recorded and the new plan, line by line where they differ, at most 200 lines."""
    recorded, again = (_lines(plan) for plan in (replay.recording.plan, replay.plan))
    lines = list(difflib.unified_diff(recorded, again, "recorded", "decided again", lineterm="", n=2))
    if len(lines) > _MAX_DIFF_LINES:
        return [*lines[:_MAX_DIFF_LINES], f"... {len(lines) - _MAX_DIFF_LINES} lines more"]
    return lines


def describe(replay: Replay) -> Iterator[str]:
    """The decision in words: when, every service with its reason and waterfall, the writes."""
    recording, plan = replay.recording, replay.recording.plan
    yield f"decision {recording.id}, taken at {rfc3339(recording.now_s)} by ebbtide {recording.version}"
    for condition in plan.cluster_conditions:
        yield f"cluster: {condition.type}={condition.status.value} {condition.reason}: {condition.message}"
    for service in plan.services:
        yield from _describe_service(service)
    for action in plan.actions:
        change = f"{action.from_replicas} -> {action.to_replicas}"
        yield f"write: {action.service} {action.target.kind} {action.target.name} {change}"
    if not plan.actions:
        yield "write: nothing"


def _describe_service(service: ServicePlan) -> Iterator[str]:
    yield f"{service.key}: {service.reason.code.value}: {service.reason.text}"
    for step in service.waterfall:
        yield f"  {step.name:<14} {step.replicas:>4}  {step.text}"
    for variant in service.variants:
        limited = f", limited by {variant.limited_by}" if variant.limited_by else ""
        limited += f" of CostPolicy {variant.limited_by_policy}" if variant.limited_by_policy else ""
        yield (
            f"  {variant.name}: observed {variant.observed}, ready {variant.ready}, wanted {variant.wanted},"
            f" allowed {variant.allowed}{limited}"
        )


def _lines(plan: Plan) -> list[str]:
    # an infinite float would be null in JSON; the digest, made from MessagePack, still tells the plans apart
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode().splitlines()


def _as_json(replay: Replay, difference: list[str]) -> bytes:
    document: dict[str, Any] = {
        "id": replay.recording.id,
        "at": rfc3339(replay.recording.now_s),
        "recordedBy": replay.recording.version,
        "replayedBy": __version__,
        "same": replay.same,
        "recordedDigest": replay.recording.plan_digest,
        "digest": replay.digest,
        "plan": replay.recording.plan,
        "diff": difference,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


@click.command(
    epilog="""\b
Examples:
  ebbtide replay --list
  ebbtide replay --decision last
  ebbtide replay --decision 20260131T090500.123Z-1a2b3c4d --recorder ./flight -o json"""
)
@click.option("--decision", "decision", metavar="ID", help="Id from status.decisions, its beginning, or 'last'.")
@click.option(
    "--recorder",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="EBBTIDE_RECORDER_DIR",
    required=True,
    help="Directory of the flight recorder, or a copy of it.",
    show_envvar=True,
)
@click.option("--list", "list_ids", is_flag=True, help="List the decisions that are held, oldest first, and stop.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def replay(decision: str | None, directory: Path, list_ids: bool, output: str) -> None:
    """Decide a recorded cycle again and compare: exit 0 if the same plan comes out, bit for bit, else 1."""
    from ebbtide.core.plan import plan  # late, so that --help is fast

    recorder = FlightRecorder(directory, max_bytes=1)  # reading only: the bound is not applied
    if list_ids:
        click.echo("\n".join(recorder.ids()) or f"no decisions are recorded in {directory}")
        return
    if not decision:
        raise click.UsageError(f"give --decision ID (or '{LAST}'), or --list to see what is held")
    again = decide_again(recorder.load(decision), plan)
    difference = [] if again.same else diff(again)
    if output == "json":
        click.echo(_as_json(again, difference))
    else:
        click.echo("\n".join(describe(again)))
        click.echo("\n".join(_verdict(again, difference)))
    if not again.same:
        raise click.exceptions.Exit(1)


def _verdict(again: Replay, difference: list[str]) -> list[str]:
    if again.same:
        return [f"replayed by ebbtide {__version__}: the same plan, bit for bit (sha256 {again.digest[:16]})"]
    cause = (
        f"recorded by {again.recording.version}, replayed by {__version__}: use the same version to reproduce it"
        if again.recording.version != __version__
        else "the same version decided otherwise: please report this, with the recorder's directory"
    )
    return [f"DIFFERENT: {cause}", *difference]
