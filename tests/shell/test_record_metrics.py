"""Metrics: one catalogue, names and labels by the rules, and nothing left of a service that is gone."""

import re
from decimal import Decimal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ebbtide.model.plan import Forecast, MonthCost, Plan, ServiceCost, TokenPrices
from ebbtide.model.spec import Mode, Pause
from ebbtide.record.metrics import CATALOGUE, Metrics, reference
from tests.shell import world

ROOT = Path(__file__).parents[2]


def series(metrics: Metrics) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found[(sample.name, *(sample.labels[key] for key in sorted(sample.labels)))] = sample.value
    return found


def shown(plan: Plan | None = None) -> Metrics:
    metrics = Metrics()
    metrics.observe_plan(plan or world.plan(), world.snapshot())
    return metrics


def test_the_reference_is_up_to_date() -> None:
    path = ROOT / "docs" / "reference" / "metrics.md"
    hint = "run: python -m ebbtide.record.metrics docs/reference/metrics.md"
    assert path.read_text(encoding="utf-8") == reference(), hint


def test_names_follow_the_rules() -> None:
    for item in CATALOGUE:
        assert re.fullmatch(r"ebbtide_[a-z][a-z_]*[a-z]", item.name)
        assert item.name.endswith("_total") is (item.kind == "counter"), item.name
        assert all(re.fullmatch(r"[a-z_]+", label) for label in item.labels)
        assert item.help.endswith(".")


def test_every_metric_of_the_catalogue_is_exposed_and_no_other() -> None:
    families = {family.name for family in text_string_to_metric_families(shown().exposition().decode())}
    assert families == {item.name.removesuffix("_total") for item in CATALOGUE}


def test_a_plan_is_shown_in_numbers() -> None:
    found = series(shown())
    assert found["ebbtide_replicas", "team", "chat", "allowed", "h100"] == 4
    assert found["ebbtide_demand_requests_per_second", "team", "chat"] == 9.0
    assert found["ebbtide_forecast_tokens_per_second", "prompt", "team", "chat"] == 9830.0
    assert found["ebbtide_forecast_coverage_ratio", "team", "chat"] == 0.94
    assert found["ebbtide_forecast_bias_ratio", "team", "chat"] == 1.02
    assert found["ebbtide_forecast_pinball_ratio", "team", "0.975", "chat"] == 0.006
    assert found["ebbtide_forecast_errors", "team", "chat"] == 31.4
    assert found["ebbtide_spend_per_hour", "USD", "team", "chat"] == 10.0
    assert found["ebbtide_pool_gpus", "h100", "free"] == 12
    assert found["ebbtide_pool_price_per_gpu_hour", "USD", "h100"] == 2.5
    assert found["ebbtide_source_healthy", "prometheus"] == 1
    assert found["ebbtide_services", "Auto"] == 1
    assert found["ebbtide_policy_money", "USD", "Day", "cap", "left"] == 82.6543211
    assert found["ebbtide_policy_per_hour", "USD", "cap", "wanted"] == 6
    assert found["ebbtide_policy_condition", "cap", "Ready"] == 1


def test_what_is_unknown_has_no_series() -> None:
    plan = world.plan(world.service_plan(demand=None, forecast=None, spend_per_hour=None))
    names = {key[0] for key in series(shown(plan))}
    assert not names & {
        "ebbtide_demand_requests_per_second",
        "ebbtide_forecast_requests_per_second",
        "ebbtide_forecast_tokens_per_second",
        "ebbtide_forecast_coverage_ratio",
        "ebbtide_spend_per_hour",
    }


def test_cost_is_shown_with_the_labels_of_opencost() -> None:
    usage = TokenPrices(Decimal("0.3125"), Decimal("0.625"))
    cost = ServiceCost(Decimal(12), "USD", TokenPrices(None, Decimal("0.8")), usage, Decimal(9))
    month = MonthCost(Decimal("301.5"), "USD", 0.0, 60.0)
    found = {
        (sample.name.removeprefix("ebbtide_service_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(
            shown(world.plan(world.service_plan(cost=cost, month=month))).exposition().decode()
        )
        for sample in family.samples
        if sample.name.startswith(("ebbtide_service_cost", "ebbtide_service_idle"))
    }
    service = {"namespace": "team", "service": "chat"}
    of = {**service, "model_name": "llama-3-8b", "currency": "USD"}
    split = {**of, "allocation_method": "work_weight"}
    wanted = [
        ("cost_per_hour", {**of, "cost_basis": "allocation"}, 12.0),
        ("cost_per_hour", {**of, "cost_basis": "usage"}, 9.0),
        ("cost_per_million_tokens", {**split, "cost_basis": "allocation", "phase": "generation"}, 0.8),
        ("cost_per_million_tokens", {**split, "cost_basis": "usage", "phase": "prompt"}, 0.3125),
        ("cost_per_million_tokens", {**split, "cost_basis": "usage", "phase": "generation"}, 0.625),
        ("cost_month_to_date", of, 301.5),
        ("idle_ratio", service, 0.25),
    ]
    assert found == {(name, *sorted(labels.items())): value for name, labels, value in wanted}


def test_a_forecast_that_was_never_judged_has_no_score() -> None:
    plan = world.plan(world.service_plan(forecast=Forecast(60.0, 9.6, 8.1, 11.2, "prior")))
    found = series(shown(plan))
    assert found["ebbtide_forecast_requests_per_second", "expected", "team", "chat"] == 9.6
    assert not [key for key in found if key[0].endswith("_ratio") or key[0] == "ebbtide_forecast_errors"]


def test_label_values_are_escaped() -> None:
    condition_ = world.condition('Strange"\\type\n', "False", "Reason")
    text = shown(world.plan(cluster_conditions=(condition_,))).exposition().decode()
    found = {
        sample.labels["type"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "ebbtide_cluster_condition"
    }
    assert found == {'Strange"\\type\n': 0.0}


def test_a_service_that_is_gone_leaves_no_series() -> None:
    metrics = shown()
    metrics.observe_plan(Plan(at=world.NOW_S), world.snapshot(pools=()))
    assert not [key for key in series(metrics) if key[0] == "ebbtide_replicas"]


def test_a_pause_ends_with_its_time() -> None:
    def paused(until: float | None) -> float:
        scaling = type(world.service_spec().scaling)(pause=Pause(until_unix_s=until))
        metrics = Metrics()
        state = world.service_state(world.service_spec(scaling=scaling))
        metrics.observe_plan(world.plan(), world.snapshot(state))
        return series(metrics)["ebbtide_paused", "team", "chat"]

    assert [paused(None), paused(world.NOW_S + 1), paused(world.NOW_S)] == [1, 1, 0]


def test_a_decision_is_counted_when_it_changes_not_every_cycle() -> None:
    metrics = Metrics()
    up = world.plan(world.service_plan(variants=(world.variant_plan(allowed=6),), reason=world.reason()))
    snapshot = world.snapshot(world.service_state(world.service_spec(mode=Mode.RECOMMEND)))
    for plan in (world.plan(), world.plan(), up, up, world.plan()):
        metrics.observe_plan(plan, snapshot)
    found = {key: value for key, value in series(metrics).items() if key[0] == "ebbtide_decisions_total"}
    assert found == {
        ("ebbtide_decisions_total", "hold", "Recommend", "WithinTarget"): 2,
        ("ebbtide_decisions_total", "up", "Recommend", "DemandRose"): 1,
    }


def test_build_info_names_the_version() -> None:
    [key] = [key for key in series(Metrics()) if key[0] == "ebbtide_build_info"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", key[2])
