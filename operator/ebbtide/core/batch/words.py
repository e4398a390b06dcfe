"""The reason of each Job, built from the numbers that decided; and of each policy."""

from ebbtide.core.batch.duration import hours
from ebbtide.core.batch.when import clock, percent
from ebbtide.core.batch.work import Item
from ebbtide.core.work import Cycle
from ebbtide.model.memory import PlannedJob
from ebbtide.model.plan import JobPlan, Outcome
from ebbtide.model.reasons import Code, Reason
from ebbtide.model.spec import Toleration


def _by(item: Item, now_s: float) -> str:
    """`; must start by 03:40 UTC to end by 08:00 UTC with 99 %`."""
    if item.deadline_s is None or item.latest_s is None:
        return ""
    if item.latest_s <= now_s:
        return (
            f"; to end by {clock(item.deadline_s, now_s)} with {percent(item.confidence)} it should have started by now"
        )
    return (
        f"; must start by {clock(item.latest_s, now_s)} to end by {clock(item.deadline_s, now_s)} with "
        f"{percent(item.confidence)}"
    )


def waiting(item: Item, planned: PlannedJob, cycle: Cycle) -> Reason:
    """Of a Job that waits, as it was planned."""
    now_s, code = cycle.now_s, Code(planned.why)
    pool = cycle.pools.get(planned.pool)
    currency = pool.state.currency if pool is not None else ""
    when = f"for {clock(planned.starts_at, now_s)}" if planned.starts_at > now_s else "for its turn"
    text = planned.detail
    if code is Code.WAITS_FOR_CHEAPER_HOUR:
        price = f"{planned.price:.2f} instead of {planned.price_now:.2f} {currency} per GPU-hour on {planned.pool}"
        text = f"waits {when}: {planned.detail or price}"
    elif code is Code.WAITS_FOR_WINDOW and planned.starts_at:
        text = f"waits {when}, in a window of its policy, on {planned.pool}"
    elif code in (Code.WAITS_FOR_GPUS, Code.AT_MAX_GPUS, Code.DURATION_UNKNOWN) and planned.starts_at > now_s:
        text = f"waits {when} on {planned.pool}: {planned.detail}"
    elif code is Code.DEADLINE_UNREACHABLE and item.deadline_s is not None:
        text = _unreachable(item, planned, now_s)
    elif code is Code.DEADLINE_MISSED and item.deadline_s is not None:
        text = f"its deadline, {clock(item.deadline_s, now_s)}, has passed; {planned.detail}{_ends(planned, now_s)}"
    if not item.left.known:
        early = ": with its deadline it starts as early as it may" if code is Code.DURATION_UNKNOWN else ""
        text += f"; nobody knows how long it runs, taken for {hours(item.left.at(0.5))}{early}"
    elif code not in (Code.DEADLINE_UNREACHABLE, Code.DEADLINE_MISSED):
        text += _by(item, now_s)
    if code is Code.MISSED_FOR_MONEY:
        text += "; a higher ceiling or a later deadline would help"
    numbers = [("pool", planned.pool)] if planned.pool else []
    if planned.price:
        numbers += [("pricePerGPUHour", f"{planned.price:.4g}"), ("priceNow", f"{planned.price_now:.4g}")]
    return Reason(code, text, tuple(numbers))


def _unreachable(item: Item, planned: PlannedJob, now_s: float) -> str:
    deadline_s = item.deadline_s or now_s
    needs = f"it may need {hours(item.left.at(item.confidence))} ({item.left.source})"
    helps = planned.helps or "a later deadline, more GPUs or pools, or a shorter expected duration would help"
    said = f"can't end by {clock(deadline_s, now_s)} with {percent(item.confidence)}: {needs}"
    return f"{said}; {planned.detail}{_ends(planned, now_s)}; {helps}"


def _ends(planned: PlannedJob, now_s: float) -> str:
    if not planned.ends_at:
        return ""
    return f"; it will have ended by {clock(planned.ends_at, now_s)} at the earliest, as expected"


