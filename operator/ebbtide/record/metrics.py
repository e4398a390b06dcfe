"""Ebbtide's own metrics: one catalogue, from which the registry and `docs/reference/metrics.md` are both made.

Base units, `_total` on counters, snake_case labels. What belongs to a plan (replicas, demand, prices) is rendered from
the newest plan at the moment of the scrape, so that a deleted service leaves no series behind and a cycle of 10,000
services pays nothing for it. Labels that could grow without bound (texts, pods, users) are not used.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from ebbtide import __version__
from ebbtide.model.plan import Condition, ConditionStatus, Forecast, Plan, PolicyPlan, ServicePlan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import Snapshot
from ebbtide.model.spec import Pause
from ebbtide.record.batch_metrics import Sample, batch_samples


@dataclass(frozen=True, slots=True)
class Described:
    """One metric of the catalogue. `kind`: counter, gauge, histogram (own objects) or plan (gauge from the plan)."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_SERVICE = ("namespace", "service")
_VARIANT = (*_SERVICE, "variant")
_BATCH = ("namespace", "policy")

CATALOGUE: tuple[Described, ...] = (
    Described("ebbtide_build_info", "gauge", ("version", "python"), "Always 1; the labels say what runs."),
    Described("ebbtide_leader", "gauge", (), "1 while this process holds the Lease, else 0."),
    Described("ebbtide_cycles_total", "counter", ("result",), "Cycles by result: ok or failed."),
    Described("ebbtide_cycle_duration_seconds", "histogram", ("step",), "Seconds a step of the cycle took."),
    Described("ebbtide_cycle_step_failures_total", "counter", ("step",), "Steps of a cycle that failed."),
    Described(
        "ebbtide_intake_restarts_total",
        "counter",
        (),
        "How often the watch that wakes the loop was started again; informers go on meanwhile.",
    ),
    Described(
        "ebbtide_cycle_last_success_timestamp_seconds", "gauge", (), "Unix time at which the last cycle ended well."
    ),
    Described("ebbtide_promql_queries_total", "counter", (), "Queries sent to Prometheus."),
    Described(
        "ebbtide_writes_total",
        "counter",
        ("what", "outcome"),
        "Writes to the API server: scale, deployment, service, finalizer, status, event; and what became of them.",
    ),
    Described("ebbtide_ledger_failures_total", "counter", (), "Cycles whose cost could not be written to the ledger."),
    Described(
        "ebbtide_ledger_written_timestamp_seconds",
        "gauge",
        (),
        "Unix time up to which the ledger has everything; what ran since is kept in memory until it can be written.",
    ),
    Described(
        "ebbtide_decisions_total",
        "counter",
        ("action", "reason", "mode"),
        "Decisions by action (up, down, hold), reason of the catalogue, and mode; one a service and change.",
    ),
    Described(
        "ebbtide_plan_failures_in_a_row",
        "gauge",
        (),
        "Cycles in a row in which no plan could be made, once it is three or more; else 0.",
    ),
    Described(
        "ebbtide_service_plan_failures_total",
        "counter",
        ("step",),
        "Services that a step of the plan failed on and that hold their replicas, one a cycle and service.",
    ),
    Described("ebbtide_status_waiting", "gauge", (), "Objects whose status is not written yet."),
    Described("ebbtide_source_healthy", "plan", ("source",), "1 if the source of data answered in time, else 0."),
    Described("ebbtide_source_age_seconds", "plan", ("source",), "Seconds since the source last answered."),
    Described(
        "ebbtide_cluster_condition",
        "plan",
        ("type", "reason"),
        "1 if the cluster-wide condition is True, 0 if False; PrometheusReachable for one.",
    ),
    Described(
        "ebbtide_policy_money",
        "plan",
        ("policy", "period", "what", "currency"),
        "Money of a CostPolicy's ceiling (of Hour per hour): what is ceiling, spent, committed or left.",
    ),
    Described(
        "ebbtide_policy_per_hour",
        "plan",
        ("policy", "what", "currency"),
        "Money per hour under a CostPolicy: spent now, wanted without it, or fixed (what may not be reduced). None "
        "while GPUs run and no price is known of any.",
    ),
    Described(
        "ebbtide_policy_forecast",
        "plan",
        ("policy", "period", "what", "currency"),
        "What a period will have cost by its end if all that is wanted runs: expected, and in one of ten cases less "
        "(low) or more (high); under the policy's ceilings (held).",
    ),
    Described(
        "ebbtide_policy_forecast_error_ratio",
        "plan",
        ("policy",),
        "By what share of what came forecasts of a day's cost were off in the mean.",
    ),
    Described(
        "ebbtide_policy_forecast_coverage_ratio",
        "plan",
        ("policy",),
        "Share of the days, up to 30, whose cost lay in the range that was forecast, 0 to 1: 0.8 is right.",
    ),
    Described(
        "ebbtide_policy_threshold_acting",
        "plan",
        ("policy", "period", "basis", "percent"),
        "1 while the actions of a threshold that was reached hold.",
    ),
    Described("ebbtide_policy_replicas_given_up", "plan", ("policy",), "Replicas that services do without."),
    Described("ebbtide_policy_unpriced_gpus", "plan", ("policy",), "GPUs in use whose price is not known."),
    Described(
        "ebbtide_policy_condition", "plan", ("policy", "type"), "1 if the condition is True, 0 if False; Ready for one."
    ),
    Described("ebbtide_services", "plan", ("mode",), "Inference services by mode."),
    Described(
        "ebbtide_service_info", "plan", (*_SERVICE, "model", "mode"), "Always 1; the labels describe the service."
    ),
    Described(
        "ebbtide_service_reason", "plan", (*_SERVICE, "reason"), "1 for the reason that decided the service's plan."
    ),
    Described(
        "ebbtide_service_condition",
        "plan",
        (*_SERVICE, "type"),
        "1 if the condition is True, 0 if False; absent while Unknown.",
    ),
    Described("ebbtide_paused", "plan", _SERVICE, "1 while the service is paused, else 0."),
    Described(
        "ebbtide_replicas", "plan", (*_VARIANT, "state"), "Replicas: observed, ready, starting, wanted or allowed."
    ),
    Described("ebbtide_demand_requests_per_second", "plan", _SERVICE, "Requests that arrive per second."),
    Described("ebbtide_demand_backlog_requests", "plan", _SERVICE, "Requests that wait at replicas and gateway."),
    Described(
        "ebbtide_forecast_requests_per_second",
        "plan",
        (*_SERVICE, "bound"),
        "Requests per second of the mean length expected at the horizon: low, expected or high.",
    ),
    Described(
        "ebbtide_forecast_tokens_per_second",
        "plan",
        (*_SERVICE, "kind"),
        "Tokens per second expected at the horizon: prompt or output.",
    ),
    Described(
        "ebbtide_forecast_coverage_ratio",
        "plan",
        _SERVICE,
        "Share of what came within about a day that lay in the forecast's range, 0 to 1: 0.95 is right.",
    ),
    Described(
        "ebbtide_forecast_bias_ratio",
        "plan",
        _SERVICE,
        "What was expected over what came within about a day: 1.05 is 5 percent too much.",
    ),
    Described(
        "ebbtide_forecast_pinball_ratio",
        "plan",
        (*_SERVICE, "quantile"),
        "Pinball loss of the forecast's quantiles over what came within about a day: 0.025, 0.5 or 0.975.",
    ),
    Described(
        "ebbtide_forecast_errors",
        "plan",
        _SERVICE,
        "Independent errors that the forecast's scores rest on, slowly forgotten.",
    ),
    Described(
        "ebbtide_capacity_requests_per_second",
        "plan",
        (*_VARIANT, "source"),
        "Requests per second that one ready replica carries inside the objectives, beside other variants.",
    ),
    Described(
        "ebbtide_capacity_range_requests_per_second",
        "plan",
        (*_VARIANT, "bound"),
        "Range that this capacity lies in with a belief of 95 %: low and high.",
    ),
    Described("ebbtide_startup_seconds", "plan", _VARIANT, "Median seconds from creation to ready, as measured."),
    Described("ebbtide_spend_per_hour", "plan", (*_SERVICE, "currency"), "Money per hour at present prices."),
    Described(
        "ebbtide_service_cost_per_hour",
        "plan",
        (*_SERVICE, "model_name", "cost_basis", "currency"),
        "Money per hour now: allocation is all that its GPUs cost, usage what full replicas would cost for the same "
        "work.",
    ),
    Described(
        "ebbtide_service_cost_per_million_tokens",
        "plan",
        (*_SERVICE, "model_name", "cost_basis", "phase", "allocation_method", "currency"),
        "Money for a million tokens now: prompt and generation share the cost by the work that they make "
        "(allocation_method work_weight).",
    ),
    Described(
        "ebbtide_service_cost_month_to_date",
        "plan",
        (*_SERVICE, "model_name", "currency"),
        "Money this month of UTC, as the ledger counts it; about a minute old.",
    ),
    Described(
        "ebbtide_service_idle_ratio",
        "plan",
        _SERVICE,
        "Share of the cost per hour that is for capacity nobody asks for now, 0 to 1.",
    ),
    Described(
        "ebbtide_pool_info", "plan", ("pool", "accelerator", "capacity_type"), "Always 1; the labels describe the pool."
    ),
    Described("ebbtide_pool_nodes", "plan", ("pool",), "Nodes of the pool."),
    Described("ebbtide_pool_gpus", "plan", ("pool", "state"), "GPUs of the pool: total, allocated or free."),
    Described("ebbtide_pool_price_per_gpu_hour", "plan", ("pool", "currency"), "Price of one GPU for an hour now."),
    Described("ebbtide_pool_lead_time_seconds", "plan", ("pool",), "Median seconds in which nodes came, as measured."),
    Described(
        "ebbtide_batch_jobs",
        "plan",
        (*_BATCH, "state"),
        "Jobs of a BatchPolicy that have not ended: queued (for their first start), running, stopped (to be started "
        "again), suspended (by people) or impossible (no pool could ever run them).",
    ),
    Described(
        "ebbtide_batch_job_reasons", "plan", (*_BATCH, "reason"), "Jobs of a BatchPolicy by the reason that decided."
    ),
    Described(
        "ebbtide_batch_gpus",
        "plan",
        _BATCH,
        "GPUs that Background services of a BatchPolicy have and its Jobs hold, those of stopped Jobs until their pods "
        "are gone.",
    ),
    Described(
        "ebbtide_batch_deadlines_missed",
        "plan",
        _BATCH,
        "Jobs of a BatchPolicy whose deadline passed before they ended, since it was first seen.",
    ),
    Described(
        "ebbtide_batch_planned_gpu_seconds",
        "plan",
        _BATCH,
        "GPU-seconds that are planned from now on, by expected durations, for the Jobs of a BatchPolicy.",
    ),
    Described(
        "ebbtide_batch_next_start_timestamp_seconds",
        "plan",
        _BATCH,
        "Unix time at which the next Job of a BatchPolicy is planned to start.",
    ),
    Described(
        "ebbtide_batch_next_window_timestamp_seconds",
        "plan",
        _BATCH,
        "Unix time at which the next window of a BatchPolicy opens.",
    ),
    Described(
        "ebbtide_batch_saved",
        "plan",
        (*_BATCH, "currency"),
        "Money that Jobs of a BatchPolicy cost less than if each had run at once, since it was first seen; of either "
        "sign.",
    ),
    Described(
        "ebbtide_batch_condition", "plan", (*_BATCH, "type"), "1 if the condition is True, 0 if False; Ready for one."
    ),
)

