"""An operator that dies at any of its writes, in a small cluster that goes on without it.

Everything of the operator is real (`Wiring`, the cycle, the plan, the store and the ledger in SQLite files, the
actuator, the policies) but what it looks at and the API server it writes to. Each statement that changes a database,
each commit, and each write to the API server is a place where it can die, before and after. Dying is an exception that
nothing may catch: what is left of the process is thrown away, and the next one starts from what is durable.
"""

import asyncio
import contextlib
import json
import math
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from ebbtide.act.scale import Actuator
from ebbtide.controller import wiring as wired
from ebbtide.controller.cycle import run_cycle
from ebbtide.controller.leadership import AlwaysLeading
from ebbtide.controller.settings import Settings
from ebbtide.errors import ConflictError, EbbtideError, NotFoundError
from ebbtide.kube.client import KubeClient
from ebbtide.model.memory import Memory
from ebbtide.model.money import Payer
from ebbtide.model.snapshot import Account, NodeState, PodPhase, PodState, PoolState, Snapshot, WriteReceipt
from ebbtide.model.spec import Billing, PolicySpec, Price, Provisioning, Tariff, TariffWindow
from ebbtide.money.lifetimes import Holding
from ebbtide.money.prices import price_at
from ebbtide.observe.holdings import Held
from ebbtide.observe.past import Past
from ebbtide.record.metrics import Metrics
from tests import builders
from tests.shell.fake_api import APPS

CYCLE_S, STARTUP_S, EXIT_S, NODE_STAYS_S = 10, 30, 30, 200
POOL, NAMESPACE = "h100", "ml"
T = TypeVar("T")
_LOOKING = ("SELECT", "PRAGMA", "BEGIN")


class Killed(BaseException):
    """SIGKILL: no `except Exception` sees it."""


