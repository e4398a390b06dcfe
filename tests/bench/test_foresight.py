"""What the clairvoyant knows of this very traffic, and that nobody is cheaper than it."""

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from ebbtide.bench.case import Case
from ebbtide.bench.clairvoyant import Problem, cheapest
from ebbtide.bench.comparison import bounded
from ebbtide.bench.foresight import JAM_SLOTS, Foresight, corrected, learnt, missed_by_slot, sizes_that_matter
from ebbtide.bench.misses import MissTable
from ebbtide.bench.preparation import Stage
from ebbtide.bench.results import BOUND
from ebbtide.bench.run import HOLD, PATH, RunResult
from ebbtide.bench.runner import Runner
from tests.bench.analytic import CASE, Analytic, steady
from tests.bench.findings import policy
from tests.bench.replaying import Folder, folder

MINUTES = 30


def problem(one: list[float], two: list[float], three: list[float]) -> Problem:
    """One to three replicas; minutes of a hundred requests."""
    return Problem(60.0, 60.0, 1, 1, tuple(zip(one, two, three, strict=True)), budget=30.0)


def flat(one: float, two: float, three: float) -> Problem:
    return problem([one] * MINUTES, [two] * MINUTES, [three] * MINUTES)


def test_fleets_that_always_jam_or_never_miss_need_no_replay() -> None:
    assert sizes_that_matter(flat(90.0, 2.0, 0.0), [100] * MINUTES) == [2]
    assert sizes_that_matter(flat(5.0, 2.0, 0.5), [100] * MINUTES) == [1, 2, 3]
    assert sizes_that_matter(flat(5.0, 2.0, 0.5), [0] * MINUTES) == []
    wide = Problem(60.0, 60.0, 1, 1, (tuple(5.0 / n for n in range(1, 40)),), budget=1.0)
    assert len(sizes_that_matter(wide, [100])) <= 10


def test_misses_are_counted_where_their_requests_came() -> None:
    requests = steady(5.0, 180.0)
    result = Analytic(cold_s=60.0).run(CASE, requests, HOLD, 0.0, 1, ())
    first, *rest = missed_by_slot(CASE, result, 3)
    assert first == 300
    assert max(rest) < 60


def test_what_a_fleet_missed_counts_where_it_kept_up_and_not_after_a_jam() -> None:
    known = flat(50.0, 2.0, 0.5)
    seen = [4.0] * MINUTES
    seen[10:12] = [80.0, 60.0]  # a jam that no table of steady loads foresees
    found = [slot[1] for slot in corrected(known, [100] * MINUTES, {2: seen}).misses]
    assert found[:10] == [4.0] * 10
    assert found[10 : 12 + JAM_SLOTS - 1] == [2.0] * (2 + JAM_SLOTS - 1), "who knows the future lets none grow"
    assert found[12 + JAM_SLOTS :] == [4.0] * (MINUTES - 12 - JAM_SLOTS)


def test_more_replicas_never_miss_more_whatever_chance_says() -> None:
    found = corrected(flat(9.0, 2.0, 0.5), [100] * MINUTES, {1: [1.0] * MINUTES, 2: [6.0] * MINUTES})
    assert set(found.misses) == {(1.0, 1.0, 0.5)}


@pytest.mark.parametrize(
    ("replicas", "missed", "row"),
    [
        (2, 7.0, (9.0, 7.0, 0.5)),
        (2, 30.0, (30.0, 30.0, 0.5)),  # fewer replicas miss no less
        (1, 0.1, (0.1, 0.1, 0.1)),  # more replicas miss no more
        (3, 4.0, (9.0, 4.0, 4.0)),
    ],
)
def test_a_plan_that_was_replayed_teaches_its_own_minutes(replicas: int, missed: float, row: tuple) -> None:
    known = flat(9.0, 2.0, 0.5)
    found = learnt(known, (replicas,) * MINUTES, [missed] * MINUTES)
    assert set(found.misses) == {row}


