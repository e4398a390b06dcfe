"""The ledger on SQLite and on a real PostgreSQL: nothing is lost, nothing counts twice, nobody writes late."""

import random
import string
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from ebbtide.errors import ConfigurationError, ConflictError, RetryableError
from ebbtide.ledger import schema
from ebbtide.ledger.days import KEPT_S
from ebbtide.ledger.rows import get
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import LabelsRecord, Lifetime, OfferRecord, Payer, PolicyRecord, PriceRecord, UsageRow
from ebbtide.model.spec import Alternative, Billing, PolicyScope, Price, Tariff
from ebbtide.money.bill import HOUR_S, hours
from tests.ledger.lives import CHAT, DAY_S, T0, life

POOL = Payer("h100")
OFFER = Alternative("USD", Decimal("0.50"), Decimal("2.00"))
PRICED = PriceRecord("h100", T0, Price("USD", Tariff(Decimal("2.50"))), Billing.POD)


def roll_all(ledger: Ledger, epoch: int, now_s: int) -> None:
    """Until nothing is left to do."""
    while ledger.roll_up(epoch, now_s):
        pass


def total(ledger: Ledger, from_s: int, to_s: int) -> Decimal:
    return sum((row.cost or Decimal(0) for row in ledger.rows(T0 + from_s, T0 + to_s)), Decimal(0))


def test_what_was_written_is_there_after_a_restart(where: Path | str) -> None:
    ledger = Ledger(where)
    ledger.write(ledger.lead(T0), T0 + 7200, [life("a", 0), life("b", 0, 3600)], [PRICED])
    ledger.close()
    again = Ledger(where)
    assert again.running() == {"a": msgspec.structs.replace(life("a", 0), seen_s=T0 + 7200)}
    assert again.prices() == (PRICED,)
    assert (again.watermark_s, again.notice) == (T0 + 7200, "")
    assert total(again, 0, 7200) == Decimal(30), "two hours of one and one of the other, 4 GPUs each"


def test_an_older_leader_writes_nothing(where: Path | str) -> None:
    old, new = Ledger(where), Ledger(where)
    epoch = old.lead(T0)
    old.write(epoch, T0, [life("a", 0)], [PRICED])
    later = new.lead(T0)
    with pytest.raises(ConflictError, match="another leader"):
        old.write(epoch, T0 + 60, [life("a", 0, 60)])
    with pytest.raises(ConflictError):
        old.roll_up(epoch, T0 + DAY_S)
    new.write(later, T0 + 60, [life("a", 0, 36)])
    assert total(new, 0, 3600) == Decimal("0.10")


def test_writing_again_what_was_written_counts_once(where: Path | str) -> None:
    """A write whose answer was lost is made again."""
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    for _ in range(3):
        ledger.write(epoch, T0 + 3600, [life("a", 0, 3600)], [PRICED])
        ledger.roll_up(epoch, T0 + DAY_S)
    assert total(ledger, 0, DAY_S) == Decimal(10)


