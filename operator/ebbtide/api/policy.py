"""CostPolicy: what inference may cost, by the hour, day and month; cluster-scoped. What is written, and how it stands.

Must never let a ceiling be crossed by what cannot be read: a policy without a readable ceiling raises nothing.
"""

from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import (
    LABEL_KEYS,
    Amount,
    ApiModel,
    Ceiling,
    LabelValue,
    Moment,
    NamespaceName,
    TimeZone,
    Worth,
    constant,
    duration,
    keyed_by,
    matching,
    rule,
    rules,
    unique,
)
from ebbtide.api.status import Conditions, Count, Message, ReasonCode, Timestamp
from ebbtide.model.spec import (
    CalendarPeriod,
    CeilingKind,
    ExternalScale,
    Floor,
    OverrunCause,
    Pacing,
    PolicyScope,
    ThresholdAction,
    ThresholdBasis,
)

MOST_RESERVE = "24h"
_ONE_CEILING = rule(
    "has(self.perHour) || has(self.perDay) || has(self.perMonth)", "needs one of perHour, perDay and perMonth"
)
_CEILINGS = ("perHour", "perDay", "perMonth")
_NO_LABELS = rule(
    "!has(self.scope) || self.scope != 'AllGPUPods' || !has(self.selector) || !has(self.selector.matchLabels) "
    "|| self.selector.matchLabels.size() == 0",
    "is for scope Managed: the GPU pods of others are selected by namespaces alone",
    field=".selector.matchLabels",
)


_OF_A_CEILING = rule(
    "!has(self.thresholds) || self.thresholds.all(t, t.period == 'Day' ? has(self.ceilings.perDay) "
    ": has(self.ceilings.perMonth))",
    "each needs the ceiling of its period: perDay for Day, perMonth for Month",
    field=".thresholds",
)
_PACED = rule(
    "!has(self.pacing) || self.pacing != 'Smooth' || has(self.ceilings.perDay) || has(self.ceilings.perMonth)",
    "Smooth needs a ceiling perDay or perMonth whose money it spreads",
    field=".pacing",
)


class Selector(ApiModel):
    """Which inference services fall under the policy."""

    namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=256, json_schema_extra=unique())] = ()
    """Namespaces, up to 256 with names of up to 63 characters. Unset: all."""
    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16, json_schema_extra=LABEL_KEYS)] = Field({})
    """Labels that the services carry, up to 16 with keys of up to 317 and values of up to 63 characters; all must
    match. Unset: services with any labels."""


class ExchangeRate(ApiModel):
    """What a pool's currency is worth in the policy's."""

    currency: Annotated[
        str,
        matching("^[A-Z]*$", 3, "must be the three capital letters of an ISO 4217 currency, such as EUR"),
        Field(min_length=3),
    ]
    """ISO 4217 code of the other currency, 3 capital letters such as EUR. Required."""
    rate: Worth
    """What one unit of it is worth in the policy's currency, as a decimal string above 0 and up to 1000000000, such as
    "1.08". Required."""


class Ceilings(ApiModel, json_schema_extra=rules(_ONE_CEILING)):
    """At least one of perHour, perDay and perMonth; all of them hold."""

    per_hour: Ceiling | None = None
    """What all that is selected may cost an hour at any moment, in currency, as a decimal string above 0 and up to
    1000000000, such as "120". Unset: no such ceiling."""
    per_day: Ceiling | None = None
    """What a calendar day in timeZone may cost in currency, as a decimal string above 0 and up to 1000000000. Unset:
    no such ceiling."""
    per_month: Ceiling | None = None
    """What a month in timeZone may cost in currency, as a decimal string above 0 and up to 1000000000. Unset: no such
    ceiling."""


