"""GPUPool: nodes of one GPU type, price and way of buying; cluster-scoped. What is written, and what Ebbtide sees.

Must never guess a price: a pool without one runs what it runs and is not scaled up.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import (
    DECIMAL_PATTERN,
    LABEL_KEYS,
    QUALIFIED_WITH_DOMAIN,
    ApiModel,
    Capital,
    Cron,
    Decimal,
    Electricity,
    LabelValue,
    Moment,
    Money,
    QualifiedName,
    TimeZone,
    constant,
    decimal,
    duration,
    matching,
    quantity,
    rule,
    rules,
)
from ebbtide.api.status import Conditions, Count, Timestamp
from ebbtide.model.spec import Billing, CapacityType, Provisioning

MOST_YEARS = "30"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TaintMatch(ApiModel):
    """Taints of one key."""

    key: QualifiedName
    """Key of the taint, such as nvidia.com/gpu, up to 317 characters. Required."""
    value: LabelValue | None = None
    """Value of the taint, up to 63 characters. Unset: every value."""
    effect: TaintEffect | None = None
    """Effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. Unset: every effect."""


class Window(ApiModel):
    """Certain hours of the week."""

    cron: Cron
    """When the window opens, as five cron fields in timeZone, up to 100 characters, such as "0 22 * * *". Required."""
    time_zone: TimeZone
    """Name of an IANA time zone in which cron is meant, such as UTC or Europe/Berlin, up to 64 characters. Required."""
    duration: Annotated[str, duration("1m", "168h", "8h or 1h30m")]
    """How long the window stays open, as a duration from 1m to 168h, across midnight too. Required."""


class PriceWindow(Window):
    """A price for certain hours."""

    per_gpu_hour: Annotated[Money, Field(alias="perGPUHour")]
    """Price of one GPU for an hour inside the window in the currency of the pool, as a decimal string above 0 and up to
    10000. Required."""


class ElectricityWindow(Window):
    """A price of electricity for certain hours."""

    per_kwh: Annotated[Electricity, Field(alias="perKWh")]
    """Price of a kWh inside the window in the currency of the pool, as a decimal string above 0 and up to 100.
    Required."""


_WINDOWS = {"x-kubernetes-list-type": "atomic"}


class ElectricityPrice(ApiModel):
    """What a kWh costs."""

    per_kwh: Annotated[Electricity, Field(alias="perKWh")]
    """Price of a kWh outside every window in the currency of the pool, as a decimal string above 0 and up to 100, such
    as "0.21". Required."""
    schedule: Annotated[tuple[ElectricityWindow, ...], Field(max_length=24, json_schema_extra=_WINDOWS)] = ()
    """Windows with a price of their own, up to 24; where two overlap the first in the list wins. Unset: the price never
    changes."""


class OnPrem(ApiModel):
    """GPUs that were bought: an hour costs what is written off in it, and the electricity."""

    capital_per_gpu: Annotated[Capital, Field(alias="capitalPerGPU")]
    """What one GPU cost with its share of server, network and building, in the currency of the pool, as a decimal
    string above 0 and up to 10000000, such as "32000". Required."""
    amortisation_years: Annotated[str, decimal("0", MOST_YEARS, "such as 4 or 3.5")]
    """Over how many years (of 8766 hours) that is written off in equal parts, as a decimal string above 0 and up to 30.
    Required."""
    watts_per_gpu: Annotated[int, Field(ge=0, le=100000, alias="wattsPerGPU")]
    """Power that one GPU draws with its share of the server, in watts, 0 to 100000, such as 1000. Required."""
    power_usage_effectiveness: Annotated[
        str,
        quantity(
            DECIMAL_PATTERN,
            8,
            "must be a decimal string from 1 to 5, such as 1.3",
            "double(self) >= 1.0 && double(self) <= 5.0",
        ),
    ] = "1.3"
    """What the building draws for each watt that servers draw, that watt included, as a decimal string from 1 to 5.
    Unset: "1.3"."""
    electricity: ElectricityPrice
    """What a kWh costs. Required."""


class PriceSourceType(StrEnum):
    """Where prices come from that no pool says."""

    TABLE = "Table"
    OPEN_COST = "OpenCost"


class PriceSource(ApiModel):
    """A price that is kept elsewhere."""

    type: PriceSourceType
    """Table: the row of item in the CSV file that the operator's --price-table names. OpenCost: the highest price among
    the pool's nodes as OpenCost's metric node_gpu_hourly_cost says. Required."""
    item: (
        Annotated[
            str,
            matching(
                "^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
                253,
                "must be the item of a row: letters, digits, . _ : / and -, starting with a letter or digit",
            ),
        ]
        | None
    ) = None
    """Item of the table's row, up to 253 characters, such as p5.48xlarge-spot. Unset: none, as OpenCost needs none."""


