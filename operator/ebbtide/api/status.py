"""What the statuses of both kinds share: conditions, as every Kubernetes tool reads them.

Positive polarity: True is good. Must never carry a `phase`.
"""

from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import ApiModel, keyed_by
from ebbtide.model.plan import ConditionStatus

Count = Annotated[int, Field(ge=0)]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Message = Annotated[str, Field(max_length=1024)]
ReasonCode = Annotated[str, Field(max_length=64)]


class ConditionModel(ApiModel):
    """One aspect of the object's state."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """Aspect that this is about, such as Ready; unique in the list."""
    status: ConditionStatus
    """True, False or Unknown. True is good."""
    reason: Annotated[str, Field(max_length=64, pattern="^[A-Z][A-Za-z0-9]*$")]
    """Why, as one CamelCase word of the published catalogue."""
    message: Message
    """Why, as one sentence with the numbers, up to 1024 characters."""
    last_transition_time: Timestamp
    """When status last changed, as RFC 3339."""
    observed_generation: Count | None = None
    """Value of metadata.generation that this was decided on. Unset: not known."""


Conditions = Annotated[tuple[ConditionModel, ...], Field(max_length=24, json_schema_extra=keyed_by("type"))]
