"""What a refused write makes of the report: a condition with the API server's words, for as long as it is refused."""

import msgspec
import pytest

from ebbtide.act.result import ActResult, Outcome
from ebbtide.model.catalogue import CATALOGUE
from ebbtide.model.plan import Condition, ConditionStatus, Plan
from ebbtide.model.reasons import Code, Reason
from ebbtide.record.events import cycle_events
from ebbtide.record.refusals import Refusals
from tests.shell import world

WELL = Condition("Acting", ConditionStatus.TRUE, "Acting", "mode is Auto")


def plan(acting: Condition = WELL) -> Plan:
    return Plan(at=world.NOW_S, services=(world.service_plan(conditions=(acting,)),))


def result(outcome: Outcome, what: str = "scale", service: str = "team/chat") -> ActResult:
    return ActResult(what=what, service=service, variant="h100", outcome=outcome, message="no right to patch")


def told(reported: Plan) -> tuple[str, str, str]:
    condition = reported.services[0].conditions[0]
    return condition.status.value, condition.reason, condition.message


@pytest.mark.parametrize("outcome", [Outcome.FORBIDDEN, Outcome.INVALID, Outcome.FOREIGN, Outcome.FAILED])
def test_what_only_a_person_can_help_is_said(outcome: Outcome) -> None:
    assert told(Refusals().added(plan(), [result(outcome)])) == ("False", "WriteRefused", "no right to patch")


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.UNCHANGED, Outcome.CONFLICT, Outcome.RETRY])
def test_what_passes_by_itself_is_not(outcome: Outcome) -> None:
    assert Refusals().added(plan(), [result(outcome)]) == plan()


def failed(what: str = "scale") -> ActResult:
    words = 'HTTP 500: failed calling webhook "dead.example.com": connection refused'
    return ActResult(what=what, service="team/chat", variant="h100", outcome=Outcome.RETRY, message=words)


def at(seconds: float) -> Plan:
    return msgspec.structs.replace(plan(), at=world.NOW_S + seconds)


def test_a_write_that_fails_three_times_in_a_row_is_said_in_the_api_servers_words_and_by_an_event() -> None:
    """A dead fail-closed webhook: one try a minute, nothing in between, and the condition does not come and go."""
    refusals = Refusals()
    for seconds in (0.0, 60.0):
        assert refusals.added(at(seconds), [failed()]) == at(seconds)
    for seconds, tries in ((120.0, [failed()]), (130.0, []), (180.0, [failed()]), (190.0, [])):
        reported = refusals.added(at(seconds), tries)
        assert told(reported) == (
            "False",
            "WriteRefused",
            'failed 3 times or more: HTTP 500: failed calling webhook "dead.example.com": connection refused',
        )
    (note,) = [note for note in cycle_events(reported, world.snapshot(), ()) if note.reason == "WriteRefused"]
    assert note.type == "Warning"
    assert "dead.example.com" in note.text


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.UNCHANGED, Outcome.CONFLICT])
def test_an_answer_ends_the_row_of_failures(outcome: Outcome) -> None:
    refusals = Refusals()
    for seconds in range(3):
        refusals.added(at(seconds), [failed()])
    assert refusals.added(at(3.0), [result(outcome)]) == at(3.0)
    assert refusals.added(at(4.0), [failed()]) == at(4.0), "and counting begins anew"


def test_failures_long_apart_are_no_row_and_one_that_is_no_longer_tried_is_forgotten() -> None:
    refusals = Refusals()
    for seconds in (0.0, 200.0, 400.0, 600.0):
        assert refusals.added(at(seconds), [failed()]) == at(seconds)
    for seconds in (601.0, 602.0):
        refusals.added(at(seconds), [failed()])
    assert told(refusals.added(at(780.0), []))[0] == "False"
    assert refusals.added(at(782.0), []) == at(782.0)


def test_failures_of_one_target_are_not_counted_with_those_of_another() -> None:
    refusals = Refusals()
    for seconds, what in enumerate(("scale", "deployment", "service", "scale")):
        assert refusals.added(at(seconds), [failed(what)]) == at(seconds)


def test_a_deployment_that_cannot_be_created_because_of_a_dead_webhook_is_not_just_missing() -> None:
    refusals = Refusals()
    for _ in range(3):
        (service,) = refusals.added(unbuilt(), [failed("deployment")]).services
    assert service.reason.code is Code.WRITE_REFUSED
    assert service.reason.text.startswith("variant h100: failed 3 times or more: HTTP 500")


def test_a_scale_write_is_refused_until_the_next_cycle_that_does_not_try_it() -> None:
    refusals = Refusals()
    refusals.added(plan(), [result(Outcome.FORBIDDEN)])
    assert refusals.added(plan(), []) == plan()


def test_an_object_that_was_refused_stays_so_until_it_is_looked_at_again() -> None:
    refusals = Refusals()
    refusals.added(running(), [result(Outcome.FORBIDDEN, "deployment")])
    assert reasons(refusals.added(running(), []))["TargetResolved"] == "WriteRefused"
    assert refusals.added(running(), [result(Outcome.DONE, "deployment")]) == running()


