"""Two simulators side by side: how far apart they are, both orders, and what may be concluded from them."""

import pytest

from ebbtide.bench.agreement import pairs, section, sentence
from ebbtide.bench.comparison import same_order
from ebbtide.bench.report import report
from ebbtide.bench.results import Agreement, Compared
from tests.bench.findings import EBBTIDE, results


def compared(name: str, here: tuple[float, float], there: tuple[float, float]) -> Compared:
    """(cost, attainment) in both."""
    (cost, attained), (other_cost, other_attained) = here, there
    return Compared(
        name=name, knob=1.0, cost=cost, attainment=attained, other_cost=other_cost, other_attainment=other_attained
    )


def agreement(*policies: Compared) -> Agreement:
    return Agreement(
        simulator="ebbtide",
        policies=policies,
        same_order_by_cost=same_order([(one.cost, one.other_cost) for one in policies]),
        same_order_by_attainment=same_order([(one.attainment, one.other_attainment) for one in policies]),
    )


SCHEDULE = compared("schedule", (14.0, 0.990), (16.1, 0.97))
OWN = compared("ebbtide", (12.0, 0.992), (18.0, 0.985))
QUEUE = compared("hpa-queue", (10.0, 0.980), (10.0, 0.995))
FOUND = agreement(SCHEDULE, OWN, QUEUE)


def test_the_report_says_how_far_they_differ_at_the_same_settings() -> None:
    page = report(results(EBBTIDE, agreement=FOUND))
    assert (
        "bills differ by +0.0% to +50.0% (median +15.0%) and attainment by -2.00 to +1.50 points (median -0.70)" in page
    )
    assert "| schedule | 1 | 14.00 | 16.10 | +15.0% | 99.00% | 97.00% | -2.00 |" in page


def test_both_orders_stand_side_by_side_with_the_share_of_pairs_alike() -> None:
    page = section(results(EBBTIDE, agreement=FOUND))
    rows = [line for line in page.splitlines() if line.startswith(("| 1 |", "| 2 |", "| 3 |"))]
    assert rows == [
        "| 1 | hpa-queue 10.00 | hpa-queue 10.00 | ebbtide 99.20% | hpa-queue 99.50% |",
        "| 2 | ebbtide 12.00 | schedule 16.10 | schedule 99.00% | ebbtide 98.50% |",
        "| 3 | schedule 14.00 | ebbtide 18.00 | hpa-queue 98.00% | schedule 97.00% |",
    ]
    assert "67% of the pairs of policies stand in the same order by cost, 33% by attainment." in page
    assert "of equal settings, not of equal attainment" in page


@pytest.mark.parametrize(
    ("story", "there", "kind"),
    [
        ("cheaper there too, and both attain enough", [(8.0, 0.999), (9.0, 0.9999)], "alike"),
        ("as dear there, but it alone attains enough", [(9.0, 0.99), (9.0, 0.98)], "alike"),
        ("dearer there, and both attain enough", [(9.0, 0.9999), (8.0, 0.99)], "opposite"),
        ("as dear there, but it falls short", [(9.0, 0.97), (9.0, 0.98)], "opposite"),
        ("cheaper there, but it falls short", [(8.0, 0.97), (9.0, 0.98)], "undecided"),
        ("as dear there as the other", [(9.0, 0.995), (9.01, 0.991)], "undecided"),
    ],
)
def test_a_pair_is_judged_by_cost_and_attainment_together(story: str, there: list, kind: str) -> None:
    cheaper, dearer = compared("cheaper", (10.0, 0.991), there[0]), compared("dearer", (11.0, 0.999), there[1])
    for order in ((cheaper, dearer), (dearer, cheaper)):
        found = pairs(order, 0.99)._asdict()
        assert {name for name, listed in found.items() if listed} == {kind}, story
        if kind != "undecided":
            assert found[kind] == (("cheaper", "dearer"),), "the better one here is named first"


def test_a_pair_that_is_open_here_stays_open_there() -> None:
    here = compared("short", (10.0, 0.98), (10.0, 0.999)), compared("enough", (11.0, 0.99), (11.0, 0.999))
    assert pairs(here, 0.99).undecided == (("short", "enough"),)


def test_pairs_that_turn_round_are_named_with_what_to_make_of_them() -> None:
    cheap, dear = compared("slo-law", (10.0, 0.99), (12.0, 0.99)), compared("hpa-queue", (11.0, 0.99), (11.0, 0.99))
    page = section(results(EBBTIDE, agreement=agreement(cheap, dear)))
    assert "- 0 pairs stand alike: none." in page
    assert "- 1 the other way round there: slo-law before hpa-queue. Do not rely on what is said of these here." in page
    assert page.endswith("Of those that meet the target there with these settings, hpa-queue costs least; all meet it.")


def test_the_short_form_says_what_a_user_who_tuned_here_would_get_there() -> None:
    assert sentence(results(EBBTIDE, agreement=FOUND)) == (
        "In simulator `ebbtide`, at the same settings, bills differ by +0.0% to +50.0% (median +15.0%) and attainment "
        "by -2.00 to +1.50 points (median -0.70). 67% of the pairs of policies stand in the same order by cost, 33% by "
        "attainment. By both at once (cheaper and attains no less, the target being enough) 0 pairs stand alike, 0 the "
        "other way round there, 3 open. Of those that meet the target there with these settings, hpa-queue costs "
        "least; not met by schedule (97.00%), ebbtide (98.50%)."
    )


def test_bills_less_than_half_a_percent_apart_are_both_the_least() -> None:
    first, second = compared("slo-law", (9.0, 0.99), (10.0, 0.99)), compared("schedule", (9.5, 0.99), (10.04, 0.992))
    found = agreement(first, second, compared("ebbtide", (8.0, 0.99), (10.1, 0.999)))
    assert "with these settings, slo-law and schedule cost least; all meet it." in sentence(
        results(EBBTIDE, agreement=found)
    )


def test_where_nobody_meets_the_target_there_nobody_is_called_the_cheapest() -> None:
    page = sentence(results(EBBTIDE, agreement=agreement(SCHEDULE, OWN)))
    assert page.endswith("With these settings nobody meets the target there.")


def test_one_policy_alone_is_in_no_order_and_without_the_other_simulator_nothing_is_said() -> None:
    alone = sentence(results(EBBTIDE, agreement=agreement(OWN)))
    assert "pairs" not in alone and "bills differ by +50.0% to +50.0%" in alone
    assert sentence(results(EBBTIDE)) == section(results(EBBTIDE)) == ""


@pytest.mark.parametrize(
    ("numbers", "share"),
    [
        ([], None),
        ([(1, 1)], None),
        ([(1, 10), (2, 20), (3, 30)], 1.0),
        ([(1, 30), (2, 20), (3, 10)], 0.0),
        ([(1, 10), (2, 10)], 0.5),
        ([(1, 10), (2, 30), (3, 20)], 2 / 3),
    ],
)
def test_agreement_is_the_share_of_pairs_in_the_same_order(numbers: list, share: float | None) -> None:
    assert same_order(numbers) == (None if share is None else pytest.approx(share))
