"""A cache of one kind that stays true: list in pages, watch, and list again with a diff whenever in doubt.

The rule that matters: a deletion that happened while nobody was watching is found by the next list and reported like
any other. After an error the old content stays readable; `error` and `age_s` say how far to trust it. An object that
cannot be read is named in `broken` and hides no other. The informer never decides anything and never writes to the API
server.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ebbtide.clock import monotonic_s
from ebbtide.errors import EbbtideError, NotFoundError, RetryableError
from ebbtide.kube.client import GoneError, KubeClient
from ebbtide.observe.nesting import shallow
from ebbtide.observe.projections import Meta
from ebbtide.observe.settings import WatchSettings

log = logging.getLogger(__name__)

# An API server that is just starting may answer 404 for a kind once or twice; a deleted CRD does so for ever.
_ABSENT_AFTER = 4


class Change(StrEnum):
    """What happened to an object."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"


class HasMeta(Protocol):
    """Any projection with metadata."""

    @property
    def metadata(self) -> Meta:
        """Name, namespace, uid and resourceVersion at least."""


Item = TypeVar("Item", bound=HasMeta)
Listener = Callable[[Change, Item | None, Item | None], None]


@dataclass(frozen=True, slots=True)
class Broken:
    """An object that exists and cannot be read, with the error as text."""

    metadata: Meta
    error: str


class _Identity(msgspec.Struct):
    metadata: Meta


class _Continue(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[Item]):
    metadata: _Continue
    items: list[Item] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _VersionMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _VersionMeta


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""
    reason: str = ""


