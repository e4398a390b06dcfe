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
from ebbtide.ledger.days import Keeping
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Hole, LabelsRecord, Lifetime, OfferRecord, Payer, PolicyRecord, PriceRecord, UsageRow
from ebbtide.model.spec import Alternative, Billing, OnPrem, Price, Tariff

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
    return {total[by]: Decimal(total["cost"]) for total in json.loads(found.output)["totals"] if total["cost"]}


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


def test_by_a_label_that_the_ledger_keeps(ledger: Path) -> None:
    made, web = Ledger(ledger), Payer("h100", "ml", "web", "h100", "llama", "search", (("product", "web"),))
    made.write(made.lead(NOW_S), NOW_S, [Lifetime("w", web, 1, NOW_S - 3600, NOW_S)], usage=[])
    made.close()
    found = ask(ledger, "--by", "label:product,team", "--period", "today", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [(each["label:product"], each["team"], each["cost"]) for each in rows] == [
        ("(none)", "search", "120.000000"),
        ("(none)", "tools", "12.000000"),
        ("web", "search", "2.500000"),
    ]
    tokens = json.loads(ask(ledger, "--tokens", "--by", "label:product", "--period", "today", "-o", "json").output)
    assert {each["label:product"] for each in tokens["tokens"]} == {"(none)", "web"}
    (row,) = (row for row in csv.DictReader(io.StringIO(ask(ledger, "--focus", "-", "--period", "today").stdout))
              if row["x_Service"] == "web")  # fmt: skip
    assert json.loads(row["Tags"]) == {"team": "search", "product": "web"}
    assert "No service has label" not in found.stderr
    none = ask(ledger, "--by", "label:owner", "--period", "today", "-o", "csv")
    assert 'No service has label "owner" in that time' in none.stderr and "It has product, team" in none.stderr


def test_the_table_has_a_total(ledger: Path) -> None:
    shown = ask(ledger, "--period", "today").output
    assert "2026-01-15 00:00 to 2026-01-15 12:00 UTC" in shown
    assert "ml/chat" in shown and "120.00 USD" in shown and "132.00 USD" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "colour"), '"colour" is not allowed: service, team'),
        (("--by", "service,label:"), '"service,label:" is not allowed: service, team'),
        (("--period", "soon"), '"soon" is not allowed: write today'),
        (("--period", "2026-02"), "has not begun"),
        (("--period", "2026-01-05..2026-01-01"), "ends before it begins: write 2026-01-01..2026-01-05"),
        (("--period", "2026-01..2025-12"), "ends before it begins: write 2025-12..2026-01"),
        (("--time-zone", "Mars/Base"), '"Mars/Base" is no time zone'),
        (("--tokens", "--savings"), "ask for one at a time"),
        (("--savings", "--by", "team"), '"team" is not allowed with --savings'),
        (("--alternative", "--tokens"), "ask for one at a time"),
        (("--alternative", "--by", "team"), '"team" is not allowed with --alternative: service or pool is'),
        (("--api", "0.50,2.00,USD"), "--api: it says what --alternative compares with"),
        (("--alternative", "--api", "0.50,2.00"), '--api: "0.50,2.00" is not allowed: write IN,OUT,CURRENCY'),
        (("--alternative", "--api", "0.50,0,USD"), "prices above 0"),
        (("--alternative", "--api", "0.50,NaN,USD"), "prices above 0"),
        (("--alternative", "--api", "0.50,2.00,dollars"), "such as 0.50,2.00,USD"),
        (("--focus", "-", "--account", " "), '--account: " " is not allowed'),
        (("--account", "prod"), "--account: it is the account of FOCUS rows: give --focus too"),
        (("--focus", "-", "-o", "json"), '"json" is not allowed with --focus: FOCUS rows are CSV'),
        (("--focus", "-", "--by", "team"), '"team" is not allowed with --focus'),
        (("--prices", "--by", "team"), '"team" is not allowed with --prices: they are those of pools'),
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


