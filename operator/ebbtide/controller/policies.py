"""What CostPolicies have spent, before each plan; and their statuses, before each raise.

A raise is made only once its policies' statuses say what is committed with it. Each of these writes is guarded by the
resourceVersion of the last answer to ours: whoever was stopped while another led is refused, and raises nothing.
Statuses are the memory of what was spent: the next leader begins with them, and agrees with the ledger afterwards.
"""

import asyncio
import logging
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from ebbtide.act.result import ActResult, classify
from ebbtide.api import parse_policy
from ebbtide.clock import parse_rfc3339
from ebbtide.core.ceilings.overrun import last_held
from ebbtide.errors import EbbtideError
from ebbtide.kube.client import KubeClient, resource_path
from ebbtide.model.money import Lifetime
from ebbtide.model.plan import Plan, PolicyPlan, ScaleAction
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import (
    POLICY_KIND,
    SERVICE_KIND,
    Account,
    HeldPeriod,
    LastHeld,
    Overrun,
    PolicyState,
    PoolState,
    Reached,
    Snapshot,
    Unreadable,
)
from ebbtide.model.spec import CeilingKind, OverrunCause, PolicySpec, ThresholdBasis
from ebbtide.money import prices
from ebbtide.money.accounts import Accounts, Key, Labels, Saved, Shown, terms
from ebbtide.money.calendar import Span, period_at, zone_named
from ebbtide.observe.holdings import Held
from ebbtide.record.status import API_VERSION, FIELD_MANAGER, PLURALS
from ebbtide.record.view import MAX_BYTES, policy_status

log = logging.getLogger(__name__)

_EVERY_S, _SOON_S = 60.0, 10.0  # a status that says nothing new, and one whose rate moved
_MOVED = Decimal("0.05")
_A_CYCLE = 50  # writes beside reservations
_HOUR_S = 3600
_LONGEST_SPEC = 8192  # characters that a status may hold of it

RawObject = Callable[[str], Mapping[str, Any] | None]
Spent = Callable[
    [list[tuple[PolicySpec, tuple[Key, ...]]], Mapping[str, Labels]],
    tuple[dict[str, dict[Key, Decimal]], int, int, Mapping[tuple[str, Key], Mapping[str, int]]],
]


@dataclass(slots=True)
class _Said:
    """What was written to one policy's status, and the resourceVersion that the answer had."""

    uid: str
    version: str
    status: bytes  # compressed: it is read only when the next is written
    at_s: float
    decided: tuple[object, ...]
    per_hour: Decimal
    last_read: int | None  # generation of the spec that the status holds


