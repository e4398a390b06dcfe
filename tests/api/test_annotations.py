"""What the annotations of a batch Job ask for, and what is said of those that cannot be read."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.annotations import DEADLINE, EXPECTED_DURATION, RESTARTABLE, asked
from ebbtide.model.batch import Asked

CREATED = datetime(2026, 12, 24, 12, tzinfo=UTC).timestamp()
HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        pytest.param({}, Asked(), id="nothing"),
        pytest.param({"example.com/deadline": "8h"}, Asked(), id="nothing of ours"),
        pytest.param({DEADLINE: "8h"}, Asked(deadline_at=CREATED + 8 * HOUR_S), id="eight hours from its creation"),
        pytest.param({DEADLINE: "2026-12-24T18:00:00Z"}, Asked(deadline_at=CREATED + 6 * HOUR_S), id="a moment"),
        pytest.param({DEADLINE: "2026-12-24t18:00:00z"}, Asked(deadline_at=CREATED + 6 * HOUR_S), id="small letters"),
        pytest.param({DEADLINE: "2026-12-24T20:00:00.5+02:00"}, Asked(deadline_at=CREATED + 6 * HOUR_S + 0.5),
                     id="a moment elsewhere"),
        pytest.param({EXPECTED_DURATION: "1h30m"}, Asked(expected_duration_s=5400.0), id="a duration"),
        pytest.param({RESTARTABLE: "true"}, Asked(restartable=True), id="it may be stopped"),
        pytest.param({RESTARTABLE: "false"}, Asked(), id="it may not, said explicitly"),
        pytest.param({DEADLINE: "8784h", EXPECTED_DURATION: "744h"},
                     Asked(deadline_at=CREATED + 8784 * HOUR_S, expected_duration_s=744 * HOUR_S), id="the longest"),
        pytest.param({DEADLINE: "1m", EXPECTED_DURATION: "1s"}, Asked(CREATED + 60.0, 1.0), id="the shortest"),
    ],
)  # fmt: skip
def test_what_is_asked(annotations: dict[str, str], wanted: Asked) -> None:
    assert asked(annotations, CREATED) == wanted


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (DEADLINE, "tomorrow", "a duration from the Job's creation, from 1m to 8784h, such as 8h"),
        (DEADLINE, "", "must be RFC 3339 with a time zone, such as 2026-12-24T18:00:00Z"),
        (DEADLINE, "2026-12-25", "must be RFC 3339 with a time zone"),
        (DEADLINE, "2026-12-24T18:00:00", "must be RFC 3339 with a time zone"),
        (DEADLINE, "2026-13-24T18:00:00Z", "must be RFC 3339 with a time zone"),
        (DEADLINE, "2026-12-24T18:00:00+99:00", "must be RFC 3339 with a time zone"),
        (DEADLINE, "2026-12-24T12:00:00Z", "(it is not after the Job's creation, 2026-12-24T12:00:00Z)"),
        (DEADLINE, "2028-12-24T12:00:00Z", "(it is more than 8784h after the Job's creation, 2026-12-24T12:00:00Z)"),
        (DEADLINE, "59s", "from 1m to 8784h"),
        (DEADLINE, "8785h", "from 1m to 8784h"),
        (DEADLINE, "-8h", "from 1m to 8784h"),
        (DEADLINE, "2d", "from 1m to 8784h"),
        (DEADLINE, "9" * 400 + "h", "from 1m to 8784h"),
        (EXPECTED_DURATION, "long", "must be a duration from 1s to 744h, such as 45m or 3h"),
        (EXPECTED_DURATION, "0s", "must be a duration from 1s to 744h"),
        (EXPECTED_DURATION, "745h", "must be a duration from 1s to 744h"),
        (EXPECTED_DURATION, "3", "must be a duration from 1s to 744h"),
        (RESTARTABLE, "yes", 'must be "true" or "false"'),
        (RESTARTABLE, "True", 'must be "true" or "false"'),
    ],
)
def test_what_cannot_be_read_is_as_if_it_were_not_there_and_is_said(name: str, text: str, said: str) -> None:
    good = {DEADLINE: "1h", EXPECTED_DURATION: "1m", RESTARTABLE: "true"} | {name: text}
    found = asked(good, CREATED)
    ((where, words),) = found.faults
    assert where == name
    assert words.startswith(f'{name}: "{text[:100]}')
    assert "is not allowed: " in words
    assert said in words
    without = {key: value for key, value in good.items() if key != name}
    assert asked(without, CREATED) == Asked(found.deadline_at, found.expected_duration_s, found.restartable)


def test_each_wrong_annotation_is_said() -> None:
    wrong = {DEADLINE: "soon", EXPECTED_DURATION: "long", RESTARTABLE: "maybe"}
    assert [name for name, _ in asked(wrong, CREATED).faults] == [DEADLINE, EXPECTED_DURATION, RESTARTABLE]


digits = st.text("0123456789-:.TZ+hms ", max_size=40)


@given(st.dictionaries(st.sampled_from([DEADLINE, EXPECTED_DURATION, RESTARTABLE]), st.text() | digits))
def test_no_text_does_more_than_be_refused(annotations: dict[str, str]) -> None:
    found = asked(annotations, CREATED)
    assert all(len(words) < 600 for _, words in found.faults)
    assert found.deadline_at is None or found.deadline_at > CREATED
    assert found.expected_duration_s is None or found.expected_duration_s >= 1.0


@given(st.integers(1, 8783), st.integers(0, 59))
def test_a_duration_and_the_moment_it_means_are_the_same_deadline(hours: int, minutes: int) -> None:
    at_s = CREATED + hours * HOUR_S + minutes * 60.0
    moment = datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert asked({DEADLINE: f"{hours}h{minutes}m"}, CREATED) == asked({DEADLINE: moment}, CREATED)
