"""A clerk who works out what GPUs cost from who held them when, second by second. Imports nothing of Ebbtide.

Billed are whole UTC seconds, the first and the last one begun: a pod that is bound at 12:00:00 and gone at 12:00:07.4
is 8 seconds. Worked example: a GPU at 3.60 USD an hour costs a tenth of a cent a second, so that pod is 0.008 USD.
"""

import math
from collections.abc import Callable, Iterable
from decimal import Decimal

Price = Callable[[int], Decimal]
"""Of a GPU-hour in the second that begins at a unix second."""


def seconds(begin_s: float, end_s: float) -> range:
    """Those that are billed of [begin_s, end_s)."""
    return range(math.floor(begin_s), math.ceil(end_s))


def cost(held: Iterable[tuple[int, float, float]], price: Price, from_s: int, to_s: int) -> Decimal:
    """Of (GPUs, begin, end) within [from_s, to_s)."""
    total = Decimal(0)
    for gpus, begin_s, end_s in held:
        for at_s in seconds(max(begin_s, from_s), min(end_s, to_s)):
            total += gpus * price(at_s)
    return total / 3600
