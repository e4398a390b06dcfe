"""Whose will a Job's `suspend` is: its user's, Ebbtide's or another controller's; and since when it is suspended."""

from ebbtide.api.batch_note import ANNOTATION, BatchNote, intent_of, read_note
from ebbtide.clock import parse_rfc3339
from ebbtide.model.batch import BatchPolicySpec, Intent
from ebbtide.observe.gangs import OWNER, Gang
from ebbtide.observe.projections import Job, find_condition

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
_LATER_S = 3600.0  # beyond all that a Job controller may be behind
_SOON_S = 5.0  # in which it mostly says that a Job is suspended
_OWN_MANAGER = "kubernetes.io/job-controller"


def foreign(job: Job) -> str:
    """Whose the Job is, in words, if Ebbtide must never touch it."""
    queue = (job.metadata.labels or {}).get(KUEUE_QUEUE)
    if queue is not None:
        return f"Kueue owns it: label {KUEUE_QUEUE}={queue}"
    owners = job.metadata.owner_references
    if owners and (owners[0].kind == OWNER or isinstance(job, Gang)):
        return f"{owners[0].kind} {owners[0].name} owns it, and says when it runs"
    manager = job.spec.managed_by
    return f"{manager} owns it: spec.managedBy" if manager not in (None, _OWN_MANAGER) else ""


def suspended_later(job: Job, intent: Intent) -> bool:
    """Whether a Job that Ebbtide never started ran before it was suspended: then it was its user who suspended it.

    The Job controller says of one that is created suspended within seconds that it is; of one that ran for two hours
    and was suspended then two hours after its creation.
    """
    said_s = suspended_at(job)
    return intent is Intent.HELD and said_s is not None and said_s > job.metadata.created_at + _LATER_S


def suspended_again(job: Job, note: BatchNote | None) -> bool:
    """Whether its user resumed and suspended it since Ebbtide wrote its note, faster than anybody looked.

    Then its spec was changed twice at least, and the Job controller says of it once more that it is suspended.
    """
    said_s = suspended_at(job)
    if note is None or not note.gen or said_s is None:
        return False
    return job.metadata.generation >= note.gen + 2 and said_s > note.since + _SOON_S


def note_of(job: Job) -> BatchNote | None:
    """What Ebbtide wrote on it."""
    return read_note((job.metadata.annotations or {}).get(ANNOTATION), job.metadata.uid)


def whose(job: Job, note: BatchNote | None, policies: list[BatchPolicySpec]) -> tuple[Intent, str]:
    """(whose, and in words of whom where that is not told by its note alone), with the policies that select it."""
    other = foreign(job)
    if other:
        return Intent.FOREIGN, other
    if len(policies) > 1:
        names = " and ".join(policy.key.partition("/")[2] for policy in policies)
        return Intent.DISPUTED, f"BatchPolicies {names} select it"
    return intent_of(note, bool(job.spec.suspend)), ""


def suspended_at(job: Job) -> float | None:
    """When the Job controller saw that it is suspended; None: it has not said so."""
    condition = find_condition(job.status.conditions, "Suspended")
    if condition is None or condition.status != "True" or not condition.last_transition_time:
        return None
    return parse_rfc3339(condition.last_transition_time)


def stopped_at(job: Job, note: BatchNote | None) -> float | None:
    """Since when it is suspended, also where the Job controller has not said so yet; None: it runs, or nobody knows."""
    if not job.spec.suspend:
        return None
    seen_s = suspended_at(job)
    if note is None or note.intent is not Intent.STOPPED:
        return seen_s
    return note.since if seen_s is None else max(seen_s, note.since)  # of a run that nobody saw the old one stands