class TemporaryRaise(ApiModel, json_schema_extra=rules(_ONE_CEILING)):
    """More money for a while, said by somebody: at least one of perHour, perDay and perMonth."""

    per_hour: Ceiling | None = None
    """What the ceiling perHour is raised by in currency, as a decimal string above 0 and up to 1000000000. Unset: not
    raised."""
    per_day: Ceiling | None = None
    """What the ceiling perDay is raised by in currency, as a decimal string above 0 and up to 1000000000. Unset: not
    raised."""
    per_month: Ceiling | None = None
    """What the ceiling perMonth is raised by in currency, as a decimal string above 0 and up to 1000000000. Unset: not
    raised."""
    until: Moment
    """When it ends by itself, as RFC 3339 such as 2026-12-24T18:00:00Z. What was spent under it stays spent; in the
    last outageReserve before it replicas go that could not be paid for afterwards. Required."""
    by: Annotated[str, Field(min_length=1, max_length=128)]
    """Who raised it, 1 to 128 characters. Required."""
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """Why, 1 to 256 characters. Required."""


class Threshold(ApiModel):
    """At how much of a ceiling something happens; once a period, until it ends or the ceiling is raised."""

    period: CalendarPeriod
    """Day or Month: of perDay or perMonth. Required."""
    at_percent: Annotated[int, Field(ge=1, le=1000)]
    """Percent of the ceiling, 1 to 1000. Required."""
    basis: ThresholdBasis = ThresholdBasis.SPENT
    """What is compared with it. Spent: what was spent since the period began. Forecast: what it will have cost by its
    end if all that is wanted runs from now on; what acts upon it ends once the forecast is 5 % lower. Unset: Spent."""
    actions: Annotated[tuple[ThresholdAction, ...], Field(min_length=1, max_length=6, json_schema_extra=unique())]
    """What happens, 1 to 6. Notify: an Event, and a line in status. UseDegraded: services move to their degraded
    variants where these are cheaper. HoldScaleUp: nothing is raised above its declared minimum, degraded variants
    included, and no batch Job is started. LimitLowPriority: services with a priority below 100, the default, fall to
    their declared minimums. SuspendBatch: services of serviceClass Background have no replicas; of a policy with scope
    AllGPUPods, batch Jobs that say that they are restartable are stopped, and none is started. Freeze: nothing is
    raised, minimums included, and no batch Job is started. Required."""


_RAISED = rule(
    "!has(self.temporaryRaise) || ("
    + " && ".join(f"(!has(self.temporaryRaise.{each}) || has(self.ceilings.{each}))" for each in _CEILINGS)
    + ")",
    "can only raise a ceiling that there is",
    field=".temporaryRaise",
)


_OTHER_CURRENCIES = rule(
    "!has(self.exchangeRates) || self.exchangeRates.all(each, each.currency != self.currency)",
    "are for other currencies: what one unit of the policy's own is worth is 1",
    field=".exchangeRates",
)


