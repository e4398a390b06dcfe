"""The queues of the gateways that hold requests while nothing is ready, read directly every second or two.

A service at zero must not wait for a scrape and a cycle. When a queue goes from empty (or unknown) to non-empty,
`on_wake` is called at once. Several names may be configured because gateways publish one queue under an old and a new
name: each name is summed over its series that carry the labels, and the largest of these sums counts.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from ebbtide.clock import monotonic_s
from ebbtide.model.snapshot import NOT_APPLICABLE, UNKNOWN, Quality, Reading
from ebbtide.model.spec import Activator
from ebbtide.observe.settings import GatewaySettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    queue: float
    at_s: float  # monotonic


@dataclass(frozen=True, slots=True)
class _Read:
    """One page: the lines that matter, who asked, and what each was told."""

    lines: list[str]
    activators: tuple[tuple[str, Activator], ...]
    queues: dict[str, float | None]


class Gateways:
    """Polls each distinct URL for all services that name it, none waiting for another. `run` works until cancelled.

    Addresses that did not answer last time share places of their own: 200 silent ones, each for its second, would
    hold 32 places for 7 s in turn, and whoever answers would wait as long.
    """

    def __init__(self, settings: GatewaySettings, on_wake: Callable[[], None]) -> None:
        self._settings = settings
        self._on_wake = on_wake
        self._wanted: dict[str, Activator] = {}
        self._seen: dict[str, _Seen] = {}
        self._pages: dict[str, _Read] = {}  # by URL, the last page
        self._broken: dict[str, str] = {}
        self._reads: dict[str, asyncio.Task[None]] = {}  # by URL, the latest
        self._answering, self._silent = (asyncio.Semaphore(settings.concurrency) for _ in range(2))

    def follow(self, activators: Mapping[str, Activator]) -> None:
        """From now on poll these, by service key; what is known of others, or of a changed activator, is forgotten."""
        kept = {key for key, activator in activators.items() if self._wanted.get(key) == activator}
        self._seen = {key: seen for key, seen in self._seen.items() if key in kept}
        self._wanted = dict(activators)
        urls = {activator.url for activator in activators.values()}
        self._pages = {url: page for url, page in self._pages.items() if url in urls}

    def reading(self, key: str) -> Reading:
        """Requests that the service's gateway holds; NotApplicable for a service without activator."""
        if key not in self._wanted:
            return NOT_APPLICABLE
        seen = self._seen.get(key)
        age_s = None if seen is None else max(0.0, monotonic_s() - seen.at_s)
        if seen is None or age_s is None or age_s > self._settings.forget_s:
            return UNKNOWN
        quality = Quality.FRESH if age_s <= self._settings.max_age_s else Quality.STALE
        return Reading(quality=quality, value=seen.queue, age_s=age_s)

    async def run(self) -> None:
        """Poll until cancelled; an address that does not answer leaves its readings to age."""
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        connector = aiohttp.TCPConnector(limit=2 * self._settings.concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            try:
                while True:
                    self._begin(session)
                    await asyncio.sleep(self._settings.poll_s)
            finally:
                for read in self._reads.values():
                    read.cancel()
                await asyncio.gather(*self._reads.values(), return_exceptions=True)
                self._reads.clear()

    async def poll(self, session: aiohttp.ClientSession) -> None:
        """One round, to its end."""
        self._begin(session)
        await asyncio.gather(*self._reads.values())

    def _begin(self, session: aiohttp.ClientSession) -> None:
        """Starts a read of each URL that has none under way; what nobody foresaw in a finished one is raised here."""
        by_url: dict[str, list[str]] = {}
        for key, activator in self._wanted.items():
            by_url.setdefault(activator.url, []).append(key)
        finished = [url for url, read in self._reads.items() if read.done()]
        for url in finished:
            self._reads.pop(url).result()
        for url, keys in by_url.items():
            if url not in self._reads:
                gate = self._silent if url in self._broken else self._answering
                self._reads[url] = asyncio.create_task(self._read(session, gate, url, keys))

    async def _read(self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, url: str, keys: list[str]) -> None:
        try:
            async with gate, session.get(url) as response:
                response.raise_for_status()
                body = await self._whole(response)
            queues = self._queues(url, body.decode(errors="replace"), [key for key in keys if key in self._wanted])
        except Exception as error:  # whatever a page makes its parser raise concerns this page alone
            self._failed(url, f"{type(error).__name__}: {error}")
            return
        self._broken.pop(url, None)
        for key, queue in queues.items():
            self._note(key, queue)

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """All of the page: of a part, a series beyond its end would be missing, or a number be cut short."""
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > self._settings.max_bytes:
                raise ValueError(f"the page has more than {self._settings.max_bytes} bytes")
        return bytes(body)

    def _queues(self, url: str, text: str, keys: list[str]) -> dict[str, float | None]:
        """The page is parsed once for all services, and not at all while its queues say what they said before."""
        activators = tuple((key, self._wanted[key]) for key in keys)
        lines = _lines(text, {name for _, activator in activators for name in activator.queue_metrics})
        before = self._pages.get(url)
        if before is not None and (before.lines, before.activators) == (lines, activators):
            return before.queues
        series = _Series(lines)
        queues = {key: series.queue(activator) for key, activator in activators}
        self._pages[url] = _Read(lines, activators, queues)
        return queues

    def _failed(self, url: str, error: str) -> None:
        if url not in self._broken:  # once, not every second
            log.warning("gateway metrics at %s cannot be read: %s", url, error)
        self._broken[url] = error

    def _note(self, key: str, queue: float | None) -> None:
        if queue is None:
            return  # the series is not there: what was known ages
        before = self._seen.get(key)
        self._seen[key] = _Seen(queue, monotonic_s())
        if queue > 0 and (before is None or before.queue == 0):
            self._on_wake()


class _Series:
    """The samples of one page, found by any of their labels: a thousand services on one page are one walk over it."""

    def __init__(self, lines: Iterable[str]) -> None:
        families = text_string_to_metric_families("\n".join(lines) + "\n")
        self._samples = [sample for family in families for sample in family.samples]
        self._by_label: dict[str, dict[str, list[Any]]] = {}  # label -> value -> samples, made when first asked for

    def queue(self, activator: Activator) -> float | None:
        """The largest of the sums under the configured names; None when there is no such series."""
        names = set(activator.queue_metrics)
        sums: dict[str, float] = {}
        for sample in self._narrowed(activator):
            if sample.name in names and all(sample.labels.get(label) == value for label, value in activator.labels):
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return max(sums.values()) if sums else None

    def _narrowed(self, activator: Activator) -> list[Any]:
        """Samples that may match: the fewest that any one of the labels leaves."""
        groups = [self._having(label).get(value, []) for label, value in activator.labels]
        return min(groups, key=len, default=self._samples)

    def _having(self, label: str) -> dict[str, list[Any]]:
        found = self._by_label.get(label)
        if found is None:
            found = self._by_label[label] = {}
            for sample in self._samples:
                found.setdefault(sample.labels.get(label, ""), []).append(sample)
        return found


def _lines(exposition: str, names: Iterable[str]) -> list[str]:
    # A gateway's page has thousands of lines and a handful that matter: only those are parsed.
    starts = tuple(name + mark for name in names for mark in ("{", " "))
    return [line for line in exposition.splitlines() if line.startswith(starts)]