class Fate:
    """Counts the places where the process could die. It dies at number `at`, and from then on does nothing more."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.places: list[str] = []  # of this life
        self.dead = False
        self.changing = False  # the transaction of the ledger has changed something
        self.connections: list[sqlite3.Connection] = []

    def begin(self, at: int | None) -> None:
        self.at, self.places, self.dead, self.changing = at, [], False, False

    def __call__(self, place: str) -> None:
        if not self.dead:
            self.dead = len(self.places) == self.at
            self.places.append(place)
        if self.dead:
            raise Killed(self.places[-1])

    def bury(self) -> None:
        """What the kernel does: files are closed, and what was not committed is gone."""
        for connection in self.connections:
            _close(connection)
        self.connections = []


def _close(connection: sqlite3.Connection) -> None:
    """A statement that a traceback still holds would keep a transaction open, and the file locked."""
    with contextlib.suppress(sqlite3.ProgrammingError, psycopg.OperationalError):  # closed already
        connection.rollback()
    connection.close()


def _word(statement: str) -> str:
    return " ".join(statement.split()[:3])


def _store_of(fate: Fate) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        """Of the store."""

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            changes = not sql.startswith(_LOOKING)
            if changes:
                fate(f"store {_word(sql)}")
            found = super().execute(sql, parameters)
            if changes and not self.in_transaction:
                fate(f"store {_word(sql)}, done")
            return found

        def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
            fate(f"store {_word(sql)}")
            return super().executemany(sql, parameters)

    return Connection


@contextmanager
def _ledger_of(fate: Fate, patch: pytest.MonkeyPatch) -> Iterator[None]:
    def commit(dialect: DefaultDialect, connection: Any) -> None:
        changing, fate.changing = fate.changing, False
        if changing:
            fate("ledger COMMIT")
        _commit(dialect, connection)
        if changing:
            fate("ledger COMMIT, done")

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(_LOOKING):
            fate.changing = True
            fate(f"ledger {_word(statement)}")

    def opened(connection: sqlite3.Connection, _record: Any) -> None:
        fate.connections.append(connection)

    _commit = DefaultDialect.do_commit
    patch.setattr(DefaultDialect, "do_commit", commit)
    patch.setattr(DefaultDialect, "do_close", lambda _dialect, connection: _close(connection))
    sa.event.listen(sa.Engine, "before_cursor_execute", before)
    sa.event.listen(sa.pool.Pool, "connect", opened)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", before)
        sa.event.remove(sa.pool.Pool, "connect", opened)


@contextmanager
def mortal(patch: pytest.MonkeyPatch) -> Iterator[Fate]:
    """Everything that is written in this process from now on is written by somebody who may die."""
    fate = Fate()
    store, connect = _store_of(fate), sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        fate.connections.append(connect(*arguments, factory=store, **options))
        return fate.connections[-1]

    async def at_once(work: Callable[..., T], *arguments: Any) -> T:
        return work(*arguments)

    patch.setattr(sqlite3, "connect", connected)
    patch.setattr(asyncio, "to_thread", at_once)  # so that a place has the same number each time
    with _ledger_of(fate, patch):
        yield fate
    fate.bury()


@dataclass
class Pod:
    """`end_s`: when it will be gone or finished, once that is known. With `is_node` it is a node, and of no app."""

    uid: str
    app: str
    gpus: int
    bound_s: int
    leaving: bool = False
    end_s: float = math.inf
    stays_s: float = 0.0  # finished, to be seen for so long after its end
    node: str = ""
    is_node: bool = False
    empty_s: float = math.inf  # a node: since when nothing is on it


@dataclass
class Deployment:
    name: str
    load: float
    replicas: int = 1
    least: int = 1
    most: int = 40
    priority: int = 100
    version: int = 1
    write: str = ""

    @property
    def key(self) -> str:
        return f"{NAMESPACE}/{self.name}"


@dataclass
class Count:
    """What a count that was committed had been shown."""

    at_s: int
    runs: frozenset[str]
    ended: dict[str, float]
    base: Decimal


@dataclass
class Cluster:
    """Time, pods, objects. It knows what really ran, and what was shown to whom."""

    now_s: int
    services: list[Deployment]
    policies: list[PolicySpec]
    base: Decimal = Decimal("3.00")
    night: tuple[Decimal, str, float] = (Decimal("1.80"), "0 23 * * *", 2.0)
    pods: list[Pod] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    writes: list[tuple[int, str, Any]] = field(default_factory=list)
    on_write: Callable[[str, Any], None] = lambda path, body: None  # what it fails with is raised by `advance`
    failed: list[AssertionError] = field(default_factory=list)
    refuse: Callable[[str], EbbtideError | None] = lambda path: None
    departed: dict[str, tuple[Pod, float]] = field(default_factory=dict)  # that the living operator saw go
    watched: bool = False
    version: int = 100
    statuses: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    made: int = 0
    ledger: str = ""  # the URL of a PostgreSQL; else it is a file
    node_gpus: int = 0  # of each node of a pool that is billed by node; 0: it is billed by pod
    nodes: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        for item in self.services:
            for _ in range(item.replicas):
                self.pods.append(self._pod(item.name, 1, self.now_s - 4000))

    def _pod(self, app: str, gpus: int, bound_s: int) -> Pod:
        self.made += 1
        pod = Pod(f"{app}-{self.made}", app, gpus, bound_s)
        if self.node_gpus:
            node = self._room(gpus, bound_s)
            # a raise of this second has its node in the next one: what comes at once waits for it too
            pod.node, pod.bound_s = node.uid, max(bound_s, node.bound_s)
        return pod

    def _room(self, gpus: int, bound_s: int) -> Pod:
        """The first node that has it, else a new one."""
        for node in self.nodes:
            held = sum(pod.gpus for pod in self.pods if pod.node == node.uid and pod.end_s > self.now_s)
            if node.end_s == math.inf and held + gpus <= node.gpus:
                return node
        return self.node_comes(bound_s)

    def node_comes(self, at_s: int) -> Pod:
        """Billed from then on, whoever is on it."""
        self.made += 1
        self.nodes.append(Pod(f"-node-{self.made}", "", self.node_gpus, at_s, is_node=True))
        return self.nodes[-1]

    def _nodes_go(self) -> None:
        """A while after the last pod; each a little later than asked for."""
        for node in self.nodes:
            if any(pod.node == node.uid and pod.end_s > self.now_s for pod in self.pods):
                node.empty_s = math.inf
            elif node.end_s == math.inf:
                node.empty_s = min(node.empty_s, self.now_s)
                if self.now_s - node.empty_s >= NODE_STAYS_S:
                    node.end_s = self.now_s + 0.3

    @property
    def things(self) -> list[Pod]:
        """All that is billed."""
        return self.pods + self.nodes

    # --- what happens by itself -------------------------------------------------------------------------------------

    def foreign(self, gpus: int, lasts_s: float, stays_s: float) -> None:
        """Somebody else's pod comes, and ends by itself."""
        pod = self._pod("", gpus, self.now_s)
        pod.end_s, pod.stays_s = self.now_s + lasts_s, stays_s
        self.pods.append(pod)

    def evict(self, app: str) -> None:
        """One of its pods is told to go, and replaced at once."""
        old = next((pod for pod in self.alive(app) if not pod.leaving), None)
        if old is not None:
            old.leaving, old.end_s = True, self.now_s + EXIT_S - 0.6
            self.pods.append(self._pod(app, old.gpus, self.now_s))

    def alive(self, app: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.app == app and pod.end_s > self.now_s]

    def advance(self, for_s: int) -> None:
        if self.failed:
            raise self.failed[0]  # the operator takes it for an answer of the API server
        before_s, self.now_s = self.now_s, self.now_s + for_s
        self._nodes_go()
        for pod in self.things:
            if self.watched and before_s < pod.end_s + pod.stays_s <= self.now_s:
                self.departed[pod.uid] = pod, pod.end_s + pod.stays_s

    def scaled(self, item: Deployment) -> None:
        staying = [pod for pod in self.alive(item.name) if not pod.leaving]
        for pod in staying[item.replicas :]:
            pod.leaving, pod.end_s = True, self.now_s + EXIT_S - 0.6
        for _ in range(item.replicas - len(staying)):
            self.pods.append(self._pod(item.name, 1, self.now_s + 1))

    # --- what a watch shows -----------------------------------------------------------------------------------------

    @property
    def shown(self) -> list[Pod]:
        """Pods that are bound and there, finished ones too, and nodes."""
        return [pod for pod in self.things if pod.bound_s <= self.now_s < pod.end_s + pod.stays_s]

    def pool(self) -> PoolState:
        price, cron, hours = self.night
        tariff = Tariff(self.base, (TariffWindow(cron, "UTC", hours * 3600.0, price),))
        nodes = [self._node_state(node) for node in self.nodes if node.bound_s <= self.now_s < node.end_s]
        state = builders.pool(POOL, nodes=nodes if self.node_gpus else 40)
        spec = msgspec.structs.replace(state.spec, price=Price("USD", tariff))
        if self.node_gpus:
            spec = msgspec.structs.replace(
                spec, billing=Billing.NODE, provisioning=Provisioning.AUTOSCALED, node_lead_time_s=10.0, max_gpus=320
            )
        found = price_at(POOL, spec.price, float(self.now_s))
        return msgspec.structs.replace(
            state,
            spec=spec,
            price_per_gpu_hour=found.per_gpu_hour,
            next_price_change_at=found.next_at,
            next_price_per_gpu_hour=found.next_per_gpu_hour,
        )

    def _node_state(self, node: Pod) -> NodeState:
        held = sum(pod.gpus for pod in self.pods if pod.node == node.uid and pod.bound_s <= self.now_s < pod.end_s)
        return builders.node(node.uid, node.gpus, held, created_at=float(node.bound_s))

    def _pod_state(self, pod: Pod, share: float) -> PodState:
        up = self.now_s - pod.bound_s >= STARTUP_S
        phase = PodPhase.TERMINATING if pod.leaving else PodPhase.READY if up else PodPhase.STARTING
        begun = {"created_at": float(pod.bound_s), "ready_at": float(pod.bound_s + STARTUP_S) if up else None}
        answer = builders.engine(share) if up and not pod.leaving else None
        return builders.pod(pod.uid, answer, phase=phase, node=pod.node or "node-a", **begun)

    def snapshot(self, receipts: Mapping[str, WriteReceipt]) -> Snapshot:
        states = []
        for item in self.services:
            pods = self.alive(item.name)
            ready = sum(self.now_s - pod.bound_s >= STARTUP_S and not pod.leaving for pod in pods)
            variant = builders.variant(
                POOL,
                [self._pod_state(pod, item.load / max(1, ready)) for pod in pods],
                item.replicas,
                last_write=receipts.get(f"{item.key}/{POOL}"),
                termination_grace_s=float(EXIT_S),
            )
            target = msgspec.structs.replace(variant.target, uid=f"uid-{item.name}", resource_version=str(item.version))
            declared = msgspec.structs.replace(
                builders.variant_spec(POOL, POOL, max_replicas=item.most),
                target=msgspec.structs.replace(builders.variant_spec(POOL).target, name=item.name),
            )
            spec = builders.spec(
                item.key,
                [declared],
                priority=item.priority,
                min_replicas=item.least,
                max_replicas=item.most,
                down_delay_s=60.0,
            )
            states.append(builders.service(msgspec.structs.replace(variant, target=target), spec))
        return builders.snapshot(states, [self.pool()], taken_at=float(self.now_s))

    def held(self) -> Held:
        """As `observe.holdings`: whose it was is not known of what has gone or finished."""
        found: dict[str, Holding] = {}
        gone = {uid: at_s for uid, (_, at_s) in self.departed.items()}
        for pod in (*(pod for pod, _ in self.departed.values()), *self.shown):
            finished = pod.end_s if pod.stays_s and pod.end_s <= self.now_s else None
            ours = pod.app if pod.app and pod.uid not in gone else ""
            payer = Payer(POOL, NAMESPACE, ours, POOL if ours else "", "llama-3-8b" if ours else "")
            end_s = finished if finished is not None else gone.get(pod.uid)
            if pod.is_node:
                node = Holding(pod.uid, Payer(POOL), pod.gpus, float(pod.bound_s), end_s, "", is_node=True)
                found[pod.uid] = node
            else:
                found[pod.uid] = Holding(pod.uid, payer, pod.gpus, float(pod.bound_s), end_s, pod.node or "node-a")
        return Held(tuple(found.values()), gone, complete=True)

    def note_count(self, folder: Path, held: Held) -> None:
        """Whether what was counted at this second is durable: the file itself is asked."""
        if self.counts and self.counts[-1].at_s == self.now_s:
            return
        if notes(self.ledger or folder / "ledger.sqlite").get("watermark") == str(self.now_s):
            runs = frozenset(item.uid for item in held.holdings if item.end_s is None)
            ended = {item.uid: item.end_s for item in held.holdings if item.end_s is not None}
            self.counts.append(Count(self.now_s, runs, ended, self.base))

    # --- the API server ---------------------------------------------------------------------------------------------

    def raw_policy(self, name: str) -> Mapping[str, Any] | None:
        version, status = self.statuses.setdefault(name, (self._next(), {}))
        metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1}
        return {"metadata": metadata, "status": status}

    def _next(self) -> int:
        self.version += 1
        return self.version

    def patched(self, path: str, body: Any) -> dict[str, Any]:
        """One write, which is done or refused."""
        refused = self.refuse(path)
        if refused is not None:
            raise refused
        parts = path.split("/")
        wanted, version = body.get("metadata", {}).get("resourceVersion"), 1
        if path.endswith("/scale"):
            item = next(each for each in self.services if each.name == parts[-2])
            _guard(wanted, item.version)
            self._look(path, body)
            item.replicas, item.version = body["spec"]["replicas"], self._next()
            version = item.version
            self.scaled(item)
        elif "costpolicies" in parts:
            _guard(wanted, self.statuses[parts[-2]][0])
            self._look(path, body)
            version = self._next()
            self.statuses[parts[-2]] = version, json.loads(json.dumps(body["status"]))
        self.writes.append((self.now_s, path, body))
        return {"metadata": {"resourceVersion": str(version), "uid": "made"}}

    def _look(self, path: str, body: Any) -> None:
        try:
            self.on_write(path, body)
        except AssertionError as error:
            self.failed.append(error)

    def read(self, path: str) -> dict[str, Any]:
        if path == "/apis/apps/v1":
            return APPS
        name = path.split("/")[-2]
        item = next((each for each in self.services if each.name == name), None)
        if item is None:
            raise NotFoundError(f"{path} not found")
        metadata = {"uid": f"uid-{name}", "resourceVersion": str(item.version)}
        return {"metadata": metadata, "spec": {"replicas": item.replicas}}


