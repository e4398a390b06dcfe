"""Which services pools couple, and what a programme over all of them would do instead of one after the other.

A service is bound where its own cheapest mix did not fit. Together with those that hold GPUs of the pools that it
lacks it forms a component, and so on while a pool could run short; every other service has its own optimum already, and
nothing is solved for it. Must never count GPUs that do not exist, nor those of a service that may not be moved.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ebbtide.core import mix, pools, programme, replicas
from ebbtide.core.cover import Option
from ebbtide.core.pool_draft import PoolDraft
from ebbtide.core.programme import Choice, Outcome, Party
from ebbtide.core.work import Asked, Draft, VariantDraft
from ebbtide.model.plan import PlacementPlan

MOST_CHOICES = 60_000  # of a component, for all its services together
FEWEST_EACH, MOST_EACH = 6, 400
FIRM_WEIGHT = 0.05  # what is not kept off spot, beside what is not carried at all
EPSILON = 1e-9


@dataclass(slots=True)
class Member:
    """One service of a component, and what its choices are made of."""

    draft: Draft
    asked: Asked
    wide: list[int]  # the most of each variant wherever its pool had room
    kept: list[int] = field(default_factory=list)  # replicas of each that no higher priority may claim
    pools: set[str] = field(default_factory=set)  # finite ones that it holds GPUs of, or was given some of
    most: list[int] = field(default_factory=list)  # of each variant that any mix could use
    before: tuple[int, ...] = ()  # its mix one after the other, and what that left of the need
    unplaced: float = 0.0

    def wish(self, variant: VariantDraft) -> int:
        """GPUs that it could at most want for the variant beyond those it was given."""
        return (self.most[variant.index] - variant.placed) * (variant.gpus or 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What a pool has for those who were placed: GPUs in all, and free GPUs by node before anybody was."""

    pool: PoolDraft
    left: float  # GPUs, after everybody was placed one after the other
    taken: int  # GPUs that new replicas were given of them
    free: Mapping[int, int]


def components(movable: Sequence[tuple[Draft, list[int]]], rooms: Mapping[str, Room]) -> list[list[Member]]:
    """The services that pools couple, in groups that share none; none where everybody has the mix it would have alone.

    `movable` are those for which another mix could be prescribed, as they were placed one after the other, and how many
    replicas of each variant no higher priority may claim.
    """
    first = next(
        (each for each, _ in movable if each.asked is not None and _tight(each) and _binds(each, each.asked)), None
    )
    if first is None:
        return []
    members = [_member(draft, asked, kept, rooms) for draft, kept in movable if (asked := draft.asked) is not None]
    by_pool: dict[str, list[Member]] = {}
    for member in members:
        for name in member.pools:
            by_pool.setdefault(name, []).append(member)
    groups, seen = [], set[str]()
    for member in members:
        draft = member.draft
        # who is in a group already need not be looked at: it is coupled anyhow
        if draft.state.spec.key in seen or not (draft is first or _is_bound(member)):
            continue
        group = [each for each in _closure(member, by_pool, rooms) if each.draft.state.spec.key not in seen]
        seen.update(each.draft.state.spec.key for each in group)
        groups.append(sorted(group, key=lambda m: (-m.draft.state.spec.rank, m.draft.state.spec.key)))
    return groups


def _member(draft: Draft, asked: Asked, kept: list[int], rooms: Mapping[str, Room]) -> Member:
    member = Member(draft, asked, _wide(draft), kept, before=_placed(draft), unplaced=draft.unplaced)
    member.most = [
        max(variant.placed, min(wide, most_useful(variant, asked)))
        for variant, wide in zip(draft.variants, member.wide, strict=True)
    ]
    for variant in draft.variants:
        if variant.pool is not None and variant.pool.name in rooms and (variant.placed or variant.observed):
            member.pools.add(variant.pool.name)
    return member


def _is_bound(member: Member) -> bool:
    return bool(_tight(member.draft)) and _binds(member.draft, member.asked)


def _wide(draft: Draft) -> list[int]:
    return [max(_widest(draft, variant), variant.placed) for variant in draft.variants]


