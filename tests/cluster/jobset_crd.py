"""JobSet as far as Ebbtide reads and writes it: a definition of its own, and a controller played by hand."""

from typing import Any

from ebbtide.errors import NotFoundError
from ebbtide.kube.client import MERGE_PATCH, KubeClient

Json = dict[str, Any]
_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_JOBS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "replicas": {"type": "integer", "default": 1}, "template": _ANY},
    },
}
_SPEC = {
    "type": "object",
    "properties": {"suspend": {"type": "boolean"}, "managedBy": {"type": "string"}, "replicatedJobs": _JOBS},
}
CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "jobsets.jobset.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "for tests"}},
    "spec": {
        "group": "jobset.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "JobSet", "listKind": "JobSetList", "plural": "jobsets", "singular": "jobset"},
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SPEC, "status": _ANY}}},
            }
        ],
    },
}


async def control(client: KubeClient, namespace: str, name: str) -> None:
    """What its controller does next: Jobs of its templates when it runs, all of them suspended when it is."""
    live = await client.get(f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/{name}")
    owner = {"apiVersion": live["apiVersion"], "kind": "JobSet", "name": name, "uid": live["metadata"]["uid"]}
    suspended, jobs = bool(live["spec"].get("suspend")), f"/apis/batch/v1/namespaces/{namespace}/jobs"
    for wanted in live["spec"]["replicatedJobs"]:
        for index in range(wanted["replicas"]):
            child = f"{name}-{wanted['name']}-{index}"
            meta = {
                "name": child,
                "labels": live["metadata"]["labels"],
                "ownerReferences": [owner | {"controller": True}],
            }
            try:
                await client.get(f"{jobs}/{child}")
            except NotFoundError:
                if not suspended:
                    await client.request("POST", jobs, body={"metadata": meta, "spec": wanted["template"]["spec"]})
                continue
            body = {"spec": {"suspend": suspended}}
            await client.request("PATCH", f"{jobs}/{child}", body=body, content_type=MERGE_PATCH)
