"""Where comparisons with real engines look, and what they say where there is nothing to compare with."""

from pathlib import Path

import pytest

from tests import recorded
from tests.shell import test_engines
from tests.sim import test_exposition


def test_one_variable_says_where_the_scrapes_are_for_all_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("up 1\n")
    monkeypatch.setenv("EBBTIDE_ENGINE_METRICS", str(tmp_path))
    assert recorded.recorded_scrape("a.txt") == "up 1\n"
    assert test_engines.recorded("a.txt") == {"up": set()}
    assert test_exposition.recorded_scrape is recorded.recorded_scrape


def test_what_is_not_at_hand_is_skipped_with_the_file_the_folder_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBTIDE_ENGINE_METRICS", str(tmp_path))
    with pytest.raises(pytest.skip.Exception) as skipped:
        recorded.recorded_scrape("b.txt")
    assert str(skipped.value) == (
        f"b.txt is not in {tmp_path}; set EBBTIDE_ENGINE_METRICS to a folder with recorded scrapes"
    )
