"""A clock that is set while the operator runs gives no money back, and bills no time that did not pass."""

from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime

import pytest

from ebbtide import clock
from ebbtide.clock import Anchored
from ebbtide.money.accounts import Accounts
from tests.core.purse import policy
from tests.money.test_accounts import NOON, NOTHING, holding, shown

HOUR_S = 3600


class Machine:
    """Its two clocks, and an operator's."""

    def __init__(self) -> None:
        self.passed_s, self.set_by_s = 0.0, 0.0
        self.clock = Anchored(lambda: NOON + self.passed_s + self.set_by_s, lambda: 5000.0 + self.passed_s)

    def pass_s(self, seconds: float) -> float:
        self.passed_s += seconds
        return self.clock.now_s() - NOON


@pytest.mark.parametrize("set_by_s", [-13 * HOUR_S, -HOUR_S, -6, 6, HOUR_S, 13 * HOUR_S])
def test_a_clock_that_is_set_is_not_followed_unless_the_api_servers_went_with_it(set_by_s: float) -> None:
    machine = Machine()
    assert machine.pass_s(60) == 60
    machine.set_by_s = set_by_s
    assert machine.pass_s(60) == 120
    assert machine.clock.ignored_s == set_by_s
    machine.clock.witness(NOON + machine.passed_s)
    assert machine.pass_s(60) == 180, "the API server's goes on as before"
    machine.clock.witness(NOON + machine.passed_s + set_by_s)
    assert machine.pass_s(60) == 240 + set_by_s, "this machine's was wrong, or it slept without noticing"
    assert machine.clock.ignored_s == 0


def test_a_clock_that_is_set_back_right_needs_no_witness() -> None:
    machine = Machine()
    machine.set_by_s = HOUR_S
    assert (machine.pass_s(60), round(machine.clock.ignored_s)) == (60, HOUR_S)
    machine.set_by_s = 0.0
    assert (machine.pass_s(60), machine.clock.ignored_s) == (120, 0)


@pytest.mark.parametrize("second", [-1.0, 1.0, 4.0])
def test_seconds_are_followed_at_once(second: float) -> None:
    machine = Machine()
    machine.set_by_s = second
    assert machine.pass_s(60) == 60 + second


@pytest.mark.parametrize("set_by_s", [13 * HOUR_S, -13 * HOUR_S])
def test_a_clock_that_is_set_over_midnight_opens_no_new_day_and_bills_no_time_that_did_not_pass(
    set_by_s: float,
) -> None:
    """One GPU at 3.60 USD an hour from noon to two; at one the clock is set, at half past one it is set right."""
    machine, accounts, spec = Machine(), Accounts(), policy(per_day="100")
    for minute in range(121):
        machine.set_by_s = set_by_s if 60 <= minute < 90 else 0.0
        accounts.count([spec], lambda _: NOTHING, shown(int(machine.clock.now_s()), holding("a", NOON)))
        (state,) = accounts.states()
        today = state.accounts[0]
        assert (today.start_s, today.end_s) == (NOON - 12 * HOUR_S, NOON + 12 * HOUR_S), "today's ceiling holds"
        assert today.spent == Decimal("3.60") * minute / 60
        machine.pass_s(60)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Tue, 99 Foo 2026 00:00:00 GMT"])
def test_an_answer_without_a_date_that_can_be_read_says_nothing(date: str | None) -> None:
    before = clock.unix_time_s()
    clock.hear_server(date)
    assert abs(clock.unix_time_s() - before) < 60


def test_what_the_api_server_says_is_heard_and_a_clock_that_is_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(clock, "_ANCHORED", machine.clock)
    machine.set_by_s = HOUR_S
    assert clock.unix_time_s() == NOON
    assert clock.clock_notice() == (
        "the machine's clock was set by +3600 s, which the API server's does not confirm: it is not followed"
    )
    clock.hear_server(format_datetime(datetime.fromtimestamp(NOON + HOUR_S, UTC), usegmt=True))
    assert (clock.unix_time_s(), clock.clock_notice()) == (NOON + HOUR_S, "")
