"""Puts the layers together: what the cycle's steps call, and what runs beside the cycle. No decisions here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ebbtide.act.farewell import Farewell
from ebbtide.act.jobs import WHAT as JOB
from ebbtide.act.jobs import JobWriter, said_of
from ebbtide.act.result import ActResult
from ebbtide.act.scale import Actuator
from ebbtide.clock import clock_notice, unix_time_s
from ebbtide.controller.cycle import Finished, Parts
from ebbtide.controller.leadership import Leadership
from ebbtide.controller.metering import Metering
from ebbtide.controller.meters import Meters
from ebbtide.controller.month import MonthToDate
from ebbtide.controller.policies import Policies, labels_of
from ebbtide.controller.settings import Settings
from ebbtide.core.plan import plan
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.ledger.days import Keeping
from ebbtide.ledger.store import FILE
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import BATCH_KIND, SERVICE_KIND, PoolState, Snapshot, WriteReceipt
from ebbtide.model.spec import PolicySpec
from ebbtide.observe.gather import Observer
from ebbtide.observe.holdings import Held
from ebbtide.observe.settings import ObserveSettings, PrometheusSettings
from ebbtide.record.budget import TokenBucket
from ebbtide.record.events import EventRecorder, cycle_events
from ebbtide.record.metrics import Metrics
from ebbtide.record.notes import Note, Subject
from ebbtide.record.recorder import FlightRecorder
from ebbtide.record.refusals import Refusals
from ebbtide.record.status import DrainReport, StatusWriter
from ebbtide.record.store import Store

log = logging.getLogger(__name__)

_FORGET_EVERY_S = 3600.0
_ASK_AGAIN_S = (30.0, 120.0)  # a Prometheus that starts with the operator


def observe_settings(settings: Settings) -> ObserveSettings:
    """The observe layer's part of the settings."""
    header, _, tenant = (settings.prometheus_tenant or "X-Scope-OrgID:").partition(":")
    return ObserveSettings(
        prometheus=PrometheusSettings(
            url=(settings.prometheus_url or "").rstrip("/"),
            token_file=settings.prometheus_token_file,
            username=settings.prometheus_username,
            password_file=settings.prometheus_password_file,
            tenant=tenant.strip(),
            tenant_header=header,
            ca_file=settings.prometheus_ca_file,
            matchers=settings.prometheus_matchers,
            rate_window_s=round(settings.rate_window_s),
            query_timeout_s=settings.prometheus_timeout_s,
            max_age_s=settings.scrape_staleness_s,
        ),
        price_table=settings.price_table,
        cost_labels=settings.cost_labels,
    )


