"""docs/benchmarks/emulator.md from a comparison: every number and every claim in it is computed here."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from benchmarks.emulator import streams
from benchmarks.emulator.compare import SLOWER, WANTED_AGREEMENT, WINDOW_S, Comparison, Side, within
from benchmarks.emulator.cycles import CYCLE_S
from benchmarks.emulator.cycles import WINDOW_S as RATE_WINDOW_S
from ebbtide.sim.tables import interpolate

_NEAR = 0.1  # relative difference that the text does not call one


def verdict(found: Comparison) -> str:
    """One line: the claim and what was measured."""
    claim = "as claimed" if found.agreement >= WANTED_AGREEMENT else "fewer than claimed"
    return f"wanted replicas within one of each other in {found.agreement:.0%} of {len(found.cycles)} cycles, {claim}"


def markdown(found: Comparison) -> str:
    """The whole page."""
    return (
        "\n\n".join(
            [
                _head(found),
                "## What ran",
                _machine(found),
                "## The fit",
                _fit(found),
                "## Replicas wanted",
                _wanted(found),
                "## The second load as a whole",
                _whole(found),
                "## The second load over time",
                _over_time(found),
                "## What does not agree",
                _differences(found),
            ]
        )
        + "\n"
    )


def _head(found: Comparison) -> str:
    return f"""\
# The emulator against a real vLLM

`make bench-emulator` (`python -m benchmarks.emulator`) starts one real vLLM server on the CPU, fits an emulated engine
to its first load, sends a second, different load to both, and writes this page. Every number below comes from that
run. The run is kept in `out/emulator`; `python -m benchmarks.emulator --recorded out/emulator` compares it again
without a server. It ends with 1 when the replicas that Ebbtide would want from the two engines are within one of each
other in less than {WANTED_AGREEMENT:.0%} of the cycles.

**Result: {verdict(found)}.**"""


def _machine(found: Comparison) -> str:
    machine = found.machine
    flags, probe = " ".join(machine.flags), streams.PROBE[0]
    return f"""\
- {machine.cores} cores of {machine.processor}, {machine.memory_gib:.0f} GiB; {machine.recorded}. The server has one
  core, the load generator what else there is; other programs used {machine.others:.2f} cores meanwhile. The run took
  {machine.seconds:.0f} s, {machine.start_s:.0f} of them until the server answered.
- vLLM {machine.vllm} with a generated model (`{machine.model_size}`) and
  `{flags}`:
  the batch limit and the token budget are small, so that one core is saturated by either. Requests come over HTTP as
  from as many users, open loop, streaming; 95 % were sent within {1000 * found.late_s:.0f} ms of when they were due.
- Rates are shares of what the server carried with a full batch a moment before: {machine.probed_per_second:.2f}
  requests/s of {probe.prompt_tokens} prompt and {probe.output_tokens} output tokens.
- The first load, {_stream(streams.FIRST)}.
- The second load, {_stream(streams.SECOND)}. It has another seed, other rates and other lengths.
- `/metrics` is read each second."""


def _stream(stream: streams.Stream) -> str:
    return f"{stream.seconds:.0f} s: {'; '.join(phase.name for phase in stream.phases)}"


def _fit(found: Comparison) -> str:
    profile, steps = found.fit.profile, found.fit.profile.steps
    decode = " · ".join(f"{batch:.0f}: {ms:.1f}" for batch, ms in steps.decode_ms)
    chunks = [tokens for tokens, _ in steps.prefill_ms if tokens]
    prefill = " · ".join(f"{tokens:.0f}: {interpolate(steps.prefill_ms, tokens):.1f}" for tokens in chunks)
    return f"""\
From the scrapes of the first load alone (`ebbtide.sim.fitting`): {found.fit.windows} pairs of scrapes with work
throughout, and {found.fit.alone} requests that came into an idle engine. The middle difference between an iteration's
measured and fitted time is {found.fit.typical_error:.1%}.

| coefficient | fitted |
|---|---|
| iteration, ms, by sequences decoding | {decode} |
| more for a prompt chunk, ms, by its tokens | {prefill} |
| more for each 1000 tokens in the KV cache, ms | {steps.kv_read_ms[1][1]:.2f} |
| HTTP, tokenizer and back, ms | {1000 * profile.frontend_s:.1f} |
| spread of one iteration (30 % at most) | {profile.jitter:.1%} |
| batch limit | {profile.max_num_seqs} (the most that ran while others waited) |
| KV cache | {profile.kv_tokens} tokens in blocks of {profile.kv_block_tokens} (labels of `vllm:cache_config_info`) |
| token budget of an iteration | {profile.max_num_batched_tokens} (the flag) |

The fit shares no code with the operator's capacity model, and import contracts keep it so."""


