"""The benchmark measures what it says: the whole pipeline ran, and the table tells it. Speeds are not asserted."""

import json

import pytest
from benchmarks import cycle, report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("bench")
    cycle.main(["--sizes", "10", "--cycles", "2", "--json", str(folder / "a.json"), "--markdown", str(folder / "a.md")])
    [result] = json.loads((folder / "a.json").read_text())
    return result, (folder / "a.md").read_text()


def test_every_step_of_every_cycle_ran(run: tuple[dict, str]) -> None:
    result, _ = run
    periods = [result["first"], *result["steady"], *result["surge"]]
    assert len(result["steady"]) == 2
    for period in periods:
        assert period["failed"] == []
        assert set(report.STEPS) < set(period["steps"])
        assert 0 < period["promql"] <= report.QUERIES_LIMIT
        assert period["requests"]["promql"] == period["promql"], "sent and received"


def test_the_cluster_is_seen_and_told(run: tuple[dict, str]) -> None:
    result, _ = run
    written = sum(result["first"]["statuses"])
    assert written == 19, "the first status of ten services and nine pools"
    assert result["first"]["requests"]["get"] > 0, "what engine blocks declare is looked at"
    surge = result["surge"]
    assert sum(period["requests"].get("scale", 0) for period in surge) > 0, "a surge is answered by a scale write"
    assert sum(period["requests"].get("event", 0) for period in surge) > 0
    assert all(period["requests"].get("scale", 0) == 0 for period in result["steady"]), "steady means steady"
    assert result["peak_mib"] >= result["imported_mib"] > 0


def test_the_table_has_a_column_a_size_and_its_growth(run: tuple[dict, str]) -> None:
    result, markdown = run
    other = {**result, "services": 100}
    assert report.columns([result, other]) == ["measure", "10", "100", "growth"]
    lines = report.cells([result, other])
    assert [len(line) for line in lines] == [4] * len(report.rows())
    by_name = {line[0]: line for line in lines}
    assert by_name["PromQL queries a cycle"] == ["PromQL queries a cycle", "8", "8", "x1.0"]
    assert by_name["peak memory, MiB"][3] == "x1.0"
    assert markdown.startswith("| measure | 10 |\n|---|---:|\n")


def test_a_missed_target_is_named(run: tuple[dict, str]) -> None:
    result, _ = run
    slow = json.loads(json.dumps(result))
    for period in slow["steady"]:
        period["steps"]["cycle"]["cpu_s"] = 11.0
    assert report.missed([result]) == []
    assert report.missed([slow]) == ["10 services: steady cycle, CPU s is 11.0, at most 10 wanted"]


@pytest.mark.parametrize("sizes", ["0", "10,-1"])
def test_sizes_below_one_are_refused(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cycle.main(["--sizes", sizes])
    assert "at least 1" in capsys.readouterr().err