_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BY_NAME = {described.name: described for described in CATALOGUE}


class Metrics:
    """One registry. Its attributes are the metrics that code sets; the rest follows `observe_plan`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series beside each counter: nobody reads them
        self.registry = CollectorRegistry()
        self.leader = self._gauge("ebbtide_leader")
        self.cycles = self._counter("ebbtide_cycles_total")
        self.cycle_duration = self._histogram("ebbtide_cycle_duration_seconds")
        self.step_failures = self._counter("ebbtide_cycle_step_failures_total")
        self.intake_restarts = self._counter("ebbtide_intake_restarts_total")
        self.last_success = self._gauge("ebbtide_cycle_last_success_timestamp_seconds")
        self.promql_queries = self._counter("ebbtide_promql_queries_total")
        self.writes = self._counter("ebbtide_writes_total")
        self.ledger_failures = self._counter("ebbtide_ledger_failures_total")
        self.ledger_written = self._gauge("ebbtide_ledger_written_timestamp_seconds")
        self.decisions = self._counter("ebbtide_decisions_total")
        self.plan_failures = self._gauge("ebbtide_plan_failures_in_a_row")
        self.service_plan_failures = self._counter("ebbtide_service_plan_failures_total")
        self.status_waiting = self._gauge("ebbtide_status_waiting")
        python = ".".join(map(str, sys.version_info[:3]))
        self._gauge("ebbtide_build_info").labels(version=__version__, python=python).set(1)
        self._shown = (Plan(at=0.0), Snapshot(taken_at=0.0))
        self._decided: dict[str, tuple[str, int]] = {}

    def observe_plan(self, plan: Plan, snapshot: Snapshot) -> None:
        """Makes this the plan that scrapes show, and counts what it decided otherwise than the one before."""
        # immutable: a scrape in another thread sees this pair or the one before
        self._shown = _shown(plan, snapshot)
        self.plan_failures.set(0)
        for failure in plan.failures:
            self.service_plan_failures.labels(failure.step).inc()
        modes = {service.spec.key: service.spec.mode.value for service in snapshot.services}
        decided: dict[str, tuple[str, int]] = {}
        for service in plan.services:
            change = sum(variant.allowed - variant.observed for variant in service.variants)
            decided[service.key] = (service.reason.code.value, change)
            if self._decided.get(service.key) != decided[service.key]:
                action = "up" if change > 0 else "down" if change < 0 else "hold"
                mode = modes.get(service.key, "")
                self.decisions.labels(action=action, reason=service.reason.code.value, mode=mode).inc()
        self._decided = decided

    def observe_stall(self, said: str, cycles: int) -> None:
        """No plan could be made for `cycles` cycles in a row: the last one stays shown, with a condition that says so.

        It goes with the next plan.
        """
        self.plan_failures.set(cycles)
        plan, snapshot = self._shown
        others = tuple(item for item in plan.cluster_conditions if item.type != "Planned")
        stalled = Condition("Planned", ConditionStatus.FALSE, Code.PLAN_FAILED.value, said)
        self._shown = msgspec.structs.replace(plan, cluster_conditions=(*others, stalled)), snapshot

    def exposition(self) -> bytes:
        """The text that `/metrics` serves (text/plain; version=0.0.4)."""
        return generate_latest(self.registry) + plan_text(*self._shown).encode()

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, _BY_NAME[name].help, _BY_NAME[name].labels, registry=self.registry)

    def _counter(self, name: str) -> Counter:
        return Counter(name, _BY_NAME[name].help, _BY_NAME[name].labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        described = _BY_NAME[name]
        return Histogram(name, described.help, described.labels, registry=self.registry, buckets=_BUCKETS)


def _shown(plan: Plan, snapshot: Snapshot) -> tuple[Plan, Snapshot]:
    """What scrapes show; the readings of 20,000 pods and all texts are free before the next ones come."""
    replace = msgspec.structs.replace
    services = tuple(replace(service, variants=()) for service in snapshot.services)
    plans = tuple(replace(service, waterfall=()) for service in plan.services)
    return replace(plan, services=plans), replace(snapshot, services=services, jobs=())


def plan_text(plan: Plan, snapshot: Snapshot) -> str:
    """The plan metrics in the text format, in the catalogue's order.

    Written here and not by the library: 10,000 services have 470,000 series, and of 390,000 its checks of every label
    of every sample take 3 CPU-seconds a scrape, this half a second.
    """
    lines: dict[str, list[str]] = {item.name: [] for item in CATALOGUE if item.kind == "plan"}
    for name, labels, value in _samples(plan, snapshot):
        lines[name].append(f"{name}{{{_labels(_BY_NAME[name].labels, labels)}}} {value!r}")
    return "".join(
        f"# HELP {name} {_BY_NAME[name].help}\n# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in samples)
        for name, samples in lines.items()
    )


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])


def _escaped(value: str) -> str:
    if value.isascii() and "\\" not in value and '"' not in value and "\n" not in value:
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _samples(plan: Plan, snapshot: Snapshot) -> Iterator[Sample]:
    pauses = {service.spec.key: service.spec.scaling.pause for service in snapshot.services}
    models = {service.spec.key: service.spec.model_name for service in snapshot.services}
    yield from _cluster_samples(plan, snapshot)
    for service in plan.services:
        yield from _service_samples(service, pauses.get(service.key), plan.at)
        yield from _cost_samples(service, models.get(service.key, ""))
    yield from _pool_samples(plan, snapshot)
    currencies = {policy.spec.name: policy.spec.currency for policy in snapshot.policies}
    for policy in plan.policies:
        yield from _policy_samples(policy, currencies.get(policy.name, ""))
    yield from batch_samples(plan)


def _policy_samples(plan: PolicyPlan, currency: str) -> Iterator[Sample]:
    for item in plan.ceilings:
        for what in ("ceiling", "spent", "committed", "left"):
            yield "ebbtide_policy_money", (plan.name, item.kind.value, what, currency), float(getattr(item, what))
    rates = (("spent", plan.per_hour), ("wanted", plan.wanted_per_hour), ("fixed", plan.uncontrollable_per_hour))
    for what, each in rates:
        if (rate := plan.rate(each)) is not None:
            yield "ebbtide_policy_per_hour", (plan.name, what, currency), float(rate)
    if plan.allowed_per_hour is not None:
        yield "ebbtide_policy_per_hour", (plan.name, "allowed", currency), float(plan.allowed_per_hour)
    yield from _outlook_samples(plan, currency)
    for reached in plan.reached:
        labels = (plan.name, reached.period.value, reached.basis.value, str(reached.percent))
        yield "ebbtide_policy_threshold_acting", labels, float(reached.acting)
    yield "ebbtide_policy_replicas_given_up", (plan.name,), float(plan.given_up)
    yield "ebbtide_policy_unpriced_gpus", (plan.name,), float(plan.unpriced_gpus)
    for condition in plan.conditions:
        yield "ebbtide_policy_condition", (plan.name, condition.type), float(condition.status.value == "True")


def _outlook_samples(plan: PolicyPlan, currency: str) -> Iterator[Sample]:
    for outlook in plan.outlooks:
        for what in ("expected", "low", "high", "held"):
            amount = float(getattr(outlook, what))
            yield "ebbtide_policy_forecast", (plan.name, outlook.kind.value, what, currency), amount
    if plan.scored_days:
        yield "ebbtide_policy_forecast_error_ratio", (plan.name,), plan.mean_error
    if plan.in_range is not None:
        yield "ebbtide_policy_forecast_coverage_ratio", (plan.name,), plan.in_range


def _cluster_samples(plan: Plan, snapshot: Snapshot) -> Iterator[Sample]:
    for source in snapshot.sources:
        yield "ebbtide_source_healthy", (source.name,), float(source.healthy)
        if source.age_s is not None:
            yield "ebbtide_source_age_seconds", (source.name,), source.age_s
    for condition in plan.cluster_conditions:
        if condition.status.value != "Unknown":
            yield (
                "ebbtide_cluster_condition",
                (condition.type, condition.reason),
                float(condition.status.value == "True"),
            )
    modes: dict[str, int] = {}
    for service in snapshot.services:
        modes[service.spec.mode.value] = modes.get(service.spec.mode.value, 0) + 1
        spec = service.spec
        yield "ebbtide_service_info", (spec.namespace, spec.name, spec.model_name, spec.mode.value), 1.0
    for mode, count in sorted(modes.items()):
        yield "ebbtide_services", (mode,), float(count)


def _service_samples(plan: ServicePlan, pause: Pause | None, now_s: float) -> Iterator[Sample]:
    namespace, _, name = plan.key.partition("/")
    key = (namespace, name)
    yield "ebbtide_service_reason", (*key, plan.reason.code.value), 1.0
    paused = pause is not None and (pause.until_unix_s is None or now_s < pause.until_unix_s)
    yield "ebbtide_paused", key, float(paused)
    for condition in plan.conditions:
        if condition.status.value != "Unknown":
            yield "ebbtide_service_condition", (*key, condition.type), float(condition.status.value == "True")
    if plan.demand is not None:
        yield "ebbtide_demand_requests_per_second", key, plan.demand.requests_per_second
        yield "ebbtide_demand_backlog_requests", key, plan.demand.backlog
    if plan.forecast is not None:
        for bound in ("low", "expected", "high"):
            yield "ebbtide_forecast_requests_per_second", (*key, bound), getattr(plan.forecast, bound)
        yield from _forecast_samples(plan.forecast, key)
    if plan.spend_per_hour is not None:
        yield "ebbtide_spend_per_hour", (*key, plan.currency), float(plan.spend_per_hour)
    yield from _variant_samples(plan, key)


def _cost_samples(plan: ServicePlan, model: str) -> Iterator[Sample]:
    """Labels and their values are those of OpenCost's metrics of inference, so that the two can be joined."""
    namespace, _, name = plan.key.partition("/")
    key, cost, month = (namespace, name, model), plan.cost, plan.month
    if month is not None:
        yield "ebbtide_service_cost_month_to_date", (*key, month.currency), float(month.amount)
    if cost is None:
        return
    bases = (("allocation", cost.per_hour, cost.allocation), ("usage", cost.used_per_hour, cost.usage))
    for basis, per_hour, prices in bases:
        if per_hour is not None:
            yield "ebbtide_service_cost_per_hour", (*key, basis, cost.currency), float(per_hour)
        for phase, price in (("prompt", prices.input), ("generation", prices.output)):
            if price is not None:
                labels = (*key, basis, phase, "work_weight", cost.currency)
                yield "ebbtide_service_cost_per_million_tokens", labels, float(price)
    if cost.idle_share is not None:
        yield "ebbtide_service_idle_ratio", (namespace, name), float(cost.idle_share)


