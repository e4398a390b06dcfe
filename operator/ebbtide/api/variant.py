"""A variant of an InferenceService: the workload or engine that runs it, on which pool, between which bounds.

Must never name anything that another variant could mean too: names and targets are unique within a service.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import (
    MOST_REPLICAS,
    ApiModel,
    ObjectName,
    Rate,
    VariantName,
    constant,
    filled,
    keyed_by,
    matching,
    rule,
    rules,
)
from ebbtide.api.pod_template import PodTemplate
from ebbtide.model.spec import EngineType


class DeletionPolicy(StrEnum):
    """What happens to a Deployment that Ebbtide built when its variant or service is deleted."""

    ORPHAN = "Orphan"
    DELETE = "Delete"


class ScaleTargetRef(ApiModel):
    """A workload with a scale subresource, in the namespace of the service."""

    api_version: Annotated[
        str,
        matching(
            "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[0-9]+((alpha|beta)[0-9]+)?$",
            253,
            "must be an API version such as v1, apps/v1 or leaderworkerset.x-k8s.io/v1",
        ),
    ]
    """API group and version of the target, such as apps/v1, up to 253 characters. Required."""
    kind: Annotated[str, matching("^[A-Z][A-Za-z0-9]*$", 63, "must be a kind such as Deployment: CamelCase letters")]
    """Kind of the target: Deployment, StatefulSet, LeaderWorkerSet or any other with a scale subresource, up to 63
    characters. Required."""
    name: ObjectName
    """Name of the target in the namespace of the service, up to 253 characters. One target belongs to one variant of
    one service. Required."""


class EnvVar(ApiModel):
    """One environment variable."""

    name: Annotated[
        str,
        matching("^[A-Za-z_][A-Za-z0-9_.-]*$", 256, "must be letters, digits, _ . and -, not starting with a digit"),
    ]
    """Name of the variable, up to 256 characters; unique in the list. Required."""
    value: Annotated[str, Field(max_length=4096)]
    """Value of the variable, up to 4096 characters. Values from Secrets go into podTemplate. Required, may be empty."""


class Engine(ApiModel):
    """What Ebbtide builds and owns a Deployment from. Nothing is built before mode is Auto."""

    type: EngineType = Field(
        # what a replica carries and how long it takes to start were measured with the old engine
        json_schema_extra=rules(constant("add a variant of another name with the new engine, then remove this one"))
    )
    """Inference engine: vLLM, TensorRTLLM (trtllm-serve) or SGLang. It decides metrics, probes and how replicas are
    drained. Cannot change afterwards. Required."""
    image: Annotated[str, matching(r"^[^\s]+$", 512, "must be an image reference without spaces")]
    """Container image with tag or digest, up to 512 characters. Required."""
    args: Annotated[
        tuple[Annotated[str, Field(max_length=4096)], ...],
        Field(max_length=128, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Arguments of the engine, up to 128 of up to 4096 characters; Ebbtide adds only those for port and drain that are
    missing. Unset: none beyond those."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64, json_schema_extra=keyed_by("name"))] = ()
    """Environment variables of the engine, up to 64, unique by name. Unset: none."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port on which the engine serves requests and metrics, 1 to 65535. Unset: 8000."""
    deletion_policy: DeletionPolicy = DeletionPolicy.ORPHAN
    """What happens to the Deployment when this variant or the service is deleted. Orphan: it keeps running at its
    present size. Delete: it is deleted too, in mode Auto, but not when the CRD itself goes. Unset: Orphan."""
    pod_template: PodTemplate | None = None
    """Overlay merged over the pod template that Ebbtide builds (JSON merge patch; containers by name).
    Unset: nothing is overlaid."""


