"""How much of the best rival's distance to the clairvoyant is closed."""

import pytest
from benchmarks.closed import best_rival, section, share_closed

from tests.bench.findings import CLAIRVOYANT, EBBTIDE, HELPLESS, policy, results, run


def rival(name: str, cost: float):
    return policy(name, cost, [run(1.0, cost, 0.99)])


MISSED = policy("ebbtide", None, [run(0.0, 9.0, 0.97)], tuning="default")


@pytest.mark.parametrize(
    ("cost", "closed"),
    [(14.0, 0.5), (12.0, 0.0), (11.0, -1.0), (10.4, None)],
    ids=["half of 40 %", "none of 20 %", "dearer by as much again", "within 5 % there is nothing to close"],
)
def test_the_share_closed_is_of_the_cheapest_rival_that_reaches_the_target(cost: float, closed: float | None) -> None:
    found = results(CLAIRVOYANT, EBBTIDE, rival("schedule", 19.0), rival("slo-law", cost), HELPLESS)
    assert best_rival(found).name == "slo-law"
    assert share_closed(found) == (None if closed is None else pytest.approx(closed))


def test_a_case_in_which_ebbtide_misses_the_target_is_a_row_and_closes_nothing() -> None:
    on_off = results(CLAIRVOYANT, MISSED, rival("static-hindsight", 20.57), rival("hpa-queue", 22.14))
    near = results(CLAIRVOYANT, EBBTIDE, rival("hpa-queue", 10.4))
    won = results(CLAIRVOYANT, EBBTIDE, rival("hpa-queue", 15.0))
    said = section([("on-off", on_off), ("near", near), ("won", won)])
    assert "| on-off | static-hindsight | 105.7% | misses the target |  |" in said
    assert "| won | hpa-queue | 50.0% | 20.0% | +60% |" in said
    assert "near" not in said
    assert "At least half of it in 1 of 2." in said


def test_where_no_rival_reaches_the_target_or_no_clairvoyant_is_known_there_is_no_row() -> None:
    unknown = policy("slo-law", 12.0, [run(1.0, 12.0, 0.99)], over_clairvoyant=None)
    assert (
        section([("a", results(EBBTIDE, HELPLESS)), ("b", results(EBBTIDE, unknown)), ("c", results(HELPLESS))]) == ""
    )
