"""The table in docs/failures.md is complete and names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "failures.md").read_text()
ROWS = dict(re.findall(r"^\| (F\d+) \|(.*)$", TABLE, re.MULTILINE))
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)


def test_every_failure_of_the_catalogue_has_a_line() -> None:
    assert list(ROWS) == [f"F{number}" for number in range(1, 27)]


def test_every_line_names_a_test_or_says_that_it_comes_later() -> None:
    neither = [row for row, text in ROWS.items() if "::test_" not in text and "later" not in text]
    assert neither == []


def test_every_named_test_exists() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []
