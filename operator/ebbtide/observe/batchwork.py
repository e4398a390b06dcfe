"""BatchPolicies and Jobs of one cycle: what was declared, when windows are open, and each Job as it is."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.api import parse_batch_policy
from ebbtide.api.annotations import asked
from ebbtide.model.batch import BatchPolicySpec, BatchPolicyState
from ebbtide.model.snapshot import BATCH_KIND, PoolState, Unreadable
from ebbtide.money.windows import open_windows, window_faults
from ebbtide.observe.caches import Caches
from ebbtide.observe.declared import Declared
from ebbtide.observe.informer import Broken
from ebbtide.observe.jobplace import Places
from ebbtide.observe.jobs import JobReader, Jobs, JobView
from ebbtide.observe.projections import Node, Opaque, Pod

log = logging.getLogger(__name__)

WINDOWS_S = 8 * 86_400.0  # the plan looks to the last deadline; of those further away it needs no hour


@dataclass(frozen=True, slots=True)
class BatchView:
    """Frozen copies of the caches at one moment."""

    policies: Mapping[str, BatchPolicySpec]
    jobs: JobView


class BatchWork:
    """Reads them for each cycle, and keeps what does not change."""

    def __init__(self) -> None:
        self._policies: Declared[BatchPolicySpec] = Declared(BATCH_KIND, parse_batch_policy)
        self._reader = JobReader(asked)
        self._certain = False

    async def declared(self, caches: Caches) -> Mapping[str, BatchPolicySpec]:
        """Policies by key, as they are now. To be called before `view`."""
        self._certain = caches.batch_is_certain  # of these policies: they may be listed while services are read
        informer = caches.batch_policies
        items: Mapping[str, Opaque] = {} if informer is None else dict(informer.items)
        broken: Mapping[str, Broken] = {} if informer is None else dict(informer.broken)
        return await asyncio.to_thread(self._policies.update, items, broken)

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Policies that cannot be read, and why."""
        return self._policies.unreadable()

    def view(self, caches: Caches, policies: Mapping[str, BatchPolicySpec], now_s: float) -> BatchView:
        """The caches as they are now (unix seconds)."""
        jobs = JobView(
            policies=policies,
            jobs=dict(caches.jobs.items) if caches.jobs is not None else {},
            sets=dict(caches.job_sets.items) if caches.job_sets is not None else {},
            ended=caches.endings.lately(now_s),
            minor=caches.server.minor,
            certain=self._certain and caches.batch_is_certain,
            unread=frozenset(item.key.partition("/")[0] for item in self.unreadable()),
        )
        return BatchView(policies, jobs)

    def states(self, view: BatchView, now_s: float) -> tuple[BatchPolicyState, ...]:
        """Each policy with the spans of the next days in which its windows are open; sorted by key."""
        found = (_state(policy, now_s) for _, policy in sorted(view.policies.items()))
        return tuple(state for state in found if state is not None)

    def jobs(
        self, view: BatchView, pods: Mapping[str, Pod], pools: tuple[PoolState, ...], nodes: Mapping[str, Node]
    ) -> Jobs:
        """What batch work there is."""
        if not view.jobs.jobs and not view.jobs.sets and not view.jobs.ended:
            return Jobs()
        try:
            return self._reader.read(view.jobs, pods.values(), pools, Places(pools, nodes))
        except Exception:  # services are decided all the same
            log.exception("Jobs cannot be read: nothing is started or stopped")
            return Jobs()


def _state(policy: BatchPolicySpec, now_s: float) -> BatchPolicyState | None:
    try:
        return BatchPolicyState(policy, open_windows(policy, now_s, now_s + WINDOWS_S), window_faults(policy))
    except Exception:  # an odd calendar of one policy must stop no other, and no service
        log.exception("BatchPolicy %s: its windows cannot be read", policy.key)
        return None
