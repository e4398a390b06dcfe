"""The traffic of each seed: which part of the trace is scored, how often it is overlaid, and what came before it.

A trace of requests is played as it is, thinned or overlaid with copies of itself; a trace of rates is played with the
requests of another. What trains schedules is scaled alike and comes strictly before the first scored second.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec

from ebbtide.bench import traffic
from ebbtide.bench.policy import Minute
from ebbtide.bench.question import Question
from ebbtide.bench.store import Load
from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request
from ebbtide.sim.shapes import Sampled
from ebbtide.units import format_duration

MOST_REQUESTS = 5_000_000  # of one replay, which keeps each of them in memory
MOST_HOURS = 8784  # a leap year, with what trains
AS_IT_IS = 1  # of --noise
_SHIFT_S = 600.0
_MINUTE_S = 60.0
_PEAK_MINUTES = 5
_START_S = 300.0


@dataclass(frozen=True)
class Span:
    """The trace, cut: what trains and what is scored, unscaled. `requests` or `curve` holds the scored part.

    `lengths` are requests to take lengths and bursts from: the scored ones themselves, or those of another trace.
    `lead_in` is the last of what trains, cut as if it were scored itself; None: Ebbtide begins cold.
    """

    format: str
    sha256: str
    start_s: float
    length_s: float
    train_s: float
    requests: tuple[Request, ...]
    curve: Sampled | None
    training: tuple[Minute, ...]
    lengths: tuple[Request, ...]
    lead_in: "Span | None" = None

    @property
    def peak_per_s(self) -> float:
        """Requests per second in the busiest five minutes of the scored part, or on average where it is shorter."""
        if self.length_s < _PEAK_MINUTES * _MINUTE_S:
            return self._begun(self.length_s) / self.length_s
        if self.curve is None:
            return traffic.peak_per_s(self.requests)
        rates = [self.curve.rate(minute * _MINUTE_S + _MINUTE_S / 2) for minute in range(self._minutes)]
        width = min(_PEAK_MINUTES, len(rates))
        return max(sum(rates[i : i + width]) for i in range(len(rates) - width + 1)) / width

    def begin_per_s(self, startup_s: float) -> float:
        """Requests per second, on average, until a replica that is ordered at the first second is ready.

        A fleet begins in balance with them. Where requests are counted one by one it is at least five minutes: fewer
        are chance.
        """
        length_s = min(max(_START_S, startup_s) if self.curve is None else startup_s, self.length_s)
        return self._begun(length_s) / length_s

    def _begun(self, length_s: float) -> float:
        """Requests of the first `length_s` seconds."""
        if self.curve is None:
            return sum(request.arrival_s < length_s for request in self.requests)
        points = traffic.span(self.curve, 0.0, length_s).points
        return sum((t1 - t0) * (r0 + r1) / 2 for (t0, r0), (t1, r1) in pairwise(points))

    @property
    def expected(self) -> float:
        """Requests of the scored part."""
        if self.curve is None:
            return len(self.requests)
        return sum(self.curve.rate((minute + 0.5) * _MINUTE_S) * _MINUTE_S for minute in range(self._minutes))

    @property
    def _minutes(self) -> int:
        return max(1, int(self.length_s // _MINUTE_S))


def span_of(question: Question) -> Span:
    """Reads the trace of `question`; ConfigurationError where it or what is asked of it cannot be."""
    lengths = _lengths(question)
    mean_prompt = sum(request.prompt_tokens for request in lengths) / len(lengths) if lengths else 1024.0
    trace = traffic.read(question.trace, question.format, question.column, mean_prompt)
    span = _cut(question, trace, lengths)
    _require_whole_faults(question, span.length_s)
    length_s = _lead_in_s(question, span)
    if not length_s:
        return span
    begin_s = span.start_s - length_s
    earlier = msgspec.structs.replace(question, start_s=begin_s, train_until_s=begin_s, hours=length_s / 3600)
    return replace(span, lead_in=_cut(earlier, trace, lengths))


def _cut(question: Question, trace: traffic.Trace, lengths: Sequence[Request]) -> Span:
    if trace.curve:
        return _of_rates(question, trace.curve, lengths)
    return _of_requests(question, trace.requests, lengths)


def _lead_in_s(question: Question, span: Span) -> float:
    """How long Ebbtide has run the service: in whole minutes, of training that reaches to the first scored second."""
    if span.start_s != span.train_s:
        return 0.0
    minutes = int(min(question.lead_in_s, span.train_s) // _MINUTE_S)
    came = any(minute.requests > 0.0 for minute in span.training[-minutes:]) if minutes else False
    return minutes * _MINUTE_S if came else 0.0


def _of_rates(question: Question, curve: Sampled, lengths: Sequence[Request]) -> Span:
    name, last_s = f"trace {question.trace}", curve.points[-1][0]
    start_s, end_s, train_s = _bounds(question, last_s)
    if not lengths:
        raise ConfigurationError(
            f"{name}: it holds rates only: give --input-tokens and --output-tokens, each a number, "
            "lognormal:MEDIAN,SIGMA,MAX or a file with requests"
        )
    scored = traffic.span(curve, start_s, min(end_s, last_s) - start_s)
    if not any(rate > 0 for _, rate in scored.points):
        raise ConfigurationError(f"{name}: its rate is 0 in all of the span that is asked for")
    return Span(
        format="rate",
        sha256=_sha256(question),
        start_s=start_s,
        length_s=min(end_s, last_s) - start_s,
        train_s=train_s,
        requests=(),
        curve=scored,
        training=_training(curve, start_s, train_s, lengths),
        lengths=tuple(lengths),
    )


def _of_requests(question: Question, requests: Sequence[Request], lengths: Sequence[Request]) -> Span:
    name = f"trace {question.trace}"
    start_s, end_s, train_s = _bounds(question, requests[-1].arrival_s)
    if question.hours is None:
        end_s = math.floor(end_s) + 1.0  # the last request belongs to it
    if lengths:
        raise ConfigurationError(f"{name}: it has its own lengths; --input-tokens and --output-tokens are for rates")
    if question.column is not None:
        raise ConfigurationError(f"{name}: --column {question.column}: it holds requests; columns are of rates")
    if question.noise != AS_IT_IS:
        raise ConfigurationError(
            f"{name}: --noise {question.noise}: it holds requests, which are played as they are; only {AS_IT_IS} is "
            "allowed"
        )
    before, after = traffic.split(requests, start_s)
    scored = tuple(request for request in after if request.arrival_s < end_s - start_s)
    if not scored:
        raise ConfigurationError(f"{name}: it has no requests from {start_s / 3600:.4g} to {end_s / 3600:.4g} h")
    trained = [request for request in before if request.arrival_s < train_s]
    return Span(
        format="mooncake" if question.trace.suffix == ".jsonl" else "tokens",
        sha256=_sha256(question),
        start_s=start_s,
        length_s=end_s - start_s,
        train_s=train_s,
        requests=scored,
        curve=None,
        training=tuple(traffic.minutes(trained, train_s, -start_s)),
        lengths=scored,
    )


def _bounds(question: Question, last_s: float) -> tuple[float, float, float]:
    """(Begin of what is scored, its end, end of training), in seconds of the trace, which ends at `last_s`."""
    train_s = question.train_until_s or 0.0
    start_s = train_s if question.start_s is None else question.start_s
    end_s = last_s if question.hours is None else start_s + question.hours * 3600
    if start_s < train_s:
        begin, until = format_duration(start_s), format_duration(train_s)
        raise ConfigurationError(
            f"trace {question.trace}: --start {begin} is before --train-until {until}: training would be scored"
        )
    name = f"trace {question.trace}"
    if end_s > last_s + _MINUTE_S or end_s - start_s < _MINUTE_S:
        if question.hours is None and last_s < _MINUTE_S:
            raise ConfigurationError(
                f"{name}: all of it lies within {math.floor(last_s) + 1} s; at least a minute is needed"
            )
        raise ConfigurationError(
            f"{name}: it covers 0 to {last_s / 3600:.4g} h; {start_s / 3600:.4g} to "
            f"{end_s / 3600:.4g} h is asked for, and at least a minute is needed"
        )
    if end_s > MOST_HOURS * 3600:
        raise ConfigurationError(
            f"{name}: 0 to {end_s / 3600:,.6g} h of it would be read, up to {MOST_HOURS:,} h are allowed: are its "
            "times right? --hours and --start choose a part"
        )
    return start_s, end_s, train_s


def _require_whole_faults(question: Question, length_s: float) -> None:
    """A fault that begins after the span, or is cut short by its end, would be accepted and not happen as told."""
    faults = question.faults
    jump = None if faults.clock_jump is None else (faults.clock_jump[0], 0.0)
    reset = None if faults.reset_s is None else (faults.reset_s, 0.0)
    for option, when in (
        ("--metrics-out", faults.metrics_out),
        ("--clock-jump", jump),
        ("--counter-reset", reset),
        ("--garbage", faults.garbage),
    ):
        if when is not None and (when[0] >= length_s or sum(when) > length_s):
            lasts = f" and lasts {format_duration(when[1])}" if when[1] else ""
            raise ConfigurationError(
                f"{option}: it begins at {format_duration(when[0])}{lasts}, the scored span ends at "
                f"{format_duration(length_s)}: all of it must lie before that"
            )


def _sha256(question: Question) -> str:
    return hashlib.sha256(question.trace.read_bytes()).hexdigest()


def load_of(span: Span, factor: float, noise: int, seed: int) -> Load:
    """The scored requests of one seed, `factor` times as many as in the trace, and the minutes before them."""
    history = tuple(Minute(minute.start_s, *(factor * value for value in minute[1:])) for minute in span.training)
    if span.curve is not None:
        if noise:
            swung = traffic.swung([minute.requests for minute in history], span.lengths, seed)
            history = tuple(Minute(minute.start_s, *sums) for minute, sums in zip(history, swung, strict=True))
        found = traffic.resample(traffic.times(span.curve, factor), span.length_s, span.lengths, seed, noise)
        return Load(tuple(found), history)
    return Load(tuple(overlaid(span.requests, factor, span.length_s, seed)), history)


def overlaid(requests: Sequence[Request], factor: float, length_s: float, seed: int) -> list[Request]:
    """`factor` times as many: the trace itself, whole copies of it shifted by up to ten minutes, the rest by a draw.

    A copy keeps its bursts, its runs of long answers and the hour of the day; 1 is the trace as it is.
    """
    draw = random.Random(f"{seed}/overlay")
    found: list[tuple[float, int, int]] = []
    for number in range(math.ceil(factor)):
        keep = min(1.0, factor - number)
        shift_s = draw.uniform(-_SHIFT_S, _SHIFT_S) if number else 0.0
        found += [
            ((one.arrival_s + shift_s) % length_s, one.prompt_tokens, one.output_tokens)
            for one in requests
            if keep == 1.0 or draw.random() < keep
        ]
    return [Request(number, *parts) for number, parts in enumerate(sorted(found))]


def _lengths(question: Question) -> list[Request]:
    given = (question.input_tokens, question.output_tokens)
    if given == (None, None):
        return []
    if question.input_tokens is None or question.output_tokens is None:
        raise ConfigurationError("--input-tokens and --output-tokens: both are needed where one is given")
    return traffic.lengths_from(question.input_tokens, question.output_tokens, seed=1)


def _training(curve: Sampled, start_s: float, train_s: float, lengths: Sequence[Request]) -> tuple[Minute, ...]:
    """The curve's own minutes before `train_s`, with the mean lengths; times count from the first scored second."""
    prompt = sum(request.prompt_tokens for request in lengths) / len(lengths)
    output = sum(request.output_tokens for request in lengths) / len(lengths)
    found = []
    for minute in range(int(train_s // _MINUTE_S)):
        came = curve.rate((minute + 0.5) * _MINUTE_S) * _MINUTE_S
        found.append(Minute(minute * _MINUTE_S - start_s, came, came * prompt, came * output))
    return tuple(found)


def rates(requests: Sequence[Request], length_s: float, step_s: float) -> list[float]:
    """Requests per second by steps, for pictures."""
    counts = [0] * max(1, math.ceil(length_s / step_s))
    for request in requests:
        counts[min(len(counts) - 1, int(request.arrival_s // step_s))] += 1
    return [count / step_s for count in counts]
