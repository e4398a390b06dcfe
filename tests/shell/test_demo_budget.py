"""The demo under a ceiling: a day that ends with the load, money that is counted from outside, and what is said."""

import io
import math
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from rich.console import Console

from ebbtide.cli.demo import demo
from ebbtide.cli.demo_bill import unconstrained
from ebbtide.cli.demo_budget import _bar, _batch, _batch_words, report
from ebbtide.money.calendar import Span, period_at
from ebbtide.sandbox.demo import DemoOptions
from ebbtide.sandbox.demo_budget import BATCH, BATCH_POOL, SEEDED, Life, Money, time_zone, verdict
from ebbtide.sandbox.demo_off_peak import JobLife, Run

BEGIN_S = 1_790_000_000.0


def money(ceiling: str = "404.20", spent: str = "402.10", **status: object) -> Money:
    day = {"period": "Day", "spent": spent, "committed": "1.05"}
    found = Money(Decimal(ceiling), Decimal("6.00"), BEGIN_S, BEGIN_S + 300)
    found.status = {"periods": [day], "ratePerHour": "21.55", **status}
    return found


@pytest.mark.parametrize("midnight", ["00:00:00", "03:17:41", "12:00:00", "23:59:59"])
def test_the_day_ends_when_the_load_does(midnight: str) -> None:
    end_s = int(datetime.fromisoformat(f"2026-11-23T{midnight}+00:00").timestamp())
    zone = ZoneInfo.from_file(io.BytesIO(time_zone(end_s)), "Demo/Today")
    day = period_at(Span.DAY, zone, end_s - 1.0)
    assert (day.start_s, day.end_s) == (end_s - 86_400, end_s)
    assert datetime.fromtimestamp(end_s, UTC).astimezone(zone).time().isoformat() == "00:00:00"


def test_pods_are_counted_in_whole_seconds_from_their_binding_to_the_end_of_the_day() -> None:
    found = money()
    found.lives = (
        Life(BEGIN_S - 100, BEGIN_S + 30, Decimal(36)),  # 30 s
        Life(BEGIN_S + 10.9, BEGIN_S + 69.1, Decimal(36)),  # 60 s: the first and the last one begun
        Life(BEGIN_S + 290, None, Decimal(72)),  # 10 s
        Life(BEGIN_S + 290, BEGIN_S + 400, Decimal(72)),  # 10 s
        Life(BEGIN_S + 301, None, Decimal(72)),  # another day's
        Life(BEGIN_S - 100, BEGIN_S - 1, Decimal(72)),
    )
    assert found.counted == Decimal("0.30") + Decimal("0.60") + 2 * Decimal("0.20")


PRIORITIES = {"chat": 300, "summaries": 100, "backfill": 10}


@pytest.mark.parametrize(
    ("spent", "counted_s", "met", "problem"),
    [
        ("404.20", 0, 1.0, None),
        ("404.21", 0, 1.0, "404.21 of 404.20 USD were spent"),
        ("404.00", 100, 1.0, "410.00 USD were counted from outside"),
        ("404.00", 10, 0.96, "chat met both objectives for 96.0%, not 97%"),
    ],
)
def test_what_did_not_come_out_as_it_should_is_said(
    spent: str, counted_s: int, met: float, problem: str | None
) -> None:
    found = money(spent=spent)
    found.lives = (Life(BEGIN_S, BEGIN_S + counted_s, Decimal(360)),)
    assert verdict(found, PRIORITIES, {"chat": met}, 0.97) == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("since_s", "problems"),
    [
        ({}, []),
        ({"backfill": 10.0}, []),
        ({"backfill": 10.0, "summaries": 20.0, "chat": 30.0}, []),
        ({"backfill": 10.0, "summaries": 10.0}, []),
        ({"summaries": 20.0}, ["summaries, of priority 100, gave way at 20 s; backfill, of priority 10, never"]),
        (
            {"chat": 5.0, "backfill": 10.0, "summaries": 20.0},
            [
                "chat, of priority 300, gave way at 5 s; backfill, of priority 10, at 10 s",
                "chat, of priority 300, gave way at 5 s; summaries, of priority 100, at 20 s",
            ],
        ),
    ],
    ids=["nobody", "the least", "in order", "at once", "one that matters more alone", "the most important first"],
)
def test_who_gives_way_before_somebody_of_lower_priority_is_said(
    since_s: dict[str, float], problems: list[str]
) -> None:
    found = money()
    found.since_s = since_s
    assert verdict(found, PRIORITIES, {"chat": 1.0}, 0.97) == problems


