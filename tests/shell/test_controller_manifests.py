"""The rights of the operator: exactly these, and none to change a workload in the recommend-only variant."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
FILES = ("rbac.yaml", "rbac-recommend-only.yaml")
READING = {"get", "list", "watch"}
# what an operator that only recommends may still write: its own words about its own objects, and its Lease
OWN = {
    ("ebbtide.dev", "inferenceservices/status", "patch"),
    ("ebbtide.dev", "gpupools/status", "patch"),
    ("ebbtide.dev", "costpolicies/status", "patch"),
    ("ebbtide.dev", "batchpolicies/status", "patch"),
    ("events.k8s.io", "events", "create"),
    ("coordination.k8s.io", "leases", "create"),
    ("coordination.k8s.io", "leases", "update"),
}
ACTING = {
    ("apps", "deployments/scale", "patch"),
    ("apps", "statefulsets/scale", "patch"),
    ("leaderworkerset.x-k8s.io", "leaderworkersets/scale", "patch"),
    ("", "pods", "patch"),
    ("batch", "jobs", "patch"),
    ("jobset.x-k8s.io", "jobsets", "patch"),
    ("apps", "deployments", "create"),
    ("apps", "deployments", "patch"),
    ("apps", "deployments", "delete"),
    ("", "services", "create"),
    ("", "services", "patch"),
    ("", "services", "delete"),
    ("ebbtide.dev", "inferenceservices", "patch"),
}


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((MANIFESTS / name).read_text()) if document]


def bound_roles(name: str) -> list[dict[str, Any]]:
    """The roles that a binding gives to the operator's account."""
    found = documents(name)
    bound = {document["roleRef"]["name"] for document in found if document["kind"].endswith("Binding")}
    roles = [document for document in found if document["kind"] in ("Role", "ClusterRole")]
    return [role for role in roles if role["metadata"]["name"] in bound]


def rights(name: str) -> Iterator[tuple[str, str, str]]:
    for role in bound_roles(name):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        yield group, resource, verb


def writes(name: str) -> set[tuple[str, str, str]]:
    return {right for right in rights(name) if right[2] not in READING}


def test_every_right_to_write_is_one_that_a_part_of_the_operator_needs():
    assert writes("rbac.yaml") == OWN | ACTING


def test_an_operator_that_only_recommends_has_no_right_to_change_a_workload():
    assert writes("rbac-recommend-only.yaml") == OWN


@pytest.mark.parametrize("name", FILES)
def test_no_wildcards_no_secrets_no_exec_no_escalation(name):
    for group, resource, verb in rights(name):
        assert "*" not in (group, resource, verb)
        assert resource.partition("/")[0] not in {"secrets", "configmaps", "roles", "clusterroles", "serviceaccounts"}
        assert resource.partition("/")[2] in {"", "scale", "status"}
        assert verb not in {"escalate", "bind", "impersonate"}


@pytest.mark.parametrize("name", FILES)
def test_the_lease_is_one_lease_in_the_operators_own_namespace(name):
    lead = next(role for role in bound_roles(name) if role["kind"] == "Role")
    assert lead["metadata"]["namespace"] == "ebbtide-system"
    by_name = [rule for rule in lead["rules"] if rule["verbs"] != ["create"]]
    assert [rule["resourceNames"] for rule in by_name] == [["ebbtide"]]


@pytest.mark.parametrize("name", FILES)
def test_every_role_is_bound_to_the_one_account(name):
    found = documents(name)
    roles = {document["metadata"]["name"] for document in found if document["kind"] in ("Role", "ClusterRole")}
    bindings = [document for document in found if document["kind"].endswith("Binding")]
    assert {binding["roleRef"]["name"] for binding in bindings} == roles
    account = {"kind": "ServiceAccount", "name": "ebbtide", "namespace": "ebbtide-system"}
    assert all(binding["subjects"] == [account] for binding in bindings)


def test_the_variants_differ_by_the_acting_role_alone():
    full, recommend = (
        {(document["kind"], document["metadata"]["name"]): document for document in documents(name)} for name in FILES
    )
    assert full.keys() - recommend.keys() == {("ClusterRole", "ebbtide-act"), ("ClusterRoleBinding", "ebbtide-act")}
    assert {key: full[key] for key in recommend} == recommend


def test_the_operators_pod_keeps_the_restricted_standard_and_has_probes():
    deployment = next(item for item in documents("operator.yaml") if item["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == "ebbtide"
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert set(container["resources"]["limits"]) == {"memory"}


def test_the_job_before_an_uninstall_is_the_operator_image_with_its_account_and_waits_for_its_pods():
    (job,) = documents("uninstall.yaml")
    deployment = next(item for item in documents("operator.yaml") if item["kind"] == "Deployment")
    of_job, of_operator = job["spec"]["template"], deployment["spec"]["template"]
    (release,), (operator,) = of_job["spec"]["containers"], of_operator["spec"]["containers"]
    assert (release["image"], release["securityContext"]) == (operator["image"], operator["securityContext"])
    assert of_job["spec"]["serviceAccountName"] == of_operator["spec"]["serviceAccountName"]
    meta, selector = deployment["metadata"], deployment["spec"]["selector"]["matchLabels"]
    assert release["args"] == ["release", f"--operator={meta['namespace']}/{meta['name']}"]
    assert not selector.items() <= of_job["metadata"]["labels"].items(), "or it would wait for itself"
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"


def test_batch_takes_gpus_from_nobody_and_serving_from_batch():
    classes = {item["metadata"]["name"].removeprefix("ebbtide-"): item for item in documents("priority-classes.yaml")}
    order = sorted(classes, key=lambda name: classes[name]["value"])
    assert order == ["background", "batch", "serving"]
    assert classes["batch"]["value"] < 0 < classes["serving"]["value"], "pods without a class stand between"
    takes = {name for name, item in classes.items() if item["preemptionPolicy"] != "Never"}
    assert takes == {"serving"}
    (mutation,) = documents("admission/batch-priority.yaml")[0]["spec"]["mutations"]
    assert f"'{classes['batch']['metadata']['name']}'" in mutation["applyConfiguration"]["expression"]


def test_the_admission_policy_lets_the_operators_own_account_through_and_asks_every_service_of_a_namespace():
    policy, binding = documents("admission/ceilings.yaml")
    account = next(item for item in documents("rbac.yaml") if item["kind"] == "ServiceAccount")["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    assert policy["spec"]["matchConditions"][0]["expression"] == f"request.userInfo.username != '{user}'"
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["paramRef"] == {"selector": {}, "parameterNotFoundAction": "Allow"}
    scaled = {
        (group, resource)
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    written = {right[:2] for right in writes("rbac.yaml") if right[1].endswith("/scale")}
    assert scaled == written | {(group, resource.partition("/")[0]) for group, resource in written}, (
        "all that it scales"
    )