class Wiring:
    """All layers of one process. `parts` goes to the cycle; `background` are coroutines that run until cancelled."""

    def __init__(
        self, settings: Settings, reader: KubeClient, writer: KubeClient, leadership: Leadership, metrics: Metrics
    ) -> None:
        self._settings, self._reader, self._metrics = settings, reader, metrics
        self.observer = Observer(reader, observe_settings(settings))
        self.store = Store(settings.data_dir / "ebbtide.sqlite")
        self._recorder = FlightRecorder(settings.data_dir / "flight", settings.flight_recorder_bytes)
        self._counting: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        keeping = Keeping(settings.ledger_keep_lifetimes_s, settings.ledger_keep_hours_s, settings.ledger_time_zone)
        self._metering = Metering(
            settings.ledger or settings.data_dir / FILE, metrics, leadership.may_write, keeping, self._watching
        )
        self._policies = Policies(writer, self.observer.raw_policy, self.observer.raw_pool)
        self._month = MonthToDate()
        self._held: Held | None = None
        self._receipts: dict[str, WriteReceipt] = self.store.receipts()
        self._remembered: Memory | None = None
        self._farewell = Farewell(writer)
        budget = TokenBucket(settings.writes_per_second)
        self._statuses = StatusWriter(writer, self._previous_status, budget)
        self._events = EventRecorder(writer, instance=settings.identity, budget=budget, dropped=self._event_dropped)
        self._decision_id = ""
        self._own: Subject | None = None
        self._forget_at = 0.0
        self._refusals = Refusals()
        self._said: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._notices: dict[str, tuple[Code, str]] = {}  # to be said on our own Deployment with the next plan
        self._say_notices()
        self.meters = Meters(metrics)
        self.parts = Parts(
            observe=self._observe,
            plan=plan,
            record=self._record,
            remember=self._remember,
            actuator=_Actuators(
                Actuator(writer, self._store_receipt),
                JobWriter(writer, most=max(1, int(settings.writes_per_second * settings.cycle_interval_s))),
                self._part_with_deleted,
                self._policies,
                self._say_lowered,
            ),
            report=self._report,
            leadership=leadership,
            meters=self.meters,
            stalled=self._stalled,
        )

    @property
    def background(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What runs beside the cycle for as long as the process lives."""
        return (self._write_each_second,)

    @property
    def receipts(self) -> dict[str, WriteReceipt]:
        """Our last scale writes by `namespace/service/variant`."""
        return dict(self._receipts)

    async def write_statuses(self, now_s: float) -> None:
        """What `background` does once a second: writes the statuses that are due at `now_s` (unix seconds), and with
        what is left of the budget the Events that wait."""
        self._drained(await self._statuses.drain(now_s))
        self._metrics.writes.labels("event", "done").inc(await self._events.flush(now_s))

    async def _write_each_second(self) -> None:
        while True:
            await self.write_statuses(unix_time_s())
            await asyncio.sleep(1.0)

    def load_memory(self) -> Memory:
        """What the last leader on this volume remembered; its start is that of the first cycle ever."""
        memory = self.store.load_memory()
        self._metering.begin_to_lead()
        self._policies.begin_to_lead()
        self._month.begin_to_lead()
        self._remembered = None
        self._receipts = self.store.receipts()  # another may have led, and written, since this process started
        self._say_notices()
        return memory

    def close(self, memory: Memory | None) -> None:
        """Keep all of the memory and close the store. Of a cycle that was cut off, what it remembered is the newest."""
        try:
            if memory is not None:
                self.store.save_memory(self._remembered or memory, everything=True)
        except EbbtideError as error:
            log.error("the memory of the last minute is lost: %s", error)
        finally:
            if self._looking is not None:
                self._looking.cancel()
            self._recorder.close()
            self._metering.close()
            self.store.close()

    async def _observe(self, now_s: float) -> Snapshot:
        asked = self.observer.promql_queries
        try:
            snapshot = await self.observer.snapshot(now_s, self._receipts)
        finally:
            self._metrics.promql_queries.inc(self.observer.promql_queries - asked)
        self._forget_receipts(snapshot)
        snapshot = msgspec.structs.replace(
            snapshot,
            services=tuple(service for service in snapshot.services if self._serves(service.spec.key)),
            unreadable=tuple(
                item
                for item in snapshot.unreadable
                if item.kind not in (SERVICE_KIND, BATCH_KIND) or self._serves(item.key)
            ),
            batch_policies=tuple(policy for policy in snapshot.batch_policies if self._serves(policy.spec.key)),
            jobs=tuple(job for job in snapshot.jobs if self._serves(job.key)),
            finished=tuple(job for job in snapshot.finished if self._serves(job.key)),
            strays=tuple(job for job in snapshot.strays if self._serves(job.key)),
            cycle_s=self._settings.cycle_interval_s,
            rate_window_s=self._settings.rate_window_s,
        )
        return await asyncio.to_thread(self._with_policies, snapshot, self.observer.policies)

    def _with_policies(self, snapshot: Snapshot, policies: Mapping[str, PolicySpec]) -> Snapshot:
        self._held = self.observer.held(snapshot)
        refused = self._metering.refused
        if refused:
            pools = tuple(_told(pool, refused.get(pool.spec.name, "")) for pool in snapshot.pools)
            snapshot = msgspec.structs.replace(snapshot, pools=pools)
        ledger = self._metering.state(snapshot.taken_at, snapshot.cycle_s)
        snapshot = msgspec.structs.replace(snapshot, ledger=ledger)
        return self._policies.observed(snapshot, policies.values(), self._held)

    def _serves(self, key: str) -> bool:
        namespaces = self._settings.watch_namespaces
        return not namespaces or key.partition("/")[0] in namespaces

    def _record(self, snapshot: Snapshot, memory: Memory, now_s: float, decided: Plan) -> str:
        self._decision_id = ""
        if self._recorder.due(decided, now_s):
            self._decision_id = self._recorder.record(snapshot, memory, now_s, decided)
            self._say_notices()
        return self._decision_id

    def _remember(self, memory: Memory) -> None:
        self._remembered = memory
        self.store.save_memory(memory)

    def _store_receipt(self, key: str, receipt: WriteReceipt) -> None:
        self.store.store_receipt(key, receipt)  # durable first: what is in memory alone is lost by a crash
        self._receipts[key] = receipt

    def _forget_receipts(self, snapshot: Snapshot) -> None:
        """Once an hour, those of services and variants that are gone; a list that may be incomplete proves nothing."""
        if snapshot.taken_at < self._forget_at or not all(source.healthy for source in snapshot.sources):
            return
        self._forget_at = snapshot.taken_at + _FORGET_EVERY_S
        keep = {f"{item.spec.key}/{variant.name}" for item in snapshot.services for variant in item.spec.variants}
        if self._receipts.keys() - keep:
            self.store.forget_receipts(keep)
            self._receipts = {key: receipt for key, receipt in self._receipts.items() if key in keep}

    async def _part_with_deleted(self, snapshot: Snapshot) -> list[ActResult]:
        kept = (service.spec.key for service in snapshot.services)
        keys = [*filter(self.observer.may_part, kept), *filter(self._serves, self.observer.deleting)]
        raws = (self.observer.raw_service(key) for key in keys)
        results = await asyncio.gather(*(self._farewell.sync(raw) for raw in raws if raw is not None))
        return [result for result in results if result is not None]

    async def _say_lowered(self, decided: Plan, snapshot: Snapshot) -> None:
        """Where less is payable, before replicas are lowered: else they could be declared again until it is said.

        A status that cannot be written holds no lowering up.
        """
        try:
            told = self._refusals.added(decided, ())
            self._drained(await self._statuses.write_lowered(told, snapshot, decided.at, self._decision_id))
        except Exception:
            log.exception("statuses could not be written before replicas are lowered")

    async def _report(self, finished: Finished) -> None:
        if self._counting is None or self._counting.done():  # else what runs now is counted in the next cycle
            self._counting = asyncio.create_task(self._count(finished, self._held, self._remembered), name="ledger")
        results = [result for result in finished.results if isinstance(result, ActResult)]
        for result in results:
            self._metrics.writes.labels(result.what, result.outcome.value).inc()
        of_services = [result for result in results if result.what != JOB]  # a Job may be named as a service is
        told = said_of(self._month.added(self._refusals.added(finished.plan, of_services)), results)
        self._metrics.observe_plan(told, finished.snapshot)
        self._metrics.writes.labels("status", "done").inc(await self._policies.report(told))
        self._statuses.offer(told, finished.snapshot, finished.now_s, finished.decision_id)
        applied = [result.action for result in results if result.wrote and result.action is not None]
        own = await self._own_deployment()
        moved = {result.service for result in results if result.what == JOB and result.wrote}
        notes = [*cycle_events(told, finished.snapshot, applied, own, moved), *self._noticed(own)]
        sent = await self._events.emit(notes, finished.now_s)
        self._metrics.writes.labels("event", "done").inc(sent)

    async def _count(self, finished: Finished, held: Held | None, memory: Memory | None) -> None:
        try:
            if held is not None and await self._metering.count(finished.snapshot, held, finished.plan, memory):
                self.observer.counted(held)
                self._look_back(finished.snapshot)
                labels = labels_of(finished.snapshot)
                mended = await asyncio.to_thread(
                    self._policies.settle, self._metering.spent, labels, self._metering.departed
                )
                for text in mended:
                    log.warning("%s", text)
                await asyncio.to_thread(self._month.ask, self._metering.ledger, finished.snapshot.taken_at)
            self._say_notices()
        except Exception:
            log.exception("what runs could not be counted; the next cycle tries again")

    def _watching(self) -> float:
        return self.observer.watching_since_s

    def _look_back(self, snapshot: Snapshot) -> None:
        """Once after a start: what went on while nobody watched, beside the cycle."""
        if self._metering.filled:
            self._metering.filled = False
            self._policies.ask_again()
        hole, self._metering.hole = self._metering.hole, None
        if hole is not None:
            self._looking = asyncio.create_task(self._ask_past(hole, snapshot), name="past")

    async def _ask_past(self, hole: tuple[int, int], snapshot: Snapshot) -> None:
        try:
            past = await self.observer.past(hole, snapshot)
            for pause_s in _ASK_AGAIN_S:
                if not past.failed:
                    break
                await asyncio.sleep(pause_s)
                past = await self.observer.past(hole, snapshot)
            self._metering.take(past)
        except Exception:
            log.exception("what ran while no operator did could not be asked for")

    async def _stalled(self, said: str, cycles: int, now_s: float) -> None:
        self._metrics.observe_stall(said, cycles)
        note = Note(await self._own_deployment(), "Warning", Code.PLAN_FAILED.value, "Plan", said, topic="Planned")
        self._metrics.writes.labels("event", "done").inc(await self._events.emit([note], now_s))

    def _event_dropped(self, why: str) -> None:
        self._metrics.writes.labels("event", "refused" if why == "budget" else "failed").inc()

    def _drained(self, report: DrainReport) -> None:
        self._metrics.writes.labels("status", "done").inc(report.written)
        self._metrics.writes.labels("status", "failed").inc(report.failed)
        self._metrics.status_waiting.set(report.waiting)
        self._say("status writes", report.problem)

    def _previous_status(self, kind: str, key: str) -> Mapping[str, Any] | None:
        observer = self.observer
        match kind:
            case "InferenceService":
                raw = observer.raw_service(key)
            case "GPUPool":
                raw = observer.raw_pool(key)
            case "CostPolicy":
                raw = observer.raw_policy(key)
            case _:
                raw = observer.raw_batch_policy(key)
        return None if raw is None else raw.get("status")

    async def _own_deployment(self) -> Subject:
        """The object that cluster-wide causes are said on. Outside of a cluster there is none: the name alone stays."""
        if self._own is None:
            namespace, name, uid = self._settings.namespace, self._settings.deployment, ""
            try:
                path = resource_path("apps/v1", "deployments", namespace, name)
                uid = str((await self._reader.get(path))["metadata"]["uid"])
            except EbbtideError as error:
                log.info("own Deployment %s/%s is not known: %s", namespace, name, error)
            self._own = Subject("apps/v1", "Deployment", namespace, name, uid)
        return self._own

    def _say_notices(self) -> None:
        self._say("store", self.store.notice)
        self._say("flight recorder", self._recorder.notice)
        self._say("ledger", self._metering.notice)
        self._say("clock", clock_notice())

        for topic, code, text in (
            ("store", Code.DATA_SET_ASIDE, self.store.notice),
            ("ledger", Code.DATA_SET_ASIDE, self._metering.set_aside),
            ("clock", Code.CLOCK_STEPPED, clock_notice()),
        ):
            if text and self._told.get(topic) != text:
                self._notices[topic] = code, text
            self._told[topic] = text

    def _noticed(self, own: Subject) -> list[Note]:
        """Each once: what was moved aside stays so."""
        found, self._notices = self._notices, {}
        return [Note(own, "Warning", code.value, "Observe", text, topic=text) for code, text in found.values()]

    def _say(self, topic: str, text: str) -> None:
        """Log a trouble once until it changes."""
        if text and self._said.get(topic) != text:
            log.warning("%s: %s", topic, text)
        self._said[topic] = text


def _told(pool: PoolState, refused: str) -> PoolState:
    """With what its price does not do that it says."""
    if not refused or pool.spec.price is None or pool.spec.price.effective_from is None:
        return pool
    return msgspec.structs.replace(pool, faults=(*pool.faults, (Code.EFFECTIVE_FROM_REFUSED.value, refused)))


class _Actuators:
    """The actuator; before it the farewell of deleted services, the money of raises, and what is payable no more.

    Jobs give their GPUs back before replicas are raised, and take some after it.
    """

    def __init__(
        self,
        actuator: Actuator,
        jobs: JobWriter,
        part: Callable[[Snapshot], Awaitable[list[ActResult]]],
        policies: Policies,
        say_lowered: Callable[[Plan, Snapshot], Awaitable[None]],
    ) -> None:
        self._actuator, self._jobs, self._part = actuator, jobs, part
        self._policies, self._say_lowered = policies, say_lowered

    async def reconcile_workloads(self, snapshot: Snapshot, decided: Plan) -> list[ActResult]:
        """Finalizers and engine blocks."""
        return [*await self._part(snapshot), *await self._actuator.reconcile_workloads(snapshot, decided)]

    async def apply(self, decided: Plan, snapshot: Snapshot) -> list[ActResult]:
        """Scale actions; raises and Jobs once their money is reserved, decreases once statuses say what is payable."""
        given = await self._jobs.give_back(decided, snapshot)
        payable, refused = await self._policies.reserve(decided)
        await self._say_lowered(payable, snapshot)
        scaled = await self._actuator.apply(payable, snapshot)
        return [*given, *refused, *scaled, *await self._jobs.take(payable, snapshot)]
