"""What each reason means, where it stands and what to do about it: the words of `docs/reference/reasons.md`.

Data only. Must never say what a code decides by in numbers that live elsewhere: the text of each reason has those.
"""

from collections.abc import Mapping

from ebbtide.model.reasons import Code
from ebbtide.model.spec import Spec

DECISION = "decision"  # status.reason, status.decisions and the Events of moves
DEPLOYMENT = "deployment"  # an Event on Ebbtide's own Deployment, for what concerns every service
POLICY = "policy"  # an Event on the CostPolicy
JOB = "job"  # why a batch Job waits, runs or is left alone: an Event on it
_MOVE = (DECISION,)
_LENT = (DECISION, "Limited", "GPUsLent")  # of a Background service
_HELD = (DECISION, "Limited")
_FAILING = (DECISION, "Limited", "Ready")
_UNMEASURED = (DECISION, "Limited", "MetricsFresh", "Ready")
_FAULT = (DECISION, "TargetResolved", "Ready", "Acting", "Limited")


class Entry(Spec, frozen=True):
    """One reason in words. `where`: one of the constants above, or a condition type; `GPUPool.Ready` of a pool."""

    where: tuple[str, ...]
    meaning: str
    fix: str


_STEADY = {
    Code.WITHIN_TARGET: Entry(_MOVE, "What runs carries what is expected.", "Nothing."),
    Code.NO_LOAD_SEEN: Entry(
        _MOVE,
        "No request has arrived since Ebbtide began to watch, or none waits for a service that is at zero.",
        "Nothing; if requests are sent, look whether they reach these pods or this gateway.",
    ),
    Code.NOTHING_RUNS: Entry(
        (DECISION, "Limited", "MetricsFresh", "TrafficBalanced"),
        "No pod is ready, so there is nothing to measure and nothing is lowered.",
        "Nothing while pods start; else `kubectl describe` them.",
    ),
}

_MOVES = {
    Code.DEMAND_ROSE: Entry(
        _MOVE,
        "More replicas: what is expected by the time a new one is ready exceeds what runs can carry.",
        "Nothing. `spec.scaling.up` sets how soon and how fast.",
    ),
    Code.DEMAND_FELL: Entry(
        _MOVE,
        "Fewer replicas: the rest carries what is expected.",
        "Nothing. `spec.scaling.down` sets how late and how fast.",
    ),
    Code.CHEAPER_MIX: Entry(
        _MOVE,
        "Replicas move to another variant that carries the same load for less.",
        "Nothing. A variant's own `spec.variants[].minReplicas` keeps it up.",
    ),
    Code.USES_DEGRADED: Entry(
        (DECISION, "Degraded", "Limited"),
        "Variants declared degraded serve, or are about to: the others find no room, or a CostPolicy has no money for "
        "them. That comes before services of lower priority lose replicas.",
        "The text says what is short. Add GPUs to the pool, raise `spec.ceilings` of the policy, or take "
        "`spec.variants[].degraded` away from what may always serve.",
    ),
    Code.LEAVES_DEGRADED: Entry(
        (DECISION, "Degraded"),
        "There is room and money again: degraded variants go once the others are ready.",
        "Nothing; if it stays, the text of the decision says what holds the others back.",
    ),
    Code.FIRST_REQUEST: Entry(_MOVE, "From zero to the first replica: the gateway holds requests.", "Nothing."),
    Code.IDLE: Entry(
        _MOVE,
        "To zero: no request for `spec.scaling.scaleToZero.after`.",
        "Nothing. Without `spec.scaling.scaleToZero` one replica stays.",
    ),
    Code.BELOW_MINIMUM: Entry(
        _MOVE, "Raised to a declared minimum.", "Nothing. The minimum is `spec.scaling.minReplicas` or a variant's own."
    ),
    Code.ABOVE_MAXIMUM: Entry(
        _MOVE, "Lowered to the declared maximum.", "Nothing. The maximum is `spec.scaling.maxReplicas`."
    ),
    Code.INTERRUPTION: Entry(
        _MOVE,
        "Nodes are about to be taken away: their replicas are replaced.",
        "Nothing. If there is no room elsewhere, give the service a variant on another pool.",
    ),
    Code.GIVES_WAY: Entry(
        _MOVE,
        "Fewer replicas: the pool no longer has the GPUs, or a service of higher priority needs them.",
        "Raise `spec.priority`, add GPUs to the pool, or a variant on another pool.",
    ),
}

