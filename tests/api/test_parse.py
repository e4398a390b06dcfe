"""From API objects to the normalised specs."""

import json
from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api import parse_policy, parse_pool, parse_service
from ebbtide.api.service import InferenceServiceSpec
from ebbtide.errors import ConfigurationError
from ebbtide.model.spec import (
    Activator,
    Alternative,
    Billing,
    CapacityPrior,
    CapacityType,
    CeilingKind,
    EngineSpec,
    EngineType,
    Floor,
    InterruptionTaint,
    Mode,
    Objectives,
    Pause,
    PauseDirection,
    PolicyScope,
    PolicySpec,
    PoolSpec,
    Price,
    Provisioning,
    ScaleToZero,
    Scaling,
    ServiceClass,
    ServiceSpec,
    TargetRef,
    Tariff,
    TariffWindow,
    TemporaryRaise,
    ThresholdAction,
    Toleration,
    VariantSpec,
)
from ebbtide.units import format_duration
from tests.api.bad_objects import BUILT, OFFER, PRICED, TO_ZERO, WINDOW
from tests.api.samples import FULL_POLICY, FULL_POOL, FULL_SERVICE, REMOVED, changed, policy, pool, service


def test_the_smallest_service():
    assert parse_service(service(("metadata.uid", "u1"), ("metadata.generation", 3))) == ServiceSpec(
        key="default/chat",
        uid="u1",
        generation=3,
        mode=Mode.RECOMMEND,
        model_name="llama-3-8b",
        model_parameters_billion=None,
        objectives=Objectives(ttft_s=1.0, itl_s=0.05, attainment=0.99),
        priority=100,
        variants=(
            VariantSpec(
                name="h100",
                pool="h100-on-demand",
                target=TargetRef("apps/v1", "Deployment", "chat-h100"),
                gpus_per_replica=None,
                min_replicas=0,
                max_replicas=100,
            ),
        ),
        scaling=Scaling(
            min_replicas=1,
            max_replicas=100,
            up_delay_s=0,
            up_max_per_minute=60,
            down_delay_s=None,
            down_max_per_minute=10,
        ),
    )


def test_a_service_with_every_field():
    spec = parse_service(FULL_SERVICE)
    assert spec.mode is Mode.AUTO
    assert spec.model_parameters_billion == 8.0
    assert spec.objectives == Objectives(ttft_s=0.5, itl_s=0.05, attainment=0.999, window_s=43_200.0)
    target, built = spec.variants
    assert target.capacity == CapacityPrior(4.5, 1024, 256)
    assert target.gpus_per_replica == 1
    assert (target.degraded, built.degraded) == (False, True)
    assert built.target == TargetRef("apps/v1", "Deployment", "full-l40s")
    assert built.gpus_per_replica == 1
    assert built.engine == EngineSpec(
        type=EngineType.VLLM,
        image="vllm/vllm-openai:v0.32.0",
        args=("--max-num-seqs=128",),
        env=(("LOG_LEVEL", "info"),),
        port=8000,
        pod_template_json=json.dumps(
            {
                "metadata": {"annotations": {"example.com/note": "hello"}, "labels": {"team": "chat"}},
                "spec": {"priorityClassName": "interactive"},
            },
            separators=(",", ":"),
        ),
        deletion_policy="Delete",
    )
    assert spec.scaling == Scaling(
        min_replicas=0,
        max_replicas=12,
        up_delay_s=10,
        up_max_per_minute=20,
        down_delay_s=90,
        down_max_per_minute=5,
        scale_to_zero=ScaleToZero(
            after_s=900,
            activator=Activator(
                url="http://chat-epp.default:9090/metrics",
                queue_metrics=("llm_d_epp_flow_control_queue_size",),
                labels=(("inference_pool", "chat"),),
            ),
        ),
        pause=Pause(PauseDirection.ALL, replicas=3, until_unix_s=1798135200.0, reason="load test", by="ada"),
    )
    assert spec.alternative == Alternative("USD", Decimal("0.15"), Decimal("0.60"))
    assert spec.background


