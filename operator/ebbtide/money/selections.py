"""Which policies pay for what, as the ledger keeps it: a report of last month uses what policies selected then.

What services say that an API would charge is kept in the same way, so that a report needs no cluster.

A report takes each policy as it last was in the reported time, and applies that to all of it. That is what the policy's
own status does after an edit: it asks the ledger what all of its periods have cost by what it selects now.
"""

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