_WAYS = "[has(self.perGPUHour), has(self.onPrem), has(self.source), has(self.free)]"
_ONE_WAY = rule(
    f"{_WAYS}.filter(way, way).size() == 1",
    "needs exactly one of perGPUHour, onPrem, source and free",
)
_OWN_SCHEDULE = rule(
    "!has(self.schedule) || self.schedule.size() == 0 || has(self.perGPUHour)",
    "is for perGPUHour; the electricity of onPrem has a schedule of its own",
    field=".schedule",
)
_TABLE_ITEM = rule(
    "!has(self.source) || self.source.type != 'Table' || has(self.source.item)",
    "is needed with type Table",
    field=".source.item",
)
_NO_SOURCE = rule(
    "!has(self.effectiveFrom) || !has(self.source)",
    "is for prices that are said here; rows of a table have an effective_from of their own",
    field=".effectiveFrom",
)
# what stays from an edit of last month would put down today's price to the time since then
_OF_THIS_EDIT = rule(
    "!has(self.effectiveFrom) || !has(oldSelf.effectiveFrom) || self.effectiveFrom != oldSelf.effectiveFrom "
    "|| self == oldSelf",
    "is that of the price before: remove it, so that the new price holds from now on, or say from when on it does",
    field=".effectiveFrom",
)
_PRICE_RULES = rules(_ONE_WAY, _OWN_SCHEDULE, _TABLE_ITEM, _NO_SOURCE, _OF_THIS_EDIT)


