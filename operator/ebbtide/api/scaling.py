"""How many replicas a service may have over all its variants, how fast that may change, and who has stopped it.

Must never accept bounds that contradict each other: what holds then would depend on the order of the guardrails.
"""

from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import (
    METRIC_LABEL_KEYS,
    MOST_REPLICAS,
    ApiModel,
    HttpUrl,
    MetricName,
    Moment,
    duration,
    filled,
    rule,
    rules,
    unique,
)
from ebbtide.model.spec import PauseDirection

# Both are the endpoint picker's flow-control queue: the name since llm-d-router, and the one before it
ACTIVATOR_METRICS = ("llm_d_epp_flow_control_queue_size", "inference_extension_flow_control_queue_size")


class Up(ApiModel):
    """How fast the service may grow."""

    delay: Annotated[str, duration("0s", "1h", "30s or 1m30s")] = "0s"
    """How long more replicas must be wanted before any is added, as a duration from 0s to 1h. Unset: 0s."""
    max_per_minute: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 60
    """Most replicas added within a minute over all variants, 1 to 10000. Unset: 60."""


class Down(ApiModel):
    """How fast the service may shrink."""

    delay: Annotated[str, duration("0s", "24h", "30s or 1h30m")] | None = None
    """How long fewer replicas must be enough before any is removed, as a duration from 0s to 24h. Unset: as long as a
    replica that is asked for now takes to serve, as measured."""
    max_per_minute: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 10
    """Most replicas removed within a minute over all variants, 1 to 10000. Unset: 10."""


class ActivatorRef(ApiModel):
    """The gateway that holds requests while nothing runs."""

    url: HttpUrl
    """Address of the gateway's metrics in Prometheus text format, http or https, such as
    http://chat-epp.team-a:9090/metrics; up to 2048 characters. It is read every second or two. Required."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=8, json_schema_extra=unique())] = (
        ACTIVATOR_METRICS
    )
    """Names of the gauge of queued requests, 1 to 8 of up to 200 characters; where several exist, as an old and a
    new name of one gauge, the largest counts. Unset: llm_d_epp_flow_control_queue_size,
    inference_extension_flow_control_queue_size."""
    labels: dict[str, Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=16, json_schema_extra=METRIC_LABEL_KEYS
    )
    """Labels that this service's series carry, up to 16 with names of up to 100 and values of up to 256 characters,
    such as inference_pool: chat.
    Unset: every series of the metric counts, which is right where the gateway serves this service alone."""


class ScaleToZero(ApiModel):
    """To zero when idle, and back when the gateway holds a request."""

    after: Annotated[str, duration("1s", "168h", "10m or 1h30m")] = "10m"
    """How long no request may have arrived before the last replica is removed, as a duration from 1s to 168h.
    Unset: 10m."""
    activator: ActivatorRef
    """Where waiting requests are seen while nothing runs. Until it has answered once the service stays at 1.
    Required."""


_PAUSE_RULES = rules(
    # "set the total to N" moves up or down; in one direction only it would be half a promise
    rule(
        "!has(self.replicas) || self.direction == 'All'",
        "replicas needs direction All",
        say=filled("replicas %d needs direction All; got %s", "self.replicas", "self.direction"),
        field=".replicas",
    )
)


class Pause(ApiModel, json_schema_extra=_PAUSE_RULES):
    """Hands off. An empty object pauses both directions until it is removed."""

    direction: PauseDirection = PauseDirection.ALL
    """Which way replicas may not move: All, Up or Down. Unset: All."""
    replicas: int | None = None
    """Total of replicas to set once and then keep, within minReplicas and maxReplicas of scaling; needs direction All.
    Unset: the present number is kept."""
    until: Moment | None = None
    """When the pause ends by itself, as RFC 3339 such as 2026-12-24T18:00:00Z. Unset: when the pause is removed."""
    reason: Annotated[str, Field(max_length=256)] | None = None
    """Why, for status and Events, up to 256 characters. Unset: no reason is shown."""
    by: Annotated[str, Field(max_length=128)] | None = None
    """Who paused it, up to 128 characters. Unset: nobody is named."""


_SCALING_RULES = rules(
    rule(
        "self.minReplicas <= self.maxReplicas",
        "minReplicas must be at most maxReplicas",
        say=filled("minReplicas %d must be at most maxReplicas %d", "self.minReplicas", "self.maxReplicas"),
        field=".minReplicas",
    ),
    rule(
        "self.minReplicas > 0 || has(self.scaleToZero)",
        "minReplicas 0 needs scaleToZero, whose activator wakes the service; else it must be at least 1",
        say=filled(
            "minReplicas %d: 0 needs scaleToZero, whose activator wakes the service; else it must be at least 1",
            "self.minReplicas",
        ),
        field=".minReplicas",
    ),
    # a service that says "to zero after 10m" and "at least 1" would quietly never go
    rule(
        "self.minReplicas == 0 || !has(self.scaleToZero)",
        "scaleToZero needs minReplicas 0",
        say=filled(
            "minReplicas %d forbids scaleToZero: write minReplicas 0, or leave scaleToZero out", "self.minReplicas"
        ),
        field=".minReplicas",
    ),
    rule(
        "!has(self.pause) || !has(self.pause.replicas) || "
        "(self.pause.replicas >= self.minReplicas && self.pause.replicas <= self.maxReplicas)",
        "pause.replicas must be from minReplicas to maxReplicas",
        say=filled(
            "pause.replicas %d must be from minReplicas %d to maxReplicas %d",
            "self.pause.replicas",
            "self.minReplicas",
            "self.maxReplicas",
        ),
        field=".pause.replicas",
    ),
)


class Scaling(ApiModel, json_schema_extra=_SCALING_RULES):
    """Bounds on the replicas of all variants together, and how fast they may move."""

    min_replicas: int = 1
    """Fewest replicas over all variants, 0 to maxReplicas; 0 with scaleToZero and only then.
    Unset: 1."""
    max_replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 100
    """Most replicas over all variants, 1 to 10000. Unset: 100."""
    up: Up = Up()
    """How fast the service may grow. Unset: without delay, 60 a minute."""
    down: Down = Down()
    """How fast the service may shrink. Unset: after about a start-up, 10 a minute."""
    scale_to_zero: ScaleToZero | None = None
    """To zero when idle, and back by the gateway's queue; needs minReplicas 0. Unset: at least one replica stays."""
    pause: Pause | None = None
    """Hands off, in one direction or both. Unset: not paused."""
