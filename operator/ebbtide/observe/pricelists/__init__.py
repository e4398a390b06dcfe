"""Prices that no pool says itself: one small module for each provider.

A provider has `collect`, which reads what it reads, and `listed`, which says what one pool costs. What could not be
read is said in `why`, and never filled in with a default price.
"""

from collections.abc import Mapping

from ebbtide.model.money import Listed
from ebbtide.model.spec import PoolSpec
from ebbtide.observe.pricelists.opencost import OpenCost
from ebbtide.observe.pricelists.table import Table
from ebbtide.observe.projections import Node, selects


class PriceLists:
    """All providers, asked for the pools that name them."""

    def __init__(self, table: Table, opencost: OpenCost) -> None:
        self._table, self._opencost = table, opencost

    async def collect(self, pools: Mapping[str, PoolSpec], now_s: float) -> None:
        """Read once what any pool needs."""
        named = {spec.price.source.kind for spec in pools.values() if spec.price and spec.price.source}
        if "Table" in named:
            await self._table.collect()
        if "OpenCost" in named:
            await self._opencost.collect(now_s)

    def listed(self, pools: Mapping[str, PoolSpec], nodes: Mapping[str, Node], now_s: float) -> dict[str, Listed]:
        """By pool, of those that name a provider."""
        found: dict[str, Listed] = {}
        for name, spec in pools.items():
            source = None if spec.price is None else spec.price.source
            if source is None:
                continue
            if source.kind == "Table":
                found[name] = self._table.listed(source.item, now_s)
            else:
                own = [node for node, each in nodes.items() if selects(spec.node_selector, each.metadata.labels)]
                found[name] = self._opencost.listed(own, now_s)
        return found
