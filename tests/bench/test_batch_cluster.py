"""The Jobs of `make bench`: what waits and what runs, and the controller that plays their pods."""

from typing import Any

from benchmarks import fleet
from benchmarks.batch import JOBS_PER_POLICY, MOST_GPUS, Batch
from benchmarks.cluster import Objects

from tests.builders import NOW

QUEUED = 600


def populated() -> tuple[Objects, Batch]:
    objects = Objects()
    batch = Batch(objects, fleet.services(100), QUEUED, NOW)
    batch.populate()
    return objects, batch


def names(objects: Objects, plural: str, part: str = "") -> list[str]:
    return [key for key in objects.kinds[plural].items if part in key]


def resumed(objects: Objects, key: str, suspend: bool) -> dict[str, Any]:
    item = objects.get("jobs", key)
    assert item is not None
    item["spec"]["suspend"] = suspend
    return objects.put("jobs", item)


def test_as_many_jobs_wait_as_were_asked_for_and_their_policies_gpus_are_taken():
    objects, _ = populated()
    assert len(names(objects, "jobs", "/queued-")) == QUEUED
    assert len(names(objects, "batchpolicies")) == QUEUED // JOBS_PER_POLICY
    running = names(objects, "jobs", "/running-")
    assert len(running) == len(names(objects, "pods")) == MOST_GPUS * QUEUED // JOBS_PER_POLICY


def test_pods_come_when_a_job_is_resumed_and_go_when_it_is_suspended():
    objects, batch = populated()
    key = next(iter(names(objects, "jobs", "/queued-")))
    before = len(names(objects, "pods"))
    assert batch.control(resumed(objects, key, suspend=False))["status"]["active"] == 1
    assert len(names(objects, "pods")) == before + 1
    assert batch.control(resumed(objects, key, suspend=True))["status"]["active"] == 0
    assert len(names(objects, "pods")) == before
