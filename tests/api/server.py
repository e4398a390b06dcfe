"""Asking the API server whether it would take an object, without leaving it there."""

import contextlib
import json
import re
import zlib
from typing import Any, NamedTuple

import msgspec

from ebbtide.errors import ConflictError
from ebbtide.kube.client import InvalidError, KubeClient, resource_path
from tests.api.samples import PLURALS, REMOVED, Object, changed

_DRY = {"dryRun": "All", "fieldValidation": "Strict"}
_NEXT_ERROR = re.compile(r", (?=(?:spec|status|metadata|<nil>)[^ ]*: )")


class Served(NamedTuple):
    """Where a kind is served: under its own name, or as a mutant under another."""

    api_version: str = "ebbtide.dev/v1alpha1"

    def path(self, obj: Object, *, name: str = "", subresource: str = "") -> str:
        namespace = obj["metadata"].get("namespace", "")
        return resource_path(self.api_version, PLURALS[obj["kind"]], namespace, name, subresource)

    def adopt(self, obj: Object) -> Object:
        return {**obj, "apiVersion": self.api_version}


async def stored(api: KubeClient, obj: Object, served: Served) -> Object:
    """The object, really created (once) under a name of its own."""
    name = f"stored-{zlib.crc32(json.dumps(obj).encode())}"
    wanted = changed(served.adopt(obj), ("metadata.name", name))
    with contextlib.suppress(ConflictError):
        await api.request("POST", served.path(obj), body=wanted)
    found: Object = await api.get(served.path(obj, name=name))
    return found


async def refusal(api: KubeClient, obj: Object, served: Served = Served(), before: Object | None = None) -> str | None:  # noqa: B008
    """Why the server refuses to create `obj`, or to change `before` into it; None when it would take it."""
    try:
        if before is None:
            await api.request("POST", served.path(obj), body=served.adopt(obj), params=_DRY)
        else:
            await _put(api, obj, served, before, "")
    except InvalidError as error:
        return str(error)
    return None


async def status_refusal(api: KubeClient, obj: Object, served: Served = Served()) -> str | None:  # noqa: B008
    """Why the server refuses to write this status; None when it would take it."""
    try:
        await _put(api, obj, served, changed(obj, ("status", REMOVED)), "status")
    except InvalidError as error:
        return str(error)
    return None


async def _put(api: KubeClient, obj: Object, served: Served, before: Object, subresource: str) -> None:
    metadata = (await stored(api, before, served))["metadata"]
    path = served.path(obj, name=metadata["name"], subresource=subresource)
    await api.request("PUT", path, body={**served.adopt(obj), "metadata": metadata}, params=_DRY)


async def answer(api: KubeClient, obj: Object) -> Any:
    """The object as the server would store it, defaults filled in."""
    return msgspec.json.decode(await api.request("POST", Served().path(obj), body=obj, params=_DRY))


def errors(message: str) -> list[str]:
    """The single errors of one answer, each beginning with its field."""
    several = message.partition(" is invalid: ")[2]
    return _NEXT_ERROR.split(several[1:-1] if several.startswith("[") else several)
