"""Which parts of the decision are at work. In the operator all of them, always; a benchmark may leave one out.

So that what each part is worth can be measured, and by anybody. Nothing that a user may set leads here. What stands in
for a part that is left out is the simplest thing that people do instead, and is said beside each.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of `core`; each is asked for in exactly one place."""

    forecast: bool = True  # without: what comes now is what will come
    record: bool = True  # of past errors and jumps; without: the doubt that a forecaster without a record has
    price: bool = True  # of a miss; without: each moment's forecast meets the target by itself, whatever was missed
    tail: bool = True  # of the batch; without: a fixed utilisation
    keep: bool = True  # start, keep and stop by one rule; without: what pays once it is ready, start-up not counted


ALL = Parts()
