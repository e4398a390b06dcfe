"""The report says who pays what, losses first; the pictures show the same numbers."""

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from ebbtide.bench.pictures import Timeline, cost_against_attainment, replicas_over_time
from ebbtide.bench.report import nearest_runs, report
from ebbtide.bench.results import AsPublished, FrozenOn, Versus, encode, frozen_knobs, read
from ebbtide.bench.score import Percentiles
from ebbtide.bench.svg import Axis, axis
from ebbtide.errors import ConfigurationError
from tests.bench.findings import CHEAPER, CLAIRVOYANT, DEARER, EBBTIDE, HELPLESS, policy, results, run


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def test_a_rival_that_wins_is_named_before_anything_else_is_explained() -> None:
    page = report(results(CLAIRVOYANT, EBBTIDE, DEARER, CHEAPER))
    assert "**slo-law wins here**: Ebbtide is 9.1% dearer at 99.00%." in page
    assert page.index("slo-law wins here") < page.index("## Against Ebbtide")
    assert "schedule wins" not in page
    assert "clairvoyant wins" not in page, "a bound is nobody to win against"


def test_without_a_loss_the_nearest_rival_is_named() -> None:
    page = report(results(CLAIRVOYANT, EBBTIDE, DEARER))
    assert "No rival is cheaper at equal attainment; the nearest is schedule." in page


def test_a_target_that_ebbtide_misses_is_said() -> None:
    own = policy("ebbtide", None, [run(0.0, 9.0, 0.98)], tuning="default")
    page = report(results(own, DEARER))
    assert "**Ebbtide does not reach the target**: 98.000% where 99 % is asked.\n\nRivals that reach it: sched" in page


def test_where_nobody_reaches_the_target_costs_are_a_row_of_the_table_and_no_verdict() -> None:
    own = policy("ebbtide", None, [run(0.0, 9.0, 0.03)], tuning="default")
    beside = policy("slo-law", None, [run(0.5, 3.0, 0.0002)], (0.0002, 3.0, 8.8))
    page = report(results(own, beside))
    verdict = page[page.index("Billed by the second") : page.index("## Against Ebbtide")]
    assert "**Ebbtide does not reach the target**: 3.000% where 99 % is asked.\n\nNo rival reaches it." in verdict
    assert "wins" not in page
    assert "cheaper" not in verdict
    assert "| slo-law | 0.02% | 3.00 | 8.80 | -193.3% |  |" in page


def test_policies_stand_in_the_order_of_their_cost_and_those_that_do_not_reach_the_target_last() -> None:
    page = report(results(HELPLESS, DEARER, EBBTIDE, CLAIRVOYANT))
    table = page[page.index("## What it costs") : page.index("Billed by the second")]
    places = [table.index(f"{name} |") for name in ("clairvoyant", "ebbtide**", "schedule", "hpa-queue")]
    assert places == sorted(places)
    assert "| hpa-queue | hindsight | not reached |" in table
    assert "Not compared, because either Ebbtide or they reach the target and not both: hpa-queue." in page


def test_the_case_is_told_in_full() -> None:
    page = report(results(EBBTIDE))
    for words in (
        "`monday.csv` (tokens) x 1.5, 2 h, without training, Ebbtide begins cold; 1,000 to 1,100 requests",
        "tiny on h100_sxm, 1 GPU at 2.50 an hour each, 448,000 tokens of KV cache; ready 60 to 90 s after the order; ",
        "1 to 9 of them",
        "99 % of the submitted requests, over the whole span, with time to first token at most 500ms",
        "0.1 % are missed however many replicas run",
        "ebbtide bench replay --trace monday.csv",
    ):
        assert words in page


def test_seeds_that_gave_the_same_are_said_to_have() -> None:
    same = policy("schedule", 14.0, [run(1.0, 14.0, 0.99, seed=1), run(1.0, 14.0, 0.99, seed=2)])
    other = policy("schedule", 14.0, [run(1.0, 14.0, 0.99, seed=1), run(1.0, 14.5, 0.99, seed=2)])
    assert "seeds 1, 2 (which all gave the same);" in report(results(same))
    assert "seeds 1, 2;" in report(results(other))


def test_what_else_each_policy_did_is_a_row_of_its_setting_nearest_to_the_target() -> None:
    first = run(0.5, 14.0, 0.992, seed=1, ttft_ms=Percentiles(50.0, 310.0, 900.0), scale_events_per_replica_day=8.0)
    second = run(0.5, 15.0, 0.990, seed=2, itl_ms=Percentiles(20.0, 45.0, 60.0), worst_5min=0.61, start_up_share=0.05)
    page = report(results(policy("schedule", 14.5, [first, second, run(0.1, 2.0, 0.5), run(0.1, 2.0, 0.5, seed=2)])))
    said = page[page.index("## What else it did") : page.index("![cost against")]
    assert "| schedule | 99.10% | 14.50 | 61.0% | 310 ms | 900 ms | 45 ms | 5.0 | 3.5% |" in said
    assert "over all seeds: five minutes and percentiles of the worst one" in said


def test_first_tokens_that_never_came_are_not_left_out_of_a_percentile() -> None:
    without = run(0.0, 9.0, 0.9, ttft_ms=Percentiles(50.0, 700.0, None), itl_ms=Percentiles(None, None, None))
    page = report(results(policy("ebbtide", None, [without], tuning="default")))
    assert "| **ebbtide** | 90.00% | 9.00 | 80.0% | 700 ms | never came |  | 2.0 | 2.0% |" in page