@pytest.mark.parametrize("seed", range(4))
def test_rolled_up_or_not_it_is_the_same_bill(where: Path | str, seed: int) -> None:
    """Lifetimes become known late, end earlier than thought, and prices change, while hours are rolled up."""
    draw, ledger = random.Random(seed), Ledger(where)
    epoch, known, records, now_s = ledger.lead(T0), dict[tuple[str, int], Lifetime](), [PRICED], 0
    ledger.write(epoch, T0, [], records)
    for number in range(40):
        now_s += draw.randrange(0, 2 * HOUR_S)
        if draw.random() < 0.7:
            payer = draw.choice([CHAT, Payer("h100", "ml", "code")])
            found = life(str(number), max(0, now_s - draw.randrange(0, 5 * HOUR_S)), None, payer)
        else:
            found = draw.choice([*known.values(), life("none", now_s)])
            ended_s = max(found.begin_s, T0 + now_s - draw.randrange(0, 3 * HOUR_S))
            found = msgspec.structs.replace(found, end_s=min(found.end_s or ended_s, ended_s), seen_s=found.begin_s)
        fresh = [PriceRecord("h100", T0 + now_s, Price("USD", Tariff(Decimal(number))), Billing.POD)][: number % 9 == 0]
        known[found.uid, found.begin_s] = found
        records += fresh
        ledger.write(epoch, T0 + now_s, [found], fresh)
        if draw.random() < 0.5:
            ledger.roll_up(epoch, T0 + now_s)
    wanted = hours(known.values(), records, T0, T0 + now_s)
    assert sum(row.gpu_seconds for row in wanted) > 0
    assert sorted(ledger.rows(T0, T0 + now_s)) == sorted(wanted)
    half = T0 + now_s // 2 + 1234  # in the middle of an hour
    parts = [*ledger.rows(T0, half), *ledger.rows(half, T0 + now_s)]
    assert sum(row.gpu_seconds for row in parts) == sum(row.gpu_seconds for row in wanted)
    rolled_s = ledger.rolled_s
    one_by_one: dict[tuple[Payer, bool, Decimal | None, str], int] = defaultdict(int)
    for row in ledger.rows(T0 + HOUR_S, rolled_s):
        one_by_one[row.payer, row.idle, row.price, row.currency] += row.gpu_seconds
    added_up = ledger.added_up(T0 + HOUR_S, rolled_s)
    assert one_by_one and {row.hour_s for row in added_up} == {T0 + HOUR_S}
    assert {(row.payer, row.idle, row.price, row.currency): row.gpu_seconds for row in added_up} == one_by_one


def test_a_pod_that_outlives_its_node_costs_nothing_in_later_hours_either(where: Path | str) -> None:
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    there = Lifetime("n", POOL, 8, T0, T0 + 1800, T0 + 1800, is_node=True)
    by_node = msgspec.structs.replace(PRICED, billing=Billing.NODE)
    ledger.write(epoch, T0 + 6 * HOUR_S, [there, life("a", 0, 6 * HOUR_S)], [by_node])
    for _ in range(2):
        assert total(ledger, 0, HOUR_S) == Decimal(10), "half an hour of 8 GPUs, 4 of them idle"
        assert total(ledger, HOUR_S, 6 * HOUR_S) == 0
        ledger.roll_up(epoch, T0 + DAY_S)


def test_lifetimes_are_forgotten_and_their_hours_stay(where: Path | str) -> None:
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + 3600, [life("a", 0, 3600), life("b", 0)], [PRICED])
    roll_all(ledger, epoch, T0 + DAY_S + KEPT_S)
    with ledger._engine.connect() as connection:
        assert connection.execute(sa.select(schema.lifetime.c.uid)).scalars().all() == ["b"]
    assert total(ledger, 0, DAY_S) == Decimal(10 + 240)
    ledger.write(epoch, T0 + DAY_S + KEPT_S, [life("late", 0, 3600)])
    roll_all(ledger, epoch, T0 + 2 * DAY_S + KEPT_S)
    assert total(ledger, 0, DAY_S) == Decimal(10 + 240), (
        "hours whose lifetimes are gone are not made anew from what is left"
    )