_WAITING = {
    Code.DOWN_DELAY: Entry(
        _HELD, "Fewer would do, but more were wanted a short while ago.", "Nothing. See `spec.scaling.down.delay`."
    ),
    Code.UP_DELAY: Entry(
        _HELD, "More are wanted, but not for long enough yet.", "Nothing. See `spec.scaling.up.delay`."
    ),
    Code.RATE_LIMITED: Entry(
        _HELD,
        "It moves as fast as it may within a minute.",
        "Nothing. See `spec.scaling.up.maxPerMinute` and `spec.scaling.down.maxPerMinute`.",
    ),
    Code.PODS_STARTING: Entry(
        (DECISION, "Limited", "MetricsFresh"),
        "Pods are starting, or became ready so lately that they have no rates yet.",
        "Nothing; if it stays, `kubectl describe` the pods. `status.variants[].startupSeconds` is what is usual.",
    ),
    Code.ROLLOUT_IN_PROGRESS: Entry(
        _HELD,
        "The target is replacing its pods; none of its replicas are removed meanwhile.",
        "Nothing; if it stays, `kubectl rollout status`.",
    ),
    Code.WARMING_UP: Entry(
        _HELD,
        "Ebbtide has not watched for long enough, or all replicas are too young, to know what they carry.",
        "Nothing; it passes within `spec.scaling.down.delay`, a minute at least.",
    ),
    Code.KEEPS_COVER: Entry(
        _HELD,
        "Those that are to go stay until what replaces them is ready: the rest could not carry the load. "
        "Where `maxReplicas` leaves no room for both, they are exchanged one for one.",
        "Nothing.",
    ),
    Code.REQUESTS_NOT_SEEN_ZERO: Entry(
        _HELD,
        "The last replica stays: traffic was not seen to be zero for `spec.scaling.scaleToZero.after`.",
        "Nothing; if it never passes, something still sends requests.",
    ),
}

