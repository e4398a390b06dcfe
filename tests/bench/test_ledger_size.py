"""The ledger's benchmark fills what it says, and its reports are not empty. Speeds are not asserted."""

import json
from pathlib import Path

import pytest
from benchmarks import ledger

pytestmark = pytest.mark.slow


def test_the_ledger_is_filled_and_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "ledger.json"
    ledger.main(["--services", "10", "--days", "70", "--no-postgres", "--json", str(written)])
    (found,) = json.loads(written.read_text())
    variants, kept_days = 12, 62
    assert found["rows"] == {
        "hour": variants * kept_days * 24,
        "usage": (variants + 10) * kept_days * 24,
        "lifetime": variants * kept_days * 4,
        "day": variants * 69,
        "usage_day": (variants + 10) * 69,
        "span": 69,
    }
    assert set(found["seconds"]) > {"cost by service, day", "cost by service, month", "cost by service, year"}
    assert "10 services over 70" in capsys.readouterr().out


def test_too_few_days_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ledger.main(["--days", "62"])
    assert "more than 62 are needed" in capsys.readouterr().err
