"""Why a Job waits and until when, from the plan that it was given no place in just now."""

from ebbtide.core.batch.field import Field
from ebbtide.core.batch.price import Offer
from ebbtide.core.batch.when import days
from ebbtide.core.batch.work import Item, Place
from ebbtide.core.work import Cycle
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import PlannedJob
from ebbtide.model.reasons import Code

CENT = 0.01  # so much cheaper per GPU-hour is cheaper


def note(item: Item, field: Field, cycle: Cycle) -> PlannedJob:
    """Why it waits, and until when."""
    place, latest = item.place, round(item.latest_s or 0.0, 1)
    if place is None:
        code, text = _no_place(item, field)
        late = item.deadline_s is not None
        if late and code is Code.WAITS_FOR_GPUS:
            passed = item.deadline_s is not None and item.deadline_s <= cycle.now_s
            code = Code.DEADLINE_MISSED if passed else Code.DEADLINE_UNREACHABLE
        return PlannedJob(item.job.uid, code.value, latest=latest, late=late, detail=text)
    offer = field.offers[place.pool]
    now_price = offer.price[0] or 0.0
    code, detail = _why_later(item, place, field)
    if item.why is not None:
        code, detail = item.why
    elif item.deadline_s is not None and item.deadline_s <= cycle.now_s:
        code = Code.DEADLINE_MISSED
    elif place.late:
        code = Code.DEADLINE_UNREACHABLE if item.left.known else Code.DURATION_UNKNOWN
    unpaid = code is Code.MISSED_FOR_MONEY  # nobody knows when it can be paid
    starts_s = place.starts_s if place.slot and not unpaid else 0.0
    return PlannedJob(
        item.job.uid,
        code.value,
        place.pool,
        round(starts_s, 1),
        0.0 if unpaid else round(place.ends_s, 1),
        latest,
        (bool(place.late) and item.left.known) or unpaid,
        round(place.price, 4),
        round(_price_now(item, offer, now_price), 4),
        detail,
    )


def _price_now(item: Item, offer: Offer, listed: float) -> float:
    return offer.costs(0, item.gpus) if item.gpus and offer.price[0] is not None else listed


def _why_later(item: Item, place: Place, field: Field) -> tuple[Code, str]:
    offer, limit = field.offers[place.pool], field.holders.get(item.job.policy)
    if item.lacks:
        return Code.WAITS_FOR_GPUS, item.lacks
    gpus = place.gpus
    mine = gpus if 0 in place.runs else 0
    if limit is not None and limit.most is not None and limit.used[0] - mine + gpus > limit.most:
        return (
            Code.AT_MAX_GPUS,
            f"{limit.used[0] - mine:.0f} of {limit.most} GPUs of its policy are taken (spec.maxGPUs)",
        )
    if item.open and not item.open[0] and not (item.strategy is Strategy.IDLE_OR_WINDOW and offer.is_idle(0, gpus)):
        return Code.WAITS_FOR_WINDOW, "no window of its policy is open"
    if not offer.has_room(0, gpus, stays=not item.restartable, first=True):
        return Code.WAITS_FOR_GPUS, _free(item, offer, gpus)
    if _price_now(item, offer, 0.0) > place.price + CENT:
        return Code.WAITS_FOR_CHEAPER_HOUR, ""
    empties = _empties_now(item, place, offer)
    if empties > place.empties + CENT:
        less = (
            f"nodes that come for it now would stand empty for {empties:.2f} {offer.pool.state.currency} around its run"
        )
        return Code.WAITS_FOR_CHEAPER_HOUR, f"{less}, for {max(0.0, place.empties):.2f} then ({offer.name})"
    return Code.WAITS_FOR_GPUS, _until_its_end(item, offer, gpus)


def _empties_now(item: Item, place: Place, offer: Offer) -> float:
    """What its nodes would cost empty if it started at once, where it is planned for later."""
    offer.take(place.runs, -place.gpus, stays=False)
    last = offer.grid.slot(offer.grid.now_s + item.left.at(0.5))
    found = offer.empties(0, last, place.gpus)
    offer.take(place.runs, place.gpus, stays=False)
    return found


def _free(item: Item, offer: Offer, gpus: int) -> str:
    left = max(0.0, min(offer.soon, offer.room[0]) - offer.used[0])
    return f"it asks for {gpus} GPUs, {left:.0f} are free beside what services may need ({offer.name})"


def _until_its_end(item: Item, offer: Offer, gpus: int) -> str:
    if item.restartable:
        return (
            f"its {gpus} GPUs are taken by Jobs that come first, or are needed by services before long ({offer.name})"
        )
    text = f"its {gpus} GPUs must stay free until it ends, for it may not be stopped"
    return f"{text}; services may need them ({offer.name})"


def _no_place(item: Item, field: Field) -> tuple[Code, str]:
    """Nothing within the plan."""
    offers = [field.offers[name] for name in item.pools]
    if not any(item.open) and item.strategy is Strategy.WINDOW:
        return Code.WAITS_FOR_WINDOW, "no window of its policy opens within the days that are planned"
    planned_s = offers[0].grid.end_s - offers[0].grid.now_s if offers else 86_400.0
    gpus = "its GPU is" if item.gpus == 1 else f"its {item.gpus} GPUs are"
    text = f"{gpus} not free for long enough on {', '.join(item.pools)} within {days(planned_s)}"
    return Code.WAITS_FOR_GPUS, f"{text}: services may need them, or Jobs come first"
