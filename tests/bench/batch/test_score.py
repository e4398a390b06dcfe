"""What a run amounts to: the bill beside the bill without, what was paid for anyway, and the bars."""

import msgspec
import pytest

from ebbtide.bench.batch.load import BEGIN_S, CHAT, batch_rate
from ebbtide.bench.batch.load import stage as drawn
from ebbtide.bench.batch.results import Run, Scene, bars
from ebbtide.bench.batch.score import Score, bill, score
from ebbtide.bench.batch.world import Ended, Lived
from tests.bench.batch.scenes import job, scenario, stage

MINUTES = 24 * 60 + 16 * 60


def rows(reserved=0, elastic=0, apart=0, *, hour=8):
    """By pool: so many GPUs in that hour, none else."""
    return tuple(
        tuple(count if hour * 60 <= minute < (hour + 1) * 60 else 0 for minute in range(MINUTES))
        for count in (reserved, elastic, apart)
    )


def run(paid, chat, batch, work=None, jobs=()):
    return Lived(
        came=1000.0,
        answered=990.0,
        paid=paid,
        chat=chat,
        batch=batch,
        work=work or tuple(tuple(60.0 * gpus for gpus in row) for row in batch),
        declared=(),
        jobs=jobs,
        short=0,
    )


CASES = {
    # (GPUs of Jobs on the reserved pool, on demand, hour) -> (free, full, share paid anyway, in the cheapest hours)
    "idle reserved GPUs cost their list price or nothing": ((2, 0), 8, (0.0, 1.6, 1.0, 0.0)),
    "by day on demand": ((0, 2), 8, (6.0, 6.0, 0.0, 0.0)),
    "by night on demand": ((0, 2), 23, (2.0, 2.0, 0.0, 1.0)),
    "half and half": ((2, 2), 8, (6.0, 7.6, 0.5, 0.0)),
    "what chat gave up for them is not idle": ((4, 0), 8, (3.0, 5.4, 0.75, 0.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_cost_is_the_bill_with_batch_minus_the_bill_without(name):
    (reserved, elastic), hour, (free_usd, full, paid, cheapest) = CASES[name]
    one = stage([job()])
    moved = reserved - 3 if reserved > 3 else 0  # chat's replicas that went on demand
    free = run(rows(4, 0, hour=hour), rows(1, 0, hour=hour), rows())
    found = run(
        rows(4, elastic + moved, hour=hour), rows(1 - moved, moved, hour=hour), rows(reserved, elastic, hour=hour)
    )
    result = score("x", one, found, free, frozenset())
    assert bill(one, found) - bill(one, free) == pytest.approx(free_usd)
    assert [result.free, result.full, result.paid, result.cheapest] == pytest.approx([free_usd, full, paid, cheapest])


def test_only_feasible_deadlines_count_and_only_tokens_that_were_done():
    jobs = [job("in-time"), job("late"), job("never", deadline_h=0.1), job("undone")]
    one = stage(jobs)
    ends = {"in-time": 9, "late": 20, "never": 9, "undone": None}
    jobs_ended = tuple(
        Ended(name, BEGIN_S, None if at_h is None else BEGIN_S + at_h * 3600, 0, 0.0) for name, at_h in ends.items()
    )
    found = run(rows(4), rows(1), rows(2), jobs=jobs_ended)
    result = score("x", one, found, run(rows(4), rows(1), rows()), frozenset({"in-time", "late", "undone"}))
    assert (result.missed, result.feasible, result.undone) == (2, 3, 0.25)
    assert result.tokens_m == pytest.approx(3 * 2 * 1800 * batch_rate(CHAT) / 1e6)


def made(player, free, full, **changes):
    kept = dict.fromkeys(("undone", "cheapest", "lost", "gpu_hours", "wall_s"), 0.0)
    numbers = {"paid": 0.9, "missed": 0, "feasible": 100, "jobs": 100, "stops": 0, "short": 0, "note": ""}
    attained = {"attained": 0.99, "attained_without": 0.99}
    known = {**kept, **numbers, **attained, **changes}
    return Run(trace="t", seed=1, score=Score(player=player, free=free, full=full, tokens_m=10.0, **known), hours=())


def scene(well_placed=1.0):
    return Scene(trace="t", seed=1, jobs=100, feasible=100, bill=1000.0, bound=1.0, well_placed=well_placed)


def saving(*runs, bound=1.0):
    """Beside running at once: of the plan's saving, at full price, of the bound's."""
    others = [made("separate fleet", 100, 100), made("at once", 80, 90)]
    one = msgspec.structs.replace(scene(), bound=bound)
    found = bars([*runs, *others], [one])[1]
    return [found.found, found.found_full, found.found_bound]


SAVINGS = {
    "the clairvoyant plan is the cheapest": (
        [made("ebbtide", 35, 60), made("clairvoyant", 20, 40)], 20.0, [0.75, 0.6, 0.75]),
    "the plan at list prices counts at full price": (
        [made("ebbtide", 35, 60), made("clairvoyant", 20, 40), made("clairvoyant, at list prices", 25, 30)],
        5.0, [0.75, 0.5, 0.6]),
    "who is cheaper than a schedule by slots, and as punctual, shows that a better one was there": (
        [made("ebbtide", 35, 60), made("clairvoyant", 20, 40), made("nightly window", 5, 30)], 5.0, [0.6, 0.5, 0.6]),
    "who misses more deadlines shows nothing": (
        [made("ebbtide", 35, 60), made("clairvoyant", 20, 40), made("nightly window", 5, 30, missed=1)],
        5.0, [0.75, 0.6, 0.6]),
    "who leaves work undone shows nothing": (
        [made("ebbtide", 35, 60), made("clairvoyant", 20, 40), made("nightly window", 5, 30, undone=0.2)],
        5.0, [0.75, 0.6, 0.6]),
    "Ebbtide's own run too": ([made("ebbtide", 15, 35), made("clairvoyant", 20, 40)], 5.0, [1.0, 1.0, 65 / 75]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVINGS)
def test_what_the_plan_saves_is_that_of_the_cheapest_run_that_keeps_the_deadlines(name):
    runs, bound, shares = SAVINGS[name]
    assert saving(*runs, bound=bound) == pytest.approx(shares)


def verdict(own, well_placed=1.0):
    others = [made("separate fleet", 100, 100), made("at once", 80, 90), made("clairvoyant", 20, 40)]
    return [bar.reached for bar in bars([own, *others], [scene(well_placed)])]


BARS = {
    "all of them": (made("ebbtide", 29, 46), 1.0, [True, True, True, True, True, True]),
    "too dear at full price": (made("ebbtide", 29, 61), 1.0, [False, False, False, True, True, True]),
    "less saved beside at once": (made("ebbtide", 31, 46), 1.0, [True, False, True, True, True, True]),
    "dear hours": (made("ebbtide", 29, 46, paid=0.8), 1.0, [True, True, True, False, True, True]),
    "dear hours where cheap ones do not suffice": (made("ebbtide", 29, 46, paid=0.8), 0.85, [True] * 6),
    "late": (made("ebbtide", 29, 46, missed=2), 1.0, [True, True, True, True, False, True]),
    "chat suffers": (made("ebbtide", 29, 46, attained=0.988), 1.0, [True, True, True, True, True, False]),
}


@pytest.mark.parametrize("name", BARS)
def test_bars(name):
    own, well_placed, reached = BARS[name]
    assert verdict(own, well_placed) == reached


def test_batch_is_its_share_of_all_tokens_and_comes_in_its_hours():
    found = drawn("built-in week", 3, scenario(), 2, 1, 300)
    first = found.lead_in_s // 60
    chat = sum(found.requests[first : first + 2 * 1440]) * (CHAT.input_tokens + CHAT.output_tokens)
    tokens = sum(each.gpu_s for each in found.jobs) * batch_rate(CHAT)
    assert tokens / (tokens + chat) == pytest.approx(0.3, abs=0.02)
    assert all(found.begin_s <= each.created_s < found.begin_s + 2 * 86_400 for each in found.jobs)
    assert found == drawn("built-in week", 3, scenario(), 2, 1, 300)
    assert found.jobs != drawn("built-in week", 4, scenario(), 2, 1, 300).jobs
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found.jobs[0]), type=type(found.jobs[0])) == found.jobs[0]
