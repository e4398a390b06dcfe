"""`ebbtide cost`: periods, cuts and forms of output, and what it says where it cannot."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebbtide.cli import cost as module
from ebbtide.cli.main import cli
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Lifetime, Payer, PriceRecord
from ebbtide.model.spec import Billing, Price, Tariff

NOW_S = 1_768_478_400  # 15 January 2026, 12:00 UTC
DAY_S = 86_400
CHAT, CODE = (
    Payer("h100", "ml", "chat", "h100", "llama", "search"),
    Payer("a100", "ml", "code", "a100", "qwen", "tools"),
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Since noon of 14 December 4 GPUs of chat, and of code 2 for the six hours before noon of 15 January."""
    monkeypatch.setattr(module, "unix_time_s", lambda: float(NOW_S))
    path = tmp_path / "ledger.sqlite"
    made = Ledger(path)
    prices = [
        PriceRecord(pool, 0, Price("USD", Tariff(Decimal(price))), Billing.POD)
        for pool, price in (("h100", "2.50"), ("a100", "1.00"))
    ]
    lives = [
        Lifetime("a", CHAT, 4, NOW_S - 32 * DAY_S, NOW_S),
        Lifetime("b", CODE, 2, NOW_S - 6 * 3600, NOW_S),
    ]
    made.write(made.lead(NOW_S - 40 * DAY_S), NOW_S, lives, prices)
    made.close()
    return path


def ask(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["cost", "--ledger", str(path), *arguments])


def amounts(found: Result, by: str = "service") -> dict[str, Decimal]:
    assert found.exit_code == 0, found.output
    return {total[by]: Decimal(total["cost"]) for total in json.loads(found.output)["totals"]}


@pytest.mark.parametrize(
    ("period", "hours_of_chat"),
    [
        ("today", 12),
        ("yesterday", 24),
        ("month", 14 * 24 + 12),
        ("last-month", 17 * 24 + 12),
        ("2026-01-03", 24),
        ("2025-12", 17 * 24 + 12),
        ("2026-01-01..2026-01-07", 7 * 24),
    ],
)
def test_the_period(ledger: Path, period: str, hours_of_chat: int) -> None:
    assert amounts(ask(ledger, "--period", period, "-o", "json"))["ml/chat"] == hours_of_chat * 10


def test_a_day_of_another_time_zone(ledger: Path) -> None:
    found = ask(ledger, "--period", "today", "--time-zone", "Asia/Kolkata", "-o", "json")
    assert amounts(found)["ml/chat"] == Decimal("17.5") * 10, "17:30 in Kolkata"


def test_by_team_and_model_as_csv(ledger: Path) -> None:
    found = list(
        csv.DictReader(io.StringIO(ask(ledger, "--by", "team,model", "--period", "today", "-o", "csv").output))
    )
    assert [(each["team"], each["model"], each["cost"]) for each in found] == [
        ("search", "llama", "120.000000"),
        ("tools", "qwen", "12.000000"),
    ]


def test_the_table_has_a_total(ledger: Path) -> None:
    shown = ask(ledger, "--period", "today").output
    assert "2026-01-15 00:00 to 2026-01-15 12:00 UTC" in shown
    assert "ml/chat" in shown and "120.00 USD" in shown and "132.00 USD" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "colour"), '"colour" is not allowed: service, team'),
        (("--period", "soon"), '"soon" is not allowed: write today'),
        (("--period", "2026-02"), "has not begun"),
        (("--time-zone", "Mars/Base"), '"Mars/Base" is no time zone'),
    ],
)
def test_bad_input(ledger: Path, arguments: tuple[str, ...], words: str) -> None:
    found = ask(ledger, *arguments)
    assert (found.exit_code, words in found.output) == (2, True), found.output


def test_no_ledger_there(tmp_path: Path) -> None:
    found = ask(tmp_path / "none.sqlite")
    assert "there is no such file" in str(found.exception)
    assert not (tmp_path / "none.sqlite").exists(), "and none is made"
