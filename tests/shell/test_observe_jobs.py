"""Jobs as the API server sends them become what the plan decides from: whose will, where, how wide, how far."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from ebbtide.api.batch_note import ANNOTATION, BatchNote, read_note
from ebbtide.model.batch import Asked, BatchPolicySpec, Intent, JobState
from ebbtide.model.snapshot import PoolState
from ebbtide.observe.endings import TOLD_FOR_S, Endings
from ebbtide.observe.jobplace import Places
from ebbtide.observe.jobs import JobReader, Jobs, JobView, owner_of
from ebbtide.observe.projections import Job, Node, Pod
from ebbtide.observe.slim import Slim
from ebbtide.observe.version import minor_of
from tests import builders
from tests.shell import world

GPU = "nvidia.com/gpu"
SUSPENDED = {"type": "Suspended", "status": "True", "lastTransitionTime": "2026-01-01T00:10:00Z"}
CREATED_S = 1767225600.0  # 2026-01-01T00:00:00Z


def policy(name: str = "nights", **more: Any) -> BatchPolicySpec:
    return BatchPolicySpec(f"ml/{name}", f"uid-{name}", 1, match_labels=(("batch", "yes"),), **more)


def job(name: str = "eval", status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"resources": {"limits": {GPU: "2"}}}
    metadata = {
        "name": name,
        "namespace": "ml",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"batch": "yes"},
        **spec.pop("metadata", {}),
    }
    pod = {"containers": [container], **spec.pop("pod", {})}
    return {"metadata": metadata, "spec": {"suspend": True, "template": {"spec": pod}, **spec}, "status": status or {}}


def noted(note: BatchNote | None) -> dict[str, Any]:
    return {} if note is None else {"annotations": {ANNOTATION: note.text()}}


def note(state: Intent = Intent.HELD, **more: Any) -> BatchNote:
    return BatchNote(**{"state": state, "job": "uid-eval", "policy": "uid-nights", "since": CREATED_S, **more})


def decoded(raw: dict[str, Any]) -> Job:
    return Slim().job(msgspec.convert(raw, Job))


def pod(name: str, job_uid: str = "uid-eval", node: str = "n1", **more: Any) -> Pod:
    raw = {
        "metadata": {
            "name": name,
            "namespace": "ml",
            "ownerReferences": [{"kind": "Job", "name": "eval", "uid": job_uid, "controller": True}],
            **more.pop("metadata", {}),
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {GPU: "2"}}}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}],
            **more,
        },
    }
    return Slim().pod(msgspec.convert(raw, Pod))


POOLS = (
    PoolState(spec=world.pool_spec("h100", node_selector=(("pool", "h100"),)), nodes=(builders.node("n1"),)),
    PoolState(spec=world.pool_spec("l4", node_selector=(("pool", "l4"),)), nodes=(builders.node("n2"),)),
)
NODES = {
    name: msgspec.convert({"metadata": {"name": name, "labels": {"pool": pool, "zone": pool[-1]}}}, Node)
    for name, pool in (("n1", "h100"), ("n2", "l4"))
}


def read(
    *jobs: dict[str, Any],
    policies: tuple[BatchPolicySpec, ...] = (policy(),),
    pods: tuple[Pod, ...] = (),
    minor: int = 36,
    certain: bool = True,
    unread: frozenset[str] = frozenset(),
    reader: JobReader | None = None,
) -> Jobs:
    items = {item.metadata.key: item for item in map(decoded, jobs)}
    view = JobView({each.key: each for each in policies}, items, minor=minor, certain=certain, unread=unread)
    return (reader or JobReader(lambda _notes, _at: Asked())).read(view, pods, POOLS, Places(POOLS, NODES))


def one(raw: dict[str, Any], **more: Any) -> JobState:
    (state,) = read(raw, **more).states
    return state


@pytest.mark.parametrize(
    ("said", "suspended", "intent"),
    [
        pytest.param(None, True, Intent.HELD, id="submitted suspended"),
        pytest.param(None, False, Intent.STARTED_ANYWAY, id="came running"),
        pytest.param(note(), True, Intent.HELD, id="held and noted"),
        pytest.param(note(), False, Intent.RESUMED_BY_USER, id="its user did not want to wait"),
        pytest.param(note(Intent.RUNS), False, Intent.RUNS, id="started"),
        pytest.param(note(Intent.RUNS), True, Intent.SUSPENDED_BY_USER, id="its user stopped it"),
        pytest.param(note(Intent.STOPPED), True, Intent.STOPPED, id="stopped"),
        pytest.param(note(Intent.STOPPED), False, Intent.RESUMED_BY_USER, id="its user took it back"),
        pytest.param(note(Intent.RUNS, job="another"), True, Intent.HELD, id="a copy of another Job's annotation"),
        pytest.param(note(Intent.RUNS, ran=-1.0), True, Intent.HELD, id="an annotation that Ebbtide did not write"),
    ],
)
def test_the_annotation_and_suspend_together_say_whose_will_it_is(
    said: BatchNote | None, suspended: bool, intent: Intent
) -> None:
    state = one(job(suspend=suspended, metadata=noted(said)))
    assert state.intent is intent
    assert state.noted is (said is not None and read_note(said.text(), "uid-eval") is not None)


LATE = SUSPENDED | {"lastTransitionTime": "2026-01-01T02:00:00Z"}


@pytest.mark.parametrize(
    ("said", "condition", "intent"),
    [
        pytest.param(None, SUSPENDED, Intent.HELD, id="submitted suspended"),
        pytest.param(None, LATE, Intent.SUSPENDED_BY_USER, id="ran for two hours before there was a policy"),
        pytest.param(note(), LATE, Intent.SUSPENDED_BY_USER, id="its user resumed it, and suspended it again"),
        pytest.param(note(Intent.STOPPED), LATE, Intent.STOPPED, id="Ebbtide started and stopped it"),
    ],
)
def test_what_ran_before_anybody_held_it_was_suspended_by_its_user(
    said: BatchNote | None, condition: dict[str, Any], intent: Intent
) -> None:
    assert one(job(status={"conditions": [condition]}, metadata=noted(said))).intent is intent


@pytest.mark.parametrize("said", [None, note(), note(Intent.STOPPED)])
def test_what_was_seen_running_by_its_users_will_is_suspended_by_its_user(said: BatchNote | None) -> None:
    reader = JobReader(lambda _notes, _at: Asked())
    before = one(job(suspend=False, metadata=noted(said)), reader=reader)
    after = one(job(metadata=noted(said) | {"resourceVersion": "8"}), reader=reader)
    assert before.intent in (Intent.STARTED_ANYWAY, Intent.RESUMED_BY_USER)
    assert after.intent is Intent.SUSPENDED_BY_USER
    assert one(job("another", metadata=noted(said)), reader=reader).intent is Intent.HELD


def test_what_came_running_and_was_stopped_by_ebbtide_is_ebbtides_to_start_again() -> None:
    reader = JobReader(lambda _notes, _at: Asked())
    assert one(job(suspend=False), reader=reader).intent is Intent.STARTED_ANYWAY
    stopped = job(metadata=noted(note(Intent.STOPPED)) | {"resourceVersion": "8"})
    assert one(stopped, reader=reader).intent is Intent.STOPPED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state":"Runs"}', '{"state":"Flies","job":"uid-eval"}', "[" * 5000])
def test_an_annotation_that_cannot_be_read_is_none(text: str) -> None:
    assert one(job(metadata={"annotations": {ANNOTATION: text}})).intent is Intent.HELD


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (job(metadata={"labels": {"batch": "yes", "kueue.x-k8s.io/queue-name": "team"}}), "Kueue owns it"),
        (job(managedBy="example.com/other"), "example.com/other owns it"),
        (
            job(metadata={"ownerReferences": [{"kind": "JobSet", "name": "gang", "controller": True}]}),
            "JobSet gang owns it",
        ),
    ],
)
def test_a_job_of_another_controller_is_foreign_whatever_its_annotation_says(raw: dict[str, Any], words: str) -> None:
    raw["metadata"] |= noted(note(Intent.RUNS))
    state = one(raw | {"spec": raw["spec"] | {"suspend": False}}, pods=(pod("eval-0"),))
    assert (state.intent, words in state.why) == (Intent.FOREIGN, True)
    assert sum(each.gpus for each in state.pods) == 2, "its GPUs are seen"


def test_the_job_controllers_own_name_is_nobody_else() -> None:
    assert one(job(managedBy="kubernetes.io/job-controller")).intent is Intent.HELD


def test_a_job_that_two_policies_select_is_disputed_and_names_both() -> None:
    state = one(job(), policies=(policy(), policy("days")))
    assert (state.intent, state.policy) == (Intent.DISPUTED, "")
    assert state.why == "BatchPolicies days and nights select it"


def test_only_jobs_of_the_policys_namespace_with_its_labels_that_have_not_ended_are_seen() -> None:
    ended = job("done", {"conditions": [{"type": "Complete", "status": "True"}]})
    going = job("going", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    elsewhere = job("elsewhere", metadata={"namespace": "web"})
    unlabelled = job("unlabelled", metadata={"labels": {"batch": "no"}})
    states = read(job(), ended, going, elsewhere, unlabelled).states
    assert [state.key for state in states] == ["ml/eval"]


@pytest.mark.parametrize(
    ("minor", "status", "said", "placeable"),
    [
        pytest.param(35, {}, None, True, id="never started, before 1.36"),
        pytest.param(35, {}, note(Intent.STOPPED), False, id="ran once, before 1.36"),
        pytest.param(35, {"startTime": "2026-01-01T00:00:00Z"}, None, False, id="has a start, before 1.36"),
        pytest.param(36, {"conditions": [SUSPENDED]}, note(Intent.STOPPED), True, id="ran once"),
        pytest.param(36, {"conditions": [SUSPENDED], "active": 1}, note(Intent.STOPPED), False, id="pods still go"),
        pytest.param(36, {"startTime": "2026-01-01T00:00:00Z"}, note(Intent.STOPPED), False, id="not yet suspended"),
        pytest.param(0, {"conditions": [SUSPENDED]}, note(Intent.STOPPED), False, id="a server of unknown version"),
    ],
)
def test_the_place_changes_as_far_as_the_api_server_lets_it(
    minor: int, status: dict[str, Any], said: BatchNote | None, placeable: bool
) -> None:
    said = None if said is None else msgspec.structs.replace(said, pool="l4")
    state = one(job(status=status, metadata=noted(said)), minor=minor)
    assert state.placeable is placeable
    assert state.pool == ("l4" if said is not None and not placeable else ""), "what ran once keeps its pool"


@pytest.mark.parametrize(
    ("selector", "pool"),
    [
        ({}, ""),
        ({"pool": "l4"}, "l4"),
        ({"pool": "l4", "disk": "fast"}, "l4"),
        ({"zone": "4"}, "l4"),
        ({"zone": "nowhere"}, ""),
    ],
)
def test_a_jobs_own_node_selector_binds_it_to_a_pool(selector: dict[str, str], pool: str) -> None:
    state = one(job(pod={"nodeSelector": selector}))
    assert (state.pool, dict(state.node_selector)) == (pool, selector)


def test_what_ebbtide_put_into_the_template_is_told_apart_from_what_its_user_wrote() -> None:
    taint, own = {"key": GPU, "operator": "Exists"}, {"key": "team", "operator": "Equal", "value": "ml"}
    said = note(Intent.STOPPED, selector={"pool": "l4", "zone": "a"}, tolerations=(taint,))
    place = {"nodeSelector": {"pool": "l4", "zone": "b", "disk": "fast"}, "tolerations": [own, taint]}
    state = one(job(status={"conditions": [SUSPENDED]}, pod=place, metadata=noted(said)))
    assert state.placed == (("pool", "l4"),), "somebody changed the zone since: it is theirs"
    assert state.node_selector == (("disk", "fast"), ("zone", "b"))
    assert [msgspec.json.decode(text) for text in state.tolerations] == [own]
    assert [msgspec.json.decode(text) for text in state.placed_tolerations] == [taint]


@pytest.mark.parametrize(
    ("containers", "resource", "gpus", "fault"),
    [
        ([{"resources": {"requests": {"cpu": "1"}}}], "", 0, ""),
        ([{"resources": {"limits": {GPU: "2"}}}, {"resources": {"limits": {GPU: "1"}}}], GPU, 3, ""),
        ([{"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}], "nvidia.com/mig-1g.10gb", 1, ""),
        ([{"resources": {"limits": {GPU: "1", "amd.com/gpu": "1"}}}], GPU, 1, ""),
        ([{"resources": {"limits": {"a.com/gpu": "1", "b.com/gpu": "1"}}}], "", 0, "a.com/gpu and b.com/gpu"),
        ([{"resources": {"limits": {GPU: "many"}}}], GPU, 0, "'many'"),
    ],
)
def test_gpus_are_those_of_one_extended_resource(
    containers: list[dict[str, Any]], resource: str, gpus: int, fault: str
) -> None:
    state = one(job(pod={"containers": containers}))
    assert (state.resource, state.gpus_per_pod) == (resource, gpus)
    assert fault in state.fault
    assert bool(state.fault) is bool(fault)


@pytest.mark.parametrize(
    ("spec", "least", "elastic", "fault"),
    [
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 4}, None, False, ""),
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 4}, "2", True, ""),
        ({"completionMode": "Indexed", "completions": 9, "parallelism": 4}, "2", False, "only an Indexed Job"),
        ({"completions": 4, "parallelism": 4}, "2", False, "only an Indexed Job"),
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 4}, "5", False, "from 1 to spec.parallelism"),
        ({"completionMode": "Indexed", "completions": 4, "parallelism": 4}, "two", False, "'two'"),
    ],
)
def test_a_job_is_made_smaller_only_where_its_user_says_so(
    spec: dict[str, Any], least: str | None, elastic: bool, fault: str
) -> None:
    annotations = {} if least is None else {"annotations": {"ebbtide.dev/min-parallelism": least}}
    state = one(job(metadata=annotations, **spec))
    assert (state.elastic, state.least_parallelism) == (elastic, 2 if elastic else 1)
    assert [fault in text for _, text in state.asked.faults] == ([True] if fault else [])


@pytest.mark.parametrize(
    ("status", "said", "suspended", "started_at", "ran_s"),
    [
        pytest.param({}, note(Intent.RUNS, ran=60.0), False, CREATED_S, 60.0, id="just started"),
        pytest.param(
            {"startTime": "2026-01-01T00:30:00Z"},
            note(Intent.RUNS, ran=60.0),
            False,
            CREATED_S + 1800,
            60.0,
            id="its user had suspended it in between",
        ),
        pytest.param(
            {"conditions": [SUSPENDED]}, note(Intent.RUNS, ran=60.0), True, None, 660.0, id="its user suspended it"
        ),
        pytest.param({}, note(Intent.STOPPED, ran=60.0), True, None, 60.0, id="stopped"),
        pytest.param({"startTime": "2026-01-01T00:30:00Z"}, None, False, CREATED_S + 1800, 0.0, id="came running"),
    ],
)
def test_how_long_it_ran_is_known_from_its_annotation_and_its_status(
    status: dict[str, Any], said: BatchNote | None, suspended: bool, started_at: float | None, ran_s: float
) -> None:
    state = one(job(status=status, suspend=suspended, metadata=noted(said)))
    assert (state.started_at, state.ran_s) == (started_at, ran_s)


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"ownerReferences": [{"kind": "CronJob", "name": "nightly", "controller": True}]}, "CronJob/nightly"),
        ({"ownerReferences": [{"kind": "CronJob", "name": "nightly"}]}, "eval"),
        ({"labels": {"app.kubernetes.io/name": "embedder"}}, "embedder"),
        ({"name": "eval-x7k2p", "generateName": "eval-"}, "eval"),
        ({"name": "report-2026-01-31"}, "report"),
        ({"name": "report-1767225600"}, "report"),
        ({"name": "llama-3"}, "llama-3"),
        ({"name": "20260131"}, "20260131"),
    ],
)
def test_what_is_run_again_and_again_has_one_name(metadata: dict[str, Any], owner: str) -> None:
    assert owner_of(decoded(job(metadata=metadata))) == owner


def test_pods_are_its_own_count_until_they_are_gone_and_say_where_it_runs() -> None:
    terminating = pod("eval-1", metadata={"deletionTimestamp": "2026-01-01T00:20:30Z"})
    pods = (terminating, pod("eval-0"), pod("eval-2", phase="Succeeded"), pod("other-0", "uid-other"))
    state = one(job(suspend=False), pods=pods)
    assert [(each.name, each.gpus, each.terminating) for each in state.pods] == [
        ("eval-0", 2, False),
        ("eval-1", 2, True),
    ]
    assert [each.started_at for each in state.pods] == [CREATED_S + 300, None]
    assert [each.due_at for each in state.pods] == [None, CREATED_S + 1230]
    assert state.pool == "h100"


def strays(said: BatchNote | None, suspended: bool = True, **more: Any) -> list[str]:
    raw = job(suspend=suspended, metadata=noted(said) | more.pop("metadata", {}))
    return [stray.key for stray in read(raw, policies=more.pop("policies", ()), **more).strays]


@pytest.mark.parametrize("state", [Intent.HELD, Intent.STOPPED])
def test_a_job_that_ebbtide_holds_and_no_policy_selects_is_a_stray(state: Intent) -> None:
    assert strays(note(state)) == ["ml/eval"]
    assert strays(note(state), policies=(policy("days"),)) == [], "another policy took it over"
    assert strays(note(state), suspended=False) == [], "it runs"
    assert strays(note(state), certain=False) == [], "policies or Jobs are not known"
    assert strays(note(state), unread=frozenset({"ml"})) == [], "a policy there cannot be read"
    assert strays(note(state), unread=frozenset({"web"})) == ["ml/eval"]


def test_what_its_user_suspended_and_what_ebbtide_never_noted_are_no_strays() -> None:
    assert strays(note(Intent.RUNS)) == []
    assert strays(None) == []


def test_a_job_that_did_not_change_is_the_same_object_and_one_that_did_is_read_again() -> None:
    reader = JobReader(lambda _notes, _at: Asked())
    first = one(job(), reader=reader)
    assert one(job(), reader=reader) is first
    changed = one(job(metadata={"resourceVersion": "8"}), reader=reader)
    assert changed.resource_version == "8"
    disputed = one(job(metadata={"resourceVersion": "8"}), policies=(policy(), policy("days")), reader=reader)
    assert disputed.intent is Intent.DISPUTED


def test_one_odd_job_hides_no_other() -> None:
    def asked(_notes: Mapping[str, str], at: float) -> Asked:
        if at > CREATED_S:
            raise ValueError("odd")
        return Asked()

    odd = job("odd", metadata={"creationTimestamp": "2026-02-01T00:00:00Z"})
    states = read(job(), odd, reader=JobReader(asked)).states
    assert [(state.key, state.intent) for state in states] == [("ml/eval", Intent.HELD), ("ml/odd", Intent.FOREIGN)]
    assert "cannot be read" in states[1].why


def ended(at: str = "2026-01-01T01:00:00Z", kind: str = "Complete", **more: Any) -> Job:
    status = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}], "completionTime": at}
    return decoded(job(status=status, suspend=False, **more))


def test_ends_are_told_for_minutes_even_of_jobs_that_are_gone_at_once() -> None:
    endings, end_s = Endings(), CREATED_S + 3600
    endings.note(decoded(job()), ended(), end_s)
    endings.note(ended(), None, end_s + 1)
    assert [at for _, at in endings.lately(end_s + 5)] == [end_s]
    assert endings.lately(end_s + TOLD_FOR_S) == ()


def test_ends_of_long_ago_are_not_kept() -> None:
    endings = Endings()
    endings.note(None, ended(), CREATED_S + 90_000)
    assert endings.lately(CREATED_S + 3601) == ()


@pytest.mark.parametrize(("kind", "succeeded"), [("Complete", True), ("Failed", False)])
def test_what_a_job_took_is_all_of_its_runs(kind: str, succeeded: bool) -> None:
    said = note(Intent.RUNS, ran=100.0, pool="l4")
    last = ended(kind=kind, metadata=noted(said), parallelism=3)
    view = JobView({"ml/nights": policy()}, {}, ended=((last, CREATED_S + 3600),))
    (found,) = JobReader(lambda _notes, _at: Asked()).read(view, (), POOLS, Places(POOLS, NODES)).finished
    assert (found.ran_s, found.succeeded, found.pool, found.gpus) == (3700.0, succeeded, "l4", 6)


@pytest.mark.parametrize(("answer", "minor"), [(b'{"minor": "36+"}', 36), (b'{"minor":"35"}', 35), (b"{}", 0)])
def test_the_minor_of_the_api_server(answer: bytes, minor: int) -> None:
    assert minor_of(answer) == minor