def starting(item: Item, cycle: Cycle) -> Reason:
    """Of a Job that is started."""
    place, now_s = item.place, cycle.now_s
    assert place is not None
    currency = cycle.pools[place.pool].state.currency
    paid = f"{place.price:.2f} {currency} per GPU-hour" if place.price >= 0.005 else "on GPUs that are paid for anyway"
    pods = "" if place.parallelism == item.job.parallelism else f", {place.parallelism} of {item.job.parallelism} pods"
    text = f"starts on {place.pool}{pods}: {paid}, until {clock(place.ends_s, now_s)} as expected"
    text += f" ({item.left.source})"
    if item.deadline_s is not None:
        kept = "within" if not place.late else "later than"
        text += f", {kept} its deadline at {clock(item.deadline_s, now_s)}"
    return Reason(Code.JOB_STARTS, text, (("pool", place.pool), ("pricePerGPUHour", f"{place.price:.4g}")))


def running(item: Item, cycle: Cycle) -> Reason:
    """Of a Job that goes on."""
    if item.why is not None:
        return Reason(*item.why)
    if not any(pod.node for pod in item.job.pods):
        misfit = next((why for name, why in item.job.misfits if name == item.pool), "")
        if misfit:
            return Reason(Code.FITS_NOWHERE, f"its pods wait for a node that never comes: {misfit}")
    ends_s = cycle.now_s + item.left.at(0.5)
    text = f"runs on {item.pool or 'no pool'}, until {clock(ends_s, cycle.now_s)} as expected ({item.left.source})"
    code = Code.JOB_RUNS
    if item.deadline_s is not None:
        at, chance = clock(item.deadline_s, cycle.now_s), item.left.runs_beyond(item.deadline_s - cycle.now_s)
        if item.deadline_s <= cycle.now_s:
            code, text = Code.DEADLINE_MISSED, f"{text}; its deadline, {at}, has passed"
        elif chance > 0.5:
            code, text = Code.DEADLINE_UNREACHABLE, f"{text}: later than its deadline at {at}; it goes on"
        else:
            text += f"; by its deadline at {at} with {percent(round(1.0 - chance, 3))}"
    return Reason(code, text)


def plan_of(item: Item, cycle: Cycle) -> JobPlan:
    """What is done and said of a Job."""
    job, place, planned, outcome = item.job, item.place, item.planned, item.outcome
    late = item.deadline_s is not None and item.deadline_s <= cycle.now_s
    starts_s = ends_s = None
    pool = item.pool
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    if outcome is Outcome.STARTS and place is not None:
        reason, pool, starts_s, ends_s, late = (
            starting(item, cycle),
            place.pool,
            cycle.now_s,
            place.ends_s,
            place.late > 0,
        )
        spec = cycle.pools[place.pool].state.spec
        selector, tolerations = spec.node_selector, spec.tolerations
    elif outcome is Outcome.WAITS and planned is not None:
        reason, pool, late = waiting(item, planned, cycle), planned.pool, planned.late
        starts_s, ends_s = planned.starts_at or None, planned.ends_at or None
    elif outcome in (Outcome.RUNS, Outcome.SHRINKS, Outcome.GROWS):
        reason, ends_s = running(item, cycle), cycle.now_s + item.left.at(0.5)
        late = late or reason.code is Code.DEADLINE_UNREACHABLE
    else:
        reason = Reason(*item.why) if item.why is not None else Reason(Code.WAITS_FOR_GPUS, "waits to be planned")
    return JobPlan(
        key=job.key,
        uid=job.uid,
        policy=job.policy,
        outcome=outcome,
        reason=reason,
        resource_version=job.resource_version,
        pool=pool,
        parallelism=item.parallelism,
        starts_at=starts_s,
        ends_at=ends_s,
        must_start_by=item.latest_s if outcome in (Outcome.WAITS, Outcome.STOPS) else None,
        deadline_at=item.deadline_s,
        late=late,
        gpus=item.parallelism * job.gpus_per_pod if item.parallelism else item.gpus,
        node_selector=selector,
        tolerations=tolerations,
    )