class CostPolicySpec(ApiModel, json_schema_extra=rules(_NO_LABELS, _RAISED, _OF_A_CEILING, _PACED, _OTHER_CURRENCIES)):
    """What may be spent, and on what."""

    selector: Selector = Selector()
    """Which inference services fall under the policy; of several policies that select one, all hold. Unset: all."""
    scope: PolicyScope = PolicyScope.MANAGED
    """Managed: pods of the selected services, each with the GPUs that it holds; of nodes that come and go and are paid
    whole (pools with provisioning Autoscaled and billing Node, but for Reserved and OnPrem) also the GPUs that nobody
    holds, shared with others on the node by the GPUs that each holds, and of a node that was left for up to an hour by
    those who left it last. As neighbours leave a share becomes more: periods hold that back, perHour counts it then.
    AllGPUPods: the GPU pods of others in the namespaces as well, and without namespaces all GPUs of nodes that nobody
    holds; Ebbtide cannot reduce these, so they are paid first. Unset: Managed."""
    outage_reserve: Annotated[str, duration("0s", MOST_RESERVE, "15m or 1h")] = "15m"
    """For how long what runs must stay payable, as a duration from 0s to 24h: as long may the operator be down without
    a ceiling being crossed. A longer one holds back more money until the end of a period. Unset: 15m."""
    currency: Annotated[
        str,
        matching(
            "^[A-Z]*$",
            3,
            "must be the three capital letters of an ISO 4217 currency, such as USD",
            constant("spend was recorded in the old one: make another policy"),
        ),
        Field(min_length=3),
    ]
    """ISO 4217 code of the ceilings, 3 capital letters such as USD. Cannot change afterwards. Required."""
    exchange_rates: Annotated[
        tuple[ExchangeRate, ...], Field(max_length=16, json_schema_extra=keyed_by("currency"))
    ] = ()
    """What other currencies are worth in currency, up to 16, unique by currency; currency itself is none of them. A
    changed rate holds for what is spent from then on; the ledger keeps none, so what was spent by one is never lowered
    to what it knows. Unset: the price of a pool in another currency is unknown here."""
    ceilings: Ceilings
    """What may be spent. Required."""
    temporary_raise: TemporaryRaise | None = None
    """More money for a while. Unset: the ceilings hold as they are."""
    time_zone: TimeZone = "UTC"
    """Name of an IANA time zone in which days and months begin, such as UTC or Europe/Berlin, up to 64 characters.
    Unset: UTC."""
    month_starts_on: Annotated[int, Field(ge=1, le=28)] = 1
    """Day on which months begin, 1 to 28. Unset: 1."""
    floor: Floor = Floor.KEEP_MIN
    """KeepMin: declared minimums run whatever they cost, and are paid first. AllowZero: a ceiling may take them too.
    Unset: KeepMin."""
    thresholds: Annotated[
        tuple[Threshold, ...], Field(max_length=16, json_schema_extra=keyed_by("period", "basis", "atPercent"))
    ] = ()
    """What happens at which share of a ceiling, up to 16, unique by period, basis and atPercent. Unset: nothing but
    what the ceilings do."""
    pacing: Pacing = Pacing.NONE
    """Smooth: the rate is held to what lasts to the end of the period with the demand that is forecast by weekday and
    hour, so that no money is gone on the 20th; what the highest priorities will want is kept for them. None: nothing
    but the ceilings. Unset: None."""
    on_external_scale: ExternalScale = ExternalScale.COMPENSATE
    """Who gives way where somebody else scales a target up and a ceiling binds. Compensate: what matters least, as
    always. Correct: what was raised. Unset: Compensate."""


class ForecastStatus(ApiModel):
    """What a period will have cost by its end, in the policy's currency. expected, low, high and exceededAt are of all
    that is wanted, as if no ceiling held."""

    expected: Amount
    """In the middle, in the currency, as a decimal string."""
    low: Amount
    """In one of ten cases less, in the currency, as a decimal string."""
    high: Amount
    """In one of ten cases more, in the currency, as a decimal string."""
    under_ceilings: Amount | None = None
    """What it will have cost under the policy's ceilings, in the currency, as a decimal string: at most the period's
    own, in no hour more than perHour, in a month in no day more than perDay; and nowhere less than what may not be
    reduced. Unset: not worked out yet."""
    exceeded_at: Timestamp | None = None
    """When the expected course reaches the ceiling, as RFC 3339. Unset: not before the end."""


class UnpricedStatus(ApiModel):
    """What ran in a pool while nobody knew its price in the policy's currency."""

    pool: Annotated[str, Field(max_length=253)]
    """Name of the pool; empty: nodes that are in no pool."""
    gpu_hours: Annotated[Amount, Field(alias="gpuHours")]
    """GPUs times hours, as a decimal string."""


