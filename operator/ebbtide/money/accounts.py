"""What policies have spent so far: kept up from cycle to cycle with what holds GPUs, exactly, without a database.

Every pod that a policy pays for is counted once for each whole second that it is billed, as in the ledger; its cost is
GPU-seconds by the price that held. Until when each is counted is remembered by uid, so an end that becomes known late
takes back what was counted beyond it. A policy begins with what its status says, and what was there while nobody
watched costs no less than the rate that the status says; then it agrees with the ledger, which knows better, and is
compared with it once an hour from then on.

What runs at a price that nobody knows in the policy's currency is kept apart until one is known (`money.unpriced`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from types import MappingProxyType

import msgspec

from ebbtide.model.money import Lifetime, Payer, PriceStep
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Account, Compared, Others, PolicyState, PoolState
from ebbtide.model.spec import Billing, CeilingKind, PolicyScope, PolicySpec, Spec
from ebbtide.money import prices, unpriced
from ebbtide.money.calendar import Span, touching, zone_named
from ebbtide.money.idle import OWED_S, Holder, divided, shares
from ebbtide.money.lifetimes import Holding
from ebbtide.money.unpriced import Place, Unpriced

HOUR_S = Decimal(3600)
_NOTHING = Decimal(0)
_CENT = HOUR_S / 100
_SPANS = {CeilingKind.DAY: Span.DAY, CeilingKind.MONTH: Span.MONTH}
_AHEAD_S = 7200.0  # periods that begin later than this beyond the outage reserve are not looked at
_AWAY_S = 86_400  # for so long what vanished may come back and not be counted again
_MARKS = 60  # counts that the ledger may be behind
COMPARED_EVERY_S = 3600
_COMPARED = 200  # policies at once: the ledger adds up for all of them together

Key = unpriced.Key
Labels = tuple[tuple[str, str], ...]


class Saved(Spec, frozen=True):
    """What a policy's status says: spent by period up to `through_s`, and what was spent an hour then."""

    through_s: float
    per_hour: Decimal
    accounts: tuple[Account, ...]
    pending: bool = False  # the ledger was to be asked what else it had spent


class Shown(Spec, frozen=True):
    """What there is at `now_s` (unix seconds). `gone`: uids that were seen to go, and when; `labels`: of services."""

    now_s: float
    pools: Sequence[PoolState]
    labels: Mapping[str, Labels]
    holdings: Sequence[Holding]
    gone: Mapping[str, float]
    complete: bool = True  # what is not shown does not exist
    unread: frozenset[str] = frozenset()  # services by namespace/name that cannot be read just now
    listed: Mapping[str, Decimal] = MappingProxyType({})  # by pool whose source is silent: what it said last, if known


@dataclass(slots=True)
class _Book:
    """One policy's accounts, in price x GPU-seconds. Nothing before `since_s` is counted here."""

    spec: PolicySpec
    since_s: int
    accounts: dict[Key, Decimal] = field(default_factory=dict)
    saved: Saved | None = None  # until what nobody watched is filled in
    rate: Decimal = _NOTHING
    others: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # see `Others`
    settled: bool = False  # the ledger was asked
    compared: Compared | None = None  # what it said then
    fresh: bool = False  # nobody ever said what it had spent
    marks: dict[int, dict[Key, Decimal]] = field(default_factory=dict)  # what was spent by then, until it is settled
    unpriced: Unpriced = field(default_factory=Unpriced)
    outside: dict[str, int] = field(default_factory=dict)  # by name of a node in no pool: GPUs that it would pay for


