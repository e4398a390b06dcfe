"""Sends requests to an OpenAI-compatible server at the times at which they are due, and measures every answer.

The load is open: no request waits for the answer to another. What the generator itself does late is measured too
(`sent_s` against `arrival_s`) and latencies count from the real sending, so that a slow generator is not taken for a
slow engine. An HTTP 200 proves nothing: the finish reason and errors within the stream are what counts. It decides
nothing about the server and never sends a request twice.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec

from ebbtide.clock import monotonic_s, unix_time_s
from ebbtide.sandbox.ledger import Ledger, Objectives, percentiles
from ebbtide.sandbox.realgateway.forward import ENDPOINT_HEADER
from ebbtide.sim.requests import REJECTED, SERVED_REASONS, Outcome, Request

UNFINISHED = "unfinished"
LATE_S = 0.05  # a generator whose p95 of slippage is above this measures another load than was asked for

_CONNECT_S = 10.0
_PROGRESS_S = 1.0
_ERROR_CHARACTERS = 200
_ERRORS_SHOWN = 10


class LoadTarget(msgspec.Struct, frozen=True):
    """Whom to ask. `url` ends in /v1; prompts are token ids drawn from [first_token, last_token] by `seed`."""

    url: str
    model: str
    timeout_s: float = 600.0
    seed: int = 1
    first_token: int = 3  # below are the special ones of most tokenizers
    last_token: int = 255

    def body(self, request: Request) -> bytes:
        """The completion request; no two prompts begin alike, so that no prefix cache helps."""
        draw = random.Random(f"{self.seed}/{request.id}")
        prompt = draw.choices(range(self.first_token, self.last_token + 1), k=request.prompt_tokens)
        return msgspec.json.encode(
            {
                "model": self.model,
                "prompt": prompt,
                "max_tokens": request.output_tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )


class Gaps(msgspec.Struct, frozen=True):
    """Times between the tokens of one answer, in seconds. The mean is over tokens, the others over stream events."""

    mean_s: float
    p50_s: float
    p95_s: float
    max_s: float


class Served(msgspec.Struct, frozen=True):
    """One request and what became of it. Times are seconds from the start of the load.

    `finish_reason` is the server's own, or `rejected` (503, as a status or in the stream), `error` (no whole answer,
    `error` says why) or `unfinished` (the load was ended before). `endpoint` is the pod, where a gateway names it.
    """

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    sent_s: float
    status: int | None
    first_token_s: float | None
    inter_token_s: Gaps | None
    finish_reason: str
    end_s: float
    generated_tokens: int = 0
    error: str | None = None
    endpoint: str | None = None

    @property
    def slippage_s(self) -> float:
        """How late it was sent."""
        return self.sent_s - self.arrival_s

    @property
    def outcome(self) -> Outcome:
        """As the ledger books it: latencies count from the real sending, and end with the last token."""
        request = Request(self.id, self.sent_s, self.prompt_tokens, self.output_tokens)
        last_s = self.end_s
        if self.first_token_s is not None and self.inter_token_s is not None:
            last_s = self.first_token_s + self.inter_token_s.mean_s * (self.generated_tokens - 1)
        return Outcome(request, self.first_token_s, last_s, self.finish_reason, self.generated_tokens)


class Progress(msgspec.Struct, frozen=True):
    """How far a load is, `at_s` seconds after its start."""

    at_s: float
    sent: int
    running: int
    ended: int
    served: int


OnServed = Callable[[Served], None]


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Error(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Answer:
    """Collects one answer while it comes. `now_s` is on the clock of the load."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.endpoint: str | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self._token_s: list[float] = []
        self._tokens_told = 0
        self._rest = b""
        self._decoder = msgspec.json.Decoder(_Event)

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes of the stream; msgspec.DecodeError where they are no events."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.strip()
            if text.startswith(b"data:") and not text.endswith(b"[DONE]"):
                self._take(self._decoder.decode(text[5:]), now_s)

    def refuse(self, code: int | str | None, message: str) -> None:
        """The server says no: as a status, or within the stream."""
        self.finish_reason = REJECTED if str(code) == "503" else "error"
        self.error = f"{code}: {message}"[:_ERROR_CHARACTERS]

    def served(self, request: Request, sent_s: float, end_s: float) -> Served:
        """The answer as a whole, as far as it came."""
        tokens = max(self._tokens_told, len(self._token_s))
        if self.finish_reason is None:
            self.finish_reason = "error"
            self.error = self.error or f"the answer broke off after {tokens} tokens"
        return Served(
            id=request.id,
            arrival_s=request.arrival_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            sent_s=sent_s,
            status=self.status,
            first_token_s=self._token_s[0] if self._token_s else None,
            inter_token_s=_gaps(self._token_s, tokens),
            finish_reason=self.finish_reason,
            end_s=end_s,
            generated_tokens=tokens,
            error=self.error,
            endpoint=self.endpoint,
        )

    def _take(self, event: _Event, now_s: float) -> None:
        if event.error is not None:
            self.refuse(event.error.code, event.error.message)
        if event.usage is not None:
            self._tokens_told = event.usage.completion_tokens
        for choice in event.choices[:1]:
            self._token_s.append(now_s)
            self.finish_reason = choice.finish_reason or self.finish_reason


