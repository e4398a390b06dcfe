"""Fits an emulated engine to a real one, from scrapes of the real one's /metrics and nothing else.

Between two scrapes the mean gap between tokens is the mean time of an iteration, tokens per iteration is how many
sequences were decoding, and prompts per iteration is what they shared it with: one row of a least-squares problem. A
request that came alone into an idle engine gives another: its first token took the frontend and its prompt's chunks.
The answer is the emulator's tables. It knows nothing of the operator's capacity model and must not: whatever shape
latency has there, the emulator has to have its own.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.sim.leastsquares import Row, robust
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.tables import StepTables, Table

_BATCH_KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_CHUNK_KNOTS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_KV_UNIT_TOKENS = 1000.0
_LEAST_WINDOWS = 30
_LEAST_ALONE = 5
_LEAST_ITERATIONS = 3
_ALONE_WEIGHT = 6.0  # a request that came alone shows its prompt exactly: it counts as much as 36 iterations
_MOST_JITTER = 0.3


class Totals(msgspec.Struct, frozen=True):
    """What an engine says at one scrape: gauges as they are, the others since its start."""

    at_s: float
    running: float
    waiting: float
    kv_usage: float  # 0..1
    iterations: float  # those that gave out a token
    gaps: float  # between tokens
    gap_s: float  # all gaps together
    first_tokens: float
    first_token_s: float  # all times to a first token together
    prompt_tokens: float  # counted with a prompt's first token


class Limits(msgspec.Struct, frozen=True):
    """What the engine's flags and labels say, so that nobody has to fit it. All in tokens."""

    kv_tokens: int
    kv_block_tokens: int
    max_num_batched_tokens: int
    max_model_tokens: int


class Fit(msgspec.Struct, frozen=True):
    """The profile, and what it rests on.

    `windows` are pairs of scrapes with work throughout; `alone` are requests that came into an idle engine;
    `typical_error` is the middle relative difference between a window's iteration time and the profile's.
    """

    profile: EngineProfile
    windows: int
    alone: int
    typical_error: float


class _Ramps:
    """A rising broken line through knots, as columns: each is 0 before its stretch, 1 after it, straight within.

    Through 0, 10 and 30 the place 20 is (1, 0.5). Coefficients are the rises, so none below 0 means never falling.
    """

    def __init__(self, knots: Sequence[int]) -> None:
        self._stretches = tuple(pairwise(knots))
        self._knots = knots
        self.count = len(self._stretches)

    def at(self, x: float) -> list[float]:
        """The columns; beyond the last knot the last stretch goes on."""
        last = len(self._stretches) - 1
        return [
            max(0.0, (x - low) / (high - low)) if i == last else min(1.0, max(0.0, (x - low) / (high - low)))
            for i, (low, high) in enumerate(self._stretches)
        ]

    def table(self, first: float, rises: Sequence[float]) -> Table:
        """The line itself, from `first` at the first knot on."""
        points, value = [(float(self._knots[0]), first)], first
        for knot, rise in zip(self._knots[1:], rises, strict=True):
            value += rise
            points.append((float(knot), value))
        return tuple(points)


