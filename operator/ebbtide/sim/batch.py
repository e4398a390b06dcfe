"""Who is in the batch of an emulated engine, who waits, and how much KV cache they hold.

Decides admission, the split of the token budget between decoding and prompts, and preemption; knows no seconds.
Decoding is counted in ticks (one iteration each), so that a sequence's progress costs nothing while it decodes.
"""

import heapq
from collections import deque

from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import Request

_NOT_DECODING = -1


class Sequence:
    """A request inside the engine, with the times (seconds) that its engine notes on it."""

    __slots__ = (
        "admitted_s",
        "first_s",
        "generated",
        "joined_tick",
        "last_token_s",
        "number",
        "preemptions",
        "prefill_done",
        "prefill_left",
        "request",
        "submitted_s",
    )

    def __init__(self, number: int, request: Request, now_s: float) -> None:
        self.number = number
        self.request = request
        self.submitted_s = now_s
        self.admitted_s: float | None = None
        self.first_s: float | None = None
        self.last_token_s = now_s
        self.prefill_done = 0
        self.prefill_left = request.prompt_tokens
        self.generated = 0
        self.joined_tick = _NOT_DECODING
        self.preemptions = 0


Chunks = list[tuple[Sequence, int]]


class Batch:
    """Sequences in three places: waiting, running on their prompt, running and decoding."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._unused_tokens = (profile.kv_block_tokens - 1) / 2
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # in the order of admission
        self.decoding = 0
        self.kv_tokens = 0
        self.tick = 0
        self._prefilling: dict[int, Sequence] = {}
        self._finish_heap: list[tuple[int, int, Sequence, int]] = []  # finish tick, number, sequence, joined tick

    @property
    def taken_tokens(self) -> float:
        """KV tokens that nobody else can have: memory goes in blocks, and a sequence's last one is half empty.

        12 sequences with 2000 tokens in blocks of 16 take about 2090.
        """
        return min(self.kv_tokens + len(self.running) * self._unused_tokens, float(self._profile.kv_tokens))

    @property
    def prefilling_tokens(self) -> int:
        """Prompt tokens of running sequences that are yet to be computed."""
        return sum(sequence.prefill_left for sequence in self._prefilling.values())

    def fits(self, prompt_tokens: int, growth_tokens: int = 0) -> bool:
        """Whether a prompt could be admitted once what runs has grown by `growth_tokens`."""
        if len(self.running) >= self._profile.max_num_seqs:
            return False
        if not self.running:
            return True  # who is larger than the whole cache was refused
        taken = self.taken_tokens + growth_tokens + self.decoding
        return taken + prompt_tokens + self._unused_tokens <= self._profile.kv_tokens

    def make_room(self, now_s: float) -> int:
        """Preempt the youngest until each decoding sequence has room for one more token; how many had to go.

        A preempted sequence loses its KV cache, goes to the head of the queue and computes everything again.
        """
        preempted = 0
        while len(self.running) > 1 and self.taken_tokens + self.decoding > self._profile.kv_tokens:
            number, victim = self.running.popitem()
            self.kv_tokens -= self._held_tokens(victim)
            if self._prefilling.pop(number, None) is None:
                self.decoding -= 1
            victim.generated = self.generated(victim)
            victim.joined_tick = _NOT_DECODING
            victim.last_token_s = now_s
            victim.prefill_done, victim.prefill_left = 0, victim.request.prompt_tokens + victim.generated
            victim.preemptions += 1
            self.waiting.appendleft(victim)
            preempted += 1
        return preempted

    def schedule_prompts(self, now_s: float, admit: bool) -> Chunks:
        """Spend the token budget that decoding leaves on prompts, oldest first; admit as budget and memory allow."""
        budget = self._profile.max_num_batched_tokens - self.decoding
        chunks: Chunks = []
        for sequence in self._prefilling.values():
            if budget <= 0:
                break
            chunks.append((sequence, min(budget, sequence.prefill_left)))
            budget -= chunks[-1][1]
        while self.waiting and budget > 0 and admit and self.fits(self.waiting[0].prefill_left):
            sequence = self._admit(now_s)
            chunks.append((sequence, min(budget, sequence.prefill_left)))
            budget -= chunks[-1][1]
        return chunks

    def quiet_iterations(self) -> int:
        """Iterations until somebody finishes or the KV cache is full; at least one sequence must be decoding."""
        # the first entry may be of a sequence that was preempted since: the block is then shorter than it could be
        until_finish = self._finish_heap[0][0] - self.tick
        until_full = int((self._profile.kv_tokens - self.taken_tokens) // self.decoding)
        return max(1, min(until_finish, until_full))

    def grow(self, iterations: int) -> int:
        """Each decoding sequence gets `iterations` tokens; how many that are together."""
        tokens = self.decoding * iterations
        self.kv_tokens += tokens
        self.tick += iterations
        return tokens

    def prefilled(self, sequence: Sequence, tokens: int) -> bool:
        """Book `tokens` of the prompt as computed; whether the prompt is through (it then has one token more)."""
        sequence.prefill_done += tokens
        sequence.prefill_left -= tokens
        if sequence.prefill_left:
            return False
        del self._prefilling[sequence.number]
        sequence.generated += 1
        return True

    def start_decoding(self, sequence: Sequence) -> None:
        """Its first token is out, others are to come."""
        sequence.joined_tick = self.tick
        finish_tick = self.tick + sequence.request.output_tokens - sequence.generated
        heapq.heappush(self._finish_heap, (finish_tick, sequence.number, sequence, self.tick))
        self.decoding += 1

    def pop_finished(self) -> list[Sequence]:
        """Those whose last token came in the latest iteration; to be given to `leave`."""
        heap, finished = self._finish_heap, []
        while heap and heap[0][0] <= self.tick:
            _, _, sequence, joined_tick = heapq.heappop(heap)
            if sequence.joined_tick == joined_tick:
                self.decoding -= 1
                sequence.generated = sequence.request.output_tokens
                finished.append(sequence)
        return finished

    def leave(self, sequence: Sequence) -> None:
        """Free the memory of a finished sequence; its last token was handed out and never entered the cache."""
        del self.running[sequence.number]
        self.kv_tokens -= sequence.request.prompt_tokens + sequence.request.output_tokens - 1

    def generated(self, sequence: Sequence) -> int:
        """Tokens that are out."""
        if sequence.joined_tick == _NOT_DECODING:
            return sequence.generated
        return sequence.generated + self.tick - sequence.joined_tick

    def clear(self) -> list[Sequence]:
        """Empty everything; who was in it, running first."""
        held = [*self.running.values(), *self.waiting]
        for place in (self.running, self.waiting, self._prefilling, self._finish_heap):
            place.clear()
        self.decoding = self.kv_tokens = 0
        return held

    def _admit(self, now_s: float) -> Sequence:
        sequence = self.waiting.popleft()
        if sequence.admitted_s is None:
            sequence.admitted_s = now_s
        self.running[sequence.number] = sequence
        self._prefilling[sequence.number] = sequence
        self.kv_tokens += sequence.prefill_left
        return sequence

    def _held_tokens(self, sequence: Sequence) -> int:
        """KV tokens: the whole prompt from admission on, then each token that was fed back."""
        if sequence.joined_tick == _NOT_DECODING:
            return sequence.prefill_done + sequence.prefill_left
        return sequence.request.prompt_tokens + self.generated(sequence) - 1
