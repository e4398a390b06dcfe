"""JobSets: each is read as one Job of all its pods with GPUs, and started, stopped and released as a whole."""

import copy
from typing import Any

import msgspec
import pytest

from ebbtide.act.gangs import path_of, placed
from ebbtide.api.batch_note import ANNOTATION, BatchNote
from ebbtide.model.batch import Asked, BatchPolicySpec, Intent, JobState
from ebbtide.observe.gangs import JobSet
from ebbtide.observe.jobplace import Places
from ebbtide.observe.jobs import JobReader, JobView
from ebbtide.observe.projections import Job, Pod
from ebbtide.observe.slim import Slim
from tests.shell.test_observe_jobs import CREATED_S, GPU, NODES, POOLS

Raw = dict[str, Any]
POLICY = BatchPolicySpec("ml/nights", "uid-nights", 1, match_labels=(("batch", "yes"),))


def replicated(name: str, replicas: int = 1, parallelism: int | None = None, gpus: int = 0, **pod: Any) -> Raw:
    resources = {"limits": {GPU: str(gpus)}} if gpus else {"requests": {"cpu": "1"}}
    job = {"template": {"spec": {"containers": [{"resources": resources}], **pod}}}
    if parallelism is not None:
        job["parallelism"] = job["completions"] = parallelism
    return {"name": name, "replicas": replicas, "template": {"spec": job}}


DRIVER, WORKERS = replicated("driver"), replicated("workers", 2, 4, 2, terminationGracePeriodSeconds=90)


def job_set(*jobs: Raw, status: Raw | None = None, meta: Raw | None = None, **spec: Any) -> Raw:
    metadata = {
        "name": "eval",
        "namespace": "ml",
        "uid": "uid-set",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"batch": "yes"},
        **(meta or {}),
    }
    spec = {"suspend": True, "replicatedJobs": list(jobs or (DRIVER, WORKERS)), **spec}
    return {"metadata": metadata, "spec": spec, "status": status or {}}


def child(name: str, owner: str = "uid-set") -> Raw:
    """A Job that the JobSet's controller made; its pods' labels are the policy's too."""
    owners = [{"kind": "JobSet", "name": "eval", "uid": owner, "controller": True}]
    meta = {
        "name": name,
        "namespace": "ml",
        "uid": f"uid-{name}",
        "labels": {"batch": "yes"},
        "ownerReferences": owners,
    }
    return {"metadata": meta, "spec": {"suspend": False}}


def pod(name: str, job: str, **container: Any) -> Pod:
    owners = [{"kind": "Job", "name": job, "uid": f"uid-{job}", "controller": True}]
    raw = {
        "metadata": {"name": name, "namespace": "ml", "ownerReferences": owners},
        "spec": {"nodeName": "n1", "containers": [{"resources": {"limits": {GPU: "2"}}} | container]},
        "status": {},
    }
    return Slim().pod(msgspec.convert(raw, Pod))


def read(raw: Raw, *jobs: Raw, pods: tuple[Pod, ...] = (), reader: JobReader | None = None) -> tuple[JobState, ...]:
    found = msgspec.convert(raw, JobSet)
    children = (Slim().job(msgspec.convert(each, Job)) for each in jobs)
    view = JobView(
        {POLICY.key: POLICY},
        {each.metadata.key: each for each in children},
        minor=36,
        certain=True,
        sets={found.metadata.key: found},
    )
    reader = reader or JobReader(lambda _notes, _at: Asked())
    return reader.read(view, pods, POOLS, Places(POOLS, NODES)).states


def noted(state: Intent, **more: Any) -> Raw:
    note = BatchNote(state=state, job="uid-set", policy="uid-nights", since=CREATED_S, **more)
    return {"annotations": {ANNOTATION: note.text()}}


def test_the_gpus_of_all_its_jobs_together_count_as_one() -> None:
    (gang,) = read(job_set())
    assert (gang.key, gang.intent, gang.policy) == ("ml/jobset/eval", Intent.HELD, "ml/nights")
    assert (gang.parallelism, gang.gpus_per_pod, gang.resource, gang.fault) == (8, 2, GPU, "")
    assert (gang.grace_s, gang.elastic, gang.placeable) == (90.0, False, True)


def test_its_jobs_are_not_counted_beside_it_and_their_pods_are_its_own() -> None:
    runs = job_set(meta=noted(Intent.RUNS, pool="h100"), suspend=False)
    children = child("eval-workers-0"), child("eval-workers-1")
    pods = pod("a", "eval-workers-0"), pod("b", "eval-workers-1")
    bare = pod("c", "eval-workers-1", resources={})
    (gang,) = read(runs, *children, pods=(*pods, bare))
    assert (gang.intent, [each.name for each in gang.pods], gang.pool) == (Intent.RUNS, ["a", "b"], "h100")
    assert gang.started_at == CREATED_S


