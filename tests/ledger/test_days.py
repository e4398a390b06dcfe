"""Hours added up to days: exact in the zone of the days for good, in every other one for as long as hours are kept."""

import random
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
import sqlalchemy as sa

from ebbtide.errors import ConflictError, RetryableError
from ebbtide.ledger import days, schema
from ebbtide.ledger.days import KEPT_S, Keeping
from ebbtide.ledger.rows import payer_ids, put
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import HourRow, Lifetime, Payer, PriceRecord, UsageRow
from ebbtide.model.spec import Billing, Price, Tariff
from ebbtide.money.bill import HOUR_S, hours
from ebbtide.money.calendar import Span, period_at
from tests.ledger.lives import CHAT, DAY_S, T0, life

CODE = Payer("h100", "ml", "code")
PRICED = PriceRecord("h100", 0, Price("USD", Tariff(Decimal("2.50"))), Billing.POD)
KOLKATA, BERLIN = ZoneInfo("Asia/Kolkata"), ZoneInfo("Europe/Berlin")
BRIEF = Keeping(2 * DAY_S, 2 * DAY_S)


def roll_all(ledger: Ledger, epoch: int, now_s: int, keeping: Keeping | None = None) -> int:
    """Until nothing is left to do; how many calls that took."""
    calls = 0
    while ledger.roll_up(epoch, T0 + now_s, keeping):
        calls += 1
    return calls


def summed(rows: Iterable[HourRow]) -> dict[tuple[Payer, bool, Decimal | None, str], int]:
    found: dict[tuple[Payer, bool, Decimal | None, str], int] = defaultdict(int)
    for row in rows:
        found[row.payer, row.idle, row.price, row.currency] += row.gpu_seconds
    return dict(found)


def seconds(ledger: Ledger, from_s: int, to_s: int) -> int:
    """GPU-seconds, the same both ways of asking."""
    added, one_by_one = ledger.added_up(T0 + from_s, T0 + to_s), ledger.rows(T0 + from_s, T0 + to_s)
    assert summed(added) == summed(one_by_one)
    return sum(row.gpu_seconds for row in added)


def kept(ledger: Ledger, table: sa.Table) -> int:
    with ledger._engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("seed", range(2))
def test_added_up_or_not_it_is_the_same_bill(where: Path | str, zone: str, seed: int) -> None:
    """Lifetimes become known late, end earlier than thought, prices change, and all that is old is forgotten."""
    draw, ledger = random.Random(seed), Ledger(where)
    keeping = Keeping(4 * DAY_S, draw.choice([2, 4, 6]) * DAY_S, ZoneInfo(zone))
    epoch, known, records, now_s = ledger.lead(T0), dict[tuple[str, int], Lifetime](), [PRICED], 0
    ledger.write(epoch, T0, [], records)
    for number in range(40):
        now_s += draw.randrange(0, 12 * HOUR_S)
        if draw.random() < 0.7:
            begin_s = max(0, now_s - draw.randrange(0, 60 * HOUR_S))
            end_s = draw.choice([None, None, draw.randint(begin_s, now_s)])  # came and went, and is found late
            found = life(str(number), begin_s, end_s, draw.choice([CHAT, CODE]))
        else:
            running = [item for item in known.values() if item.end_s is None]
            found = draw.choice([*running, life("none", now_s)])
            ended_s = max(found.begin_s, T0 + now_s - draw.randrange(0, 40 * HOUR_S))
            found = msgspec.structs.replace(found, end_s=ended_s, seen_s=found.begin_s)
        fresh = [PriceRecord("h100", T0 + now_s, Price("USD", Tariff(Decimal(number))), Billing.POD)][: number % 9 == 0]
        known[found.uid, found.begin_s] = found
        records += fresh
        ledger.write(epoch, T0 + now_s, [found], fresh)
        for _ in range(draw.randrange(0, 8)):
            ledger.roll_up(epoch, T0 + now_s, keeping)
        wanted = summed(hours(known.values(), records, T0, T0 + now_s, whole=True)) if now_s else {}
        assert summed(ledger.added_up(T0 - DAY_S, T0 + now_s)) == wanted, "at every moment, however far it is"
    roll_all(ledger, epoch, now_s, keeping)
    assert sum(wanted.values()) > 0 and ledger.hours_s > T0 and ledger.raw_s > T0
    assert summed(ledger.rows(T0 - DAY_S, T0 + now_s)) == wanted
    at_s, of_days = T0 - DAY_S, dict[tuple[Payer, bool, Decimal | None, str], int]()
    while at_s < T0 + now_s:
        day = period_at(Span.DAY, keeping.zone, at_s)
        first_s, last_s = int(day.start_s), min(int(day.end_s), T0 + now_s)
        assert ledger.covered(first_s, last_s) == (first_s, last_s), "days of this zone are never cut"
        mine = summed(hours(known.values(), records, first_s, last_s))
        assert summed(ledger.added_up(first_s, last_s)) == mine
        for key, count in mine.items():
            of_days[key] = of_days.get(key, 0) + count
        at_s = last_s
    assert of_days == wanted


