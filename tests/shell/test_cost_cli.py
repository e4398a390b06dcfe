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
from ebbtide.model.money import LabelsRecord, Lifetime, Payer, PolicyRecord, PriceRecord, UsageRow
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
        (("--tokens", "--savings"), "ask for one at a time"),
        (("--savings", "--by", "team"), '"team" is not allowed with --savings'),
        (("--focus", "-", "--account", " "), '--account: " " is not allowed'),
    ],
)
def test_bad_input(ledger: Path, arguments: tuple[str, ...], words: str) -> None:
    found = ask(ledger, *arguments)
    assert (found.exit_code, words in found.output) == (2, True), found.output


def test_no_ledger_there(tmp_path: Path) -> None:
    found = ask(tmp_path / "none.sqlite")
    assert "there is no such file" in str(found.exception)
    assert not (tmp_path / "none.sqlite").exists(), "and none is made"


@pytest.fixture
def busy(ledger: Path) -> Path:
    """Chat's tokens of today but for the last two hours, two policies, and idle GPUs of a node."""
    made = Ledger(ledger)
    epoch, today = made.lead(NOW_S), NOW_S - 12 * 3600
    usage = [
        UsageRow(today + hour * 3600, CHAT, 2_000_000, 500_000, 14_400, 14_400, 3_600, 2_000_000, 100_000)
        for hour in range(10)
    ]
    usage += [
        UsageRow(today + hour * 3600, Payer("", "ml", "chat", "", "llama", "search"), watched_s=3600, acting_s=3600)
        for hour in range(10)
    ]
    policies = [
        PolicyRecord("all", NOW_S - 30 * DAY_S, "USD"),
        PolicyRecord("search", NOW_S - 30 * DAY_S, "USD", (), (("team", "search"),)),
    ]
    labels = [LabelsRecord("ml/chat", NOW_S - 30 * DAY_S, (("team", "search"),))]
    node = Lifetime("n", Payer("nodes"), 8, today, NOW_S, is_node=True)
    by_node = PriceRecord("nodes", 0, Price("USD", Tariff(Decimal("1.00"))), Billing.NODE)
    unpriced = Lifetime("x", Payer("unknown", "dev"), 1, today, NOW_S)
    made.write(epoch, NOW_S, [node, unpriced], [by_node], selections=[*policies, *labels], usage=usage)
    made.close()
    return ledger


def test_by_policy_each_counts_under_each_that_pays_and_the_total_counts_once(busy: Path) -> None:
    found = ask(busy, "--by", "policy", "--period", "today", "-o", "json")
    assert amounts(found, "policy") == {"all": 132, "search": 120, "(no policy)": 96}
    assert "counted under each" in json.loads(found.output)["notes"][0]
    table = ask(busy, "--by", "policy", "--period", "today").output
    assert "228.00 USD" in table, "120 + 12 + 96"
    as_csv = ask(busy, "--by", "policy", "--period", "today", "-o", "csv")
    assert as_csv.stdout.count("\n") == 5 and "counted under each" in as_csv.stderr


def test_a_period_of_which_no_policy_is_known_says_so(busy: Path) -> None:
    found = ask(busy, "--by", "policy", "--period", "2025-12-15", "-o", "json")
    assert amounts(found, "policy") == {"(no policy)": 240}
    assert "no policy in that time" in json.loads(found.output)["notes"][1]


def test_what_tokens_cost(busy: Path) -> None:
    found = ask(busy, "--tokens", "--period", "today", "-o", "json")
    assert found.exit_code == 0, found.output
    chat = next(each for each in json.loads(found.output)["tokens"] if each["service"] == "ml/chat")
    assert (chat["input_tokens"], chat["output_tokens"], chat["cost"]) == ("20000000", "5000000", "120.000000")
    assert chat["token_coverage"] == "0.833333", "of 12 hours 10"
    assert chat["allocation_per_million_output"] == "16.666667", "100 USD for 5 million and what makes as much as 1"
    assert chat["allocation_per_million_input"] == "0.833333"
    assert (chat["usage_per_million_output"], chat["idle_share"]) == ("4.166667", "0.750000")
    assert any("nobody held cost 96.00 USD" in note for note in json.loads(found.output)["notes"])