def test_what_nobody_knows_the_price_of_costs_nowhere_0(busy: Path) -> None:
    """Twelve GPU-hours of a pool without a price: in JSON, CSV and the table, and beside the total."""
    said = "Nobody knows the price of 12.00 GPU-hours: they are in no cost and in no total."
    found = json.loads(ask(busy, "--by", "pool", "--period", "today", "-o", "json").output)
    (unknown,) = (each for each in found["totals"] if each["pool"] == "unknown")
    assert (unknown["currency"], unknown["cost"], unknown["unknown_gpu_hours"]) == ("", "", "12.000000")
    assert said in found["notes"]
    as_csv = ask(busy, "--by", "pool", "--period", "today", "-o", "csv")
    rows = {row["pool"]: row for row in csv.DictReader(io.StringIO(as_csv.stdout))}
    assert (rows["unknown"]["cost"], rows["nodes"]["cost"]) == ("", "96.000000")
    assert said in as_csv.stderr
    table = ask(busy, "--by", "pool", "--period", "today").output
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "total unknown 12.00" in lines and "total 228.00 USD" in lines
    assert said in " ".join(table.split())


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


@pytest.mark.parametrize("arguments", [("--tokens",), ("--alternative",), ("--alternative", "--by", "pool")])
@pytest.mark.parametrize("period", ["today", "month", "2025-12"])
def test_a_ledger_without_tokens_says_so_and_nothing_of_gpus(
    ledger: Path, arguments: tuple[str, ...], period: str
) -> None:
    """It begins on 6 December: a report of December has no end before that beginning either."""
    shown = ask(ledger, *arguments, "--period", period).output
    assert shown.startswith("The ledger counted no tokens in that time.\n") and "knows no tokens yet" in shown
    assert not any(words in shown for words in ("From 20", "No GPUs", "last written", "1970"))


def test_of_time_before_the_ledger_begins_it_says_that_and_no_span_that_runs_backwards(ledger: Path) -> None:
    shown = ask(ledger, "--period", "2025-11").output
    assert shown == (
        "The ledger counted nothing in that time.\n"
        "The ledger begins at 2025-12-06 12:00 UTC: what ran before is not in it.\n"
    )


def test_of_time_since_the_ledger_was_last_written_it_says_when_that_was(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "unix_time_s", lambda: NOW_S + 2.0 * DAY_S)
    shown = ask(ledger, "--period", "today").output
    assert shown.startswith("The ledger counted nothing in that time.\n") and "No GPUs were held" not in shown
    assert "last written at 2026-01-15 12:00 UTC" in shown


def test_savings_of_watched_time_against_last_weeks_fleet(busy: Path) -> None:
    found = ask(busy, "--savings", "--period", "today", "-o", "json")
    assert found.exit_code == 0, found.output
    (chat,) = json.loads(found.output)["savings"]
    assert (chat["service"], chat["baseline_gpus"], chat["realised_hours"]) == ("ml/chat", "4", "10.000000")
    assert (chat["realised_saving"], chat["potential_saving"]) == ("0.000000", ""), "4 GPUs ran all the time"
    notes = " ".join(json.loads(found.output)["notes"])
    assert "HPA" in notes and "What nobody watched is in neither" in notes and "96.00 USD" in notes
    table = ask(busy, "--savings", "--period", "today").output
    assert "ml/chat" in table and "static, 4" in table


def test_savings_against_an_hpa_are_of_the_time_in_which_it_was_played_along(busy: Path) -> None:
    made, today = Ledger(busy), NOW_S - 12 * 3600
    service = Payer("", "ml", "chat", "", "llama", "search")
    played = [
        UsageRow(today, CHAT, ran_gpu_s=4 * 3600, hpa_gpu_s=6 * 3600),
        UsageRow(today, service, watched_s=3600, acting_s=3600, compared_s=3600),
    ]
    made.write(made.lead(NOW_S), NOW_S, [], usage=played)
    made.close()
    found = json.loads(ask(busy, "--savings", "--period", "today", "-o", "json").output)
    (chat,) = found["savings"]
    assert (chat["hpa_hours"], chat["hpa_cost"], chat["beside_hpa_cost"]) == ("1.000000", "15.000000", "10.000000")
    assert chat["hpa_saving"] == "5.000000"
    assert any("70% of what a replica holds" in note and "It supposes" in note for note in found["notes"])
    lines = ask(busy, "--savings", "--period", "today").output.splitlines()
    (hpa,) = (line for line in lines if line.strip().startswith("HPA "))
    assert hpa.split() == ["HPA", "1.0", "h", "15.00", "USD", "10.00", "USD", "5.00", "USD"]