def in_zone(keeping: Keeping, zone: str) -> Keeping:
    return Keeping(keeping.lifetimes_s, keeping.hours_s, ZoneInfo(zone))


def test_a_year_of_hours_is_added_up_in_slices_and_then_forgotten(where: Path | str) -> None:
    """A ledger that only an older Ebbtide has written: hours of a year, lifetimes of the last two days."""
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0, [life("a", 0)], [PRICED])
    with ledger._engine.begin() as connection:
        ids = payer_ids(connection, {CHAT})
        rows = [
            {"hour_s": T0 + hour * HOUR_S, "payer_id": ids[CHAT], "idle": False, "price": "2.50", "currency": "USD"}
            for hour in range(40 * 24)
        ]
        connection.execute(sa.insert(schema.hour), [{**row, "gpu_seconds": 14_400, "estimated_s": 0} for row in rows])
        put(connection, "rolled", str(T0 + 40 * DAY_S))
    now_s = 40 * DAY_S + 2 * HOUR_S
    assert seconds(ledger, 0, now_s) == 4 * now_s
    least = kept(ledger, schema.hour)
    for _ in range(20):
        ledger.roll_up(epoch, T0 + now_s, BRIEF)
        assert seconds(ledger, 0, now_s) == 4 * now_s, "whatever is done already"
        assert least - kept(ledger, schema.hour) <= 6, "a slice at a time"
        least = kept(ledger, schema.hour)
    assert roll_all(ledger, epoch, now_s, BRIEF) > 30
    assert (kept(ledger, schema.hour), kept(ledger, schema.day)) == (2 * 24 + 1, 40)
    assert seconds(ledger, 0, now_s) == 4 * now_s


def test_what_becomes_known_late_is_in_hours_and_days_again(where: Path | str) -> None:
    ledger, now_s = Ledger(where), 9 * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + now_s, [life("a", 0)], [PRICED])
    roll_all(ledger, epoch, now_s)
    assert kept(ledger, schema.day) == 8
    late = life("late", 3 * DAY_S + 1800, 4 * DAY_S + 600, CODE)
    ledger.write(epoch, T0 + now_s, [late])
    for _ in range(2):  # before it is worked out again, and after
        assert seconds(ledger, 0, now_s) == 4 * (now_s + DAY_S - 1200)
        assert seconds(ledger, 3 * DAY_S, 4 * DAY_S) == 4 * (DAY_S + DAY_S - 1800)
        assert seconds(ledger, 4 * DAY_S, 4 * DAY_S + HOUR_S) == 4 * (HOUR_S + 600)
        assert seconds(ledger, 2 * DAY_S, 3 * DAY_S) == 4 * DAY_S
        roll_all(ledger, epoch, now_s)
    with ledger._engine.connect() as connection:
        rows = connection.execute(sa.select(schema.day.c.begin_s, schema.day.c.gpu_seconds)).all()
    assert len(rows) == 8 + 2, "two days have a row of code's now"


def test_what_is_known_already_opens_nothing_again(where: Path | str) -> None:
    """A write whose answer was lost is made again; what still runs was counted as that."""
    ledger, now_s = Ledger(where), 9 * DAY_S
    epoch = ledger.lead(T0)
    lives = [life("a", 0), life("b", DAY_S, 2 * DAY_S)]
    ledger.write(epoch, T0 + now_s, lives, [PRICED])
    roll_all(ledger, epoch, now_s)
    for again in (lives, [life("a", 0, now_s)], [life("a", 0, now_s)]):
        ledger.write(epoch, T0 + now_s, again)
        assert ledger.rolled_s == T0 + now_s - HOUR_S
    ledger.write(epoch, T0 + now_s, [life("b", DAY_S, 3 * DAY_S)])
    assert ledger.rolled_s == T0 + 2 * DAY_S, "it ended later than was known"