class _Design:
    """Which column means what: base, rises by batch, rises by prompt chunk, KV read, frontend. All in milliseconds."""

    def __init__(self, limits: Limits, max_num_seqs: int) -> None:
        self.limits = limits
        self.batch = _Ramps((*(knot for knot in _BATCH_KNOTS if knot < max_num_seqs), max(2, max_num_seqs)))
        chunk = min(limits.max_num_batched_tokens, limits.max_model_tokens)
        self.chunk = _Ramps((0, *(knot for knot in _CHUNK_KNOTS if knot < chunk), chunk))

    def window(self, before: Totals, after: Totals) -> Row | None:
        """The row of two scrapes with work throughout; None where too little happened or the batch changed a lot."""
        iterations, gaps = after.iterations - before.iterations, after.gaps - before.gaps
        if iterations < _LEAST_ITERATIONS or gaps < iterations or min(before.running, after.running) < 1.0:
            return None
        decoding = gaps / iterations
        if abs(after.running - before.running) > max(2.0, 0.5 * decoding):
            return None
        prompts, tokens = after.first_tokens - before.first_tokens, after.prompt_tokens - before.prompt_tokens
        chunks = self._chunks(tokens / prompts, decoding) if prompts else []
        held = 0.5 * (before.kv_usage + after.kv_usage) * self.limits.kv_tokens
        columns = (
            1.0,
            *self.batch.at(decoding),
            # who computes a prompt decodes in the next iteration: while it does, about half a sequence less does
            *self._prompt(chunks, prompts / iterations * (decoding - 0.5) / decoding),
            held / _KV_UNIT_TOKENS,
            0.0,
        )
        step_ms = 1000.0 * (after.gap_s - before.gap_s) / gaps
        return Row(columns, step_ms, math.sqrt(iterations) / step_ms)

    def alone(self, before: Totals, after: Totals) -> Row | None:
        """The row of one request that came into an idle engine; None for anything else between two scrapes."""
        if before.running or before.waiting or after.first_tokens - before.first_tokens != 1.0:
            return None
        if after.running + after.waiting > 1.0:
            return None
        first_ms = 1000.0 * (after.first_token_s - before.first_token_s)
        if first_ms <= 0.0:
            return None
        tokens = after.prompt_tokens - before.prompt_tokens
        chunks = self._chunks(tokens, 0.0)
        rises = [0.0] * self.batch.count
        held = sum(tokens for _ in chunks) / _KV_UNIT_TOKENS
        columns = (float(len(chunks)), *rises, *self._prompt(chunks, 1.0), held, 1.0)
        return Row(columns, first_ms, _ALONE_WEIGHT / first_ms)

    def _chunks(self, tokens: float, decoding: float) -> list[float]:
        """A prompt as the token budget cuts it beside what decodes: 300 tokens at 128 are 128, 128 and 44."""
        most = max(1.0, self.limits.max_num_batched_tokens - decoding)
        whole, rest = divmod(tokens, most)
        return [most] * int(whole) + ([rest] if rest >= 1.0 or not whole else [])

    def _prompt(self, chunks: Sequence[float], times: float) -> list[float]:
        columns = [0.0] * self.chunk.count
        for chunk in chunks:
            columns = [have + times * more for have, more in zip(columns, self.chunk.at(chunk), strict=True)]
        return columns

    def has_prompts(self, row: Row) -> bool:
        """Whether prompts were computed behind the row."""
        return any(row.columns[1 + self.batch.count : -2])

    def profile(self, found: Sequence[float], max_num_seqs: int, jitter: float, name: str) -> EngineProfile:
        """The tables that the coefficients mean."""
        limits, batch_end = self.limits, 1 + self.batch.count
        chunk_end = batch_end + self.chunk.count
        kv_ms = found[chunk_end]
        return EngineProfile(
            model=name,
            accelerator="CPU",
            engine="vllm",
            gpus=1,
            steps=StepTables(
                decode_ms=self.batch.table(found[0], found[1:batch_end]),
                kv_read_ms=((0.0, 0.0), (_KV_UNIT_TOKENS, kv_ms)),
                prefill_ms=self.chunk.table(0.0, found[batch_end:chunk_end]),
                batch_steps=((1.0, 1.0),),
                prefill_depth=((0.0, 1.0),),
                interference=((0.0, 1.0),),
            ),
            kv_tokens=limits.kv_tokens,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_tokens=limits.max_model_tokens,
            kv_block_tokens=limits.kv_block_tokens,
            frontend_s=found[-1] / 1000.0,
            spread=0.0,
            jitter=jitter,
            stall_every=0,
        )


def fit(scrapes: Sequence[Totals], limits: Limits, name: str = "fitted") -> Fit:
    """The profile of the engine that said `scrapes`, oldest first, a second or so apart.

    ConfigurationError says what the load behind them lacked: a fit of what was never seen would be a guess.
    """
    max_num_seqs = _most_running(scrapes)
    design = _Design(limits, max_num_seqs)
    windows = list(_rows(design.window(*pair) for pair in pairwise(scrapes)))
    alone = list(_rows(design.alone(*pair) for pair in pairwise(scrapes)))
    if len(windows) < _LEAST_WINDOWS or len(alone) < _LEAST_ALONE:
        raise ConfigurationError(
            f"scrapes to fit to: {len(windows)} show work throughout and {len(alone)} a request that came alone; at "
            f"least {_LEAST_WINDOWS} and {_LEAST_ALONE} are needed: send a load for longer, and a slow one first"
        )
    found = robust([*windows, *alone])
    # weighted residuals are relative errors times the root of the iterations behind them
    plain = [row for row in windows if not design.has_prompts(row)] or windows
    jitter = 1.48 * _middle([abs(row.residual(found)) for row in plain])
    errors = [abs(row.residual(found)) / (row.weight * row.value) for row in windows]
    profile = design.profile(found, max_num_seqs, min(_MOST_JITTER, jitter), name)
    return Fit(profile, len(windows), len(alone), _middle(errors))


def _most_running(scrapes: Sequence[Totals]) -> int:
    """The batch limit: as many as run while others wait for a place."""
    full = [int(scrape.running) for scrape in scrapes if scrape.waiting >= 1.0]
    if not full:
        raise ConfigurationError(
            "scrapes to fit to: no request ever waited, so the batch limit was not reached; send more at a time"
        )
    return max(full)


def _rows(found: Iterator[Row | None]) -> Iterator[Row]:
    return (row for row in found if row is not None)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
