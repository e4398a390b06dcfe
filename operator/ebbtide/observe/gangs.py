"""JobSets as batch work sees them: each is one Job whose pods are all of its Jobs' together.

A gang is held, started and stopped as a whole by the JobSet's own `spec.suspend`; the Jobs that it makes are its
controller's. Its Jobs with GPUs go to one pool, so they must ask for the same nodes and for as many GPUs a pod.
"""

import msgspec

from ebbtide.model.batch import GANG
from ebbtide.observe.jobplace import asks_for
from ebbtide.observe.projections import Condition, Job, JobMeta, JobPodSpec, JobSpec, JobStatus, JobTemplate, Wire

OWNER = "JobSet"
_OWN_MANAGER = "jobset.sigs.k8s.io/jobset-controller"
_CONDITIONS = {"Completed": "Complete", "Failed": "Failed", "Suspended": "Suspended"}


class JobOfSet(Wire, frozen=True, gc=False):
    """A template of a Job."""

    spec: JobSpec = JobSpec()


class ReplicatedJob(Wire, frozen=True, gc=False):
    """Jobs of one template."""

    name: str
    replicas: int = 1
    template: JobOfSet = JobOfSet()


class JobSetSpec(Wire, frozen=True, gc=False):
    """Spec of a JobSet."""

    suspend: bool | None = None
    managed_by: str | None = None
    replicated_jobs: tuple[ReplicatedJob, ...] = ()


class ReplicatedStatus(Wire, frozen=True, gc=False):
    """How Jobs of one template stand."""

    active: int = 0


class JobSetStatus(Wire, frozen=True, gc=False):
    """Status of a JobSet."""

    conditions: tuple[Condition, ...] | None = None
    replicated_jobs_status: tuple[ReplicatedStatus, ...] | None = None


class JobSet(Wire, frozen=True, gc=False):
    """A JobSet."""

    metadata: JobMeta
    spec: JobSetSpec = JobSetSpec()
    status: JobSetStatus = JobSetStatus()


class Gang(Job, frozen=True, gc=False):
    """A JobSet as one Job. `templates`: of its pods with GPUs."""

    templates: tuple[JobPodSpec, ...] = ()
    fault: str = ""


def gang_of(found: JobSet, resources: frozenset[str]) -> Gang:
    """`resources`: those of pools. Its key is `namespace/jobset/name`: a Job may have the same name."""
    able = [(each, asks_for(each.template.spec.template.spec, resources)) for each in found.spec.replicated_jobs]
    with_gpus = [(each, asked) for each, asked in able if asked[1] or asked[2]]
    templates = tuple(each.template.spec.template.spec for each, _ in with_gpus)
    alike = {(asked[:2], _nodes(each)) for each, asked in with_gpus}
    fault = next((asked[2] for _, asked in with_gpus if asked[2]), "")
    if not fault and len(alike) > 1:
        names = ", ".join(each.name for each, _ in with_gpus)
        fault = f"its Jobs with GPUs ({names}) ask for other nodes, or another number of GPUs a pod, than each other"
    pods = sum(each.replicas * (1 if (n := each.template.spec.parallelism) is None else n) for each, _ in with_gpus)
    meta, status = found.metadata, found.status
    conditions = (
        msgspec.structs.replace(item, type=_CONDITIONS[item.type])
        for item in status.conditions or ()
        if item.type in _CONDITIONS
    )
    managed = found.spec.managed_by
    graces = [pod.termination_grace_period_seconds for pod in templates]
    pod = templates[0] if templates else JobPodSpec()
    longest = max((30.0 if grace is None else grace for grace in graces), default=30.0)
    return Gang(
        metadata=msgspec.structs.replace(meta, name=f"{GANG}{meta.name}"),
        spec=JobSpec(
            suspend=found.spec.suspend,
            parallelism=pods,
            completions=pods,
            managed_by=None if managed == _OWN_MANAGER else managed,
            template=JobTemplate(msgspec.structs.replace(pod, termination_grace_period_seconds=longest)),
        ),
        status=JobStatus(
            active=sum(each.active for each in status.replicated_jobs_status or ()),
            conditions=tuple(conditions) or None,
        ),
        templates=templates,
        fault=fault,
    )


def _nodes(job: ReplicatedJob) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((job.template.spec.template.spec.node_selector or {}).items()))