class Accounts:
    """All policies' books. Calls must not overlap."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._until: dict[str, int] = {}  # by uid: until when it is counted
        self._ran: dict[str, Holding] = {}  # pods that ran at the last count
        self._away: dict[str, int] = {}  # uids that are not shown any more: until when they were counted
        self._owing: dict[str, tuple[Holder, ...]] = {}  # by node that nobody holds: who held it last
        self._ending: tuple[Holding, ...] = ()  # what ended within the second of the last count, which is not over then
        self._labels: dict[str, Labels] = {}  # of services that cannot be read now, as last read
        self._listed: dict[str, Decimal] = {}  # by pool: the last price that its source knew
        self._pools: dict[str, PoolState] = {}  # as of the last count: from then on a new price holds
        self._effective: dict[str, float | None] = {}  # by pool: from when on its price says that it holds
        self.through_s = 0  # unix second up to which all is counted; 0: nothing is yet

    def count(self, policies: Iterable[PolicySpec], saved: Callable[[PolicySpec], Saved], shown: Shown) -> None:
        """Count what was held up to now. `saved` is asked for policies that are new here."""
        at_s = max(math.floor(shown.now_s), self.through_s)  # a clock that was set back moves nothing backwards
        before_s = self.through_s or at_s
        known = {pool.spec.name: pool for pool in shown.pools}
        shown = self._with_ending(shown)
        self._listed = dict(shown.listed) | self._listed
        for pool in shown.pools:
            if pool.price_per_gpu_hour is not None:
                self._listed[pool.spec.name] = pool.price_per_gpu_hour
        costs = _Costs(
            self._pools | {name: pool for name, pool in known.items() if name not in self._pools}, self._listed
        )
        self._open(policies, saved, before_s, at_s)
        if self._priced_anew(shown.pools):  # only the ledger knows what that comes to
            for book in self._books.values():
                book.settled, book.fresh, book.marks = False, True, {}
        pool_of = {item.uid: item.payer.pool for item in shown.holdings if item.is_node}
        for book in self._books.values():
            for key, cost in book.unpriced.pay(book.accounts, partial(costs.now, spec=book.spec, at_s=at_s), pool_of):
                book.accounts[key] += cost
        books, held = self._charge(shown, at_s, costs)
        self._charge_idle(shown, books, held, (before_s, at_s), costs)
        self._compare_again(at_s)
        for book in self._books.values():
            _fill_in(book, at_s)
            if not book.settled:
                book.marks[at_s] = dict(book.accounts)
                while len(book.marks) > _MARKS:
                    book.marks.pop(next(iter(book.marks)))
        self.through_s, self._pools = at_s, known

    @property
    def holders(self) -> frozenset[str]:
        """Services by namespace/name whose pods ran at the last count."""
        return frozenset(_key(item.payer) for item in self._ran.values() if item.payer.service)

    def ask_again(self) -> None:
        """The ledger knows more of the past by now."""
        for book in self._books.values():
            book.settled, book.marks = False, {}

    def _compare_again(self, at_s: int) -> None:
        """Those whose last comparison is an hour old, the oldest first, once all others are through.

        Not those that state exchange rates: what was paid by another rate would be counted anew by the one of now.
        """
        books = self._books.values()
        if not all(book.settled for book in books):
            return
        due = [
            (book.compared.at_s, book)
            for book in books
            if book.compared is not None
            and book.compared.at_s <= at_s - COMPARED_EVERY_S
            and not book.spec.exchange_rates
        ]
        for _, book in sorted(due, key=lambda item: item[0])[:_COMPARED]:
            book.settled, book.marks = False, {}

    def recall(self, departed: Iterable[Lifetime]) -> None:
        """Pods that went lately, as the ledger has them: who held a node last pays for it, also after a restart."""
        found: dict[str, list[Holder]] = defaultdict(list)
        for item in departed:
            if item.node and item.node not in self._owing:
                found[item.node].append(Holder(item.uid, item.payer, item.gpus, item.begin_s, item.end_s))
        self._owing |= {node: _last(pods, self.through_s) for node, pods in found.items()}

    def unsettled(self) -> list[tuple[PolicySpec, tuple[Key, ...]]]:
        """Policies of which the ledger was not asked yet what they have spent, and their periods."""
        return [(book.spec, tuple(book.accounts)) for book in self._books.values() if not book.settled]

    def settle(
        self,
        asked: PolicySpec,
        spent: Mapping[Key, Decimal],
        through_s: int,
        since_s: int,
        unsure: Collection[Key] = (),
        owed: Mapping[Key, Mapping[str, int]] = MappingProxyType({}),
    ) -> str:
        """Take over what was spent up to `through_s` as the ledger knows it, which begins with `since_s`.

        `asked`: the policy as it was when the ledger was asked; one that counts something else by now is asked again.
        `unsure`: periods in which more may have been spent than it knows; `owed`: GPU-seconds by pool that it knows
        and of which it knows no price, taken over where nobody said what the policy had spent.

        Returns what was mended, in words; empty: it was the same to the cent, or cannot be compared yet.
        """
        book, mended, less = self._books.get(asked.uid), [], []
        if book is None or through_s not in book.marks or terms(book.spec) != terms(asked):
            return ""
        for key, amount in spent.items():
            counted = book.marks[through_s].get(key)
            if counted is None or key not in book.accounts:
                continue
            exact = amount * HOUR_S
            # of what came before the ledger began, and of what was spent by labels, at an exchange rate or at a price
            # that it does not know, status knows more
            if exact < counted and (since_s > key[1] or key in unsure):
                if counted - exact >= _CENT:
                    less.append(f"{key[0].value} {exact / HOUR_S:.2f} of {counted / HOUR_S:.2f}")
                exact = counted
            if abs(exact - counted) >= _CENT:
                mended.append(f"{key[0].value} {counted / HOUR_S:.2f} -> {exact / HOUR_S:.2f}")
            book.accounts[key] += exact - counted
        for key, known in owed.items() if book.fresh else ():
            if key in book.accounts:
                book.unpriced.take_over(key, known.items())
        book.compared = Compared(float(through_s), ", ".join(mended), ", ".join(less), book.fresh)
        book.settled, book.fresh, book.marks = True, False, {}
        return f"CostPolicy {book.spec.name}: spent by the ledger: {', '.join(mended)}" if mended else ""

    def states(self) -> tuple[PolicyState, ...]:
        """What plans are held under, sorted by name."""
        books = sorted(self._books.values(), key=lambda book: book.spec.name)
        return tuple(
            PolicyState(
                spec=book.spec,
                accounts=tuple(
                    Account(*key, spent / HOUR_S, book.unpriced.by_pool(key))
                    for key, spent in sorted(book.accounts.items(), key=lambda item: item[0])
                ),
                through_s=float(self.through_s),
                per_hour=book.rate,
                others=tuple(Others(pool, *gpus) for pool, gpus in sorted(book.others.items())),
                outside=tuple(sorted(book.outside.items())),
                faults=_faults(book),
                compared=book.compared,
            )
            for book in books
        )

    def _open(
        self, policies: Iterable[PolicySpec], saved: Callable[[PolicySpec], Saved], before_s: int, at_s: int
    ) -> None:
        """Books of the policies that there are. One that counts something else now goes on until the ledger knows."""
        books: dict[str, _Book] = {}
        for spec in policies:
            book = self._books.get(spec.uid)
            if book is None:
                book = _opened(spec, saved(spec), before_s)
            elif _calendar(book.spec) != _calendar(spec):
                book = _Book(spec, at_s, fresh=True)
            elif _counts(book.spec) != _counts(spec):
                book.settled, book.fresh, book.marks = False, True, {}
            book.spec = spec
            _roll(book, at_s)
            book.rate, book.others, book.outside = _NOTHING, {}, {}
            books[spec.uid] = book
        self._books = books

    def _priced_anew(self, pools: Sequence[PoolState]) -> bool:
        """Whether the price of a pool that was known before says that it holds from another moment on."""
        said = {pool.spec.name: None if (price := pool.spec.price) is None else price.effective_from for pool in pools}
        known, self._effective = self._effective, self._effective | said
        return any(said[name] is not None and said[name] != known[name] for name in said if name in known)

    def _charge(self, shown: Shown, at_s: int, costs: "_Costs") -> tuple["_Index", dict[str, list[Holder]]]:
        """What pods held, each from where it was counted last; who pays for what, and who was on each node."""
        # a pod that outlives its node costs nothing after it, where nodes are billed
        node_ends = {
            item.uid: _end_of(item, shown.gone)
            for item in shown.holdings
            if item.is_node and costs.by_node(item.payer.pool)
        }
        self._labels = {key: self._labels[key] for key in shown.unread if key in self._labels} | dict(shown.labels)
        books, until, ran = _Index(self._books.values(), self._labels), {}, {}
        on_node: dict[str, list[Holder]] = defaultdict(list)
        # most pods of a pool were counted last at the same second, so a policy pays for them as one
        held: dict[tuple[str, Place, int, int], int] = defaultdict(int)
        runs: dict[tuple[str, str], int] = defaultdict(int)
        ending: list[Holding] = []
        listed = {item.uid for item in shown.holdings}
        # what went while nobody watched ran until now, and goes on where the list may lack it
        missed_s = max(shown.now_s, at_s) if shown.complete else None
        vanished = [
            msgspec.structs.replace(item, end_s=shown.gone.get(uid, missed_s))
            for uid, item in self._ran.items()
            if uid not in listed
        ]
        for each in (*shown.holdings, *vanished):
            item = self._as_it_ran(each, shown)
            ends = [end for end in (_end_of(item, shown.gone), node_ends.get(item.node)) if end is not None]
            if ends:
                until_s = min([at_s, *map(math.ceil, ends)])
                ending += _still_due(item, min(ends), at_s)
            else:  # by a clock that is ahead of ours it may begin in a moment
                until_s = max(at_s, self._counted(item.uid, math.floor(item.begin_s)))
            until[item.uid] = until_s
            if item.is_node:
                continue
            begin_s = min(math.floor(item.begin_s), until_s)
            on_node[item.node].append(Holder(item.uid, item.payer, item.gpus, begin_s, until_s if ends else None))
            for book in books.of(item.payer):
                from_s = self._counted(item.uid, max(math.floor(item.begin_s), book.since_s))
                if item.uid in self._until or from_s < until_s:  # what ended before the book began is none of it
                    held[book.spec.uid, _place(item), from_s, until_s] += item.gpus
                if not ends:
                    runs[book.spec.uid, item.payer.pool] += item.gpus
                    _run_beside(book, item, at_s, _key(item.payer) in shown.unread)
            if not ends:
                ran[item.uid] = item
        for (uid, place, from_s, until_s), gpus in held.items():
            _add(self._books[uid], gpus, place, from_s, until_s, costs)
        for (uid, pool), gpus in runs.items():
            book = self._books[uid]
            book.rate += gpus * (costs.now(pool, book.spec, at_s) or _NOTHING)
        gone = {uid: end_s for uid, end_s in self._until.items() if uid not in until}
        self._away = {uid: end_s for uid, end_s in (self._away | gone).items() if end_s > at_s - _AWAY_S}
        self._until, self._ran, self._ending = until, ran, tuple(ending)
        return books, on_node

    def _with_ending(self, shown: Shown) -> Shown:
        """And what had ended within the second of the last count: by now it may be forgotten, and that second is due.

        A pod that went at 12:00:10.4 and is seen to by 12:00:10.7 has cost 10 s then, and 11 s in the end.
        """
        listed = {item.uid for item in shown.holdings} if self._ending else ()
        due = tuple(item for item in self._ending if item.uid not in listed)
        return msgspec.structs.replace(shown, holdings=(*shown.holdings, *due)) if due else shown

    def _counted(self, uid: str, begin_s: int) -> int:
        """Until when it is counted; of one that is new, from when it is to be."""
        known = self._until.get(uid, self._away.get(uid))
        return begin_s if known is None else known

    def _as_it_ran(self, item: Holding, shown: Shown) -> Holding:
        """Whose it is nobody knows once it has gone, nor while its service cannot be read: as at the last count."""
        ran = self._ran.get(item.uid)
        if ran is None or item.payer.service or not ran.payer.service:
            return item
        gone = item.end_s is not None or item.uid in shown.gone
        known = gone or _key(ran.payer) in shown.unread
        return msgspec.structs.replace(item, payer=ran.payer) if known else item

    def _charge_idle(
        self,
        shown: Shown,
        books: "_Index",
        held: Mapping[str, list[Holder]],
        span_s: tuple[int, int],
        costs: "_Costs",
    ) -> None:
        """Of nodes that are billed, what no pod held in the span: of those who pay for it, see `money.idle`."""
        whole = [book for book in self._books.values() if book.spec.pays_all]
        before_s, at_s = span_s
        idle: dict[tuple[str, str, int, int], int] = defaultdict(int)
        owing: dict[str, tuple[Holder, ...]] = {}
        for item in shown.holdings:
            shared = costs.shares_idle(item.payer.pool)
            if not item.is_node or not (shared or (whole and costs.by_node(item.payer.pool))):
                continue
            begin_s, end_s = max(before_s, math.floor(item.begin_s)), self._until[item.uid]
            pods = {pod.uid: pod for pod in (*self._owing.get(item.uid, ()), *held.get(item.uid, ()))}.values()
            for share in shares(item.gpus, pods, begin_s, end_s):
                for book in books.of(share.payer) if shared and share.payer is not None else whole:
                    idle[book.spec.uid, item.payer.pool, share.begin_s, share.end_s] += share.gpus
            if end_s >= at_s:
                here = [pod for pod in pods if pod.end_s is None]
                last = () if here else _last(pods, at_s)
                if last:
                    owing[item.uid] = last
                free = item.gpus - sum(pod.gpus for pod in here)
                parts = divided(free, here or last) if shared and free > 0 else []
                for payers, gpus in [(books.of(pod.payer), gpus) for pod, gpus in parts] or [(whole, free)]:
                    for book in payers if gpus > 0 else ():
                        _run_idle(book, item.payer.pool, gpus, at_s, costs)
        self._owing = owing
        for (uid, pool, from_s, until_s), gpus in idle.items():
            _add(self._books[uid], gpus, (pool, ""), from_s, until_s, costs)


class _Costs:
    """What a GPU of each pool costs over a span; most spans are those of all pods since the last count."""

    def __init__(self, pools: Mapping[str, PoolState], listed: Mapping[str, Decimal]) -> None:
        self._pools, self._listed = pools, listed
        self._known: dict[tuple[str, int, int], Decimal | None] = {}

    def of(self, name: str, spec: PolicySpec, begin_s: int, end_s: int) -> Decimal | None:
        """Price x seconds over [begin_s, end_s) in the policy's currency; None: nobody knows it."""
        pool = self._pools.get(name)
        worth = None if pool is None or pool.spec.price is None else spec.worth(pool.spec.price.currency)
        own = None if pool is None or worth is None else self._own(name, pool, begin_s, end_s)
        return None if own is None or worth is None else own * worth

    def _own(self, name: str, pool: PoolState, begin_s: int, end_s: int) -> Decimal | None:
        """In the pool's own currency."""
        key = name, begin_s, end_s
        if key not in self._known:
            steps = self._steps(pool, begin_s, end_s)
            ends = [*(step.at_s for step in steps[1:]), end_s]
            parts = [
                step.per_gpu_hour * int(end - step.at_s)
                for step, end in zip(steps, ends, strict=True)
                if step.per_gpu_hour is not None
            ]
            self._known[key] = sum(parts, _NOTHING) if len(parts) == len(steps) else None
        return self._known[key]

    def by_node(self, name: str) -> bool:
        """Whether the pool's nodes are what is billed."""
        pool = self._pools.get(name)
        return pool is not None and pool.spec.billing is Billing.NODE

    def shares_idle(self, name: str) -> bool:
        """Whether idle GPUs of the pool's nodes have payers."""
        pool = self._pools.get(name)
        return pool is not None and pool.spec.shares_idle

    def now(self, name: str, spec: PolicySpec, at_s: int) -> Decimal | None:
        """The price at that second; None: nobody knows it."""
        return self.of(name, spec, at_s, at_s + 1)

    def _steps(self, pool: PoolState, begin_s: int, end_s: int) -> Sequence[PriceStep]:
        if pool.spec.price is not None and pool.spec.price.source is not None:
            if pool.price_per_gpu_hour is None:  # it is silent: as it said last
                return (PriceStep(float(begin_s), self._listed.get(pool.spec.name)),)
            coming = prices.shown_steps(pool, float(begin_s), float(end_s))
            return [PriceStep(float(math.floor(step.at_s)), step.per_gpu_hour) for step in coming]
        return prices.steps(pool.spec.name, pool.spec.price, float(begin_s), float(end_s))


