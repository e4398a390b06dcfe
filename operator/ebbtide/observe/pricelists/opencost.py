"""What OpenCost says that a GPU of each node costs for an hour: its metric `node_gpu_hourly_cost`, by Prometheus.

A pool costs what the dearest of its nodes does: a mean would show money that half of the nodes do not cost. OpenCost
gives no currency with the metric; it is taken for that of the pool.
"""

from collections.abc import Iterable
from decimal import Decimal

from ebbtide.errors import EbbtideError
from ebbtide.model.money import Listed
from ebbtide.observe.prometheus import Prometheus, Sample

_MAX_AGE_S = 600.0  # prices move by the hour; an OpenCost that was restarted is back within minutes
_PLACES = Decimal("0.000001")


class OpenCost:
    """Prices of nodes. `prometheus` None: none was configured. `matchers` go into the selector."""

    def __init__(self, prometheus: Prometheus | None, matchers: str = "") -> None:
        self._prometheus = prometheus
        self._query = f"max by (node) (node_gpu_hourly_cost{{{matchers}}})"
        self._by_node: dict[str, Decimal] = {}
        self._at_s = float("-inf")
        self._error = "" if prometheus else "cannot be asked: no Prometheus is set"

    async def collect(self, now_s: float) -> None:
        """Ask once; what was known stays for ten minutes when there is no answer."""
        if self._prometheus is None:
            return
        found: dict[str, Decimal] = {}

        def take(batch: list[Sample]) -> None:
            for sample in batch:
                amount = Decimal(sample.value.text) if _is_number(sample.value.text) else Decimal(0)
                if sample.metric.node and amount > 0:  # 0 is what OpenCost says of GPUs that it does not know
                    found[sample.metric.node] = amount.quantize(_PLACES)

        try:
            await self._prometheus.query(self._query, now_s, take)
        except EbbtideError as error:
            self._error = f"cannot be asked: {error}"
            return
        self._by_node, self._at_s, self._error = found, now_s, ""

    def listed(self, nodes: Iterable[str], now_s: float) -> Listed:
        """What a GPU of the dearest of these nodes costs for an hour."""
        if now_s - self._at_s > _MAX_AGE_S:
            return Listed(None, why=self._error or "has not been asked yet")
        known = [self._by_node[node] for node in nodes if node in self._by_node]
        if not known:
            return Listed(None, why="has no node_gpu_hourly_cost above 0 for any of the pool's nodes")
        return Listed(max(known))


def _is_number(text: str) -> bool:
    return text not in ("NaN", "+Inf", "-Inf")
