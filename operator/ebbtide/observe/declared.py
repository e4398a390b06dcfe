"""Our own kinds, parsed once for each generation and set of labels. What cannot be is left out and named."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from ebbtide.errors import ConfigurationError
from ebbtide.model.snapshot import Unreadable
from ebbtide.observe.informer import Broken
from ebbtide.observe.nesting import MOST_LEVELS, TOO_DEEP
from ebbtide.observe.projections import Opaque

API_VERSION = "ebbtide.dev/v1alpha1"

Parsed = TypeVar("Parsed")


class _Known(NamedTuple, Generic[Parsed]):
    """What was read of an object, or why it could not be; labels change without a new generation."""

    uid: str
    generation: int
    labels: Mapping[str, str] | None
    parsed: Parsed | str


class Declared(Generic[Parsed]):
    """Specs of one kind by key, parsed from the cached objects by `parse`, and the errors of those that are broken."""

    def __init__(self, kind: str, parse: Callable[[Mapping[str, Any]], Parsed]) -> None:
        self._kind = kind
        self._parse = parse
        self._known: dict[str, _Known[Parsed]] = {}

    def update(self, items: Mapping[str, Opaque], broken: Mapping[str, Broken] | None = None) -> dict[str, Parsed]:
        """Specs of all objects that exist and are not being deleted; of the `broken` ones none, whatever was before."""
        known = {key: self._one(key, item) for key, item in items.items() if not item.metadata.deletion_timestamp}
        for key, bad in (broken or {}).items():
            if not bad.metadata.deletion_timestamp:
                text = f"{self._kind} {key}: {bad.error}"
                known[key] = _Known(bad.metadata.uid, bad.metadata.generation, None, text)
        self._known = known
        return {key: each.parsed for key, each in known.items() if not isinstance(each.parsed, str)}

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Each object that cannot be read, with one sentence that says why; sorted by key."""
        return tuple(
            Unreadable(self._kind, key, each.uid, each.generation, each.parsed)
            for key, each in sorted(self._known.items())
            if isinstance(each.parsed, str)
        )

    def _one(self, key: str, item: Opaque) -> _Known[Parsed]:
        metadata, known = item.metadata, self._known.get(key)
        version = metadata.uid, metadata.generation, metadata.labels
        if known is not None and known[:3] == version:
            return known
        return _Known(*version, self._read(key, item))

    def _read(self, key: str, item: Opaque) -> Parsed | str:
        if TOO_DEEP in bytes(item.spec):
            return f"{self._kind} {key}: spec is nested deeper than {MOST_LEVELS} levels: not allowed"
        try:
            return self._parse(item.plain(API_VERSION, self._kind))
        except ConfigurationError as error:
            return str(error)
        except Exception as error:  # whatever the spec makes the parser raise concerns this object alone
            return f"{self._kind} {key}: spec cannot be read: {error!r}"