def test_a_price_that_becomes_known_late_is_in_days_too(where: Path | str) -> None:
    ledger, now_s = Ledger(where), 9 * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + now_s, [life("a", 0)], [PRICED])
    roll_all(ledger, epoch, now_s, Keeping(62 * DAY_S, 2 * DAY_S))
    assert ledger.hours_s == T0 + 7 * DAY_S
    dearer = PriceRecord("h100", T0 + 3 * DAY_S + HOUR_S // 2, Price("USD", Tariff(Decimal(5))), Billing.POD)
    ledger.write(epoch, T0 + now_s, [], [dearer])
    for _ in range(2):
        found = {row.price: row.gpu_seconds for row in ledger.added_up(T0 + 2 * DAY_S, T0 + 5 * DAY_S)}
        assert found == {Decimal("2.50"): 4 * (DAY_S + 1800), Decimal(5): 4 * (2 * DAY_S - 1800)}
        assert seconds(ledger, 0, now_s) == 4 * now_s
        roll_all(ledger, epoch, now_s, Keeping(62 * DAY_S, 2 * DAY_S))
    assert ledger.hours_s == T0 + 7 * DAY_S, "forgotten once more"


def test_days_whose_lifetimes_are_gone_stay_as_they_were(where: Path | str) -> None:
    ledger, now_s = Ledger(where), 9 * DAY_S
    epoch = ledger.lead(T0)
    lives = [life(str(day), day * DAY_S, (day + 1) * DAY_S) for day in range(9)]
    ledger.write(epoch, T0 + now_s, lives, [PRICED])
    roll_all(ledger, epoch, now_s, BRIEF)
    assert ledger.raw_s == T0 + 7 * DAY_S
    ledger.write(epoch, T0 + now_s, [life("late", 3 * DAY_S, 9 * DAY_S, CODE)])
    for _ in range(2):
        assert seconds(ledger, 0, 7 * DAY_S) == 4 * 7 * DAY_S
        assert seconds(ledger, 7 * DAY_S, 9 * DAY_S) == 2 * 4 * 2 * DAY_S, "where everything is known it counts"
        roll_all(ledger, epoch, now_s, BRIEF)


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ((0, 3), (0, 3)),
        ((0.25, 3.25), (0, 3)),  # New York in summer asks for three days of its own
        ((-0.25, 2.75), (-0.25, 3)),  # nothing ran before the first day, and that is known
        ((0.6, 3.6), (1, 4)),
        ((3.25, 9), (3, 9)),
        ((6.75, 9), (7, 9)),  # the rest of the last day is in no report: the one before has it
        ((7.25, 8.1), (7.25, 8.1)),  # of which hours are kept
        ((-9, 2), (-9, 2)),
        ((-9, -1), (-9, -1)),
        ((0.1, 0.2), (0.2, 0.2)),
        ((0.6, 0.7), (0.7, 0.7)),
    ],
)
def test_a_period_that_cuts_old_days_has_whole_ones(
    tmp_path: Path, asked: tuple[float, float], counted: tuple[float, float]
) -> None:
    ledger, now_s = Ledger(tmp_path / "ledger.sqlite"), 10 * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + now_s, [life("a", 0)], [PRICED])
    roll_all(ledger, epoch, now_s, Keeping(3 * DAY_S, 3 * DAY_S))
    assert ledger.hours_s == T0 + 7 * DAY_S
    from_s, to_s = (round(day * DAY_S) for day in asked)
    first_s, last_s = (round(day * DAY_S) for day in counted)
    assert ledger.covered(T0 + from_s, T0 + to_s) == (T0 + first_s, T0 + last_s)
    assert seconds(ledger, from_s, to_s) == 4 * (max(0, last_s) - max(0, first_s))


def test_days_of_kolkata_begin_at_half_past_and_are_exact(where: Path | str) -> None:
    """18:30 UTC: the hour around it is split by lifetimes, which are kept until its days are added up."""
    ledger, now_s, keeping = Ledger(where), 9 * DAY_S, in_zone(BRIEF, "Asia/Kolkata")
    epoch, begin_s = ledger.lead(T0), 18 * HOUR_S + 1800
    lives = [life("a", 3 * DAY_S + begin_s - 600, 3 * DAY_S + begin_s + 60)]
    ledger.write(epoch, T0 + now_s, lives, [PRICED])
    roll_all(ledger, epoch, now_s, keeping)
    assert kept(ledger, schema.lifetime) == 0
    assert seconds(ledger, 2 * DAY_S + begin_s, 3 * DAY_S + begin_s) == 4 * 600
    assert seconds(ledger, 3 * DAY_S + begin_s, 4 * DAY_S + begin_s) == 4 * 60


