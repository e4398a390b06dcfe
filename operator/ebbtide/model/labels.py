"""The labels by which Ebbtide knows the objects that it built, and nobody else's."""

from ebbtide.model.spec import ServiceSpec, VariantSpec

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "ebbtide"
SERVICE_LABEL = "ebbtide.dev/service"
VARIANT_LABEL = "ebbtide.dev/variant"
# of an InferenceService, set by its owner: whom its cost is put down to, unless the operator is told other ones
COST_LABELS = ("team", "owner", "department", "product", "environment")


def identity_labels(service: ServiceSpec, variant: VariantSpec) -> dict[str, str]:
    """Those of a variant's Deployment: by all of them together it is Ebbtide's, for this service and this variant."""
    return {MANAGED_BY: MANAGER, SERVICE_LABEL: service.name, VARIANT_LABEL: variant.name}