_LIMITS = {
    Code.AT_MAXIMUM: Entry(
        _HELD,
        "A declared maximum binds: more are needed than may run.",
        "Raise `spec.scaling.maxReplicas` or the variant's `spec.variants[].maxReplicas`.",
    ),
    Code.AT_MINIMUM: Entry(
        _HELD,
        "A declared minimum binds: fewer would do.",
        "Lower `spec.scaling.minReplicas` or `spec.variants[].minReplicas`; zero needs `spec.scaling.scaleToZero`.",
    ),
    Code.POOL_FULL: Entry(
        _HELD,
        "No node of the pool has room for another replica, within the pool's limits.",
        "Add nodes, raise the pool's `spec.limits.maxGPUs`, or add a variant on another pool.",
    ),
    Code.POOL_BACKING_OFF: Entry(
        (DECISION, "Limited", "GPUPool.NodesComing"),
        "Pods waited, and no node came to the pool in time; it is tried again later.",
        "Look at the node autoscaler and at the cloud's quota. `spec.nodeLeadTime` is how long a node may take.",
    ),
    Code.PRICE_UNKNOWN: Entry(
        (
            DECISION,
            "Limited",
            "PricesKnown",
            "Ready",
            "GPUPool.PricesKnown",
            "CostPolicy.PricesKnown",
            "CostPolicy.Ready",
            "CostPolicy.WithinCeilings",
            "CostPolicy.LedgerAgrees",
        ),
        "A pool has no price, or the service's pools have different currencies: no scale-up. Of a CostPolicy: GPUs in "
        "use, or some that ran in a period (`status.periods[].unpricedGPUHours`), have no price that is known in "
        "its currency, or are on nodes of no pool; the text names them. What they cost is in no amount, so it is not "
        "known whether ceilings hold.",
        "Set the pool's `spec.price`, with one currency for all pools of a service; of nodes in no pool, make a pool "
        "that selects them. What ran before is paid late at the first price that is known, or as `effectiveFrom` says.",
    ),
    Code.LEDGER_CURRENT: Entry(("GPUPool.LedgerCurrent",), "What ran in the pool is in the ledger.", "Nothing."),
    Code.LEDGER_BEHIND: Entry(
        ("GPUPool.LedgerCurrent", DEPLOYMENT),
        "The ledger could not be written for a while: reports lack what ran since. It is counted and written later, as "
        "far as memory is given to it; ceilings hold without the ledger.",
        "Look at the database that `--ledger` names, or at the room of the operator's volume.",
    ),
    Code.DATA_SET_ASIDE: Entry(
        (DEPLOYMENT,),
        "A database of Ebbtide's own was damaged or not its own: it was moved aside under another name, and what it "
        "held is not used. Without its memory Ebbtide watches anew before it lowers anything; a ledger begins anew.",
        "Look at the volume of `--data-dir`. The text has the new name of the file; delete it once it is looked at.",
    ),
    Code.CLOCK_STEPPED: Entry(
        (DEPLOYMENT,),
        "The clock of the operator's machine was set while it ran, and the API server's did not go the same way: it "
        "is not followed, so that no period of a ceiling begins or ends by it.",
        "Correct the clock of the machine that the text means; where it is right, restart the operator.",
    ),
    Code.EFFECTIVE_FROM_REFUSED: Entry(
        ("GPUPool.Ready",),
        "The price of a pool does not hold from `spec.price.effectiveFrom`, which has not come or is too long ago.",
        "Remove it, or name a moment of which lifetimes are kept; coming prices belong into `spec.price.schedule`.",
    ),
    Code.GPUS_UNKNOWN: Entry(
        (*_FAULT, "PricesKnown"),
        "How many GPUs a replica takes is neither declared nor in the pod template: no scale-up.",
        "Set `spec.variants[].gpusPerReplica`, or the container's resource limits.",
    ),
    Code.QUOTA_REFUSED: Entry(
        _FAILING,
        "A ResourceQuota or an admission webhook refused the pods; other variants get the demand.",
        "Raise the quota, or lower the variant's `spec.variants[].maxReplicas` to what it allows.",
    ),
    Code.PODS_MISSING: Entry(
        _FAILING,
        "Declared replicas of the variant have had no pod for 30 s; they do not count, and others get the demand. "
        "Most often a ResourceQuota or an admission webhook refuses them: only a Deployment says so in its status.",
        "`kubectl describe` the target: its Events name who refuses the pods. Raise the quota, or lower the variant's "
        "`spec.variants[].maxReplicas` to what it allows. A paused Deployment starts none: `kubectl rollout resume`.",
    ),
    Code.UNSCHEDULABLE: Entry(
        _FAILING,
        "The scheduler finds no node for pods of the variant; other variants get the demand.",
        "The message quotes the scheduler: mend selectors and tolerations, or add nodes.",
    ),
    Code.CRASH_LOOPING: Entry(
        _FAILING,
        "Pods of the variant crash again and again; other variants get the demand.",
        "`kubectl logs --previous` of the pod that the message names.",
    ),
    Code.STARTUP_OVERDUE: Entry(
        _FAILING,
        "Pods of the variant have been starting for far longer than start-ups take (four times the longest seen, at "
        "least 15 minutes; one hour before any was seen); they do not count, and other variants get the demand.",
        "`kubectl logs` of the pod that the message names: a download that hangs, or a readiness probe that never "
        "passes. It counts again as soon as it is ready.",
    ),
    Code.NOT_ANSWERING: Entry(
        (DECISION, "Ready"),
        "Pods that served do not answer: not ready for 30 s, or ready while Prometheus gets no answer from them and "
        "does from others of the same template. They do not count as capacity; others are started beside them.",
        "`kubectl describe` and `kubectl logs` of the pod that the message names. Readiness and liveness probes on "
        "`/health` take a server that hangs out of service and restart it.",
    ),
    Code.SLO_UNATTAINABLE: Entry(
        ("SLOAttainable",),
        "Requests miss an objective even on replicas with little load: more replicas do not help.",
        "Loosen `spec.objectives`, or use a faster accelerator, more GPUs a replica or a smaller model.",
    ),
    Code.CEILING_REACHED: Entry(
        (DECISION, "Limited"),
        "A ceiling of a CostPolicy leaves no money for more replicas, or for those that run.",
        "The text names the policy and what is left. Raise `spec.ceilings` of the policy or `spec.priority` of the "
        "service, or wait for the next period.",
    ),
    Code.CEILING_PACED: Entry(
        (DECISION, "Limited"),
        "A CostPolicy with `pacing: Smooth` holds the rate to what lasts to the end of the period.",
        "The text names the policy, the rate and what is left. Raise the ceiling or `spec.priority` of the service, or "
        "set `pacing: None` to spend the money as it is wanted.",
    ),
    Code.THRESHOLD_REACHED: Entry(
        (DECISION, "Limited"),
        "A share of a ceiling that a CostPolicy names in `spec.thresholds` is spent, or forecast to be.",
        "The text says what acts upon it and until when. Raise the ceiling for a while (`spec.temporaryRaise`), or "
        "edit the threshold's actions.",
    ),
    Code.POLICIES_UNKNOWN: Entry(
        (DECISION, "Limited"),
        "CostPolicies cannot be watched, one cannot be read, or what GPUs under it cost is not known: nobody knows "
        "what is left, so nothing is raised.",
        "Give Ebbtide's ServiceAccount its rights and install the CustomResourceDefinition, or correct the policy or "
        "the price that the text names.",
    ),
}