class PeriodStatus(ApiModel):
    """One ceiling and where it stands. Money is in the policy's currency."""

    period: CeilingKind
    """Hour, a rate at any moment; Day or Month."""
    begin: Timestamp | None = None
    """When the period began, as RFC 3339. Unset: an hour's rate has no beginning."""
    end: Timestamp | None = None
    """When it ends, as RFC 3339. Unset: an hour's rate has no end."""
    ceiling: Amount
    """What may be spent in the currency, as a decimal string."""
    spent: Amount
    """What was spent up to accruedThrough in the currency, as a decimal string; of Hour what is spent an hour now. What
    ran at an unknown price is not in it: see unpricedGPUHours, and of Hour unpricedGPUs."""
    committed: Amount
    """What is bound beyond that in the currency, as a decimal string: minimums to the end of the period, what runs and
    what was allowed for outageReserve."""
    left: Amount
    """What is left for more in the currency, as a decimal string; 0 where nothing is."""
    unpriced_gpu_hours: Annotated[Amount | None, Field(alias="unpricedGPUHours")] = None
    """GPUs times hours that ran while nobody knew their price in the currency, as a decimal string. They are in spent
    as soon as a price is known, at that price. Unset: none."""
    unpriced: Annotated[tuple[UnpricedStatus, ...], Field(max_length=16, json_schema_extra=keyed_by("pool"))] | None = (
        None
    )
    """The same by pool, unique by pool, up to 16. Unset: none."""
    forecast: ForecastStatus | None = None
    """What the period will have cost by its end. Unset: of Hour, and before something was seen."""


class ReachedStatus(ApiModel):
    """A threshold that was reached in the present period."""

    period: CalendarPeriod
    """Day or Month."""
    basis: ThresholdBasis
    """Spent or Forecast."""
    at_percent: Count
    """Percent of the ceiling."""
    begin: Timestamp
    """When the period began, as RFC 3339."""
    reached_at: Timestamp
    """When it was reached, as RFC 3339."""
    acting: bool
    """Whether its actions hold now."""


class NextThreshold(ApiModel):
    """The threshold that is reached next."""

    period: CalendarPeriod
    """Day or Month."""
    basis: ThresholdBasis
    """Spent or Forecast."""
    at_percent: Count
    """Percent of the ceiling."""
    missing: Amount
    """What is missing to it in the currency, as a decimal string."""


class ScoreStatus(ApiModel):
    """How good forecasts of what is wanted in the next 24 hours were."""

    days: Count
    """Days that were forecast and then seen to their end, up to 30."""
    mean_error_percent: Count
    """By how many percent of what came they were off in the mean, as a whole number."""
    in_range_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """How many percent of the days cost between low and high, as a whole number: 80 is right. Unset: not known."""


class OverrunStatus(ApiModel):
    """By how much one cause takes the policy over one of its ceilings."""

    period: CeilingKind
    """Hour, a rate at any moment; Day or Month."""
    cause: OverrunCause
    """OperatorDown: nothing was decided for longer than outageReserve, a cycle and the exit of a pod. Uncontrollable:
    what may not be reduced, or could not be in time. CeilingBelowSpent: more had been spent when the ceiling was set to
    what it is. Recounted: more was spent than was known; a selector, a price or the ledger says so."""
    amount: Amount
    """What it comes to by the period's end in the currency, as a decimal string; of Hour an hour. At least: of what has
    run for less than outageReserve only that long is counted, so a forecast beside it may say more."""
    begin: Timestamp | None = None
    """When the period began, as RFC 3339. Unset: an hour's rate has no beginning."""
    since: Timestamp
    """Since when, as RFC 3339: of OperatorDown when something was decided last, else when it was seen first."""
    seen_at: Timestamp
    """When it was last seen to grow, as RFC 3339: of OperatorDown when the operator was back."""


class GaveWay(ApiModel):
    """A service that has fewer replicas than it would have without the policy."""

    service: Annotated[str, Field(max_length=320)]
    """Namespace and name of the InferenceService."""
    replicas: Count
    """Replicas that it has to do without."""


class PacedStatus(ApiModel):
    """Services of one priority that pacing holds back."""

    priority: Annotated[int, Field(ge=0, le=1000)]
    """The lowest that is meant; all up to the next one that is listed, or that is not held back, are meant too."""
    allowed_per_hour: Amount
    """What they may cost an hour now, together, as a decimal string in the policy's currency."""


class LastRead(ApiModel):
    """The newest spec that Ebbtide could read."""

    generation: Count
    """Its metadata.generation. Required."""
    spec: Annotated[str, Field(max_length=8192)]
    """It, as JSON of up to 8192 characters. Required."""