def test_where_no_hpa_was_played_along_nothing_is_said_of_one(busy: Path) -> None:
    (chat,) = json.loads(ask(busy, "--savings", "--period", "today", "-o", "json").output)["savings"]
    assert (chat["hpa_hours"], chat["hpa_cost"], chat["hpa_saving"]) == ("0.000000", "", "")


API = Alternative("USD", Decimal("0.50"), Decimal("2.00"))


def declare(path: Path, *records: OfferRecord) -> None:
    made = Ledger(path)
    made.write(made.lead(NOW_S), NOW_S, [], selections=records)
    made.close()


def test_build_or_buy_by_what_the_service_declared(busy: Path) -> None:
    declare(busy, OfferRecord("ml/chat", NOW_S - 30 * DAY_S, API))
    found = json.loads(ask(busy, "--alternative", "--period", "today", "-o", "json").output)
    (chat,) = found["alternatives"]
    assert (chat["service"], chat["hours"], chat["per_hour"]) == ("ml/chat", "10.000000", "10.000000"), "what was seen"
    assert chat["api_per_hour"] == "2.000000", "20 million at 0.50 and 5 million at 2.00 in 10 hours"
    assert (chat["tokens_per_day"], chat["break_even_tokens_per_day"]) == ("60000000", "300000000")
    assert (chat["utilisation"], chat["break_even_utilisation"]) == ("0.250000", "1.250000")
    assert chat["pay_back_days"] == "" and "not even full they are cheaper" in chat["message"]
    assert any("1 of 2 services declared no spec.alternative" in note for note in found["notes"])


def test_build_or_buy_against_prices_that_are_given(busy: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(
        ask(busy, "--alternative", "--api", "5,20,USD", "--period", "today", "-o", "csv").stdout)))  # fmt: skip
    chat, code = rows
    assert (chat["api_per_hour"], chat["break_even_utilisation"]) == ("20.000000", "0.125000")
    assert (code["service"], code["tokens_per_day"]) == ("ml/code", "") and "No tokens were seen" in code["message"]
    table = ask(busy, "--alternative", "--api", "5,20,USD", "--period", "today").output
    assert "20.00 USD" in table and "30.00" in table and "12%" in table and "as --api says" in table


def test_build_or_buy_of_a_time_before_it_was_declared(busy: Path) -> None:
    declare(busy, OfferRecord("ml/chat", NOW_S - 30, API), OfferRecord("ml/code", NOW_S - 3 * DAY_S, API),
            OfferRecord("ml/code", NOW_S - 2 * DAY_S))  # fmt: skip
    found = ask(busy, "--alternative", "--period", "yesterday")
    assert (found.exit_code, "No service is compared in that time" in found.output) == (0, True), found.output


def test_build_or_buy_in_other_money_says_so(busy: Path) -> None:
    found = json.loads(ask(busy, "--alternative", "--api", "1,2,EUR", "--period", "today", "-o", "json").output)
    chat = found["alternatives"][0]
    assert (chat["currency"], chat["api_per_hour"], chat["break_even_tokens_per_day"]) == ("USD", "", "")
    assert "paid in USD, which cannot be compared" in chat["message"]


@pytest.fixture
def bought(busy: Path) -> Path:
    """Twelve hours of 4 GPUs that were bought, and of 4 that stood idle beside them: 0.20 USD of electricity each."""
    made, today, own = Ledger(busy), NOW_S - 12 * 3600, Payer("own", "ml", "chat", "own", "llama", "search")
    terms = OnPrem(Decimal(30_000), Decimal(4), Decimal(1000), Decimal(1), Tariff(Decimal("0.20")))
    usage = [UsageRow(today + hour * 3600, own, 4_000_000, 1_000_000, 14_400) for hour in range(12)]
    lives = [
        Lifetime("o", own, 4, today, NOW_S, node="on"),
        Lifetime("on", Payer("own"), 8, today, NOW_S, is_node=True),
    ]
    price = PriceRecord("own", 0, Price("USD", on_prem=terms), Billing.NODE)
    made.write(made.lead(NOW_S), NOW_S, lives, [price], usage=usage)
    made.close()
    return busy