def test_jobs_of_a_set_that_no_policy_selects_are_anothers_as_ever() -> None:
    other = job_set(meta={"labels": {}})
    (job,) = read(other, child("eval-workers-0"))
    assert (job.key, job.intent) == ("ml/eval-workers-0", Intent.FOREIGN)
    assert "JobSet eval owns it" in job.why


@pytest.mark.parametrize(
    ("raw", "intent"),
    [
        pytest.param(job_set(suspend=False), Intent.STARTED_ANYWAY, id="came running"),
        pytest.param(job_set(meta=noted(Intent.RUNS)), Intent.SUSPENDED_BY_USER, id="its user stopped it"),
        pytest.param(job_set(meta=noted(Intent.HELD), suspend=False), Intent.RESUMED_BY_USER, id="its user resumed it"),
        pytest.param(job_set(managedBy="kueue.x-k8s.io/multikueue"), Intent.FOREIGN, id="another controller's"),
        pytest.param(
            job_set(meta={"ownerReferences": [{"kind": "TrainJob", "name": "t", "uid": "u"}]}), Intent.FOREIGN,
            id="of a TrainJob"),
        pytest.param(
            job_set(meta={"labels": {"batch": "yes", "kueue.x-k8s.io/queue-name": "q"}}), Intent.FOREIGN, id="Kueue's"),
        pytest.param(job_set(managedBy="jobset.sigs.k8s.io/jobset-controller"), Intent.HELD, id="its own"),
    ],
)  # fmt: skip
def test_whose_will_it_is_is_told_as_of_a_job(raw: Raw, intent: Intent) -> None:
    assert read(raw)[0].intent is intent


def test_one_that_ran_keeps_its_place() -> None:
    (gang,) = read(job_set(meta=noted(Intent.STOPPED, pool="l4")))
    assert (gang.intent, gang.placeable, gang.pool) == (Intent.STOPPED, False, "l4")


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        pytest.param((WORKERS, replicated("heads", gpus=4)), "(workers, heads)", id="another number of GPUs"),
        pytest.param(
            (WORKERS, replicated("heads", gpus=2, nodeSelector={"zone": "4"})), "(workers, heads)", id="other nodes"),
        pytest.param((replicated("odd", gpus=1, containers=[{"resources": {"limits": {GPU: "many"}}}]),), "'many'",
                     id="no quantity"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_as_one_is_said(jobs: tuple[Raw, ...], said: str) -> None:
    assert said in read(job_set(*jobs))[0].fault


def test_one_without_gpus_and_one_that_has_ended() -> None:
    assert read(job_set(DRIVER))[0].gpus_per_pod == 0
    ended = {"conditions": [{"type": "Completed", "status": "True", "lastTransitionTime": "2026-01-01T01:00:00Z"}]}
    assert read(job_set(status=ended)) == ()


def test_what_stays_the_same_is_read_once() -> None:
    reader = JobReader(lambda _notes, _at: Asked())
    assert read(job_set(), reader=reader)[0] is read(job_set(), reader=reader)[0]


def test_a_start_places_those_with_gpus_alone_and_leaves_the_rest_as_it_is() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists"}
    own = replicated("workers", gpus=2, nodeSelector={"zone": "4"}, tolerations=[taint])
    live = job_set(DRIVER, own)
    before = copy.deepcopy(live)
    spot = {"key": "spot", "operator": "Exists"}
    changes = {"nodeSelector": {"pool": "h100"}, "tolerations": [taint, spot]}
    body = placed(live, {"metadata": {"uid": "u"}, "spec": {"suspend": False, "template": {"spec": changes}}}, GPU)
    driver, workers = body["spec"].pop("replicatedJobs")
    assert body == {"metadata": {"uid": "u"}, "spec": {"suspend": False}}
    assert driver == DRIVER
    changed = workers["template"]["spec"]["template"]["spec"]
    assert changed["nodeSelector"] == {"zone": "4", "pool": "h100"}
    assert changed["tolerations"] == [taint, spot]
    assert live == before, "what was read is not changed"
    again = placed(live, {"metadata": {}, "spec": {"suspend": False}}, GPU)
    assert again == {"metadata": {}, "spec": {"suspend": False}}, "where it must not be placed anew"


def test_its_path_is_that_of_the_kind() -> None:
    assert path_of("ml/jobset/eval") == "/apis/jobset.x-k8s.io/v1alpha2/namespaces/ml/jobsets/eval"
    assert path_of("ml/eval") == "/apis/batch/v1/namespaces/ml/jobs/eval"
