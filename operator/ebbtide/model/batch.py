"""Batch work: what BatchPolicies declare, and Jobs as they are. Times are unix seconds."""

from enum import StrEnum

from ebbtide.model.spec import Spec

DEFAULT_CONFIDENCE = 0.99
GANG = "jobset/"
"""What the name of a JobSet begins with in keys: `ml/jobset/eval` is JobSet eval, `ml/eval` Job eval."""


class Strategy(StrEnum):
    """When a policy's Jobs may run."""

    WINDOW = "Window"  # in its windows alone
    IDLE_OR_WINDOW = "IdleOrWindow"  # in its windows, and at any time on GPUs that are paid for anyway
    CHEAPEST = "Cheapest"  # whenever it costs least, deadlines kept


class BatchWindow(Spec, frozen=True):
    """Opens at each firing of `cron` in `time_zone`, for `duration_s` real seconds."""

    cron: str
    time_zone: str
    duration_s: float


class BatchPolicySpec(Spec, frozen=True):
    """One BatchPolicy. `key` is `namespace/name`; it means the Jobs of its namespace that carry `match_labels`."""

    key: str
    uid: str
    generation: int
    match_labels: tuple[tuple[str, str], ...]
    strategy: Strategy = Strategy.IDLE_OR_WINDOW
    windows: tuple[BatchWindow, ...] = ()
    holidays: tuple[str, ...] = ()  # days (2026-12-25) in each window's time zone that are windows from end to end
    pools: tuple[str, ...] = ()  # none: all that lend GPUs
    max_gpus: int | None = None  # that its Jobs hold at once; None: no limit of its own
    deadline_s: float | None = None  # from a Job's creation, where the Job says none; None: no deadline
    expected_duration_s: float | None = None  # where the Job says none and nothing was learnt
    confidence: float = DEFAULT_CONFIDENCE  # with which a deadline is to be kept
    preempts: bool = True  # whether Jobs that say that they are restartable may be stopped
    grace_s: float | None = None  # by which a stopped Job's pods are gone; None: what their template says
    priority: int = 100  # between Jobs, 0 to 1000; the higher first
    paused: bool = False  # nothing is started or stopped

    @property
    def namespace(self) -> str:
        """The part of `key` before the slash."""
        return self.key.partition("/")[0]

    def selects(self, namespace: str, labels: dict[str, str]) -> bool:
        """Whether it means a Job of that namespace with these labels."""
        return namespace == self.namespace and set(self.match_labels) <= set(labels.items())


class Intent(StrEnum):
    """Whose will a Job's `suspend` is."""

    HELD = "Held"  # suspended, and Ebbtide says when it runs
    RUNS = "Runs"  # started by Ebbtide
    STOPPED = "Stopped"  # started and stopped by Ebbtide
    SUSPENDED_BY_USER = "SuspendedByUser"  # stays so until its user resumes it
    RESUMED_BY_USER = "ResumedByUser"  # runs against the plan; said, not fought over
    STARTED_ANYWAY = "StartedAnyway"  # was never held: it came without `suspend: true`
    FOREIGN = "Foreign"  # Kueue's or another controller's; never touched
    DISPUTED = "Disputed"  # several policies select it; it stays as it is


class Asked(Spec, frozen=True):
    """What a Job's annotations say; None: nothing that could be read. `faults`: (annotation, what is wrong with it)."""

    deadline_at: float | None = None
    expected_duration_s: float | None = None
    restartable: bool = False
    faults: tuple[tuple[str, str], ...] = ()


class JobPod(Spec, frozen=True):
    """One pod of a Job that is not gone. `node` empty: not bound yet."""

    name: str
    node: str
    gpus: int
    started_at: float | None = None
    terminating: bool = False
    due_at: float | None = None  # of one that was told to go: by when it should be gone


class JobState(Spec, frozen=True):
    """One Job that a policy selects and that has not ended."""

    key: str  # namespace/name
    uid: str
    resource_version: str
    created_at: float
    policy: str  # key of the BatchPolicy; empty: disputed
    intent: Intent
    labels: tuple[tuple[str, str], ...] = ()
    owner: str = ""  # what is run again and again: "CronJob/nightly"; else the Job's own name
    why: str = ""  # of FOREIGN and DISPUTED: whose it is, in words
    suspended: bool = True  # spec.suspend
    parallelism: int = 1
    completions: int | None = None
    succeeded: int = 0
    elastic: bool = False  # Indexed, and completions = parallelism: it may be made smaller while it runs
    gpus_per_pod: int = 0
    resource: str = ""  # such as nvidia.com/gpu; empty: it asks for none
    grace_s: float = 30.0  # its template's terminationGracePeriodSeconds
    node_selector: tuple[tuple[str, str], ...] = ()  # of its template
    pool: str = ""  # that it was started on, or is bound to; empty: free to choose
    placeable: bool = True  # False: it ran once, and the API server does not let its place change any more
    started_at: float | None = None  # of the present run
    ran_s: float = 0.0  # in runs before this one
    asked: Asked = Asked()
    pods: tuple[JobPod, ...] = ()
    fault: str = ""  # why it cannot be run, in words
    noted: bool = False  # its annotation says that Ebbtide holds or runs it: who comes after knows
    full_parallelism: int = 0  # as its user declared it, of one that was made smaller; 0: `parallelism`
    least_parallelism: int = 1  # below which an elastic one must not go
    placed: tuple[tuple[str, str], ...] = ()  # pairs that Ebbtide added to its node selector; not in `node_selector`
    tolerations: tuple[str, ...] = ()  # of its template, without those that Ebbtide added; each as JSON
    placed_tolerations: tuple[str, ...] = ()  # that Ebbtide added
    generation: int = 0  # counts changes of its spec
    stopped_at: float | None = None  # since when it is suspended, as far as anybody said; None: it runs, or nobody did
    misfits: tuple[tuple[str, str], ...] = ()  # (pool, why none of its nodes could ever take its pods)


class FinishedJob(Spec, frozen=True):
    """A Job that ended. It is told for some minutes, in several snapshots and after a restart: count each uid once."""

    key: str
    uid: str
    policy: str
    owner: str
    created_at: float
    ended_at: float
    ran_s: float  # in all its runs
    succeeded: bool
    labels: tuple[tuple[str, str], ...] = ()
    pool: str = ""
    gpus: int = 0  # of all its pods at once
    asked: Asked = Asked()


class Stray(Spec, frozen=True):
    """A Job that Ebbtide holds and that no policy selects any more: nobody else would ever start it."""

    key: str
    uid: str
    resource_version: str
    parallelism: int = 0  # to give back to one that was made smaller; 0: as it is


class BatchPolicyState(Spec, frozen=True):
    """One policy now. `open`: the spans [from_s, to_s) in which its windows are open, of the next days, in order."""

    spec: BatchPolicySpec
    open: tuple[tuple[float, float], ...] = ()
    faults: tuple[tuple[str, str], ...] = ()