def _widest(draft: Draft, variant: VariantDraft) -> int:
    """Room in a pool helps no variant whose replicas fail."""
    most = mix.widest(draft, variant)
    return min(most, replicas.healthy(variant)) if variant.backing_off else most


def _tight(draft: Draft) -> list[VariantDraft]:
    """The variants that only their pools kept from more than any mix could use."""
    asked = draft.asked
    if asked is None or (not asked.grows and draft.unplaced <= EPSILON):
        return []
    return [
        variant
        for variant, high in zip(draft.variants, draft.highs, strict=True)
        if (draft.unplaced > EPSILON or high < most_useful(variant, asked)) and high < _widest(draft, variant)
    ]


def _placed(draft: Draft) -> tuple[int, ...]:
    return tuple(variant.placed for variant in draft.variants)


def most_useful(variant: VariantDraft, asked: Asked) -> int:
    """The most replicas that any mix could use of it: twice what it takes alone, since others may slow it down."""
    if variant.rate <= 0.0 or variant.need <= EPSILON:
        return variant.sound
    return max(variant.sound, 1 + math.ceil(2.0 * asked.need * asked.keep * variant.need / variant.rate))


def _binds(draft: Draft, asked: Asked) -> bool:
    """Whether its own cheapest mix is another one where the pools have room."""
    if draft.unplaced > EPSILON:
        return True
    options = mix.options_of(draft, asked, _wide(draft))
    counts, missing, _ = mix.best_mix(draft, options, asked.need)
    now = dict(enumerate(_placed(draft)))
    if _lacks(draft, options, counts) < _lacks(draft, options, now) - 1e-6:
        return True
    return missing <= EPSILON and _price(options, counts) < _price(options, now) - 1e-6


def _lacks(draft: Draft, options: list[Option], counts: Mapping[int, int]) -> float:
    return mix.firm_lack(options, counts, draft.firm)


def _price(options: Iterable[Option], counts: Mapping[int, int]) -> float:
    return sum(option.price(counts.get(option.index, 0)) for option in options)


def _closure(first: Member, by_pool: Mapping[str, list[Member]], rooms: Mapping[str, Room]) -> list[Member]:
    """All that can be reached over pools that could run short if the members wanted all they may of them."""
    group, wishes = dict[int, Member](), dict[str, int]()

    def join(member: Member) -> None:
        if id(member) not in group:
            group[id(member)] = member
            for variant in member.draft.variants:
                if variant.pool is not None:
                    wishes[variant.pool.name] = wishes.get(variant.pool.name, 0) + member.wish(variant)

    join(first)
    lacking = {variant.pool.name for variant in _tight(first.draft) if variant.pool is not None}
    open_pools, done = sorted(lacking | first.pools), set[str]()
    while open_pools:
        name = open_pools.pop()
        if name in done:
            continue
        done.add(name)
        for member in by_pool.get(name, ()):
            join(member)
        open_pools += [other for other in sorted(rooms) if wishes.get(other, 0) > max(0.0, rooms[other].left)]
    return list(group.values())


@dataclass(slots=True)
class Decided:
    """What was found for one component. `parties`: as the programme saw them, where it decided; None: greedy stands."""

    group: list[Member]
    pools: tuple[str, ...]
    parties: list[Party] | None
    outcome: Outcome

    def turned_down(self) -> bool:
        """Take the prescriptions back where, as far as there is room today, they leave more missed than without them.

        Whoever waits for a place that another is to leave takes its own next best meanwhile, so that this is rare.
        Where nobody can move yet, it is not the programme that decided.
        """
        if self.parties is None:
            return False
        if all(_placed(member.draft) == member.before for member in self.group):
            self._stand("nobody can move yet to where it would have them")
            return False
        for level in sorted({party.level for party in self.parties}):
            before = after = 0.0
            for member, party in zip(self.group, self.parties, strict=True):
                if party.level == level:
                    need = max(1.0, member.asked.need)
                    before += party.penalty(member.unplaced / need)
                    after += party.penalty(member.draft.unplaced / need)
            if after > before + EPSILON * max(1.0, before):
                self._stand("there is no room yet for what it found")
                return True
        return False

    def _stand(self, why: str) -> None:
        self.parties, self.outcome = None, replace(self.outcome, chosen=None, why=why)
        for member in self.group:
            member.draft.prescribed = None

    def report(self) -> PlacementPlan:
        """Who decided, in words and numbers."""
        services = tuple(member.draft.state.spec.key for member in self.group)
        over = f"over {_many(len(services), 'service')} and {_many(len(self.pools), 'pool')}"
        gap = None if math.isinf(self.outcome.gap) else round(self.outcome.gap, 6)
        if self.parties is None:
            said = "" if gap is None else f" (gap {gap:.2%})"
            text = f"greedy: of the programme {over}, {self.outcome.why}{said}"
            return PlacementPlan("greedy", services, self.pools, gap, text)
        text = f"by the programme {over}, gap {gap:.2%}, {self.outcome.gain_words()}"
        return PlacementPlan("programme", services, self.pools, gap, text)


