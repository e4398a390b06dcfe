"""One emulated inference engine: continuous batching, iteration by iteration, on whatever clock its caller has.

Each iteration gives every decoding request one token and spends what is left of the token budget on prompts, oldest
first. While nobody joins or leaves, iterations are alike and are taken as one block, so a quiet engine costs little.
Where blocks begin and end depends on requests alone, never on how often `advance` is called: a simulator that jumps
and an emulator that ticks each 50 ms see the same engine. It knows nothing of the operator's capacity model.
"""

import math
import random
from itertools import count

from ebbtide.sim.batch import Batch, Chunks, Sequence
from ebbtide.sim.histogram import Histogram
from ebbtide.sim.meters import Counters, Meters
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import REJECTED, Outcome, Request
from ebbtide.sim.tables import StepTimes

__all__ = ["Engine", "Outcome", "Request"]

# so that the KV cache's growth shows in the iteration time
_MAX_BLOCK_ITERATIONS = 64
_STOP_SHARE = 0.9  # of the answers end by themselves, the others at their length limit
_STALL_FACTORS = (2.0, 6.0)


class _Block:
    """Equal iterations, `step_s` each from `start_s`; `chunks`: prompt tokens, where there is but one iteration."""

    __slots__ = ("chunks", "iterations", "start_s", "step_s")

    def __init__(self, start_s: float, step_s: float, iterations: int, chunks: Chunks) -> None:
        self.start_s, self.step_s, self.iterations, self.chunks = start_s, step_s, iterations, chunks

    @property
    def end_s(self) -> float:
        return self.start_s + self.iterations * self.step_s

    def done(self, now_s: float) -> int:
        """Iterations that ended at or before `now_s`."""
        return max(0, min(self.iterations, int((now_s - self.start_s) / self.step_s)))


