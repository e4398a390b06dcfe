"""The table in docs/failures.md is complete: each row names tests that exist or a feature that is planned."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "failures.md").read_text()
ROWS = dict(re.findall(r"^\| (F\d+) \|(.*)$", TABLE, re.MULTILINE))
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)
# A feature leaves this list when it is there, and then its rows must name tests.
PLANNED = {"warm-up protection"}
PROMISE = re.compile(r"\*\(planned: ([^)]*)\)\*")
# what promises without saying what
VAGUE = re.compile(r"\b(later|soon|some day|to come|comes? with|not yet|tbd|todo)\b", re.IGNORECASE)


def test_every_failure_of_the_catalogue_has_a_line() -> None:
    assert list(ROWS) == [f"F{number}" for number in range(1, 27)]


def faults(row: str) -> list[str]:
    """What is wrong with one row: its last column shows nothing, or it promises what is not planned."""
    shown = row.strip().removesuffix("|").rpartition("|")[2]
    promises = PROMISE.findall(row)
    found = [f"no such feature: {name}" for name in promises if name not in PLANNED]
    if row.count("planned") > len(promises):
        found.append("a plan without the feature's name")
    found += [f"vague: {word}" for word in VAGUE.findall(row)]
    if "::test_" not in shown and not PROMISE.search(shown):
        found.append("neither a test nor a planned feature")
    return found


@pytest.mark.parametrize("number", ROWS)
def test_every_line_names_a_test_or_a_planned_feature(number: str) -> None:
    assert faults(ROWS[number]) == []


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (" Usage | Two sums | later |", ["vague: later", "neither a test nor a planned feature"]),
        (" Usage | Comes with the ledger | `tests/x.py::test_y` |", ["vague: Comes with"]),
        (" Usage | Two sums | *(planned: wishes)* |", ["no such feature: wishes"]),
        (" Usage | Two sums, planned | `tests/x.py::test_y` |", ["a plan without the feature's name"]),
        (" Usage | Two sums *(planned: warm-up protection)* | |", ["neither a test nor a planned feature"]),
        (" Usage | Two sums | *(planned: warm-up protection)* |", []),
        (" Usage | Two sums | `tests/x.py::test_y` |", []),
    ],
)
def test_what_is_wrong_with_a_line_is_found(row: str, wrong: list[str]) -> None:
    assert faults(row) == wrong


def test_every_planned_feature_is_explained_and_waited_for() -> None:
    assert set(re.findall(r"^- \*planned: (.*?)\*:", TABLE, re.MULTILINE)) == PLANNED
    assert {name for row in ROWS.values() for name in PROMISE.findall(row)} == PLANNED


def test_every_named_test_exists() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []
