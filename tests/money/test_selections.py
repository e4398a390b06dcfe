"""What policies selected when: as they last were in the reported time, by the rule of the ceilings themselves."""

from decimal import Decimal

import pytest

from ebbtide.model.money import HourRow, LabelsRecord, OfferRecord, Payer, PolicyRecord
from ebbtide.model.spec import Alternative, CeilingKind, PolicyScope, PolicySpec
from ebbtide.money.accounts import pays
from ebbtide.money.selections import Labelled, changes, new_offers, offers, payers
from ebbtide.money.totals import NO_POLICY, totals
from tests import builders

CHAT, CODE, JOB, NODE = Payer("h100", "ml", "chat"), Payer("h100", "dev", "code"), Payer("h100", "dev"), Payer("h100")


def spec(name: str, *namespaces: str, labels: dict[str, str] | None = None, everything: bool = False) -> PolicySpec:
    scope = PolicyScope.ALL_GPU_PODS if everything else PolicyScope.MANAGED
    ceilings = ((CeilingKind.DAY, Decimal(100)),)
    return PolicySpec(name, name, 1, "USD", ceilings, namespaces, tuple((labels or {}).items()), scope)


def record(known: PolicySpec, from_s: int = 0, *, gone: bool = False) -> PolicyRecord:
    return PolicyRecord(known.name, from_s, "USD", known.namespaces, known.match_labels, known.scope, gone)


SEARCH = LabelsRecord("ml/chat", 0, (("team", "search"),))


@pytest.mark.parametrize(
    ("story", "records", "labels", "want"),
    [
        ("one for all services", [record(spec("all"))], [], {CHAT: ("all",), CODE: ("all",), JOB: (), NODE: ()}),
        ("by namespace", [record(spec("ml", "ml"))], [], {CHAT: ("ml",), CODE: ()}),
        ("under two at once, sorted", [record(spec("ml", "ml")), record(spec("all"))], [], {CHAT: ("all", "ml")}),
        ("everything that holds GPUs", [record(spec("gpus", everything=True))], [],
         {CHAT: ("gpus",), JOB: ("gpus",), NODE: ("gpus",)}),
        ("everything of a namespace: no node is in one", [record(spec("dev", "dev", everything=True))], [],
         {CHAT: (), JOB: ("dev",), NODE: ()}),
        ("by label", [record(spec("s", labels={"team": "search"}))], [SEARCH], {CHAT: ("s",), CODE: ()}),
        ("a label that was taken away", [record(spec("s", labels={"team": "search"}))],
         [SEARCH, LabelsRecord("ml/chat", 50)], {CHAT: ()}),
        ("a label that is taken away later", [record(spec("s", labels={"team": "search"}))],
         [SEARCH, LabelsRecord("ml/chat", 100)], {CHAT: ("s",)}),
        ("edited within: as it was last", [record(spec("p", "ml")), record(spec("p", "dev"), 60)], [],
         {CHAT: (), CODE: ("p",)}),
        ("edited later: as it was then", [record(spec("p", "ml")), record(spec("p", "dev"), 100)], [], {CHAT: ("p",)}),
        ("made later", [record(spec("p"), 100)], [], {CHAT: ()}),
        ("gone within: it was there", [record(spec("p")), record(spec("p"), 60, gone=True)], [], {CHAT: ("p",)}),
        ("gone before", [record(spec("p")), record(spec("p"), 10, gone=True)], [], {CHAT: ()}),
    ],
)  # fmt: skip
def test_who_pays_in_a_report_of_10_to_100(story, records, labels, want) -> None:  # type: ignore[no-untyped-def]
    _, paying = payers(records, labels, 10, 100)
    assert {payer: paying(payer) for payer in want} == want, story


BY_LABEL = spec("s", "ml", labels={"team": "search"})
OTHER, BOTH = (("team", "chat"),), {"team": "search", "tier": "gold"}


@pytest.mark.parametrize(
    ("story", "present", "records", "labels", "want"),
    [
        ("it is there", {"ml/chat": SEARCH.labels}, [], [], True),
        ("it is there with another label", {"ml/chat": OTHER}, [record(BY_LABEL)], [], False),
        ("it has gone, with the label", {}, [record(BY_LABEL)], [SEARCH], True),
        ("it has gone, and never had one", {}, [record(BY_LABEL)], [], False),
        ("it has gone, and had another", {}, [record(BY_LABEL)], [LabelsRecord("ml/chat", 0, OTHER)], False),
        ("it has gone, nobody knows with which: labels were not kept yet", {}, [record(BY_LABEL, 101)], [], None),
        ("they were not kept yet, and it is there", {"ml/chat": OTHER}, [record(BY_LABEL, 101)], [], False),
        ("another policy made them be kept", {}, [record(BY_LABEL, 101), record(spec("t", labels=BOTH))], [], False),
        ("also one that is gone", {}, [record(BY_LABEL, 101), record(spec("t", labels=BOTH)),
                                       record(spec("t", labels=BOTH), 50, gone=True)], [], False),
        ("but not one that selects by something else since", {},
         [record(BY_LABEL, 101), record(spec("t", labels=BOTH)), record(spec("t", labels={"tier": "gold"}), 50)],
         [], None),
        ("it had the label in that time and lost it", {"ml/chat": OTHER}, [record(BY_LABEL)],
         [SEARCH, LabelsRecord("ml/chat", 101, OTHER)], None),
        ("it had lost it before", {"ml/chat": OTHER}, [record(BY_LABEL)],
         [SEARCH, LabelsRecord("ml/chat", 99, OTHER)], False),
        ("it had lost it before it went", {}, [record(BY_LABEL)], [SEARCH, LabelsRecord("ml/chat", 99)], False),
    ],
)  # fmt: skip
def test_who_paid_since_100_for_a_service_that_may_have_gone(story, present, records, labels, want) -> None:  # type: ignore[no-untyped-def]
    """None: the policy may have paid for more than is known."""
    labelled = Labelled(present, records, labels)
    paid = pays(BY_LABEL, CHAT, labelled.of("ml/chat"))
    unsure = labelled.may_differ(BY_LABEL, CHAT, 100) and not paid
    assert (None if unsure else paid) is want, story


def test_what_the_policy_could_never_have_paid_for_makes_nothing_unsure() -> None:
    """Another namespace, no service at all, or no selector by labels."""
    labelled = Labelled({}, [record(BY_LABEL, 101)])
    assert labelled.may_differ(BY_LABEL, CHAT, 100)
    for payer in (CODE, JOB, NODE):
        assert not labelled.may_differ(BY_LABEL, payer, 100)
    assert not labelled.may_differ(spec("dev", "dev"), CHAT, 100)


def test_what_several_pay_for_is_counted_under_each_and_what_nobody_does_is_said() -> None:
    _, paying = payers([record(spec("all")), record(spec("ml", "ml"))], [], 10, 100)
    rows = [HourRow(0, payer, payer is NODE, Decimal("2.50"), "USD", 3600) for payer in (CHAT, CODE, NODE)]
    found = {total.key[0]: total.cost for total in totals(rows, ["policy"], paying)}
    assert found == {"all": 5, "ml": Decimal("2.5"), NO_POLICY: Decimal("2.5")}
    both = {total.key: total.cost for total in totals(rows, ["policy", "namespace"], paying)}
    assert both[("all", "ml")] == both[("ml", "ml")] == Decimal("2.5")


def test_nothing_is_recorded_twice() -> None:
    known = {"p": record(spec("p", labels={"team": "x"}), 5)}
    first = list(changes(known, {}, [known["p"].spec], (), {"ml/chat": (("team", "x"), ("rev", "1"))}, 5))
    assert first == [LabelsRecord("ml/chat", 5, (("team", "x"),))]
    again = changes(known, {"ml/chat": first[0]}, [known["p"].spec], (), {"ml/chat": (("team", "x"),)}, 6)  # type: ignore[dict-item]
    assert list(again) == []


def test_two_edits_within_a_second_keep_their_order() -> None:
    known = {"p": record(spec("p"), 5)}
    (edited,) = changes(known, {}, [spec("p", "ml")], (), {}, 5)
    assert isinstance(edited, PolicyRecord) and edited.from_s == 6


API, DEARER = (Alternative("USD", Decimal(price), Decimal(2)) for price in ("0.50", "0.60"))


@pytest.mark.parametrize(
    ("story", "known", "declared", "want"),
    [
        ("first declared", None, API, [OfferRecord("ml/chat", 100, API)]),
        ("never declared", None, None, []),
        ("as before", OfferRecord("ml/chat", 10, API), API, []),
        ("another price", OfferRecord("ml/chat", 10, API), DEARER, [OfferRecord("ml/chat", 100, DEARER)]),
        ("taken back", OfferRecord("ml/chat", 10, API), None, [OfferRecord("ml/chat", 100, None)]),
        ("edited twice in a second", OfferRecord("ml/chat", 100, API), None, [OfferRecord("ml/chat", 101, None)]),
    ],
)
def test_what_an_api_would_charge_is_kept_since_when_it_was_declared(story, known, declared, want) -> None:  # type: ignore[no-untyped-def]
    specs = [builders.spec("ml/chat", alternative=declared)]
    assert list(new_offers({known.service: known} if known else {}, specs, 100)) == want, story


def test_a_report_takes_what_was_last_declared_in_its_time() -> None:
    records = [OfferRecord("ml/chat", 50, DEARER), OfferRecord("ml/chat", 10, API), OfferRecord("ml/code", 10, API),
               OfferRecord("ml/code", 60)]  # fmt: skip
    assert offers(records, 50) == {"ml/chat": API, "ml/code": API}
    assert offers(records, 100) == {"ml/chat": DEARER}
