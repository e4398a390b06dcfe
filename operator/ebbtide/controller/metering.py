"""Keeps the ledger up with what runs: after each cycle, beside it, and never in its way.

A database that is gone stops no decision: what began and ended meanwhile is kept here, one entry for each lifetime, and
written when it answers again. That is bounded: of 100,000 lifetimes that it does not know of (some 50 MB) those that
ended first are given up, and so are tokens of hours that are over by six; the ledger is told which time that was, and
reports say so. What policies have spent is counted elsewhere (`money.accounts`) and loses nothing.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec

from ebbtide.clock import rfc3339
from ebbtide.errors import ConflictError, EbbtideError, RetryableError
from ebbtide.ledger.days import Keeping
from ebbtide.ledger.store import Ledger
from ebbtide.model.memory import Memory
from ebbtide.model.money import (
    Hole,
    HourRow,
    LabelsRecord,
    Lifetime,
    Listed,
    OfferRecord,
    PolicyRecord,
    PriceRecord,
    Selection,
)
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import POLICY_KIND, LedgerState, PoolState, Snapshot
from ebbtide.model.spec import PolicySpec
from ebbtide.money.accounts import Key, Labels, pays
from ebbtide.money.bill import HOUR_S
from ebbtide.money.idle import OWED_S
from ebbtide.money.lifetimes import Holding, advance
from ebbtide.money.selections import Labelled, changes, new_offers
from ebbtide.money.unseen import nodes_known
from ebbtide.money.usage import Tally
from ebbtide.observe.holdings import Held
from ebbtide.observe.past import Past
from ebbtide.record.metrics import Metrics

ROLL_EVERY_S = 600.0
MOST_UNWRITTEN = 100_000  # lifetimes that began and ended since the ledger was last written
MOST_USAGE_S = 6 * HOUR_S
UNSEEN_S = 60  # a shorter time without anybody who watched is no hole
LATE_S = 60.0  # so long, or three cycles, after the last success the ledger is behind
USAGE_EVERY_S = 30  # half of the rates' window: who takes over makes up for what was not written


class Metering:
    """One leader's hand on the ledger. `where` is a file or a URL; `notice` says what is wrong with it, if anything."""

    def __init__(
        self,
        where: Path | str,
        metrics: Metrics,
        may_write: Callable[[], bool] = lambda: True,
        keeping: Keeping | None = None,
        watching_since: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._where, self._metrics, self._may_write = where, metrics, may_write
        self._keeping, self._watching_since = keeping or Keeping(), watching_since
        self.hole: tuple[int, int] | None = None  # in which nobody watched, and that was not asked for yet
        self._past: Past | None = None
        self.filled = False  # something of the past was found since this was last set
        self.notice = ""
        self._ledger: Ledger | None = None
        self._epoch = 0
        self._running: dict[str, Lifetime] = {}
        self._prices: dict[str, PriceRecord] = {}
        self._unwritten: dict[tuple[str, int], Lifetime] = {}
        self._unwritten_prices: dict[tuple[str, int], PriceRecord] = {}
        self._ends: dict[str, int] = {}  # of uids that are shown and were counted already
        self._unasked: set[str] = set()  # uids of which the ledger was not asked yet whether it has counted them
        self._written_s: float | None = None  # the moment up to which the ledger has all
        self._holes: dict[str, Hole] = {}  # not written yet, by what they are of
        self._lost = 0
        self._begun_s = 0.0
        self._open_s = 0  # cost is worked out again from then on where it is priced anew
        self.refused: Mapping[str, str] = {}  # by pool: why its price does not hold from when it says
        self._roll_at = 0.0
        self._tally = Tally()
        self._tallied_s = 0  # usage is counted up to here, and written up to there
        self._usage_s = 0
        self._policies: dict[str, PolicyRecord] = {}
        self._labels: dict[str, LabelsRecord] = {}
        self._offers: dict[str, OfferRecord] = {}
        self._selections: list[Selection] = []  # not written yet

    def begin_to_lead(self) -> None:
        """Start from what the ledger says: another may have written it since."""
        self._epoch, self._written_s, self._past = 0, None, None

    def state(self, now_s: float, cycle_s: float) -> LedgerState:
        """How far the ledger is at `now_s` (unix seconds), of a leader whose cycles take `cycle_s`."""
        if self._written_s is None:
            self._written_s = now_s
        since_s = self._written_s
        late = now_s - since_s > max(LATE_S, 3 * cycle_s)
        why = f"nothing was written since {rfc3339(since_s)}: {self.notice or 'it does not answer'}"
        return LedgerState(since_s, why if late else "")

    def take(self, past: Past) -> None:
        """What is known of a hole: it is written with the next count."""
        self._past = past

    async def count(
        self, snapshot: Snapshot, held: Held, plan: Plan | None = None, memory: Memory | None = None
    ) -> bool:
        """Take in what ran at the snapshot's moment; whether what went by then may be forgotten.

        `plan` and `memory` are of the same cycle: without them it is not known how much of replicas was used.
        """
        try:
            await asyncio.to_thread(self._count, snapshot, held, plan, memory)
        except EbbtideError as error:
            self._metrics.ledger_failures.inc()
            self.notice = str(error)
            if isinstance(error, ConflictError):
                self._epoch = 0
            return self._epoch != 0  # what went is among what is not written yet, and is kept
        self._metrics.ledger_written.set(snapshot.taken_at)
        self._written_s = snapshot.taken_at
        self.notice = self._ledger.notice if self._ledger is not None else ""
        return True

    def close(self) -> None:
        """Give the database back."""
        if self._ledger is not None:
            self._ledger.close()

    @property
    def set_aside(self) -> str:
        """What was moved aside at the start, in words; '' where nothing was."""
        return self._ledger.notice if self._ledger is not None else ""

    @property
    def ledger(self) -> Ledger | None:
        """To be read, in the thread that counts or after it; None where it was not written yet."""
        return self._ledger if self._epoch else None

    def spent(
        self, policies: Sequence[tuple[PolicySpec, tuple[Key, ...]]], labels: Mapping[str, Labels]
    ) -> tuple[dict[str, dict[Key, Decimal]], int, int, dict[tuple[str, Key], Mapping[str, int]]]:
        """(by policy uid and period what was spent, up to when, from when on the ledger knows, and of which of these
        more may have been spent than it knows, with the GPU-seconds by pool whose price it does not know); blocks.
        `labels`: of the services that there are.

        Services that are gone count by the labels that they had last. More may have been spent where no price is known
        for some of what ran, where another currency was paid for (the rate that held then is not kept), and where a
        service had other labels in that time, or had gone before labels of that name were kept at all.
        Nothing where the ledger was not written yet.
        """
        if self._ledger is None or not self._epoch:
            return {}, 0, 0, {}
        through_s, since_s = self._ledger.watermark_s, self._ledger.since_s
        rows: dict[int, tuple[HourRow, ...]] = {}
        found: dict[str, dict[Key, Decimal]] = {}
        unsure: dict[tuple[str, Key], Mapping[str, int]] = {}
        labelled = Labelled(labels)
        if any(spec.match_labels for spec, _ in policies):
            labelled = Labelled(labels, self._ledger.policies(), self._ledger.labels())
        for spec, keys in policies:
            amounts = found.setdefault(spec.uid, {})
            for key in keys:
                from_s = int(key[1])
                if from_s not in rows:
                    rows[from_s] = self._ledger.added_up(from_s, through_s) if from_s < through_s else ()
                amounts[key], known, unpriced = _cost(rows[from_s], spec, labelled, from_s)
                if not known:
                    unsure[spec.uid, key] = unpriced
        return found, through_s, since_s, unsure

    def departed(self) -> tuple[Lifetime, ...]:
        """Pods that went lately, and may owe for nodes that nobody holds since (`money.idle`); blocks."""
        if self._ledger is None or not self._epoch:
            return ()
        return self._ledger.departed(self._ledger.watermark_s - OWED_S)

    def _count(self, snapshot: Snapshot, held: Held, plan: Plan | None, memory: Memory | None) -> None:
        ledger, now_s = self._opened(snapshot.taken_at), snapshot.taken_at
        shown = [self._since(holding) for holding in held.holdings]
        self._note_usage(snapshot, shown, held.complete, plan, memory)  # first: it needs no database
        unknown = {holding.uid for holding in shown} - self._running.keys()
        self._ends = {uid: end_s for uid, end_s in self._ends.items() if uid in unknown}
        self._unasked |= unknown - self._ends.keys()
        trouble = self._ask(ledger)
        self._running, changed = advance(
            self._running, shown, held.gone, now_s, ended=self._ends, complete=held.complete
        )
        self._ends |= {item.uid: item.end_s for item in changed if item.end_s is not None}
        self._unwritten.update({(item.uid, item.begin_s): item for item in changed})
        self._keep_within_bounds(now_s)
        self._note_prices(snapshot)
        self._note_selections(snapshot)
        if self._past is not None and trouble is None:
            self._fill_in(ledger, self._past)
            self._past = None
        if trouble is not None:
            raise trouble
        due = self._tallied_s >= self._usage_s + USAGE_EVERY_S or self._tallied_s // HOUR_S > self._usage_s // HOUR_S
        if not self._may_write():
            raise ConflictError("ledger: the lease went while counting; nothing was written")
        ledger.write(
            self._epoch,
            math.floor(now_s),
            self._unwritten.values(),
            self._unwritten_prices.values(),
            selections=self._selections,
            usage=self._tally.changed() if due else None,
            holes=self._holes.values(),
        )
        self._unwritten, self._unwritten_prices, self._selections, self._holes, self._lost = {}, {}, [], {}, 0
        if due:
            self._tally.written(self._tallied_s)
            self._usage_s = self._tallied_s
        if now_s >= self._roll_at:
            more = ledger.roll_up(self._epoch, now_s, self._keeping)
            self._roll_at, self._open_s = now_s if more else now_s + ROLL_EVERY_S, ledger.open_s

    def _fill_in(self, ledger: Ledger, past: Past) -> None:
        """Lifetimes of what nobody saw, and nearer ends of what was missed; what is left is a hole."""
        lives = ledger.lifetimes(past.from_s, past.to_s)
        ended = {item.uid: item for item in lives if item.end_s is not None}
        same = nodes_known(past.holdings, lives, self._begun_s)
        uids = {uid: life.uid for uid, life in same.items()}
        counted = ledger.ends({item.uid for item in past.holdings})
        came, mended, lost = {True: 0, False: 0}, 0, 0  # nodes and pods that came, ends of both, nodes of no known pool
        for each in past.holdings:
            item = msgspec.structs.replace(each, uid=uids.get(each.uid, each.uid), node=uids.get(each.node, each.node))
            old, end_s = ended.get(item.uid), math.ceil(min(past.to_s, item.end_s or past.to_s))
            if item.uid in self._running:
                continue
            if old is not None and old.estimated and old.end_s is not None and old.seen_s <= end_s < old.end_s:
                self._unwritten[old.uid, old.begin_s] = msgspec.structs.replace(old, end_s=end_s)
                mended += 1
            elif each.uid in same or item.uid in counted or item.uid in self._ends:
                continue
            elif item.is_node and item.begin_s < past.from_s:
                continue  # the ledger has it, though by another beginning: it was in another pool before
            elif not item.payer.pool:
                lost += 1
            else:
                begin_s = math.floor(max(item.begin_s, self._begun_s))
                if begin_s < end_s:
                    self._unwritten[item.uid, begin_s] = Lifetime(
                        item.uid, item.payer, item.gpus, begin_s, begin_s, end_s, item.node, item.is_node, True
                    )
                    self._ends[item.uid] = end_s
                    came[item.is_node] += 1
        said = [
            f"{came[False]} pods and {came[True]} nodes that came and went, and the ends of {mended}, are as "
            "Prometheus has them"
            if mended or any(came.values())
            else "",
            f"what came and went may be missing: {past.why}" if past.why else "",
            f"{lost} nodes that came and went are not counted, for no pool is known of them: kube-state-metrics tells "
            "it by the labels that its --metric-labels-allowlist names"
            if lost
            else "",
        ]
        if any(said):
            why = f"no operator ran, and {'; '.join(filter(None, said))}"
            self._holes[f"past {past.from_s}"] = Hole(past.from_s, past.to_s, why)
        self.filled = bool(mended or any(came.values()))

    def _keep_within_bounds(self, now_s: float) -> None:
        """Of a database that is gone for long, what is too much to be kept becomes a hole.

        What the ledger knows to run keeps its end: else it would run there for ever.
        """
        since_s, over = self._written_s or now_s, len(self._unwritten) - MOST_UNWRITTEN
        if over > 0:
            ended = [item for item in self._unwritten.values() if item.end_s is not None and item.begin_s > since_s]
            gone = sorted(ended, key=lambda item: item.end_s or 0)[: over + MOST_UNWRITTEN // 10]
            for item in gone:
                del self._unwritten[item.uid, item.begin_s]
            if gone:
                self._lost += len(gone)
                known, from_s = self._holes.get("lifetimes"), min(item.begin_s for item in gone)
                text = f"the ledger could not be written, and {self._lost:,} pods that came and went are not in it"
                to_s = max(item.end_s or 0 for item in gone)
                self._holes["lifetimes"] = Hole(from_s if known is None else min(from_s, known.from_s), to_s, text)
        if now_s - since_s > MOST_USAGE_S:
            until_s = int(now_s - MOST_USAGE_S) // HOUR_S * HOUR_S
            self._tally.forget(until_s)
            first_s = int(since_s) // HOUR_S * HOUR_S
            self._holes["usage"] = Hole(first_s, until_s, "the ledger could not be written, and tokens are not in it")

    def _ask(self, ledger: Ledger) -> RetryableError | None:
        """Until when uids that are new here were counted before; why it does not answer, if it does not.

        What is taken in meanwhile is mended by the answer: it began where it had been counted to, or is no news.
        """
        if not self._unasked:
            return None
        try:
            found = ledger.ends(self._unasked)
        except RetryableError as error:
            return error
        self._ends |= {uid: end_s for uid, end_s in found.items() if uid not in self._running}
        for (uid, begin_s), item in list(self._unwritten.items()):
            end_s = found.get(uid, begin_s)
            if end_s > begin_s:
                del self._unwritten[uid, begin_s]
                later = msgspec.structs.replace(item, begin_s=end_s, seen_s=max(item.seen_s, end_s))
                if item.end_s is None:
                    self._running[uid] = later
                if item.end_s is None or item.end_s > end_s:
                    self._unwritten[uid, end_s] = later
        self._unasked = set()
        return None

    def _opened(self, now_s: float) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._where)
        if not self._epoch:
            if not self._may_write():
                raise ConflictError("ledger: the lease went; nothing was written")
            before_s, epoch = self._ledger.watermark_s, self._ledger.lead(now_s)
            until_s = int(min(now_s, self._watching_since()))
            self.hole = (before_s, until_s) if before_s and until_s - before_s > UNSEEN_S else None
            self._running, self._ends, self._unasked = self._ledger.running(), {}, set()
            # what ended while the database was away, and that no other leader knows of
            lost = {key: item for key, item in self._unwritten.items() if item.end_s is not None}
            known = self._ledger.ends({uid for uid, _ in lost})
            self._unwritten = {key: item for key, item in lost.items() if key[0] not in known}
            for uid, _ in self._unwritten:
                self._running.pop(uid, None)
            self._prices = {record.pool: record for record in self._ledger.prices()}
            self._unwritten_prices = {}
            self._begun_s, self._open_s = float(self._ledger.since_s), self._ledger.open_s
            self._take_up_usage(self._ledger)
            self._epoch = epoch
        return self._ledger

    def _take_up_usage(self, ledger: Ledger) -> None:
        """What was counted here and not written is another leader's time, or lost: it is a gap."""
        self._usage_s = self._tallied_s = ledger.usage_s or ledger.since_s
        self._tally = Tally(ledger.usage(self._usage_s // HOUR_S * HOUR_S, self._usage_s + HOUR_S))
        self._policies = {record.name: record for record in ledger.policies()}
        self._labels = {record.service: record for record in ledger.labels()}
        self._offers = {record.service: record for record in ledger.offers()}
        self._selections = []

    def _note_usage(
        self, snapshot: Snapshot, shown: Sequence[Holding], complete: bool, plan: Plan | None, memory: Memory | None
    ) -> None:
        weights = {item.key: item.forecast.prompt_weight for item in memory.services} if memory is not None else {}
        self._tally.count(snapshot, shown, self._tallied_s, plan, weights, complete=complete)
        self._tallied_s = max(self._tallied_s, math.floor(snapshot.taken_at))

    def _note_selections(self, snapshot: Snapshot) -> None:
        """Records of policies, labels and offers that are other than before; what cannot be read stays as it was."""
        unread = {item.key for item in snapshot.unreadable if item.kind == POLICY_KIND}
        labels = {service.spec.key: service.spec.labels for service in snapshot.services}
        specs = [policy.spec for policy in snapshot.policies]
        at_s = math.floor(snapshot.taken_at)
        for record in list(changes(self._policies, self._labels, specs, unread, labels, at_s)):
            if isinstance(record, PolicyRecord):
                self._policies[record.name] = record
            else:
                self._labels[record.service] = record
            self._selections.append(record)
        for offer in list(new_offers(self._offers, (service.spec for service in snapshot.services), at_s)):
            self._offers[offer.service] = offer
            self._selections.append(offer)

    def _since(self, holding: Holding) -> Holding:
        """From when the ledger began: nobody knows who held what before."""
        if holding.begin_s >= self._begun_s:
            return holding
        return msgspec.structs.replace(holding, begin_s=self._begun_s)

    def _note_prices(self, snapshot: Snapshot) -> None:
        """Records of pools whose price or billing is another than before; a pool's first counts for all before it."""
        for pool in snapshot.pools:
            known = self._prices.get(pool.spec.name)
            record = self._record(pool, known, math.floor(snapshot.taken_at))
            if known is None or _terms(known) != _terms(record):
                self._prices[record.pool] = self._unwritten_prices[record.pool, record.known_s] = record
        self.refused = {name: record.refused for name, record in self._prices.items() if record.refused}

    def _record(self, pool: PoolState, known: PriceRecord | None, now_s: int) -> PriceRecord:
        """How the pool is priced now; `known`: how it was before."""
        name, price = pool.spec.name, pool.spec.price
        shares = pool.spec.shares_idle
        if known is None:
            return PriceRecord(name, 0, price, pool.spec.billing, _listed(pool), shares_idle=shares)
        seen_s = max(now_s, known.known_s + 1)
        record = PriceRecord(name, seen_s, price, pool.spec.billing, _listed(pool), seen_s, shares_idle=shares)
        if price is None or price.effective_from is None:
            return record
        if known.price is not None and known.price.effective_from == price.effective_from:
            return msgspec.structs.replace(record, refused=known.refused)  # it is of an edit before
        from_s = math.floor(price.effective_from)
        refused = self._why_not(from_s, seen_s)
        return msgspec.structs.replace(record, from_s=seen_s if refused else from_s, refused=refused)

    def _why_not(self, from_s: int, seen_s: int) -> str:
        """Why a price that became known at `seen_s` cannot hold from `from_s`; '' where it can."""
        said = f"spec.price.effectiveFrom: the price holds from {rfc3339(seen_s)}, when it was seen"
        if from_s > seen_s:
            return f"{said}: {rfc3339(from_s)} has not come; put prices of coming hours into spec.price.schedule"
        if from_s < self._open_s:
            kept = f"the ledger keeps lifetimes from {rfc3339(self._open_s)} on"
            return f"{said}: {rfc3339(from_s)} is too long ago, for {kept}; name that moment or a later one"
        return ""


def _cost(
    rows: Iterable[HourRow], spec: PolicySpec, labelled: Labelled, from_s: int
) -> tuple[Decimal, bool, dict[str, int]]:
    """Of what the policy pays for since `from_s`, in its currency; whether it cannot have been more; and by pool the
    GPU-seconds whose price is not known."""
    seconds: dict[Decimal, int] = defaultdict(int)
    unpriced: dict[str, int] = defaultdict(int)
    known = True
    for row in rows:
        if not row.gpu_seconds:
            continue
        worth = spec.worth(row.currency)
        if not pays(spec, row.payer, labelled.of(f"{row.payer.namespace}/{row.payer.service}")):
            known = known and not labelled.may_differ(spec, row.payer, from_s)
            continue
        known = known and row.currency == spec.currency  # else it had its worth by the rate of then
        if row.price is not None and worth is not None:
            seconds[row.price * worth] += row.gpu_seconds
        else:
            known = False
            unpriced[row.payer.pool] += row.gpu_seconds
    return sum((price * count for price, count in seconds.items()), Decimal(0)) / 3600, known, dict(unpriced)


def _terms(record: PriceRecord) -> tuple[object, ...]:
    return record.price, record.billing, record.listed, record.shares_idle


def _listed(pool: PoolState) -> Listed | None:
    """What the price's source said, for a pool that has one."""
    if pool.spec.price is None or pool.spec.price.source is None:
        return None
    if pool.price_per_gpu_hour is None:
        return Listed(None, why="had none")
    return Listed(pool.price_per_gpu_hour, pool.currency, "", pool.next_price_change_at, pool.next_price_per_gpu_hour)