class Engine:
    """An engine of `profile` whose coefficients, jitter and stalls are drawn from `seed`.

    Calls must come in the order of time: `submit` and `advance` refuse a time before the last one (ValueError).
    """

    def __init__(self, profile: EngineProfile, seed: int) -> None:
        self.profile = profile
        self.meters = Meters(profile.max_model_tokens)
        self._times = StepTimes(profile.steps, profile.max_num_seqs, profile.kv_tokens, profile.spread, seed)
        self._draw = random.Random(seed ^ 0x5EED)
        self._batch = Batch(profile)
        self._counters = Counters()
        self._numbers = count()
        self._now_s = -math.inf
        self._free_at_s = -math.inf  # where the next block may begin
        self._block: _Block | None = None
        self._until_stall = self._draw_stall()
        self._ended: list[Outcome] = []

    # --- what it shows -------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Requests admitted to the batch, prompts under way included."""
        return len(self._batch.running)

    @property
    def waiting(self) -> int:
        """Requests queued inside the engine."""
        return len(self._batch.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache held, 0..1."""
        return min(1.0, (self._batch.taken_tokens + self._partial_tokens()) / self.profile.kv_tokens)

    @property
    def queued_prompt_tokens(self) -> int:
        """Tokens that those who wait have yet to compute."""
        return sum(sequence.prefill_left for sequence in self._batch.waiting)

    @property
    def scheduled_prompt_tokens(self) -> int:
        """Tokens of admitted prompts that are yet to be computed."""
        return self._batch.prefilling_tokens

    @property
    def counters(self) -> Counters:
        """Totals at the time of the last call; a copy."""
        totals = self._counters
        return Counters(
            finished=dict(totals.finished),
            prompt_tokens=totals.prompt_tokens,
            generation_tokens=totals.generation_tokens + self._partial_tokens(),
            preemptions=totals.preemptions,
            rejected=totals.rejected,
        )

    @property
    def ttft(self) -> Histogram:
        """Seconds from submission to the first token."""
        return self.meters.ttft

    @property
    def itl(self) -> Histogram:
        """Seconds between tokens, each gap counted, those of the block under way included; a copy."""
        step_s = self._block.step_s if self._block else 0.0
        return self.meters.itl.with_observed(step_s, self._partial_tokens())

    @property
    def tpot(self) -> Histogram:
        """Seconds per output token after the first, one value for each finished request."""
        return self.meters.tpot

    @property
    def iteration_tokens(self) -> Histogram:
        """Tokens of each iteration that gave out one, those of the block under way included; a copy.

        A prompt is counted as a whole, with its first token: an engine says nothing of a prompt's first chunks.
        """
        done = 0 if self._block is None else self._block.done(self._now_s)
        return self.meters.iteration_tokens.with_observed(self._batch.decoding, done if self._batch.decoding else 0)

    def next_event_s(self) -> float | None:
        """When the batch next changes (the earliest time at which a request may start or end); None when idle."""
        if self._ended:
            return self._now_s
        self._plan()
        return None if self._block is None else self._block.end_s

    # --- what it is told -----------------------------------------------------------------------------------------

    def submit(self, request: Request, now_s: float) -> None:
        """Take `request` at `now_s` (at or after its arrival); it ends exactly once, as an Outcome of `advance`."""
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id}: prompt and output need at least one token each: {request}")
        self._run_to(now_s)
        refusal = self._refusal(request)
        if refusal is not None:
            self._ended.append(Outcome(request, None, now_s, refusal))
            return
        if not self._batch.waiting:
            self._cut_block(request, now_s)
        self._batch.waiting.append(Sequence(next(self._numbers), request, now_s))
        if self._block is None:
            self._free_at_s = max(self._free_at_s, now_s)

    def advance(self, to_s: float) -> list[Outcome]:
        """Run every iteration that ends at or before `to_s`; the requests that ended since the last call."""
        self._run_to(to_s)
        ended, self._ended = self._ended, []
        return ended

    def abort_all(self, now_s: float) -> list[Outcome]:
        """End everything at `now_s` as a killed process does; also returns what ended before and was not handed out."""
        self._run_to(now_s)
        if self._block is not None:
            self._commit(self._block, self._block.done(now_s))
            self._block = None
        generated = {number: self._batch.generated(held) for number, held in self._batch.running.items()}
        for held in self._batch.clear():
            self._counters.finished["abort"] += 1
            tokens = generated.get(held.number, held.generated)
            self._ended.append(Outcome(held.request, held.first_s, now_s, "abort", tokens))
        return self.advance(now_s)

    # --- how it runs ---------------------------------------------------------------------------------------------

    def _run_to(self, to_s: float) -> None:
        if to_s < self._now_s:
            raise ValueError(f"time runs backwards: {to_s} s after {self._now_s} s")
        self._now_s = to_s
        while True:
            self._plan()
            block = self._block
            if block is None or block.end_s > to_s:
                return
            self._complete(block)

    def _refusal(self, request: Request) -> str | None:
        """The finish reason of a request that is refused at the door."""
        limit = min(self.profile.kv_tokens, self.profile.max_model_tokens)
        if request.prompt_tokens + request.output_tokens > limit:
            self._counters.finished["error"] += 1
            return "error"
        queued = self.profile.max_queued_requests
        if queued is not None and self.running + self.waiting >= queued:
            self._counters.rejected += 1
            return REJECTED
        return None

    def _plan(self) -> None:
        """Choose the next block if there is work and none is under way."""
        batch = self._batch
        if self._block is not None or not (batch.running or batch.waiting):
            return
        preempted = batch.make_room(self._free_at_s)
        self._counters.preemptions += preempted
        chunks = batch.schedule_prompts(self._free_at_s, admit=not preempted)
        iterations = 1 if chunks else min(batch.quiet_iterations(), _MAX_BLOCK_ITERATIONS)
        iterations, stall = self._stall(iterations)
        step_s = self._step_s(iterations, chunks) * stall
        self._block = _Block(self._free_at_s, step_s, iterations, chunks)

    def _step_s(self, iterations: int, chunks: Chunks) -> float:
        """One iteration's seconds with jitter; the KV cache read is that of the middle of the block."""
        prompt_tokens = sum(tokens for _, tokens in chunks)
        depth_tokens = chunks[0][0].prefill_done if chunks else 0
        kv_tokens = min(self._batch.kv_tokens + self._batch.decoding * iterations / 2, self.profile.kv_tokens)
        step_s = self._times.iteration_s(self._batch.decoding, kv_tokens, prompt_tokens, depth_tokens)
        return step_s * math.exp(self._draw.gauss(0.0, self.profile.jitter / math.sqrt(iterations)))

    def _stall(self, iterations: int) -> tuple[int, float]:
        """How many of `iterations` come before the next stall, and the factor on their time."""
        if self._until_stall == 0:
            self._until_stall = self._draw_stall()
            return 1, self._draw.uniform(*_STALL_FACTORS)
        if self._until_stall > 0:
            iterations = min(iterations, self._until_stall)
            self._until_stall -= iterations
        return iterations, 1.0

    def _draw_stall(self) -> int:
        """Iterations until the next stall; -1: never."""
        every = self.profile.stall_every
        return 1 + int(self._draw.expovariate(1 / every)) if every else -1

    def _cut_block(self, request: Request, now_s: float) -> None:
        """End the block with the iteration under way, so that a newcomer who fits can join the next one."""
        block = self._block
        if block is None or block.iterations == 1:
            return
        done = block.done(now_s)
        if done < block.iterations and self._batch.fits(request.prompt_tokens, done * self._batch.decoding):
            if self._until_stall >= 0:
                self._until_stall += block.iterations - done - 1
            block.iterations = done + 1

    def _complete(self, block: _Block) -> None:
        self._commit(block, block.iterations)
        self._block, self._free_at_s = None, block.end_s
        started = [sequence for sequence, tokens in block.chunks if self._batch.prefilled(sequence, tokens)]
        if block.chunks:
            self._observe_iteration(self._batch.decoding, started)
        ended = self._batch.pop_finished()
        for sequence in started:
            self._observe_token(sequence, block.end_s)
            if sequence.generated == sequence.request.output_tokens:
                ended.append(sequence)
            else:
                self._batch.start_decoding(sequence)
        for sequence in ended:
            self._finish(sequence, block.end_s)

    def _commit(self, block: _Block, iterations: int) -> None:
        """Book the tokens of the block's first `iterations` iterations."""
        if not iterations:
            return
        tokens = self._batch.grow(iterations)
        self._counters.generation_tokens += tokens
        if tokens:
            self.meters.itl.observe(block.step_s, tokens)
        if not block.chunks:
            self.meters.iteration_tokens.observe(self._batch.decoding, iterations)

    def _observe_iteration(self, decoding: int, started: list[Sequence]) -> None:
        """One iteration that worked on prompts, where it gave out a token at all."""
        if tokens := decoding + len(started):
            prompts = sum(sequence.request.prompt_tokens for sequence in started if sequence.first_s is None)
            self.meters.iteration_tokens.observe(tokens + prompts)

    def _observe_token(self, sequence: Sequence, now_s: float) -> None:
        """The token that ends a prompt: the first one, or, after a preemption, one that came late."""
        self._counters.generation_tokens += 1
        if sequence.first_s is None:
            sequence.first_s = now_s + self.profile.frontend_s
            self._counters.prompt_tokens += sequence.request.prompt_tokens
            self.meters.ttft.observe(sequence.first_s - sequence.submitted_s)
        else:
            self.meters.itl.observe(now_s - sequence.last_token_s)

    def _finish(self, sequence: Sequence, now_s: float) -> None:
        self._batch.leave(sequence)
        reason = "stop" if self._draw.random() < _STOP_SHARE else "length"
        self._counters.finished[reason] += 1
        finish_s = now_s + self.profile.frontend_s
        request = sequence.request
        self._ended.append(Outcome(request, sequence.first_s, finish_s, reason, request.output_tokens))
        self._observe_finished(sequence, finish_s)

    def _observe_finished(self, sequence: Sequence, finish_s: float) -> None:
        meters, request = self.meters, sequence.request
        admitted_s = sequence.submitted_s if sequence.admitted_s is None else sequence.admitted_s
        first_s = finish_s if sequence.first_s is None else sequence.first_s
        decode_s = finish_s - first_s
        meters.finished_ttft.observe(first_s - sequence.submitted_s)
        meters.e2e.observe(finish_s - sequence.submitted_s)
        # an iteration may end a rounding error before the arrival that cut it
        meters.queue.observe(max(0.0, admitted_s - sequence.submitted_s))
        meters.inference.observe(finish_s - admitted_s)
        meters.prefill.observe(first_s - admitted_s)
        meters.decode.observe(decode_s)
        meters.tpot.observe(decode_s / (request.output_tokens - 1) if request.output_tokens > 1 else 0.0)
        meters.prompt_tokens.observe(request.prompt_tokens)
        meters.generation_tokens.observe(request.output_tokens)
        meters.preemptions.observe(sequence.preemptions)

    def _partial_tokens(self) -> int:
        """Tokens of the block under way that are out already."""
        return 0 if self._block is None else self._batch.decoding * self._block.done(self._now_s)