def test_a_damaged_file_is_moved_aside_and_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database" * 1000)
    ledger = Ledger(path)
    assert "damaged" in ledger.notice and "moved to" in ledger.notice
    ledger.write(ledger.lead(T0), T0, [life("a", 0)])
    assert [item.name.startswith("ledger.sqlite.aside-") for item in tmp_path.iterdir()].count(True) == 1


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("mysql://db/ebbtide", "mysql is not supported; postgresql and sqlite are"),
        ("not a url", "it cannot be read"),
        ("postgresql://ebbtide:x@host:secret/db", "it cannot be read"),
        ("postgresql://127.0.0.1:1/none?user=ebbtide&password=secret", "Is the database there"),
        ("postgresql://ebbtide:secret@127.0.0.1:1/none", "Is the database there"),
        (Path("/proc/no/ledger.sqlite"), "writable directory"),
    ],
)
def test_where_it_cannot_be_it_says_why(where: Path | str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        Ledger(where)
    assert "secret" not in str(raised.value)


def test_who_only_reads_makes_moves_and_changes_nothing(tmp_path: Path) -> None:
    text = tmp_path / "report.txt"
    text.write_text("no database" * 1000)
    with pytest.raises(ConfigurationError):
        Ledger(text, read_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]
    path = tmp_path / "ledger.sqlite"
    Ledger(path).write(Ledger(path).lead(T0), T0, [life("a", 0)], [PRICED])
    reader = Ledger(path, read_only=True)
    assert set(reader.running()) == {"a"}
    with pytest.raises(RetryableError, match="readonly"):
        reader.lead(T0)


def test_a_reader_holds_no_writer_up(where: Path | str) -> None:
    writer, reader = Ledger(where), Ledger(where, read_only=True)
    epoch = writer.lead(T0)
    with reader._transaction(reads=True) as connection:
        connection.execute(sa.select(schema.meta)).fetchall()
        writer.write(epoch, T0, [life("a", 0)], [PRICED])
    assert set(reader.running()) == {"a"}


def test_the_lock_of_one_that_stands_still_is_waited_for_some_seconds(server: str) -> None:
    first, second = Ledger(server), Ledger(server)
    first.lead(T0)
    with first._transaction() as connection:
        schema_row = sa.select(schema.meta).where(schema.meta.c.key == "epoch").with_for_update()
        connection.execute(schema_row)
        with pytest.raises(RetryableError, match="lock timeout"):
            second.lead(T0)


BUDGET = PolicyRecord("budget", T0, "USD", ("ml",), (("team", "search"),), PolicyScope.ALL_GPU_PODS)


def test_usage_is_kept_by_hour_and_payer_and_written_again_it_counts_once(where: Path | str) -> None:
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    first = UsageRow(T0, CHAT, *range(1, 12))
    whole = UsageRow(T0, Payer("", "ml", "chat"), watched_s=3600, acting_s=3000)
    ledger.write(epoch, T0 + 3000, [], usage=[msgspec.structs.replace(first, input_tokens=7), whole])
    for _ in range(2):
        ledger.write(epoch, T0 + 3600, [], usage=[first])
    ledger.write(epoch, T0 + 4000, [])
    assert ledger.usage(T0, T0 + HOUR_S) == (whole, first)
    assert ledger.usage(T0 + 1, T0 + HOUR_S) == ledger.usage(T0 - HOUR_S, T0) == ()
    assert (ledger.usage_s, ledger.watermark_s) == (T0 + 3600, T0 + 4000), "between them nothing is counted yet"


def test_what_policies_select_is_kept_with_its_time(where: Path | str) -> None:
    ledger = Ledger(where)
    records = [BUDGET, msgspec.structs.replace(BUDGET, from_s=T0 + 60, gone=True)]
    labels = [LabelsRecord("ml/chat", T0 + 9, (("team", "search"),)), LabelsRecord("ml/chat", T0 + 70)]
    ledger.write(ledger.lead(T0), T0 + 90, [], selections=[*records, *labels])
    again = Ledger(where, read_only=True)
    assert (again.policies(), again.labels()) == (tuple(records), tuple(labels))


def test_a_usage_that_another_leader_would_write_is_refused(where: Path | str) -> None:
    old = Ledger(where)
    epoch = old.lead(T0)
    Ledger(where).lead(T0)
    with pytest.raises(ConflictError):
        old.write(epoch, T0 + 60, [], usage=[UsageRow(T0, CHAT, 1)])
    assert old.usage(T0, T0 + HOUR_S) == ()


def made_by_version_1(where: Path | str) -> None:
    """As the first schema left it: without the tables that came with the second."""
    ledger = Ledger(where)
    ledger.write(ledger.lead(T0), T0 + 3600, [life("a", 0, 3600)], [PRICED])
    with ledger._engine.begin() as connection:
        newer = [schema.usage, schema.policy, schema.labels, schema.offer, schema.span, schema.day, schema.usage_day]
        schema.metadata.drop_all(connection, tables=newer)
        connection.execute(sa.update(schema.meta).where(schema.meta.c.key == "version").values(value="1"))
    ledger.close()


def test_a_ledger_of_version_1_is_read_as_it_is_and_taken_over_whole(where: Path | str) -> None:
    made_by_version_1(where)
    reader = Ledger(where, read_only=True)
    assert (reader.usage(0, T0 + DAY_S), reader.policies(), reader.labels(), reader.usage_s) == ((), (), (), 0)
    assert total(reader, 0, 3600) == Decimal(10)
    reader.close()
    ledger = Ledger(where)
    assert total(ledger, 0, 3600) == Decimal(10), "what it knew stays"
    epoch = ledger.lead(T0 + 4000)
    assert epoch == 2 and ledger.since_s == T0
    ledger.write(epoch, T0 + 4000, [], usage=[UsageRow(T0, CHAT, 5)], selections=[BUDGET])
    assert ledger.usage(T0, T0 + HOUR_S) == (UsageRow(T0, CHAT, 5),)
    assert Ledger(where).policies() == (BUDGET,), "opened once more nothing is made anew"


def made_by_version_2(where: Path | str) -> None:
    """As the second schema left it: without the columns and the table that came with the third."""
    ledger = Ledger(where)
    ledger.write(ledger.lead(T0), T0 + 3600, [], usage=[UsageRow(T0, CHAT, 5, acting_s=60)])
    with ledger._engine.begin() as connection:
        for name in ("compared_s", "ran_gpu_s", "hpa_gpu_s"):
            connection.exec_driver_sql(f"ALTER TABLE usage DROP COLUMN {name}")
        schema.metadata.drop_all(connection, tables=[schema.offer, schema.span, schema.day, schema.usage_day])
        connection.execute(sa.update(schema.meta).where(schema.meta.c.key == "version").values(value="2"))
    ledger.close()


def test_a_ledger_of_version_2_is_read_as_it_is_and_taken_over_whole(where: Path | str) -> None:
    made_by_version_2(where)
    known = UsageRow(T0, CHAT, 5, acting_s=60)
    reader = Ledger(where, read_only=True)
    assert (reader.usage(T0, T0 + HOUR_S), reader.offers()) == ((known,), ())
    reader.close()
    ledger = Ledger(where)
    assert ledger.usage(T0, T0 + HOUR_S) == (known,), "what it knew stays, and of what is new nothing was seen"
    more, offer = UsageRow(T0 + HOUR_S, CHAT, hpa_gpu_s=7), OfferRecord("ml/chat", T0, OFFER)
    ledger.write(ledger.lead(T0), T0 + 7200, [], usage=[more], selections=[offer])
    assert Ledger(where).usage(T0, T0 + DAY_S) == (known, more)
    assert Ledger(where, read_only=True).offers() == (offer,)


LABELLED = msgspec.structs.replace(CHAT, labels=(("environment", "prod"), ("product", "web")))


def test_a_ledger_of_version_4_keeps_its_payers_and_labels_begin_with_the_first_that_has_them(
    where: Path | str,
) -> None:
    """The fourth schema's payers are the text that it wrote, here letter by letter."""
    ledger = Ledger(where)
    ledger.write(ledger.lead(T0), T0 + 3600, [life("a", 0)], [PRICED], usage=[UsageRow(T0, CHAT, 5)])
    with ledger._engine.begin() as connection:
        body = '{"pool":"h100","namespace":"ml","service":"chat","team":"search"}'
        connection.execute(sa.update(schema.payer).values(body=body))
        connection.execute(sa.update(schema.meta).where(schema.meta.c.key == "version").values(value="4"))
    ledger.close()
    old = Payer("h100", "ml", "chat", team="search")
    new = msgspec.structs.replace(old, labels=LABELLED.labels)
    reader = Ledger(where, read_only=True)
    assert {row.payer for row in (*reader.rows(T0, T0 + 3600), *reader.usage(T0, T0 + HOUR_S))} == {old}
    reader.close()
    ledger = Ledger(where)
    epoch = ledger.lead(T0 + 3600)
    lives = [msgspec.structs.replace(each, payer=payer) for each, payer in
             ((life("a", 0, 3600), old), (life("a", 3600), new))]  # fmt: skip
    usage = [UsageRow(T0 + HOUR_S, old, 1), UsageRow(T0 + HOUR_S, new, 2)]
    ledger.write(epoch, T0 + 7200, lives, usage=usage)
    roll_all(ledger, epoch, T0 + DAY_S)
    again = Ledger(where, read_only=True)
    assert [(row.hour_s - T0, row.payer) for row in again.rows(T0, T0 + 7200)] == [(0, old), (3600, new)]
    assert again.usage(T0 + HOUR_S, T0 + DAY_S) == tuple(usage)
    assert {row.payer for row in again.added_up(T0, T0 + 7200)} == {old, new}
    assert again.running()["a"].payer == new
    with again._engine.connect() as connection:
        assert get(connection, "version") == "5"
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.payer)).scalar() == 2, "none twice"