def test_a_raise_that_waits_for_what_gives_way_gave_nothing_up() -> None:
    found = money()
    for second in range(30):
        waits = [{"service": "demo/chat", "replicas": 1}] if second in (5, 6, 7, 20) else []
        found.note([*waits, {"service": "demo/backfill", "replicas": 1 + second // 20}] if second >= 4 else [], second)
    assert found.since_s == {"backfill": 4}
    assert found.gave_way == {"chat": 1, "backfill": 2}


@pytest.mark.parametrize(
    ("story", "ran", "stopped_s", "since_s", "problems"),
    [
        ("it was stopped, and nobody gave way", True, 30.0, {}, []),
        ("money was never short", True, None, {}, []),
        ("before everybody", True, 30.0, {"backfill": 30.0, "summaries": 60.0}, []),
        ("after somebody", True, 30.0, {"backfill": 20.0}, ["backfill gave way at 20 s; Job embed, at 30 s"]),
        ("never", True, None, {"backfill": 20.0}, ["backfill gave way at 20 s; Job embed, never"]),
        ("it never ran", False, None, {"backfill": 20.0}, ["Job embed was never started"]),
    ],
)
def test_batch_gives_way_before_any_service(
    story: str, ran: bool, stopped_s: float | None, since_s: dict[str, float], problems: list[str]
) -> None:
    found = money()
    found.batch, found.since_s, found.batch_stopped_s = JobLife(BATCH, math.inf), since_s, stopped_s
    found.batch.runs = [Run(BEGIN_S, BEGIN_S + 30.0, BATCH_POOL)] * ran
    assert verdict(found, PRIORITIES, {"chat": 1.0}, 0.97) == problems, story
    said = {"batch": _batch(found), "gave_way_in_order": list(since_s)}
    assert _batch_words(said) == ([] if stopped_s is None else ["Job embed (3 GPUs, 30s)"])


def test_the_bar_shows_what_is_spent_bound_and_left_and_who_gives_way() -> None:
    gave_way = [{"service": "demo/backfill", "replicas": 2}]
    assert _bar(money(gaveWay=gave_way)) == (
        "█" * 20 + "▒" * 10 + "░" * 10 + " 402.10 of 404.20 USD are spent, 1.05 bound, 1.05 left; 21.55 an hour; "
        "backfill without 2"
    )
    before = Money(Decimal("404.20"), Decimal(6), BEGIN_S, BEGIN_S + 300)
    assert _bar(before).endswith("nobody gives way")
    before.batch = JobLife(BATCH, math.inf)
    assert _bar(before).endswith("nobody gives way"), "it has not begun"
    before.batch.runs = [Run(BEGIN_S, BEGIN_S + 30.0, BATCH_POOL)]
    assert _bar(before).endswith("nobody gives way; Job embed is stopped")


def test_the_report_says_what_was_spent_and_who_gave_way_first() -> None:
    row = {"name": "chat", "priority": 300, "requests": 10, "met_both": 1.0, "met_both_after_60s": 0.99}
    rest = {"replicas_min": 5, "replicas_max": 8, "did_without": 0, "did_without_from_s": None, "cost": "0.50"}
    money_of = {"ceiling": "404.20", "spent": "404.10", "counted_from_outside": "404.10", "unconstrained": "6.00"}
    effort = {"cycles": 9, "cycle_seconds_p50": 0.1, "cycle_seconds_p99": 0.2, "promql_queries_per_cycle": 7.0}
    document = {
        **{**money_of, "used_share": 0.976, "services": [row | rest], "gave_way_in_order": ["backfill", "summaries"]},
        **{**effort, "api_writes": 4, "lease_renewals": 1, "duration_s": 300.0, "problems": ["too much"]},
        "batch": {"job": "embed", "gpus": 3, "runs": 1, "stopped_s": 41.2},
    }
    out = io.StringIO()
    report(Console(file=out, width=200), document)
    assert (
        "Of 404.20 USD of the day 404.10 were spent (404.10 counted from outside): 97.6% of the 70%" in out.getvalue()
    )
    assert "First to give way: Job embed (3 GPUs, 41s), then backfill, then summaries." in out.getvalue()
    assert "not as it should be: too much" in out.getvalue()


@pytest.mark.parametrize(("option", "why"), [("--trace", "whose load is part of what it shows")])
def test_what_does_not_go_together_is_refused(option: str, why: str) -> None:
    answer = CliRunner().invoke(demo, ["--scenario", "budget", option, __file__])
    assert (answer.exit_code, why in answer.output) == (2, True)


@pytest.mark.slow
def test_without_a_ceiling_all_three_meet_their_objectives_and_cost_something() -> None:
    found = unconstrained(DemoOptions(duration_s=60.0))
    assert found.static == {}
    assert set(found.gpu_hours) == {"a100-on-prem", "l40s-on-demand", "cloud-a100"}
    assert all(0.02 < hours < 0.2 for hours in found.gpu_hours.values())
    assert SEEDED > 0
