"""InferenceService, what people write: which model is served, on which pools, within which objectives and bounds.

Each attribute's docstring is what `kubectl explain` shows. Rules between fields stand on the object that holds both.
Must never contain a field that nothing acts on, nor decide anything: `parse` turns this into `ebbtide.model.spec`.
"""

from typing import Annotated, Any

from pydantic import Field

from ebbtide.api.fields import (
    ApiModel,
    Percent,
    TokenPrice,
    duration,
    filled,
    keyed_by,
    matching,
    quantity,
    rule,
    rules,
)
from ebbtide.api.scaling import Scaling
from ebbtide.api.service_status import InferenceServiceStatus
from ebbtide.api.variant import Variant
from ebbtide.model.spec import DEFAULT_PRIORITY, Mode, ServiceClass


class Model(ApiModel):
    """What is served."""

    name: Annotated[
        str,
        matching(
            "^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
            253,
            "must be a model name: letters, digits, . _ : / and -, starting with a letter or digit",
        ),
    ]
    """Name of the model as its users call it, up to 253 characters, shown in the metric ebbtide_service_info.
    Required."""
    parameters: (
        Annotated[
            str,
            quantity(
                r"^[0-9]+(\.[0-9]+)?[MB]$",
                16,
                "must be a number of weights above 0 in millions (M) or billions (B), in capitals, such as 500M or 70B",
                in_range="self.matches('[1-9]')",
            ),
        ]
        | None
    ) = None
    """Number of weights in millions (M) or billions (B), above 0, such as 500M or 70B. With the pool's accelerator it
    gives the first estimate of what a replica carries. Unset: the first estimate is conservative until load has been
    observed."""


class Objectives(ApiModel):
    """Latency that a request should have. It meets both when each of its two latencies is within the objective."""

    time_to_first_token: Annotated[str, duration("1ms", "1h", "500ms or 2s")] = "1s"
    """Longest time from the arrival of a request to its first token, as a duration from 1ms to 1h. Unset: 1s."""
    inter_token_latency: Annotated[str, duration("1ms", "1m", "50ms or 0.1s")] = "50ms"
    """Longest mean time between two output tokens of a request, as a duration from 1ms to 1m. Unset: 50ms."""
    attainment: Percent = "99"
    """Share of requests that should meet both objectives, in percent as a decimal string above 0 and at most 99.999,
    such as "99.9". Unset: "99"."""
    window: Annotated[str, duration("10m", "720h", "24h or 30m")] = "24h"
    """Span over which that share is meant, as a duration from 10m to 720h: what is missed in one part of it is made up
    for in another. Unset: 24h."""


class Alternative(ApiModel):
    """An API that would put out the same tokens: what it charges for a million of them."""

    currency: Annotated[
        str,
        matching("^[A-Z]*$", 3, "must be the three capital letters of an ISO 4217 currency, such as USD"),
        Field(min_length=3),
    ]
    """ISO 4217 code of the prices, 3 capital letters such as USD; to be compared it must be that of the pools.
    Required."""
    per_million_input_tokens: TokenPrice
    """Price of a million input tokens in currency, as a decimal string above 0 and up to 100000, such as "0.15".
    Required."""
    per_million_output_tokens: TokenPrice
    """Price of a million output tokens in currency, as a decimal string above 0 and up to 100000, such as "0.60".
    Required."""


