"""Killed at 950 random writes, the operator loses no money and counts none twice.

The other kills, of a real process on a real control plane, are in tests/cluster/scenarios/test_kills.py.
"""

import contextlib
import math
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ebbtide.clock import parse_rfc3339
from ebbtide.errors import ConflictError, EbbtideError, RetryableError
from ebbtide.ledger.store import Ledger
from ebbtide.model.spec import Floor, PolicyScope
from tests import clerk
from tests.core.purse import policy
from tests.ledger import postgres
from tests.shell.mortal import NAMESPACE, Cluster, Deployment, Fate, Operator, Pod, ask_postgres, mortal, notes

MIDNIGHT = 1_800_057_600
RESERVATION = "/apis/ebbtide.dev/v1alpha1/costpolicies/cap/status"
SCALE = "/apis/apps/v1/namespaces/ml/deployments/{}/scale"
DAY_S = 86_400
DAYS = (MIDNIGHT - DAY_S, MIDNIGHT)
NIGHT_S = range(MIDNIGHT - 3600, MIDNIGHT + 3600)  # its price is another
RESERVE_S = 600
KILLS = 50  # a story
STORIES = [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.slow) for seed in range(19)]
# billed by node: (seed, on PostgreSQL)
NODE_STORIES = [
    pytest.param(100, False),
    *(pytest.param(seed, seed < 104, marks=pytest.mark.slow) for seed in (101, 102, 103, 104, 105)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a process that dies takes nothing from the kernel, and nothing waits."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made)


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fate]:
    with mortal(monkeypatch) as found:
        yield found


@pytest.fixture
def postgresql() -> Iterator[str]:
    found = postgres.binaries()
    if found is None:
        pytest.skip("no PostgreSQL on this machine: install the package postgresql to test against it")
    with postgres.running(found) as url:
        yield url


class Story:
    """Kills, outages, evictions, loads and prices, drawn from a seed."""

    def __init__(self, seed: int, node_gpus: int = 0, ledger: str = "") -> None:
        self.draw = Random(seed)
        services = [Deployment("chat", 60.0, priority=200), Deployment("low", 45.0, priority=1)]
        policies = [
            policy("cap", per_hour="24", per_day="20", outage_reserve_s=float(RESERVE_S), floor=Floor.ALLOW_ZERO),
            policy(
                "all",
                per_day="1000",
                scope=PolicyScope.ALL_GPU_PODS,
                namespaces=(NAMESPACE,),
                floor=Floor.ALLOW_ZERO,
            ),
        ]
        if node_gpus:
            policies.append(policy("nodes", per_day="5000", scope=PolicyScope.ALL_GPU_PODS, floor=Floor.ALLOW_ZERO))
        self.cluster = Cluster(MIDNIGHT - 5000, services, policies, node_gpus=node_gpus, ledger=ledger)
        self.cluster.on_write = self.check_write
        self.raises = 0
        self.cost: dict[tuple[str, int], Decimal] = defaultdict(Decimal)  # by pod and day, up to `clerk_s`
        self.clerk_s = self.cluster.now_s

    def happens(self) -> None:
        """What the cluster does beside the operator."""
        draw, cluster = self.draw, self.cluster
        if draw.random() < 0.15:
            draw.choice(cluster.services).load = draw.choice((1.0, 30.0, 60.0, 90.0))
        if draw.random() < 0.15:
            cluster.evict(draw.choice(("chat", "low")))
        if draw.random() < 0.2:
            cluster.foreign(draw.choice((1, 2)), draw.uniform(3.0, 300.0), draw.choice((0.0, 200.0)))
        if draw.random() < 0.03:
            cluster.base = draw.choice((Decimal("3.00"), Decimal("2.40"), Decimal("3.30")))
        if cluster.node_gpus and draw.random() < 0.04:
            cluster.node_comes(cluster.now_s)  # for nobody

    def away(self, for_s: int) -> None:
        """Nobody watches."""
        while for_s > 0:
            step_s = min(for_s, self.draw.randrange(1, 40))
            self.cluster.advance(step_s)
            self.happens()
            for_s -= step_s

    def check_spent(self, operator: Operator, since_s: int) -> None:
        """After each cycle no less is enforced than what ran has cost, if it was ever shown to a count."""
        cluster, until_s = self.cluster, self.cluster.now_s
        self.clerk_s = max(self.clerk_s, since_s)
        for day_s in DAYS:
            from_s, to_s = max(day_s, self.clerk_s), min(day_s + DAY_S, until_s)
            for pod in cluster.things if from_s < to_s else ():
                ran = pod.gpus, pod.bound_s, pod.end_s
                self.cost[pod.uid, day_s] += clerk.cost([ran], lambda at_s: price(cluster, at_s), from_s, to_s)
        self.clerk_s = until_s
        known = {uid for count in cluster.counts for uid in (*count.runs, *count.ended)}
        for name, accounts in operator.spent.items():
            for day_s in DAYS:
                spent = next((item.spent for item in accounts if item.start_s == day_s), None)
                paid = [pod for pod in paid_by(cluster, name) if pod.uid in known]
                truth = sum((self.cost[pod.uid, day_s] for pod in paid), Decimal(0))
                assert spent is None or spent > truth - Decimal("1e-9"), (name, day_s - MIDNIGHT, spent, truth)
                assert name != "cap" or truth <= 20, "the ceiling holds"

    def check_write(self, path: str, body: Any) -> None:
        """A raise is within what the policy's status says to be committed, and that within the ceilings."""
        cluster = self.cluster
        if not path.endswith("/scale"):
            return
        name = path.split("/")[-2]
        replicas = {item.name: item.replicas for item in cluster.services}
        if body["spec"]["replicas"] <= replicas[name]:
            return
        self.raises += 1
        replicas[name] = body["spec"]["replicas"]
        status = cluster.statuses["cap"][1]
        assert parse_rfc3339(status["accruedThrough"]) == cluster.now_s, "reserved in this very cycle"
        for item in status["periods"]:
            assert Decimal(item["spent"]) + Decimal(item["committed"]) <= Decimal(item["ceiling"]) + Decimal("0.00001")
        hour = next(item for item in status["periods"] if item["period"] == "Hour")
        runs = sum(max(count, len(cluster.alive(app))) for app, count in replicas.items())
        rate = runs * (Decimal("1.80") if cluster.now_s in NIGHT_S else cluster.base)
        assert rate <= Decimal(hour["spent"]) + Decimal(hour["committed"]) <= 24


def paid_by(cluster: Cluster, name: str) -> list[Pod]:
    """What a policy pays for: services' pods, all pods, or nodes whoever is on them."""
    return cluster.nodes if name == "nodes" else [pod for pod in cluster.pods if pod.app or name == "all"]


def price(cluster: Cluster, at_s: int) -> Decimal:
    """By the clerk: what was edited holds from when it was first counted, and the night has its own."""
    if at_s in NIGHT_S:
        return Decimal("1.80")
    known = [count for count in cluster.counts if count.at_s <= at_s] or cluster.counts[:1]
    return known[-1].base if known else cluster.base


def predicted(cluster: Cluster, pod: Pod, since_s: int) -> tuple[int, int | None, int | None] | None:
    """(begin, end, last seen where the end is estimated) in the ledger; None: nothing of it was ever shown."""
    begin_s, seen_s = max(pod.bound_s, since_s), None
    for count in cluster.counts:
        if pod.uid in count.ended:
            end_s = math.ceil(count.ended[pod.uid])
            return (begin_s, max(end_s, begin_s), None) if seen_s is not None or end_s > begin_s else None
        if pod.uid in count.runs:
            seen_s = count.at_s
        elif seen_s is not None:
            return begin_s, count.at_s, seen_s
    return None if seen_s is None else (begin_s, None, None)


async def tell(story: Story, operator: Operator, folder: Path) -> list[str]:
    """Kill after kill; returns where each was."""
    deaths: list[str] = []

    def each() -> None:
        story.check_spent(operator, int(notes(story.cluster.ledger or folder / "ledger.sqlite")["since"]))
        story.happens()

    while len(deaths) < KILLS:
        dark_s = story.cluster.now_s - operator.acted_s
        # one that dies again and again before it has acted is longer away than any reserve
        dies_at = story.draw.randrange(90) if dark_s < RESERVE_S - 60 else None
        died = await operator.live(8 if dies_at is not None else 1, dies_at, each)
        deaths += [died] if died else []
        dark_s = story.cluster.now_s - operator.acted_s
        story.away(max(1, min(story.draw.choice((1, 5, 20, 60, 240, 480)), RESERVE_S - 30 - dark_s)))
    assert await operator.live(12, None, each) == ""
    return deaths


@pytest.mark.parametrize("seed", STORIES)
async def test_the_bill_is_the_clerks_to_the_cent(
    seed: int, folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await audit(Story(seed), folder, fate, monkeypatch)


@pytest.mark.parametrize(("seed", "on_postgres"), NODE_STORIES)
async def test_the_bill_of_nodes_is_the_clerks_to_the_cent(
    seed: int, on_postgres: bool, request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of four GPUs come for pods or for nobody, are shared, stand idle and go, seen or unseen."""
    url = request.getfixturevalue("postgresql") if on_postgres else ""
    with mortal(monkeypatch) as fate:
        await audit(Story(seed, 4, url), folder, fate, monkeypatch)


async def audit(story: Story, folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 kills, and then everything that the ledger and the accounts say beside what the clerk says."""
    cluster = story.cluster
    where = cluster.ledger or folder / "ledger.sqlite"
    operator = Operator(cluster, folder, fate, monkeypatch)
    deaths = await tell(story, operator, folder)
    assert len(deaths) == KILLS and len(set(deaths)) >= 12, "in many places"
    assert story.raises >= 3

    since_s, until_s = int(notes(where)["since"]), cluster.counts[-1].at_s
    wanted = {pod.uid: predicted(cluster, pod, since_s) for pod in cluster.things}
    assert in_the_ledger(where) == {uid: life for uid, life in wanted.items() if life is not None}

    exact, upper, lower = [], [], []
    for pod in cluster.things:
        life = wanted[pod.uid]
        if life is None:
            continue  # it came and went while nobody counted
        begin_s, end_s, seen_s = life
        if seen_s is None:
            exact.append((pod, (max(pod.bound_s, since_s), pod.end_s)))
        else:
            assert seen_s <= math.ceil(pod.end_s) and pod.end_s <= end_s, "between last seen and first missing"
            upper.append((pod, (begin_s, end_s)))
            lower.append((pod, (begin_s, seen_s)))
    assert len(upper) >= 5 and len(exact) >= 10
    billed = exact + upper
    ends = {node.uid: whole(ran[1]) for node, ran in billed if node.is_node}  # what outlives its node costs nothing
    billed = [(pod, (ran[0], min(ran[1], ends.get(pod.node, math.inf)))) for pod, ran in billed]
    paid = cluster.nodes or cluster.pods

    def at_price(at_s: int) -> Decimal:
        return price(cluster, at_s)

    def cost(held: list[tuple[Pod, tuple[float, float]]]) -> Decimal:
        return clerk.cost([(pod.gpus, *ran) for pod, ran in held], at_price, since_s, until_s)

    ledger = Ledger(where, read_only=True)
    rows = ledger.rows(since_s, until_s)
    ledger.close()
    twice = [part for node, ran in billed if node.is_node for part in booked_twice(node, ran, billed)]
    bill = cost([(pod, ran) for pod, ran in billed if pod in paid])
    total = sum(row.cost for row in rows)
    assert same(total, bill), "of nodes no more than they have, also where an unseen end overlaps with the next holder"
    if cluster.node_gpus:
        assert any(row.idle and row.cost for row in rows), "nodes stood idle"
        assert sum(node.end_s < until_s for node in cluster.nodes) >= 3 and len(cluster.nodes) >= 6, "came and went"
    else:
        assert same(sum(row.price * row.estimated_s for row in rows) / 3600, cost(upper) - cost(lower))
    double = clerk.cost(twice, at_price, MIDNIGHT, until_s)
    nodes, pods = (
        clerk.cost([(pod.gpus, *ran) for pod, ran in billed if pod.is_node is kind], at_price, MIDNIGHT, until_s)
        for kind in (True, False)
    )
    idle = nodes - pods + double
    for name, accounts in operator.spent.items():
        (spent,) = [item.spent for item in accounts if item.start_s == MIDNIGHT]
        bill = clerk.cost(
            [(pod.gpus, *ran) for pod, ran in billed if pod in paid_by(cluster, name)], at_price, MIDNIGHT, until_s
        )
        # where an unseen end overlaps with the next holder, and of nodes a share of what nobody holds
        less, more = (double, double + idle) if cluster.nodes and name != "nodes" else (Decimal(0), double)
        below, above = spent - bill + less > Decimal("-1e-9"), spent - bill - more < Decimal("1e-9")
        assert below and above, ("of the day that the ledger knows from its beginning", name, spent, bill, less, more)


def whole(at_s: float) -> float:
    """The second begun counts."""
    return at_s if math.isinf(at_s) else math.ceil(at_s)


def booked_twice(
    node: Pod, ran: tuple[float, float], billed: list[tuple[Pod, tuple[float, float]]]
) -> Iterator[tuple[int, float, float]]:
    """(GPUs beyond those of the node, begin, end): what nobody saw end may be taken for longer than it was."""
    there = [(pod.gpus, math.floor(begin_s), whole(end_s)) for pod, (begin_s, end_s) in billed if pod.node == node.uid]
    ran = ran[0], whole(ran[1])
    moments = sorted({at_s for _, *life in there for at_s in life} | {*ran})
    for begin_s, end_s in pairwise(moments):
        held = sum(gpus for gpus, from_s, to_s in there if from_s <= begin_s and end_s <= to_s)
        if held > node.gpus and ran[0] <= begin_s and end_s <= ran[1]:
            yield held - node.gpus, begin_s, end_s


def same(one: Decimal, other: Decimal) -> bool:
    """Thirds of a cent have no end."""
    return abs(one - other) < Decimal("1e-20")


def in_the_ledger(where: Path | str) -> dict[str, tuple[int, int | None, int | None]]:
    """What the ledger says of each pod and node, read by hand."""
    query = "SELECT uid, begin_s, end_s, seen_s, estimated, {} FROM lifetime JOIN payer ON payer.id = payer_id"
    if isinstance(where, str):
        found = ask_postgres(where, query.format("body::json ->> 'service'"))
    else:
        with contextlib.closing(sqlite3.dbapi2.connect(f"file:{where}?mode=ro", uri=True)) as connection:
            found = connection.execute(query.format("json_extract(body, '$.service')")).fetchall()
    assert all(uid.startswith(f"{service or ''}-") for uid, *_, service in found), "for whom it ran"
    assert len({uid for uid, *_ in found}) == len(found), "one life each"
    return {uid: (begin_s, end_s, seen_s if estimated else None) for uid, begin_s, end_s, seen_s, estimated, _ in found}


def pressed(replicas: int = 2, load: float = 60.0) -> Cluster:
    """Two services that want more than the ceiling's 8 GPUs."""
    services = [Deployment(name, load, replicas, priority=priority) for name, priority in (("chat", 200), ("low", 1))]
    return Cluster(MIDNIGHT + 7200, services, [policy("cap", per_hour="24", per_day="500", outage_reserve_s=60.0)])


def most_at_once(cluster: Cluster) -> list[int]:
    """Keeps what all replicas come to at each scale write."""
    seen: list[int] = []

    def look(path: str, body: Any) -> None:
        if path.endswith("/scale"):
            name = path.split("/")[-2]
            seen.append(
                sum(body["spec"]["replicas"] if each.name == name else each.replicas for each in cluster.services)
            )

    cluster.on_write = look
    return seen


async def test_a_crash_at_any_point_of_a_raise_raises_no_further_than_the_money(
    folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each write in turn of the cycle in which it raises both; the next one goes on from there."""
    lengths: list[int] = []
    whole = pressed()
    await Operator(whole, folder / "whole", fate, monkeypatch).live(2, None, lambda: lengths.append(len(fate.places)))
    places = fate.places[lengths[0] :]
    assert [place for place in places if "costpolicies" in place or "/scale" in place][0:3:2] == [
        f"PATCH {RESERVATION}",
        f"PATCH {SCALE.format('chat')}",
    ], "reserve, then act"
    for number, place in enumerate(places, lengths[0]):
        cluster = pressed()
        seen = most_at_once(cluster)
        operator = Operator(cluster, folder / str(number), fate, monkeypatch)
        assert await operator.live(2, number) == place
        reserved = {at_s for at_s, path, _ in cluster.writes if path == RESERVATION}
        raised = {at_s for at_s, path, _ in cluster.writes if path.endswith("/scale")}
        assert raised <= reserved, place
        cluster.advance(20)
        await operator.live(3)
        assert max(seen) == 8, f"{place}: all that may be paid for, and no more"
        assert sum(item.replicas for item in cluster.services) == 8, place


async def test_two_hundred_services_that_scale_up_in_one_cycle_stay_under_one_ceiling(
    folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs 1 replica and wants more; the money is for 230. One reservation is written, before all raises."""
    cluster = crowd()
    seen = most_at_once(cluster)
    operator = Operator(cluster, folder, fate, monkeypatch)
    await operator.live(1)
    cluster.writes.clear()
    await operator.live(1)
    writes = [path for _, path, _ in cluster.writes if path == RESERVATION or path.endswith("/scale")]
    assert writes.count(RESERVATION) == 1 and writes[0] == RESERVATION
    assert len(writes) == 1 + 30 and len(set(writes)) == len(writes), "30 raises by one each"
    assert max(seen) == 230
    await operator.live(5)
    assert max(seen) == 230
    hour = cluster.statuses["cap"][1]["periods"][0]
    assert (hour["period"], Decimal(hour["spent"]) + Decimal(hour["committed"])) == ("Hour", Decimal(690))


@pytest.mark.parametrize("share", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.2, 0.8))])
async def test_two_hundred_services_and_a_crash_in_the_middle(
    share: float, folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What some of them were raised by is seen by the next leader, and the rest of the money goes once."""
    lengths: list[int] = []
    await Operator(crowd(), folder / "whole", fate, monkeypatch).live(2, None, lambda: lengths.append(len(fate.places)))
    scales = [number for number, place in enumerate(fate.places) if place.endswith("/scale, done")]
    assert len(scales) == 30
    cluster = crowd()
    seen = most_at_once(cluster)
    operator = Operator(cluster, folder, fate, monkeypatch)
    assert await operator.live(2, scales[int(share * 30)]) == fate.places[-1]
    assert 200 < max(seen) < 230
    cluster.advance(30)
    await operator.live(4)
    assert max(seen) == 230


@pytest.mark.parametrize("error", [ConflictError("modified"), RetryableError("no answer")])
async def test_two_hundred_services_and_a_reservation_that_is_refused(
    error: EbbtideError, folder: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = crowd()
    seen = most_at_once(cluster)
    operator = Operator(cluster, folder, fate, monkeypatch)
    await operator.live(1)
    cluster.refuse = lambda path: error if path == RESERVATION else None
    await operator.live(3)
    assert seen == [], "nothing is raised"
    cluster.refuse = lambda path: None
    await operator.live(3)
    assert max(seen) == 230


def crowd() -> Cluster:
    services = [Deployment(f"s{number:03d}", 30.0) for number in range(200)]
    return Cluster(MIDNIGHT + 7200, services, [policy("cap", per_hour="690", outage_reserve_s=60.0)])
