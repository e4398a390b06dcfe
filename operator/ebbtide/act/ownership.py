"""Who owns which field of a live object: the part of server-side apply that a POST leaves undone. Pure.

A Deployment is created by POST (so that two creators cannot both succeed) with `replicas: 0`. The API server books
that under (ebbtide-workloads, Update). A later apply counts as another owner: a changed image would conflict with our
own creation, and a removed field would stay for ever. So right after the POST that entry is turned into an Apply
entry, and `spec.replicas` goes to the manager of the scale writes. (Left with nobody, it would stay unowned: the API
server tracks writes to `/scale` only for a number that somebody owns already.)
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

FIELD_MANAGER = "ebbtide-workloads"
SCALE_MANAGER = "ebbtide-scale"
JOB_MANAGER = "ebbtide-batch"


def handover(live: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The JSON patch that turns our creation into an apply, guarded by resourceVersion; None when there is no need."""
    metadata = live["metadata"]
    entries: list[dict[str, Any]] = list(metadata.get("managedFields") or ())
    created = next((entry for entry in entries if _is_ours(entry, "Update")), None)
    if created is None:
        return None
    applied = next((entry for entry in entries if _is_ours(entry, "Apply")), None)
    kept = [entry for entry in entries if entry is not created]
    fields: dict[str, Any] = deepcopy(created.get("fieldsV1") or {})
    replicas = fields.get("f:spec", {}).pop("f:replicas", None)
    if applied is None:
        kept.append({**created, "operation": "Apply", "fieldsV1": fields})
    if replicas is not None:
        kept.append(
            {
                **created,
                "manager": SCALE_MANAGER,
                "subresource": "scale",
                "fieldsV1": {"f:spec": {"f:replicas": replicas}},
            }
        )
    return [
        {"op": "replace", "path": "/metadata/managedFields", "value": kept},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
    ]


def _is_ours(entry: Mapping[str, Any], operation: str) -> bool:
    return (
        entry.get("manager") == FIELD_MANAGER and entry.get("operation") == operation and not entry.get("subresource")
    )