class Informer(Generic[Item]):
    """One kind. `run` works until it is cancelled; `items` maps `namespace/name` to the projection.

    `on_change(change, old, new)` is called in order, once for each difference, from lists and watches alike. An object
    that was replaced by another of the same name is reported as Deleted and then Added.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        kind: type[Item],
        *,
        settings: WatchSettings | None = None,
        keep: Callable[[Item], Item] | None = None,
        on_change: Listener[Item] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.path = path
        self.error = ""
        self.comparing = False  # what is reported came to light by a list: nobody saw when it happened
        self.broken: dict[str, Broken] = {}  # by key; of one that was readable before, the old content stays
        self._client = client
        self._settings = settings or WatchSettings()
        self._keep = keep
        self._on_change = on_change
        self._rng = rng or random.Random()
        self._items: dict[str, Item] = {}
        self._synced = asyncio.Event()
        self._contact_s: float | None = None
        self._listed_s = 0.0
        self._version = ""
        self._failures = 0
        page: Any = _Page[kind]  # type: ignore[valid-type]
        self._page = msgspec.json.Decoder(page)
        self._item: msgspec.json.Decoder[Item] = msgspec.json.Decoder(kind)
        self._event = msgspec.json.Decoder(_Event)

    @property
    def items(self) -> Mapping[str, Item]:
        """What is believed to exist; a live read-only view. Copy it to freeze it."""
        return MappingProxyType(self._items)

    @property
    def synced(self) -> bool:
        """Whether one complete list has been read."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return once one complete list has been read."""
        await self._synced.wait()

    def age_s(self) -> float | None:
        """Seconds since the API server last said something on this kind; None: never."""
        return None if self._contact_s is None else max(0.0, monotonic_s() - self._contact_s)

    async def run(self) -> None:
        """List and watch until cancelled. No error ends it: each is kept in `error`, and tried again."""
        while True:
            try:
                if not self._version or monotonic_s() - self._listed_s > self._settings.relist_s:
                    await self._list()
                await self._watch()
            except Exception as error:  # an unforeseen one too: a cache that stands still would stop every decision
                await self._recover(error)

    async def _recover(self, error: Exception) -> None:
        # Whatever broke the watch, the next list compares: nothing that happened in the gap is lost.
        self._version = ""
        self.error = str(error) if isinstance(error, EbbtideError | msgspec.MsgspecError) else repr(error)
        self._failures += 1
        if isinstance(error, GoneError) and self._failures == 1:
            return  # normal after a compaction: no reason to wait
        if isinstance(error, NotFoundError) and self._failures >= _ABSENT_AFTER:
            self._clear()
        limit_s = min(self._settings.backoff_max_s, self._settings.backoff_s * 2.0 ** min(self._failures - 1, 16))
        pause_s = limit_s * self._rng.uniform(0.5, 1.0)  # many informers must not return in step
        log.warning("%s: %s; again in %.1f s", self.path, self.error, pause_s)
        await asyncio.sleep(pause_s)

    def _clear(self) -> None:
        """The kind itself is gone (its CRD was deleted), so its objects are too."""
        self.broken = {}
        for key in list(self._items):
            self._remove(key)

    async def _list(self) -> None:
        found: dict[str, Item] = {}
        broken: dict[str, Broken] = {}
        version = ""
        async for page in self._pages(broken):
            version = page.metadata.resource_version
            for item in page.items or ():
                kept = self._kept(item, broken)
                if kept is not None:
                    found[kept.metadata.key] = kept
        self.broken = broken
        self.comparing = True
        try:
            for key in [key for key in self._items if key not in found and key not in broken]:
                self._remove(key)
            for item in found.values():
                self._store(item)
        finally:
            self.comparing = False
        self._version = version
        self._listed_s = monotonic_s()
        self._heard()
        self._synced.set()

    async def _pages(self, broken: dict[str, Broken]) -> AsyncIterator[_Page[Item]]:
        params = {"limit": str(self._settings.page_size)}
        while True:
            page = self._decoded(await self._client.request("GET", self.path, params=params), broken)
            yield page
            if not page.metadata.continue_:
                return
            params["continue"] = page.metadata.continue_

    def _decoded(self, body: bytes, broken: dict[str, Broken]) -> _Page[Item]:
        """The page at once; where that fails, each of its objects for itself."""
        try:
            whole: _Page[Item] = self._page.decode(body)
            return whole
        except (RecursionError, msgspec.ValidationError):
            rough = msgspec.json.decode(shallow(body), type=_Page[msgspec.Raw])  # type: ignore[type-var]
        items = (self._one(raw, broken) for raw in rough.items or ())
        return _Page(rough.metadata, [item for item in items if item is not None])

    def _one(self, raw: msgspec.Raw, broken: dict[str, Broken]) -> Item | None:
        try:
            return self._item.decode(raw)
        except Exception as error:
            self._note_broken(msgspec.json.decode(raw, type=_Identity).metadata, error, broken)
            return None

    def _kept(self, item: Item, broken: dict[str, Broken]) -> Item | None:
        try:
            return self._keep(item) if self._keep else item
        except Exception as error:
            self._note_broken(item.metadata, error, broken)
            return None

    def _note_broken(self, metadata: Meta, error: Exception, broken: dict[str, Broken]) -> None:
        text = str(error) if isinstance(error, msgspec.MsgspecError) else repr(error)
        log.warning("%s: %s cannot be read: %s", self.path, metadata.key, text)
        broken[metadata.key] = Broken(metadata, text)

    async def _watch(self) -> None:
        settings = self._settings
        # whole seconds; up to 10 % less, so that the watches of one process do not end together
        seconds = max(1, int(settings.watch_s * self._rng.uniform(0.9, 1.0)))
        params = {"resourceVersion": self._version, "timeoutSeconds": str(seconds)}
        async with contextlib.aclosing(self._client.watch(self.path, params, settings.silence_s)) as lines:
            async for line in lines:
                self._apply(line)
        self._heard()

    def _apply(self, line: bytes) -> None:
        try:
            event = self._event.decode(line)
        except RecursionError:
            event = self._event.decode(shallow(line))
        if event.type == "ERROR":
            raise _watch_error(self.path, msgspec.json.decode(event.object, type=_Failure))
        if event.type == "BOOKMARK":
            self._version = msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
            return self._heard()
        broken: dict[str, Broken] = {}
        item = self._one(event.object, broken)
        kept = None if item is None else self._kept(item, broken)
        metadata = kept.metadata if kept is not None else next(iter(broken.values())).metadata
        self.broken.pop(metadata.key, None)
        if event.type == "DELETED":
            self._remove(metadata.key)
        elif kept is not None:
            self._store(kept)
        else:
            self.broken |= broken
        self._version = metadata.resource_version
        return self._heard()

    def _store(self, item: Item) -> None:
        old = self._items.get(item.metadata.key)
        if old is not None and old.metadata.uid != item.metadata.uid:
            self._remove(old.metadata.key)
            old = None
        self._items[item.metadata.key] = item
        if old is None:
            self._tell(Change.ADDED, None, item)
        elif old.metadata.resource_version != item.metadata.resource_version:
            self._tell(Change.MODIFIED, old, item)

    def _remove(self, key: str) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._tell(Change.DELETED, old, None)

    def _tell(self, change: Change, old: Item | None, new: Item | None) -> None:
        if self._on_change is not None:
            self._on_change(change, old, new)

    def _heard(self) -> None:
        self._contact_s = monotonic_s()
        self._failures = 0
        self.error = ""


def _watch_error(path: str, failure: _Failure) -> EbbtideError:
    text = f"WATCH {path}: {failure.code} {failure.message or failure.reason}"
    return GoneError(text) if failure.code == 410 else RetryableError(text)
