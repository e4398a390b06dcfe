"""The pod template overlay of an engine block: what a user adds to the pods that Ebbtide builds.

Its `spec` is the Kubernetes PodSpec of whatever version the cluster has, so it is not described again here: the API
server checks the merged Deployment. Must never grow fields of our own.
"""

from typing import Annotated, Any

from pydantic import Field

from ebbtide.api.fields import LABEL_KEYS, ApiModel, LabelValue


class PodTemplateMetadata(ApiModel):
    """Labels and annotations of the pods."""

    labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=64, json_schema_extra=LABEL_KEYS)
    """Labels added to the pods, up to 64 with keys of up to 317 and values of up to 63 characters. Those that Ebbtide
    sets win. Unset: none."""
    annotations: dict[str, Annotated[str, Field(max_length=16384)]] = Field(
        default_factory=dict, max_length=64, json_schema_extra=LABEL_KEYS
    )
    """Annotations added to the pods, up to 64 with keys of up to 317 and values of up to 16384 characters.
    Unset: none."""


class PodTemplate(ApiModel):
    """An overlay: only what is written here differs from what Ebbtide builds."""

    metadata: PodTemplateMetadata | None = None
    """Labels and annotations added to the pods. Unset: only those that Ebbtide sets."""
    spec: dict[str, Any] = Field(
        default_factory=dict, max_length=64, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Fields of a Kubernetes PodSpec, up to 64: volumes, tolerations, secrets and the like. Unset: none."""
