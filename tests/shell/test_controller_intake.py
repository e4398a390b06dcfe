"""The intake wakes the loop on a change of a spec and on nothing else, and a Kopf that ends is started again."""

import asyncio
import threading

import pytest

from ebbtide.controller.intake import Generations, Intake


@pytest.mark.parametrize(
    ("events", "news"),
    [
        ([(None, 1)], [True]),
        ([(None, 1), ("MODIFIED", 1), ("MODIFIED", 1)], [True, False, False]),
        ([("ADDED", 1), ("MODIFIED", 2)], [True, True]),
        ([("ADDED", 1), ("DELETED", 1), ("ADDED", 1)], [True, True, True]),
        ([("DELETED", 1)], [True]),
    ],
    ids=[
        "the first listing",
        "status writes are not news",
        "a changed spec",
        "deleted and created again",
        "deleted unseen",
    ],
)
def test_what_is_news(events, news):
    generations = Generations()
    assert [generations.is_news(kind, "uid", generation) for kind, generation in events] == news


def test_objects_of_the_same_generation_are_told_apart():
    generations = Generations()
    assert generations.is_news("ADDED", "a", 1)
    assert generations.is_news("ADDED", "b", 1)


def test_what_is_remembered_is_bounded():
    generations = Generations(limit=2)
    for uid in "abc":
        generations.is_news("ADDED", uid, 1)
    assert not generations.is_news("MODIFIED", "c", 1)
    assert generations.is_news("MODIFIED", "a", 1)  # forgotten: one needless wake, never a missed one


async def test_a_kopf_that_fails_or_just_ends_is_started_again_and_counted():
    starts: list[int] = []
    restarts: list[int] = []
    wakes: list[int] = []
    third = threading.Event()

    async def serve(intake: Intake, stop_flag: asyncio.Event) -> None:
        starts.append(1)
        if len(starts) == 1:
            raise RuntimeError("the watch stream broke")
        if len(starts) == 2:
            return
        third.set()
        await stop_flag.wait()

    intake = Intake(lambda: wakes.append(1), on_restart=lambda: restarts.append(1), serve=serve, backoff_s=(0.01, 0.02))
    intake.start()
    assert await asyncio.to_thread(third.wait, 20)
    await intake.stop(timeout_s=20)
    assert (len(starts), len(restarts), len(wakes)) == (3, 2, 2)


async def test_stop_ends_the_wait_between_two_starts():
    failed = threading.Event()

    async def serve(intake: Intake, stop_flag: asyncio.Event) -> None:
        failed.set()
        raise RuntimeError("no API server")

    intake = Intake(lambda: None, serve=serve, backoff_s=(3600.0,))
    intake.start()
    assert await asyncio.to_thread(failed.wait, 20)
    await asyncio.wait_for(intake.stop(timeout_s=20), 20)
    assert not intake._thread.is_alive()