_POLICIES = {
    Code.WITHIN_CEILINGS: Entry(
        ("CostPolicy.Ready", "CostPolicy.WithinCeilings"),
        "What was spent and what is bound fits under every ceiling.",
        "Nothing.",
    ),
    Code.CEILING_EXCEEDED: Entry(
        ("CostPolicy.WithinCeilings", "CostPolicy.Ready"),
        "What was spent and what may not be reduced come to more than a ceiling by the end of its period. The text and "
        "`status.overruns` say why, by how much and since when. `Uncontrollable`: what may not be reduced (minimums "
        "under `floor: KeepMin`, services not in mode Auto or paused, others' pods). `OperatorDown`: Ebbtide was away "
        "for longer than `spec.outageReserve`, and what ran meanwhile crossed it. `CeilingBelowSpent`: the ceiling was "
        "set to less than what had been spent. `Recounted`: a selector, a price or the ledger says that more was spent "
        "than was known.",
        "Of Uncontrollable raise the ceiling, lower minimums, set `spec.floor` of the policy to AllowZero, or end the "
        "pause. Of OperatorDown find out why the operator was down, run two replicas, or set a longer "
        "`spec.outageReserve`. Else raise the ceiling, or wait for the next period.",
    ),
    Code.PODS_STUCK: Entry(
        (POLICY,),
        "Pods that were told to go are still there half a minute past their grace, mostly because their node answers "
        "no more. They are paid until they are gone, so all that they may cost is reserved to the end of every period.",
        "`kubectl describe` them; delete the node that is gone, or the pods by force once their containers have surely "
        "ended.",
    ),
    Code.LEDGER_AGREES: Entry(
        ("CostPolicy.LedgerAgrees",),
        "What the policy has spent is what the ledger works out of the lifetimes of pods and nodes, to the cent; asked "
        "at the start and once an hour. Where the ledger knows less, and not all that it would take to lower what was "
        "counted (it began later, a price or labels of then are not known), the text says so, and nothing is lowered. "
        "Of a policy that is new, has lost its status, or selects something else now, it says what the ledger added.",
        "Nothing.",
    ),
    Code.LEDGER_MENDED: Entry(
        ("CostPolicy.LedgerAgrees",),
        "What the policy had spent was another amount than the ledger works out of lifetimes, and was set to the "
        "ledger's. The text names each period with the amounts before and after, and when. It stands until the next "
        "comparison, an hour later.",
        "Nothing where a status was edited, services were given other labels, or the operator was away. Else compare "
        "`ebbtide cost --by policy` with what ran, and report it.",
    ),
    Code.SELECTS_NOTHING: Entry(
        ("CostPolicy.Selects", "CostPolicy.Ready"),
        "No InferenceService falls under the policy. Unknown with scope AllGPUPods: no pod that holds GPUs is there "
        "now either, and those that come fall under it.",
        "Correct `spec.selector`, or leave it: services that come later count.",
    ),
    Code.CURRENCY_DIFFERS: Entry(
        ("CostPolicy.PricesKnown", "CostPolicy.Ready"),
        "A pool in use has its price in another currency than the policy: what it costs is not counted, and nothing "
        "under the policy is raised.",
        "Give the pool and the policy the same currency, or name its worth in `spec.exchangeRates`.",
    ),
}

