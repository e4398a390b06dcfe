"""Pods that came and went while no operator ran: what Prometheus has of them, and what becomes of it in the ledger."""

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
from ebbtide.model.spec import Price, TargetRef, Tariff
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.holdings import Held
from ebbtide.observe.past import LONGEST_S, Past, Place, ask
from ebbtide.observe.prometheus import Labels, Point, Sample
from ebbtide.record.metrics import Metrics
from tests.shell import world

T0 = 1_800_000_000
HOLE = (T0, T0 + 1800)
PLACES = {"n1": Place("uid-n1", "h100", "nvidia.com/gpu"), "n2": Place("uid-n2", "amd", "amd.com/gpu")}


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
            "bound" if "kube_pod_status_scheduled_time" in text
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
    found = await ask(prometheus, 'cluster="prod"', HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
    payer = Payer("h100", "team", "chat", "h100", "llama-3-8b")
    assert found == Past(*HOLE, (Holding("a", payer, 4, T0 + 300.0, T0 + 1230.0, "uid-n1"),))
    assert len(prometheus.asked) == 5 and all('cluster="prod"' in text for text in prometheus.asked.values())
    assert 'resource=~"amd_com_gpu|nvidia_com_gpu"' in prometheus.asked["gpus"]
    assert "[1800s]" in prometheus.asked["gpus"] and "[1800s:3s]" in prometheus.asked["last"]


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ({"last": 1170}, (0, 1230)),  # there before the hole, as far as is known
        ({"first": 60, "last": 1170}, (60, 1230)),
        ({"first": 60, "last": 1170, "finished": 900}, (60, 900)),
        ({"bound": 100, "last": 1800}, (100, 1800)),
        ({"bound": 100}, (100, 163)),  # so short that it was there between two looks
        ({"bound": 100, "finished": 90}, (100, 100)),
    ],
)
async def test_from_when_to_when(times: dict[str, int], want: tuple[int, int]) -> None:
    rows = {what: [(labels("a"), float(T0 + second))] for what, second in times.items()}
    found = await ask(Fake(gpus=[(labels("a"), 1.0)], **rows), "", HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
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
    found = await ask(Fake(gpus=[(labels("a", pod), 1.0)]), "", HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
    assert [(item.payer.namespace, item.payer.service) for item in found.holdings] == [("team", service_name)]


async def test_what_cannot_be_told_is_said() -> None:
    rows = [
        (labels("a"), 1.0),
        (labels("b", node="gone"), 1.0),
        (labels("c", node="n2"), 1.0),  # asks for NVIDIA's on a node of AMD's pool
        (labels("d", node="n2", resource="amd_com_gpu"), 8.0),
        (labels("", node="n1"), 1.0),
    ]
    found = await ask(Fake(gpus=rows), "", HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
    assert [(item.uid, item.gpus, item.payer.pool) for item in found.holdings] == [("a", 1, "h100"), ("d", 8, "amd")]
    assert found.why == "2 pods of nodes that are gone since, or of no pool, are not counted"
    long = (T0 - 3 * LONGEST_S, HOLE[1])
    longer = await ask(Fake(gpus=rows[:1]), "", long, PLACES, SERVICES)  # type: ignore[arg-type]
    assert (longer.from_s, longer.why) == (long[0], "what ran more than a day before is not asked for")
    assert (await ask(None, "", HOLE, PLACES, SERVICES)).why == "no Prometheus is set that could be asked"
    nothing = await ask(Fake(), "", HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
    assert "by which kube-state-metrics tells GPUs" in nothing.why and not nothing.failed
    silent = Fake()
    silent.error = "no answer within 8 s"
    failed = await ask(silent, "", HOLE, PLACES, SERVICES)  # type: ignore[arg-type]
    assert (failed.why, failed.failed) == ("Prometheus could not be asked: no answer within 8 s", True)


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
    assert hole.why == "no operator ran, and 1 pods that came and went, and the ends of 1, are as Prometheus has them"


async def test_a_hole_that_cannot_be_filled_is_reported(where: Path) -> None:
    metering = await restarted(where)
    metering.take(Past(*HOLE, why="no Prometheus is set that could be asked"))
    await metering.count(at(1820), seen("a"))
    (hole,) = Ledger(where).holes(*HOLE)
    assert hole.why.endswith("pods that came and went may be missing: no Prometheus is set that could be asked")
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