def test_a_fleet_let_go_too_early_is_kept_once_that_was_seen() -> None:
    table = msgspec.structs.replace(flat(9.0, 0.0, 0.0), first=2)
    hopeful = msgspec.structs.replace(table, misses=((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), *table.misses[2:]), budget=0.0)
    plan = cheapest(hopeful)
    assert plan.replicas[:2] == (2, 2), "a start costs more than a minute"
    misses = [200.0 if n == 1 else 0.0 for n in plan.replicas]
    assert learnt(hopeful, plan.replicas, misses).misses[0] == (9.0, 0.0, 0.0)


def test_a_plan_is_replayed_four_times_before_it_is_asked_for() -> None:
    """Each with what the one before it was seen to miss."""
    requests = steady(5.0, 600.0)
    shares = tuple(Analytic().share(1, load) for load in (2.0, 4.0, 6.0))
    table = MissTable((1,), (2.0, 4.0, 6.0), (shares,))
    asked: list[tuple[str, tuple]] = []

    def results(case: Case, loads: object, policy: str, knob: float) -> list[RunResult]:
        asked.append((policy, case.path))
        return [Analytic().run(case, requests, policy, knob, 1, ())]

    stage = SimpleNamespace(case=CASE, requests=(requests,), loads=(None,), table=table)
    sight = Foresight(cast(Stage, stage), cast(Runner, SimpleNamespace(results=results)))
    plan = sight.planned(0, 1.0)
    assert [policy for policy, _ in asked].count(PATH) == 4
    assert all(path for policy, path in asked if policy == PATH)
    assert sight.planned(0, 1.0) == plan
    assert [policy for policy, _ in asked].count(PATH) == 4, "and only once"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = folder(tmp_path_factory.mktemp("foresight"))
    run = made.run("--seeds", "1")
    assert run.returncode == 0, run.stderr
    return made


def test_one_seed_has_no_interval(done: Folder) -> None:
    assert {one["name"]: one["interval"] for one in done.results()["policies"] if one["interval"] is not None} == {}
    table = (done.out / "report.md").read_text().partition("## What it costs")[2].partition("Billed by the second")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    names, cells = [row[0] for row in rows], [row[3] for row in rows]
    assert "static-hindsight" in names
    assert cells == ["95 % over seeds", *[""] * (len(rows) - 1)]


def test_the_command_has_the_seeds_that_were_run_alone(done: Folder) -> None:
    command = done.results()["command"]
    assert (command.count("--seeds 1"), command.count("--seeds")) == (1, 1), command


def test_no_policy_is_cheaper_than_the_clairvoyant(done: Folder) -> None:
    found = {one["name"]: one for one in done.results()["policies"]}
    over = {name: one["over_clairvoyant"] for name, one in found.items() if name != "fluid" and one["reached"]}
    assert min(over.values()) == 1.0 == over["clairvoyant"]


@pytest.mark.parametrize(
    ("least", "own", "other", "note"),
    [
        (9.0, 10.0, 11.0, "; by the misses it knows, which are chance in part, the least is 9.00"),
        (10.5, 10.0, 11.0, ""),
        (9.5, 10.0, 9.0, "; its own plans cost 10.00. What schedule did is cheaper, and stands in for them"),
        (
            8.5,
            None,
            9.0,
            "; by the misses it knows, which are chance in part, the least is 8.50; its own plans do not "
            "reach the target. What schedule did is cheaper, and stands in for them",
        ),
        (8.5, None, None, "; by the misses it knows, which are chance in part, the least is 8.50"),
    ],
)
def test_a_least_above_a_plan_that_met_the_target_is_not_said(
    least: float, own: float | None, other: float | None, note: str
) -> None:
    rows = [policy("clairvoyant", own, [], tuning=BOUND), policy("schedule", other, [])]
    found = bounded(rows, least)
    assert found.note == "as clairvoyant does" + note
    assert found.cost_at_target == min((cost for cost in (own, other) if cost is not None), default=None)
