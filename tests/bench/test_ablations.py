"""Each part of the decision can be left out, in the benchmark alone, and the report says what it is worth."""

from pathlib import Path

import msgspec
import pytest

import ebbtide
from ebbtide.bench.ablations import ABLATIONS, NOTES, WHOLE, told
from ebbtide.bench.own import OwnSimulator
from ebbtide.bench.question import policies_named
from ebbtide.bench.report import report
from ebbtide.bench.run import EBBTIDE
from ebbtide.bench.runner import policy_sources
from ebbtide.core.parts import ALL, Parts
from tests.bench.cases import a_case, random_load
from tests.bench.findings import CHEAPER, policy, results, run
from tests.bench.findings import EBBTIDE as OWN
from tests.bench.replaying import folder

CASE = a_case(itl_s=0.03)  # both objectives bind
OFF = [name for name in ABLATIONS if name != WHOLE]


def busy() -> list:
    """A quarter of an hour at 2 requests/s and then one at 8, so that there is something to decide."""
    return [r for r in random_load(8.0, 1800.0) if r.id % 4 == 0 or r.arrival_s > 900.0]


@pytest.fixture(scope="module")
def whole():
    return OwnSimulator().run(CASE, busy(), EBBTIDE, 0.0, 1)


def test_every_part_has_an_ablation_that_leaves_out_it_alone() -> None:
    assert ABLATIONS[WHOLE] == ALL
    left_out = [[part for part in Parts.__slots__ if not getattr(ABLATIONS[name], part)] for name in OFF]
    assert left_out == [[part] for part in Parts.__slots__]
    assert set(NOTES) == set(ABLATIONS)


@pytest.mark.parametrize("name", OFF)
def test_without_a_part_another_fleet_runs(name: str, whole) -> None:
    without = OwnSimulator().run(CASE, busy(), name, 1.0, 1)
    assert without.replicas != whole.replicas


def test_the_whole_told_what_was_declared_is_ebbtide(whole) -> None:
    again = OwnSimulator().run(CASE, busy(), WHOLE, 1.0, 1)
    assert (again.served, again.replicas) == (whole.served, whole.replicas)


def test_a_stricter_objective_buys_more() -> None:
    strict, lax = (OwnSimulator().run(CASE, busy(), WHOLE, knob, 1).billed_s for knob in (8.0, 0.2))
    assert strict > lax


@pytest.mark.parametrize(("knob", "attainment"), [(1.0, 0.99), (2.0, 0.995), (0.5, 0.98)])
def test_a_policy_is_told_to_miss_so_many_times_less(knob: float, attainment: float) -> None:
    assert told(CASE, knob).attainment == pytest.approx(attainment)


def test_one_name_stands_for_all_and_what_they_are_held_against_takes_part() -> None:
    assert policies_named("ablations", "ebbtide") == (EBBTIDE, *ABLATIONS)
    assert policies_named("schedule,ebbtide-no-keep", "ebbtide") == (EBBTIDE, WHOLE, "schedule", "ebbtide-no-keep")
    assert not set(ABLATIONS) & set(policies_named("all", "ebbtide")), "they are no rivals"


def test_an_edit_of_the_plan_makes_them_new() -> None:
    assert {policy_sources(name) for name in ABLATIONS} == {policy_sources(EBBTIDE)}


def test_nothing_of_the_operator_can_switch_a_part_off() -> None:
    package = Path(ebbtide.__file__).parent
    users = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if "plan_with" in path.read_text()}
    assert users == {"core", "bench"}


def test_the_report_says_what_a_part_saves_and_calls_none_of_them_a_rival() -> None:
    keep = policy(
        "ebbtide-no-keep",
        15.0,
        [run(1.0, 14.0, 0.98), run(2.0, 16.0, 0.995)],
        (0.9915, 15.0, 12.0),
        tuning="ablation",
    )
    never = msgspec.structs.replace(keep, name="ebbtide-no-tail", versus=None)
    cheap = policy(WHOLE, 9.0, [run(1.0, 9.0, 0.992)], tuning="ablation")
    page = report(results(OWN, CHEAPER, keep, never, cheap))
    assert "| keep | 98.000% for 14.00 | 15.00 at 99.150% | 12.00 | +20.0% |" in page
    assert "| tail | 98.000% for 14.00 | not reached | |  |" in page
    assert "**slo-law wins here**" in page
    assert "ebbtide-whole wins" not in page and "| whole |" not in page
    assert "What each part is worth" not in report(results(OWN, CHEAPER))


def test_they_are_asked_for_what_ebbtide_attains(tmp_path: Path) -> None:
    made = folder(tmp_path)
    done = made.run("--policies", "ebbtide,ebbtide-no-record", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in made.results()["policies"]}
    own, without = found["ebbtide"]["runs"][0], found["ebbtide-no-record"]
    assert without["tuning"] == "ablation"
    assert without["versus"]["attainment"] == pytest.approx(own["attainment"])
    assert without["versus"]["cost"] > without["versus"]["ebbtide_cost"], "the fake one starts more without its record"
    assert 1.0 in {run["knob"] for run in without["runs"]}
    assert len({run["knob"] for run in without["runs"]}) <= 8