class Capacity(ApiModel):
    """A measurement of one replica, as the starting point until live load says more."""

    requests_per_second: Rate
    """Requests per second that one replica was measured to carry inside the objectives, as a decimal string above 0
    and up to 100000, such as "4.5". Required."""
    input_tokens: Annotated[int, Field(ge=1, le=10000000)]
    """Mean prompt tokens a request in that measurement, 1 to 10000000. Required."""
    output_tokens: Annotated[int, Field(ge=1, le=10000000)]
    """Mean output tokens a request in that measurement, 1 to 10000000. Required."""


_VARIANT_RULES = rules(
    rule(
        "has(self.scaleTargetRef) != has(self.engine)",
        "needs exactly one of scaleTargetRef (a workload you have) and engine (Ebbtide builds the Deployment)",
        say=filled(
            "variant %s has %s of scaleTargetRef (a workload you have) and engine (Ebbtide builds the Deployment): "
            "give exactly one",
            "self.name",
            "has(self.engine) ? 'both' : 'neither'",
        ),
    ),
    # below 0 the maximum is what is wrong, and its own bound says so
    rule(
        "self.maxReplicas < 0 || self.minReplicas <= self.maxReplicas",
        "minReplicas must be at most maxReplicas",
        say=filled(
            "minReplicas %d of variant %s must be at most its maxReplicas %d",
            "self.minReplicas",
            "self.name",
            "self.maxReplicas",
        ),
        field=".minReplicas",
    ),
    rule(
        "!self.degraded || self.minReplicas <= 0",
        "a degraded variant needs minReplicas 0: it runs only while money or room is short",
        say=filled(
            "degraded variant %s needs minReplicas 0, because it runs only while money or room is short; got %d",
            "self.name",
            "self.minReplicas",
        ),
        field=".minReplicas",
    ),
    # the Deployment that was built, or the user's own workload, would be left behind with nobody to scale it
    rule(
        "has(self.engine) == has(oldSelf.engine)",
        "cannot change between scaleTargetRef and engine: add a variant of another name, then remove this one",
        say=filled(
            "variant %s cannot change from %s to the other of scaleTargetRef and engine: add a variant of another "
            "name, then remove this one",
            "self.name",
            "has(oldSelf.engine) ? 'engine' : 'scaleTargetRef'",
        ),
    ),
)


class Variant(ApiModel, json_schema_extra=_VARIANT_RULES):
    """One way to run the service: a scale target on one pool."""

    name: VariantName
    """Name of the variant, unique in the service; up to 40 lower-case letters, digits and -. Required."""
    pool: ObjectName
    """Name of the GPUPool on which this variant's replicas run, up to 253 characters; it gives their price and their
    limits. Required."""
    scale_target_ref: ScaleTargetRef | None = None
    """The workload you have, whose replicas Ebbtide sets. Exactly one of scaleTargetRef and engine; which of the two
    cannot change afterwards. Unset: engine is used."""
    engine: Engine | None = None
    """What Ebbtide builds a Deployment named SERVICE-VARIANT from. Exactly one of scaleTargetRef and engine; which of
    the two cannot change afterwards. Unset: scaleTargetRef is used."""
    gpus_per_replica: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs of one replica, 1 to 1024. Unset: 1 for an engine block; for a target the sum in its pod template."""
    min_replicas: Annotated[int, Field(ge=0)] = 0
    """Fewest replicas of this variant, 0 to maxReplicas. Unset: 0."""
    max_replicas: Annotated[int, Field(ge=0, le=MOST_REPLICAS)] = 100
    """Most replicas of this variant, 0 to 10000 and at least minReplicas; 0 takes it out of use. Unset: 100."""
    capacity: Capacity | None = None
    """What one replica was measured to carry. Unset: estimated from model.parameters and the pool's accelerator."""
    degraded: bool = False
    """A cheaper stand-in of lower quality, such as a quantised or a smaller model: true gives it replicas only while
    the other variants find no room, or a CostPolicy no money for them; they come back once there is. Of a smaller
    model declare capacity too, which is estimated from model.parameters else. Needs minReplicas 0, and another variant
    that is not degraded. Unset: false."""