_JOB = (JOB,)
_BATCH = {
    Code.WAITS_FOR_WINDOW: Entry(
        (JOB, "BatchPolicy.Ready", *_LENT),
        "No window of the BatchPolicy is open, and its strategy lets the Job or the Background service run nowhere "
        "else before one opens.",
        "Nothing: the text has the moment. For sooner, widen `spec.windows` or choose another `spec.strategy`.",
    ),
    Code.WAITS_FOR_CHEAPER_HOUR: Entry(
        (JOB, *_LENT),
        "The Job would run now for more than it will cost later, and its deadline leaves the time; or the Background "
        "service would.",
        "Nothing: the text has both prices and the latest start. For sooner, set `ebbtide.dev/deadline` earlier.",
    ),
    Code.WAITS_FOR_GPUS: Entry(
        (JOB, *_LENT),
        "No pool that it may use has the GPUs free: they are taken, or Interactive services may need them before the "
        "Job or the Background service could give them back.",
        "Nothing: the text says when they are expected. Add GPUs or pools (`spec.pools`), or say that the Job may be "
        "stopped (`ebbtide.dev/restartable`): those wait for less.",
    ),
    Code.WAITS_FOR_MONEY: Entry(
        _JOB,
        "A ceiling of a CostPolicy leaves no money for the Job: batch work gives way first and comes back last.",
        "Nothing; it starts once there is money. For sooner, raise the ceiling that the text names.",
    ),
    Code.AT_MAX_GPUS: Entry(
        (JOB, *_LENT),
        "The Jobs and Background services of its BatchPolicy hold as many GPUs as `spec.maxGPUs` allows.",
        "Nothing; it starts when others end. For sooner, raise `spec.maxGPUs`.",
    ),
    Code.FITS_NOWHERE: Entry(
        (JOB, "BatchPolicy.Placeable"),
        "No pool that it may use could ever run it: it asks for more GPUs than there are or than `spec.maxGPUs` "
        "allows, or for nodes of another kind. The text has the term of its nodeSelector, its nodeAffinity or its "
        "tolerations that fits no node.",
        "Lower what the Job asks for, correct its nodeSelector, affinity or tolerations, or allow more (`spec.pools`, "
        "`spec.maxGPUs`; `spec.tolerations` of the GPUPool).",
    ),
    Code.JOBS_FIT: Entry(("BatchPolicy.Placeable",), "Each Job could run on a pool that it may use.", "Nothing."),
    Code.JOB_STARTS: Entry(_JOB, "Ebbtide starts the Job; the text has the pool and the price.", "Nothing."),
    Code.JOB_RUNS: Entry(_JOB, "It runs, and may go on.", "Nothing."),
    Code.JOB_RESIZED: Entry(
        _JOB,
        "An elastic Job (Indexed, completions equal to parallelism) gets fewer pods or more, by what is free.",
        "Nothing.",
    ),
    Code.GIVES_GPUS_BACK: Entry(
        _JOB,
        "A service needs the GPUs, so the Job is stopped; of those that may be, those that lose least go first.",
        "Nothing; it starts again by itself. A Job that must not be stopped says no `ebbtide.dev/restartable`.",
    ),
    Code.STOPPED_FOR_MONEY: Entry(
        _JOB,
        "The Job is stopped because a ceiling of a CostPolicy leaves no money for it.",
        "Nothing; it starts again once there is money. For sooner, raise the ceiling that the text names.",
    ),
    Code.OUTSIDE_WINDOW: Entry(
        _JOB,
        "The window has closed, or GPUs outside of windows are not idle any more: the Job is stopped until the next "
        "opens, or goes on because stopping would cost more or its deadline: the text says which.",
        "Nothing. Longer windows (`spec.windows[].duration`), or IdleOrWindow as `spec.strategy`.",
    ),
    Code.DEADLINE_UNREACHABLE: Entry(
        (JOB, "BatchPolicy.DeadlinesKept"),
        "The Job can't end by its deadline with the confidence that is asked for. It still runs as early as it may.",
        "The text says the earliest end and what would help.",
    ),
    Code.MISSED_FOR_MONEY: Entry(
        (JOB, "BatchPolicy.DeadlinesKept"),
        "The deadline will be missed, or was, only because a ceiling of a CostPolicy leaves no money: a deadline never "
        "breaks a ceiling.",
        "The text has the sum that is lacking. Raise the ceiling, or give the Job a later deadline.",
    ),
    Code.DEADLINE_MISSED: Entry(
        (JOB, "BatchPolicy.DeadlinesKept"),
        "The deadline has passed and the Job has not ended. It still runs as early as it may.",
        "The text says why. A longer deadline, a right `ebbtide.dev/expected-duration`, or more GPUs.",
    ),
    Code.DEADLINES_KEPT: Entry(("BatchPolicy.DeadlinesKept",), "Every Job is expected to end in time.", "Nothing."),
    Code.DURATION_UNKNOWN: Entry(
        _JOB,
        "Nobody knows how long the Job will run, so its latest start cannot be told: it starts as early as it may.",
        "Set `ebbtide.dev/expected-duration` on the Job or `spec.expectedDuration` of its BatchPolicy; later runs of "
        "the same owner are learnt from.",
    ),
    Code.SELECTED_TWICE: Entry(
        (JOB, "BatchPolicy.Undisputed", "BatchPolicy.Ready", *_LENT),
        "Several BatchPolicies select the Job: it stays as it is, and none of them starts or stops it. Or they select "
        "the Background service: none lends to it, so it has no replicas.",
        "Change `spec.selector` of one of those that the text names, or the labels of the Job or the service.",
    ),
    Code.SELECTED_ONCE: Entry(("BatchPolicy.Undisputed",), "No Job is selected by another policy too.", "Nothing."),
    Code.SUSPENDED_BY_USER: Entry(
        _JOB,
        "Somebody suspended the Job after Ebbtide had started it: it stays so until somebody resumes it.",
        '`kubectl patch job NAME --type merge -p \'{"spec":{"suspend":false}}\'` resumes it.',
    ),
    Code.RESUMED_BY_USER: Entry(
        _JOB,
        "Somebody resumed the Job that Ebbtide held: it runs against the plan, its GPUs count, and it is left alone.",
        "Nothing. To give it back to the plan, suspend it and remove its annotation `ebbtide.dev/batch-state`.",
    ),
    Code.STARTED_ANYWAY: Entry(
        _JOB,
        "The Job came without `suspend: true` in its spec, so it ran before Ebbtide saw it. Its GPUs count; it is left "
        "running unless it is restartable.",
        "Submit it with `suspend: true`; `manifests/admission` has policies that demand or add it.",
    ),
    Code.FOREIGN_JOB: Entry(
        _JOB,
        "The Job is Kueue's or another controller's (`managedBy` in its spec): it is never touched; its GPUs count.",
        "Nothing, or take one of the two away: the BatchPolicy's label, or the queue's.",
    ),
    Code.ANNOTATION_INVALID: Entry(
        _JOB,
        "An annotation of the Job cannot be read. It is as if it were not there: the BatchPolicy's default holds.",
        "The text names the annotation, its value and what is allowed; `kubectl annotate --overwrite job`.",
    ),
    Code.BATCH_PAUSED: Entry(
        (JOB, "BatchPolicy.Ready", *_LENT),
        "`spec.paused` of the BatchPolicy is true: its Jobs are neither started nor stopped, and its Background "
        "services are neither raised nor drained.",
        "Set `spec.paused` to false.",
    ),
    Code.GPUS_LENT: Entry(
        ("GPUsLent",),
        "Its BatchPolicy lends GPUs to the Background service just now; it has what its queue needs of them.",
        "Nothing.",
    ),
    Code.NO_BATCH_POLICY: Entry(
        _LENT,
        "No BatchPolicy of its namespace selects the Background service, so no GPUs are lent to it and it has no "
        "replicas.",
        "Give the service a label that the `spec.selector` of one BatchPolicy matches, or set `spec.serviceClass` to "
        "Interactive.",
    ),
    Code.BATCH_POLICIES_UNKNOWN: Entry(
        _LENT,
        "The BatchPolicies of the Background service's namespace cannot be read, so nobody knows what is lent to it: "
        "nothing is raised, and what runs goes on.",
        "The text has the cause: correct the BatchPolicy, or Ebbtide's rights.",
    ),
    Code.JOBS_RUN: Entry(("BatchPolicy.Ready",), "Jobs of the policy run, or all that could start do.", "Nothing."),
    Code.JOBS_WAIT: Entry(
        ("BatchPolicy.Ready",), "Jobs of the policy wait; the text says for what, and until when.", "Nothing."
    ),
    Code.NO_JOBS: Entry(
        ("BatchPolicy.Ready",),
        "No Job that has not ended carries the policy's labels.",
        "Nothing; else compare `spec.selector.matchLabels` with `metadata.labels` of the Jobs in its namespace.",
    ),
}

