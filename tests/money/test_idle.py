"""Who pays for GPUs that nobody holds: all together for the node, each in proportion, and for no more than an hour."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.model.money import Payer
from ebbtide.money.idle import OWED_S, Holder, divided, shares

CHAT, CODE = Payer("h100", "ml", "chat"), Payer("h100", "dev", "code")


def pod(uid: str, gpus: int = 1, begin_s: int = 0, end_s: int | None = None, payer: Payer = CHAT) -> Holder:
    return Holder(uid, payer, gpus, begin_s, end_s)


@pytest.mark.parametrize(
    ("story", "gpus", "held", "want"),
    [
        ("the whole rest is of the only one", 3, [5], [3]),
        ("in proportion", 6, [1, 1], [3, 3]),
        ("whole GPUs, the largest part that is left over first", 2, [5, 1], [2, 0]),
        ("of equal parts the first by uid", 1, [1, 1, 1], [1, 0, 0]),
        ("nothing is left", 0, [4, 4], [0, 0]),
        ("nobody is there", 8, [], []),
    ],
)
def test_whole_gpus_are_divided_by_what_is_held(story: str, gpus: int, held: list[int], want: list[int]) -> None:
    pods = [pod(str(index), each) for index, each in enumerate(held)]
    assert [part for _, part in divided(gpus, reversed(pods))] == want, story


STORIES: list[tuple[str, list[Holder], list[tuple[str | None, int, int, int]]]] = [
    ("nobody ever held it", [], [(None, 8, 0, 9000)]),
    ("the one that runs pays", [pod("a", 5)], [("a", 3, 0, 9000)]),
    ("before it came nobody did", [pod("a", 5, 100)], [(None, 8, 0, 100), ("a", 3, 100, 9000)]),
    ("the node's last pays for the release of it, for an hour", [pod("a", 5, 0, 1000)],
     [("a", 3, 0, 1000), ("a", 8, 1000, 4600), (None, 8, 4600, 9000)]),
    ("who stays pays for what others leave", [pod("a", 4), pod("b", 2, 0, 1000)],
     [("a", 1, 0, 1000), ("b", 1, 0, 1000), ("a", 4, 1000, 9000)]),
    ("a GPU that is taken again is no longer owed for", [pod("a", 8, 0, 1000), pod("b", 8, 1500)],
     [("a", 8, 1000, 1500)]),
    ("two that went at once owe together", [pod("a", 4, 0, 8000), pod("b", 4, 0, 8000)],
     [("a", 4, 8000, 9000), ("b", 4, 8000, 9000)]),
    ("one that went half an hour before still owes", [pod("a", 8, -3000, -1800)],
     [("a", 8, 0, 1800), (None, 8, 1800, 9000)]),
    ("one whose service changed owes as what it is by then",
     [pod("a", 8, 0, 1000), pod("a", 8, 1000, 8000, CODE)], [("a", 8, 8000, 9000)]),
    ("what never ran owes nothing", [pod("a", 8, 100, 100)], [(None, 8, 0, 9000)]),
]  # fmt: skip


@pytest.mark.parametrize(("story", "pods", "want"), STORIES, ids=[story for story, *_ in STORIES])
def test_a_node_of_eight(story: str, pods: list[Holder], want: list[tuple[str | None, int, int, int]]) -> None:
    del story
    found: list[tuple[str | None, int, int, int]] = []
    for share in shares(8, pods, 0, 9000):
        before = next((item for item in found if (item[:2], item[3]) == ((share.uid, share.gpus), share.begin_s)), None)
        if before is not None:
            found.remove(before)
        found.append((share.uid, share.gpus, share.begin_s if before is None else before[2], share.end_s))
    assert sorted(found, key=str) == sorted(want, key=str)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5000, 4000), st.integers(0, 3000), st.integers(1, 3)), max_size=5),
    st.integers(0, 3000),
    st.integers(1, 3000),
)
def test_all_shares_and_what_is_held_are_the_node(
    lives: list[tuple[int, int, int]], begin_s: int, length_s: int
) -> None:
    """As a clerk finds who looks at each second, and whatever the span is cut into."""
    pods = [pod(str(index), gpus, begin, begin + last) for index, (begin, last, gpus) in enumerate(lives)]
    end_s = begin_s + length_s
    paid: dict[tuple[int, str | None], int] = defaultdict(int)
    cut = begin_s + length_s // 2
    for share in (*shares(8, pods, begin_s, cut), *shares(8, pods, cut, end_s)):
        for second in range(share.begin_s, share.end_s, 1):
            paid[second, share.uid] += share.gpus
    for second in range(begin_s, end_s, 7):
        here = [each for each in pods if each.begin_s <= second < (each.end_s or 0)]
        idle = max(0, 8 - sum(each.gpus for each in here))
        found = {uid: gpus for (at_s, uid), gpus in paid.items() if at_s == second and gpus}
        assert sum(found.values()) == idle
        ran = [each.end_s for each in pods if each.begin_s < (each.end_s or 0) <= second]
        owes = not here and bool(ran) and second < max(each or 0 for each in ran) + OWED_S
        assert (None in found) == (idle > 0 and not here and not owes)
        for each in here:
            exact = idle * each.gpus / sum(other.gpus for other in here)
            assert abs(found.get(each.uid, 0) - exact) < 1