class Policies:
    """All policies of one leader."""

    def __init__(self, client: KubeClient, raw: RawObject, raw_pool: RawObject = lambda name: None) -> None:
        self._client, self._raw, self._raw_pool = client, raw, raw_pool
        self._accounts = Accounts()
        self._lock = threading.Lock()
        self._said: dict[str, _Said] = {}
        self._steps: dict[tuple[object, ...], Any] = {}
        self._reached: dict[str, tuple[Reached, ...]] = {}  # thresholds by the policy's uid, as last decided
        self._last: dict[str, LastHeld | None] = {}  # by the policy's uid, how it stood when plans were last held
        self._good: dict[str, PolicySpec] = {}  # by the policy's uid, the newest spec that could be read

    def begin_to_lead(self) -> None:
        """Another may have led since."""
        with self._lock:
            self._accounts = Accounts()
        self._said, self._reached, self._last = {}, {}, {}

    def observed(self, snapshot: Snapshot, specs: Collection[PolicySpec], held: Held) -> Snapshot:
        """The snapshot with what every policy has spent up to its moment; blocks."""
        kept = self._kept(specs, snapshot)
        outdated = {spec.uid: why for spec, why in kept}
        policies = sorted((*specs, *(spec for spec, _ in kept)), key=lambda spec: spec.name)
        self._good = {spec.uid: spec for spec in policies}
        unreadable = tuple(item for item in snapshot.unreadable if item.kind != POLICY_KIND or item.uid not in outdated)
        snapshot = msgspec.structs.replace(snapshot, unreadable=unreadable)
        if not policies:
            with self._lock:
                self._accounts = Accounts()
            return snapshot
        shown = Shown(
            now_s=snapshot.taken_at,
            pools=snapshot.pools,
            labels=labels_of(snapshot),
            holdings=held.holdings,
            gone=held.gone,
            complete=held.complete,
            listed=self._listed(snapshot.pools),
            unread=frozenset(item.key for item in snapshot.unreadable if item.kind == SERVICE_KIND),
        )
        with self._lock:
            self._accounts.count(policies, self._saved, shown)
            states = _with_unread(self._accounts.states(), shown.unread - self._accounts.holders)
        states = tuple(
            msgspec.structs.replace(
                state,
                reached=self._reached_of(state.spec),
                outdated=outdated.get(state.spec.uid, ""),
                last=self._last_of(state.spec),
            )
            for state in states
        )
        pools = tuple(self._priced(pool, policies, snapshot.taken_at) for pool in snapshot.pools)
        return msgspec.structs.replace(snapshot, policies=states, pools=pools)

    def ask_again(self) -> None:
        """The ledger knows more of the past by now: it is asked once more what all have spent."""
        with self._lock:
            self._accounts.ask_again()

    def settle(
        self, spent: Spent, labels: Mapping[str, Labels], departed: Callable[[], Iterable[Lifetime]] = tuple
    ) -> list[str]:
        """Ask the ledger what new policies, and all after a start, have spent; what was mended, in words. Blocks.

        `departed`: the ledger's pods that went lately, of which a new leader or a new policy saw nothing.
        """
        with self._lock:
            unsettled = self._accounts.unsettled()
        if not unsettled:
            return []
        found, through_s, since_s, unsure = spent(unsettled, labels)
        went = departed()
        with self._lock:
            self._accounts.recall(went)
            asked = [(spec, found[spec.uid]) for spec, _ in unsettled if spec.uid in found]
            said = []
            for spec, amounts in asked:
                mine = _of(unsure, spec)
                said.append(self._accounts.settle(spec, amounts, through_s, since_s, mine, mine))
        return [text for text in said if text]

    async def reserve(self, decided: Plan) -> tuple[Plan, list[ActResult]]:
        """Write what is committed with the plan's raises and the Jobs that it starts; the plan without those for which

        that was not possible."""
        raising = [policy for policy in decided.policies if policy.raised or policy.starts]
        refused: dict[str, tuple[str, EbbtideError]] = {}
        unpaid: dict[str, tuple[str, EbbtideError]] = {}
        for policy, error in zip(raising, await self._write_all(raising, decided.at), strict=True):
            if error is not None:
                refused |= dict.fromkeys(policy.raised, (policy.name, error))
                unpaid |= dict.fromkeys(policy.starts, (policy.name, error))
        actions, results = [], []
        for action in decided.actions:
            cause = refused.get(action.service) if action.to_replicas > action.from_replicas else None
            if cause is None:
                actions.append(action)
            else:
                results.append(_not_reserved(action, *cause))
        results += [_not_paid(key, *cause) for key, cause in unpaid.items()]
        jobs = tuple(job for job in decided.jobs if job.key not in unpaid)
        return msgspec.structs.replace(decided, actions=tuple(actions), jobs=jobs), results

    async def report(self, decided: Plan) -> int:
        """Write the statuses that say something new, and some of the others in turn; returns how many."""
        self._reached = {policy.uid: policy.reached for policy in decided.policies}
        self._last = {policy.uid: self._stood(policy) for policy in decided.policies}
        gone = self._said.keys() - {policy.name for policy in decided.policies}
        for name in gone:
            self._said.pop(name)
        news = [policy for policy in decided.policies if self._is_news(policy, decided.at)]
        new = {policy.name for policy in news}
        others = [item for item in decided.policies if item.name not in new and self._is_due(item, decided.at)]
        others.sort(key=lambda policy: self._said[policy.name].at_s)
        errors = await self._write_all([*news, *others][:_A_CYCLE], decided.at)
        for error in errors:
            if error is not None:
                log.warning("status of a CostPolicy: %s", error)
        return sum(error is None for error in errors)

    async def _write_all(self, policies: list[PolicyPlan], now_s: float) -> list[EbbtideError | None]:
        return list(await asyncio.gather(*(self._write(policy, now_s) for policy in policies)))

    async def _write(self, policy: PolicyPlan, now_s: float) -> EbbtideError | None:
        raw = self._raw(policy.name)
        if raw is None:
            return EbbtideError(f"CostPolicy {policy.name} is gone")
        metadata = raw["metadata"]
        said = self._said.get(policy.name)
        ours = said is not None and said.uid == metadata["uid"]
        version = said.version if said is not None and ours else str(metadata["resourceVersion"])
        before = _decode(said.status) if said is not None and ours else raw.get("status") or {}
        status = policy_status(policy, int(metadata.get("generation", 0)), before, now_s)
        last = self._last_read(policy.uid, raw) or before.get("lastRead")
        if last and len(msgspec.json.encode(status | {"lastRead": last})) <= MAX_BYTES:
            status["lastRead"] = last
        path = resource_path(API_VERSION, PLURALS[POLICY_KIND], name=policy.name, subresource="status")
        body = {
            "apiVersion": API_VERSION,
            "kind": POLICY_KIND,
            "metadata": {"name": policy.name, "uid": metadata["uid"], "resourceVersion": version},
            "status": status,
        }
        try:
            answer = await self._client.apply(path, body, field_manager=FIELD_MANAGER, force=True)
        except EbbtideError as error:
            self._said.pop(policy.name, None)  # the next write begins with what the watch shows by then
            return error
        version, last = str(answer["metadata"]["resourceVersion"]), status.get("lastRead")
        self._said[policy.name] = _Said(
            uid=str(metadata["uid"]),
            version=version,
            status=zlib.compress(msgspec.json.encode(status), 1),
            at_s=now_s,
            decided=_decided(policy),
            per_hour=policy.per_hour,
            last_read=int(last["generation"]) if last else None,
        )
        return None

    def _is_news(self, policy: PolicyPlan, now_s: float) -> bool:
        said = self._said.get(policy.name)
        if said is None:
            return True
        if said.at_s >= now_s:
            return False  # with the reservation
        good = self._good.get(policy.uid)
        if good is not None and said.last_read is not None and said.last_read < good.generation:
            return True
        return said.decided != _decided(policy)

    def _is_due(self, policy: PolicyPlan, now_s: float) -> bool:
        """After a while, and soon where the rate is another: a next leader takes it for what ran meanwhile."""
        said = self._said[policy.name]
        moved = abs(policy.per_hour - said.per_hour) > said.per_hour * _MOVED
        return now_s - said.at_s >= (_SOON_S if moved else _EVERY_S)

    def _kept(self, specs: Collection[PolicySpec], snapshot: Snapshot) -> list[tuple[PolicySpec, str]]:
        """Of policies that cannot be read just now the last spec that could, here or as the status says; and why."""
        found = []
        for item in snapshot.unreadable:
            if item.kind == POLICY_KIND and all(spec.name != item.key for spec in specs):
                spec = self._good.get(item.uid) or self._from_status(item)
                if spec is not None:
                    found.append((spec, item.message))
        return found

    def _from_status(self, item: Unreadable) -> PolicySpec | None:
        raw = self._raw(item.key)
        if raw is None or raw["metadata"].get("uid") != item.uid:
            return None
        return _spec_in(raw.get("status") or {}, raw["metadata"])

    def _last_read(self, uid: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
        """Its spec for the status, where it is the one that plans are held under and is not too long."""
        good, generation = self._good.get(uid), int(raw["metadata"].get("generation", 0))
        if good is None or good.generation != generation or "spec" not in raw:
            return None
        spec = msgspec.json.encode(raw["spec"]).decode()
        return {"generation": generation, "spec": spec} if len(spec) <= _LONGEST_SPEC else None

    def _saved(self, spec: PolicySpec) -> Saved:
        """What its status says; of a spec that counts something else than the present one, until the ledger was asked.

        A day of 100 of which the ledger knows that 95 were spent: where it was added to a month while nobody led, the
        status says nothing of it, and 95 would be given out once more.
        """
        status = self._status(spec)
        saved = saved_of(status)
        return saved if _same_terms(status, spec) else msgspec.structs.replace(saved, pending=True)

    def _status(self, spec: PolicySpec) -> Mapping[str, Any]:
        """As the watch shows it; nothing where it is another policy's of the same name."""
        raw = self._raw(spec.name)
        mine = raw is not None and raw["metadata"].get("uid") == spec.uid
        return ((raw or {}).get("status") or {}) if mine else {}

    def _reached_of(self, spec: PolicySpec) -> tuple[Reached, ...]:
        """As last decided here, else as the status says."""
        if spec.uid not in self._reached:
            self._reached[spec.uid] = reached_of(self._status(spec))
        return self._reached[spec.uid]

    def _last_of(self, spec: PolicySpec) -> LastHeld | None:
        """As this leader decided last, else as the status says that the one before did."""
        if spec.uid not in self._last:
            self._last[spec.uid] = last_held_of(self._status(spec))
        return self._last[spec.uid]

    def _stood(self, policy: PolicyPlan) -> LastHeld | None:
        """With this plan; while it is not known what was spent as before, though something was decided."""
        before, now = self._last.get(policy.uid), last_held(policy)
        if policy.reason.code is not Code.PENDING:
            return now
        return before and msgspec.structs.replace(before, at_s=max(before.at_s, policy.accrued_through))

    def _listed(self, pools: Iterable[PoolState]) -> dict[str, Decimal]:
        """Of pools whose price's source is silent what it said last, as their statuses say."""
        found = {}
        for pool in pools:
            price, name = pool.spec.price, pool.spec.name
            if price is None or price.source is None or pool.price_per_gpu_hour is not None:
                continue
            status = (self._raw_pool(name) or {}).get("status") or {}
            last = status.get("lastPrice") or {}
            try:
                if last["currency"] == price.currency:
                    found[name] = Decimal(last["perGPUHour"])
            except (KeyError, TypeError, InvalidOperation):
                continue
        return found

    def _priced(self, pool: PoolState, policies: list[PolicySpec], now_s: float) -> PoolState:
        """With the steps of its price to the end of every policy's periods, worked out once an hour."""
        price = pool.spec.price
        if price is None or pool.price_per_gpu_hour is None:
            return pool
        from_s = int(now_s) // _HOUR_S * _HOUR_S
        until_s = max(_ends(policies, from_s))
        if price.source is not None:
            return msgspec.structs.replace(pool, steps=prices.shown_steps(pool, now_s, until_s))
        key = (pool.spec, from_s, until_s)
        if key not in self._steps:
            self._steps = {each: steps for each, steps in self._steps.items() if each[1] == from_s}
            self._steps[key] = prices.steps(pool.spec.name, price, float(from_s), until_s)
        return msgspec.structs.replace(pool, steps=self._steps[key])


def _same_terms(status: Mapping[str, Any], spec: PolicySpec) -> bool:
    """Whether what a status says was counted as the spec says now; by generation where it does not hold its spec."""
    last = _spec_in(status, {"name": spec.name, "uid": spec.uid})
    if last is None:
        return bool(status.get("observedGeneration") == spec.generation)
    return terms(last) == terms(spec)


def _spec_in(status: Mapping[str, Any], metadata: Mapping[str, Any]) -> PolicySpec | None:
    """The spec that the status holds; None where there is none, or it cannot be read."""
    try:
        last = status["lastRead"]
        named = {**metadata, "generation": int(last["generation"])}
        return parse_policy({"metadata": named, "spec": msgspec.json.decode(last["spec"])})
    except (KeyError, TypeError, ValueError, EbbtideError):
        return None


def _of(unsure: Mapping[tuple[str, Key], Mapping[str, int]], spec: PolicySpec) -> dict[Key, Mapping[str, int]]:
    return {key: unpriced for (uid, key), unpriced in unsure.items() if uid == spec.uid}


def _with_unread(states: tuple[PolicyState, ...], unread: Collection[str]) -> tuple[PolicyState, ...]:
    """What a service holds is not known where it could not be read since the start: said to policies of its namespace.

    Others go on: a cluster's policy must not stand still for one object that somebody cannot write.
    """
    if not unread:
        return states
    first = {key.partition("/")[0]: key for key in sorted(unread, reverse=True)}
    found = [next((first[name] for name in state.spec.namespaces if name in first), "") for state in states]
    return tuple(msgspec.structs.replace(state, unread=key) for state, key in zip(states, found, strict=True))


def labels_of(snapshot: Snapshot) -> dict[str, Labels]:
    """By namespace/name of the service."""
    return {service.spec.key: service.spec.labels for service in snapshot.services}


def saved_of(status: Mapping[str, Any]) -> Saved:
    """What a policy's status says that it has spent; nothing where it says none, or something that cannot be read."""
    try:
        accounts = tuple(
            Account(
                CeilingKind(item["period"]),
                parse_rfc3339(item["begin"]),
                parse_rfc3339(item["end"]),
                Decimal(item["spent"]),
                tuple((each["pool"], round(Decimal(each["gpuHours"]) * 3600)) for each in item.get("unpriced") or ()),
            )
            for item in status.get("periods") or ()
            if "begin" in item
        )
        through, pending = status.get("accruedThrough"), status.get("reason") == Code.PENDING.value
        return Saved(
            parse_rfc3339(through) if through else 0.0, Decimal(status.get("ratePerHour", "0")), accounts, pending
        )
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return Saved(0.0, Decimal(0), ())


def reached_of(status: Mapping[str, Any]) -> tuple[Reached, ...]:
    """The thresholds that a policy's status says were reached; those that can be read."""
    found = []
    for item in status.get("thresholds") or ():
        try:
            period, basis = CeilingKind(item["period"]), ThresholdBasis(item["basis"])
            begin_s, at_s = parse_rfc3339(item["begin"]), parse_rfc3339(item["reachedAt"])
            found.append(Reached(period, basis, int(item["atPercent"]), begin_s, at_s, bool(item["acting"])))
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(found)


def last_held_of(status: Mapping[str, Any]) -> LastHeld | None:
    """How a policy stood when its status was written; None where it says nothing, or what cannot be read."""
    saved = saved_of(status)
    if not saved.through_s:
        return None
    overruns = overruns_of(status)
    if saved.pending:
        return LastHeld(0.0, overruns=overruns)
    try:
        periods = tuple(
            HeldPeriod(
                CeilingKind(item["period"]),
                parse_rfc3339(item["begin"]),
                Decimal(item["ceiling"]),
                Decimal(item["spent"]),
            )
            for item in status.get("periods") or ()
            if "begin" in item
        )
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return None
    return LastHeld(saved.through_s, saved.per_hour, periods, overruns)


def overruns_of(status: Mapping[str, Any]) -> tuple[Overrun, ...]:
    """What a policy's status says that takes it over its ceilings; nothing where that cannot be read."""
    try:
        return tuple(
            Overrun(
                CeilingKind(item["period"]),
                parse_rfc3339(item["begin"]) if "begin" in item else 0.0,
                OverrunCause(item["cause"]),
                Decimal(item["amount"]),
                parse_rfc3339(item["since"]),
                parse_rfc3339(item["seenAt"]),
            )
            for item in status.get("overruns") or ()
        )
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return ()


def _ends(policies: Iterable[PolicySpec], now_s: int) -> list[float]:
    """When the next day and month end, where policies need them; a day at least."""
    found = [now_s + 2.0 * 86_400]
    for zone_name, month_starts_on in {(spec.time_zone, spec.month_starts_on) for spec in policies}:
        zone = zone_named(zone_name)
        months = any(kind is CeilingKind.MONTH for spec in policies for kind, _ in spec.ceilings)
        if zone is not None and months:
            found.append(period_at(Span.MONTH, zone, now_s + 86_400, month_starts_on).end_s)
    return found


def _decided(policy: PolicyPlan) -> tuple[object, ...]:
    """What of its status is news where it is other than what was written; money that is spent is not."""
    # that the ledger agrees can wait for its turn: after a start it is said of all policies at once
    conditions = sorted(
        (item.type, item.status.value, item.reason)
        for item in policy.conditions
        if item.reason != Code.LEDGER_AGREES.value
    )
    periods = tuple(
        (item.kind, None if item.kind is CeilingKind.HOUR else item.start_s, item.ceiling)  # a rate begins now, always
        for item in policy.ceilings
    )
    reached = tuple((item.percent, item.start_s, item.acting) for item in policy.reached)
    overruns = tuple((item.kind, item.cause) for item in policy.overruns)
    return tuple(conditions), periods, policy.gave_way, reached, overruns, policy.services, policy.unpriced_gpus


def _decode(status: bytes) -> dict[str, Any]:
    return msgspec.json.decode(zlib.decompress(status), type=dict[str, Any])


def _not_reserved(action: ScaleAction, policy: str, error: EbbtideError) -> ActResult:
    move = f"{action.from_replicas} to {action.to_replicas}"
    text = (
        f"{action.service} variant {action.variant}: not raised from {move}: its money could not be reserved in "
        f"CostPolicy {policy}: {error}"
    )
    return ActResult("scale", action.service, action.variant, classify(error), text, action)


def _not_paid(job: str, policy: str, error: EbbtideError) -> ActResult:
    text = f"Job {job}: not started or made wider: its money could not be reserved in CostPolicy {policy}: {error}"
    return ActResult("job", job, "", classify(error), text)