FOUND = Condition("TargetResolved", ConditionStatus.TRUE, "Resolved", "1 targets found")


def running(resolved: Condition = FOUND) -> Plan:
    ready = Condition("Ready", ConditionStatus.TRUE, "Resolved", "2 of 2 replicas are ready")
    return Plan(at=world.NOW_S, services=(world.service_plan(conditions=(ready, resolved, WELL)),))


def reasons(reported: Plan) -> dict[str, str]:
    return {item.type: item.reason for item in reported.services[0].conditions}


@pytest.mark.parametrize("what", ["service", "deployment", "finalizer"])
def test_a_refused_object_of_an_engine_block_does_not_deny_that_replicas_are_scaled(what: str) -> None:
    reported = Refusals().added(running(), [result(Outcome.FOREIGN, what)])
    assert reasons(reported) == {"Ready": "WriteRefused", "TargetResolved": "WriteRefused", "Acting": "Acting"}
    assert {item.status.value for item in reported.services[0].conditions if item.type != "Acting"} == {"False"}
    assert reported.services[0].conditions[2] == WELL
    assert all(item.type in CATALOGUE[Code.WRITE_REFUSED].where for item in reported.services[0].conditions)
    notes = cycle_events(reported, world.snapshot(), ())
    assert [note.text for note in notes if note.reason == "WriteRefused"][:1] == ["no right to patch"]


def test_a_refused_scale_write_is_said_by_acting_alone() -> None:
    reported = Refusals().added(running(), [result(Outcome.FORBIDDEN)])
    assert reasons(reported) == {"Ready": "Resolved", "TargetResolved": "Resolved", "Acting": "WriteRefused"}


def test_a_refused_service_is_said_beside_what_does_not_resolve_anyway() -> None:
    fault = Condition("TargetResolved", ConditionStatus.FALSE, "PoolNotFound", "variant a100 names no pool")
    (service,) = Refusals().added(running(fault), [result(Outcome.FOREIGN, "service")]).services
    resolved = service.conditions[1]
    assert (resolved.reason, resolved.message) == ("PoolNotFound", "variant a100 names no pool; no right to patch")


def test_another_reason_not_to_act_is_stronger_and_another_service_is_left_alone() -> None:
    conflict = Condition("Acting", ConditionStatus.FALSE, "TargetConflict", "an HPA")
    assert Refusals().added(plan(conflict), [result(Outcome.FORBIDDEN)]) == plan(conflict)
    assert Refusals().added(plan(), [result(Outcome.FORBIDDEN, service="team/other")]) == plan()


def unbuilt(reason: Code = Code.TARGET_NOT_FOUND) -> Plan:
    text = "variant h100: Deployment chat-h100 does not exist"
    conditions = tuple(
        Condition(kind, ConditionStatus.FALSE, reason.value, text) for kind in ("Ready", "TargetResolved", "Acting")
    )
    return Plan(at=world.NOW_S, services=(world.service_plan(conditions=conditions, reason=Reason(reason, text)),))


def refused(outcome: Outcome) -> ActResult:
    words = "Deployment team/chat-h100: HTTP 422: spec.template.spec.containers[0].image: Required value"
    return ActResult(what="deployment", service="team/chat", variant="h100", outcome=outcome, message=words)


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.INVALID, Code.TEMPLATE_REFUSED), (Outcome.FORBIDDEN, Code.WRITE_REFUSED)]
)
def test_a_deployment_that_is_refused_is_not_just_missing(outcome: Outcome, code: Code) -> None:
    (service,) = Refusals().added(unbuilt(), [refused(outcome)]).services
    assert {(item.type, item.status.value, item.reason) for item in service.conditions} == {
        (kind, "False", code.value) for kind in ("Ready", "TargetResolved", "Acting")
    }
    assert service.reason.code is code
    assert all("image: Required value" in item.message for item in service.conditions)
    assert ("correct the variant's engine block" in service.reason.text) == (code is Code.TEMPLATE_REFUSED)
    assert all(item.type in CATALOGUE[code].where for item in service.conditions)


def test_a_change_that_is_refused_is_said_on_the_target_that_runs() -> None:
    well = tuple(Condition(kind, ConditionStatus.TRUE, "Resolved", "fine") for kind in ("Ready", "TargetResolved"))
    before = Plan(at=world.NOW_S, services=(world.service_plan(conditions=(*well, WELL)),))
    (service,) = Refusals().added(before, [refused(Outcome.INVALID)]).services
    said = {item.type: item.reason for item in service.conditions}
    assert said == {"Ready": "TemplateRefused", "TargetResolved": "TemplateRefused", "Acting": "Acting"}
    assert service.reason == before.services[0].reason, "what decided was something else"


def test_a_refused_template_is_one_event() -> None:
    told = Refusals().added(unbuilt(), [refused(Outcome.INVALID)])
    notes = cycle_events(told, world.snapshot(), ())
    assert {(note.type, note.reason, note.topic) for note in notes} == {
        ("Warning", "TemplateRefused", "TemplateRefused")
    }
    assert "image: Required value" in notes[0].text
