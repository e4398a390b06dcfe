"""A month of budgets in small: no ceiling is crossed, what binds is used, and nobody beats who knows the future."""

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.bench.budget import command, demand, spenders
from ebbtide.bench.budget.clairvoyant import by_priority, by_value, clairvoyant
from ebbtide.bench.budget.clerk import DAY_S, Clerk
from ebbtide.bench.budget.fleet import Fleet, Pace
from ebbtide.bench.budget.member import MEMBERS, Member
from ebbtide.bench.budget.report import report
from ebbtide.bench.budget.results import Results
from ebbtide.bench.budget.runner import ceilings
from ebbtide.bench.budget.spenders import Ceiling
from ebbtide.bench.budget.world import Began, Stage
from ebbtide.cli.main import main
from ebbtide.model.spec import CeilingKind, Pacing

pytestmark = pytest.mark.timeout(900)  # two days under everything take 20 s on two free cores

PRICE = Decimal("2.50")
DEFAULTS = {
    "days": 2,
    "traces": None,
    "peak_replicas": "6,5,4",
    "lead_in_days": 1,
    "gpu_hour_price": "2.50",
    "startup_s": 120.0,
    "cycle": "5m",
    "seed": 1,
    "jobs": 2,
}


# ---- two days under everything ----


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out, kept, said = tmp_path_factory.mktemp("budget"), tmp_path_factory.mktemp("kept"), []
    asked, text = command.ask(DEFAULTS), "ebbtide bench budget --days 2"
    found = command.answer(asked, out, text, lambda line: None, kept)
    assert command.answer(asked, out, text, said.append, kept) == found, (
        "what was interrupted goes on from what is kept"
    )
    assert not [line for line in said if "lead-in" in line]
    assert msgspec.json.decode((out / "results.json").read_bytes(), type=Results) == found
    for name in ("budget.svg", "budget-money.svg"):
        assert ET.fromstring((out / name).read_text(encoding="utf-8")).tag.endswith("svg")
        assert f"]({name})" in (out / "report.md").read_text(encoding="utf-8")
    return found


def spent_by(results, spender):
    """(ceiling, what the spender came to) of each."""
    return [(under, one) for under in results.ceilings for one in under.spenders if one.spender == spender]


def test_ebbtide_crosses_no_ceiling(results):
    runs = spent_by(results, "ebbtide")
    assert len(runs) == 12, "three shares, a day and a month, with and without pacing"
    for under, one in runs:
        assert (one.overrun, one.periods_over) == (0, 0), (under.ceiling, one.setting)


def test_what_binds_is_used(results):
    """Demand for 167 % of the money: of a ceiling of two days 97 % and more is spent without pacing."""
    tight = [(under, one) for under, one in spent_by(results, "ebbtide") if under.ceiling.share == Decimal("0.6")]
    assert len(tight) == 4
    for under, one in tight:
        assert under.binding == under.periods
        if one.setting == "pacing None":
            assert one.used >= 0.97, under.ceiling
        assert one.short > 0.1, "it did without something in many cycles"


def test_who_only_alerts_overruns_by_what_is_wanted_and_who_stops_hard_by_what_drains(results):
    for under, one in spent_by(results, "alert only"):
        assert one.cost == results.unconstrained.cost
        if under.ceiling.kind is CeilingKind.MONTH:
            over = max(Decimal(0), one.cost - under.ceiling.amount)
            assert one.overrun == pytest.approx(over, abs=Decimal("0.02"))
    stopped = [one for under, one in spent_by(results, "hard stop") if under.ceiling.share == Decimal("0.6")]
    assert all(Decimal(0) < one.overrun < 10 for one in stopped)


def test_a_quota_stays_within_and_leaves_money_over(results):
    for under, one in spent_by(results, "GPU quota"):
        assert one.overrun == 0, under.ceiling
        if under.ceiling.share == Decimal("0.6"):
            assert one.used < 1


