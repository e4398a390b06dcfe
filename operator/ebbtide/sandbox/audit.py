"""Reads the API server's audit log: who wrote what, when. The proof that an account did or did not write."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide.clock import parse_rfc3339

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection", "apply"})


@dataclass(frozen=True)
class Write:
    """One write that reached the API server; `body` is the request's, kept for `/scale` and for patches of Jobs.

    `time_s` is when the request came in, in seconds since 1970; `code` the HTTP status of the answer.
    """

    time_s: float
    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    body: Any = None

    @property
    def succeeded(self) -> bool:
        """Whether the API server accepted it."""
        return self.code < 400


def audit_writes(path: Path, user: str = "", *, accepted_only: bool = True) -> list[Write]:
    """All writes of `user` (everybody when empty), oldest first; refused ones only with `accepted_only=False`."""
    writes = []
    for line in path.read_text(errors="replace").splitlines():
        write = _parse(line)
        if write is not None and (not user or write.user == user) and (write.succeeded or not accepted_only):
            writes.append(write)
    return sorted(writes, key=lambda write: write.time_s)


@dataclass(frozen=True)
class Bound:
    """A pod that was bound to a node at `begin_s` and last told to go at `end_s` (None: never), unix seconds.

    The last to tell it is its node, once it has ended; while it drains that is whoever asked it to.
    """

    name: str
    begin_s: float
    end_s: float | None


def bound_pods(path: Path, namespace: str) -> list[Bound]:
    """Every pod of a namespace that ever was, in the order of their bindings."""
    found: dict[str, Bound] = {}
    for write in audit_writes(path):
        if write.resource != "pods" or write.namespace != namespace:
            continue
        if write.verb == "create" and write.subresource == "binding":
            found[write.name] = Bound(write.name, write.time_s, None)
        elif write.verb == "delete" and not write.subresource and write.name in found:
            found[write.name] = replace(found[write.name], end_s=write.time_s)
    return list(found.values())


def service_account_user(namespace: str, name: str) -> str:
    """The user name under which a ServiceAccount appears in the log."""
    return f"system:serviceaccount:{namespace}:{name}"


def _parse(line: str) -> Write | None:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None  # the line being written right now
    if event.get("stage") != "ResponseComplete" or event.get("verb") not in WRITES:
        return None
    target = event.get("objectRef") or {}
    return Write(
        time_s=parse_rfc3339(event["requestReceivedTimestamp"]),
        user=event.get("user", {}).get("username", ""),
        verb=event["verb"],
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=int(event.get("responseStatus", {}).get("code", 0)),
        body=event.get("requestObject"),
    )