def test_services_are_interactive_unless_they_say_otherwise():
    assert parse_service(service()).service_class is ServiceClass.INTERACTIVE
    found = parse_service(changed(TO_ZERO, ("spec.serviceClass", "Background"), ("spec.priority", 1000)))
    assert found.background and found.rank < parse_service(service(("spec.priority", 0))).rank


def test_a_pool_with_every_field():
    assert parse_pool(FULL_POOL) == PoolSpec(
        name="full",
        uid="",
        generation=0,
        provisioning=Provisioning.AUTOSCALED,
        capacity_type=CapacityType.SPOT,
        node_selector=(("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"), ("pool", "spot")),
        resource="nvidia.com/gpu",
        accelerator="H100-80GB",
        price=Price(
            "USD",
            Tariff(Decimal("2.50"), (TariffWindow("0 22 * * 1-5", "Europe/Berlin", 8 * 3600.0, Decimal("1.25")),)),
            effective_from=1767225600.0,
        ),
        max_gpus=64,
        node_lead_time_s=180,
        billing=Billing.POD,
        interruption_taints=(InterruptionTaint("example.com/interruption", "soon", "NoExecute"),),
        tolerations=(Toleration("nvidia.com/gpu", "present", "NoSchedule"),),
    )


def test_the_smallest_pool_has_no_price_and_no_limit():
    spec = parse_pool(pool())
    assert (spec.price, spec.max_gpus, spec.node_lead_time_s) == (None, None, 240)


@pytest.mark.parametrize(
    ("bought", "said", "want"),
    [
        ("OnDemand", None, Billing.NODE),
        ("Spot", None, Billing.NODE),
        ("Reserved", None, Billing.NODE),
        ("OnPrem", None, Billing.POD),
        ("OnPrem", "Node", Billing.NODE),
        ("OnDemand", "Pod", Billing.POD),
    ],
)
def test_what_is_billed_follows_from_how_gpus_are_bought_unless_it_is_said(bought, said, want):
    billing = [("spec.billing", said)] if said else []
    assert parse_pool(pool(("spec.capacityType", bought), *billing)).billing is want


def test_whose_cost_it_is_say_the_labels_that_are_kept():
    labels = {"team": "search", "product": "web", "app.kubernetes.io/name": "chat", "owner": ""}
    labelled = service(("metadata.labels", labels))
    assert parse_service(labelled).cost_labels == (("product", "web"), ("team", "search"))
    assert parse_service(labelled, ("app.kubernetes.io/name",)).cost_labels == (("app.kubernetes.io/name", "chat"),)
    assert parse_service(labelled, ()).cost_labels == () and len(parse_service(labelled, ()).labels) == 4
    assert parse_service(service()).cost_labels == ()


def test_parameters_in_millions():
    assert parse_service(service(("spec.model.parameters", "500M"))).model_parameters_billion == 0.5


def test_fields_of_a_newer_version_are_ignored():
    newer = service(("spec.serviceGrade", "Background"), ("spec.variants.0.lowered", True))
    assert parse_service(newer) == parse_service(service())


