"""How long one engine iteration takes, looked up in measured-like tables.

An iteration reads the weights once (by batch size), reads the KV cache of everything that runs (by tokens held) and
computes prompt chunks (by chunk size and by what of the prompt came before). Each part is a table with linear
interpolation, times step factors. There is deliberately no closed formula behind it: the capacity model that plans
replicas must learn from what it sees, and may never import this.
"""

import random
from bisect import bisect_right

import msgspec

Table = tuple[tuple[float, float], ...]

_KV_GRID_TOKENS = 4096


class StepTables(msgspec.Struct, frozen=True):
    """Iteration times of one accelerator and model, in milliseconds.

    `decode_ms`: by sequences decoding; `batch_steps`: factor from a batch size on (kernels that fill up in waves);
    `kv_read_ms`: by KV tokens held; `prefill_ms`: by prompt tokens in the iteration; `prefill_depth`: factor by prompt
    tokens that came before the chunk; `interference`: factor on prefill from a number of decoding sequences on.
    """

    decode_ms: Table
    kv_read_ms: Table
    prefill_ms: Table
    batch_steps: Table
    prefill_depth: Table
    interference: Table


def interpolate(table: Table, x: float) -> float:
    """The table's value at `x`: linear between points, the last two points' line beyond the end, flat before the first.

    ((0, 1), (10, 2)) at 5 is 1.5, at 20 is 3.0, at -1 is 1.0.
    """
    if x <= table[0][0] or len(table) == 1:
        return table[0][1]
    right = min(bisect_right(table, x, key=lambda point: point[0]), len(table) - 1)
    (x0, y0), (x1, y1) = table[right - 1], table[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def step(table: Table, x: float) -> float:
    """The value of the last point at or before `x`; the first value before all points."""
    return table[max(0, bisect_right(table, x, key=lambda point: point[0]) - 1)][1]


class StepTimes:
    """The tables of one engine: coefficients drawn around the accelerator's, lookups made cheap.

    `spread` is the largest relative deviation of a part: 0.05 draws each of decode, KV and prefill from 0.95..1.05.
    """

    def __init__(self, tables: StepTables, max_batch: int, kv_tokens: int, spread: float, seed: int) -> None:
        draw = random.Random(seed)
        decode, kv, prefill = (draw.uniform(1 - spread, 1 + spread) / 1000 for _ in range(3))
        self._decode_s = [decode * _decode_ms(tables, batch) for batch in range(max_batch + 1)]
        grid_points = kv_tokens // _KV_GRID_TOKENS + 2
        self._kv_s = [kv * interpolate(tables.kv_read_ms, i * _KV_GRID_TOKENS) for i in range(grid_points)]
        self._prefill = prefill
        self._tables = tables

    def iteration_s(self, decoding: int, kv_tokens: float, prefill_tokens: int, depth_tokens: int) -> float:
        """Seconds of one iteration without jitter."""
        cell, rest = divmod(kv_tokens, _KV_GRID_TOKENS)
        low = self._kv_s[int(cell)]
        kv_s = low + (self._kv_s[int(cell) + 1] - low) * (rest / _KV_GRID_TOKENS)
        # weights are read also where only a prompt is computed
        base_s = self._decode_s[max(1, decoding)] + kv_s
        if not prefill_tokens:
            return base_s
        factor = step(self._tables.interference, decoding) * interpolate(self._tables.prefill_depth, depth_tokens)
        return base_s + self._prefill * factor * interpolate(self._tables.prefill_ms, prefill_tokens)


def _decode_ms(tables: StepTables, batch: int) -> float:
    return interpolate(tables.decode_ms, batch) * step(tables.batch_steps, batch)