_DATA = {
    Code.METRICS_MISSING: Entry(
        _UNMEASURED,
        "Ready pods have no usable series: nothing is lowered.",
        "See in Prometheus whether the pods are scraped, and whether series carry the labels `namespace` and `pod`.",
    ),
    Code.METRICS_STALE: Entry(
        (*_UNMEASURED, DEPLOYMENT),
        "The newest readings are too old, so replicas hold. On Ebbtide's Deployment: latency histograms are unread.",
        "See in Prometheus whether the pods are still scraped; `--scrape-staleness` is how old a value may be.",
    ),
    Code.PROMETHEUS_UNREACHABLE: Entry(
        (*_UNMEASURED, DEPLOYMENT),
        "Prometheus does not answer: nothing is lowered anywhere.",
        "See that it runs, and check `--prometheus-url` and the network between them.",
    ),
    Code.CLUSTER_UNREADABLE: Entry(
        (*_UNMEASURED, "Acting", DEPLOYMENT),
        "The API server does not show objects that decisions rest on. What is counted by them lowers nothing; where "
        "another autoscaler, a pause or a switch to Off may be unseen, nothing is written. The message says which.",
        "The message quotes the API server; for missing rights compare with `manifests/rbac.yaml`.",
    ),
    Code.ACTIVATOR_UNSEEN: Entry(
        _HELD,
        "The gateway's queue cannot be read, so nobody would wake the service: one replica stays or is started.",
        "Check `spec.scaling.scaleToZero.activator`: its URL from Ebbtide's pod, its metrics and its labels.",
    ),
    Code.METRICS_FRESH: Entry(("MetricsFresh",), "Every ready pod was read.", "Nothing."),
    Code.CAPACITY_OBSERVED: Entry(
        ("CapacityKnown",), "What a replica carries is known from what replicas do.", "Nothing."
    ),
    Code.CAPACITY_PRIOR: Entry(
        ("CapacityKnown",),
        "What a replica carries comes from the declaration or from a table; load will correct it.",
        "Nothing; `spec.variants[].capacity` makes the start better.",
    ),
    Code.CAPACITY_ASSUMED: Entry(
        ("CapacityKnown",),
        "Accelerator or model size is not known: a cautious default holds until load was seen.",
        "Set the pool's `spec.accelerator` and `spec.model.parameters`, or `spec.variants[].capacity`.",
    ),
    Code.SPREAD_EVENLY: Entry(
        ("TrafficBalanced",),
        "Requests are spread evenly over unlike variants: each replica carries only what the slowest does.",
        "Put a gateway before them that looks at load, or run one variant.",
    ),
    Code.FOLLOWS_CAPACITY: Entry(("TrafficBalanced",), "The faster variant gets more requests.", "Nothing."),
    Code.NOTHING_TO_BALANCE: Entry(
        ("TrafficBalanced",), "One variant serves, or those that run carry about the same.", "Nothing."
    ),
    Code.PRICES_KNOWN: Entry(
        ("PricesKnown", "GPUPool.PricesKnown", "CostPolicy.PricesKnown"), "Every pool has a price.", "Nothing."
    ),
    Code.ATTAINABLE: Entry(("SLOAttainable",), "Nothing seen so far rules the objectives out.", "Nothing."),
    Code.ALL_ADMITTED: Entry(
        ("RequestsAdmitted",), "Engines admit what comes, but for the share that may miss an objective.", "Nothing."
    ),
    Code.REQUESTS_REFUSED: Entry(
        ("RequestsAdmitted",),
        "Engines refuse more requests than may miss an objective, now or within the last 5 minutes: their queues are "
        "bounded. Refused ones count as demand, up to twice what is admitted: who tries again is counted again.",
        "Nothing while replicas start. If `Limited` says that no more may run, raise that limit; if engines refuse "
        "while nearly idle, raise `--max-num-queued-reqs` or `--max-num-queued-tokens`.",
    ),
    Code.KV_CACHE_FULL: Entry(
        ("RequestsAdmitted",),
        "Requests miss an objective, now or within the last 5 minutes, while engines have no KV cache left: requests "
        "wait for memory or are thrown out of it. Memory limits what a replica carries, not compute.",
        "Nothing while replicas start. Fewer do with more memory for the cache: `--gpu-memory-utilization`, "
        "`--kv-cache-dtype` of 8 bits, more GPUs a replica, or no `--num-gpu-blocks-override`.",
    ),
}