def test_the_status_has_no_influence():
    assert parse_service(changed(FULL_SERVICE, ("status", {"replicas": "nonsense"}))) == parse_service(FULL_SERVICE)


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (service(("spec.model", REMOVED)), "InferenceService default/chat: spec.model: "),
        (service(("spec.mode", "Turbo")), 'InferenceService default/chat: spec.mode: "Turbo" is not allowed: '),
        (
            service(("spec.variants.0.pool", REMOVED)),
            "InferenceService default/chat: spec.variants[0].pool: ",
        ),
        (
            service(("spec.objectives.attainment", "101")),
            'spec.objectives.attainment: "101" is not allowed: must be a percentage above 0 and at most 99.999',
        ),
        (
            service(("spec.objectives.timeToFirstToken", "0s")),
            'spec.objectives.timeToFirstToken: "0s" is not allowed: must be a duration above 0',
        ),
        (
            service(("spec.variants.0.engine", {"type": "vLLM", "image": "x"})),
            "spec.variants[0]: \"h100 with both\" is not allowed: needs exactly one of scaleTargetRef and engine",
        ),
        (
            service(("spec.variants.0.scaleTargetRef", REMOVED)),
            "spec.variants[0]: \"h100 with neither\" is not allowed: needs exactly one of scaleTargetRef and engine",
        ),
        (
            service(("spec.alternative", {**OFFER, "perMillionInputTokens": "0.00"})),
            'spec.alternative.perMillionInputTokens: "0.00" is not allowed: must be a price above 0',
        ),
        (
            service(("spec.scaling.pause", {"until": "tomorrow"})),
            'spec.scaling.pause.until: "tomorrow" is not allowed: must be RFC 3339',
        ),
        (
            # the API server takes an offset of a whole day
            service(("spec.scaling.pause", {"until": "2026-01-01T00:00:00+24:00"})),
            'spec.scaling.pause.until: "2026-01-01T00:00:00+24:00" is not allowed: must be RFC 3339',
        ),
        (
            service(("spec.objectives.attainment", "99.99999")),
            'spec.objectives.attainment: "99.99999" is not allowed: must be a percentage above 0 and at most 99.999',
        ),
        (
            service(("spec.model.parameters", "0.0B")),
            'spec.model.parameters: "0.0B" is not allowed: must be a number of weights above 0',
        ),
        (changed(TO_ZERO, ("spec.scaling.scaleToZero.after", "0s")), 'spec.scaling.scaleToZero.after: "0s"'),
        (changed(BUILT, ("spec.variants.0.engine.type", "llama.cpp")), 'spec.variants[0].engine.type: "llama.cpp"'),
        (service(("metadata", {})), "InferenceService: metadata.name is missing"),
    ],
)  # fmt: skip
def test_a_service_that_cannot_be_normalised_names_the_field(obj, wanted):
    with pytest.raises(ConfigurationError) as raised:
        parse_service(obj)
    assert wanted in str(raised.value)


def test_a_bare_off_is_refused_and_the_field_says_to_quote_it():
    """YAML 1.1, as the API's tools read it: Off without quotes is false."""
    bare, quoted = yaml.safe_load("mode: Off")["mode"], yaml.safe_load('mode: "Off"')["mode"]
    with pytest.raises(ConfigurationError, match=r"spec\.mode: false is not allowed"):
        parse_service(service(("spec.mode", bare)))
    assert parse_service(service(("spec.mode", quoted))).mode is Mode.OFF
    assert 'write it "Off", in quotes' in " ".join(str(InferenceServiceSpec.model_fields["mode"].description).split())


@pytest.mark.parametrize(
    ("window", "wanted"),
    [
        ({"duration": "0s"}, 'spec.price.schedule[0].duration: "0s" is not allowed: must be a duration above 0'),
        ({"perGPUHour": "cheap"}, 'spec.price.schedule[0].perGPUHour: "cheap" is not allowed'),
    ],
)
def test_a_pool_that_cannot_be_normalised_names_the_field(window, wanted):
    with pytest.raises(ConfigurationError) as raised:
        parse_pool(changed(PRICED, ("spec.price.schedule", [{**WINDOW, **window}])))
    assert wanted in str(raised.value)


def test_the_letters_of_a_moment_may_be_small():
    small, large = (
        parse_service(service(("spec.scaling.pause", {"until": text}))).scaling.pause
        for text in ("2026-01-01t00:00:00z", "2026-01-01T00:00:00Z")
    )
    assert small == large


@given(milliseconds=st.integers(1, 3_600_000))
def test_every_duration_that_is_shown_can_be_read_back(milliseconds):
    shown = format_duration(milliseconds / 1000)
    spec = parse_service(service(("spec.objectives.timeToFirstToken", shown)))
    assert spec.objectives.ttft_s == pytest.approx(milliseconds / 1000, rel=0.02, abs=0.5)