_DUPLICATE_TARGET = (
    "has(v.scaleTargetRef) && !self.exists_one(w, has(w.scaleTargetRef) && "
    "w.scaleTargetRef.kind == v.scaleTargetRef.kind && w.scaleTargetRef.name == v.scaleTargetRef.name)"
)
_VARIANTS: dict[str, Any] = keyed_by(
    "name",
    extra=rules(
        rule(
            f"!self.exists(v, {_DUPLICATE_TARGET})",
            "each scaleTargetRef belongs to one variant",
            say=filled(
                "each scaleTargetRef belongs to one variant; %s have the same",
                f"self.filter(v, {_DUPLICATE_TARGET}).map(v, v.name)",
            ),
        )
    ),
)
_MIN_SUM = "self.variants.map(v, v.minReplicas).sum()"
_MAX_SUM = "self.variants.map(v, v.maxReplicas).sum()"
_SPEC_RULES = rules(
    rule(
        f"{_MIN_SUM} <= self.scaling.maxReplicas",
        "minReplicas of all variants must add up to at most scaling.maxReplicas",
        say=filled(
            "minReplicas of all variants must add up to at most scaling.maxReplicas %d; got %d",
            "self.scaling.maxReplicas",
            _MIN_SUM,
        ),
        field=".variants",
    ),
    rule(
        f"{_MAX_SUM} >= self.scaling.minReplicas",
        "maxReplicas of all variants must add up to at least scaling.minReplicas",
        say=filled(
            "maxReplicas of all variants must add up to at least scaling.minReplicas %d; got %d",
            "self.scaling.minReplicas",
            _MAX_SUM,
        ),
        field=".variants",
    ),
    rule(
        "!self.variants.all(v, v.degraded)",
        "needs a variant that is not degraded",
        say=filled(
            "needs a variant that is not degraded, because those are stand-ins for another; all of %s are",
            "self.variants.map(v, v.name)",
        ),
        field=".variants",
    ),
    rule(
        "!has(self.scaling.scaleToZero) || self.variants.all(v, v.minReplicas == 0)",
        "scaling.scaleToZero needs minReplicas 0 in every variant",
        say=filled(
            "scaling.scaleToZero needs minReplicas 0 in every variant; it is more in %s",
            "self.variants.filter(v, v.minReplicas > 0).map(v, v.name)",
        ),
        field=".variants",
    ),
    rule(
        "self.serviceClass != 'Background' || has(self.scaling.scaleToZero)",
        "serviceClass Background needs scaling.scaleToZero, whose activator tells the queue that waits at zero",
        field=".serviceClass",
    ),
)


class InferenceServiceSpec(ApiModel, json_schema_extra=_SPEC_RULES):
    """What the service needs. Ebbtide decides how many replicas of each variant that takes."""

    mode: Mode = Mode.RECOMMEND
    """How far Ebbtide may go. Recommend: what it would do is shown in status and said in Events, and nothing is
    written to a target or created. Off: the same, without the Events; in YAML write it "Off", in quotes, because a
    bare Off means false there and is refused. Auto: it scales the targets. Unset: Recommend."""
    model: Model
    """The model that is served. Required."""
    objectives: Objectives = Objectives()
    """Latency that requests should have. Unset: first token within 1s, 50ms between tokens, for 99 percent."""
    priority: Annotated[int, Field(ge=0, le=1000)] = DEFAULT_PRIORITY
    """Who gets GPUs first when they run short, 0 to 1000; the higher number wins. Unset: 100."""
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    """Interactive: served within its objectives at any time. Background: nobody waits for its answers, so its queue is
    worked off as batch work is, by the one BatchPolicy of its namespace whose selector its labels match: in that
    policy's windows and on the GPUs that its strategy, pools and maxGPUs allow, beside what Interactive services may
    need and behind Jobs; otherwise it has no replicas. Needs scaling.scaleToZero, whose activator tells the queue.
    Unset: Interactive."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=16, json_schema_extra=_VARIANTS)]
    """The ways to run this service, 1 to 16, unique by name; the cheapest mix that carries the load is used.
    Required."""
    scaling: Scaling = Scaling()
    """Bounds on all variants together and how fast they may move. Unset: 1 to 100 replicas, up at once,
    down after a start-up."""
    alternative: Alternative | None = None
    """What an API would charge for the same tokens: status.alternative then says from which load on the service is
    cheaper. Nothing is decided by it. Unset: not compared with any."""


_ROOT_RULES = rules(
    # the value of the label ebbtide.dev/service on everything that Ebbtide builds
    rule(
        "size(self.metadata.name) <= 63",
        "metadata.name must be at most 63 characters, because it becomes a label value",
        say=filled(
            "metadata.name must be at most 63 characters, because it becomes a label value; got %d: %s",
            "size(self.metadata.name)",
            "self.metadata.name",
        ),
    ),
    # with an engine block it is the name of a Kubernetes Service too, which is stricter than a label
    rule(
        "!self.spec.variants.exists(v, has(v.engine)) || self.metadata.name.matches('^[a-z][-a-z0-9]*$')",
        "metadata.name must start with a letter and contain no dot where a variant has an engine block",
        say=filled(
            "metadata.name must start with a letter and contain no dot where a variant has an engine block, because a "
            "Service of that name is built; got %s",
            "self.metadata.name",
        ),
    ),
)


class InferenceService(ApiModel, json_schema_extra=_ROOT_RULES):
    """A model that is served within latency objectives, at the lowest cost, by scaling its variants over GPU pools."""

    spec: InferenceServiceSpec
    """What the service needs; written by people. Required."""
    status: InferenceServiceStatus | None = None
    """What Ebbtide saw and decided; written by Ebbtide alone. Unset: not looked at yet."""