_WRITERS = {
    Code.MODE_OFF: Entry(("Acting",), "Mode is Off: nothing is written to the targets.", "Nothing. See `spec.mode`."),
    Code.MODE_RECOMMEND: Entry(
        ("Acting",), "Mode is Recommend: what would be done is said, and nothing written.", "Set `spec.mode` to Auto."
    ),
    Code.ACTING: Entry(("Acting",), "Mode is Auto: targets are scaled.", "Nothing."),
    Code.PAUSED: Entry(
        (DECISION, "Limited", "Paused"),
        "A pause is in force and holds replicas, in one direction or both.",
        "Remove `spec.scaling.pause`, or wait for its `until`.",
    ),
    Code.NOT_PAUSED: Entry(("Paused",), "No pause is in force.", "Nothing."),
    Code.NOT_LIMITED: Entry(("Limited",), "What is wanted is allowed.", "Nothing."),
    Code.NOT_DEGRADED: Entry(("Degraded",), "No degraded variant serves.", "Nothing."),
    Code.TARGET_CONFLICT: Entry(
        (DECISION, "Acting", "Limited", "Ready"),
        "Another controller writes the target's replicas: Ebbtide keeps its hands off.",
        "Remove the rival that the message names; with a GitOps tool, leave `replicas` out of what it applies.",
    ),
    Code.DRIFTED: Entry(
        (DECISION, "Acting", "Limited"),
        "Somebody scaled the target by hand: that is the new starting point, and is left alone for a while.",
        "Nothing; for longer, use `spec.scaling.pause`.",
    ),
    Code.WRITE_REFUSED: Entry(
        (DECISION, "Acting", "TargetResolved", "Ready"),
        "The API server refused a write of Ebbtide's, it failed three times or more in a row, or the object belongs to "
        "somebody else. `Acting`: a scale write. `TargetResolved` and `Ready`: a Deployment, Service or finalizer that "
        "an engine block needs, while what runs is scaled all the same.",
        "The message quotes the API server; for missing rights compare with `manifests/rbac.yaml`, for a webhook that "
        "cannot be called mend or remove it.",
    ),
}

_OWN_FAULTS = {
    Code.PLAN_FAILED: Entry(
        (DECISION, "Ready", "Acting", DEPLOYMENT),
        "A step of the plan failed on the service, by an error of Ebbtide's own: its replicas hold, and the others are "
        "planned. On Ebbtide's Deployment: no plan at all could be made, three cycles in a row.",
        "Please report it with the operator's log, which says where it was raised.",
    ),
}

