"""From an object as the API server sends it to the normalised spec that the rest of Ebbtide works with.

The API server has validated the object; what is checked again here is what would break a decision if an older or newer
CRD let it through. Fields of a newer version are ignored. Must never fill in a guess: what cannot be normalised is a
ConfigurationError that names object, field, value and what is allowed.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import ValidationError

from ebbtide.api import batch as api_batch
from ebbtide.api import policy as api_policy
from ebbtide.api import pool as api_pool
from ebbtide.api import scaling as api_scaling
from ebbtide.api import variant as api_variant
from ebbtide.api.amounts import above_0, allowed_to, no_price
from ebbtide.api.fields import MOST_ATTAINMENT, MOST_CEILING, ApiModel
from ebbtide.api.pool import GPUPoolSpec, TaintMatch
from ebbtide.api.service import Alternative, InferenceServiceSpec, Objectives
from ebbtide.clock import parse_rfc3339
from ebbtide.errors import ConfigurationError
from ebbtide.model import batch as b
from ebbtide.model import spec as m
from ebbtide.model.labels import COST_LABELS
from ebbtide.units import parse_duration_s

Model = TypeVar("Model", bound=ApiModel)
Value = TypeVar("Value")


def parse_service(obj: Mapping[str, Any], cost_labels: Collection[str] = COST_LABELS) -> m.ServiceSpec:
    """One InferenceService, normalised: seconds, shares 0..1, every default filled in.

    `cost_labels`: names of those labels that its cost is put down to.

    Raises ConfigurationError that names the object and the field.
    """
    where = _object_name("InferenceService", obj)
    metadata = obj["metadata"]
    spec = _validated(InferenceServiceSpec, obj, where)
    name = str(metadata["name"])
    labels = tuple(sorted((str(key), str(value)) for key, value in (metadata.get("labels") or {}).items()))
    return m.ServiceSpec(
        key=f"{metadata.get('namespace', 'default')}/{name}",
        uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation", 0)),
        mode=spec.mode,
        model_name=spec.model.name,
        model_parameters_billion=_parameters_billion(spec.model.parameters, f"{where}: spec.model.parameters"),
        objectives=_objectives(spec.objectives, where),
        priority=spec.priority,
        variants=tuple(
            _variant(each, name, f"{where}: spec.variants[{index}]") for index, each in enumerate(spec.variants)
        ),
        scaling=_scaling(spec.scaling, where),
        cost_labels=tuple((label, value) for label, value in labels if label in cost_labels and value),
        labels=labels,
        alternative=None if spec.alternative is None else _alternative(spec.alternative, where),
        service_class=spec.service_class,
    )


def parse_pool(obj: Mapping[str, Any]) -> m.PoolSpec:
    """One GPUPool, normalised: seconds and `Decimal` money, every default filled in.

    Raises ConfigurationError that names the object and the field. Time zones and cron lines are checked where they are
    used, and an amount out of range is noted in the price: a price that cannot be known stops scale-ups into the pool,
    not the pool.
    """
    where = _object_name("GPUPool", obj)
    metadata = obj["metadata"]
    spec = _validated(GPUPoolSpec, obj, where)
    return m.PoolSpec(
        name=str(metadata["name"]),
        uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation", 0)),
        provisioning=spec.provisioning,
        capacity_type=spec.capacity_type,
        node_selector=tuple(sorted(spec.node_selector.items())),
        resource=spec.resource,
        accelerator=spec.accelerator or "",
        price=None if spec.price is None else _price(spec.price, where),
        max_gpus=None if spec.limits is None else spec.limits.max_gpus,
        billing=spec.billing or (m.Billing.POD if spec.capacity_type is m.CapacityType.ON_PREM else m.Billing.NODE),
        node_lead_time_s=_seconds(spec.node_lead_time, f"{where}: spec.nodeLeadTime"),
        interruption_taints=tuple(_taint(each, m.InterruptionTaint) for each in spec.interruption_taints),
        tolerations=tuple(_taint(each, m.Toleration) for each in spec.tolerations),
    )


def parse_policy(obj: Mapping[str, Any]) -> m.PolicySpec:
    """One CostPolicy, normalised: seconds and `Decimal` money, every default filled in.

    Raises ConfigurationError that names the object and the field. Whether the time zone exists is checked where it
    is used.
    """
    where = _object_name("CostPolicy", obj)
    metadata = obj["metadata"]
    spec = _validated(api_policy.CostPolicySpec, obj, where)
    ceilings, more = _amounts(spec.ceilings, f"{where}: spec.ceilings"), spec.temporary_raise
    if not ceilings:
        raise _wrong(f"{where}: spec.ceilings", {}, "needs one of perHour, perDay and perMonth")
    return m.PolicySpec(
        name=str(metadata["name"]),
        uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation", 0)),
        currency=spec.currency,
        ceilings=ceilings,
        namespaces=tuple(sorted(spec.selector.namespaces)),
        match_labels=tuple(sorted(spec.selector.match_labels.items())),
        scope=spec.scope,
        outage_reserve_s=_reserve_s(spec.outage_reserve, f"{where}: spec.outageReserve"),
        time_zone=spec.time_zone,
        month_starts_on=spec.month_starts_on,
        floor=spec.floor,
        temporary_raise=None if more is None else _temporary_raise(more, f"{where}: spec.temporaryRaise"),
        thresholds=tuple(
            m.Threshold(m.CeilingKind(each.period.value), each.at_percent, each.basis, tuple(each.actions))
            for each in spec.thresholds
        ),
        pacing=spec.pacing,
        on_external_scale=spec.on_external_scale,
        exchange_rates=tuple(
            sorted(
                (each.currency, _above_0(each.rate, f"{where}: spec.exchangeRates[{index}].rate"))
                for index, each in enumerate(spec.exchange_rates)
                if each.currency != spec.currency  # of which one is worth one
            )
        ),
    )


def parse_batch_policy(obj: Mapping[str, Any]) -> b.BatchPolicySpec:
    """One BatchPolicy, normalised: seconds, shares 0..1, every default filled in.

    Raises ConfigurationError that names the object and the field. Time zones and cron lines are checked where they are
    used: a window that cannot be known never opens, and the others do.
    """
    where = _object_name("BatchPolicy", obj)
    metadata = obj["metadata"]
    spec = _validated(api_batch.BatchPolicySpec, obj, where)
    grace = spec.preemption.grace_period
    for day in spec.holidays:
        _normalised(date.fromisoformat, day, f"{where}: spec.holidays", "must be a day such as 2026-12-25")
    parsed = b.BatchPolicySpec(
        key=f"{metadata.get('namespace', 'default')}/{metadata['name']}",
        uid=str(metadata.get("uid", "")),
        generation=int(metadata.get("generation", 0)),
        match_labels=tuple(sorted(spec.selector.match_labels.items())),
        strategy=spec.strategy,
        windows=tuple(_batch_window(each, f"{where}: spec.windows[{i}]") for i, each in enumerate(spec.windows)),
        holidays=tuple(sorted(spec.holidays)),
        pools=tuple(sorted(spec.pools)),
        max_gpus=spec.max_gpus,
        deadline_s=None if spec.deadline is None else _positive_seconds(spec.deadline, f"{where}: spec.deadline"),
        expected_duration_s=None
        if spec.expected_duration is None
        else _positive_seconds(spec.expected_duration, f"{where}: spec.expectedDuration"),
        confidence=_confidence(spec.confidence_percent, f"{where}: spec.confidencePercent"),
        preempts=spec.preemption.allowed,
        grace_s=None if grace is None else _seconds(grace, f"{where}: spec.preemption.gracePeriod"),
        priority=spec.priority,
        paused=spec.paused,
    )
    if parsed.strategy is b.Strategy.WINDOW and not (parsed.windows or parsed.holidays):
        raise _wrong(f"{where}: spec.strategy", "Window", "Window needs windows or holidays")
    return parsed


def _batch_window(window: api_pool.Window, field: str) -> b.BatchWindow:
    return b.BatchWindow(window.cron, window.time_zone, _positive_seconds(window.duration, f"{field}.duration"))


def _confidence(text: str, field: str) -> float:
    """`99` -> 0.99."""
    percent = Decimal(text)
    if not 50 <= percent <= Decimal("99.9"):
        raise _wrong(field, text, "must be a percentage from 50 to 99.9")
    return float(percent / 100)


def _amounts(
    given: api_policy.Ceilings | api_policy.TemporaryRaise, field: str
) -> tuple[tuple[m.CeilingKind, Decimal], ...]:
    amounts = zip(m.CeilingKind, (given.per_hour, given.per_day, given.per_month), strict=True)
    return tuple((kind, _above_0(amount, f"{field}.per{kind.value}")) for kind, amount in amounts if amount is not None)


def _above_0(text: str, field: str) -> Decimal:
    if not above_0(text, MOST_CEILING):
        raise _wrong(field, text, f"must be {allowed_to(MOST_CEILING)}")
    return Decimal(text)


def _reserve_s(text: str, field: str) -> float:
    seconds = _seconds(text, field)
    if seconds > parse_duration_s(api_policy.MOST_RESERVE):
        raise _wrong(field, text, f"must be from 0s to {api_policy.MOST_RESERVE}")
    return seconds


def _temporary_raise(more: api_policy.TemporaryRaise, field: str) -> m.TemporaryRaise:
    until_s = _normalised(parse_rfc3339, more.until, f"{field}.until", "must be RFC 3339")
    return m.TemporaryRaise(_amounts(more, field), until_s, more.by, more.reason)


def _objectives(objectives: Objectives, where: str) -> m.Objectives:
    """`attainment: "99.9"` -> 0.999."""
    field = f"{where}: spec.objectives."
    attainment = Decimal(objectives.attainment)
    if not 0 < attainment <= Decimal(MOST_ATTAINMENT):
        allowed = f"must be a percentage above 0 and at most {MOST_ATTAINMENT}"
        raise _wrong(f"{field}attainment", objectives.attainment, allowed)
    return m.Objectives(
        ttft_s=_positive_seconds(objectives.time_to_first_token, f"{field}timeToFirstToken"),
        itl_s=_positive_seconds(objectives.inter_token_latency, f"{field}interTokenLatency"),
        attainment=float(attainment / 100),
        window_s=_positive_seconds(objectives.window, f"{field}window"),
    )


def _alternative(offer: Alternative, where: str) -> m.Alternative:
    given = (
        ("perMillionInputTokens", offer.per_million_input_tokens),
        ("perMillionOutputTokens", offer.per_million_output_tokens),
    )
    for name, price in given:
        if not Decimal(price):
            raise _wrong(f"{where}: spec.alternative.{name}", price, "must be a price above 0")
    return m.Alternative(offer.currency, *(Decimal(price) for _, price in given))


def _variant(variant: api_variant.Variant, service: str, field: str) -> m.VariantSpec:
    """The target is always set: for an engine block it is the Deployment that Ebbtide builds."""
    reference, engine = variant.scale_target_ref, variant.engine
    if (reference is None) == (engine is None):
        given = "neither" if engine is None else "both"
        raise _wrong(field, f"{variant.name} with {given}", "needs exactly one of scaleTargetRef and engine")
    if reference is not None:
        target = m.TargetRef(reference.api_version, reference.kind, reference.name)
    else:
        target = m.TargetRef("apps/v1", "Deployment", f"{service}-{variant.name}")
    return m.VariantSpec(
        name=variant.name,
        pool=variant.pool,
        target=target,
        engine=None if engine is None else _engine(engine),
        gpus_per_replica=variant.gpus_per_replica or (None if engine is None else 1),
        min_replicas=variant.min_replicas,
        max_replicas=variant.max_replicas,
        capacity=None if variant.capacity is None else _capacity(variant.capacity),
        degraded=variant.degraded,
    )


def _engine(engine: api_variant.Engine) -> m.EngineSpec:
    overlay = (
        {} if engine.pod_template is None else engine.pod_template.model_dump(by_alias=True, exclude_defaults=True)
    )
    return m.EngineSpec(
        type=engine.type,
        image=engine.image,
        args=tuple(engine.args),
        env=tuple((each.name, each.value) for each in engine.env),
        port=engine.port,
        pod_template_json=json.dumps(overlay, sort_keys=True, separators=(",", ":")),
        deletion_policy=engine.deletion_policy.value,
    )


def _capacity(capacity: api_variant.Capacity) -> m.CapacityPrior:
    return m.CapacityPrior(float(capacity.requests_per_second), capacity.input_tokens, capacity.output_tokens)


def _scaling(scaling: api_scaling.Scaling, where: str) -> m.Scaling:
    field = f"{where}: spec.scaling"
    zero, pause = scaling.scale_to_zero, scaling.pause
    return m.Scaling(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        up_delay_s=_seconds(scaling.up.delay, f"{field}.up.delay"),
        up_max_per_minute=scaling.up.max_per_minute,
        down_delay_s=None if scaling.down.delay is None else _seconds(scaling.down.delay, f"{field}.down.delay"),
        down_max_per_minute=scaling.down.max_per_minute,
        scale_to_zero=None if zero is None else _scale_to_zero(zero, f"{field}.scaleToZero"),
        pause=None if pause is None else _pause(pause, f"{field}.pause"),
    )


def _scale_to_zero(zero: api_scaling.ScaleToZero, field: str) -> m.ScaleToZero:
    activator = m.Activator(
        url=zero.activator.url,
        queue_metrics=tuple(zero.activator.metrics),
        labels=tuple(sorted(zero.activator.labels.items())),
    )
    return m.ScaleToZero(after_s=_positive_seconds(zero.after, f"{field}.after"), activator=activator)


def _pause(pause: api_scaling.Pause, field: str) -> m.Pause:
    until = pause.until
    return m.Pause(
        direction=pause.direction,
        replicas=pause.replicas,
        until_unix_s=None if until is None else _normalised(parse_rfc3339, until, f"{field}.until", "must be RFC 3339"),
        reason=pause.reason or "",
        by=pause.by or "",
    )


def _price(price: api_pool.Price, where: str) -> m.Price:
    field = f"{where}: spec.price"
    owned, source = price.on_prem, price.source
    given = [name for name, value in _ways(price).items() if value]
    if len(given) != 1:
        raise _wrong(field, given, "needs exactly one of perGPUHour, onPrem, source and free")
    windows = (_window(each, each.per_gpu_hour, f"{field}.schedule[{i}]") for i, each in enumerate(price.schedule))
    tariff = None
    wrong = no_price(price)
    if owned is None and source is None and not wrong:
        tariff = m.Tariff(Decimal(price.per_gpu_hour or "0"), tuple(windows))
    return m.Price(
        currency=price.currency,
        tariff=tariff,
        on_prem=None if owned is None or wrong else _owned(owned, f"{field}.onPrem"),
        source=None if source is None else m.PriceSource(source.type.value, source.item or ""),
        effective_from=None
        if price.effective_from is None
        else _normalised(parse_rfc3339, price.effective_from, f"{field}.effectiveFrom", "must be RFC 3339"),
        wrong=wrong,
    )


def _ways(price: api_pool.Price) -> dict[str, bool]:
    """Which of the ways to say a price are used."""
    return {
        "perGPUHour": price.per_gpu_hour is not None,
        "onPrem": price.on_prem is not None,
        "source": price.source is not None,
        "free": price.free is not None,
    }


def _owned(owned: api_pool.OnPrem, field: str) -> m.OnPrem:
    bought = owned.electricity
    field = f"{field}.electricity.schedule"
    windows = (_window(each, each.per_kwh, f"{field}[{i}]") for i, each in enumerate(bought.schedule))
    return m.OnPrem(
        capital_per_gpu=Decimal(owned.capital_per_gpu),
        years=Decimal(owned.amortisation_years),
        watts_per_gpu=Decimal(owned.watts_per_gpu),
        overhead=Decimal(owned.power_usage_effectiveness),
        electricity=m.Tariff(Decimal(bought.per_kwh), tuple(windows)),
    )


def _window(window: api_pool.Window, amount: str, field: str) -> m.TariffWindow:
    return m.TariffWindow(
        cron=window.cron,
        time_zone=window.time_zone,
        duration_s=_positive_seconds(window.duration, f"{field}.duration"),
        amount=Decimal(amount),
    )


def _taint(taint: TaintMatch, kind: Callable[..., Value]) -> Value:
    return kind(key=taint.key, value=taint.value, effect=None if taint.effect is None else taint.effect.value)


def _parameters_billion(text: str | None, field: str) -> float | None:
    """`8B` -> 8.0, `500M` -> 0.5."""
    if text is None:
        return None
    billion = float(text[:-1]) / (1000 if text.endswith("M") else 1)
    if billion <= 0.0:
        raise _wrong(field, text, "must be a number of weights above 0, such as 500M or 70B")
    return billion


def _seconds(text: str, field: str) -> float:
    return _normalised(parse_duration_s, text, field, "must be a duration such as 500ms, 30s or 1m30s")


def _positive_seconds(text: str, field: str) -> float:
    seconds = _seconds(text, field)
    if seconds <= 0:
        raise _wrong(field, text, "must be a duration above 0")
    return seconds


def _normalised(convert: Callable[[str], Value], text: str, field: str, allowed: str) -> Value:
    try:
        return convert(text)
    except ValueError as error:
        raise _wrong(field, text, f"{allowed} ({error})") from error


def _validated(model: type[Model], obj: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(obj.get("spec", {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _wrong(f"{where}: spec{_path(first['loc'])}", first["input"], str(first["msg"])) from error


def _path(location: Iterable[str | int]) -> str:
    """("variants", 0, "pool") -> `.variants[0].pool`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _object_name(kind: str, obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata") or {}
    if not metadata.get("name"):
        raise ConfigurationError(f"{kind}: metadata.name is missing")
    return f"{kind} " + "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key))


def _wrong(field: str, value: object, allowed: str) -> ConfigurationError:
    shown = json.dumps(value, default=str)
    return ConfigurationError(
        f"{field}: {shown if len(shown) <= 100 else shown[:100] + '...'} is not allowed: {allowed}"
    )
