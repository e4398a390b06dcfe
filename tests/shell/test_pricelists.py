"""Prices from a table and from OpenCost: what is read, what is wrong in words, and nothing older than it may be."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from ebbtide.errors import ConfigurationError, RetryableError
from ebbtide.model.money import Listed, PriceStep
from ebbtide.observe.pricelists.opencost import OpenCost
from ebbtide.observe.pricelists.table import Table, parse
from ebbtide.observe.prometheus import Labels, Point, Sample

HEAD = "item,per_gpu_hour,currency,effective_from\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the column item is missing; needed are item, per_gpu_hour, currency"),
        ("item,price\nx,1\n", "line 1: the column per_gpu_hour is missing"),
        (HEAD + ",1,USD,\n", "line 2: item is empty"),
        (HEAD + "x,,USD,\n", "line 2: per_gpu_hour '' is not allowed: must be a number above 0 and at most 10000"),
        (HEAD + "x,0,USD,\n", "line 2: per_gpu_hour '0'"),
        (HEAD + "x,-1,USD,\n", "line 2: per_gpu_hour '-1'"),
        (HEAD + "x,NaN,USD,\n", "line 2: per_gpu_hour 'NaN'"),
        (HEAD + "x,1e9,USD,\n", "line 2: per_gpu_hour '1e9'"),
        (HEAD + "x,1,usd,\n", "line 2: currency 'usd' is not allowed: must be three capital letters"),
        (HEAD + "x,1,USD,Tuesday\n", "line 2: effective_from 'Tuesday' is not allowed: must be RFC 3339"),
        (HEAD + "y,1,USD,\nx,1,USD,,more\n", "line 3: more cells than the header has"),
        (HEAD + "x,1,USD,\nx,2,USD,\n", "line 3: another row of 'x' holds from the same moment"),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert said in str(raised.value)


async def test_the_latest_row_that_has_come_holds_and_the_next_is_known(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(HEAD + "x,2.10,USD,\nx,1.95,USD,1970-01-01T00:01:40Z\nlater,3,USD,1970-01-01T00:01:40Z\n")
    table = Table(path)
    await table.collect()
    before, after = Decimal("2.10"), Decimal("1.95")
    assert table.listed("x", 99.0) == Listed(before, "USD", next_at=100.0, next_per_gpu_hour=after)
    assert table.listed("x", 100.0) == Listed(after, "USD")
    assert table.listed("y", 0.0).why == "has no row 'y'"
    assert table.listed("later", 0.0).why == "has none that holds yet of its rows for 'later'"


@pytest.mark.parametrize(
    ("story", "more", "later"),
    [
        ("all, in order", "x,3,USD,1970-01-01T00:05:00Z\nx,2,USD,1970-01-01T00:03:00Z\n", [(180, "2"), (300, "3")]),
        ("up to one in another currency", "x,2,EUR,1970-01-01T00:03:20Z\nx,3,USD,1970-01-01T00:05:00Z\n", []),
        ("none that no policy's period reaches", "x,2,USD,1970-03-20T00:00:00Z\n", []),
    ],
)  # fmt: skip
async def test_what_comes_after_the_next_row_is_known_too(
    tmp_path: Path, story: str, more: str, later: list[tuple[int, str]]
) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(HEAD + "x,2.10,USD,\nx,1.95,USD,1970-01-01T00:01:40Z\n" + more)
    table = Table(path)
    await table.collect()
    steps = tuple(PriceStep(float(at_s), Decimal(price)) for at_s, price in later)
    assert table.listed("x", 0.0) == Listed(
        Decimal("2.10"), "USD", next_at=100.0, next_per_gpu_hour=Decimal("1.95"), later=steps
    ), story


async def test_a_table_is_read_again_when_it_changes_and_a_broken_one_has_no_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(HEAD + "x,2.10,USD,\n")
    table = Table(path)
    for text, price, why in (
        (HEAD + "x,2.20,USD,\n", Decimal("2.20"), ""),
        (HEAD + "x,2.20,USD,\ny,0,USD,\n", None, "cannot be read: prices.csv line 3: per_gpu_hour '0'"),
        (HEAD + "x,2.30,USD,\n", Decimal("2.30"), ""),
    ):
        path.write_text(text)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        await table.collect()
        found = table.listed("x", 0.0)
        assert found.per_gpu_hour == price
        assert why in found.why
    path.unlink()
    await table.collect()
    assert "No such file" in table.listed("x", 0.0).why


async def test_without_a_table_its_pools_have_no_price() -> None:
    table = Table(None)
    await table.collect()
    assert table.listed("x", 0.0).why == "is not there: the operator was started without --price-table"


class Answers:
    """Stands for Prometheus: the rows, or no answer."""

    def __init__(self) -> None:
        self.rows: dict[str, str] | None = {}
        self.asked: list[str] = []

    async def query(self, text: str, at_s: float, consume: object) -> None:
        self.asked.append(text)
        if self.rows is None:
            raise RetryableError("no answer within 8 s")
        assert callable(consume)
        consume([Sample(Labels(node=node), Point(at_s, value)) for node, value in self.rows.items()])


async def test_a_pool_costs_what_the_dearest_of_its_nodes_does() -> None:
    prometheus = Answers()
    opencost = OpenCost(prometheus, 'cluster="prod"')  # type: ignore[arg-type]
    prometheus.rows = {"a": "2.4567891", "b": "3", "elsewhere": "9", "unknown": "0", "odd": "NaN"}
    await opencost.collect(100.0)
    assert prometheus.asked == ['max by (node) (node_gpu_hourly_cost{cluster="prod"})']
    assert opencost.listed(["a", "unknown", "odd"], 100.0) == Listed(Decimal("2.456789"))
    assert opencost.listed(["a", "b"], 100.0) == Listed(Decimal(3))
    assert "for any of the pool's nodes" in opencost.listed(["unknown", "new"], 100.0).why


async def test_what_opencost_said_holds_for_ten_minutes_without_an_answer() -> None:
    prometheus = Answers()
    opencost = OpenCost(prometheus)  # type: ignore[arg-type]
    assert opencost.listed(["a"], 0.0).why == "has not been asked yet"
    prometheus.rows = {"a": "2"}
    await opencost.collect(0.0)
    prometheus.rows = None
    await opencost.collect(590.0)
    assert opencost.listed(["a"], 600.0) == Listed(Decimal(2))
    assert opencost.listed(["a"], 601.0).why == "cannot be asked: no answer within 8 s"


async def test_without_a_prometheus_there_is_no_opencost() -> None:
    opencost = OpenCost(None)
    await opencost.collect(0.0)
    assert opencost.listed(["a"], 0.0).why == "cannot be asked: no Prometheus is set"