def _wanted(found: Comparison) -> str:
    pairs = Counter((real.wanted, emulated.wanted) for real, emulated in found.cycles)
    seen = sorted({wanted for pair in pairs for wanted in pair})
    rows = [[f"**{real}**", *(str(pairs.get((real, emulated), "")) for emulated in seen)] for real in seen]
    real, emulated = ([pair[side].capacity for pair in found.cycles] for side in (0, 1))
    off = sum(b - a for a, b in zip(real, emulated, strict=True)) / sum(real)
    objectives = found.objectives
    others = [
        [
            f"{1000 * one.itl_s:.0f} ms",
            *(f"{within(one.pairs, apart):.0%}" for apart in (0, 1, 2)),
            f"{one.slower:.0%}",
        ]
        for one in found.agreements
    ]
    return f"""\
Both series of `/metrics` pages go through the operator's own reader (its eight PromQL queries over a window of
{RATE_WINDOW_S} s, evaluated as Prometheus would) and through `plan()` each {CYCLE_S:g} s, with memory from cycle to
cycle and one replica whatever is wanted. It has watched the first load of each engine before, as a plan knows the
engines of a service that has run for some minutes; compared are the cycles of the second. The objectives are a first
token within {objectives.ttft_s:g} s and {1000 * objectives.itl_s:.0f} ms between tokens for \
{objectives.attainment:.0%} of the requests. That is three times an idle engine's
iteration; less than twice was tried first, and did not hold (the first row of the second table).

Cycles by replicas wanted from the real engine (rows) and from the emulated one (columns):

{_table(["", *(str(wanted) for wanted in seen)], rows)}

What one replica is taken to carry is {_percent(off)} from the emulated engine, on average. The same under
stricter and looser objectives, and, to see how sharp the measure is, with an emulator that is {SLOWER} times as slow:

{_table(["between tokens", "same number", "within one", "within two", "slower emulator, within one"], others)}

{_edge(found)}"""


def _edge(found: Comparison) -> str:
    """What to think of objectives under which the two do not agree."""
    bad = [f"{1000 * one.itl_s:.0f} ms" for one in found.agreements if within(one.pairs, 1) < WANTED_AGREEMENT]
    if not bad:
        return "They agree under all of them."
    return f"""\
They do not agree under {" and ".join(bad)}. That is an edge of the plan: the latency of a batch without load on, as it
learns it from means over {RATE_WINDOW_S} s. An objective just above it leaves room for hardly any request, so that a
few percent between the engines change what a replica carries several times over; one below 1.1 times it is called
unattainable."""


def _whole(found: Comparison) -> str:
    real, emulated = found.real, found.emulated
    rows = [
        _compared("requests finished", real.finished, emulated.finished, "{:.0f}"),
        _compared("preemptions", real.preemptions, emulated.preemptions, "{:.0f}"),
        *(
            _compared(f"time to first token {mark}, as users saw it, ms", *_ms(real.first_s, emulated.first_s, mark))
            for mark in ("p50", "p95")
        ),
        *(
            _compared(
                f"inter-token latency {mark}, as users saw it, ms", *_ms(real.gap_s, emulated.gap_s, mark), "{:.1f}"
            )
            for mark in ("p50", "p95")
        ),
        _compared("mean time to first token, in `/metrics`, ms", 1e3 * real.told_first_s, 1e3 * emulated.told_first_s),
        _compared(
            "mean inter-token latency, in `/metrics`, ms", 1e3 * real.told_gap_s, 1e3 * emulated.told_gap_s, "{:.1f}"
        ),
        _compared("requests running, mean", *_mean(found, lambda side: side.running), "{:.2f}"),
        _compared("requests waiting, mean", *_mean(found, lambda side: side.waiting), "{:.2f}"),
        _compared("KV cache used, mean", *_mean(found, lambda side: 100.0 * side.kv_usage), "{:.1f} %"),
    ]
    return _table(["measure", "real", "emulated", "difference"], rows)


def _over_time(found: Comparison) -> str:
    rows = []
    for window in found.windows:
        real, emulated = window.real, window.emulated
        rows.append(
            [
                f"{window.begin_s:.0f}",
                window.phase or "the rest",
                str(window.arrivals),
                _pair(real.running, emulated.running, "{:.1f}"),
                _pair(real.waiting, emulated.waiting, "{:.1f}"),
                _pair(100 * real.kv_usage, 100 * emulated.kv_usage, "{:.0f}"),
                _pair(real.finished, emulated.finished, "{:.0f}"),
                *(_marks(real.first_s, emulated.first_s, mark) for mark in ("p50", "p95")),
                *(_marks(real.gap_s, emulated.gap_s, mark) for mark in ("p50", "p95")),
                _replicas(found, window.begin_s),
            ]
        )
    head = ["from s", "phase", "requests", "running", "waiting", "KV %", "finished"]
    latencies = [f"{name} {mark} ms" for name in ("TTFT", "ITL") for mark in ("p50", "p95")]
    return (
        f"Windows of {WINDOW_S:.0f} s, real · emulated. Gauges are means of ten scrapes; latencies are those of the "
        "requests that\narrived in the window, as their users saw them; the last column is what Ebbtide wanted at its "
        f"end.\n\n{_table([*head, *latencies, 'wanted'], rows)}"
    )


