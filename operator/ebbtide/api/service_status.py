"""InferenceService, the part that Ebbtide writes: what it saw, wants, allows, and why.

Numbers are integers or decimal strings, with the unit in the name. The bounds keep an object within 16 KiB.
"""

from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import Amount, ApiModel, Decimal, keyed_by
from ebbtide.api.status import Conditions, Count, Message, ReasonCode, Timestamp

Name = Annotated[str, Field(max_length=64)]
PolicyName = Annotated[str, Field(max_length=253)]


class ReplicasStatus(ApiModel):
    """Replicas over all variants."""

    observed: Count
    """Replicas that the targets ask for now."""
    ready: Count
    """Replicas that are ready to serve."""
    wanted: Count
    """Replicas that would meet the objectives at the lowest cost within pools and maximums, before delays, rates,
    pause and spec.scaling.minReplicas."""
    allowed: Count
    """Replicas that bounds, delays, rates and pause make of wanted: fewer, or more where a minimum or a delay keeps
    them. In Auto this is what is written; what is declared now, where nothing may be written."""


class CapacityStatus(ApiModel):
    """What one ready replica carries beside those of the other variants."""

    requests_per_second: Decimal
    """Requests per second inside the objectives, as a decimal string. Less than a replica could carry alone where the
    service's requests are spread evenly over unlike variants, or where all hold the same number of them."""
    low: Decimal | None = None
    """Low end of the range that it lies in with a belief of 95 %, in requests per second, as a decimal string. Unset:
    not known."""
    high: Decimal | None = None
    """High end of that range in requests per second, as a decimal string. Unset: not known."""
    source: Name
    """Where the number comes from: observed, declared, table; assumed where the GPU or the model's size is unknown."""
    evidence: Annotated[str, Field(max_length=512)]
    """The numbers it was derived from, in words, up to 512 characters."""


class VariantStatus(ApiModel):
    """One variant now."""

    name: Name
    """Name of the variant."""
    observed: Count
    """Replicas that the target asks for now."""
    ready: Count
    """Replicas that are ready to serve."""
    starting: Count
    """Replicas that are starting and will serve."""
    wanted: Count
    """Replicas that would meet the objectives at the lowest cost within pools and maximums, before delays, rates,
    pause and spec.scaling.minReplicas."""
    allowed: Count
    """Replicas that bounds, delays, rates and pause make of wanted: fewer, or more where a minimum or a delay keeps
    them."""
    degraded: bool | None = None
    """True of a variant that is declared a stand-in: its replicas run only while money or room is short. Unset: it is
    none."""
    limited_by: ReasonCode | None = None
    """The limit that makes allowed differ from wanted, or that keeps wanted or a declared minimum from being reached.
    Unset: none does."""
    limited_by_policy: PolicyName | None = None
    """The CostPolicy that limitedBy means: of several that refuse a replica the one with the least left, beside what
    the replica takes. Unset: limitedBy is no policy's."""
    payable: Count | None = None
    """The most replicas that every CostPolicy of the service can pay just now, up to maxReplicas, with the other
    variants and services as planned: as many as allowed (in Off and Recommend as observed), and more where money is
    left. The admission policy refuses more. Unset: no CostPolicy selects the service, or a replica holds no GPUs."""
    payable_because: Annotated[str, Field(max_length=320)] | None = None
    """Why no more are payable, up to 320 characters: the CostPolicy with the least left, its rate, the money left,
    and the moment at which that was so. Rewritten with other changes only. Unset: payable is unset too."""
    capacity: CapacityStatus | None = None
    """What one replica carries. Unset: not known yet."""
    startup_seconds: Count | None = None
    """Median time from creation to ready of this variant's replicas, in seconds, as measured. Unset: none seen yet."""


class DemandStatus(ApiModel):
    """What the service is asked for now."""

    requests_per_second: Decimal
    """Requests that arrive per second, as a decimal string."""
    input_tokens: Count
    """Mean prompt tokens a request."""
    output_tokens: Count
    """Mean output tokens a request."""
    backlog: Count
    """Requests that wait at the replicas and at the gateway."""


class ForecastScoreStatus(ApiModel):
    """How good the forecasts of about the last day were, judged by what came."""

    errors: Count
    """Independent errors that it rests on: one for each horizonSeconds seconds. Under 20 say little."""
    coverage: Decimal
    """Share of what came that lay between low and high, as a decimal string: 0.95 is 95 percent, and right."""
    bias: Decimal
    """What was expected over what came, as a decimal string: 1.05 is 5 percent too much."""
    pinball_low: Decimal
    """Pinball loss of low, the 2.5 percent quantile, over what came, as a decimal string: the less the better."""
    pinball_median: Decimal
    """The same of the median: 0.03 is a mean absolute error of 6 percent."""
    pinball_high: Decimal
    """The same of high, the 97.5 percent quantile."""


class ForecastStatus(ApiModel):
    """What the service will be asked for when a replica started now would be ready."""

    horizon_seconds: Count
    """How far ahead, in seconds."""
    expected: Decimal
    """Work expected, in requests per second of the mean length, as a decimal string."""
    low: Decimal
    """Lower end of the range that is to hold 95 percent of what comes, in the same unit."""
    high: Decimal
    """Upper end of the range that is to hold 95 percent of what comes, in the same unit."""
    method: Name
    """Which forecaster leads by its record, such as trend or level since a change; prior without a record."""
    requests_per_second: Decimal | None = None
    """Requests per second of any length that make this work, as a decimal string."""
    input_tokens_per_second: Decimal | None = None
    """Prompt tokens per second that make this work, as a decimal string."""
    output_tokens_per_second: Decimal | None = None
    """Output tokens per second that make this work, as a decimal string."""
    score: ForecastScoreStatus | None = None
    """How good such forecasts were. Unset: none is due yet."""


class TokenPricesStatus(ApiModel):
    """What tokens cost on one basis; input and output tokens share the cost by the work that they make."""

    per_million_input_tokens: Amount | None = None
    """Money for a million prompt tokens, as a decimal string in the currency beside. Unset: unknown."""
    per_million_output_tokens: Amount | None = None
    """Money for a million output tokens, as a decimal string in the currency beside. Unset: unknown."""


class MonthToDateStatus(ApiModel):
    """What the service's GPUs have cost in this calendar month of UTC, as the ledger counts it."""

    amount: Amount
    """Money, as a decimal string in currency: whole seconds of GPUs held, at the prices of the time."""
    currency: Annotated[str, Field(max_length=3)]
    """ISO 4217 code of the amount."""
    from_: Annotated[Timestamp, Field(alias="from")]
    """From when on it is counted, as RFC 3339: the beginning of the month, or of the ledger where that is later."""
    through: Timestamp
    """Up to when it is counted, as RFC 3339."""


class CostStatus(ApiModel):
    """What the service costs. The two bases are never mixed: what lies between them is the idle share."""

    currency: Annotated[str, Field(max_length=3)] | None = None
    """ISO 4217 code of the money here, but for monthToDate, which says its own. Unset: a price is unknown."""
    per_hour: Amount | None = None
    """What the GPUs that its pods hold cost an hour at present prices, as a decimal string. Unset: a price is
    unknown."""
    idle_share: Decimal | None = None
    """Share of perHour that is paid for capacity that nobody asks for now, 0 to 1 as a decimal string: 0.25 is 25
    percent. Unset: unknown."""
    allocation: TokenPricesStatus | None = None
    """All of perHour for the tokens that come and go now; adds up to the bill. Unset: unknown."""
    usage: TokenPricesStatus | None = None
    """What of perHour full replicas would cost for the same tokens; for comparing models and GPUs. Unset: unknown."""
    month_to_date: MonthToDateStatus | None = None
    """What it has cost this month. Unset: unknown, of part of it too."""