def test_bills_by_begun_hours_stand_beside_those_by_the_second() -> None:
    hourly = msgspec.structs.replace(
        DEARER, cost_at_target_hourly=18.0, versus_hourly=Versus(attainment=0.99, cost=18.0, ebbtide_cost=19.8)
    )
    page = report(results(EBBTIDE, hourly))
    assert "| schedule | hindsight | 15.00 | 14.00 – 16.00 | 1.500 |  | 18.00 |  |" in page
    assert "| schedule | 99.00% | 15.00 | 12.00 | +20.0% | -10.0% |" in page
    assert "No rival is cheaper at equal attainment; the nearest is schedule.\n\n" in page, "by the second"
    assert "Billed by begun hours, Ebbtide is dearer than schedule (10.0%)." in page
    assert "Billed by begun hours" not in report(results(EBBTIDE, DEARER)), "nothing known is nothing lost"


def test_where_frozen_settings_come_from_is_said() -> None:
    found = results(EBBTIDE)
    there = FrozenOn(trace="sunday.csv", sha256="cd" * 32, start_s=7200.0, hours=1.5)
    frozen = msgspec.structs.replace(found, case=msgspec.structs.replace(found.case, tune="frozen", frozen_on=there))
    assert "settings: frozen, as found on `sunday.csv`, 2 to 3.5 h of it." in report(frozen)
    assert "settings: hindsight." in report(found)


def test_what_a_rival_does_as_published_stands_beside_its_tuned_cost() -> None:
    shipped = msgspec.structs.replace(DEARER, published=AsPublished(cost=14.0, attainment=0.98))
    table = report(results(EBBTIDE, shipped, HELPLESS))
    assert "| schedule | hindsight | 15.00 | 14.00 – 16.00 | 1.500 |  |  | 14.00 @ 98.00% |" in table
    assert "| hpa-queue | hindsight | not reached |  |  |  |  |  |" in table, "of a file from before it was kept"


def test_the_nearest_setting_is_the_cheapest_above_the_target_else_the_best_below() -> None:
    assert [one.cost for one in nearest_runs(DEARER, 0.99)] == [16.0]
    assert [one.cost for one in nearest_runs(HELPLESS, 0.99)] == [40.0]
    assert [one.seed for one in nearest_runs(EBBTIDE, 0.99)] == [1, 2]


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = results(CLAIRVOYANT, EBBTIDE, DEARER, HELPLESS)
    path = tmp_path / "results.json"
    path.write_bytes(encode(written))
    assert read(path) == written
    assert frozen_knobs(path) == {"clairvoyant": 1.0, "ebbtide": 0.0, "schedule": 0.5, "hpa-queue": 0.5}
    plain = msgspec.json.decode(path.read_bytes())
    assert plain["case"]["replica"]["gpu_hour_price"] == "2.50", "money is never a float"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"it is no results.json of .* missing required field `case`"):
        read(path)


def test_the_first_picture_has_a_line_for_each_policy_and_the_target() -> None:
    said = texts(cost_against_attainment(results(CLAIRVOYANT, EBBTIDE, DEARER, HELPLESS)))
    for words in ("ebbtide", "clairvoyant", "hpa-queue (not reached)", "target 99.00%", "90 %", "99.9 %"):
        assert words in said, words


def test_the_second_picture_has_a_panel_for_each_policy_over_the_same_hours() -> None:
    lines = [Timeline("ebbtide", "99.2%", [(-60.0, 2, 0), (0.0, 2, 2), (1800.0, 4, 2), (1860.0, 4, 4)])]
    lines.append(Timeline("schedule", "99 %", [(0.0, 8, 8)]))
    svg = replicas_over_time([10.0] * 30 + [20.0] * 30, 60.0, 5.0, lines)
    assert [text for text in texts(svg) if ":" in text] == ["ebbtide: 99.2%", "schedule: 99 %"]
    assert texts(svg).count("1 h") == 2


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 10.0, ["0", "2", "4", "6", "8", "10"]),
        (0.0, 0.7, ["0", "0.2", "0.4", "0.6", "0.8"]),
        (13.0, 13.0, ["10", "15"]),
        (97.0, 131.0, ["90", "100", "110", "120", "130", "140"]),
    ],
)
def test_an_axis_has_round_ticks_around_its_values(low: float, high: float, labels: list[str]) -> None:
    found = axis(low, high)
    assert [text for _, text in found.ticks] == labels
    assert found.low <= low <= high <= found.high


def test_a_tight_axis_ends_where_its_values_do() -> None:
    assert axis(0.0, 0.85, 5, " h", tight=True) == Axis(
        0.0, 0.85, ((0.0, "0 h"), (0.2, "0.2 h"), (0.4, "0.4 h"), (pytest.approx(0.6), "0.6 h"), (0.8, "0.8 h"))
    )


def test_places_on_an_axis_stay_inside_it_and_may_run_backwards() -> None:
    assert [Axis(0.0, 10.0, ()).share(value) for value in (-5.0, 0.0, 2.5, 50.0)] == [0.0, 0.0, 0.25, 1.0]
    missed = Axis(0.1, 0.001, (), log=True)
    assert [round(missed.share(value), 6) for value in (1.0, 0.1, 0.01, 0.001, 0.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
