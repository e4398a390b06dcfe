"""Keeps the ledger up with what runs: after each cycle, beside it, and never in its way.

A database that is gone stops no decision: what began and ended meanwhile is kept here, one entry for each lifetime, and
written when it answers again.
"""

import asyncio
import math
from pathlib import Path

from ebbtide.errors import ConflictError, EbbtideError
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Lifetime, Listed, PriceRecord
from ebbtide.model.snapshot import PoolState, Snapshot
from ebbtide.money.lifetimes import advance
from ebbtide.observe.holdings import Held
from ebbtide.record.metrics import Metrics

ROLL_EVERY_S = 600.0


class Metering:
    """One leader's hand on the ledger. `where` is a file or a URL; `notice` says what is wrong with it, if anything."""

    def __init__(self, where: Path | str, metrics: Metrics) -> None:
        self._where, self._metrics = where, metrics
        self.notice = ""
        self._ledger: Ledger | None = None
        self._epoch = 0
        self._running: dict[str, Lifetime] = {}
        self._prices: dict[str, PriceRecord] = {}
        self._unwritten: dict[tuple[str, int], Lifetime] = {}
        self._unwritten_prices: list[PriceRecord] = []
        self._roll_at = 0.0

    def begin_to_lead(self) -> None:
        """Start from what the ledger says: another may have written it since."""
        self._epoch = 0

    async def count(self, snapshot: Snapshot, held: Held) -> bool:
        """Take in what ran at the snapshot's moment; whether what went by then may be forgotten."""
        try:
            await asyncio.to_thread(self._count, snapshot, held)
        except EbbtideError as error:
            self._metrics.ledger_failures.inc()
            self.notice = str(error)
            if isinstance(error, ConflictError):
                self._epoch = 0
            return self._epoch != 0  # what went is among what is not written yet
        self._metrics.ledger_written.set(snapshot.taken_at)
        self.notice = self._ledger.notice if self._ledger is not None else ""
        return True

    def close(self) -> None:
        """Give the database back."""
        if self._ledger is not None:
            self._ledger.close()

    def _count(self, snapshot: Snapshot, held: Held) -> None:
        ledger = self._opened()
        now_s = snapshot.taken_at
        self._running, changed = advance(self._running, held.holdings, held.gone, now_s, complete=held.complete)
        self._unwritten.update({(item.uid, item.begin_s): item for item in changed})
        self._unwritten_prices += self._priced(snapshot)
        ledger.write(self._epoch, math.floor(now_s), self._unwritten.values(), self._unwritten_prices)
        self._unwritten, self._unwritten_prices = {}, []
        if now_s >= self._roll_at:
            ledger.roll_up(self._epoch, now_s)
            self._roll_at = now_s + ROLL_EVERY_S

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._where)
        if not self._epoch:
            epoch = self._ledger.lead()
            self._running, self._unwritten, self._unwritten_prices = self._ledger.running(), {}, []
            self._prices = {record.pool: record for record in self._ledger.prices()}
            self._epoch = epoch
        return self._ledger

    def _priced(self, snapshot: Snapshot) -> list[PriceRecord]:
        """Records of pools whose price or billing is another than before; a pool's first counts for all before it."""
        found = []
        for pool in snapshot.pools:
            known = self._prices.get(pool.spec.name)
            from_s = math.floor(snapshot.taken_at) if known is not None else 0
            record = PriceRecord(pool.spec.name, from_s, pool.spec.price, pool.spec.billing, _listed(pool))
            if known is None or _terms(known) != _terms(record):
                self._prices[record.pool] = record
                found.append(record)
        return found


def _terms(record: PriceRecord) -> tuple[object, ...]:
    return record.price, record.billing, record.listed


def _listed(pool: PoolState) -> Listed | None:
    """What the price's source said, for a pool that has one."""
    if pool.spec.price is None or pool.spec.price.source is None:
        return None
    if pool.price_per_gpu_hour is None:
        return Listed(None, why="had none")
    return Listed(pool.price_per_gpu_hour, pool.currency, "", pool.next_price_change_at, pool.next_price_per_gpu_hour)