class CostPolicyStatus(ApiModel):
    """Where the money stands."""

    observed_generation: Count | None = None
    """Value of metadata.generation that this was decided on. Unset: not looked at yet."""
    conditions: Conditions | None = None
    """Aspects of the state, up to 24, unique by type; Ready sums them up. Unset: not looked at yet."""
    reason: ReasonCode | None = None
    """Why the condition Ready is as it is, as one word. Unset: not looked at yet."""
    message: Message | None = None
    """The same in a sentence with the numbers, up to 1024 characters. Unset: not looked at yet."""
    accrued_through: Timestamp | None = None
    """Until when what was spent is counted, as RFC 3339. Unset: nothing is counted yet."""
    periods: Annotated[tuple[PeriodStatus, ...], Field(max_length=6, json_schema_extra=keyed_by("period"))] | None = (
        None
    )
    """Each ceiling, unique by period. Unset: not looked at yet."""
    services: Count | None = None
    """Inference services that fall under it. Unset: not looked at yet."""
    rate_per_hour: Amount | None = None
    """What is spent an hour now in the currency, as a decimal string; without unpricedGPUs. Unset: not looked at yet,
    or GPUs run and of none is the price known."""
    wanted_per_hour: Amount | None = None
    """What the services would cost an hour in the currency without the policy, as a decimal string; without
    unpricedGPUs. Unset: as ratePerHour."""
    allowed_per_hour: Amount | None = None
    """What may be spent an hour now in the currency, as a decimal string: the rate to which pacing holds, or perHour
    where that is less. Unset: neither holds."""
    paced_priorities: (
        Annotated[tuple[PacedStatus, ...], Field(max_length=8, json_schema_extra=keyed_by("priority"))] | None
    ) = None
    """Priorities that pacing holds back, unique by priority: money is kept for the demand of the higher ones until the
    period's end. Unset: all that is wanted lasts, or pacing is None."""
    forecast_score: ScoreStatus | None = None
    """How good the forecasts of cost were. Unset: none has been seen to its end."""
    thresholds: (
        Annotated[
            tuple[ReachedStatus, ...], Field(max_length=16, json_schema_extra=keyed_by("period", "basis", "atPercent"))
        ]
        | None
    ) = None
    """Thresholds that were reached in the present periods, unique by period, basis and atPercent. Unset: none."""
    next_threshold: NextThreshold | None = None
    """The threshold to which least is missing. Unset: none is left."""
    uncontrollable_per_hour: Amount | None = None
    """What of the present rate in the currency Ebbtide may not reduce, as a decimal string: minimums under KeepMin,
    services that are not in mode Auto, paused or in conflict, and others' pods; without unpricedGPUs. Unset: as
    ratePerHour."""
    overrun_cause: OverrunCause | None = None
    """Why the first ceiling that is crossed, or will be by the end of its period, is: the cause that comes to most; all
    are in overruns. Unset: none is."""
    overruns: (
        Annotated[tuple[OverrunStatus, ...], Field(max_length=12, json_schema_extra=keyed_by("period", "cause"))] | None
    ) = None
    """What takes the policy over its ceilings, unique by period and cause; kept until the period ends or the ceiling is
    above it. Unset: nothing does."""
    unpriced_gpus: Annotated[Count | None, Field(alias="unpricedGPUs")] = None
    """GPUs in use whose price is not known in the policy's currency, those on nodes of no pool included: their cost is
    missing above until it is known. Unset: none."""
    last_read: LastRead | None = None
    """The newest spec that could be read. Where a later one cannot, its ceilings go on to hold, also after a restart.
    Unset: none could be read, or it is longer than 8192 characters."""
    gave_way: Annotated[tuple[GaveWay, ...], Field(max_length=20, json_schema_extra=keyed_by("service"))] | None = None
    """Up to 20 services that do without replicas because of the policy, those that miss most first. Unset: none."""


class CostPolicy(ApiModel):
    """What inference may cost, by the hour, day and month, for the services that it selects."""

    spec: CostPolicySpec
    """What may be spent, and on what; written by people. Required."""
    status: CostPolicyStatus | None = None
    """Where the money stands; written by Ebbtide alone. Unset: not looked at yet."""