def test_another_time_zone_holds_for_days_from_then_on(where: Path | str) -> None:
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    for day, zone in ((4, "UTC"), (8, "America/New_York"), (13, "Asia/Kolkata")):
        ledger.write(epoch, T0 + day * DAY_S, [life("a", 0)], [PRICED])
        roll_all(ledger, epoch, day * DAY_S, in_zone(BRIEF, zone))
        assert seconds(ledger, 0, day * DAY_S) == 4 * day * DAY_S
    with ledger._engine.connect() as connection:
        spans = connection.execute(sa.select(schema.span).order_by(schema.span.c.begin_s)).all()
    assert [span.begin_s for span in spans[1:]] == [span.end_s for span in spans[:-1]], "no gap and nothing twice"
    assert {span.begin_s % DAY_S // 1800 / 2 for span in spans} == {0.0, 4.0, 18.5}, "hours of UTC; summer in New York"


def test_usage_is_added_up_too_and_outlives_its_hours(where: Path | str) -> None:
    ledger, now_s = Ledger(where), 6 * DAY_S
    epoch = ledger.lead(T0)
    worked = [UsageRow(T0 + hour * HOUR_S, CHAT, *range(hour, hour + 11)) for hour in range(6 * 24)]
    ledger.write(epoch, T0 + now_s, [life("a", 0)], [PRICED], usage=worked)
    before = ledger.usage(T0, T0 + DAY_S)
    roll_all(ledger, epoch, now_s, BRIEF)
    ledger.write(epoch, T0 + now_s, [], [msgspec.structs.replace(PRICED, from_s=T0 + 5 * DAY_S)])
    roll_all(ledger, epoch, now_s, BRIEF)
    (day,) = ledger.usage(T0, T0 + DAY_S)
    assert len(before) == 24 and day.hour_s == T0
    for name in UsageRow.__struct_fields__[2:]:
        assert getattr(day, name) == sum(getattr(row, name) for row in before)
    assert len(ledger.usage(T0, T0 + now_s)) == 4 + 2 * 24
    ledger.write(epoch, T0 + now_s, [], usage=[UsageRow(T0 + 4 * DAY_S, CHAT, 1000)])
    with ledger._engine.connect() as connection:
        table = schema.usage_day.c
        query = sa.select(table.input_tokens).where(table.begin_s == T0 + 4 * DAY_S)
        assert connection.execute(query).scalar() == 1000 + sum(range(97, 120)), "what is written late is in its day"


def test_rows_of_old_time_say_that_they_are_days(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + 6 * DAY_S, [life("a", 0)], [PRICED])
    roll_all(ledger, epoch, 6 * DAY_S, BRIEF)
    rows = ledger.rows(T0, T0 + 5 * DAY_S)
    assert [row.length_s for row in rows] == [DAY_S] * 4 + [HOUR_S] * 24


def test_an_older_leader_adds_up_and_forgets_nothing(where: Path | str) -> None:
    old = Ledger(where)
    epoch = old.lead(T0)
    old.write(epoch, T0, [life("a", 0)], [PRICED])
    Ledger(where).lead(T0)
    with pytest.raises(ConflictError):
        old.roll_up(epoch, T0 + 9 * DAY_S)
    assert (old.rolled_s, old.hours_s) == (0, 0)


def test_one_that_is_killed_between_steps_goes_on_where_it_was(where: Path | str) -> None:
    """Each step is one transaction, so a crash is a call that ended after any of them, or none."""
    ledger, now_s = Ledger(where), 5 * DAY_S
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + now_s, [life("a", 0)], [PRICED])
    steps = [days.roll, days.forget]
    draw = random.Random(5)
    for _ in range(60):
        broken = draw.choice(steps).__name__
        with pytest.MonkeyPatch.context() as patch:
            whole = getattr(days, broken)

            def dies(connection: sa.Connection, *arguments: object, whole: object = whole) -> int:
                whole(connection, *arguments)  # type: ignore[operator]
                raise sa.exc.OperationalError("the server closed the connection", None, Exception("closed"))

            patch.setattr(days, broken, dies)
            with pytest.raises(RetryableError):
                ledger.roll_up(epoch, T0 + now_s, BRIEF)
        assert seconds(ledger, 0, now_s) == 4 * now_s
        if draw.random() < 0.5:
            ledger.roll_up(epoch, T0 + now_s, BRIEF)
    roll_all(ledger, epoch, now_s, BRIEF)
    assert seconds(ledger, 0, now_s) == 4 * now_s and kept(ledger, schema.day) == 4


def test_by_default_this_month_and_the_last_are_exact_in_any_time_zone(tmp_path: Path) -> None:
    assert Keeping() == Keeping(KEPT_S, KEPT_S, ZoneInfo("UTC"))
    for zone in (BERLIN, KOLKATA, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Pago_Pago")):
        for day in range(730):
            now_s = T0 + day * DAY_S + 7777
            this = period_at(Span.MONTH, zone, now_s)
            last = period_at(Span.MONTH, zone, this.start_s - 1)
            assert now_s - last.start_s <= KEPT_S + HOUR_S
            # a day is kept by the hour until it is over by KEPT_S
            assert period_at(Span.DAY, ZoneInfo("UTC"), now_s - KEPT_S).start_s <= last.start_s