_CONFIGURATION = {
    Code.RESOLVED: Entry(
        ("TargetResolved", "Ready", "GPUPool.Ready", "GPUPool.NodesComing", "CostPolicy.Selects", "BatchPolicy.Ready"),
        "All that is needed is there.",
        "Nothing.",
    ),
    Code.PENDING: Entry(
        (
            *(*_FAULT, "CapacityKnown", "TrafficBalanced", "PricesKnown", "RequestsAdmitted"),
            *("CostPolicy.WithinCeilings", "CostPolicy.Ready"),
        ),
        "Not looked at yet, or too little seen to tell.",
        "Nothing; it passes.",
    ),
    Code.TARGET_NOT_FOUND: Entry(
        _FAULT,
        "The target, or its kind, does not exist; or it would be built, but the mode is not Auto.",
        "Create it, or correct `spec.variants[].scaleTargetRef`; with an engine block set `spec.mode` to Auto.",
    ),
    Code.TARGET_FOREIGN: Entry(
        _FAULT,
        "A Deployment of the name that an engine block's would have is there, and is not Ebbtide's: it is neither "
        "scaled nor changed, and its pods are not counted. Other variants go on.",
        "Rename the variant, delete the Deployment, or name it in `spec.variants[].scaleTargetRef` instead of the "
        "engine block. The labels in the message are those of what Ebbtide builds.",
    ),
    Code.TARGET_NOT_SCALABLE: Entry(
        _FAULT,
        "The target's kind has no scale subresource.",
        "Name what owns it in `spec.variants[].scaleTargetRef`: a Deployment, StatefulSet or LeaderWorkerSet.",
    ),
    Code.TARGET_UNREADABLE: Entry(
        _FAULT,
        "The API server refuses to show the target or its scale.",
        "Give Ebbtide's account the rights that the message names.",
    ),
    Code.TARGET_SHARED: Entry(
        _FAULT, "Two variants name one target: neither may write.", "Point one of them elsewhere, or delete it."
    ),
    Code.POOL_NOT_FOUND: Entry(
        (*_FAULT, JOB, "BatchPolicy.Ready", "BatchPolicy.Placeable"),
        "There is no GPUPool of that name.",
        "Create it, or correct `spec.variants[].pool`; of a BatchPolicy `spec.pools`.",
    ),
    Code.POOL_UNREADABLE: Entry(
        _FAULT,
        "The GPUPool of that name is there and cannot be read, so replicas on it hold.",
        "Correct what the message quotes; the pool's own `Ready` says it too.",
    ),
    Code.TEMPLATE_REFUSED: Entry(
        (DECISION, "TargetResolved", "Ready", "Acting"),
        "The API server refuses the Deployment that the engine block declares; one that runs stays as it was.",
        "The message quotes the refusal; correct `spec.variants[].engine`, its `podTemplate` above all.",
    ),
    Code.INVALID_SPEC: Entry(
        (DECISION, "Ready", "Acting", "GPUPool.Ready", "CostPolicy.Ready", "BatchPolicy.Ready", JOB, DEPLOYMENT),
        "The API server accepted an object that cannot be read: nothing is decided for it, and replicas hold.",
        "Correct the field that the message names.",
    ),
    Code.POOL_MISMATCH: Entry(
        _FAULT,
        "The pod template's nodeSelector cannot be met by the variant's pool.",
        "Correct the nodeSelector, the pool's `spec.nodeSelector` or `spec.variants[].pool`.",
    ),
    Code.PODS_OUTSIDE_POOL: Entry(
        ("TargetResolved",),
        "Pods of a variant run on nodes that are not its pool's: prices, limits and room are those of the pool, and "
        "wrong for these pods.",
        "Give the pod template the pool's `spec.nodeSelector`, or correct `spec.variants[].pool`.",
    ),
    Code.INVALID_TIME_ZONE: Entry(
        ("GPUPool.Ready", "CostPolicy.WithinCeilings", "CostPolicy.Ready", "BatchPolicy.Ready"),
        "A price schedule, a policy or a batch window names a time zone that does not exist: until then the price is "
        "unknown, nothing under the policy is raised, and the window never opens.",
        "Write an IANA name in the pool's `spec.price.schedule[].timeZone`, the policy's `spec.timeZone` or the "
        "BatchPolicy's `spec.windows[].timeZone`, such as Europe/Berlin.",
    ),
    Code.INVALID_SCHEDULE: Entry(
        ("GPUPool.Ready", "BatchPolicy.Ready"),
        "A price schedule or a batch window has a cron expression that no calendar can follow; the price is unknown "
        "until then, and the window never opens.",
        "The message says what to write in the pool's `spec.price.schedule[].cron` or the BatchPolicy's "
        "`spec.windows[].cron`, such as `0 22 * * *`.",
    ),
    Code.ENGINE_NOT_DRAINING: Entry(
        ("EngineDrains",),
        "vLLM would cut off streams at a scale-down: it runs without `--shutdown-timeout`, or the pod is killed before "
        "that time is over.",
        "Start vLLM 0.18 or newer with `--shutdown-timeout`, and set `terminationGracePeriodSeconds` to more than the "
        "preStop sleep, that time and 10 s together; the message has the numbers. Engine blocks are built so.",
    ),
    Code.DRAIN_NOT_SHOWN: Entry(
        ("EngineDrains",),
        "The pod template does not show how vLLM ends: a script, a config file, a variable or the image decides it.",
        "See there that `--shutdown-timeout` is set; as a word of `command` or `args` it can be checked.",
    ),
    Code.ENGINE_DRAINS: Entry(
        ("EngineDrains",), "vLLM lets streams in flight finish when its pod is told to go.", "Nothing."
    ),
}

SECTIONS: tuple[tuple[str, Mapping[Code, Entry]], ...] = (
    ("Nothing to do", _STEADY),
    ("Moves", _MOVES),
    ("Waiting", _WAITING),
    ("Limits", _LIMITS),
    ("Cost policies", _POLICIES),
    ("Batch Jobs", _BATCH),
    ("Measurements", _DATA),
    ("Modes, people and other controllers", _WRITERS),
    ("Configuration", _CONFIGURATION),
    ("Errors of Ebbtide's own", _OWN_FAULTS),
)

CATALOGUE: Mapping[Code, Entry] = {code: entry for _, entries in SECTIONS for code, entry in entries.items()}
