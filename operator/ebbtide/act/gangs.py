"""Where a Job or a JobSet is, by its key, and what a start changes of the templates of a JobSet."""

import copy
from typing import Any

from ebbtide.kube.client import resource_path
from ebbtide.model.batch import GANG

SETS = "jobset.x-k8s.io/v1alpha2"
Body = dict[str, Any]


def is_gang(key: str) -> bool:
    """Whether that is a JobSet."""
    return key.partition("/")[2].startswith(GANG)


def path_of(key: str) -> str:
    """Of its object on the API server."""
    namespace, _, name = key.partition("/")
    if is_gang(key):
        return resource_path(SETS, "jobsets", namespace, name.removeprefix(GANG))
    return resource_path("batch/v1", "jobs", namespace, name)


def placed(live: Body, body: Body, resource: str) -> Body:
    """The patch of a Job's start as one of a JobSet: what it changes of the one template, in each whose pods ask for

    GPUs. A merge patch replaces a list, so it has all of them as they are.
    """
    spec = dict(body["spec"])
    changes = spec.pop("template", {}).get("spec", {})
    jobs = copy.deepcopy(live["spec"].get("replicatedJobs") or [])
    for job in jobs:
        pod = job["template"]["spec"]["template"]["spec"]
        if not _asks(pod, resource):
            continue
        selector = {**(pod.get("nodeSelector") or {}), **changes.get("nodeSelector", {})}
        pod["nodeSelector"] = {key: text for key, text in selector.items() if text is not None}
        known = pod.get("tolerations") or []
        pod["tolerations"] = [*known, *(item for item in changes.get("tolerations", ()) if item not in known)]
    return {**body, "spec": {**spec, **({"replicatedJobs": jobs} if changes else {})}}


def _asks(pod: Body, resource: str) -> bool:
    containers = [*(pod.get("containers") or ()), *(pod.get("initContainers") or ())]
    amounts = [(item.get("resources") or {}).get(kind) or {} for item in containers for kind in ("limits", "requests")]
    return any(resource in each for each in amounts)
