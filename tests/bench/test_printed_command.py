"""The command that a report prints is what was typed, each option once."""

import shlex

import pytest

from ebbtide.cli.bench import replay, without_overridden


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("bench replay --trace a.csv --ttft-ms 1000 --ttft-ms 2000", "bench replay --trace a.csv --ttft-ms 2000"),
        ("bench replay --ttft-ms 1000 --trace a.csv --ttft-ms=2000", "bench replay --trace a.csv --ttft-ms=2000"),
        ("--debug bench replay --seeds=1 --seeds 2 --out o", "--debug bench replay --seeds 2 --out o"),
        ("bench replay --cross-check --no-cross-check", "bench replay --no-cross-check"),
        ("bench replay --cross-check --seeds 2 --jobs 2", "bench replay --cross-check --seeds 2 --jobs 2"),
        ("bench replay --column --seeds --seeds 2", "bench replay --column --seeds --seeds 2"),  # a column's name
        ("bench bench", "bench bench"),
    ],
)
def test_an_option_that_a_later_one_overrides_is_not_printed(typed: str, printed: str) -> None:
    assert without_overridden(shlex.split(typed), replay) == shlex.split(printed)