def decide(group: list[Member], rooms: Mapping[str, Room]) -> Decided:
    """Ask the programme, and prescribe what it found to the drafts. A fault of ours in it leaves greedy's mixes."""
    try:
        return _decide(group, rooms)
    except Exception as error:
        why = f"an error of Ebbtide's own: {type(error).__name__}: {error}; please report this"
        return Decided(group, (), None, Outcome(None, math.inf, 0.0, 0.0, why))


def _decide(group: list[Member], rooms: Mapping[str, Room]) -> Decided:
    rows = _rows(group, rooms)
    priorities = sorted({member.draft.state.spec.rank for member in group}, reverse=True)
    levels = {priority: level for level, priority in enumerate(priorities)}
    limit = max(FEWEST_EACH, min(MOST_EACH, MOST_CHOICES // len(group)))
    terms: list[list[tuple[int, int, int]]] = [[] for _ in group]  # of each member: (row, variant, GPUs of one)
    for position, row in enumerate(rows):
        for (number, index), gpus in row.terms.items():
            terms[number].append((position, index, gpus))
    parties = [
        _party(member, levels[member.draft.state.spec.rank], own, limit)
        for member, own in zip(group, terms, strict=True)
    ]
    outcome = programme.solve(parties, [row.room for row in rows])
    names = tuple(sorted({row.pool for row in rows}))
    if outcome.chosen is None:
        return Decided(group, names, None, outcome)
    for member, party, index in zip(group, parties, outcome.chosen, strict=True):
        member.draft.prescribed = party.choices[index].counts
    return Decided(group, names, parties, outcome)


def _many(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


@dataclass(slots=True)
class _Row:
    """GPUs of one pool: in all, or with `size` those of nodes with room for pods of so many."""

    pool: str
    size: int | None
    room: int
    terms: dict[tuple[int, int], int] = field(default_factory=dict)  # (member, variant) -> GPUs of one replica


def _rows(group: Sequence[Member], rooms: Mapping[str, Room]) -> list[_Row]:
    """The rows that could bind, and what one replica of each variant takes of them."""
    used: dict[str, list[tuple[int, VariantDraft]]] = {}
    for number, member in enumerate(group):
        for variant in member.draft.variants:
            if variant.pool is not None and variant.pool.name in rooms and variant.gpus:
                used.setdefault(variant.pool.name, []).append((number, variant))
    rows = []
    for name in sorted(used):
        rows.append(_budget(rooms[name], used[name]))
        if not rooms[name].pool.elastic:
            rows += _slots(rooms[name], used[name])
    return [row for row in rows if row.room < _most(row, group)]


def _most(row: _Row, group: Sequence[Member]) -> int:
    """Units that all its users together could ever take."""
    return sum(gpus * group[number].most[index] for (number, index), gpus in row.terms.items())


def _budget(room: Room, used: list[tuple[int, VariantDraft]]) -> _Row:
    total = room.left + sum(min(variant.charged, variant.placed) * (variant.gpus or 0) for _, variant in used)
    row = _Row(room.pool.name, None, max(0, math.floor(total + EPSILON)))
    row.terms = {(number, variant.index): variant.gpus or 0 for number, variant in used}
    return row


def _slots(room: Room, used: list[tuple[int, VariantDraft]]) -> list[_Row]:
    """For each size of pod: the GPUs of nodes that can take it. What leaves makes room for its own size and smaller.

    GPUs of different nodes do not add up for one pod: what two pods of one GPU leave is no room for one of two.
    """
    rows = []
    taken = room.taken - sum(variant.added * (variant.gpus or 0) for _, variant in used)
    for size in sorted({pools.pod_gpus(variant) for _, variant in used}):
        able = [(number, variant) for number, variant in used if pools.pod_gpus(variant) >= size]
        slots = sum(count * (free // size) * size for free, count in room.free.items())
        held = sum(variant.observed * (variant.gpus or 0) for _, variant in able)
        row = _Row(room.pool.name, size, max(0, slots - max(0, taken)) + held)
        row.terms = {(number, variant.index): variant.gpus or 0 for number, variant in able}
        rows.append(row)
    return rows


def _new(variant: VariantDraft) -> int:
    return max(0, variant.charged - variant.observed)


def _party(member: Member, level: int, terms: Sequence[tuple[int, int, int]], limit: int) -> Party:
    draft, asked = member.draft, member.asked
    options = mix.options_of(draft, asked, member.wide)
    now = _placed(draft)
    gives = level > 0 or any(now[option.index] < option.low for option in options)
    mixes = _Mixes(draft, asked, options)
    least = tuple(min(each, count) for each, count in zip(member.kept, now, strict=True))
    vectors = mixes.vectors(now, least if gives else None, draft.state.spec.scaling.max_replicas, limit)
    choices = tuple(
        Choice(
            counts,
            mixes.price(counts),
            missed := mixes.missed(counts),
            _units(counts, terms),
            mixes.loses(counts, missed),
            mixes.unwelcome(counts),
        )
        for counts in vectors
    )
    weight = mixes.weight(choices)
    return Party(draft.state.spec.key, level, weight, choices, vectors.index(now), _units(least, terms))


def _units(counts: Sequence[int], terms: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int], ...]:
    """(row, GPUs) of these counts, given (row, variant, GPUs of one) sorted by row."""
    found: list[tuple[int, int]] = []
    for row, index, gpus in terms:
        count = counts[index]
        if not count:
            continue
        if found and found[-1][0] == row:
            found[-1] = (row, found[-1][1] + count * gpus)
        else:
            found.append((row, count * gpus))
    return tuple(found)


class _Mixes:
    """The mixes of one service: what they cost, and the share of the need that they leave."""

    def __init__(self, draft: Draft, asked: Asked, options: Sequence[Option]) -> None:
        self.options = list(options)
        self._unwelcome = [option for option in options if option.unwelcome > 1.0]
        self._draft, self._asked = draft, asked
        self._shares: dict[int, list[tuple[int, float]]] = {}
        self._stays = {option.index for option in options if option.firm}
        self._needed = [(o.index, min(o.low, o.running)) for o in options if min(o.low, o.running) > 0]
        self._bits = [(option.index, 1 << option.index) for option in options]
        most = sum(option.high * option.share for option in options if option.firm)
        self._firm = min(draft.firm, most / asked.need) if asked.need > 0.0 else 0.0

    def price(self, counts: Sequence[int]) -> float:
        """Money an hour."""
        total = 0.0
        for option in self.options:
            if count := counts[option.index]:
                total += option.price(count)
        return total

    def unwelcome(self, counts: Sequence[int]) -> float:
        """Of the price, what stand-ins count beyond their money."""
        dear = self._unwelcome
        return (
            sum(option.price(counts[option.index]) * (1.0 - 1.0 / option.unwelcome) for option in dear) if dear else 0.0
        )

    def missed(self, counts: Sequence[int]) -> float:
        """Share of the need, 0..1, with a little for what should not run on spot alone."""
        need, shares = self._asked.need, self._of(counts)
        carried = 0.0
        for index, share in shares:
            carried += share * counts[index]
        missed = (need - carried) / need if carried < need - EPSILON else 0.0
        if self._firm <= 0.0:
            return missed
        kept = sum(share * counts[index] for index, share in shares if index in self._stays)
        return missed + FIRM_WEIGHT * max(0.0, self._firm - kept / need)

    def loses(self, counts: Sequence[int], missed: float) -> bool:
        """It gives up what runs and is needed."""
        if not self._asked.short:
            return missed > EPSILON
        return any(counts[index] < least for index, least in self._needed)

    def weight(self, choices: Iterable[Choice]) -> float:
        """Money an hour that carrying the need costs: the cheapest choice that does, or what comes nearest to it."""
        carrying = min((c.cost - c.unwelcome for c in choices if c.missed <= EPSILON), default=None)
        if carrying is not None:
            return max(EPSILON, carrying)
        return max(
            EPSILON, min((option.cost / option.share for option in self.options), default=0.0) * self._asked.need
        )

    def _of(self, counts: Sequence[int], also: Option | None = None) -> list[tuple[int, float]]:
        mask = 0 if also is None else 1 << also.index
        for index, bit in self._bits:
            if counts[index] > 0:
                mask |= bit
        known = self._shares.get(mask)
        if known is None:
            members = [option for option in self.options if mask >> option.index & 1]
            known = [(option.index, option.share) for option in mix.sharing(self._draft, members)]
            self._shares[mask] = known
        return known

    def vectors(
        self, now: tuple[int, ...], least: Sequence[int] | None, most: int, limit: int
    ) -> list[tuple[int, ...]]:
        """Mixes worth looking at: `now`, those that just carry the need, and where that may fail those below.

        Few numbers of all variants but one, which then carries the rest. Where there are thousands of services, few
        choices of each are enough: all but as many as there are rows take one of their extremes anyhow.
        """
        found: dict[tuple[int, ...], None] = {now: None}
        low = {o.index: o.low if least is None else min(o.low, least[o.index]) for o in self.options}
        partial = self._asked.short or least is not None
        width = self._width(limit, partial)
        steps = max(2, width)
        top = {option.index: self._top(option, now) for option in self.options}
        levels = {
            o.index: _levels(low[o.index], top[o.index], (now[o.index], o.running, o.low), width) for o in self.options
        }
        for main in self.options:
            others = [option for option in self.options if option is not main]
            for combination in itertools.product(*(levels[option.index] for option in others)):
                counts = [0] * len(now)
                for option, count in zip(others, combination, strict=True):
                    counts[option.index] = count
                full = self._completing(main, counts, low[main.index], top[main.index])
                fewer = _levels(low[main.index], full, (now[main.index], main.running), steps) if partial else ()
                for count in (full, *fewer):
                    counts[main.index] = count
                    if sum(counts) <= most:
                        found[tuple(counts)] = None
        return list(found)

    def _width(self, limit: int, partial: bool) -> int:
        """How many numbers of each variant make about `limit` mixes."""
        count = max(1, len(self.options))
        return max(1, int((limit / count) ** (1.0 / max(1, count - 1 + partial))))

    def _top(self, option: Option, now: Sequence[int]) -> int:
        needed = (
            math.ceil(2.0 * self._asked.need / option.share)
            if option.share * option.high > self._asked.need
            else option.high
        )
        return max(now[option.index], option.low, min(option.high, needed))

    def _completing(self, main: Option, counts: Sequence[int], low: int, top: int) -> int:
        """So many of `main` that the need is carried, as far as `top` goes."""
        shares, own, rest = self._of(counts, main), 0.0, self._asked.need
        for index, share in shares:
            if index == main.index:
                own = share
            else:
                rest -= share * counts[index]
        if main.firm and self._firm > 0.0:
            kept = sum(share * counts[i] for i, share in shares if i != main.index and i in self._stays)
            rest = max(rest, self._firm * self._asked.need - kept)
        if rest <= EPSILON:
            return low
        return max(low, min(top, math.ceil(rest / own - EPSILON)))


def _levels(low: int, top: int, first: Iterable[int], width: int) -> list[int]:
    """At most `width` numbers between low and top: all of them, or those that matter first and then evenly spread."""
    if top - low < width:
        return list(range(low, top + 1))
    if width == 1:
        return [low]
    wanted = {low: None}
    for count in first:
        if low <= count <= top:
            wanted[count] = None
    if len(wanted) >= width:
        return list(wanted)[:width]
    near = (count + step for count in tuple(wanted) for step in (1, -1))
    spread = (low + (top - low) * step // (width - 1) for step in range(width))
    for count in (*near, *spread):
        if low <= count <= top:
            wanted[count] = None
    return list(wanted)[:width]
