"""Which policies pay for what, as the ledger keeps it: a report of last month uses what policies selected then.

What services say that an API would charge is kept in the same way, so that a report needs no cluster.

A report takes each policy as it last was in the reported time, and applies that to all of it. That is what the policy's
own status does after an edit: it asks the ledger what all of its periods have cost by what it selects now.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec

from ebbtide.model.money import LabelsRecord, OfferRecord, Payer, PolicyRecord
from ebbtide.model.spec import Alternative, PolicySpec, ServiceSpec
from ebbtide.money.accounts import Labels, pays

Payers = Callable[[Payer], tuple[str, ...]]  # names of the policies that pay


def changes(
    known: Mapping[str, PolicyRecord],
    known_labels: Mapping[str, LabelsRecord],
    policies: Iterable[PolicySpec],
    unread: Collection[str],
    labels: Mapping[str, Labels],
    at_s: int,
) -> Iterator[PolicyRecord | LabelsRecord]:
    """Records that are new at `at_s` (unix seconds). `unread`: policies that cannot be read and stay as they were.

    Of labels, by namespace/name of the service, only those are kept by which a policy selects or ever did.
    """
    specs = {spec.name: spec for spec in policies}
    for name, spec in specs.items():
        old = known.get(name)
        from_s = at_s if old is None else max(at_s, old.from_s + 1)
        made = PolicyRecord(name, from_s, spec.currency, spec.namespaces, spec.match_labels, spec.scope)
        if old is None or msgspec.structs.replace(old, from_s=from_s) != made:
            yield made
    for name, old in known.items():
        if not old.gone and name not in specs and name not in unread:
            yield msgspec.structs.replace(old, from_s=max(at_s, old.from_s + 1), gone=True)
    selecting: list[PolicySpec | PolicyRecord] = [*specs.values(), *known.values()]
    keys = {key for each in selecting for key, _ in each.match_labels}
    if not keys:
        return
    for service, pairs in labels.items():
        kept = tuple(pair for pair in pairs if pair[0] in keys)
        before = known_labels.get(service)
        if (before.labels if before is not None else ()) != kept:
            yield LabelsRecord(service, at_s if before is None else max(at_s, before.from_s + 1), kept)


def payers(
    policies: Iterable[PolicyRecord], labels: Iterable[LabelsRecord], from_s: float, to_s: float
) -> tuple[tuple[PolicySpec, ...], Payers]:
    """(the policies that there were at some time of [from_s, to_s), which of them pay for a payer)."""
    last: dict[str, PolicyRecord] = {}
    for record in sorted(policies, key=lambda record: record.from_s):
        if record.from_s < to_s:
            last[record.name] = record
    specs = tuple(last[name].spec for name in sorted(last) if not (last[name].gone and last[name].from_s <= from_s))
    of_service: dict[str, Labels] = {}
    for each in sorted(labels, key=lambda each: each.from_s):
        if each.from_s < to_s:
            of_service[each.service] = each.labels
    known: dict[tuple[str, str], tuple[str, ...]] = {}

    def names(payer: Payer) -> tuple[str, ...]:
        key = payer.namespace, payer.service
        if key not in known:
            found = of_service.get(f"{payer.namespace}/{payer.service}", ())
            known[key] = tuple(spec.name for spec in specs if pays(spec, payer, found))
        return known[key]

    return specs, names


class Labelled:
    """Which labels services had. `present`: of those that there are; of the others as the ledger keeps them.

    `policies` and `labels` are all records that the ledger has.
    """

    def __init__(
        self, present: Mapping[str, Labels], policies: Iterable[PolicyRecord] = (), labels: Iterable[LabelsRecord] = ()
    ) -> None:
        self._present = present
        self._records: dict[str, list[LabelsRecord]] = defaultdict(list)
        for record in sorted(labels, key=lambda record: record.from_s):
            self._records[record.service].append(record)
        self._kept: dict[str, int] = {}  # by key: since when it is recorded which service has it
        since: dict[str, dict[str, int]] = {}  # the same by policy
        for each in sorted(policies, key=lambda each: each.from_s):
            before = since.get(each.name, {})
            since[each.name] = {key: before.get(key, each.from_s) for key, _ in each.match_labels}
        for found in since.values():
            for key, from_s in found.items():
                self._kept[key] = min(from_s, self._kept.get(key, from_s))

    def of(self, service: str) -> Labels:
        """By namespace/name, as they are or were last."""
        if service in self._present:
            return self._present[service]
        records = self._records.get(service)
        return records[-1].labels if records else ()

    def may_differ(self, spec: PolicySpec, payer: Payer, from_s: float) -> bool:
        """Whether the policy, that does not pay for a service as it was last, may have paid since `from_s`.

        It had other labels then; or it has gone, and had gone before it was recorded who has those labels.
        """
        if not payer.service or not spec.match_labels or not spec.selects(payer.namespace, spec.match_labels):
            return False
        service = f"{payer.namespace}/{payer.service}"
        records = self._records.get(service, [])
        for number, record in enumerate(records):
            ended = number + 1 < len(records) and records[number + 1].from_s <= from_s
            if not ended and pays(spec, payer, record.labels):
                return True
        kept_s = max(self._kept.get(key, math.inf) for key, _ in spec.match_labels)
        return service not in self._present and kept_s > from_s


def new_offers(known: Mapping[str, OfferRecord], services: Iterable[ServiceSpec], at_s: int) -> Iterator[OfferRecord]:
    """Records of services whose alternative is another at `at_s` (unix seconds); one that is gone stays as it was."""
    for spec in services:
        before = known.get(spec.key)
        if (before.offer if before is not None else None) != spec.alternative:
            from_s = at_s if before is None else max(at_s, before.from_s + 1)
            yield OfferRecord(spec.key, from_s, spec.alternative)


def offers(records: Iterable[OfferRecord], to_s: float) -> dict[str, Alternative]:
    """By service what it last declared before `to_s`; those that declared none are left out."""
    last: dict[str, Alternative | None] = {}
    for record in sorted(records, key=lambda record: record.from_s):
        if record.from_s < to_s:
            last[record.service] = record.offer
    return {service: offer for service, offer in last.items() if offer is not None}
