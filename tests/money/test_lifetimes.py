"""Lifetimes of pods and nodes: what the API server shows is what ran, whatever nobody watched."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.model.money import Lifetime, Payer
from ebbtide.money.lifetimes import Holding, advance

CHAT = Payer("h100", "ml", "chat", "h100", "llama", "search")
OTHER = Payer("h100", "ml", "code", "h100", "llama", "tools")


def pod(
    uid: str = "a", begin_s: float = 100.4, end_s: float | None = None, payer: Payer = CHAT, gpus: int = 4
) -> Holding:
    return Holding(uid, payer, gpus, begin_s, end_s, "node-1")


def running(begin_s: int = 100, seen_s: int = 200, payer: Payer = CHAT) -> Lifetime:
    return Lifetime("a", payer, 4, begin_s, seen_s, None, "node-1")


@pytest.mark.parametrize(
    ("story", "before", "shown", "gone", "complete", "after", "changed"),
    [
        ("it begins with the second in which it was bound", [], [pod()], {}, True, [(100, 210)],
         [(100, 210, None, False)]),
        ("it goes on", [running()], [pod()], {}, True, [(100, 210)], []),
        ("it was seen to go: that second is its last", [running()], [], {"a": 204.2}, True, [],
         [(100, 205, 205, False)]),
        ("it went while nobody watched: now counts, and is marked", [running()], [], {}, True, [],
         [(100, 200, 211, True)]),
        ("a list with holes ends nothing", [running()], [], {}, False, [(100, 200)], []),
        ("but what was seen to go has gone", [running()], [], {"a": 204.0}, False, [], [(100, 204, 204, False)]),
        ("it finished, and is still shown", [running()], [pod(end_s=180.1)], {}, True, [], [(100, 181, 181, False)]),
        ("it came and finished unseen", [], [pod(end_s=180.1)], {}, True, [], [(100, 181, 181, False)]),
        ("it finished in the second in which it was bound", [], [pod(end_s=100.0)], {}, True, [], []),
        ("a clock that was set back ends nothing before it began", [running(300, 400)], [], {"a": 250.0}, True, [],
         [(300, 300, 300, False)]),
    ],
)  # fmt: skip
def test_a_lifetime(story, before, shown, gone, complete, after, changed) -> None:  # type: ignore[no-untyped-def]
    still, news = advance({item.uid: item for item in before}, shown, gone, 210.7, complete=complete)
    assert [(item.begin_s, item.seen_s) for item in still.values()] == after, story
    assert [(item.begin_s, item.seen_s, item.end_s, item.estimated) for item in news] == changed, story


@pytest.mark.parametrize("change", [{"payer": OTHER}, {"gpus": 8}, {"node": "node-2"}])
def test_what_it_is_put_down_to_changes_from_now_on(change: dict[str, object]) -> None:
    still, news = advance({"a": running()}, [msgspec.structs.replace(pod(), **change)], {}, 210.7)
    ended, begun = news
    assert (ended.begin_s, ended.end_s, begun.begin_s, begun.end_s) == (100, 210, 210, None)
    assert ended.payer == CHAT and still["a"] == begun


def test_what_ran_in_no_pool_was_in_the_one_that_its_node_comes_to() -> None:
    nowhere = running(payer=msgspec.structs.replace(CHAT, pool=""))
    still, news = advance({"a": nowhere}, [pod()], {}, 210.7)
    assert (still, news) == ({"a": running(seen_s=210)}, [running(seen_s=210)]), "and had its price all along"
    (_, begun) = advance({"a": nowhere}, [pod(payer=OTHER)], {}, 210.7)[1]
    assert begun.begin_s == 210, "not where it is somebody else's by now"
    (_, left) = advance({"a": running()}, [pod(payer=nowhere.payer)], {}, 210.7)[1]
    assert left.begin_s == 210, "and what is in no pool any more had a price until then"


@pytest.mark.parametrize(("counts", "billed"), [((0, 8, 8), 8), ((8, 0, 8), 8), ((8, 7, 0), 8)])
def test_a_node_has_the_most_gpus_that_it_ever_showed(counts: tuple[int, ...], billed: int) -> None:
    """Its device plugin comes late, or pauses: what is paid for is the node."""
    open_now: dict[str, Lifetime] = {}
    changed: dict[int, Lifetime] = {}
    for second, gpus in enumerate(counts):
        shown = [Holding("n", Payer("h100"), gpus, 50.0, None, "", is_node=True)]
        open_now, news = advance(open_now, shown, {}, 100.0 + second)
        changed |= {item.begin_s: item for item in news}
    assert [(item.begin_s, item.gpus) for item in changed.values()] == [(50, billed)] and open_now["n"].gpus == billed


def test_what_was_counted_before_it_was_away_is_not_counted_again() -> None:
    still, news = advance({}, [pod()], {}, 210.7, ended={"a": 180})
    assert still["a"].begin_s == 180
    assert advance({}, [pod(end_s=190.0)], {}, 210.7, ended={"a": 180}) == ({}, [])
    assert len(news) == 1


moments = st.integers(0, 400)


@given(st.lists(st.tuples(moments, st.integers(1, 100)), min_size=1, max_size=5), st.sets(moments, max_size=30))
def test_nothing_is_counted_twice_and_nothing_is_lost(lives: list[tuple[int, int]], watched: set[int]) -> None:
    """Pods of which the operator saw what there was at some moments: each is billed for at least its life, once."""
    open_now: dict[str, Lifetime] = {}
    ended: dict[tuple[str, int], Lifetime] = {}
    for now_s in [*sorted(watched), 600]:
        shown = [pod(str(index), begin) for index, (begin, last) in enumerate(lives) if begin <= now_s < begin + last]
        open_now, changed = advance(open_now, shown, {}, float(now_s))
        ended.update({(item.uid, item.begin_s): item for item in changed})
    assert not open_now
    for index, (begin, last) in enumerate(lives):
        mine = [item for item in ended.values() if item.uid == str(index)]
        seen = [moment for moment in watched if begin <= moment < begin + last]
        assert len(mine) == (1 if seen else 0)
        for item in mine:
            assert item.begin_s == begin and item.end_s is not None
            assert item.seen_s == max(seen) < begin + last <= item.end_s, "bounded by last seen and first missing"