class _Index:
    """Which books a payer is put down to."""

    def __init__(self, books: Iterable[_Book], labels: Mapping[str, Labels]) -> None:
        self._labels = labels
        self._everywhere: list[_Book] = []
        self._within: dict[str, list[_Book]] = defaultdict(list)
        self._known: dict[tuple[str, str], list[_Book]] = {}
        for book in books:
            if not book.spec.namespaces:
                self._everywhere.append(book)
            for namespace in book.spec.namespaces:
                self._within[namespace].append(book)

    def of(self, payer: Payer) -> list[_Book]:
        """Those that pay for it."""
        key = payer.namespace, payer.service
        if key not in self._known:
            labels = self._labels.get(_key(payer), ())
            near = [*self._everywhere, *self._within.get(payer.namespace, ())]
            self._known[key] = [book for book in near if pays(book.spec, payer, labels)]
        return self._known[key]


def pays(spec: PolicySpec, payer: Payer, labels: Labels) -> bool:
    """Whether the policy pays for what a pod of the payer holds; `labels` are its service's."""
    if not payer.service and spec.scope is not PolicyScope.ALL_GPU_PODS:
        return False
    return spec.selects(payer.namespace, labels)


def _opened(spec: PolicySpec, saved: Saved, before_s: int) -> _Book:
    if not saved.through_s:
        return _Book(spec, before_s, fresh=True)
    since_s = min(math.floor(saved.through_s), before_s)
    book = _Book(spec, since_s, saved=saved, fresh=saved.pending)
    _roll(book, since_s)
    for account in saved.accounts:
        key = account.kind, account.start_s, account.end_s
        if key in book.accounts:  # else its time zone is another now
            book.accounts[key] = account.spent * HOUR_S
            for pool, seconds in account.unpriced:
                book.unpriced.add(key, (pool, ""), seconds)
    return book


