"""Jobs that could not all have their best place, at once: a mixed-integer programme over a few places of each.

Asked are those that got something worse than they would have had alone, and those that hold what these would have
had; all others stay. Limits are of nodes and of gap, never of time (`core.programme`). What was there before is the
fallback, and what comes back is put together once more here: it stands only if it fits and is better.
"""

from collections.abc import Callable, Sequence

from ebbtide.core import programme
from ebbtide.core.batch.field import Field
from ebbtide.core.batch.work import Item, Place
from ebbtide.core.programme import Choice, Party

MOST_PARTIES = 40
MOST_ASKED = 400  # waiting Jobs, above which nobody asks who would have been where alone
MOST_CHOICES = 12
WORSE = 0.01  # relatively
_LEAST = 1e-6

Placed = list[tuple[Item, Place | None]]


def resolve(placed: Placed, field_: Field, is_better: Callable[[Placed, Placed], bool]) -> Placed:
    """The same, or better. `field_` is without any of them, before and after."""
    if len(placed) < 2 or len(placed) > MOST_ASKED:
        return placed
    alone = [_best(item, field_) for item, _ in placed]
    unlucky = [index for index, (_, place) in enumerate(placed) if _is_worse(place, alone[index])]
    if not unlucky:
        return placed
    group = _group(placed, alone, unlucky)
    if len(group) < 2:
        return placed
    saved = field_.save()
    for index, (item, place) in enumerate(placed):
        if index not in group and place is not None:
            field_.put(item, place)
    members = sorted(group)
    parties, choices, rooms = _parties([placed[index] for index in members], field_)
    outcome = programme.solve(parties, rooms) if all(party.choices for party in parties) else None
    found = placed
    if outcome is not None and outcome.chosen is not None:
        found = _again(placed, members, [each[at] for each, at in zip(choices, outcome.chosen, strict=True)], field_)
    field_.back(saved)
    return found if found is not placed and is_better(found, placed) else placed


def _best(item: Item, field_: Field) -> Place | None:
    found = field_.look(item)
    return found[0] if found else None


def _is_worse(place: Place | None, alone: Place | None) -> bool:
    if place is None or alone is None:
        return place is not alone
    return place.late > alone.late or place.worth > alone.worth + WORSE * abs(alone.worth) + _LEAST


def _group(placed: Placed, alone: Sequence[Place | None], unlucky: Sequence[int]) -> set[int]:
    """The unlucky, and who holds GPUs where they would have been."""
    group: set[int] = set()
    for index in unlucky:
        if len(group) >= MOST_PARTIES:
            break
        group.add(index)
        best = alone[index]
        slots = set(best.runs) if best is not None else set()
        for other, (_, place) in enumerate(placed):
            same = place is not None and best is not None and place.pool == best.pool
            if same and place is not None and len(group) < MOST_PARTIES and not slots.isdisjoint(place.runs):
                group.add(other)
    return group


def _parties(
    members: Sequence[tuple[Item, Place | None]], field_: Field
) -> tuple[list[Party], list[list[Place | None]], list[int]]:
    """Each Job's choices with what they take of rows: a pool's GPUs, those that services rarely need, a policy's."""
    rows: dict[tuple[str, str, int], int] = {}
    rooms: list[int] = []
    levels = {p: n for n, p in enumerate(sorted({item.priority for item, _ in members}, reverse=True))}
    parties, choices = [], []
    for item, now in members:
        able: list[Place | None] = [now]
        able += [
            place
            for place in field_.look(item)[:MOST_CHOICES]
            if now is None or (place.pool, place.slot, place.gpus) != (now.pool, now.slot, now.gpus)
        ]
        dearest = max((place.worth for place in able if place is not None), default=_LEAST)
        made = tuple(
            Choice(
                (number,),
                dearest if place is None else place.worth,
                1.0 if place is None else place.late,
                _uses(item, place, field_, rows, rooms),
            )
            for number, place in enumerate(able)
        )
        parties.append(Party(item.key, levels[item.priority], max(_LEAST, dearest), made, 0))
        choices.append(able)
    return parties, choices, rooms


def _uses(
    item: Item, place: Place | None, field_: Field, rows: dict[tuple[str, str, int], int], rooms: list[int]
) -> tuple[tuple[int, int], ...]:
    if place is None:
        return ()
    offer, holders = field_.offers[place.pool], field_.holders.get(item.job.policy)
    found = []
    for slot in place.runs:
        limits = [("room", place.pool, offer.room[slot] - offer.used[slot])]
        if not item.restartable:
            limits.append(("safe", place.pool, offer.safe[slot] - offer.firm[slot]))
        elif slot == 0:
            limits.append(("first", place.pool, offer.soon - offer.used[slot]))
        if holders is not None and holders.most is not None:
            limits.append(("policy", item.job.policy, holders.most - holders.used[slot]))
        for kind, name, left in limits:
            key = (kind, name, slot)
            if key not in rows:
                rows[key] = len(rooms)
                rooms.append(max(0, int(left)))
            found.append((rows[key], place.gpus))
    return tuple(sorted(found))


def _again(placed: Placed, members: Sequence[int], chosen: Sequence[Place | None], field_: Field) -> Placed:
    """With those places, each looked up anew beside those before it, so that room and costs are as they would be."""
    found = list(placed)
    for index, place in sorted(zip(members, chosen, strict=True), key=lambda pair: _first(pair[1])):
        item = placed[index][0]
        same = None
        if place is not None:
            able = [
                e for e in field_.look(item) if (e.pool, e.starts_s, e.gpus) == (place.pool, place.starts_s, place.gpus)
            ]
            same = able[0] if able else None
        if same is not None:
            field_.put(item, same)
        elif place is not None:
            return placed
        found[index] = item, same
    return found


def _first(place: Place | None) -> tuple[float, str]:
    return (place.starts_s, place.pool) if place is not None else (float("inf"), "")