def _forecast_samples(forecast: Forecast, key: tuple[str, str]) -> Iterator[Sample]:
    yield "ebbtide_forecast_tokens_per_second", (*key, "prompt"), forecast.input_tokens
    yield "ebbtide_forecast_tokens_per_second", (*key, "output"), forecast.output_tokens
    if forecast.score is not None:
        yield "ebbtide_forecast_coverage_ratio", key, forecast.score.coverage
        yield "ebbtide_forecast_bias_ratio", key, forecast.score.bias
        for quantile, loss in zip(("0.025", "0.5", "0.975"), forecast.score.pinball, strict=True):
            yield "ebbtide_forecast_pinball_ratio", (*key, quantile), loss
        yield "ebbtide_forecast_errors", key, forecast.score.errors


def _variant_samples(plan: ServicePlan, key: tuple[str, str]) -> Iterator[Sample]:
    for variant in plan.variants:
        for state in ("observed", "ready", "starting", "wanted", "allowed"):
            yield "ebbtide_replicas", (*key, variant.name, state), float(getattr(variant, state))
        if variant.capacity is not None:
            labels = (*key, variant.name, variant.capacity.source)
            yield "ebbtide_capacity_requests_per_second", labels, variant.capacity.requests_per_second
            for bound, rate in (("low", variant.capacity.low), ("high", variant.capacity.high)):
                yield "ebbtide_capacity_range_requests_per_second", (*key, variant.name, bound), rate
        if variant.startup_s is not None:
            yield "ebbtide_startup_seconds", (*key, variant.name), variant.startup_s


