"""Our own kinds, parsed once for each generation. What cannot be parsed is left out and named, never guessed."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ebbtide.errors import ConfigurationError
from ebbtide.model.snapshot import Unreadable
from ebbtide.observe.informer import Broken
from ebbtide.observe.nesting import MOST_LEVELS, TOO_DEEP
from ebbtide.observe.projections import Opaque

API_VERSION = "ebbtide.dev/v1alpha1"

Parsed = TypeVar("Parsed")


class Declared(Generic[Parsed]):
    """Specs of one kind by key, parsed from the cached objects by `parse`, and the errors of those that are broken."""

    def __init__(self, kind: str, parse: Callable[[Mapping[str, Any]], Parsed]) -> None:
        self._kind = kind
        self._parse = parse
        self._known: dict[str, tuple[str, int, Parsed | str]] = {}

    def update(self, items: Mapping[str, Opaque], broken: Mapping[str, Broken] | None = None) -> dict[str, Parsed]:
        """Specs of all objects that exist and are not being deleted; of the `broken` ones none, whatever was before."""
        known = {key: self._one(key, item) for key, item in items.items() if not item.metadata.deletion_timestamp}
        for key, bad in (broken or {}).items():
            if not bad.metadata.deletion_timestamp:
                text = f"{self._kind} {key}: {bad.error}"
                known[key] = (bad.metadata.uid, bad.metadata.generation, text)
        self._known = known
        return {key: known[2] for key, known in self._known.items() if not isinstance(known[2], str)}

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Each object that cannot be read, with one sentence that says why; sorted by key."""
        return tuple(
            Unreadable(self._kind, key, uid, generation, parsed)
            for key, (uid, generation, parsed) in sorted(self._known.items())
            if isinstance(parsed, str)
        )

    def _one(self, key: str, item: Opaque) -> tuple[str, int, Parsed | str]:
        uid, generation = item.metadata.uid, item.metadata.generation
        known = self._known.get(key)
        if known is not None and known[:2] == (uid, generation):
            return known
        if TOO_DEEP in bytes(item.spec):
            return (
                uid,
                generation,
                f"{self._kind} {key}: spec is nested deeper than {MOST_LEVELS} levels: not allowed",
            )
        try:
            return (uid, generation, self._parse(item.plain(API_VERSION, self._kind)))
        except ConfigurationError as error:
            return (uid, generation, str(error))
        except Exception as error:  # whatever the spec makes the parser raise concerns this object alone
            return (uid, generation, f"{self._kind} {key}: spec cannot be read: {error!r}")
