"""manifests/admission/batch*.yaml on the real API server: Jobs that a BatchPolicy selects come suspended, or never."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.errors import SandboxError
from ebbtide.sandbox.sandbox import Sandbox
from tests.api.samples import Object, batch_policy, changed
from tests.cluster.jobset_crd import CRD

MANIFESTS = Path(__file__).parents[2] / "manifests"
REFUSES = MANIFESTS / "admission" / "batch.yaml"
SUSPENDS = MANIFESTS / "admission" / "batch-suspend.yaml"
CLASSIFIES = MANIFESTS / "admission" / "batch-priority.yaml"
TEAM, OTHERS = "batch-team", "batch-others"  # namespaces: policies are in the first alone
LABEL = {"ebbtide.dev/batch": "nightly"}
OWNER = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "set", "uid": "u-1"}

pytestmark = pytest.mark.cluster


def job(labels: dict[str, str], namespace: str = TEAM, **spec: Any) -> Object:
    container = {"name": "embed", "image": "embed"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    meta = {"name": "embed", "namespace": namespace, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template, **spec}}


def policy(name: str, labels: dict[str, str]) -> Object:
    return batch_policy(("metadata", {"name": name, "namespace": TEAM}), ("spec.selector", {"matchLabels": labels}))


def fails(work: Callable[[], object]) -> str:
    """In what words; empty: it does not."""
    try:
        work()
    except SandboxError as error:
        return str(error)
    return ""


def created(sandbox: Sandbox, obj: Object) -> Object:
    """What the API server would store; nothing is."""
    words = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    found: Object = json.loads(sandbox.kubectl(*words, stdin=yaml.safe_dump(obj)))
    return found


def refused(sandbox: Sandbox, obj: Object) -> str:
    return fails(lambda: created(sandbox, obj))


def eventually(look: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """A new policy takes some seconds to take effect."""
    deadline_s = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.5)


@pytest.fixture(scope="module")
def team(api_sandbox: Sandbox) -> Iterator[Sandbox]:
    for namespace in (TEAM, OTHERS):
        api_sandbox.kubectl("create", "namespace", namespace)
    api_sandbox.apply([policy("nightly", LABEL), policy("weekly", {"when": "weekly", "team": "search"})])
    yield api_sandbox
    api_sandbox.kubectl("delete", "namespace", TEAM, OTHERS, "--wait=false")


@pytest.fixture(scope="module")
def refusing(team: Sandbox) -> Iterator[Sandbox]:
    team.apply(REFUSES)
    eventually(lambda: bool(refused(team, job(LABEL))), "the policy takes no effect")
    yield team
    team.kubectl("delete", "-f", str(REFUSES))
    eventually(lambda: not refused(team, job(LABEL)), "the policy does not end")


# Jobs of others, by what makes them so: neither refused nor changed
LEFT_ALONE = [
    pytest.param(job({"app": "embed"}), id="no policy selects it"),
    pytest.param(job({}), id="without a label"),
    pytest.param(job({"ebbtide.dev/batch": "hourly"}), id="another value"),
    pytest.param(job({"ebbtide.dev/batch": ""}), id="an empty value"),
    pytest.param(job({"when": "weekly"}), id="one of the two labels that a policy wants"),
    pytest.param(job(LABEL, OTHERS), id="another namespace, where no policy is"),
    pytest.param(job({**LABEL, "kueue.x-k8s.io/queue-name": "users"}), id="Kueue's"),
    pytest.param(job(LABEL, managedBy="kueue.x-k8s.io/multikueue"), id="managed by another"),
    pytest.param(changed(job(LABEL), ("metadata.ownerReferences", [OWNER])), id="a JobSet's"),
]
SELECTED = [
    pytest.param(job(LABEL), "nightly", id="by one label"),
    pytest.param(job({**LABEL, "app": "embed"}), "nightly", id="with others beside it"),
    pytest.param(job({"when": "weekly", "team": "search"}), "weekly", id="by two labels"),
    pytest.param(job(LABEL, suspend=False), "nightly", id="explicitly not suspended"),
    pytest.param(job(LABEL, managedBy="kubernetes.io/job-controller"), "nightly", id="managed by Kubernetes itself"),
    pytest.param(job(LABEL, completionMode="Indexed", completions=4, parallelism=4), "nightly", id="indexed"),
]


@pytest.mark.parametrize(("obj", "name"), SELECTED)
def test_a_selected_job_that_would_run_at_once_is_refused_and_told_what_to_add(
    refusing: Sandbox, obj: Object, name: str
) -> None:
    said = refused(refusing, obj)
    assert f"BatchPolicy {name} selects this Job by its labels and says when it runs: add suspend: true" in said
    assert "of a CronJob to spec.jobTemplate.spec" in said


@pytest.mark.parametrize(("obj", "name"), SELECTED)
def test_a_selected_job_that_is_suspended_is_accepted(refusing: Sandbox, obj: Object, name: str) -> None:
    assert created(refusing, changed(obj, ("spec.suspend", True)))["spec"]["suspend"] is True


@pytest.mark.parametrize("obj", LEFT_ALONE)
def test_all_other_jobs_run_as_they_are(refusing: Sandbox, obj: Object) -> None:
    assert created(refusing, obj)["spec"]["suspend"] is False


def test_a_job_that_is_there_may_be_resumed_and_changed_by_anybody(refusing: Sandbox) -> None:
    refusing.apply([changed(job(LABEL, suspend=True), ("metadata.name", "held"))])
    for change in (
        {"metadata": {"labels": {"seen": "yes"}}},
        {"spec": {"suspend": False}},
        {"spec": {"parallelism": 2}},
    ):
        refusing.kubectl("-n", TEAM, "patch", "job", "held", "--type=merge", "-p", json.dumps(change))
    found = json.loads(refusing.kubectl("-n", TEAM, "get", "job", "held", "-o", "json"))
    assert found["spec"]["suspend"] is False
    refusing.kubectl("-n", TEAM, "delete", "job", "held")


def test_a_policy_that_comes_or_goes_is_followed(refusing: Sandbox) -> None:
    hourly = job({"ebbtide.dev/batch": "hourly-runs"})
    assert refused(refusing, hourly) == ""
    refusing.apply([policy("hourly", {"ebbtide.dev/batch": "hourly-runs"})])
    eventually(lambda: "BatchPolicy hourly" in refused(refusing, hourly), "a new BatchPolicy is not seen")
    refusing.kubectl("-n", TEAM, "delete", "batchpolicy", "hourly")
    eventually(lambda: not refused(refusing, hourly), "a BatchPolicy that is gone still holds")


def test_the_api_server_finds_nothing_wrong_with_the_policy(refusing: Sandbox) -> None:
    def status() -> Any:
        found = refusing.kubectl("get", "validatingadmissionpolicy", "ebbtide-batch", "-o", "json")
        return json.loads(found).get("status", {})

    eventually(lambda: bool(status().get("observedGeneration")), "not looked at")
    assert status().get("typeChecking", {}).get("expressionWarnings", []) == []


def test_all_policies_mean_the_same_jobs() -> None:
    rules = [next(iter(yaml.safe_load_all(path.read_text())))["spec"] for path in (REFUSES, SUSPENDS, CLASSIFIES)]
    for part in ("paramKind", "matchConstraints", "matchConditions", "failurePolicy"):
        assert rules[0][part] == rules[1][part], part
    # the third is of Jobs alone: a JobSet has a class in each of its templates
    assert rules[2]["matchConditions"][0]["name"] == "without-a-class"
    names = [[each["name"] for each in rule["matchConditions"]] for rule in rules]
    assert names[2][1:] == names[0]
    assert rules[2]["matchConditions"][-1] == rules[0]["matchConditions"][-1]
    assert rules[0]["failurePolicy"] == "Ignore"


@pytest.fixture(scope="module")
def sets(refusing: Sandbox) -> Iterator[Sandbox]:
    """JobSets are served too, and asked as Jobs are as soon as the API server has noticed."""
    refusing.apply(CRD)
    eventually(lambda: bool(refused(refusing, job_set(LABEL))), "JobSets are not asked")
    yield refusing
    refusing.kubectl("delete", "crd", CRD["metadata"]["name"], "--wait=false")


def job_set(labels: dict[str, str], **spec: Any) -> Object:
    meta = {"name": "gang", "namespace": TEAM, "labels": labels}
    body = {"replicatedJobs": [{"name": "workers", "template": {}}], **spec}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": meta, "spec": body}


def test_job_sets_are_asked_as_jobs_are(sets: Sandbox) -> None:
    assert "BatchPolicy nightly selects this JobSet by its labels" in refused(sets, job_set(LABEL))
    own = {"managedBy": "jobset.sigs.k8s.io/jobset-controller"}
    assert "selects this JobSet" in refused(sets, job_set(LABEL, **own))
    train = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "name": "train", "uid": "u-2"}
    for accepted in (
        job_set(LABEL, suspend=True),
        job_set({"app": "embed"}),
        job_set({**LABEL, "kueue.x-k8s.io/queue-name": "users"}),
        job_set(LABEL, managedBy="kueue.x-k8s.io/multikueue"),
        changed(job_set(LABEL), ("metadata.ownerReferences", [train])),
    ):
        assert refused(sets, accepted) == ""


@pytest.fixture
def suspending(refusing: Sandbox) -> Iterator[Sandbox]:
    """Both are in force."""
    refusing.apply(SUSPENDS)
    eventually(lambda: not refused(refusing, job(LABEL)), "the policy takes no effect")
    yield refusing
    refusing.kubectl("delete", "-f", str(SUSPENDS))
    eventually(lambda: bool(refused(refusing, job(LABEL))), "the policy does not end")


def test_from_1_36_on_selected_jobs_are_made_suspended_and_no_other_is_changed(suspending: Sandbox) -> None:
    for selected in SELECTED:
        assert created(suspending, selected.values[0])["spec"]["suspend"] is True, selected.id
    for other in LEFT_ALONE:
        assert created(suspending, other.values[0])["spec"]["suspend"] is False, other.id
    changing = changed(job(LABEL), ("metadata.name", "changing"))
    suspending.kubectl("create", "-f", "-", stdin=yaml.safe_dump(changing))
    patch = json.dumps({"spec": {"suspend": False}})
    suspending.kubectl("-n", TEAM, "patch", "job", "changing", "--type=merge", "-p", patch)
    found = json.loads(suspending.kubectl("-n", TEAM, "get", "job", "changing", "-o", "json"))
    assert found["spec"]["suspend"] is False, "who resumes it may"
    suspending.kubectl("-n", TEAM, "delete", "job", "changing")


def test_from_1_36_on_selected_job_sets_are_made_suspended_too(suspending: Sandbox, sets: Sandbox) -> None:
    eventually(lambda: not refused(suspending, job_set(LABEL)), "JobSets are not suspended")
    assert created(suspending, job_set(LABEL))["spec"]["suspend"] is True
    assert "suspend" not in created(suspending, job_set({"app": "embed"}))["spec"]


def test_from_1_36_on_selected_jobs_get_the_class_of_batch_work_unless_they_name_one(team: Sandbox) -> None:
    def of(obj: Object) -> str:
        return str(
            created(team, changed(obj, ("spec.suspend", True)))["spec"]["template"]["spec"].get("priorityClassName", "")
        )

    team.apply(MANIFESTS / "priority-classes.yaml")
    team.apply(CLASSIFIES)
    eventually(lambda: of(job(LABEL)) == "ebbtide-batch", "the policy takes no effect")
    for selected in SELECTED:
        assert of(selected.values[0]) == "ebbtide-batch", selected.id
    for other in LEFT_ALONE:
        assert of(other.values[0]) == "", other.id
    assert of(changed(job(LABEL), ("spec.template.spec.priorityClassName", "ebbtide-serving"))) == "ebbtide-serving"
    team.kubectl("delete", "-f", str(CLASSIFIES))
    eventually(lambda: of(job(LABEL)) == "", "the policy does not end")