class AlternativeStatus(ApiModel):
    """The service beside spec.alternative: from which load on it is cheaper, and where it stands now."""

    message: Annotated[str, Field(max_length=512)]
    """The comparison as one sentence with the numbers, up to 512 characters."""
    currency: Annotated[str, Field(max_length=3)]
    """ISO 4217 code of the money here."""
    per_hour: Amount | None = None
    """What the API would charge an hour for the tokens that come and go now, as a decimal string in currency; beside
    cost.perHour. Unset: unknown."""
    tokens_per_day: Count | None = None
    """Input and output tokens a day at the present pace. Unset: unknown."""
    break_even_tokens_per_day: Count | None = None
    """Input and output tokens a day from which on the replicas that there are cost less than the API. Unset:
    unknown."""
    utilisation: Decimal | None = None
    """How much of the tokens that all replicas paid for carry inside the objectives come and go now, 0 to 1 as a
    decimal string. Unset: unknown."""
    break_even_utilisation: Decimal | None = None
    """The utilisation from which on self-hosting is cheaper, as a decimal string; above 1 it is not even with full
    replicas, whatever tokens come. Unset: unknown."""
    pay_back_days: Count | None = None
    """Days after which the GPUs of pools with price.onPrem, bought new, are paid back by what the API would have
    charged, at the present pace. Unset: there are none, unknown, or not in a hundred years."""


class DecisionStatus(ApiModel):
    """One decision that changed something."""

    at: Timestamp
    """When, as RFC 3339."""
    id: Annotated[str, Field(max_length=128)]
    """Name of the recorded decision, for `ebbtide replay --decision`."""
    reason: ReasonCode
    """Why, as one CamelCase word of the published catalogue."""
    message: Annotated[str, Field(max_length=512)]
    """Why, as one sentence with the numbers, up to 512 characters."""
    from_: Annotated[int, Field(ge=0, alias="from")]
    """Replicas over all variants before."""
    to: Count
    """Replicas over all variants after."""


class InferenceServiceStatus(ApiModel):
    """What Ebbtide saw and decided."""

    observed_generation: Count | None = None
    """Value of metadata.generation that this was decided on. Unset: not looked at yet."""
    conditions: Conditions | None = None
    """Aspects of the state, up to 24, unique by type; Ready sums them up. Unset: not looked at yet."""
    replicas: ReplicasStatus | None = None
    """Replicas over all variants. Unset: not looked at yet."""
    variants: Annotated[tuple[VariantStatus, ...], Field(max_length=16, json_schema_extra=keyed_by("name"))] | None = (
        None
    )
    """Each variant now, up to 16, unique by name. Unset: not looked at yet."""
    demand: DemandStatus | None = None
    """What the service is asked for now. Unset: unknown."""
    forecast: ForecastStatus | None = None
    """What it will be asked for. Unset: unknown."""
    spend_per_hour: Decimal | None = None
    """What its replicas cost an hour at present prices, as a decimal string in currency. Unset: a price is unknown."""
    currency: Annotated[str, Field(max_length=3)] | None = None
    """ISO 4217 code of the money above. Unset: a price is unknown."""
    cost: CostStatus | None = None
    """What it and its tokens cost, as of the last write: along with what else changes, and at most once an hour where
    only monthToDate does, by 10 percent. Unset: unknown."""
    alternative: AlternativeStatus | None = None
    """The service beside spec.alternative, as of the last write. Unset: none is declared."""
    reason: ReasonCode | None = None
    """What decided, as one CamelCase word of the published catalogue. Unset: not looked at yet."""
    message: Message | None = None
    """What decided, as one sentence with the numbers, up to 1024 characters. Unset: not looked at yet."""
    decisions: (
        Annotated[
            tuple[DecisionStatus, ...], Field(max_length=10, json_schema_extra={"x-kubernetes-list-type": "atomic"})
        ]
        | None
    ) = None
    """The last decisions that changed something, newest first, up to 10. Unset: none yet."""