@given(text=st.text(max_size=20))
def test_no_text_as_a_duration_does_more_than_be_refused(text):
    try:
        assert parse_service(service(("spec.objectives.timeToFirstToken", text))).objectives.ttft_s > 0
    except ConfigurationError as error:
        assert "spec.objectives.timeToFirstToken" in str(error)


def test_the_smallest_policy():
    assert parse_policy(policy(("metadata.uid", "u1"), ("metadata.generation", 3))) == PolicySpec(
        name="team-a",
        uid="u1",
        generation=3,
        currency="USD",
        ceilings=((CeilingKind.DAY, Decimal("500")),),
        namespaces=(),
        match_labels=(),
        scope=PolicyScope.MANAGED,
        outage_reserve_s=900.0,
        time_zone="UTC",
        month_starts_on=1,
        floor=Floor.KEEP_MIN,
    )


def test_a_policy_with_every_field():
    parsed = parse_policy(FULL_POLICY)
    assert parsed.ceilings == (
        (CeilingKind.HOUR, Decimal("120")),
        (CeilingKind.DAY, Decimal("1500.50")),
        (CeilingKind.MONTH, Decimal("30000")),
    )
    assert (parsed.namespaces, parsed.match_labels) == (("team-a", "team-b"), (("tier", "gold"),))
    amounts = tuple(zip(CeilingKind, (Decimal("20"), Decimal("300"), Decimal("1000")), strict=True))
    assert parsed.temporary_raise == TemporaryRaise(amounts, 1798135200.0, "ada", "launch")
    assert ThresholdAction.USE_DEGRADED in parsed.thresholds[0].actions
    assert (parsed.floor, parsed.month_starts_on, parsed.outage_reserve_s) == (Floor.ALLOW_ZERO, 15, 600.0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.ceilings", {}, "CostPolicy team-a: spec.ceilings: {} is not allowed: needs one of perHour"),
        ("spec.ceilings.perDay", "12 USD", 'CostPolicy team-a: spec.ceilings.perDay: "12 USD" is not allowed'),
        ("spec.outageReserve", "soon", 'CostPolicy team-a: spec.outageReserve: "soon" is not allowed'),
        (
            "spec.ceilings.perDay",
            "0",
            'CostPolicy team-a: spec.ceilings.perDay: "0" is not allowed: must be above 0 and at most 1000000000',
        ),
        ("spec.ceilings.perDay", "1000000000.01", 'CostPolicy team-a: spec.ceilings.perDay: "1000000000.01" is not'),
        (
            "spec.outageReserve",
            "25h",
            'CostPolicy team-a: spec.outageReserve: "25h" is not allowed: must be from 0s to 24h',
        ),
        (
            "spec.exchangeRates",
            [{"currency": "EUR", "rate": "0"}],
            'CostPolicy team-a: spec.exchangeRates[0].rate: "0" is not allowed: must be above 0',
        ),
        (
            "spec.temporaryRaise",
            {"perDay": "0", "until": "2026-12-24T18:00:00Z", "by": "ada", "reason": "launch"},
            'CostPolicy team-a: spec.temporaryRaise.perDay: "0" is not allowed: must be above 0',
        ),
    ],
)
def test_a_policy_that_an_older_definition_let_through(path, value, said):
    with pytest.raises(ConfigurationError) as raised:
        parse_policy(policy((path, value)))
    assert str(raised.value).startswith(said)


def test_a_rate_of_the_policys_own_currency_that_an_older_definition_let_through_is_none():
    rates = [{"currency": "USD", "rate": "0.5"}, {"currency": "EUR", "rate": "1.08"}]
    assert parse_policy(policy(("spec.exchangeRates", rates))).exchange_rates == (("EUR", Decimal("1.08")),)


def test_a_service_has_its_labels_sorted():
    labelled = service(("metadata.labels", {"tier": "gold", "app": "chat"}))
    assert parse_service(labelled).labels == (("app", "chat"), ("tier", "gold"))