def _calendar(spec: PolicySpec) -> tuple[object, ...]:
    return spec.currency, spec.time_zone, spec.month_starts_on


def _counts(spec: PolicySpec) -> tuple[object, ...]:
    return spec.namespaces, spec.match_labels, spec.scope, {kind for kind, _ in spec.ceilings}


def terms(spec: PolicySpec) -> tuple[object, ...]:
    """What it counts, and by which calendar: of other terms what was spent under these says nothing."""
    return *_calendar(spec), *_counts(spec)


def _roll(book: _Book, at_s: int) -> None:
    """Accounts of the periods that there are now and soon; those that are over are the ledger's."""
    zone, spec = zone_named(book.spec.time_zone), book.spec
    if zone is None:
        return
    wanted: dict[Key, Decimal] = {}
    for kind, _ in spec.ceilings:
        if kind in _SPANS:
            until_s = at_s + spec.outage_reserve_s + _AHEAD_S
            for period in touching(_SPANS[kind], zone, min(at_s, book.since_s), until_s, spec.month_starts_on):
                key = kind, period.start_s, period.end_s
                if period.end_s > at_s or book.saved is not None:
                    wanted[key] = book.accounts.get(key, _NOTHING)
    book.accounts = wanted


def _place(item: Holding) -> Place:
    return item.payer.pool, "" if item.payer.pool else item.node