def _pool_samples(plan: Plan, snapshot: Snapshot) -> Iterator[Sample]:
    for pool in plan.pools:
        yield "ebbtide_pool_nodes", (pool.name,), float(pool.nodes)
        for state, value in (("total", pool.gpus), ("allocated", pool.allocated), ("free", pool.free)):
            yield "ebbtide_pool_gpus", (pool.name, state), float(value)
        if pool.lead_time_s is not None:
            yield "ebbtide_pool_lead_time_seconds", (pool.name,), pool.lead_time_s
    for state_ in snapshot.pools:
        described = (state_.spec.name, state_.spec.accelerator, state_.spec.capacity_type.value)
        yield "ebbtide_pool_info", described, 1.0
        if state_.price_per_gpu_hour is not None:
            labels = (state_.spec.name, state_.currency)
            yield "ebbtide_pool_price_per_gpu_hour", labels, float(state_.price_per_gpu_hour)


def reference() -> str:
    """`docs/reference/metrics.md`, generated from the catalogue."""
    rows = []
    for item in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in item.labels)
        rows.append(f"| `{item.name}` | {'gauge' if item.kind == 'plan' else item.kind} | {labels} | {item.help} |")
    head = [
        "# Metrics",
        "",
        "What `/metrics` of the operator serves. Generated by `python -m ebbtide.record.metrics`; do not edit.",
        "Stability: alpha. A metric may change with a minor version, and the changelog says so.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main(path: str) -> None:
    """Writes the reference to `path`."""
    Path(path).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