def _guard(wanted: str | None, version: int) -> None:
    if wanted is not None and wanted != str(version):
        raise ConflictError(f"the object has been modified: {wanted} is not {version}")


def notes(file: Path | str) -> dict[str, str]:
    """What the ledger's own notes say, read by hand; nothing where it is not there yet."""
    if isinstance(file, str):
        try:
            return dict(ask_postgres(file, "SELECT key, value FROM meta"))
        except psycopg.errors.UndefinedTable:
            return {}
    try:
        with contextlib.closing(sqlite3.dbapi2.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT key, value FROM meta").fetchall())
    except sqlite3.OperationalError:
        return {}


def ask_postgres(url: str, query: str) -> list[tuple[Any, ...]]:
    """By hand, on a connection of its own."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


class _Client(KubeClient):
    """The API server of a cluster; each write is a place to die, before it is done and before its answer is read."""

    def __init__(self, cluster: Cluster, fate: Fate) -> None:
        self._cluster, self._fate = cluster, fate

    @property
    def host(self) -> str:
        return "https://fake"

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> bytes:
        if method == "GET":
            return msgspec.json.encode(self._cluster.read(path))
        self._fate(f"{method} {path}")
        plain = msgspec.json.decode(msgspec.json.encode(body))
        answer = msgspec.json.encode(self._cluster.patched(path, plain))
        self._fate(f"{method} {path}, done")
        return answer


class _Watch:
    """Stands for the Observer of one process."""

    promql_queries, deleting = 0, ()

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.policies = {policy.name: policy for policy in cluster.policies}
        self.raw_policy = cluster.raw_policy
        self.newest = Held((), {}, complete=True)
        self.watching_since_s = cluster.now_s
        cluster.departed, cluster.watched = {}, True

    async def snapshot(self, now_s: float, receipts: Mapping[str, WriteReceipt]) -> Snapshot:
        assert now_s == self._cluster.now_s
        return self._cluster.snapshot(receipts)

    def held(self, _snapshot: Snapshot) -> Held:
        self.newest = self._cluster.held()
        return self.newest

    async def past(self, hole: tuple[int, int], _snapshot: Snapshot) -> Past:
        return Past(*hole)

    def counted(self, held: Held) -> None:
        for uid in held.gone:
            self._cluster.departed.pop(uid, None)

    def may_part(self, _key: str) -> bool:
        return False

    def raw_service(self, _key: str) -> None:
        return None

    raw_pool = raw_service


class Operator:
    """One process after another, on one folder."""

    def __init__(self, cluster: Cluster, folder: Path, fate: Fate, patch: pytest.MonkeyPatch) -> None:
        self._cluster, self._folder, self._fate, self._patch = cluster, folder, fate, patch
        self.acted_s = cluster.now_s  # when a cycle last came to its end
        self.spent: dict[str, list[Account]] = {}  # of each policy, as the last cycle left it

    async def live(self, cycles: int, dies_at: int | None = None, each: Callable[[], None] = lambda: None) -> str:
        """Start, and go through cycles; `each` runs after every one. Returns where it died; empty: it was stopped."""
        self._fate.begin(dies_at)
        cluster, watch = self._cluster, _Watch(self._cluster)
        clock = partial(Actuator, now=lambda: float(cluster.now_s))
        with self._patch.context() as patch:
            patch.setattr(wired, "Observer", lambda *_: watch)
            patch.setattr(wired, "Actuator", clock)
            made: wired.Wiring | None = None
            try:
                client = _Client(cluster, self._fate)
                settings = Settings(
                    data_dir=self._folder,
                    identity="mortal",
                    leader_election=False,
                    ledger=self._cluster.ledger or None,
                )
                made = wired.Wiring(settings, client, client, AlwaysLeading(), Metrics())
                memory = made.load_memory()
                for _ in range(cycles):
                    memory = await self._cycle(made, memory, watch)
                    each()
                    cluster.advance(CYCLE_S)
            except Killed as death:
                cluster.note_count(self._folder, watch.newest)
                return str(death)
            finally:
                await _let_go(made)
                cluster.watched = False
                self._fate.bury()
        return ""

    async def _cycle(self, made: wired.Wiring, memory: Memory, watch: _Watch) -> Memory:
        done = await run_cycle(made.parts, memory, float(self._cluster.now_s))
        assert not done.failed, done.failed
        if made._counting is not None:
            await made._counting
        self._cluster.note_count(self._folder, watch.newest)
        await made.write_statuses(float(self._cluster.now_s))
        self.acted_s = self._cluster.now_s
        self.spent = {state.spec.name: list(state.accounts) for state in made._policies._accounts.states()}
        return done.memory


async def _let_go(made: wired.Wiring | None) -> None:
    """The tasks of the process end with it."""
    if made is not None and made._counting is not None and made._counting.done():
        made._counting.exception()
    others: list[Awaitable[Any]] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()  # type: ignore[attr-defined]
    await asyncio.gather(*others, return_exceptions=True)