def _differences(found: Comparison) -> str:
    real, emulated = found.real, found.emulated
    measures: list[tuple[str, float, float]] = [
        ("The middle time to first token", *_ms(real.first_s, emulated.first_s, "p50")),
        ("The 95th percentile of the time to first token", *_ms(real.first_s, emulated.first_s, "p95")),
        ("The middle inter-token latency", *_ms(real.gap_s, emulated.gap_s, "p50")),
        ("The 95th percentile of the inter-token latency", *_ms(real.gap_s, emulated.gap_s, "p95")),
        ("The mean number of running requests", *_mean(found, lambda side: side.running)),
        ("The mean queue", *_mean(found, lambda side: side.waiting)),
        ("The mean use of the KV cache", *_mean(found, lambda side: side.kv_usage)),
    ]
    lines = [
        f"- {name} is {_percent((b - a) / a if a else 0.0)} in the emulator." for name, a, b in measures if _off(a, b)
    ]
    near = [name[4:] for name, a, b in measures if not _off(a, b)]
    if near:
        lines.append(f"- Within a tenth of the real engine: {'; '.join(near)}.")
    lines += [_worst(found, "running", lambda side: side.running), _worst(found, "waiting", lambda side: side.waiting)]
    outside_s = real.mean_first_s - real.told_first_s
    lines.append(
        f"- Users of the real server see a first token {1000 * outside_s:.0f} ms later, in the mean, than its own "
        "`/metrics` say: connecting, HTTP and\n  the load generator's own part are not in them. The emulator is fitted "
        "to `/metrics`, which is what Ebbtide reads."
    )
    return "\n".join([*lines, *_phases(found), *_KNOWN])


def _phases(found: Comparison) -> Iterable[str]:
    """The phases in which the middle time between tokens differs."""
    for phase in streams.SECOND.phases:
        inside = [window for window in found.windows if window.phase == phase.name]
        pairs = [(w.real.gap_s["p50"], w.emulated.gap_s["p50"]) for w in inside if w.real.gap_s and w.emulated.gap_s]
        real, emulated = sum(real for real, _ in pairs), sum(emulated for _, emulated in pairs)
        if pairs and _off(real, emulated):
            yield (
                f"- In the phase '{phase.name}' the middle time between tokens is "
                f"{_percent((emulated - real) / real)} in the emulator."
            )


_KNOWN = (
    "- Answers of the emulator end as `stop` or `length` by chance; here all real ones end as `length`. Nothing reads\n"
    "  it.\n"
    "- vLLM sets its gauges at the end of an iteration, when who has finished is gone and who waits has not joined;\n"
    "  the emulator's are those after that. Under overload the real one shows fewer running than the limit.\n"
    "- The real KV cache is counted block by block; the emulator takes half a block a sequence as unused.\n"
    "- What the machine does beside the server (other programs, the frontend on the same core) is a fixed part of the\n"
    "  fitted iteration time here, and moves in reality. One core and a tiny model say nothing of a GPU's speed; the\n"
    "  order of things in scheduler, queue, cache and metrics is the same code there.",
)


def _worst(found: Comparison, name: str, pick: Callable[[Side], float]) -> str:
    window = max(found.windows, key=lambda window: abs(pick(window.real) - pick(window.emulated)))
    real, emulated = pick(window.real), pick(window.emulated)
    return (
        f"- The widest gap in requests {name}: {real:.1f} real and {emulated:.1f} emulated from second "
        f"{window.begin_s:.0f} on ({window.phase or 'the rest'})."
    )


def _replicas(found: Comparison, begin_s: float) -> str:
    inside = [pair for pair in found.cycles if begin_s <= pair[0].at_s < begin_s + WINDOW_S]
    return f"{inside[-1][0].wanted} · {inside[-1][1].wanted}" if inside else ""


def _mean(found: Comparison, pick: Callable[[Side], float]) -> tuple[float, float]:
    pairs = found.gauges(pick)
    return sum(real for real, _ in pairs) / len(pairs), sum(emulated for _, emulated in pairs) / len(pairs)


def _ms(real: dict[str, float], emulated: dict[str, float], mark: str) -> tuple[float, float]:
    return 1e3 * real.get(mark, math.nan), 1e3 * emulated.get(mark, math.nan)


def _off(real: float, emulated: float) -> bool:
    return abs(emulated - real) > _NEAR * abs(real)


def _compared(name: str, real: float, emulated: float, form: str = "{:.0f}") -> list[str]:
    change = (emulated - real) / real if real else 0.0
    return [name, form.format(real), form.format(emulated), "" if real == emulated else f"{change:+.0%}"]


def _percent(change: float) -> str:
    return f"{abs(change):.0%} {'higher' if change > 0.0 else 'lower'}"


def _pair(real: float, emulated: float, form: str) -> str:
    return f"{form.format(real)} · {form.format(emulated)}"


def _marks(real: dict[str, float] | None, emulated: dict[str, float] | None, mark: str) -> str:
    return " · ".join("-" if found is None else f"{1e3 * found[mark]:.0f}" for found in (real, emulated))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
