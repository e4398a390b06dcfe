"""A BatchPolicy as the rest of Ebbtide works with it."""

from typing import Any

import pytest

from ebbtide.api import parse_batch_policy
from ebbtide.errors import ConfigurationError
from ebbtide.model.batch import DEFAULT_CONFIDENCE, BatchPolicySpec, BatchWindow, Strategy
from tests.api.bad_batch import NIGHTS
from tests.api.samples import FULL_BATCH, REMOVED, batch_policy


def test_the_smallest_has_the_defaults_of_the_model() -> None:
    parsed = parse_batch_policy(batch_policy(("metadata.uid", "u1"), ("metadata.generation", 3)))
    assert parsed == BatchPolicySpec("default/nightly", "u1", 3, (("ebbtide.dev/batch", "nightly"),))
    assert parsed.confidence == DEFAULT_CONFIDENCE


def test_one_with_every_field() -> None:
    assert parse_batch_policy(FULL_BATCH) == BatchPolicySpec(
        key="default/full",
        uid="",
        generation=0,
        match_labels=(("ebbtide.dev/batch", "nightly"), ("team", "search")),
        strategy=Strategy.WINDOW,
        windows=(BatchWindow("0 22 * * 1-5", "Europe/Berlin", 9 * 3600.0),),
        holidays=("2026-12-25", "2026-12-26"),
        pools=("h100-reserved", "h100-spot"),
        max_gpus=64,
        deadline_s=24 * 3600.0,
        expected_duration_s=3 * 3600.0,
        confidence=0.99,
        preempts=True,
        grace_s=600.0,
        priority=200,
        paused=True,
    )


def test_labels_select_jobs_of_the_own_namespace_that_carry_them_all() -> None:
    parsed = parse_batch_policy(FULL_BATCH)
    labels = {"ebbtide.dev/batch": "nightly", "team": "search", "run": "7"}
    assert parsed.selects("default", labels)
    assert not parsed.selects("other", labels)
    assert not parsed.selects("default", {"team": "search"})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.selector", REMOVED, "spec.selector"),
        ("spec.selector.matchLabels", {}, "spec.selector.matchLabels: {} is not allowed"),
        ("spec.strategy", "Window", 'spec.strategy: "Window" is not allowed: Window needs windows or holidays'),
        ("spec.windows", [{**NIGHTS, "duration": "0s"}], 'spec.windows[0].duration: "0s" is not allowed'),
        ("spec.holidays", ["2100-02-29"], 'spec.holidays: "2100-02-29" is not allowed: must be a day such as 2026-12'),
        ("spec.deadline", "0s", 'spec.deadline: "0s" is not allowed: must be a duration above 0'),
        ("spec.expectedDuration", "soon", 'spec.expectedDuration: "soon" is not allowed'),
        ("spec.confidencePercent", "100", 'spec.confidencePercent: "100" is not allowed: must be a percentage from 50'),
        ("spec.preemption", {"gracePeriod": "a while"}, 'spec.preemption.gracePeriod: "a while" is not allowed'),
    ],
)
def test_what_an_older_definition_let_through_names_object_field_and_value(path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_batch_policy(batch_policy((path, value)))
    assert str(raised.value).startswith("BatchPolicy default/nightly: ")
    assert said in str(raised.value)
