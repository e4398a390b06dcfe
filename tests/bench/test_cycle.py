"""The benchmark measures what it says: the whole pipeline ran, and the table tells it. Speeds are not asserted."""

import json

import pytest
from benchmarks import cycle, fleet, report

from ebbtide.api import parse_policy
from ebbtide.model.spec import CeilingKind, Floor, Pacing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("bench")
    cycle.main(["--sizes", "10", "--cycles", "2", "--json", str(folder / "a.json"), "--markdown", str(folder / "a.md")])
    [result] = json.loads((folder / "a.json").read_text())
    return result, (folder / "a.md").read_text()


@pytest.fixture(scope="module")
def under_policies(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    file = tmp_path_factory.mktemp("bench") / "a.json"
    cycle.main(["--sizes", "20", "--cycles", "2", "--policies", "10", "--json", str(file)])
    results: list[dict] = json.loads(file.read_text())
    return results


def test_with_policies_the_same_services_are_measured_without_and_with_them(under_policies: list[dict]) -> None:
    assert [(result["services"], result["policies"]) for result in under_policies] == [(20, 0), (20, 10)]
    without, under = under_policies
    for result, policies in ((without, 0), (under, 10)):
        statuses = [period["requests"].get("status", 0) for period in (result["first"], *result["steady"])]
        assert (statuses[0] >= 29 + policies) and not any(period["failed"] for period in result["steady"])
    assert report.columns(under_policies) == ["measure", "20", "20 under 10 policies", "without"]


def test_a_ratio_is_to_the_same_size_and_not_to_the_one_before(run: tuple[dict, str]) -> None:
    small, _ = run
    large, under = {**small, "services": 100}, {**small, "services": 100, "policies": 7}
    under["peak_mib"] = 1.5 * small["peak_mib"]
    other = {**small, "services": 100_000, "peak_mib": 9 * small["peak_mib"]}
    assert report.columns([large, other, under])[-2:] == ["100 under 7 policies", "without"]
    by_name = {line[0]: line for line in report.cells([large, other, under])}
    assert by_name["peak memory, MiB"][-1] == "x1.50"
    under["peak_mib"] = 600.0
    assert report.missed([under]) == ["100 services under 7 policies: peak memory, MiB is 600.0, at most 488 wanted"]


def test_a_tenth_of_the_policies_binds() -> None:
    declared = list(fleet.cost_policies(100, fleet.services(400), now_s=86_400.0 - 6 * 3600))
    parsed = [parse_policy(item) for item in declared]
    binding = [policy for policy in parsed if policy.floor is Floor.ALLOW_ZERO]
    paced = [policy for policy in binding if policy.pacing is Pacing.SMOOTH]
    assert (len(binding), len(paced), {len(policy.thresholds) for policy in paced}) == (10, 5, {3})
    amounts = dict(paced[0].ceilings)
    # 20 services of 2 GPUs, a third each of 2.50, 1.60 and 0.80: about 65 USD an hour, of which 0.6 for 6 hours
    assert 0.55 * 65 * 6 < amounts[CeilingKind.DAY] < 0.65 * 65 * 6


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