def _add(book: _Book, gpus: int, place: Place, from_s: int, until_s: int, costs: _Costs) -> None:
    """GPUs from one second to another, backwards where less was held than counted, to the periods that they fall in."""
    first_s, last_s, way = min(from_s, until_s), max(from_s, until_s), 1 if from_s <= until_s else -1
    for key in book.accounts:
        begin_s, end_s = max(first_s, int(key[1])), min(last_s, int(key[2]))
        if begin_s < end_s:
            cost = costs.of(place[0], book.spec, begin_s, end_s)
            if cost is None:
                book.unpriced.add(key, place, way * gpus * (end_s - begin_s))
            else:
                book.accounts[key] += way * gpus * cost


def _run_beside(book: _Book, item: Holding, at_s: int, unread: bool) -> None:
    """It runs now; noted where nobody plans for it, as it is somebody else's or `unread`, or on a node of no pool."""
    if item.on:
        book.outside[item.on] = book.outside.get(item.on, 0) + item.gpus
    if unread or not item.payer.service:
        lasting, passing, idle = book.others.get(item.payer.pool, (0, 0, 0))
        lasts = not unread and at_s - item.begin_s >= book.spec.outage_reserve_s
        more = (item.gpus, 0) if lasts else (0, item.gpus)
        book.others[item.payer.pool] = lasting + more[0], passing + more[1], idle


