"""BatchPolicy: which Jobs of a namespace wait for the hours and the GPUs that are cheap; namespaced.

Must never mean a Job that nobody labelled: a selector without labels would hold every Job of the namespace.
"""

from typing import Annotated

from pydantic import Field

from ebbtide.api.fields import (
    DECIMAL_PATTERN,
    DURATION_PATTERN,
    LABEL_KEYS,
    SIGNED_PATTERN,
    ApiModel,
    LabelValue,
    ObjectName,
    cel_text,
    duration,
    matching,
    quantity,
    rule,
    rules,
    unique,
)
from ebbtide.api.pool import Window
from ebbtide.api.status import Conditions, Count, Message, ReasonCode, Timestamp
from ebbtide.model.batch import Strategy
from ebbtide.model.plan import Outcome

LONGEST_DEADLINE = "8784h"  # a leap year; the annotation of a Job may say as much
LONGEST_RUN = "744h"  # 31 days

_THIRTY = "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_THIRTY_ONE = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_LEAP = "20([02468][048]|[13579][26])-02-29"
# how long a day is stays with maxLength: the API server needs that to bound what a rule costs
Day = Annotated[
    str,
    matching(
        f"^[0-9]*(20[0-9][0-9]-({_THIRTY}|{_THIRTY_ONE}|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP})$",
        10,
        "must be a day that the calendar has, from 2000 to 2099, such as 2026-12-25",
    ),
]
"""A day of a calendar, such as 2026-12-25."""

_OPENS = rule(
    "!has(self.strategy) || self.strategy != 'Window' || (has(self.windows) && self.windows.size() > 0) "
    "|| (has(self.holidays) && self.holidays.size() > 0)",
    "Window needs windows or holidays: without any no Job would ever start",
    field=".strategy",
)
_FORM = cel_text(DURATION_PATTERN)
# what is no duration is refused where it stands
_IN_TIME = rule(
    f"!has(self.deadline) || !has(self.expectedDuration) || !self.deadline.matches({_FORM}) "
    f"|| !self.expectedDuration.matches({_FORM}) || duration(self.expectedDuration) <= duration(self.deadline)",
    "must not be longer than deadline: no Job could end in time",
    field=".expectedDuration",
)


class JobSelector(ApiModel):
    """Which Jobs of the policy's namespace are meant."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16, json_schema_extra=LABEL_KEYS)]
    """Labels that the Jobs themselves carry (not their pods), 1 to 16 with keys of up to 317 and values of up to 63
    characters; all must match. A Job that two policies select stays as it is. Required."""


class Preemption(ApiModel):
    """Whether Jobs that run may be stopped."""

    allowed: bool = True
    """Whether Jobs with the annotation ebbtide.dev/restartable: "true" may be stopped when services need their GPUs, a
    ceiling leaves no money, or a window closes; all other Jobs never are. Unset: true."""
    grace_period: Annotated[str, duration("0s", "24h", "30s or 10m")] | None = None
    """How long pods of a stopped Job may take to go, as a duration from 0s to 24h: as long before services may need
    GPUs they are given back. Unset: terminationGracePeriodSeconds of the Job's pod template."""


