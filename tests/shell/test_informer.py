"""The informer against a scripted API server: whatever breaks, the cache ends up true and every difference is told."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ebbtide.kube.client import KubeClient
from ebbtide.observe.informer import Change, Informer
from ebbtide.observe.projections import Pod
from ebbtide.observe.settings import WatchSettings
from tests.shell.observing import QUICK, Answer, ScriptedApi, api_client, event, events, eventually, page, pod, status

HANG = events(then="hang")


@dataclass
class Watched:
    """An informer at work, and what it told."""

    informer: Informer[Pod]
    api: ScriptedApi
    told: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return sorted(item.metadata.name for item in self.informer.items.values())


@contextlib.asynccontextmanager
async def watching(
    folder: Path, lists: list[Answer], watches: list[Answer], settings: WatchSettings = QUICK
) -> AsyncIterator[Watched]:
    api = ScriptedApi(lists, watches)
    told: list[str] = []

    def tell(change: Change, old: Pod | None, new: Pod | None) -> None:
        item = new or old
        assert item is not None
        told.append(f"{change} {item.metadata.name} {item.metadata.resource_version}")

    async with api_client(api.answer, folder) as client:
        informer = _informer(client, settings, tell)
        task = asyncio.create_task(informer.run())
        try:
            yield Watched(informer, api, told)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _informer(client: KubeClient, settings: WatchSettings, tell: object) -> Informer[Pod]:
    return Informer(client, "/api/v1/pods", Pod, settings=settings, on_change=tell, rng=random.Random(1))  # type: ignore[arg-type]


async def test_a_list_in_pages_is_one_list(tmp_path: Path) -> None:
    lists = [page(pod("a"), pod("b"), version=7, more="next"), page(pod("c"), version=7), page()]
    async with watching(tmp_path, lists, [HANG]) as seen:
        await eventually(lambda: seen.informer.synced)
        assert seen.names() == ["a", "b", "c"]
        await eventually(lambda: "watch rv=7" in seen.api.seen)
        assert seen.api.seen[:3] == ["list", "list continue=next", "watch rv=7"]
        assert seen.told == ["Added a 1", "Added b 1", "Added c 1"]


async def test_events_and_bookmarks_move_the_cache_and_its_version(tmp_path: Path) -> None:
    watch = events(
        event("ADDED", pod("b", 8)),
        event("MODIFIED", pod("a", 9)),
        event("DELETED", pod("b", 10)),
        event("BOOKMARK", {"metadata": {"resourceVersion": "42"}}),
    )
    async with watching(tmp_path, [page(pod("a"), version=7)], [watch, HANG]) as seen:
        await eventually(lambda: "watch rv=42" in seen.api.seen)
        assert seen.told == ["Added a 1", "Added b 8", "Modified a 9", "Deleted b 8"]
        assert seen.names() == ["a"]
        assert seen.api.seen.count("list") == 1, "a watch that ends in peace goes on where it was"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(
            events(event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})), id="410 in the stream"
        ),
        pytest.param(
            events(event("ERROR", {"code": 500, "message": "etcdserver: leader changed"})), id="500 in the stream"
        ),
        pytest.param(status(410), id="410 at the start"),
        pytest.param(status(429), id="429 at the start"),
        pytest.param(status(403), id="rights were taken away for a moment"),
        pytest.param(events(then="break"), id="the connection breaks within a line"),
        pytest.param(events("no json"), id="not JSON"),
        pytest.param(events(event("ADDED", {"metadata": {"name": 5}})), id="not a pod"),
        pytest.param(HANG, id="silence beyond the timeout"),
    ],
)
async def test_a_deletion_in_a_watch_gap_is_found_and_told(tmp_path: Path, broken: Answer) -> None:
    lists = [page(pod("stays"), pod("goes"), version=1), page(pod("stays"), pod("comes", 5), version=6)]
    async with watching(tmp_path, lists, [broken, HANG], replace(QUICK, silence_s=0.3)) as seen:
        await eventually(lambda: seen.names() == ["comes", "stays"])
        assert seen.told[-2:] == ["Deleted goes 1", "Added comes 5"]


DEEP = '{"a":' * 5000 + "1" + "}" * 5000


async def test_an_event_that_cannot_be_read_concerns_its_object_alone(tmp_path: Path) -> None:
    odd = pod("odd", 8, labels={"app": 5})
    deep = json.dumps(event("ADDED", pod("deep", 9, spec="LEVELS", metadata={"labels": {"a": "b"}})))
    watch = events(
        event("MODIFIED", odd),
        deep.replace('"LEVELS"', '{"x": ' + DEEP + "}"),
        event("ADDED", pod("good", 10)),
        then="hang",
    )
    async with watching(tmp_path, [page(pod("odd", 1))], [watch]) as seen:
        await eventually(lambda: "Added good 10" in seen.told)
        assert seen.names() == ["deep", "good", "odd"], "of what was readable before, the old content stays"
        assert seen.informer.items["team-a/odd"].metadata.resource_version == "1"
        assert list(seen.informer.broken) == ["team-a/odd"]
        assert "labels" in seen.informer.broken["team-a/odd"].error
        assert seen.api.seen.count("list") == 1
        assert not seen.informer.error


@pytest.mark.parametrize(
    "mended", [event("DELETED", pod("odd", 9, labels={"app": 5})), event("MODIFIED", pod("odd", 9))], ids=["gone", "ok"]
)
async def test_what_could_not_be_read_is_forgotten_when_it_goes_or_is_mended(
    tmp_path: Path, mended: dict[str, Any]
) -> None:
    lists = [page(pod("a"), pod("odd", 1, labels={"app": 5}))]
    async with watching(tmp_path, lists, [events(mended, then="hang")]) as seen:
        await eventually(lambda: "watch rv=1" in seen.api.seen and not seen.informer.broken)
        assert ("odd" in seen.names()) is (mended["type"] == "MODIFIED")


async def test_a_projection_or_a_listener_that_raises_ends_no_informer(tmp_path: Path) -> None:
    def keep(item: Pod) -> Pod:
        if item.metadata.name == "odd":
            raise RecursionError("too deep")
        return item

    raised = []

    def tell(_change: Change, _old: Pod | None, _new: Pod | None) -> None:
        if not raised:
            raised.append(1)
            raise KeyError("a defect")

    api = ScriptedApi([page(pod("a"), pod("odd"))], [HANG])
    async with api_client(api.answer, tmp_path) as client:
        informer = Informer(client, "/api/v1/pods", Pod, settings=QUICK, keep=keep, on_change=tell)
        task = asyncio.create_task(informer.run())
        await eventually(lambda: informer.synced or task.done())
        assert not task.done()
        assert list(informer.items) == ["team-a/a"]
        assert "too deep" in informer.broken["team-a/odd"].error
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_object_that_was_replaced_in_a_gap_is_deleted_and_added(tmp_path: Path) -> None:
    lists = [page(pod("a", 1, uid="first")), page(pod("a", 2, uid="second"))]
    async with watching(tmp_path, lists, [status(410), HANG]) as seen:
        await eventually(lambda: len(seen.told) >= 3)
        assert seen.told[:3] == ["Added a 1", "Deleted a 1", "Added a 2"]


async def test_an_unchanged_object_is_not_told_again_by_a_new_list(tmp_path: Path) -> None:
    async with watching(tmp_path, [page(pod("a", 3))], [status(410), status(410), HANG]) as seen:
        await eventually(lambda: seen.api.seen.count("list") >= 3)
        assert seen.told == ["Added a 3"]


async def test_an_expired_page_starts_the_list_again(tmp_path: Path) -> None:
    lists = [page(pod("a"), version=1, more="old"), status(410), page(pod("b"), version=9)]
    async with watching(tmp_path, lists, [HANG]) as seen:
        await eventually(lambda: seen.informer.synced)
        assert seen.names() == ["b"], "half a list is no list"


async def test_errors_keep_the_old_content_and_say_so(tmp_path: Path) -> None:
    lists = [page(pod("a")), status(500, "etcd is gone")]
    async with watching(tmp_path, lists, [status(500)]) as seen:
        await eventually(lambda: "etcd is gone" in seen.informer.error)
        assert seen.names() == ["a"]
        assert seen.informer.synced
        seen.api.lists = [page(pod("a"), pod("b", 2))]
        seen.api.watches = [events(event("BOOKMARK", {"metadata": {"resourceVersion": "3"}}), then="hang")]
        await eventually(lambda: seen.names() == ["a", "b"] and not seen.informer.error)


async def test_a_kind_that_is_gone_for_good_has_no_objects(tmp_path: Path) -> None:
    async with watching(tmp_path, [page(pod("a")), status(404)], [status(404)]) as seen:
        await eventually(lambda: "Deleted a 1" in seen.told)
        assert seen.api.seen.count("list") >= 3, "one 404 of a server that is starting proves nothing"


async def test_a_periodic_list_finds_what_no_watch_said(tmp_path: Path) -> None:
    often = replace(QUICK, relist_s=0.0)
    async with watching(tmp_path, [page(pod("a")), page(pod("b", 2))], [events()], often) as seen:
        await eventually(lambda: seen.names() == ["b"])
        assert "Deleted a 1" in seen.told


async def test_the_first_sync_waits_for_a_server_that_is_down(tmp_path: Path) -> None:
    async with watching(tmp_path, [status(503), status(503), page(pod("a"))], [HANG]) as seen:
        assert seen.informer.age_s() is None
        await asyncio.wait_for(seen.informer.wait_synced(), 10)
        assert seen.names() == ["a"]
        assert seen.informer.age_s() is not None
