"""Batch work on the real control plane: BatchPolicies, Jobs whose pods run for a time, and what became of them."""

import json
import time
from collections.abc import Collection
from typing import Any

from ebbtide.api.batch_note import ANNOTATION, BatchNote, intent_of, read_note
from ebbtide.errors import SandboxError
from ebbtide.model.batch import Intent
from ebbtide.sandbox.audit import audit_writes
from tests.cluster.rig import OPERATOR_USER, Json, Rig

GRACE_S = 5.0
LABEL = "team.example.com/batch"


def batch_policy(rig: Rig, name: str, pool_name: str, **spec: Any) -> Json:
    """For Jobs labelled with its name, on one pool."""
    body = {"selector": {"matchLabels": {LABEL: name}}, "pools": [pool_name], **spec}
    meta = {"name": name, "namespace": rig.namespace}
    return {"apiVersion": "ebbtide.dev/v1alpha1", "kind": "BatchPolicy", "metadata": meta, "spec": body}


def job_spec(runs_for: str = "15m", at_most: str = "", **spec: Any) -> Json:
    """Suspended, one pod of one GPU; its pods end between `runs_for` and `at_most` after they are ready.

    `pod` is of their spec.
    """
    annotations = {"sandbox.ebbtide.dev/run-for": runs_for}
    if at_most:
        annotations["sandbox.ebbtide.dev/run-for-at-most"] = at_most
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(GRACE_S),
        "containers": [{"name": "work", "image": "work", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        **spec.pop("pod", {}),
    }
    return {"suspend": True, "template": {"metadata": {"annotations": annotations}, "spec": pod}, **spec}


def job(rig: Rig, name: str, policy: str, runs_for: str = "15m", at_most: str = "", **more: Any) -> Json:
    """`asks`: what its annotations of ebbtide.dev say; `labels`; the rest is of its spec."""
    asks = {f"ebbtide.dev/{key.replace('_', '-')}": text for key, text in more.pop("asks", {}).items()}
    labels = {LABEL: policy, **more.pop("labels", {})}
    meta = {"name": name, "namespace": rig.namespace, "labels": labels, "annotations": asks}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": job_spec(runs_for, at_most, **more)}


def jobs(rig: Rig) -> dict[str, Json]:
    """All Jobs by name."""
    items = json.loads(rig.sandbox.kubectl("-n", rig.namespace, "get", "jobs", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item for item in items}


def note(live: Json) -> BatchNote | None:
    """What Ebbtide wrote on it."""
    return read_note(live["metadata"].get("annotations", {}).get(ANNOTATION), live["metadata"]["uid"])


def whose(live: Json) -> Intent:
    """Whose will its `suspend` is."""
    return intent_of(note(live), live["spec"]["suspend"])


def runs(live: Json) -> bool:
    """Whether Ebbtide started it and a pod of it is there."""
    return whose(live) is Intent.RUNS and bool(live["status"].get("active"))


def ended(live: Json) -> str:
    """Complete or Failed; empty: it has not."""
    conditions = live["status"].get("conditions", [])
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), "")


def set_suspend(rig: Rig, name: str, suspend: bool) -> None:
    """As its user does."""
    patch = json.dumps({"spec": {"suspend": suspend}})
    rig.sandbox.kubectl("-n", rig.namespace, "patch", "job", name, "--type=merge", "-p", patch)


def moves(rig: Rig, name: str, since_s: float = 0.0) -> list[tuple[float, bool]]:
    """(when, suspend) of every patch by Ebbtide that the API server accepted and that says it, oldest first."""
    return [
        (write.time_s, write.body["spec"]["suspend"])
        for write in audit_writes(rig.sandbox.audit_log, OPERATOR_USER)
        if write.resource == "jobs"
        and (write.namespace, write.name) == (rig.namespace, name)
        and write.time_s >= since_s
        and "suspend" in (write.body.get("spec") or {})
    ]


def told(rig: Rig, name: str, reason: str) -> str:
    """The newest Event of that reason on an object; empty: there is none."""
    found = [item for item in rig.events(reason) if item["involvedObject"]["name"] == name]
    return str(found[-1]["message"]) if found else ""


def all_end(rig: Rig, names: Collection[str], quiet_s: float = 120.0) -> None:
    """Waits until all are complete; fails, with what is known of each, once none started or ended for `quiet_s`.

    How long ten Jobs take in all says how fast the machine is; that none of them moves for minutes says that nobody
    will start them.
    """
    seen: tuple[int, int] | None = None
    while True:
        live = jobs(rig)
        done = [name for name in names if name in live and ended(live[name]) == "Complete"]
        if len(done) == len(names):
            return
        progress = len(done), sum(bool(moves(rig, name)) for name in names)
        if progress != seen:
            seen, since_s = progress, time.monotonic()
        assert time.monotonic() < since_s + quiet_s, f"none of them moved for {quiet_s:.0f} s:\n{told_of(rig, names)}"
        time.sleep(0.5)


def told_of(rig: Rig, names: Collection[str]) -> str:
    """One line for each Job: how it stands, what Ebbtide did with it so far, and why it does nothing more."""
    listed = json.loads(rig.sandbox.kubectl("-n", rig.namespace, "get", "batchpolicies", "-o", "json"))["items"]
    rows = {row["name"]: row for item in listed for row in item.get("status", {}).get("jobs", [])}
    live, lines = jobs(rig), []
    for name in names:
        if name not in live:
            lines.append(f"{name}: is not there")
            continue
        one, row = live[name], rows.get(name, {})
        stands = ended(one) or whose(one).value
        pods = {key: one["status"].get(key, 0) for key in ("active", "ready", "terminating", "failed")}
        did = ["stop" if suspend else "start" for _, suspend in moves(rig, name)]
        lines.append(f"{name}: {stands}, {pods}, {did}; {row.get('outcome', 'not in status')}: {row.get('reason', '')}")
    return "\n".join(lines)


def fail_pod(rig: Rig, name: str) -> bool:
    """Lets the pod of a Job that runs fail; False: there is none."""
    listed = rig.sandbox.kubectl("-n", rig.namespace, "get", "pods", "-l", f"job-name={name}", "-o", "json")
    running = [item for item in json.loads(listed)["items"] if item["status"]["phase"] == "Running"]
    for item in running:
        patch = json.dumps({"status": {"phase": "Failed"}})
        where = ("-n", rig.namespace, "patch", "pod", item["metadata"]["name"])
        try:
            rig.sandbox.kubectl(*where, "--subresource=status", "--type=merge", "-p", patch)
        except SandboxError:
            return False
    return bool(running)
