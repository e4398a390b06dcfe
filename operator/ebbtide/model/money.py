"""What money is computed from: prices over time, periods, and what ran. Amounts are `Decimal`, times unix seconds."""

from decimal import Decimal

from ebbtide.model.spec import Alternative, Billing, PolicyScope, PolicySpec, Price, ServiceSpec, Spec

TEAM = "team"
BATCH = "Job"  # as variant of a payer without a service: its pods are batch


class PriceStep(Spec, frozen=True):
    """From `at_s` on a GPU of the pool costs this for an hour; None: nobody knows."""

    at_s: float
    per_gpu_hour: Decimal | None


class Listed(Spec, frozen=True):
    """What a source of prices says; `per_gpu_hour` None: it has none, and `why` continues "the Table ..."."""

    per_gpu_hour: Decimal | None
    currency: str = ""  # empty: that of the pool
    why: str = ""
    next_at: float | None = None  # when it will be another, as far as the source knows
    next_per_gpu_hour: Decimal | None = None
    later: tuple[PriceStep, ...] = ()  # after that, ascending


class Period(Spec, frozen=True):
    """A day or a month, [start_s, end_s)."""

    kind: str  # Day or Month
    start_s: float
    end_s: float


class Payer(Spec, frozen=True, order=True):
    """What a lifetime's cost is put down to. Empty: it is none of that.

    Labels are those of the service that the operator is told to keep; of somebody else's pod its own. One that is
    called `team` has a field of its own, as in ledgers that knew no other. One more label makes no row longer and no
    row more: payers are numbered, and their
    text is kept once (twice with its index), as long as the ledger. With 22,000 payers (10,000 services) a label of 30
    characters are 1.3 MB. A value that changes makes a new payer, whose rows begin then.
    """

    pool: str
    namespace: str = ""
    service: str = ""  # of the InferenceService that the pod runs for; empty: somebody else's pod
    variant: str = ""
    model: str = ""
    team: str = ""
    labels: tuple[tuple[str, str], ...] = ()  # the others, sorted

    @property
    def is_batch(self) -> bool:
        """Whether it is somebody else's pod, and a Job's."""
        return not self.service and self.variant == BATCH

    @property
    def all_labels(self) -> dict[str, str]:
        """Every label that is kept, by name."""
        return {**({TEAM: self.team} if self.team else {}), **dict(self.labels)}


def payer_of(service: ServiceSpec, variant: str = "", pool: str = "") -> Payer:
    """Of a service's variant in a pool; without these, of the service as a whole."""
    labels = dict(service.cost_labels)
    team = labels.pop(TEAM, "")
    return Payer(pool, service.namespace, service.name, variant, service.model_name, team, tuple(labels.items()))


def payer_of_others(namespace: str, labels: tuple[tuple[str, str], ...], pool: str = "", *, batch: bool) -> Payer:
    """Of pods that are no service's. `labels`: those that are kept, sorted."""
    named = dict(labels)
    team = named.pop(TEAM, "")
    return Payer(pool, namespace, "", BATCH if batch else "", "", team, tuple(named.items()))


class Lifetime(Spec, frozen=True):
    """Something that is billed: a pod that holds GPUs, or a node. Times are whole unix seconds, [begin_s, end_s).

    `end_s` None: it still runs. Between `seen_s`, when it surely ran, and `end_s` nobody watched where `estimated` says
    so; the later moment counts.
    """

    uid: str
    payer: Payer
    gpus: int
    begin_s: int
    seen_s: int
    end_s: int | None = None
    node: str = ""  # uid of the node that the pod is on; a node's own uid is its `uid`
    is_node: bool = False
    estimated: bool = False


class PriceRecord(Spec, frozen=True):
    """How a pool's time is priced from `from_s` (unix seconds) on, and billed from when this became known.

    A pool's first record is of all time. One that holds from before it was seen takes the place of what was known then;
    the records of that stay, so that it can be told what was thought when.
    """

    pool: str
    from_s: int
    price: Price | None
    billing: Billing = Billing.POD
    listed: Listed | None = None  # what the price's source said, where it has one
    seen_s: int = 0  # when that became known; 0: at `from_s`
    refused: str = ""  # why it does not hold from when the price says
    shares_idle: bool = False  # billed by node, and those who run on a node pay for what nobody holds of it

    @property
    def known_s(self) -> int:
        """When it became known: no two of a pool did at once."""
        return self.seen_s or self.from_s


class HourRow(Spec, frozen=True, order=True):
    """GPU-seconds of one hour (unix seconds of its beginning) for one payer at one price.

    `idle`: GPUs of nodes that no pod held; `payer` is then who pays for them, of a pool alone where nobody does.
    `price` None: nobody knows what they cost. `estimated_s` of them nobody saw.
    `length_s`: of time of which days are kept it is a whole day, and of several hours that were added up all of them.
    """

    hour_s: int
    payer: Payer
    idle: bool
    price: Decimal | None
    currency: str
    gpu_seconds: int
    estimated_s: int = 0
    length_s: int = 3600

    @property
    def cost(self) -> Decimal | None:
        """In `currency`; None where the price is unknown."""
        return None if self.price is None else self.price * self.gpu_seconds / 3600


class Hole(Spec, frozen=True):
    """Something of [from_s, to_s), whole unix seconds, is not in the ledger, or is there by a guess; `why` in words."""

    from_s: int
    to_s: int
    why: str


class PolicyRecord(Spec, frozen=True):
    """What a CostPolicy selects from `from_s` (unix seconds) on, until its next record; `gone`: there is none now.

    Fields of its own, as in PolicySpec: that one changes with the plan, and a ledger is read for years.
    """

    name: str
    from_s: int
    currency: str
    namespaces: tuple[str, ...] = ()
    match_labels: tuple[tuple[str, str], ...] = ()
    scope: PolicyScope = PolicyScope.MANAGED
    gone: bool = False

    @property
    def spec(self) -> PolicySpec:
        """With what decides who pays, and nothing else."""
        return PolicySpec(self.name, "", 0, self.currency, (), self.namespaces, self.match_labels, self.scope)


class LabelsRecord(Spec, frozen=True):
    """Labels of a service (namespace/name) from `from_s` (unix seconds) on: those by which any policy selects."""

    service: str
    from_s: int
    labels: tuple[tuple[str, str], ...] = ()


class OfferRecord(Spec, frozen=True):
    """What a service (namespace/name) says that an API would charge, from `from_s` (unix seconds) on; None: nothing."""

    service: str
    from_s: int
    offer: Alternative | None = None


Selection = PolicyRecord | LabelsRecord | OfferRecord  # what people declared, and since when


class UsageRow(Spec, frozen=True, order=True):
    """What was seen of one payer's work in one hour (unix seconds of its beginning). What was not seen is in no count.

    Of time of which days are kept it is a whole day.

    A service has a row without pool and variant too, of the time in which it was watched, with or without pods.
    """

    hour_s: int
    payer: Payer
    input_tokens: int = 0
    output_tokens: int = 0
    seen_gpu_s: int = 0  # GPU-seconds whose tokens are in it, of those that are billed
    rated_gpu_s: int = 0  # of these, those of which it is known how much of what a replica carries was used
    used_gpu_s: int = 0  # GPU-seconds that the same work takes on full replicas
    weighed_tokens: int = 0  # input tokens while it was known how much work one makes, and
    weighed_work: int = 0  # the output tokens that make as much work as these
    watched_s: int = 0  # of a service
    acting_s: int = 0  # of a service: watched in mode Auto
    held_gpu_s: int = 0  # GPU-seconds while the service was in Recommend, and
    advised_gpu_s: int = 0  # those that were recommended for the same time
    compared_s: int = 0  # of a service: in mode Auto, while it was known what an HPA would have run, and
    ran_gpu_s: int = 0  # GPU-seconds held in that time, and
    hpa_gpu_s: int = 0  # those that an HPA would have held (see money.hpa)