class _Run:
    """One load: what has been sent, what runs, what has ended."""

    def __init__(self, target: LoadTarget, session: aiohttp.ClientSession, zero_s: float, tell: OnServed) -> None:
        self._target, self._session, self._zero_s, self._tell = target, session, zero_s, tell
        self._running: set[asyncio.Task[None]] = set()
        self.ended: list[Served] = []
        self._sent = self._served = 0

    def now_s(self) -> float:
        return monotonic_s() - self._zero_s

    def progress(self) -> Progress:
        ended = len(self.ended)
        return Progress(self.now_s(), self._sent, self._sent - ended, ended, self._served)

    async def send_all(self, requests: Iterable[Request]) -> None:
        """Send each when it is due, then wait for the answers that are still out."""
        for request in requests:
            body = self._target.body(request)  # made while there is time
            await asyncio.sleep(max(0.0, request.arrival_s - self.now_s()))
            task = asyncio.create_task(self._send(request, body))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        while self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        """Break off what runs; it is booked as unfinished."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _send(self, request: Request, body: bytes) -> None:
        answer, sent_s = _Answer(), self.now_s()
        self._sent += 1
        try:
            await self._ask(body, answer)
        except (aiohttp.ClientError, msgspec.DecodeError, OSError, TimeoutError) as error:
            if answer.finish_reason is None:
                answer.error = f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS].removesuffix(": ")
        except asyncio.CancelledError:
            answer.finish_reason = UNFINISHED
            raise
        finally:
            served = answer.served(request, sent_s, self.now_s())
            self.ended.append(served)
            self._served += served.finish_reason in SERVED_REASONS
            self._tell(served)

    async def _ask(self, body: bytes, answer: _Answer) -> None:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(f"{self._target.url}/completions", data=body, headers=headers) as response:
            answer.status = response.status
            answer.endpoint = response.headers.get(ENDPOINT_HEADER)
            if response.status >= 400:
                answer.refuse(response.status, _message(await response.read()))
                return
            async for data in response.content.iter_any():
                answer.feed(data, self.now_s())


async def run_load(
    target: LoadTarget,
    requests: Sequence[Request],
    *,
    start_unix_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_served: OnServed | None = None,
    stop: asyncio.Event | None = None,
) -> list[Served]:
    """Send `requests` and wait for all answers; what became of each, in the order of arrival.

    Second 0 is `start_unix_s` (seconds since 1970; default: now). `on_progress` is called each second, `on_served` for
    each request that has ended. Once `stop` is set nothing more is sent, and what runs is broken off as `unfinished`.
    """
    zero_s = monotonic_s() + (0.0 if start_unix_s is None else start_unix_s - unix_time_s())
    timeout = aiohttp.ClientTimeout(total=target.timeout_s, sock_connect=_CONNECT_S)
    # a connection for each request, as from as many users
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        run = _Run(target, session, zero_s, on_served or (lambda served: None))
        sending = asyncio.create_task(run.send_all(sorted(requests, key=lambda request: request.arrival_s)))
        try:
            await _until_done(sending, run, on_progress, stop or asyncio.Event())
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await run.stop()
    return sorted(run.ended, key=lambda served: (served.arrival_s, served.id))


async def _until_done(
    sending: asyncio.Task[None], run: _Run, on_progress: Callable[[Progress], None] | None, stop: asyncio.Event
) -> None:
    stopped = asyncio.create_task(stop.wait())
    try:
        while not sending.done() and not stopped.done():
            await asyncio.wait((sending, stopped), timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
            if on_progress is not None:
                on_progress(run.progress())
        if sending.done():
            sending.result()
    finally:
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopped


def summary(served: Sequence[Served], objectives: Objectives) -> dict[str, Any]:
    """Counts, shares and percentiles (p50, p95, p99; None where there is nothing). Times in seconds.

    `time_to_first_token_s` and `inter_token_latency_s` (the mean of each answer) are those of the ledger;
    `longest_gap_s` is the longest silence within each answer.
    """
    ledger = Ledger()
    for one in served:
        ledger.arrived(one.sent_s, one.arrival_s)
        ledger.book(one.outcome, one.arrival_s, objectives)
    booked = ledger.summary(0.0)
    length_s = max((one.end_s for one in served), default=0.0)
    generated = sum(one.generated_tokens for one in served)
    slippage_s = sorted(one.slippage_s for one in served)
    slipped = percentiles(slippage_s)
    return {
        "requests": len(served),
        "served": booked["served"],
        "met_both": booked["met_both"],
        "objectives": objectives,
        "finish_reasons": dict(Counter(one.finish_reason for one in served).most_common()),
        "statuses": dict(Counter(str(one.status or "none") for one in served).most_common()),
        "errors": dict(Counter(one.error for one in served if one.error).most_common(_ERRORS_SHOWN)),
        "endpoints": dict(sorted(Counter(one.endpoint for one in served if one.endpoint).items())),
        "duration_s": length_s,
        "prompt_tokens": sum(one.prompt_tokens for one in served),
        "generated_tokens": generated,
        "generated_tokens_per_second": generated / length_s if length_s > 0 else 0.0,
        "time_to_first_token_s": booked["time_to_first_token_s"],
        "inter_token_latency_s": booked["inter_token_latency_s"],
        "longest_gap_s": percentiles(sorted(one.inter_token_s.max_s for one in served if one.inter_token_s)),
        "slippage_s": slipped and {**slipped, "max": slippage_s[-1]},
        "generator_late": slipped is not None and slipped["p95"] > LATE_S,
    }


def _gaps(token_s: Sequence[float], tokens: int) -> Gaps | None:
    """Of tokens at 1.0, 1.1 and 1.4 s: mean 0.2, p50 0.1, p95 and max 0.3. None for less than two events.

    An event may carry several tokens (a server that is behind joins them): 5 tokens in those three events have a mean
    of 0.4 / 4 = 0.1.
    """
    between = sorted(_differences(token_s))
    if not between:
        return None
    mean_s = (token_s[-1] - token_s[0]) / (tokens - 1)
    marks = percentiles(between) or {}
    return Gaps(mean_s, marks["p50"], marks["p95"], between[-1])


def _differences(values: Sequence[float]) -> Iterator[float]:
    return (after - before for before, after in pairwise(values))


def _message(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=_Event).error.message  # type: ignore[union-attr]
    except (msgspec.DecodeError, AttributeError):
        return content.decode(errors="replace").strip()
