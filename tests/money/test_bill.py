"""What lifetimes cost: exact to the GPU-second, each billed once, whatever is billed and whenever prices change."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.model.money import HourRow, Lifetime, Listed, Payer, PriceRecord
from ebbtide.model.spec import Billing, Price, PriceSource, Tariff, TariffWindow
from ebbtide.money.bill import HOUR_S, hours

POOL = Payer("h100")
CHAT, CODE = Payer("h100", "ml", "chat"), Payer("h100", "ml", "code")
TEN = 10 * HOUR_S  # 10:00 on 1 January 1970
CHEAP_AT_HALF_PAST = Tariff(Decimal("2.50"), (TariffWindow("30 * * * *", "UTC", 600.0, Decimal("1.00")),))


def life(payer: Payer, begin_s: int, end_s: int | None, gpus: int = 4, node: str = "n") -> Lifetime:
    return Lifetime(f"{payer.service}-{begin_s}", payer, gpus, begin_s, end_s or begin_s, end_s, node)


def node(begin_s: int, end_s: int | None, gpus: int = 8, uid: str = "n") -> Lifetime:
    return Lifetime(uid, POOL, gpus, begin_s, end_s or begin_s, end_s, is_node=True)


def priced(from_s: int = 0, price: str | Tariff = "2.50", billing: Billing = Billing.POD) -> PriceRecord:
    tariff = price if isinstance(price, Tariff) else Tariff(Decimal(price))
    return PriceRecord("h100", from_s, Price("USD", tariff), billing)


def by_payer(rows: tuple[HourRow, ...]) -> dict[str, Decimal | None]:
    """Cost by service, `idle` apart; None where any of it is unknown."""
    found: dict[str, Decimal | None] = {}
    for row in rows:
        key = "idle" if row.idle else row.payer.service
        so_far = found.get(key, Decimal(0))
        found[key] = None if so_far is None or row.cost is None else so_far + row.cost
    return found


NODE_BILLED = priced(billing=Billing.NODE)
SHARED = PriceRecord("h100", 0, Price("USD", Tariff(Decimal("2.50"))), Billing.NODE, shares_idle=True)


def corrected(from_s: int, seen_s: int, price: str, billing: Billing = Billing.POD) -> PriceRecord:
    return PriceRecord("h100", from_s, Price("USD", Tariff(Decimal(price))), billing, None, seen_s)


@pytest.mark.parametrize(
    ("story", "edits", "want"),
    [
        ("it holds from before it was seen", [corrected(1800, 3000, "5")], "15"),
        ("what held meanwhile does not any more", [corrected(2700, 2700, "9"), corrected(1800, 3000, "5")], "15"),
        ("an older one stays before a newer", [corrected(900, 3000, "1"), corrected(1800, 3100, "5")], "13.5"),
        (
            "it goes where the newer reaches further back",
            [corrected(1800, 3000, "5"), corrected(900, 3100, "1")],
            "5.5",
        ),
        ("an edit after it holds from then on", [corrected(1800, 2000, "5"), corrected(2700, 2700, "1")], "11"),
        ("seen in the end it holds all the same", [corrected(1800, 9000, "5")], "15"),
        ("of all time", [corrected(0, 3000, "5")], "20"),
    ],
)
def test_prices_that_hold_from_before_they_were_seen(story: str, edits: list[PriceRecord], want: str) -> None:
    rows = hours([life(CHAT, 0, 3600)], [priced(), *reversed(edits)], 0, 3600)
    assert by_payer(rows) == {"chat": Decimal(want)}, story


def test_what_is_paid_for_changes_when_it_is_seen_whatever_the_price_does() -> None:
    """A corrected price that comes together with billing by node: nodes' idle GPUs of before stay nobody's cost."""
    edit = corrected(0, 1800, "5", Billing.NODE)
    rows = hours([life(CHAT, 0, 3600), node(0, 3600)], [priced(), edit], 0, 3600)
    assert by_payer(rows) == {"chat": Decimal(20), "idle": Decimal(10)}


@pytest.mark.parametrize(
    ("story", "lifetimes", "records", "want"),
    [
        ("a pod for an hour", [life(CHAT, TEN, TEN + 3600)], [priced()], {"chat": "10"}),
        ("one that still runs is counted up to now", [life(CHAT, TEN, None)], [priced()], {"chat": "10"}),
        ("what is outside the span is not", [life(CHAT, 0, TEN)], [priced()], {}),
        ("ten minutes at another price", [life(CHAT, TEN, TEN + 3600)], [priced(price=CHEAP_AT_HALF_PAST)],
         {"chat": "9"}),
        ("an edit holds from then on, and not before", [life(CHAT, TEN, TEN + 3600)],
         [priced(), priced(TEN + 1800, "5")], {"chat": "15"}),
        ("nobody knows the price before the first", [life(CHAT, TEN, TEN + 3600)], [priced(TEN + 1)], {"chat": None}),
        ("a node of 8 with a pod of 4 for half an hour", [node(TEN, None), life(CHAT, TEN, TEN + 1800)], [NODE_BILLED],
         {"chat": "5", "idle": "15"}),
        ("two pods at once leave nothing idle", [node(TEN, None), life(CHAT, TEN, None), life(CODE, TEN, None)],
         [NODE_BILLED], {"chat": "10", "code": "10"}),
        ("a pod that outlives its node costs nothing after it", [node(TEN, TEN + 1800), life(CHAT, TEN, None, 8)],
         [NODE_BILLED], {"chat": "10"}),
        ("billed by pod it does", [node(TEN, TEN + 1800), life(CHAT, TEN, None, 8)], [priced()], {"chat": "20"}),
        ("billed by pod, nodes cost nothing", [node(TEN, None)], [priced()], {}),
        ("a pod whose node nobody saw pays for its own GPUs", [life(CHAT, TEN, None, 4, "gone")], [NODE_BILLED],
         {"chat": "10"}),
        ("billing changes at half past", [node(TEN, None), life(CHAT, TEN, None)],
         [priced(), priced(TEN + 1800, billing=Billing.NODE)], {"chat": "10", "idle": "5"}),
        ("a list names a dearer price from half past on", [life(CHAT, TEN, None)],
         [PriceRecord("h100", 0, Price("USD", source=PriceSource("Table", "h100")), Billing.POD,
                      Listed(Decimal("2.50"), "USD", "", TEN + 1800, Decimal("5")))], {"chat": "15"}),
    ],
)  # fmt: skip
def test_the_bill_from_ten_to_eleven(story, lifetimes, records, want) -> None:  # type: ignore[no-untyped-def]
    found = by_payer(hours(lifetimes, records, TEN, TEN + 3600))
    assert found == {key: None if amount is None else Decimal(amount) for key, amount in want.items()}, story


def test_a_span_after_a_node_has_gone_knows_of_it() -> None:
    """What is cut into spans adds up to the whole."""
    lifetimes = [node(TEN, TEN + 1800), life(CHAT, TEN, TEN + 7200)]
    whole, *parts = (
        by_payer(hours(lifetimes, [NODE_BILLED], begin, end))
        for begin, end in ((TEN, TEN + 7200), (TEN, TEN + 3600), (TEN + 3600, TEN + 7200))
    )
    assert parts == [whole, {}]


@pytest.mark.parametrize(
    ("story", "lifetimes", "want"),
    [
        ("the only one pays for the node", [node(TEN, None), life(CHAT, TEN, None)], {"chat": "20"}),
        ("two pay in proportion", [node(TEN, None), life(CHAT, TEN, None, 3), life(CODE, TEN, None, 1)],
         {"chat": "15", "code": "5"}),
        ("who held it last pays until it is gone", [node(TEN, TEN + 2700), life(CHAT, TEN, TEN + 900)],
         {"chat": "15"}),
        ("and who did before the hour", [node(TEN, None), life(CHAT, TEN - 3600, TEN - 1800)],
         {"chat": "10", "": "10"}),
        ("what nobody held is nobody's", [node(TEN, None)], {"": "20"}),
    ],
)  # fmt: skip
def test_where_nodes_come_and_go_idle_gpus_have_payers(story, lifetimes, want) -> None:  # type: ignore[no-untyped-def]
    found: dict[str, Decimal] = defaultdict(Decimal)
    for row in hours(lifetimes, [SHARED], TEN, TEN + 3600):
        found[row.payer.service] += row.cost or Decimal(0)
    assert found == {key: Decimal(amount) for key, amount in want.items()}, story


def test_an_idle_share_is_a_row_of_its_own_beside_what_is_held() -> None:
    rows = hours([node(TEN, None), life(CHAT, TEN, None, 5)], [SHARED], TEN, TEN + 3600)
    assert [(row.payer.service, row.idle, row.gpu_seconds) for row in rows] == [
        ("chat", False, 5 * 3600),
        ("chat", True, 3 * 3600),
    ]


def test_rows_are_by_hour_and_what_nobody_saw_is_said() -> None:
    unseen = Lifetime("a", CHAT, 2, TEN + 1800, TEN + 3000, TEN + 4200, "n", estimated=True)
    rows = hours([unseen], [priced()], TEN, TEN + 7200)
    assert [(row.hour_s, row.gpu_seconds, row.estimated_s) for row in rows] == [
        (TEN, 3600, 1200),
        (TEN + 3600, 1200, 1200),
    ]


spans = st.tuples(st.integers(0, 3500), st.integers(0, 1500))
pods = st.lists(
    st.tuples(st.sampled_from([CHAT, CODE]), spans, st.integers(1, 4), st.sampled_from(["n", "m", "?"])), max_size=6
)
nodes = st.lists(st.tuples(spans, st.sampled_from(["n", "m"])), max_size=2, unique_by=lambda each: each[1])
records = st.lists(
    st.builds(
        priced, st.integers(0, 9000), st.sampled_from(["0.7", "2.50", "3.3333333"]), st.sampled_from(list(Billing))
    ),
    max_size=3,
    unique_by=lambda record: record.from_s,
)


@settings(max_examples=60)
@given(pods, nodes, records)
def test_it_is_what_a_clerk_finds_who_looks_once_a_second(pods, nodes, records) -> None:  # type: ignore[no-untyped-def]
    lifetimes = [
        Lifetime(str(index), payer, gpus, begin, begin + last, begin + last, on)
        for index, (payer, (begin, last), gpus, on) in enumerate(pods)
    ] + [node(begin, begin + last, 8, uid) for (begin, last), uid in nodes]
    seen: dict[tuple[int, str, Decimal | None], int] = defaultdict(int)
    there = {item.uid for item in lifetimes if item.is_node}
    for second in range(0, 5_001):
        known = [record for record in records if record.from_s <= second]
        record = max(known, key=lambda found: found.from_s, default=None)
        price = record.price.tariff.base if record else None
        by_node = record is not None and record.billing is Billing.NODE
        here = [item for item in lifetimes if item.begin_s <= second < item.end_s]
        up = {item.uid for item in here if item.is_node}
        for item in here:
            if item.is_node:
                held = sum(each.gpus for each in here if not each.is_node and each.node == item.uid)
                if by_node:
                    seen[second // 3600 * 3600, "", price] += max(0, item.gpus - held)
            elif not by_node or item.node not in there or item.node in up:
                seen[second // 3600 * 3600, item.payer.service, price] += item.gpus
    found: dict[tuple[int, str, Decimal | None], int] = defaultdict(int)
    for row in hours(lifetimes, records, 0, 5_001):
        found[row.hour_s, row.payer.service, row.price] += row.gpu_seconds
    assert {key: count for key, count in found.items() if count} == {key: count for key, count in seen.items() if count}


def unseen(uid: str, begin_s: int, seen_s: int, end_s: int, gpus: int = 4) -> Lifetime:
    return Lifetime(uid, CHAT, gpus, begin_s, seen_s, end_s, "n", estimated=True)


def seen(uid: str, begin_s: int, end_s: int | None, gpus: int = 4) -> Lifetime:
    return Lifetime(uid, CODE, gpus, begin_s, begin_s if end_s is None else end_s, end_s, "n")


@pytest.mark.parametrize(
    ("story", "pods", "want"),
    [
        ("an unseen end gives way to who holds its GPUs by then",
         [unseen("a", TEN, TEN + 600, TEN + 3600, 8), seen("b", TEN + 1800, None, 8)], {"chat": 4, "code": 4}),
        ("in part where there is room for the rest",
         [unseen("a", TEN, TEN, TEN + 3600, 8), seen("b", TEN, None, 2)], {"chat": 6, "code": 2}),
        ("of two that which was seen first",
         [unseen("a", TEN, TEN + 60, TEN + 3600), unseen("c", TEN, TEN + 600, TEN + 3600), seen("b", TEN + 1800, None)],
         {"chat": 6, "code": 2}),
        ("where it fits it is billed to its latest end", [unseen("a", TEN, TEN, TEN + 3600), seen("b", TEN, None)],
         {"chat": 4, "code": 4}),
        ("what was surely there does not give way",
         [unseen("a", TEN, TEN + 3600, TEN + 7200, 6),
          Lifetime("b", CODE, 4, TEN, TEN, TEN + 3600, "n", estimated=True)],
         {"chat": 6, "code": 2}),
    ],
)  # fmt: skip
def test_of_a_node_pods_hold_no_more_than_it_has(story: str, pods: list[Lifetime], want: dict[str, int]) -> None:
    found: dict[str, int] = defaultdict(int)
    for row in hours([node(TEN, None), *pods], [NODE_BILLED], TEN, TEN + 3600):
        found[row.payer.service] += row.gpu_seconds
    assert found == {name: 3600 * gpus for name, gpus in want.items()}, story


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(0, 60), st.integers(1, 8), st.booleans()),
        max_size=6,
    ),
    st.booleans(),
    st.integers(1, 99),
)
def test_a_nodes_bill_is_its_gpus_whoever_overlaps_on_it(
    lives: list[tuple[int, int, int, int, bool]], shares_idle: bool, cut: int
) -> None:
    """At each second, and the same however the span is cut."""
    pods = [
        Lifetime(str(i), (CHAT, CODE)[i % 2], gpus, TEN + begin, TEN + begin + ran,
                 TEN + begin + ran + unsure * estimated, "n", estimated=estimated)
        for i, (begin, ran, unsure, gpus, estimated) in enumerate(lives)
    ]  # fmt: skip
    record = SHARED if shares_idle else NODE_BILLED
    there = [node(TEN, TEN + 100), *pods]
    whole = hours(there, [record], TEN, TEN + 100, whole=True)
    parts = [
        *hours(there, [record], TEN, TEN + cut, whole=True),
        *hours(there, [record], TEN + cut, TEN + 100, whole=True),
    ]
    assert sum(row.gpu_seconds for row in whole) == 800
    assert by_key(whole) == by_key(parts)
    seconds = [hours(there, [record], TEN + at_s, TEN + at_s + 1, whole=True) for at_s in range(0, 100, 9)]
    assert all(sum(row.gpu_seconds for row in rows) == 8 for rows in seconds)


def by_key(rows: Iterable[HourRow]) -> dict[tuple[Payer, bool], int]:
    found: dict[tuple[Payer, bool], int] = defaultdict(int)
    for row in rows:
        found[row.payer, row.idle] += row.gpu_seconds
    return found
