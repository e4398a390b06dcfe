"""What came and went while no operator ran: what Prometheus has of it, and what becomes of it in the ledger."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebbtide.controller.metering import Metering
from ebbtide.errors import RetryableError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Payer
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Billing, Price, TargetRef, Tariff
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Held
from ebbtide.observe.past import LONGEST_S, Past, ask
from ebbtide.observe.past_nodes import Place
from ebbtide.observe.prometheus import Labels, Point, Sample
from ebbtide.record.metrics import Metrics
from tests.shell import world

T0 = 1_800_000_000
HOLE = (T0, T0 + 1800)
PLACES = {
    "n1": Place("uid-n1", "h100", "nvidia.com/gpu", T0 - 9000.0),
    "n2": Place("uid-n2", "amd", "amd.com/gpu", T0 - 9000.0),
    "back": Place("uid-back", "h100", "nvidia.com/gpu", T0 + 700.0),
    "mine": Place("uid-mine", "", "", T0 - 9000.0),
}


def pool(name: str, resource: str, billing: Billing = Billing.POD) -> Any:
    spec = world.snapshot().pools[0].spec
    labels = (("example.com/gpuType", name),)
    return msgspec.structs.replace(spec, name=name, resource=resource, billing=billing, node_selector=labels)


POOLS = [pool("h100", "nvidia.com/gpu"), pool("amd", "amd.com/gpu")]
BY_NODE = [pool("h100", "nvidia.com/gpu", Billing.NODE), pool("amd", "amd.com/gpu")]


def service(name: str, target: str, kind: str = "Deployment") -> Any:
    spec = world.service_spec(f"team/{name}")
    variant = msgspec.structs.replace(spec.variants[0], target=TargetRef("apps/v1", kind, target))
    return msgspec.structs.replace(spec, variants=(variant,))


SERVICES = [service("chat", "chat"), service("long", "chat-long"), service("sets", "sets", "StatefulSet")]


class Fake:
    """A Prometheus that answers with these rows, by what is asked for."""

    def __init__(self, **rows: list[tuple[Labels, float]]) -> None:
        self.rows, self.asked, self.error = rows, dict[str, str](), ""

    async def query(self, text: str, at_s: float, consume: Any) -> None:
        if self.error:
            raise RetryableError(self.error)
        what = (
            "nodes" if "kube_node_status_allocatable" in text
            else "there" if "kube_node_created" in text
            else "pool" if "kube_node_labels" in text
            else "bound" if "kube_pod_status_scheduled_time" in text
            else "finished" if "kube_pod_completion_time" in text
            else "first" if "min_over_time" in text
            else "last" if "timestamp(" in text
            else "gpus"
        )  # fmt: skip
        self.asked[what] = text
        assert at_s == HOLE[1]
        consume([Sample(labels, Point(at_s, str(value))) for labels, value in self.rows.get(what, [])])


def labels(uid: str, pod: str = "chat-7d9f8b6c5-x2x7p", node: str = "n1", resource: str = "nvidia_com_gpu") -> Labels:
    return Labels(namespace="team", pod=pod, node=node, slot=uid, engine=resource)


async def test_a_pod_is_told_by_its_requests_its_binding_and_when_it_was_seen_last() -> None:
    prometheus = Fake(
        gpus=[(labels("a"), 4.0)],
        bound=[(Labels(slot="a"), T0 + 300.0), (Labels(slot="of no GPUs"), T0 + 1.0)],
        first=[(labels("a"), T0 + 310.0)],
        last=[(labels("a"), T0 + 1170.0)],
    )
    found = await ask(prometheus, 'cluster="prod"', HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    payer = Payer("h100", "team", "chat", "h100", "llama-3-8b")
    assert found == Past(*HOLE, (Holding("a", payer, 4, T0 + 300.0, T0 + 1230.0, "uid-n1"),))
    assert len(prometheus.asked) == 8 and all('cluster="prod"' in text for text in prometheus.asked.values())
    assert 'resource=~"amd_com_gpu|nvidia_com_gpu"' in prometheus.asked["gpus"]
    assert "[1800s]" in prometheus.asked["gpus"] and "[1800s:3s]" in prometheus.asked["last"]


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ({"last": 1170}, (0, 1230)),  # there before the hole, as far as is known
        ({"first": 60, "last": 1170}, (60, 1230)),
        ({"first": 60, "last": 1170, "finished": 900}, (60, 901)),  # it says in which second
        ({"bound": 100, "last": 1800}, (100, 1800)),
        ({"bound": 100}, (100, 163)),  # so short that it was there between two looks
        ({"bound": 100, "finished": 90}, (100, 100)),
    ],
)
async def test_from_when_to_when(times: dict[str, int], want: tuple[int, int]) -> None:
    rows = {what: [(labels("a"), float(T0 + second))] for what, second in times.items()}
    found = await ask(Fake(gpus=[(labels("a"), 1.0)], **rows), "", HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    (item,) = found.holdings
    assert (item.begin_s - T0, (item.end_s or 0) - T0) == want


@pytest.mark.parametrize(
    ("pod", "service_name"),
    [
        ("chat-7d9f8b6c5-x2x7p", "chat"),
        ("chat-long-7d9f8b6c5-x2x7p", "long"),
        ("chat-long-x2x7p", "chat"),  # a ReplicaSet of chat whose hash is "long"
        ("chat", ""),
        ("chatter-7d9f8b6c5-x2x7p", ""),
        ("sets-0", "sets"),
        ("sets-0-3", "sets"),
        ("sets-7d9f8b6c5-x2x7p", ""),
    ],
)
async def test_whose_a_pod_was_its_name_tells(pod: str, service_name: str) -> None:
    found = await ask(Fake(gpus=[(labels("a", pod), 1.0)]), "", HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    assert [(item.payer.namespace, item.payer.service) for item in found.holdings] == [("team", service_name)]


async def test_what_cannot_be_told_is_said() -> None:
    rows = [
        (labels("a"), 1.0),
        (labels("b", node="gone"), 1.0),
        (labels("c", node="n2"), 1.0),  # asks for NVIDIA's on a node of AMD's pool
        (labels("d", node="n2", resource="amd_com_gpu"), 8.0),
        (labels("", node="n1"), 1.0),
    ]
    found = await ask(Fake(gpus=rows), "", HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    assert [(item.uid, item.gpus, item.payer.pool) for item in found.holdings] == [("a", 1, "h100"), ("d", 8, "amd")]
    assert found.why == "2 pods of nodes of no pool, or of which none is known, are not counted"
    long = (T0 - 3 * LONGEST_S, HOLE[1])
    longer = await ask(Fake(gpus=rows[:1]), "", long, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    assert (longer.from_s, longer.why) == (long[0], "what ran more than a day before is not asked for")
    assert (await ask(None, "", HOLE, PLACES, SERVICES, POOLS)).why == "no Prometheus is set that could be asked"
    nothing = await ask(Fake(), "", HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    assert "by which kube-state-metrics tells GPUs" in nothing.why and not nothing.failed
    silent = Fake()
    silent.error = "no answer within 8 s"
    failed = await ask(silent, "", HOLE, PLACES, SERVICES, POOLS)  # type: ignore[arg-type]
    assert (failed.why, failed.failed) == ("Prometheus could not be asked: no answer within 8 s", True)


def there(name: str, created: int, last: int) -> tuple[Labels, float]:
    return Labels(node=name, slot=str(T0 + created)), float(T0 + last)


def sized(name: str, gpus: int = 8, resource: str = "nvidia_com_gpu") -> tuple[Labels, float]:
    return Labels(node=name, engine=resource), float(gpus)


def of_pool(name: str, pool_name: str = "h100") -> tuple[Labels, float]:
    return Labels(node=name, engine=pool_name), 1.0


def spans(found: Past) -> dict[str, tuple[int, int, int, str]]:
    return {
        item.uid: (item.gpus, int(item.begin_s - T0), int((item.end_s or 0) - T0), item.payer.pool)
        for item in found.holdings
        if item.is_node
    }


async def test_a_node_is_told_by_its_name_and_creation_its_gpus_and_its_labels() -> None:
    prometheus = Fake(
        gpus=[(labels("a", node="new"), 2.0), (labels("b", node="n1"), 1.0)],
        bound=[(Labels(slot="a"), T0 + 400.0), (Labels(slot="b"), T0 - 500.0)],
        last=[(labels("a", node="new"), T0 + 900.0)],
        nodes=[sized("new"), sized("n1"), sized("back"), sized("old", 4), sized("cpu", 0), sized("mine")],
        there=[
            there("new", 300, 1140),
            there("n1", -9000, 1800),
            there("back", -20_000, 60),  # the one before the one that is there now
            there("back", 700, 1800),
            there("old", -7000, 600),
            there("cpu", 0, 900),
            there("mine", -9000, 1800),
        ],
        pool=[of_pool("new"), of_pool("new", "spot-of-later-name"), of_pool("back")],
    )
    found = await ask(prometheus, 'cluster="prod"', HOLE, PLACES, SERVICES, BY_NODE)  # type: ignore[arg-type]
    by_begin = {begin_s: each for each in spans(found).values() for begin_s in [each[1]]}
    assert by_begin == {
        300: (8, 300, 1200, "h100"),
        -20_000: (8, -20_000, 120, "h100"),
        -7000: (4, -7000, 660, ""),  # nobody tells its labels
    }
    new = next(uid for uid, each in spans(found).items() if each[1] == 300)
    older = next(uid for uid, each in spans(found).items() if each[1] == -20_000)
    assert {item.uid: item.node for item in found.holdings if not item.is_node} == {"a": new, "b": "uid-n1"}
    assert len({new, older, "uid-n1"}) == 3 and max(map(len, spans(found))) <= 80, "as long as the ledger's uids"
    assert found.why == ""
    assert 'label_example_com_gpu_type="h100", cluster="prod"' in prometheus.asked["pool"]
    assert 'cluster="prod"' in prometheus.asked["nodes"] and 'cluster="prod"' in prometheus.asked["there"]


async def test_a_pod_was_on_the_node_of_that_name_that_was_there_when_it_was_bound() -> None:
    rows = {
        "gpus": [(labels("before", node="back"), 1.0), (labels("after", node="back"), 1.0)],
        "bound": [(Labels(slot="before"), T0 + 50.0), (Labels(slot="after"), T0 + 750.0)],
        "there": [there("back", -20_000, 690), there("back", 700, 1800)],
        "nodes": [sized("back")],
    }
    found = await ask(Fake(**rows), "", HOLE, PLACES, SERVICES, BY_NODE)  # type: ignore[arg-type]
    (older,) = spans(found)
    assert {item.uid: item.node for item in found.holdings if not item.is_node} == {
        "before": older,
        "after": "uid-back",
    }
    assert spans(found)[older] == (8, -20_000, 700, "h100"), "in the pool of the node that has its name now, until then"


async def test_that_nothing_tells_nodes_is_said_where_they_are_paid_for() -> None:
    rows = [(labels("a"), 1.0)]
    paid = await ask(Fake(gpus=rows), "", HOLE, PLACES, SERVICES, BY_NODE)  # type: ignore[arg-type]
    assert paid.why == "Prometheus has no kube_node_created of that time, by which kube-state-metrics tells nodes"
    assert (await ask(Fake(gpus=rows), "", HOLE, PLACES, SERVICES, POOLS)).why == ""  # type: ignore[arg-type]


CHAT = Payer("h100", "team", "chat")


def at(second: int) -> Snapshot:
    shown = world.snapshot()
    spec = msgspec.structs.replace(shown.pools[0].spec, price=Price("USD", Tariff(Decimal("3.60"))))
    pools = (msgspec.structs.replace(shown.pools[0], spec=spec),)
    return msgspec.structs.replace(shown, taken_at=float(T0 + second), pools=pools)


def holding(uid: str, begin: int = -600, end: int | None = None) -> Holding:
    return Holding(uid, CHAT, 1, float(T0 + begin), None if end is None else float(T0 + end), "n")


def seen(*uids: str) -> Held:
    return Held(tuple(holding(uid) for uid in uids), {}, True)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def restarted(where: Path, watching_since: float = T0 + 1800.0) -> Metering:
    """Nobody watched from T0 on; `b` and `c` have gone meanwhile."""
    before = Metering(where, Metrics())
    await before.count(at(-600), seen("a", "b", "c"))
    await before.count(at(0), seen("a", "b", "c"))
    after = Metering(where, Metrics(), watching_since=lambda: watching_since)
    await after.count(at(1810), seen("a"))
    return after


async def test_a_hole_is_from_what_was_written_last_to_when_somebody_watched_again(where: Path) -> None:
    assert (await restarted(where)).hole == HOLE


async def test_who_watched_before_it_led_has_no_hole(where: Path) -> None:
    assert (await restarted(where, T0 - 300.0)).hole is None


async def test_a_ledger_that_is_new_has_none_either(where: Path) -> None:
    metering = Metering(where, Metrics())
    await metering.count(at(0), seen("a"))
    assert metering.hole is None


async def test_what_is_found_is_counted_once_and_marked(where: Path) -> None:
    metering = await restarted(where)
    past = Past(*HOLE, (holding("a", -600, 1800), holding("b", -600, 600), holding("new", 300, 900)))
    for _ in range(2):  # a second answer changes nothing
        metering.take(past)
        await metering.count(at(1820), seen("a"))
    await metering.count(at(3600), seen("a"))
    ledger = Ledger(where)
    found = {item.uid: (item.begin_s - T0, item.end_s, item.estimated) for item in ledger.lifetimes(0, T0 + 3600)}
    assert found == {
        "a": (-600, None, False),
        "b": (-600, T0 + 600, True),  # nearer than "by the time that somebody watched again"
        "c": (-600, T0 + 1810, True),  # of which Prometheus has nothing
        "new": (300, T0 + 900, True),
    }
    rows = ledger.added_up(T0, T0 + 3600)
    assert sum(row.gpu_seconds for row in rows) == 3600 + 600 + 1810 + 600
    assert sum(row.estimated_s for row in rows) == 600 + 1810 + 600
    (hole,) = ledger.holes(*HOLE)
    assert hole.why == (
        "no operator ran, and 1 pods and 0 nodes that came and went, and the ends of 1, are as Prometheus has them"
    )


async def test_a_hole_that_cannot_be_filled_is_reported(where: Path) -> None:
    metering = await restarted(where)
    metering.take(Past(*HOLE, why="no Prometheus is set that could be asked"))
    await metering.count(at(1820), seen("a"))
    (hole,) = Ledger(where).holes(*HOLE)
    assert hole.why.endswith("what came and went may be missing: no Prometheus is set that could be asked")
    assert not metering.filled


async def test_a_hole_of_which_all_is_known_is_none(where: Path) -> None:
    metering = await restarted(where)
    metering.take(Past(*HOLE, (holding("a", -600, 1800),)))
    await metering.count(at(1820), seen("a"))
    assert Ledger(where).holes(*HOLE) == ()


async def test_what_was_found_is_in_hours_that_were_rolled_up_before(where: Path) -> None:
    metering = await restarted(where)
    await metering.count(at(5 * 3600), seen("a"))
    before = Ledger(where).rolled_s
    metering.take(Past(*HOLE, (holding("new", 300, 900),)))
    await metering.count(at(5 * 3600 + 10), seen("a"))
    ledger = Ledger(where)
    assert before > T0 + 3600 and metering.filled
    assert sum(row.gpu_seconds for row in ledger.rows(T0, T0 + 3600)) == 3600 + 2 * 1810 + 600


def node(uid: str, begin: int, end: int | None, pool_name: str = "h100", gpus: int = 8) -> Holding:
    times = float(T0 + begin), None if end is None else float(T0 + end)
    return Holding(uid, Payer(pool_name), gpus, *times, "", is_node=True)


def pod(uid: str, on: str, begin: int, end: int | None = None) -> Holding:
    return msgspec.structs.replace(holding(uid, begin, end), node=on)


async def restarted_by_node(where: Path, stays: tuple[Holding, ...], gone: tuple[Holding, ...]) -> Metering:
    """Nobody watched from T0 on; of the pool nodes are billed, and `gone` are not there any more."""

    def moment(second: int) -> Snapshot:
        shown = at(second)
        spec = msgspec.structs.replace(shown.pools[0].spec, billing=Billing.NODE)
        return msgspec.structs.replace(shown, pools=(msgspec.structs.replace(shown.pools[0], spec=spec),))

    before = Metering(where, Metrics())
    await before.count(moment(-9000), Held((), {}, True))
    await before.count(moment(0), Held((*stays, *gone), {}, True))
    after = Metering(where, Metrics(), watching_since=lambda: T0 + 1800.0)
    await after.count(moment(1810), Held(stays, {}, True))
    return after


async def test_nodes_that_nobody_saw_are_counted_and_those_that_the_ledger_knows_end_sooner(where: Path) -> None:
    stays = (node("uid-n1", -8000, None),)
    gone = (
        node("uid-x", -7000, None),
        node("uid-y", -7000, None),  # in the same second as the other
        pod("p", "uid-y", -600),
        node("uid-z", -6000, None),
    )
    metering = await restarted_by_node(where, stays, gone)
    past = Past(
        *HOLE,
        (
            node("seen-x", -7000, 300),
            node("seen-y", -7000, 900),
            pod("p", "seen-y", -600, 600),
            node("seen-z", -6000, 1200, ""),  # its pool is the ledger's
            node("seen-new", 100, 1000),
            pod("q", "seen-new", 200, 800),
            node("seen-odd", 100, 1000, ""),
            node("seen-moved", -5000, 1000),  # was in another pool, so the ledger has it from another moment on
        ),
    )
    metering.take(past)
    await metering.count(at(1820), Held(stays, {}, True))
    ledger = Ledger(where)
    (hole,) = ledger.holes(*HOLE)
    assert "1 pods and 1 nodes that came and went, and the ends of 4, are as Prometheus has them" in hole.why
    assert "1 nodes that came and went are not counted, for no pool is known of them" in hole.why
    metering.take(past)
    await metering.count(at(1830), Held(stays, {}, True))
    assert not metering.filled, "a second answer changes nothing"
    lives = {item.uid: item for item in ledger.lifetimes(0, T0 + 1820)}
    assert {uid: (item.begin_s - T0, (item.end_s or 0) - T0) for uid, item in lives.items() if item.end_s} == {
        "uid-x": (-7000, 300),
        "uid-y": (-7000, 900),
        "p": (-600, 600),
        "uid-z": (-6000, 1200),
        "seen-new": (100, 1000),
        "q": (200, 800),
    }
    assert all(item.estimated for item in lives.values() if item.end_s)
    assert (lives["seen-new"].is_node, lives["q"].node, lives["p"].node) == (True, "seen-new", "uid-y")
    idle = {row.payer.pool: row.gpu_seconds for row in ledger.added_up(T0, T0 + 1800) if row.idle}
    held_s = 8 * 1800 + 8 * 300 + 8 * 900 - 600 + 8 * 1200 + 8 * 900 - 600
    assert idle == {"h100": held_s}
    ledger.close()
