"""The page of reasons, `docs/reference/reasons.md`, from the catalogue and from what becomes an Event.

`python -m ebbtide.record.reasons docs/reference/reasons.md` writes it. Has no words of its own about any one reason.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ebbtide.model.catalogue import DECISION, DEPLOYMENT, JOB, POLICY, SECTIONS, Entry
from ebbtide.model.reasons import Code
from ebbtide.record.events import BY_CODE, BY_CONDITION

_INTRODUCTION = """# Reasons

Every decision has a reason, "nothing to do" too: a word from this page, and a sentence with the numbers. Generated from
`operator/ebbtide/model/catalogue.py` by `make crds`; do not edit. [Fields](api.md) and [metrics](metrics.md) have pages
of their own.

Where a reason stands:

- **decision**: `status.reason` and `status.message` of the InferenceService, its `status.decisions`, and the REASON
  column of `kubectl get infs`. A decision that moves replicas is told by the Event `ScaledUp` or `ScaledDown`, in mode
  Recommend by `Recommended`.
- a name such as `Limited`: the condition of that type in the InferenceService's `status.conditions`; True is good, and
  for `Paused` and `Limited` it is a fact. What stands on `Limited` is also a variant's `limitedBy`.
- a name such as `GPUPool.Ready`: the condition of that type of the GPUPool, likewise of a CostPolicy or BatchPolicy.
- **job**: why a batch Job waits, runs or is left alone: an Event of that reason on the Job, repeated once an hour while
  it holds (none of `JobRuns`), and a count in the metric `ebbtide_batch_job_reasons`.
- **Event**: an Event of that reason on the InferenceService, said once in 15 minutes. What concerns every service is an
  Event on Ebbtide's own Deployment instead.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(line for section in SECTIONS for line in _section(*section))])


def _section(title: str, entries: Mapping[Code, Entry]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| reason | where | meaning | what to do |"
    yield "|---|---|---|---|"
    for code, entry in entries.items():
        if entry.where:
            yield f"| `{code.value}` | {', '.join(_places(code, entry))} | {entry.meaning} | {entry.fix} |"
    yield ""


def _places(code: Code, entry: Entry) -> Iterator[str]:
    if DECISION in entry.where:
        yield "decision"
    if JOB in entry.where:
        yield "job"
    yield from (f"`{place}`" for place in entry.where if place not in (DECISION, DEPLOYMENT, JOB, POLICY))
    if code in BY_CODE:
        yield f"Event `{BY_CODE[code][1]}`"
    if code.value in BY_CONDITION:
        yield f"Event `{code.value}`"
    if POLICY in entry.where:
        yield f"Event `{code.value}` on the CostPolicy"
    if DEPLOYMENT in entry.where:
        yield f"Event `{code.value}` on Ebbtide's Deployment"


def main(path: str) -> None:
    """Writes the page to `path`."""
    Path(path).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
