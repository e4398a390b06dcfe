"""The scale subresource of kinds known only by discovery: replicas and selector, read again when the object changed."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError, NotFoundError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.observe.discovery import KindInfo
from ebbtide.observe.projections import LabelSelector, Opaque, SelectorRequirement

_TERM = re.compile(r"(?:[^,(]|\([^)]*\))+")
_SET = re.compile(r"^(\S+)\s+(in|notin)\s+\(([^)]*)\)$")
_READS_AT_ONCE = 16
_TIMEOUT_S = 5.0  # a cycle waits for this


@dataclass(frozen=True, slots=True)
class ScaleView:
    """What `/scale` said, and at which resourceVersion of the object: replicas of one and the version of another moment
    would let a write pass over what somebody set in between."""

    spec_replicas: int
    status_replicas: int
    selector: LabelSelector
    resource_version: str = ""


class Scales:
    """Remembers `/scale` by object and resourceVersion, so that a quiet target costs no request."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str, str], tuple[str, ScaleView]] = {}
        self._errors: dict[tuple[str, str, str], str] = {}

    def get(self, info: KindInfo, key: str) -> ScaleView | None:
        """The last answer, or None when it was never read."""
        known = self._known.get((info.api_version, info.kind, key))
        return known[1] if known else None

    def error(self, info: KindInfo, key: str) -> str:
        """Why the last answer is missing or old, or empty."""
        return self._errors.get((info.api_version, info.kind, key), "")

    async def refresh(self, wanted: Iterable[tuple[KindInfo, Opaque]]) -> str:
        """Read what changed, and forget what is not wanted any more. Returns the first error, or empty."""
        gate = asyncio.Semaphore(_READS_AT_ONCE)
        pairs = list(wanted)
        asked = [(info.api_version, info.kind, item.metadata.key) for info, item in pairs]
        self._known = {name: self._known[name] for name in asked if name in self._known}
        errors = await asyncio.gather(*(self._read(gate, info, item) for info, item in pairs))
        self._errors = {name: error for name, error in zip(asked, errors, strict=True) if error}
        return next(iter(self._errors.values()), "")

    async def _read(self, gate: asyncio.Semaphore, info: KindInfo, item: Opaque) -> str:
        name, meta = (info.api_version, info.kind, item.metadata.key), item.metadata
        if name in self._known and self._known[name][0] == meta.resource_version:
            return ""
        path = resource_path(info.api_version, info.plural, meta.namespace, meta.name, "scale")
        try:
            async with gate:
                answer = await self._client.request("GET", path, timeout_s=_TIMEOUT_S)
            scale = scale_view(msgspec.json.decode(answer))
        except NotFoundError:
            self._known.pop(name, None)
            return ""
        except EbbtideError as error:
            return str(error)
        except Exception as error:  # an answer that is no Scale concerns this target alone
            return f"GET {path}: the answer is no Scale: {error!r}"
        self._known[name] = (meta.resource_version, scale)
        return ""


def scale_view(scale: dict[str, Any]) -> ScaleView:
    """From an autoscaling/v1 Scale."""
    status = scale.get("status") or {}
    return ScaleView(
        spec_replicas=int((scale.get("spec") or {}).get("replicas") or 0),
        status_replicas=int(status.get("replicas") or 0),
        selector=parse_selector(status.get("selector") or ""),
        resource_version=str((scale.get("metadata") or {}).get("resourceVersion") or ""),
    )


def parse_selector(text: str) -> LabelSelector:
    """`app=chat,tier in (a,b),!canary` -> the same as a LabelSelector."""
    pairs: dict[str, str] = {}
    rest: list[SelectorRequirement] = []
    for term in (found.strip() for found in _TERM.findall(text)):
        several = _SET.match(term)
        if several:
            operator = "In" if several.group(2) == "in" else "NotIn"
            values = tuple(value.strip() for value in several.group(3).split(","))
            rest.append(SelectorRequirement(several.group(1), operator, values))
        elif "!=" in term:
            key, _, value = term.partition("!=")
            rest.append(SelectorRequirement(key.strip(), "NotIn", (value.strip(),)))
        elif "=" in term:
            key, _, value = term.partition("=")
            pairs[key.strip()] = value.lstrip("=").strip()
        elif term.startswith("!"):
            rest.append(SelectorRequirement(term[1:].strip(), "DoesNotExist"))
        elif term:
            rest.append(SelectorRequirement(term, "Exists"))
    return LabelSelector(pairs, tuple(rest))