def test_when_a_pool_that_was_bought_is_paid_back(bought: Path) -> None:
    arguments = ("--alternative", "--by", "pool", "--api", "0.50,2.00,USD", "--period", "today")
    found = json.loads(ask(bought, *arguments, "-o", "json").output)
    (own,) = found["pools"]
    assert (own["pool"], own["gpu_hours"], own["idle_gpu_hours"]) == ("own", "96.000000", "48.000000")
    assert (own["capital_per_gpu"], own["api_cost"]) == ("30000.000000", "48.000000")
    assert Decimal(own["running_cost"]) == pytest.approx(Decimal("19.20"), rel=Decimal("1e-5"))
    assert own["pay_back_days"] == "4167", "240,000 for 2.40 an hour"
    assert "4,167 days" in ask(bought, *arguments).output
    never = ask(bought, "--alternative", "--by", "pool", "--api", "0.01,0.01,USD", "--period", "today")
    assert "not at this pace" in never.output


def test_what_a_service_has_on_bought_gpus_is_paid_back_by_the_work_that_they_do(bought: Path) -> None:
    found = json.loads(ask(bought, "--alternative", "--api", "0.50,2.00,USD", "--period", "today", "-o", "json").output)
    chat = found["alternatives"][0]
    assert chat["service"] == "ml/chat"
    hours = Decimal(chat["hours"])
    assert 10 < hours < 12, "of 96 GPU-hours of both pools 88 were seen"
    assert chat["pay_back_days"] == "1562", "120,000 for 48 less 9.60 in 12 hours: its own GPUs alone"


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


@pytest.fixture
def old(busy: Path) -> Path:
    """The same, of which hours are kept from 13 January on alone."""
    made = Ledger(busy)
    epoch = made.lead(NOW_S)
    while made.roll_up(epoch, NOW_S, Keeping(2 * DAY_S, 2 * DAY_S)):
        pass
    made.close()
    return busy


def test_old_days_of_the_ledgers_own_zone_are_exact_and_nothing_is_said(old: Path) -> None:
    found = ask(old, "--period", "2025-12", "-o", "json")
    assert amounts(found)["ml/chat"] == (17 * 24 + 12) * 10
    assert "notes" not in json.loads(found.output)


@pytest.mark.parametrize(
    ("period", "zone", "days", "said"),
    [
        (
            "2026-01-03",
            "America/New_York",
            1,
            "from 2026-01-03 00:00 to 2026-01-04 00:00 UTC, not from 2026-01-03 05:00",
        ),
        ("2026-01-03", "Asia/Kolkata", 1, "from 2026-01-03 00:00 to 2026-01-04 00:00 UTC, not from 2026-01-02 18:30"),
        ("2026-01-05..2026-01-11", "Asia/Tokyo", 7, "to 2026-01-12 00:00 UTC, not from 2026-01-04 15:00"),
    ],
)
def test_old_days_of_another_zone_are_whole_ones_and_it_says_which(
    old: Path, period: str, zone: str, days: int, said: str
) -> None:
    found = ask(old, "--period", period, "--time-zone", zone, "-o", "json")
    assert amounts(found)["ml/chat"] == days * 240
    (note,) = json.loads(found.output)["notes"]
    assert note.startswith("Before 2026-01-13 00:00 UTC the ledger keeps days alone") and said in note


def test_focus_rows_of_old_time_are_days(old: Path) -> None:
    found = ask(old, "--focus", "-", "--period", "2026-01-03")
    (row,) = csv.DictReader(io.StringIO(found.stdout))
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z")
    assert (row["ConsumedQuantity"], row["EffectiveCost"]) == ("96", "240")


def test_of_old_time_no_savings_are_told_and_it_says_so(old: Path) -> None:
    found = ask(old, "--savings", "--period", "month", "-o", "json")
    assert json.loads(found.output)["from"] == "2026-01-13T00:00:00Z"
    assert any("keeps days alone: of these no saving" in note for note in json.loads(found.output)["notes"])


