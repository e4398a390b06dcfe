"""Nodes that came and went while no operator watched, as Prometheus has them from kube-state-metrics.

A node has no uid there: it is told by its name and the second in which it was created, so that one that came back by
the same name is another. Three queries: how many GPUs nodes had, at which moments each was there, and which pool's
labels it had. kube-state-metrics tells labels of nodes only where `--metric-labels-allowlist` names them; of a node
without any, the pool is that of the one that has its name now, else it is not known.

Worked example: no operator from 10:00 to 10:30. `gpu-7` was created at 10:05 and last seen at 10:19, with 8 GPUs and
the label of pool h100: 8 GPUs of h100 from 10:05 to 10:20.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ebbtide.model.money import Payer
from ebbtide.model.spec import PoolSpec
from ebbtide.money.lifetimes import Holding
from ebbtide.observe.prometheus import Sample

LATE_S = 60
_GPUS, CREATED, _LABELS = "kube_node_status_allocatable", "kube_node_created", "kube_node_labels"
WHATS = ("nodes", "there", "pool")  # what the queries tell


@dataclass(frozen=True, slots=True)
class Place:
    """A node: its uid, its pool, the pool's resource, and when it was created (unix seconds)."""

    uid: str
    pool: str
    resource: str
    created_s: float = 0.0


class PastNodes:
    """What Prometheus has of them; `places`: the nodes that there are now, by name."""

    def __init__(self, places: Mapping[str, Place], pools: Sequence[PoolSpec]) -> None:
        self._places, self._pools = places, {pool.name: pool for pool in pools}
        self._gpus: dict[str, dict[str, int]] = defaultdict(dict)  # by name, and the metrics' name of the resource
        self._there: dict[str, dict[int, float]] = defaultdict(dict)  # by name and creation: when it was seen last
        self._pool: dict[str, str] = {}

    @property
    def known(self) -> bool:
        """Whether Prometheus has any."""
        return bool(self._there)

    def take(self, what: str, batch: Sequence[Sample]) -> None:
        """Of one of the queries."""
        for sample in batch:
            labels, value = sample.metric, float(sample.value.text)
            if not labels.node or not math.isfinite(value):
                continue
            if what == "nodes":
                self._gpus[labels.node][labels.engine] = round(value)
            elif what == "there":
                self._there[labels.node][round(float(labels.slot))] = value
            else:  # one that several pools select is the first one's by name
                self._pool[labels.node] = min(labels.engine, self._pool.get(labels.node, labels.engine))

    def place(self, name: str, at_s: float) -> Place | None:
        """Where the node of that name was that was there then; None: its pool is not known."""
        now = self._places.get(name)
        created = sorted({*self._there.get(name, ()), *(() if now is None else (int(now.created_s),))})
        if not created:
            return None
        then = max((each for each in created if each <= at_s), default=created[0])
        if now is not None and then == int(now.created_s):
            return now
        pool = self._pools.get(self._pool_of(name))
        return None if pool is None else Place(_uid(name, then), pool.name, pool.resource, float(then))

    def holdings(self, to_s: int, step_s: int) -> Iterator[Holding]:
        """Those that are not there now; of one whose pool is not known it is empty.

        One that was not seen any more is taken to have gone a minute after it was seen last, or one look later.
        """
        for name, there in sorted(self._there.items()):
            now = self._places.get(name)
            pool = self._pools.get(self._pool_of(name))
            gpus = self._gpus.get(name, {})
            count = gpus.get(of_metrics(pool.resource), 0) if pool is not None else max(gpus.values(), default=0)
            for created_s, last_s in sorted(there.items()):
                if count > 0 and (now is None or created_s != int(now.created_s)):
                    later = [each for each in (*there, *(() if now is None else (now.created_s,))) if each > created_s]
                    end_s = min([last_s + max(LATE_S, step_s), float(to_s), *later])
                    payer = Payer("" if pool is None else pool.name)
                    begin_s = float(created_s)
                    yield Holding(_uid(name, created_s), payer, count, begin_s, max(begin_s, end_s), "", is_node=True)

    def _pool_of(self, name: str) -> str:
        now = self._places.get(name)
        return self._pool.get(name) or ("" if now is None else now.pool)


def queries(matchers: str, span: str, step_s: int, pools: Iterable[PoolSpec]) -> dict[str, str]:
    """By what they tell. Creation comes as label `slot` and resource or pool as `engine`, which are read anyway."""
    more, known = f", {matchers}" if matchers else "", list(pools)
    names = "|".join(sorted({of_metrics(pool.resource) for pool in known})) or "none"
    gpus = f'max by (node, resource) (max_over_time({_GPUS}{{resource=~"{names}"{more}}}[{span}]))'
    # one series for each node and creation, whose value is the moment that was looked at
    each = f'timestamp(count_values by (node) ("slot", max by (node) ({CREATED}{{{matchers}}})))'
    selected = " or ".join(
        f"label_replace(max by (node) (max_over_time({_LABELS}{{{_pairs(pool, matchers)}}}[{span}])), "
        f'"engine", "{pool.name}", "", "")'
        for pool in known
    )
    texts = (
        f'label_replace({gpus}, "engine", "$1", "resource", "(.*)")',
        f"max_over_time({each}[{span}:{step_s}s])",
        selected or "vector(0) < 0",
    )
    return dict(zip(WHATS, texts, strict=True))


def of_metrics(resource: str) -> str:
    """`nvidia.com/gpu` -> `nvidia_com_gpu`, as kube-state-metrics says it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", resource)


def _pairs(pool: PoolSpec, matchers: str) -> str:
    pairs = [f'label_{_label(key)}="{value}"' for key, value in pool.node_selector]
    return ", ".join([*pairs, matchers] if matchers else pairs)


def _label(key: str) -> str:
    """`example.com/gpuType` -> `example_com_gpu_type`, as kube-state-metrics says it."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", of_metrics(key)).lower()


def _uid(name: str, created_s: int) -> str:
    """One that is the same whenever it is asked for, and that no object has."""
    return f"node-{blake2b(name.encode(), digest_size=8).hexdigest()}-{created_s}"
