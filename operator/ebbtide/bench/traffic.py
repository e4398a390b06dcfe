"""The requests that a case replays: a real trace as it is, or real requests played at the pace of a rate curve.

Independent draws make traffic that is too easy: real answers are long or short for minutes on end, and arrivals swing
by a fifth beyond chance. So requests are resampled in contiguous blocks. Files are read strictly (a benchmark must not
mend its data in silence); nothing is written, and the same seed gives the same requests.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import msgspec

from ebbtide.bench.policy import Minute
from ebbtide.errors import ConfigurationError
from ebbtide.sim.load import Lengths, generate
from ebbtide.sim.requests import Request
from ebbtide.sim.shapes import Constant, Sampled
from ebbtide.sim.traces import RateTrace, RequestTrace, read_trace

NOISE = {
    0: "Poisson arrivals, every request drawn by itself: easier than any real load",
    1: "contiguous blocks of real requests with their own gaps: as the source was",
    2: "as 1, and the rate swings beyond that, so that it varies about twice as much as conversation traces do",
}
FORMATS = ("mooncake", "tokens", "rate")
BLOCK_S = 300.0
_LEAST_BLOCKS = 8
_STEP_S = 5.0
_MINUTE_S = 60.0
_PEAK_MINUTES = 5
_OWN_SWING = 0.2  # of the rate beyond chance, as real conversations have it; drawn requests are given the same
_SWING = 0.35  # with that it makes 0.4
_SWING_MEMORY_S = 60.0
MOST_TOKENS, MOST_SIGMA = 10_000_000, 10.0  # of one side of a request; of the logarithm of its length
_DRAWN_REQUESTS, _DRAWN_PER_S = 20_000, 5.0  # at the pace of the conversations that swings are known of


class Rate(Protocol):
    """Requests per second over time; the shapes of `sim` are such."""

    def rate(self, t_s: float) -> float:
        """Requests per second at `t_s`."""
        ...


class Trace(msgspec.Struct, frozen=True):
    """What a file holds: `requests`, or where it holds only rates the curve."""

    requests: tuple[Request, ...] = ()
    curve: Sampled | None = None


def read(path: Path, form: str | None = None, column: str | None = None, tokens_per_request: float = 1024.0) -> Trace:
    """The trace in `path`; `form` is one of FORMATS or None for what the file says itself.

    `column` chooses among a rate file's columns; prompt tokens are turned into requests by their mean length. Raises
    ConfigurationError on a broken, empty or unsorted file, a time before zero, an empty prompt or answer, and another
    form than asked for.
    """
    if form is not None and form not in FORMATS:
        raise ConfigurationError(f"trace format {form!r} is unknown; there are: {', '.join(FORMATS)}")
    content = read_trace(path, strict=True)
    is_form = "rate" if isinstance(content, RateTrace) else "mooncake" if path.suffix == ".jsonl" else "tokens"
    if form not in (None, is_form):
        raise ConfigurationError(f"trace {path}: it is of format {is_form}, not {form}")
    if isinstance(content, RequestTrace):
        return Trace(requests=content.requests)
    return Trace(curve=content.shape(column, tokens_per_request))


def span(curve: Sampled, start_s: float, length_s: float) -> Sampled:
    """The curve from `start_s` on for `length_s` seconds, with times from zero; ConfigurationError beyond its end."""
    last_s = curve.points[-1][0]
    if start_s < 0 or length_s <= 0 or start_s + length_s > last_s:
        raise ConfigurationError(
            f"the trace covers 0 to {last_s / 3600:.4g} h; {start_s / 3600:.4g} to {(start_s + length_s) / 3600:.4g} h "
            "is asked for"
        )
    inside = [(t_s - start_s, rate) for t_s, rate in curve.points if start_s < t_s < start_s + length_s]
    ends = (0.0, curve.rate(start_s)), (length_s, curve.rate(start_s + length_s))
    return Sampled((ends[0], *inside, ends[1]))


def times(curve: Sampled, factor: float) -> Sampled:
    """The same curve, `factor` times as high."""
    return Sampled(tuple((t_s, rate * factor) for t_s, rate in curve.points))


def resample(rate: Rate, length_s: float, source: Sequence[Request], seed: int, noise: int = 1) -> list[Request]:
    """Requests of `length_s` seconds at the pace of `rate`, taken from `source`; `noise` is a key of NOISE.

    The source is read on a clock that counts its requests as expected: one hour of 3,600 requests played at 10 a second
    takes six minutes, with bursts and runs of long answers in place. A block is five minutes of the source, or an
    eighth of it where that is less; blocks follow each other in random order.
    """
    if noise not in NOISE:
        raise ConfigurationError(f"noise {noise} is unknown; there are: 0, 1, 2")
    if not source:
        raise ConfigurationError("there are no requests to resample")
    draw = random.Random(f"{seed}/resample/{noise}")
    stream = _drawn(source, draw) if noise == 0 else _blocks(source, draw)
    swings = _swings(random.Random(f"{seed}/swing"), _SWING) if noise == 2 else None
    found: list[Request] = []
    begin_s, passed = 0.0, 0.0
    due, request = next(stream)
    while begin_s < length_s:
        end_s = min(begin_s + _STEP_S, length_s)
        expected = rate.rate((begin_s + end_s) / 2) * (end_s - begin_s) * (next(swings) if swings else 1.0)
        while due < passed + expected:
            at_s = begin_s + (end_s - begin_s) * (due - passed) / expected
            found.append(Request(len(found), at_s, request.prompt_tokens, request.output_tokens))
            due, request = next(stream)
        begin_s, passed = end_s, passed + expected
    return found


def swung(minutes: Sequence[float], source: Sequence[Request], seed: int) -> list[tuple[float, float, float]]:
    """(requests, prompt tokens, output tokens) of minutes that expect so many requests, with the swings of `source`.

    Minutes that follow each other are read from places of the source that do, on a clock that counts its requests as
    expected: a history without the swings that are to come would teach too much trust.
    """
    draw = random.Random(f"{seed}/past")
    length_s = source[-1].arrival_s - source[0].arrival_s
    pace = len(source) / max(length_s, 1e-9)
    due = [(request.arrival_s - source[0].arrival_s) * pace for request in source]
    prompt = list(accumulate((request.prompt_tokens for request in source), initial=0))
    output = list(accumulate((request.output_tokens for request in source), initial=0))
    block, place, left = min(BLOCK_S * pace, len(source) / _LEAST_BLOCKS), 0.0, 0.0
    found = []
    for expected in minutes:
        sums, missing = [0.0, 0.0, 0.0], expected
        while missing > 1e-9:
            if left <= 0.0:
                place, left = draw.uniform(0.0, len(source) - block), block
            step = min(missing, left)
            first, last = bisect_left(due, place), bisect_left(due, place + step)
            sums[0] += last - first
            sums[1] += prompt[last] - prompt[first]
            sums[2] += output[last] - output[first]
            place, left, missing = place + step, left - step, missing - step
        found.append((sums[0], sums[1], sums[2]))
    return found


def steady(per_s: float, length_s: float, source: Sequence[Request], seed: int) -> list[Request]:
    """Requests of `length_s` seconds, as many in each minute as in any other; inside the minute as they came.

    Blocks of `source` again, but the swing from minute to minute is taken out: what is measured with these holds for
    the rate of a minute.
    """
    stream = _blocks(source, random.Random(f"{seed}/steady"))
    found: list[Request] = []
    taken, (due, request) = 0, next(stream)
    for minute in range(math.ceil(length_s / _MINUTE_S)):
        wanted = round((minute + 1) * per_s * _MINUTE_S) - taken
        chunk = []
        for _ in range(wanted):
            chunk.append((due, request))
            due, request = next(stream)
        taken += wanted
        for moment, one in chunk:
            share = (moment - chunk[0][0]) / max(due - chunk[0][0], 1e-9)
            found.append(Request(len(found), _MINUTE_S * (minute + share), one.prompt_tokens, one.output_tokens))
    return [request for request in found if request.arrival_s < length_s]


def lengths_from(prompt: str, output: str, seed: int) -> list[Request]:
    """Requests to resample, for a curve without any: each of the two is a token trace's file, or drawn.

    Drawn: `512` (always), or `lognormal:MEDIAN,SIGMA,MAX` in tokens. Two times the same file keeps its pairs; of two
    files the lengths are put together in their order. Where both are drawn, so are arrivals: by chance, at a rate that
    swings by a fifth, as it does in real conversations.
    """
    if prompt == output and _is_file(prompt):
        return list(_requests_of(prompt))
    prompts = _lengths(prompt, "input", seed)
    outputs = _lengths(output, "output", seed)
    gaps = _requests_of(prompt if _is_file(prompt) else output) if _is_file(prompt) or _is_file(output) else ()
    count = len(gaps) or _DRAWN_REQUESTS
    times_s = [request.arrival_s for request in gaps] or _arrivals(count, random.Random(f"{seed}/arrivals"))
    return [Request(i, t_s, prompts[i % len(prompts)], outputs[i % len(outputs)]) for i, t_s in enumerate(times_s)]


def minutes(requests: Sequence[Request], length_s: float, start_s: float = 0.0) -> list[Minute]:
    """What came in each whole minute of `length_s` seconds; the first minute begins at `start_s`.

    For training time before a replay `start_s` is minus its length, so that the replay begins at zero.
    """
    sums = [[0, 0, 0] for _ in range(int(length_s // _MINUTE_S))]
    for request in requests:
        minute = int(request.arrival_s // _MINUTE_S)
        if minute < len(sums):
            row = sums[minute]
            row[0], row[1], row[2] = row[0] + 1, row[1] + request.prompt_tokens, row[2] + request.output_tokens
    return [Minute(start_s + number * _MINUTE_S, *row) for number, row in enumerate(sums)]


def arrivals_by_slot(requests: Sequence[Request], slot_s: float) -> list[int]:
    """How many came in each slot, the last one begun included; at least one slot."""
    slots = [0] * (int(requests[-1].arrival_s // slot_s) + 1 if requests else 1)
    for request in requests:
        slots[int(request.arrival_s // slot_s)] += 1
    return slots


def peak_per_s(requests: Sequence[Request]) -> float:
    """Requests per second in the busiest five minutes that begin on a minute."""
    counts = arrivals_by_slot(requests, _MINUTE_S)
    width = min(_PEAK_MINUTES, len(counts))
    return max(sum(counts[i : i + width]) for i in range(len(counts) - width + 1)) / (width * _MINUTE_S)


def split(requests: Sequence[Request], until_s: float) -> tuple[list[Request], list[Request]]:
    """(Training before `until_s`, the rest with times from zero and new numbers)."""
    at = bisect_left(requests, until_s, key=lambda request: request.arrival_s)
    after = [Request(i, r.arrival_s - until_s, r.prompt_tokens, r.output_tokens) for i, r in enumerate(requests[at:])]
    return list(requests[:at]), after


def _drawn(source: Sequence[Request], draw: random.Random) -> Iterator[tuple[float, Request]]:
    """(Moment on the clock of expected requests, request): gaps by chance alone, requests by themselves."""
    due = 0.0
    while True:
        due += draw.expovariate(1.0)
        yield due, draw.choice(source)


def _blocks(source: Sequence[Request], draw: random.Random) -> Iterator[tuple[float, Request]]:
    """(Moment on the clock of expected requests, request): stretches of the source, which is read as a ring.

    Each pass cuts the ring at another place and plays every stretch once, in an order of its own: rate and mix of
    lengths stay those of the source however few stretches it has.
    """
    first_s = source[0].arrival_s
    mean_gap_s = max((source[-1].arrival_s - first_s) / max(1, len(source) - 1), 1e-9)
    moments = [(request.arrival_s - first_s) / mean_gap_s for request in source]
    count = min(len(source), max(_LEAST_BLOCKS, round(len(source) * mean_gap_s / BLOCK_S)))
    block = len(source) / count
    begun = 0.0
    while True:
        cut = draw.uniform(0.0, len(source))
        for number in draw.sample(range(count), count):
            at = (cut + number * block) % len(source)
            index, turn = bisect_left(moments, at), 0
            while True:
                if index == len(source):
                    index, turn = 0, turn + len(source)
                offset = moments[index] + turn - at
                if offset >= block:
                    break
                yield begun + offset, source[index]
                index += 1
            begun += block


def _arrivals(count: int, draw: random.Random) -> list[float]:
    """Moments of so many requests, by chance around a rate that swings."""
    found: list[float] = []
    begin_s = 0.0
    for swing in _swings(draw, _OWN_SWING):
        at_s = begin_s + draw.expovariate(_DRAWN_PER_S * swing)
        while at_s < begin_s + _STEP_S and len(found) < count:
            found.append(at_s)
            at_s += draw.expovariate(_DRAWN_PER_S * swing)
        begin_s += _STEP_S
        if len(found) == count:
            break
    return found


def _swings(draw: random.Random, size: float) -> Iterator[float]:
    """A factor with mean 1 and `size` times that for its spread, for each step of five seconds; remembered for about
    a minute.
    """
    sigma = math.sqrt(math.log1p(size**2))
    keep = math.exp(-_STEP_S / _SWING_MEMORY_S)
    value = draw.gauss(0.0, 1.0)
    while True:
        yield math.exp(sigma * value - sigma * sigma / 2)
        value = keep * value + math.sqrt(1 - keep * keep) * draw.gauss(0.0, 1.0)


def _is_file(text: str) -> bool:
    return Path(text).suffix in (".csv", ".jsonl")


def _requests_of(name: str) -> tuple[Request, ...]:
    trace = read(Path(name))
    if not trace.requests:
        raise ConfigurationError(f"trace {name}: it has rates only; lengths come from a trace of requests")
    return trace.requests


def _lengths(text: str, side: str, seed: int) -> list[int]:
    """Token counts of one side, from a file or drawn; ConfigurationError with what is allowed."""
    if _is_file(text):
        return [r.prompt_tokens if side == "input" else r.output_tokens for r in _requests_of(text)]
    kind, _, numbers = text.rpartition(":")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    forms = "a number of tokens, lognormal:MEDIAN,SIGMA,MAX or a file with requests"
    if (kind, len(values)) not in (("", 1), ("lognormal", 3)):
        raise ConfigurationError(f"{side} tokens {text!r}: write {forms}")
    names = (
        ("number", 1.0, MOST_TOKENS),
        ("median", 1.0, MOST_TOKENS),
        ("sigma", 0.0, MOST_SIGMA),
        ("max", 1.0, MOST_TOKENS),
    )
    for (name, low, high), value in zip(names[:1] if kind == "" else names[1:], values, strict=True):
        if not low <= value <= high:  # nan is in no range
            raise ConfigurationError(
                f"{side} tokens {text!r}: {name} {value:g}: {low:g} to {high:,.0f} is allowed; write {forms}"
            )
    if kind == "":
        return [round(values[0])]
    return _lognormal(side, values[0], values[1], round(values[2]), seed)


def _lognormal(side: str, median: float, sigma: float, most: int, seed: int) -> list[int]:
    """Drawn as `sim.load` does it: answers drift together over minutes."""
    if side == "input":
        lengths = Lengths(prompt_median=median, prompt_sigma=sigma, prompt_max=most)
    else:
        lengths = Lengths(output_median=median, output_sigma=sigma, output_max=most)
    drawn = generate(Constant(_DRAWN_PER_S), lengths, _DRAWN_REQUESTS / _DRAWN_PER_S, seed)
    return [r.prompt_tokens if side == "input" else r.output_tokens for r in drawn]
