"""Whose change it was: what the watch shows before, at and after a write of ours."""

import msgspec
import pytest

from ebbtide.model.memory import Memory
from ebbtide.model.plan import ServicePlan
from ebbtide.model.snapshot import Snapshot, WriteReceipt
from tests.builders import NOW, Loop, condition, pods, service, snapshot, spec, variant, variant_spec

WROTE_AT = NOW + 12.0  # between the second look and the third, which follows 8 s later


def ours(replicas: int = 6, version: str = "120", *, done: bool = True, uid: str = "uid-h100") -> WriteReceipt:
    return WriteReceipt(uid, replicas, WROTE_AT, done, version)


def shows(replicas: int, version: str, receipt: WriteReceipt | None) -> Snapshot:
    state = variant("h100", pods(replicas, 5.0), last_write=receipt, resource_version=version)
    return snapshot(service(state, spec(variants=[variant_spec()], min_replicas=6)))


def after_the_write(seen: Snapshot, passed_s: float = 2.0) -> ServicePlan:
    """Four ran, Ebbtide wrote, and this is what the watch shows `passed_s` later."""
    loop = Loop()
    loop.run(shows(4, "117", None), 20)
    loop.now_s = WROTE_AT + passed_s
    return loop.one(seen)


@pytest.mark.parametrize(
    ("story", "replicas", "version", "receipt", "passed_s", "said"),
    [
        ("the watch is behind our write", 4, "119", ours(), 2.0, "Acting"),
        ("also when it is behind for long", 4, "119", ours(), 60.0, "Acting"),
        ("it shows our write", 6, "120", ours(), 2.0, "Acting"),
        ("our write, and pods since", 6, "133", ours(), 2.0, "Acting"),
        ("a person scaled at once after our write", 2, "121", ours(), 1.7, "Drifted"),
        ("a person put back what was before our write", 4, "121", ours(), 1.7, "Drifted"),
        ("versions are compared as numbers", 4, "1000", ours(version="999"), 2.0, "Drifted"),
        ("and not as text", 4, "999", ours(version="1000"), 2.0, "Acting"),
        ("numbers of a restored backup hold nobody for ever", 4, "5", ours(), 700.0, "Drifted"),
        ("no version in the answer: a moment is allowed", 4, "119", ours(version=""), 2.0, "Acting"),
        ("and no longer", 4, "119", ours(version=""), 8.0, "Drifted"),
        ("versions that are no numbers: the same", 4, "b", ours(version="a"), 2.0, "Acting"),
        ("no answer, and it was not written", 4, "119", ours(version="", done=False), 2.0, "Acting"),
        ("no answer, but it was written", 6, "120", ours(version="", done=False), 2.0, "Acting"),
        ("no answer, and a person scaled", 2, "121", ours(version="", done=False), 2.0, "Drifted"),
        ("a write to the one that had this name before", 4, "119", ours(uid="gone"), 2.0, "Acting"),
    ],
)
def test_a_change_is_somebody_elses_when_it_follows_our_write(
    story: str, replicas: int, version: str, receipt: WriteReceipt, passed_s: float, said: str
) -> None:
    decided = after_the_write(shows(replicas, version, receipt), passed_s)
    assert condition(decided, "Acting") == ("True", said), story
    if said == "Drifted":
        assert decided.variants[0].allowed == replicas, f"{story}: respected"


def test_a_late_sign_of_an_unanswered_write_is_no_change_either() -> None:
    loop, receipt = Loop(), ours(version="", done=False)
    loop.run(shows(4, "117", None), 20)
    loop.now_s = WROTE_AT + 2.0
    loop.run(shows(4, "119", receipt), 20)
    assert condition(loop.one(shows(6, "120", receipt)), "Acting") == ("True", "Acting")


def test_a_restart_while_the_watch_is_behind_calls_nobody_a_writer() -> None:
    loop = Loop(Memory(), WROTE_AT + 2.0)
    loop.run(shows(4, "119", ours()))
    assert condition(loop.one(shows(6, "120", ours())), "Acting") == ("True", "Acting")


@pytest.mark.parametrize(
    ("story", "people", "acting"),
    [
        ("who goes further the same way undoes nothing", (8, 12), ("True", "Drifted")),
        ("who goes back does", (4, 5), ("False", "TargetConflict")),
    ],
)
def test_only_what_is_against_our_write_undoes_it(story: str, people: tuple[int, int], acting: tuple[str, str]) -> None:
    """Ours: 4 -> 6; then a person; ours: one more than that; then a person again."""
    loop = Loop()
    loop.run(shows(4, "100", None), 20)
    write, version = 6, 120
    for person in people:
        receipt = WriteReceipt("uid-h100", write, loop.now_s - 2.0, True, str(version))
        loop.one(shows(write, str(version), receipt))
        decided = loop.one(shows(person, str(version + 1), receipt))
        write, version = person + 2, version + 10
    assert condition(decided, "Acting") == acting, story


def test_a_change_at_once_counts_as_a_reversion_of_our_write() -> None:
    loop = Loop()
    loop.run(shows(4, "117", None), 20)
    for turn in range(2):
        receipt = msgspec.structs.replace(ours(version=str(200 + 10 * turn)), at=loop.now_s - 2.0)
        decided = loop.one(shows(4, str(201 + 10 * turn), receipt))
    assert condition(decided, "Acting") == ("False", "TargetConflict")


def test_what_killed_operators_wrote_last_makes_no_rival_of_them() -> None:
    """Each of them remembers its write of 4; its last, of 8, it could not note any more: the next one finds that."""
    loop = Loop()
    loop.run(shows(8, "100", None), 20)
    for turn in range(3):
        version = 110 + 10 * turn
        loop.one(shows(4, str(version), WriteReceipt("uid-h100", 4, loop.now_s - 2.0, True, str(version))))
        decided = loop.one(shows(8, str(version + 1), None))
    assert condition(decided, "Acting") == ("True", "Drifted")