class BatchPolicySpec(ApiModel, json_schema_extra=rules(_OPENS, _IN_TIME)):
    """Which Jobs wait, and for what."""

    selector: JobSelector
    """Which Jobs of the policy's namespace are meant, and which InferenceServices with serviceClass Background. Jobs
    with a queue of Kueue or another spec.managedBy are left alone. Required."""
    strategy: Strategy = Strategy.IDLE_OR_WINDOW
    """When Jobs may run. Window: in windows alone. IdleOrWindow: in windows, and at any time on GPUs that are paid for
    anyway and that no service will need. Cheapest: whenever it costs least, deadlines kept. Unset: IdleOrWindow."""
    windows: Annotated[
        tuple[Window, ...], Field(max_length=24, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Hours in which Jobs may run, up to 24; those that overlap are one. Under Cheapest they are not needed and change
    nothing. Unset: none."""
    holidays: Annotated[tuple[Day, ...], Field(max_length=100, json_schema_extra=unique())] = ()
    """Days such as 2026-12-25 that are windows from end to end, up to 100 of 10 characters each, in the time zone of
    each window; of UTC where there are no windows. Unset: none."""
    pools: Annotated[tuple[ObjectName, ...], Field(max_length=32, json_schema_extra=unique())] = ()
    """GPUPools on which Jobs may run, up to 32 with names of up to 253 characters. Unset: all that have the GPUs that a
    Job asks for."""
    max_gpus: Annotated[Annotated[int, Field(ge=0, le=1000000)] | None, Field(alias="maxGPUs")] = None
    """Most GPUs that the policy's Jobs and Background services may hold at once, 0 to 1000000; 0 starts none.
    Unset: no limit of its own."""
    deadline: Annotated[str, duration("1m", LONGEST_DEADLINE, "8h or 24h")] | None = None
    """By when a Job is to end, as a duration from its creation, from 1m to 8784h; its annotation ebbtide.dev/deadline
    goes before. Unset: Jobs without that annotation have no deadline."""
    expected_duration: Annotated[str, duration("1s", LONGEST_RUN, "45m or 3h")] | None = None
    """How long a Job runs, as a duration from 1s to 744h, where neither its annotation ebbtide.dev/expected-duration
    says so nor earlier runs of the same owner. Unset: unknown; such a Job starts as early as it may."""
    confidence_percent: Annotated[
        str,
        quantity(
            DECIMAL_PATTERN,
            8,
            "must be a percentage from 50 to 99.9 as a decimal string without a percent sign, such as 95 or 99",
            "double(self) >= 50.0 && double(self) <= 99.9",
        ),
    ] = "99"
    """With how many percent of certainty deadlines are to be kept, as a decimal string from 50 to 99.9: durations vary,
    and the more certain, the earlier Jobs start. Unset: "99"."""
    preemption: Preemption = Preemption()
    """Whether Jobs that run may be stopped. Unset: those that say that they are restartable may be."""
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    """Which Jobs go first where not all can run, 0 to 1000; higher ones first. Deadlines of lower ones are missed
    before those of higher ones. Unset: 100."""
    paused: bool = False
    """True: Jobs are neither started nor stopped, those that wait go on waiting, and Background services are neither
    raised nor drained. Unset: false."""


class Saved(ApiModel):
    """Money."""

    amount: Annotated[str, Field(max_length=24, pattern=SIGNED_PATTERN)]
    """How much in the currency, as a decimal string; below 0 where running at once had been cheaper."""
    currency: Annotated[str, Field(max_length=3)]
    """ISO 4217 code."""


class JobRow(ApiModel):
    """One Job of the policy: what is done with it, and what is planned."""

    name: Annotated[str, Field(max_length=253)]
    """Of the Job, up to 253 characters."""
    outcome: Outcome
    """What was last decided: Starts, Runs, Stops, Shrinks, Grows, Waits, LeftAlone (its user's or another
    controller's) or Impossible (nothing that could run it is there)."""
    pool: Annotated[str, Field(max_length=253)] | None = None
    """GPUPool that it runs on or is planned on, up to 253 characters. Unset: none is chosen."""
    gpus: Count
    """GPUs of all its pods at once."""
    start: Timestamp | None = None
    """When its present run began or the next is planned to, as RFC 3339; planned ones may move. Unset: not known."""
    end: Timestamp | None = None
    """When it ends as expected, as RFC 3339. Unset: not known."""
    must_start_by: Timestamp | None = None
    """Latest start with which its deadline is kept as surely as the policy asks, as RFC 3339. Unset: no deadline, or it
    runs."""
    deadline: Timestamp | None = None
    """By when it is to end, as RFC 3339. Unset: no deadline."""
    late: bool | None = None
    """True: it will miss its deadline, or has. Unset: it will not."""
    reason: Annotated[str, Field(max_length=256)]
    """Why, in words with the numbers, up to 256 characters; the Job's Event has all of it."""


class BatchPolicyStatus(ApiModel):
    """How the policy's Jobs stand. Each is counted in one state: queued, running, stopped, impossible or suspended by
    users. Ended Jobs, and those that another controller holds, are not counted, unless it is said."""

    observed_generation: Count | None = None
    """Value of metadata.generation that this was decided on. Unset: not looked at yet."""
    conditions: Conditions | None = None
    """Aspects of the state, up to 24, unique by type; Ready sums them up. Unset: not looked at yet."""
    reason: ReasonCode | None = None
    """Why the condition Ready is as it is, as one word. Unset: not looked at yet."""
    message: Message | None = None
    """The same in a sentence with the numbers, up to 1024 characters. Unset: not looked at yet."""
    queued: Count | None = None
    """Jobs that wait to be started for the first time. Unset: not looked at yet."""
    running: Count | None = None
    """Jobs that run, whoever started them. Unset: not looked at yet."""
    stopped: Count | None = None
    """Jobs that ran, were stopped by Ebbtide and will be started again. Unset: not looked at yet."""
    impossible: Count | None = None
    """Jobs that no pool could ever run; the condition Placeable says why. Unset: not looked at yet."""
    suspended_by_users: Count | None = None
    """Jobs that people suspended; they stay so until somebody resumes them. Unset: not looked at yet."""
    missed: Count | None = None
    """Jobs whose deadline passed before they ended, ended ones included, since the policy was first seen. Unset: not
    looked at yet."""
    gpus: Count | None = None
    """GPUs that Background services of the policy have, and that pods of its Jobs hold; those of a stopped Job count
    until its pods are gone, of one that starts from then on. Unset: not looked at yet."""
    next_start: Timestamp | None = None
    """When the next Job is planned to start, as RFC 3339; it may move. Unset: none is planned."""
    next_window: Timestamp | None = None
    """When the next window opens, as RFC 3339. Unset: none is near."""
    jobs: (
        Annotated[tuple[JobRow, ...], Field(max_length=50, json_schema_extra={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = None
    """Queue and plan, up to 50 Jobs: those that hold GPUs by start (half of the places where others wait), then those
    that wait by planned start. Fewer where they would make the status larger than 24 KiB. Unset: there is none."""
    saved: Saved | None = None
    """What the policy's Jobs cost less than if each had run at once, since the policy was first seen. Method: the GPUs
    and time that a Job took, at the price of the cheapest allowed pool at its creation, less what it cost where and
    when it ran; GPUs that were paid for anyway cost nothing there. Jobs without a known price are left out.
    Unset: nothing is known of it yet."""


class BatchPolicy(ApiModel):
    """Jobs that wait for the hours and the GPUs that are cheap or already paid for, and still end in time."""

    spec: BatchPolicySpec
    """Which Jobs wait, and for what; written by people. Required."""
    status: BatchPolicyStatus | None = None
    """How the policy's Jobs stand; written by Ebbtide alone. Unset: not looked at yet."""