def _run_idle(book: _Book, pool: str, gpus: int, at_s: int, costs: _Costs) -> None:
    """It pays for them now, and nobody holds them."""
    book.rate += gpus * (costs.now(pool, book.spec, at_s) or _NOTHING)
    lasting, passing, idle = book.others.get(pool, (0, 0, 0))
    book.others[pool] = lasting, passing, idle + gpus


def _last(pods: Collection[Holder], at_s: int) -> tuple[Holder, ...]:
    """Of a node that nobody holds, who held it last, while they owe for it."""
    gone = [pod for pod in pods if pod.gpus > 0 and pod.end_s is not None and pod.end_s > pod.begin_s]
    last_s = max((pod.end_s or 0 for pod in gone), default=0)
    return tuple(pod for pod in gone if pod.end_s == last_s) if at_s < last_s + OWED_S else ()


def _key(payer: Payer) -> str:
    return f"{payer.namespace}/{payer.service}"


def _fill_in(book: _Book, at_s: int) -> None:
    """While nobody watched as much ran as the status says, unless more was seen since to have run."""
    if book.saved is None:
        return
    before = {(item.kind, item.start_s, item.end_s): item.spent * HOUR_S for item in book.saved.accounts}
    for key, spent in book.accounts.items():
        unseen_s = max(0, min(at_s, int(key[2])) - max(book.since_s, int(key[1])))
        book.accounts[key] = max(spent, before.get(key, _NOTHING) + book.saved.per_hour * unseen_s)
    book.saved = None
    book.accounts = {key: spent for key, spent in book.accounts.items() if key[2] > at_s}


def _end_of(item: Holding, gone: Mapping[str, float]) -> float | None:
    return item.end_s if item.end_s is not None else gone.get(item.uid)


def _still_due(item: Holding, end_s: float, at_s: int) -> list[Holding]:
    """It, where it ended within the second `at_s`: that one is not over, and is billed."""
    return [msgspec.structs.replace(item, end_s=end_s)] if end_s > at_s else []


def _faults(book: _Book) -> tuple[tuple[str, str], ...]:
    if zone_named(book.spec.time_zone) is None:
        text = f"spec.timeZone: there is no time zone {book.spec.time_zone!r}; write an IANA name such as Europe/Berlin"
        return ((Code.INVALID_TIME_ZONE.value, text),)
    if book.fresh and not book.settled and book.accounts:
        return ((Code.PENDING.value, "what its periods have cost so far is not known yet"),)
    return ()