class Price(ApiModel, json_schema_extra=_PRICE_RULES):
    """What the pool's GPUs cost: exactly one of perGPUHour, onPrem, source and free."""

    per_gpu_hour: Annotated[Money | None, Field(alias="perGPUHour")] = None
    """Price of one GPU for an hour outside every window in currency, as a decimal string above 0 and up to 10000,
    such as "2.50". Unset: the price is said by onPrem, source or free."""
    on_prem: OnPrem | None = None
    """GPUs that were bought: their price is computed. Unset: they were not."""
    source: PriceSource | None = None
    """The price is kept elsewhere. Unset: it is said here."""
    free: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Why the GPUs cost nothing, 1 to 253 characters, such as "paid by the grant of 2026". Unset: they cost something,
    and a price of 0 is refused."""
    currency: Annotated[
        str,
        # spend that was recorded in one currency cannot be added to spend in another
        matching(
            "^[A-Z]*$",
            3,
            "must be the three capital letters of an ISO 4217 currency, such as USD",
            constant("spend was recorded in the old one: make another pool"),
        ),
        Field(min_length=3),
    ]
    """ISO 4217 code of the price, 3 capital letters such as USD. A change is refused: make another pool. Where price is
    removed and set anew in another one, what was spent stays in the old, and is never added to the new. Required."""
    schedule: Annotated[tuple[PriceWindow, ...], Field(max_length=24, json_schema_extra=_WINDOWS)] = ()
    """Windows with a price of their own, up to 24; where two overlap the first in the list wins. Unset: the price never
    changes."""
    effective_from: Moment | None = None
    """From when on this price holds, as RFC 3339, such as 2026-12-01T00:00:00Z, where an edit corrects what was paid
    since: cost is worked out again from then on, and CostPolicies' spend with it. A moment that has not come, or of
    which the ledger keeps no lifetimes any more (62 days), changes nothing: the price holds from when it is seen, and
    Ready says so. Later edits need another one, or none. Unset: the price holds from when it is seen."""


class Limits(ApiModel):
    """How large the pool may become."""

    max_gpus: Annotated[int, Field(ge=0, le=1000000, alias="maxGPUs")]
    """Most GPUs that Ebbtide plans with in this pool, 0 to 1000000; 0 stops every scale-up in it. Lowered below what
    runs, services give the rest back at once, whatever their delays, but for one replica without scaleToZero. Required.
    """


class GPUPoolSpec(ApiModel):
    """Which nodes form the pool, and what they cost."""

    provisioning: Provisioning = Provisioning.STATIC
    """Static: the GPUs of the nodes that exist. Autoscaled: nodes come when pods wait for them, up to limits.maxGPUs.
    Unset: Static."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """How the GPUs are bought: OnDemand, Spot, Reserved or OnPrem; shown in tables and in the metric ebbtide_pool_info.
    Of a service with variants on Spot pools and on others, as much runs on the others as its objective cannot miss when
    the Spot pool goes, by losses as measured; these are declared by interruptionTaints. Unset: OnDemand."""
    node_selector: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16, json_schema_extra=LABEL_KEYS)]
    """Labels that the pool's nodes carry, 1 to 16 with keys of up to 317 and values of up to 63 characters; all must
    match. A node that matches several pools counts in each of them, so select by labels that tell them apart.
    Required."""
    resource: Annotated[
        str,
        # limits, prices and every variant's gpusPerReplica are counted in it
        matching(
            QUALIFIED_WITH_DOMAIN,
            317,
            "must be the extended resource of a GPU, with its domain, such as nvidia.com/gpu or amd.com/gpu",
            constant("limits and prices are counted in the old one: make another pool"),
        ),
    ] = "nvidia.com/gpu"
    """Extended resource that counts as one GPU, such as nvidia.com/gpu or amd.com/gpu, up to 317 characters. Cannot
    change afterwards. Unset: nvidia.com/gpu."""
    accelerator: (
        Annotated[
            str,
            matching(
                "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
                63,
                "must be the name of a GPU such as H100-80GB: letters, digits, -, _ and .",
            ),
        ]
        | None
    ) = None
    """Name of the GPU, such as H100-80GB, L40S or A100-80GB, for the first estimate of what a replica carries; up to 63
    characters. Unset: that estimate is conservative until load has been observed."""
    tolerations: Annotated[
        tuple[TaintMatch, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Taints that the pool's nodes carry by design, up to 16; pods that Ebbtide builds tolerate them. Unset: none."""
    interruption_taints: Annotated[
        tuple[TaintMatch, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Taints that announce the end of a node, up to 16; a node with one stops counting as capacity at once.
    Unset: none."""
    price: Price | None = None
    """What the GPUs cost. Unset: the price is unknown, and nothing is scaled up in this pool."""
    billing: Billing | None = None
    """What is paid for: Node, the nodes from their creation until they are gone, the GPUs that no pod holds as idle
    cost, which those who run on the node pay where provisioning is Autoscaled, but for Reserved and OnPrem; or Pod, the
    GPUs that pods hold from binding until they are gone. Unset: Pod where capacityType is OnPrem, else Node."""
    limits: Limits | None = None
    """How large the pool may become. Unset: no limit beyond what exists (Static) or comes (Autoscaled)."""
    node_lead_time: Annotated[str, duration("0s", "24h", "90s or 4m")] = "4m"
    """Time from a waiting pod to a node that is ready for it, as a duration from 0s to 24h, until it has been measured.
    Unset: 4m."""


class GPUStatus(ApiModel):
    """The pool's GPUs."""

    total: Count
    """GPUs of the pool's ready nodes."""
    allocated: Count
    """GPUs that pods on them have requested."""
    free: Count
    """GPUs that are left."""


class NextPriceChange(ApiModel):
    """The next change of price that the schedule makes."""

    at: Timestamp
    """When, as RFC 3339."""
    price_per_gpu_hour: Annotated[Decimal, Field(alias="pricePerGPUHour")]
    """Price of one GPU for an hour from then on in the pool's currency, as a decimal string."""


class LastPrice(ApiModel):
    """What the source of the price said last."""

    per_gpu_hour: Annotated[Decimal, Field(alias="perGPUHour")]
    """Price of one GPU for an hour in currency, as a decimal string. Required."""
    currency: Annotated[str, Field(max_length=3)]
    """ISO 4217 code of the price. Required."""


class GPUPoolStatus(ApiModel):
    """What Ebbtide sees of the pool."""

    observed_generation: Count | None = None
    """Value of metadata.generation that this was decided on. Unset: not looked at yet."""
    conditions: Conditions | None = None
    """Aspects of the state, up to 24, unique by type; Ready sums them up. Unset: not looked at yet."""
    nodes: Count | None = None
    """Nodes in the pool. Unset: not looked at yet."""
    gpus: GPUStatus | None = None
    """GPUs in the pool. Unset: not looked at yet."""
    price_per_gpu_hour: Annotated[Decimal | None, Field(alias="pricePerGPUHour")] = None
    """Price of one GPU for an hour at present, as a decimal string in currency. Unset: unknown."""
    currency: Annotated[str, Field(max_length=3)] | None = None
    """ISO 4217 code of the price. Unset: the price is unknown."""
    last_price: LastPrice | None = None
    """What spec.price.source said last: while it is silent, also after a restart, what runs is counted at this price
    and nothing is raised. Unset: it never said one, or the price has no source.
    """
    next_price_change: NextPriceChange | None = None
    """The next change of price. Unset: the price does not change."""
    lead_time_seconds: Count | None = None
    """Median time in which nodes came, in seconds, as measured. Unset: none came yet."""
    release_time_seconds: Count | None = None
    """How long nodes stay after their last pod with GPUs has gone, in seconds, up to 3600: nine of ten go sooner.
    CostPolicies that pay for nodes reserve it. Unset: none went yet (900 is reserved), or they stay anyway."""


class GPUPool(ApiModel):
    """Nodes of one GPU type, price and way of buying, on which variants of inference services run."""

    spec: GPUPoolSpec
    """Which nodes form the pool, and what they cost; written by people. Required."""
    status: GPUPoolStatus | None = None
    """What Ebbtide sees of the pool; written by Ebbtide alone. Unset: not looked at yet."""