def test_nobody_within_the_ceiling_attains_more_than_who_knows_the_future(results):
    for under in results.ceilings:
        (best,) = [one for one in under.spenders if one.setting == "by value"]
        assert best.overrun == 0
        for one in under.spenders:
            if not one.overrun:
                assert one.weighted <= best.weighted + 1e-9, (under.ceiling, one.spender, one.setting)


def test_the_report_says_overruns_first_and_where_others_attain_more(results):
    said = report(results)
    assert "Overruns of Ebbtide, 12 runs together: **0.00 USD**" in said
    for under in results.ceilings:
        ceiling = under.ceiling
        start = f"- {ceiling.share:.0%} a {ceiling.kind.value.lower()} ({ceiling.amount} USD): "
        line = next((line for line in said.splitlines() if line.startswith(start)), "")
        best = max(one.weighted for one in under.spenders if one.spender == "ebbtide")
        (quota,) = [one for one in under.spenders if one.spender == "GPU quota"]
        better = quota.weighted > best + 0.0005 and under.binding > 0
        assert (f"GPU quota {quota.setting} attains {quota.weighted:.2%} for {quota.cost} USD" in line) is better


# ---- money ----


@given(st.lists(st.tuples(st.integers(-200, 400), st.integers(0, 300)), max_size=12))
def test_the_clerk_counts_what_one_counts_who_looks_every_second(lives):
    """Days of 100 s would do, but days are days: the month is pressed into its edges instead."""
    begin_s, end_s = 10 * DAY_S, 12 * DAY_S
    moments = [(begin_s + DAY_S - 200 + born, length) for born, length in lives]
    clerk, seen = Clerk(begin_s, end_s, PRICE), Counter()
    for number, (born_s, length_s) in enumerate(moments):
        clerk.begins(str(number), born_s)
        clerk.ends(str(number), born_s + length_s)
        for second in range(born_s, born_s + length_s):
            if begin_s <= second < end_s:
                seen[(second - begin_s) // DAY_S] += 1
    assert clerk.close() == tuple(PRICE * seen[day] / 3600 for day in (0, 1))


def test_what_runs_at_the_end_is_paid_to_the_end_and_what_was_spent_is_known_meanwhile():
    clerk = Clerk(0, 2 * DAY_S, PRICE)
    clerk.begins("a", -3600)
    clerk.begins("b", DAY_S)
    assert clerk.spent(0, 7200) == 2 * PRICE
    assert clerk.spent(DAY_S, DAY_S + 3600) == 2 * PRICE
    clerk.ends("b", DAY_S + 1800)
    assert clerk.spent(DAY_S, DAY_S + 3600) == Decimal("1.5") * PRICE
    assert clerk.close() == (24 * PRICE, Decimal("24.5") * PRICE)


def test_ceilings_are_shares_of_the_bill_and_a_whole_bill_binds_nothing():
    found = {(each.kind, each.share): each.amount for each in ceilings(Decimal("1000.001"), 30)}
    assert found[CeilingKind.DAY, Decimal("0.6")] == Decimal("20.01")
    assert found[CeilingKind.MONTH, Decimal(1)] == Decimal("1000.01")


# ---- what is answered ----


def test_a_replica_answers_its_capacity_and_only_once_it_is_ready():
    member, clerk = MEMBERS[0], Clerk(0, DAY_S, PRICE)
    assert member.capacity_per_s == pytest.approx(25.46, abs=0.01)
    assert member.gap_s(member.capacity_per_s) == member.itl_s
    assert member.gap_s(10 * member.capacity_per_s) == member.itl_s
    fleet = Fleet(member, Pace(startup_s=90, exit_s=30), clerk)
    fleet.scale(1, 0)
    carries = member.capacity_per_s
    assert fleet.answer(60 * 100.0, 0, 60) == 0
    assert fleet.answer(60 * 100.0, 60, 120) == pytest.approx(30 * carries), "ready in the middle of the minute"
    assert fleet.answer(60 * 10.0, 120, 180) == pytest.approx(600), "no more than comes"


def test_who_is_let_go_serves_no_more_and_is_paid_until_it_is_gone():
    clerk = Clerk(0, DAY_S, Decimal(3600))
    fleet = Fleet(MEMBERS[0], Pace(startup_s=0, exit_s=30), clerk)
    fleet.scale(2, 0)
    fleet.scale(1, 60, victims=("chat-1",))
    assert [pod.name for pod in fleet.pods] == ["chat-2"]
    assert fleet.ready(60) == 1
    fleet.advance(89)
    assert not fleet.gone
    fleet.advance(90)
    assert fleet.gone == {"chat-1": 90}
    fleet.scale(0, 120)
    assert clerk.close() == (90 + 150,)


def little_stage(*loads: tuple[int, int]) -> Stage:
    """A day of services of 1 request/s a replica; (priority, requests of each minute)."""
    members = tuple(
        Member(f"s{number}", priority, 1024.0, 256.0, 1.0, 0.05, (requests,) * 1440)
        for number, (priority, requests) in enumerate(loads)
    )
    return Stage(members, 0, DAY_S, 0, PRICE)


def test_the_clairvoyant_buys_the_fullest_replica_minutes():
    """60 a second need three replicas, of which the third answers 9: with money for two 50.9 are answered."""
    stage = little_stage((100, 3600))
    two = Ceiling(CeilingKind.DAY, Decimal(1), 2 * 24 * PRICE)
    found = clairvoyant(stage, two, by_value)
    assert sum(found.answered[0]) == pytest.approx(2 * stage.members[0].capacity_per_s * DAY_S)
    assert float(found.cost) == pytest.approx(120)
    more = clairvoyant(stage, Ceiling(CeilingKind.MONTH, Decimal(1), 100 * 24 * PRICE), by_value)
    assert sum(more.answered[0]) == pytest.approx(3600 * 1440)
    assert float(more.cost) == pytest.approx(3 * 60), "what is not needed is not bought"


def test_by_priority_serves_a_few_of_the_highest_first_and_by_value_what_weighs_most():
    stage = little_stage((200, 60), (100, 1500))  # 1/s and 25/s, and money for one replica
    one = Ceiling(CeilingKind.DAY, Decimal(1), 24 * PRICE)
    first, second = (clairvoyant(stage, one, worth).answered for worth in (by_priority, by_value))
    assert (sum(first[0]), sum(first[1])) == (pytest.approx(60 * 1440), 0)
    assert (sum(second[0]), sum(second[1])) == (0, pytest.approx(1500 * 1440))


# ---- rivals ----


def along(stage, path, limit):
    began = Began(tuple(() for _ in stage.members), tuple(0 for _ in stage.members), b"")
    return spenders.along(stage, began, path, limit)


def test_a_quota_gives_one_each_and_the_rest_by_priority():
    stage = little_stage((50, 60), (200, 60))
    limit = spenders.quota(stage, 4)
    held = along(stage, [[3] * 1440, [5] * 1440], limit).declared
    assert (held[0][-1], held[1][-1]) == (1, 3)
    assert max(map(sum, zip(*held, strict=True))) == 4


def test_a_hard_stop_turns_all_off_until_the_next_period():
    stage = msgspec.structs.replace(little_stage((100, 60)), end_s=2 * DAY_S)
    stage = msgspec.structs.replace(
        stage, members=(msgspec.structs.replace(stage.members[0], requests=(60,) * 2880),), exit_s=60
    )
    half = Ceiling(CeilingKind.DAY, Decimal("0.5"), 12 * PRICE)
    found = along(stage, [[1] * 2880], spenders.hard_stop(stage, half))
    (declared,) = found.declared
    assert (declared[719], declared[720], declared[1439], declared[1440]) == (1, 0, 0, 1)
    assert found.cost_by_day == (12 * PRICE + PRICE / 60,) * 2, "a minute of draining is beyond it"


def test_ebbtide_under_a_policy_decides_with_the_products_own_pacing():
    policy = Ceiling(CeilingKind.DAY, Decimal(1), Decimal(5)).policy(Pacing.SMOOTH)
    assert (policy.ceilings, policy.pacing) == (((CeilingKind.DAY, Decimal(5)),), Pacing.SMOOTH)


# ---- load ----


def loads(traces=(), seed=1, days=1):
    found = demand.members(demand.sources(traces), (4, 3, 2), 0, days * DAY_S, 0, seed)
    return [member.requests for member in found]


def test_load_is_the_same_for_a_seed_and_its_peak_needs_what_was_asked_for():
    assert loads() == loads()
    assert loads() != loads(seed=2)
    for member, requests, peak in zip(MEMBERS, loads(days=7), (4, 3, 2), strict=True):
        busiest = max(sum(requests[at : at + 5]) for at in range(len(requests) - 4)) / 300
        assert busiest / member.capacity_per_s == pytest.approx(peak, rel=0.05)


def test_traces_are_repeated_until_the_month_is_full_and_columns_are_told_apart(tmp_path):
    rates = tmp_path / "rates.csv"
    rates.write_text("t_s,rps\n" + "".join(f"{600 * step},{100 + step}\n" for step in range(144)), encoding="utf-8")
    tiers = tmp_path / "tiers.csv"
    tiers.write_text(
        "t_s,a,b\n" + "".join(f"{600 * step},{100 + step},{300 - step}\n" for step in range(144)), encoding="utf-8"
    )
    same, up, down = loads([str(rates), f"{tiers}:a", f"{tiers}:b"], days=2)
    assert sum(up[:300]) < sum(up[1000:1300]) and sum(down[:300]) > sum(down[1000:1300])
    assert sum(same[:1440]) == pytest.approx(sum(same[1440:]), rel=0.01), "the second day is the first once more"


BAD = {
    "--days 31": "--days 31: 1 to 30 is allowed",
    "--days 0": "--days 0: 1 to 30 is allowed",
    "--lead-in-days 0": "--lead-in-days 0: 1 to 28 is allowed",
    "--cycle 90s": "--cycle 90s: 1m, 2m, 3m, 4m, 5m are allowed",
    "--cycle soon": "--cycle soon: 1m, 2m, 3m, 4m, 5m are allowed",
    "--startup-s 0": "--startup-s 0: above 0 and at most 3600 seconds is allowed",
    "--gpu-hour-price free": "--gpu-hour-price free: a price above 0 and at most 10000 is allowed, such as 2.50",
    "--jobs 0": "--jobs 0: 1 to 64 is allowed",
    "--peak-replicas 1,2": "--peak-replicas 1,2: 3 numbers of 1 to 40 are allowed, such as 10,8,6",
    "--peak-replicas 1,2,99": "--peak-replicas 1,2,99: 3 numbers of 1 to 40 are allowed, such as 10,8,6",
    "--traces a.csv": "--traces a.csv: 3 files are needed, with commas: for chat, code, summaries",
    "--traces a.csv,b.csv,c.csv": "trace a.csv: No such file or directory",
    "--traces short.csv,short.csv,short.csv": (
        "trace short.csv: it covers 2 h; a day is needed, for ceilings are of days and months"
    ),
    "--traces day.csv:x,day.csv,day.csv": "trace column 'x' does not exist; there are: rps",
    "--traces none.csv,none.csv,none.csv": "trace none.csv: it holds no requests",
}


@pytest.mark.parametrize(("options", "said"), BAD.items(), ids=BAD)
def test_what_is_wrong_is_one_line_and_exit_code_2(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("t_s,rps\n0,1\n3600,2\n", encoding="utf-8")
    Path("day.csv").write_text("t_s,rps\n0,1\n43200,2\n", encoding="utf-8")
    Path("none.csv").write_text("t_s,rps\n0,0\n43200,0\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ebbtide", "bench", "budget", *options.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {said}"]
    assert not Path("out").exists()