def test_whoever_has_the_longest_names_and_labels_is_kept(where: Path | str) -> None:
    """PostgreSQL's index takes 2,704 bytes, fewer where they cannot be compressed; names are as long as allowed."""
    dice = random.Random(1)

    def text(length: int) -> str:
        return "".join(dice.choices(string.ascii_letters + string.digits, k=length))

    labels = tuple(sorted((text(50), text(63)) for _ in range(10)))
    payer = Payer(text(253), text(63), text(253), text(63), text(253), labels=labels)
    ledger = Ledger(where)
    ledger.write(ledger.lead(T0), T0 + 3600, [life("a", 0, payer=payer)], [PRICED])
    assert ledger.running()["a"].payer == payer


def test_lifetimes_of_a_span_are_those_that_ran_in_it(where: Path | str) -> None:
    ledger = Ledger(where)
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0 + 600, [life("a", 0, 100), life("b", 50), life("c", 200, 300)], [PRICED])
    assert {item.uid for item in ledger.lifetimes(T0 + 100, T0 + 200)} == {"b"}
    assert {item.uid for item in ledger.lifetimes(T0, T0 + 201)} == {"a", "b", "c"}
    assert ledger.raw_s == 0
    roll_all(ledger, epoch, T0 + DAY_S + KEPT_S)
    assert ledger.raw_s > T0


def test_a_newer_schema_is_left_alone(where: Path | str) -> None:
    ledger = Ledger(where)
    with ledger._engine.begin() as connection:
        connection.execute(sa.update(schema.meta).where(schema.meta.c.key == "version").values(value="99"))
    ledger.close()
    with pytest.raises(ConfigurationError, match="written by a newer Ebbtide"):
        Ledger(where)


def test_a_write_that_fails_writes_nothing(tmp_path: Path) -> None:
    """The disk is full: nothing of the call is there, and the next one may succeed."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.lead(T0)
    ledger.write(epoch, T0, [life("a", 0)], [PRICED])
    with ledger._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    sa.event.listen(
        ledger._engine, "begin", lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    )
    many = [life(f"pod-{index}", 0, 60, Payer("h100", "ml", f"service-{index}")) for index in range(2000)]
    with pytest.raises(RetryableError, match=r"full.*Nothing was written"):
        ledger.write(epoch, T0 + 60, many)
    assert set(ledger.running()) == {"a"} and ledger.watermark_s == T0