def test_what_tokens_cost_as_a_table_and_csv(busy: Path) -> None:
    shown = ask(busy, "--tokens", "--period", "today", "--by", "model").output
    assert "0.83 / 16.67" in shown and "0.21 / 4.17" in shown and "75%" in shown and "83%" in shown
    rows = list(csv.DictReader(io.StringIO(ask(busy, "--tokens", "--period", "today", "-o", "csv").stdout)))
    assert {each["service"] for each in rows} == {"ml/chat", "ml/code", "(idle)", "(other pods)"}
    code = next(each for each in rows if each["service"] == "ml/code")
    assert (code["input_tokens"], code["allocation_per_million_all"], code["token_coverage"]) == ("0", "", "0.000000")


def test_a_ledger_without_tokens_says_so(ledger: Path) -> None:
    assert "knows no tokens yet" in ask(ledger, "--tokens", "--period", "today").output


def test_savings_of_watched_time_against_last_weeks_fleet(busy: Path) -> None:
    found = ask(busy, "--savings", "--period", "today", "-o", "json")
    assert found.exit_code == 0, found.output
    (chat,) = json.loads(found.output)["savings"]
    assert (chat["service"], chat["baseline_gpus"], chat["realised_hours"]) == ("ml/chat", "4", "10.000000")
    assert (chat["realised_saving"], chat["potential_saving"]) == ("0.000000", ""), "4 GPUs ran all the time"
    notes = " ".join(json.loads(found.output)["notes"])
    assert "HPA" in notes and "What nobody watched is in neither" in notes and "96.00 USD" in notes
    assert "ml/chat" in ask(busy, "--savings", "--period", "today").output


def test_savings_before_anything_was_watched(busy: Path) -> None:
    found = ask(busy, "--savings", "--period", "2025-12-20")
    assert (found.exit_code, "No service was watched" in found.output) == (0, True), found.output


def test_tokens_of_a_day_that_begins_at_half_past_are_of_whole_hours_and_it_says_which(busy: Path) -> None:
    found = json.loads(ask(busy, "--tokens", "--period", "today", "--time-zone", "Asia/Kolkata", "-o", "json").output)
    assert (found["from"], found["to"]) == ("2026-01-14T19:00:00Z", "2026-01-15T12:00:00Z")
    chat = next(each for each in found["tokens"] if each["service"] == "ml/chat")
    assert (chat["cost"], chat["input_tokens"]) == ("170.000000", "20000000")


def test_focus_rows_are_of_whole_hours_with_a_price(busy: Path, tmp_path: Path) -> None:
    path = tmp_path / "focus.csv"
    found = ask(busy, "--focus", str(path), "--period", "today", "--account", "prod")
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == 12 + 12 + 6, "chat, the node's idle GPUs and code"
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == 120 + 96 + 12
    assert {row["BillingAccountId"] for row in rows} == {"prod"}
    assert "30 rows" in found.stderr and "12.00 GPU-hours whose price nobody knows are left out" in found.stderr
    printed = ask(busy, "--focus", "-", "--period", "today", "--account", "prod")
    assert printed.stdout == path.read_text()


def test_focus_exports_of_two_days_are_that_of_both(busy: Path) -> None:
    """Also where days begin at half past: no hour is in both, none is lost."""

    def hours(period: str) -> list[str]:
        found = ask(busy, "--focus", "-", "--period", period, "--time-zone", "Asia/Kolkata")
        rows = csv.DictReader(io.StringIO(found.stdout))
        return sorted(row["ChargePeriodStart"] for row in rows if row["x_Service"] == "chat")

    both = hours("2026-01-12..2026-01-13")
    assert hours("2026-01-12") + hours("2026-01-13") == both and len(both) == len(set(both)) == 48


def test_where_a_file_cannot_be_written_it_says_why(busy: Path, tmp_path: Path) -> None:
    found = ask(busy, "--focus", str(tmp_path / "none" / "focus.csv"), "--period", "today")
    assert "Name a file in a writable directory" in str(found.exception)