def test_of_old_time_build_or_buy_is_not_told_either(old: Path) -> None:
    found = ask(old, "--alternative", "--period", "month", "--api", "0.50,2.00,USD", "-o", "json")
    assert json.loads(found.output)["from"] == "2026-01-13T00:00:00Z"
    assert any("keeps days alone: of these it cannot be told" in note for note in json.loads(found.output)["notes"])


def test_how_pools_were_priced_and_when_that_became_known(ledger: Path) -> None:
    made = Ledger(ledger)
    spring = [
        PriceRecord("h100", NOW_S - DAY_S, Price("USD", Tariff(Decimal(3))), Billing.POD, None, NOW_S - DAY_S),
        PriceRecord("h100", NOW_S - 2 * DAY_S, Price("USD", Tariff(Decimal("2.80"))), Billing.POD, None, NOW_S - 60),
    ]
    made.write(made.lead(NOW_S), NOW_S, [], spring)
    made.close()
    found = list(csv.DictReader(io.StringIO(ask(ledger, "--prices", "-o", "csv").stdout)))
    assert [(row["pool"], row["from"], row["known_at"], row["price"], row["holds"]) for row in found] == [
        ("a100", "", "", "1.00", "yes"),
        ("h100", "", "", "2.50", "yes"),
        ("h100", "2026-01-14T12:00:00Z", "2026-01-14T12:00:00Z", "3", "replaced"),
        ("h100", "2026-01-13T12:00:00Z", "2026-01-15T11:59:00Z", "2.80", "yes"),
    ]
    lines = ask(ledger, "--prices").output.splitlines()
    assert all(len(line) <= 80 for line in lines), "of a terminal of 80 columns nothing is cut off"
    assert ["h100", "2026-01-13", "12:00", "2026-01-15", "11:59", "2.80", "USD", "Pod", "yes"] in map(str.split, lines)
    assert amounts(ask(ledger, "--period", "2026-01-14", "-o", "json"))["ml/chat"] == Decimal("2.80") * 96


def test_why_a_price_does_not_hold_from_when_it_says_is_told_below_the_table(ledger: Path) -> None:
    made = Ledger(ledger)
    late = PriceRecord("h100", NOW_S - 60, Price("USD", Tariff(Decimal(3))), Billing.POD, None, NOW_S, "it is too late")
    made.write(made.lead(NOW_S), NOW_S, [], [late])
    made.close()
    assert "h100 from 2026-01-15 11:59: it is too late" in ask(ledger, "--prices").output.splitlines()
    (row,) = (row for row in csv.DictReader(io.StringIO(ask(ledger, "--prices", "-o", "csv").stdout)) if row["note"])
    assert (row["price"], row["note"]) == ("3", "it is too late")


def test_a_pool_whose_price_went_away_and_came_back_in_other_money_adds_nothing_up_across_the_two(ledger: Path) -> None:
    made = Ledger(ledger)
    euro = Price("EUR", Tariff(Decimal("2.00")))
    later = [PriceRecord("h100", NOW_S - hours * 3600, price) for hours, price in ((6, None), (4, euro))]
    made.write(made.lead(NOW_S), NOW_S, [], later)
    made.close()
    found = list(csv.DictReader(io.StringIO(ask(ledger, "--by", "pool", "--period", "today", "-o", "csv").stdout)))
    h100 = [(row["currency"], row["cost"], row["unknown_gpu_hours"]) for row in found if row["pool"] == "h100"]
    assert sorted(h100) == [
        ("", "", "8.000000"),
        ("EUR", "32.000000", "0.000000"),
        ("USD", "60.000000", "0.000000"),
    ]


def test_what_is_missing_is_told_with_the_reports_of_its_time(ledger: Path) -> None:
    made = Ledger(ledger)
    holes = [Hole(NOW_S - 7200, NOW_S - 3600, "the ledger could not be written, and 12 pods are not in it")]
    made.write(made.lead(NOW_S), NOW_S, [], holes=holes)
    made.close()
    said = "From 2026-01-15 10:00 to 2026-01-15 11:00 UTC the ledger could not be written, and 12 pods are not in it."
    assert json.loads(ask(ledger, "--period", "today", "-o", "json").output)["notes"] == [said]
    assert said in ask(ledger, "--period", "today", "--focus", "-").stderr
    assert "notes" not in json.loads(ask(ledger, "--period", "yesterday", "-o", "json").output)
