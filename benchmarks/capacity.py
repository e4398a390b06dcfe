"""Does Ebbtide know what a replica carries? What it believes under varied load, against what bisection finds.

    python -m benchmarks.capacity                            # both simulators
    python -m benchmarks.capacity --simulators ebbtide       # ours alone, a minute or two

A fleet that cannot change gets 45 minutes of Poisson arrivals that swing between 40 % and 105 % of what it carries. The
truth is the highest constant rate, of the same lengths on the same fleet, at which the declared share of requests meets
both objectives. Combinations and seeds stand here; none was chosen after a run.
"""

import argparse
import math
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.kept import commit_now
from benchmarks.replays import runner, say
from ebbtide.bench.case import Case, EngineLimits, fleet
from ebbtide.bench.faults import NONE, Faults
from ebbtide.bench.run import EBBTIDE, HOLD, Simulator
from ebbtide.bench.score import meets
from ebbtide.bench.svg import Axis, Mark, Panel, axis, chart
from ebbtide.bench.traffic import lengths_from
from ebbtide.cli.bench import INTERRUPTED
from ebbtide.sim.requests import Request

PAGE = Path("docs/benchmarks/capacity.md")
LENGTH_S = 45 * 60.0
SWING_S = 15 * 60.0  # from one crest of the load to the next
LEAST, MOST = 0.40, 1.05  # of the truth
KNOWN_S, SPAN_S = 30 * 60.0, 5 * 60.0  # what is judged: the median of these minutes after the first thirty
OFF, UNSAFE = 0.10, 0.05  # that the belief may be off by, and that it may be above the truth by
WARM_UP_S = 120.0
TRUTH_REQUESTS = 20_000
CLOSE = 1.03  # a bracket of rates as narrow as that is found
SEED = 1

Belief = tuple[tuple[float, float], ...]  # (second, requests/s of one replica)


@dataclass(frozen=True)
class Combination:
    """A model on a GPU under a mix of lengths; `about_per_s`, of one replica, is where bisection begins."""

    name: str
    model: str
    system: str
    prompt: str
    output: str
    ttft_s: float
    itl_s: float
    replicas: int
    about_per_s: float
    attainment: float = 0.99
    kv_blocks: int = 7000
    simulators: tuple[str, ...] = ("ebbtide", "dynamo")

    @property
    def case(self) -> Case:
        """A fleet of its size that cannot change."""
        case = Case(
            name=self.name,
            model=_MODELS[self.model],
            system=self.system,
            tensor_parallel=4 if self.model == "70B" else 1,
            ttft_s=self.ttft_s,
            itl_s=self.itl_s,
            attainment=self.attainment,
            startup_s=(60.0,),
            max_replicas=self.replicas,
            start_replicas=self.replicas,
            engine=EngineLimits(kv_blocks=self.kv_blocks),
        )
        return fleet(case, self.replicas)

    @property
    def words(self) -> str:
        """Model, GPU and lengths for people."""
        gpus = "4 x " if self.model == "70B" else ""
        return f"{self.model} on {gpus}{self.system}, {_tokens(self.prompt)} in and {_tokens(self.output)} out"


def _tokens(distribution: str) -> str:
    return distribution.rpartition(":")[2].partition(",")[0]


_70B, _8B, _EXPERTS = "70B", "8B", "30B of which 3B are active"
_MODELS = {
    _70B: "meta-llama/Meta-Llama-3.1-70B",
    _8B: "meta-llama/Meta-Llama-3.1-8B",
    _EXPERTS: "Qwen/Qwen3-30B-A3B",
}
_DYNAMO = ("dynamo",)
_LONG = ("lognormal:4000,0.3,12000", "lognormal:150,0.6,600")
COMBINATIONS = (
    Combination("chat", _8B, "a100_sxm", "lognormal:500,0.8,3000", "lognormal:150,0.8,1000", 1.0, 0.050, 4, 8.0),
    Combination("alone", _70B, "h100_sxm", "lognormal:500,0.8,3000", "lognormal:200,0.8,1000", 1.5, 0.040, 1, 6.0),
    Combination("many", _70B, "h200_sxm", "lognormal:500,0.8,3000", "lognormal:250,0.8,1500", 1.5, 0.035, 8, 6.0),
    Combination("summaries", _8B, "h100_sxm", "lognormal:3000,0.6,12000", "lognormal:120,0.6,500", 2.0, 0.040, 4, 8.0),
    Combination("reasoning", _70B, "b200_sxm", "lognormal:300,0.8,2000", "lognormal:1200,0.6,5000", 1.0, 0.025, 4, 4.0),
    Combination(
        "strict", _8B, "h200_sxm", "lognormal:800,0.8,4000", "lognormal:250,0.8,1500", 0.5, 0.020, 4, 10.0, 0.999
    ),
    Combination(
        "lenient", _8B, "l40s", "lognormal:700,0.8,3000", "lognormal:200,0.8,1000", 2.0, 0.060, 4, 4.0, 0.95, 3000
    ),
    Combination("experts", _EXPERTS, "h100_sxm", *_LONG, 1.0, 0.050, 3, 3.0, simulators=_DYNAMO),
    Combination("unlisted", _8B, "rtx_pro_6000_server", *_LONG, 1.5, 0.050, 4, 2.0, simulators=_DYNAMO),
)
"""Single replicas and eight, prefill and decode, 95 to 99.9 %; and what no table of ours tells the truth about: a
mixture of experts, of which a token takes a tenth, and a GPU that is in none.
"""


@dataclass(frozen=True)
class Trouble:
    """What goes wrong on the way to what is believed, from the first minute on."""

    name: str
    delay_s: float = 0.0
    faults: Faults = NONE
    speeds: tuple[float, ...] = ()

    def on(self, case: Case) -> Case:
        """`case` with it."""
        return msgspec.structs.replace(case, metric_delay_s=self.delay_s, faults=self.faults, speeds=self.speeds)


CALM = Trouble("nothing")
TROUBLES = (
    Trouble("metrics 15 s late", delay_s=15.0),
    Trouble("metrics 30 s late", delay_s=30.0),
    Trouble("metrics 60 s late", delay_s=60.0),
    Trouble("one minute of five without metrics", faults=Faults(metrics_out=(240.0, 60.0), every_s=300.0)),
    Trouble("counters reset every five minutes", faults=Faults(reset_s=240.0, every_s=300.0)),
    Trouble("replicas 10 % faster and slower by turns", speeds=(0.9, 1.1)),
)
TROUBLED = ("chat", "reasoning")


@dataclass(frozen=True)
class Found:
    """What was believed of one replica of a combination, and what it carries, in requests/s."""

    combination: Combination
    trouble: str
    simulator: str
    truth: float
    series: Belief

    @property
    def believed(self) -> float:
        """The median of the five minutes after the first thirty."""
        return statistics.median(rate for second, rate in self.series if KNOWN_S <= second <= KNOWN_S + SPAN_S)

    @property
    def ratio(self) -> float:
        """What is believed over what is true."""
        return self.believed / self.truth

    @property
    def kept(self) -> bool:
        """Within the bounds."""
        return -OFF <= self.ratio - 1.0 <= UNSAFE

    @property
    def settled_s(self) -> float | None:
        """From when on it is off by no more than a tenth until the end; None: it still is at the end."""
        off = [second for second, rate in self.series if abs(rate / self.truth - 1.0) > OFF]
        if not off:
            return self.series[0][0]
        return next((second for second, _ in self.series if second > off[-1]), None)


def poisson(rate: Callable[[float], float], most: float, length_s: float, source: Sequence[Request]) -> list[Request]:
    """Poisson arrivals of `rate(second)`, at most `most`, with lengths drawn from `source`."""
    draw, found, now_s = random.Random(f"{SEED}/capacity"), [], 0.0
    while (now_s := now_s + draw.expovariate(most)) < length_s:
        if draw.random() * most < rate(now_s):
            like = draw.choice(source)
            found.append(Request(len(found), now_s, like.prompt_tokens, like.output_tokens))
    return found


def lengths(combination: Combination) -> list[Request]:
    """The requests that lengths are drawn from."""
    return lengths_from(combination.prompt, combination.output, SEED)


def truth(simulator: Simulator, combination: Combination, case: Case, count: int = TRUTH_REQUESTS) -> float:
    """Requests/s of one replica of the fleet at which just the allowed share of some `count` requests misses."""
    source, allowed = lengths(combination), 1.0 - case.attainment

    def missed(per_s: float, submitted: int) -> float:
        rate = per_s * case.start_replicas
        requests = poisson(lambda _: rate, rate, WARM_UP_S + submitted / rate, source)
        served = simulator.run(case, requests, HOLD, 0.0, SEED, ()).served
        met = [meets(case, one) for one in served if one.arrival_s >= WARM_UP_S]
        return max(0.5, met.count(False)) / len(met)

    roughly = _edge(lambda per_s: missed(per_s, count // 8), allowed, combination.about_per_s, 1.15)
    return _edge(lambda per_s: missed(per_s, count), allowed, roughly, 1.03)


def _edge(missed: Callable[[float], float], allowed: float, about: float, step: float) -> float:
    """Where `missed` is `allowed`: steps from `about`, then bisection to `CLOSE`, a power of the load inside that."""
    low = high = about
    low_share = high_share = missed(about)
    while low_share > allowed:
        high, high_share = low, low_share
        low /= step
        low_share = missed(low)
    while high_share <= allowed:
        low, low_share = high, high_share
        high *= step
        high_share = missed(high)
    while high > CLOSE * low:
        middle = math.sqrt(low * high)
        share = missed(middle)
        if share > allowed:
            high, high_share = middle, share
        else:
            low, low_share = middle, share
    return low * math.pow(high / low, math.log(allowed / low_share) / math.log(high_share / low_share))


def swinging(of_s: float) -> Callable[[float], float]:
    """Requests/s that swing between `LEAST` and `MOST` of `of_s`."""
    middle, half = (MOST + LEAST) / 2, (MOST - LEAST) / 2
    return lambda second: of_s * (middle - half * math.cos(2 * math.pi * second / SWING_S))


def believed(simulator: Simulator, combination: Combination, case: Case, carries: float) -> Belief:
    """What Ebbtide says of one replica while the load of its fleet swings; `carries` is the truth."""
    whole = carries * case.start_replicas
    requests = poisson(swinging(whole), MOST * whole, LENGTH_S, lengths(combination))
    return simulator.run(case, requests, EBBTIDE, 0.0, SEED, ()).believed


def found_of(
    simulator: Simulator, combination: Combination, troubles: Iterable[Trouble], count: int = TRUTH_REQUESTS
) -> list[Found]:
    """One combination, calm and in each trouble that the simulator can show."""
    truths: dict[tuple[float, ...], float] = {}
    found = []
    for trouble in troubles:
        if trouble.speeds and simulator.name == "dynamo":
            continue
        case = trouble.on(combination.case)
        plain = msgspec.structs.replace(combination.case, speeds=trouble.speeds)
        if trouble.speeds not in truths:
            truths[trouble.speeds] = truth(simulator, combination, plain, count)
        carries = truths[trouble.speeds]
        series = believed(simulator, combination, case, carries)
        found.append(Found(combination, trouble.name, simulator.name, carries, series))
    return found


# measured once, beside the combinations above; what is unsafe here is not mended by leaving it out there
BEYOND = """## Beyond these combinations

- Other objectives, tried by hand in simulator `ebbtide`: alone at 50 and 25 ms 0.98 and 0.99, strict at 25 ms 0.93,
  summaries at 50 ms 0.93, many at 25 ms 0.97, lenient at 2.5 s and 75 ms 1.04; **lenient at 1 s and 50 ms 1.11:
  unsafe**. Why is not known.
- Half the fleet and 6,000 requests a rate in simulator `dynamo`: alone 0.89, strict 0.77, and unlisted, measured later,
  0.57; the others kept the bounds. The truth is less sure there: 6,000 and 20,000 requests differ by 2 to 3 %.
- Metrics 60 s late are fresh here because staleness is set 30 s beyond that, as `--scrape-staleness` does it. At its
  default of 60 s they are always stale: nothing is learnt, and the table of accelerators is believed, 0.65 to 2.22.
- Counters that are reset while the engine goes on lose up to a quarter of a window. It seems that the misses of the
  whole load are then put down to three quarters of it; that was not looked into.
- An objective between two bounds of vLLM's buckets is read by the shape of what was seen. Taken as evenly spread inside
  the bucket, as `histogram_quantile` does, alone came to 0.59, strict to 0.47 and many to 0.80."""


def troubles_of(combination: Combination) -> tuple[Trouble, ...]:
    """What it is measured in."""
    return (CALM, *TROUBLES) if combination.name in TROUBLED else (CALM,)


def measure(simulator: str, jobs: int, chosen: Sequence[Combination]) -> list[Found]:
    """Those that the simulator ships; what was measured before is not measured again."""
    shipped = [one for one in chosen if simulator in one.simulators]
    with runner(simulator, jobs) as replays:

        def one(combination: Combination) -> list[Found]:
            found = found_of(replays, combination, troubles_of(combination))
            for each in found:
                rates = f"{each.truth:.3g} requests/s, {each.ratio:.2f} of it believed"
                say(f"{simulator}, {combination.name}, {each.trouble}: {rates}")
            return found

        return [each for found in replays.side_by_side(one, shipped) for each in found]


def page(found: Sequence[Found], command: str, commit: str, picture: str) -> str:
    """The tables and what follows from them."""
    calm = [one for one in found if one.trouble == CALM.name]
    troubled = [one for one in found if one.combination.name in TROUBLED]
    parts = [
        "# Does Ebbtide know what a replica carries?",
        f"Written by `{command}` on commit {commit}. "
        f"A fleet that cannot change gets {LENGTH_S / 60:g} minutes of Poisson arrivals that "
        f"swing every {SWING_S / 60:g} minutes between {LEAST:.0%} and {MOST:.0%} of what it carries; Ebbtide starts "
        "without any memory and is not told what the fleet carries. True is the highest constant rate of the same "
        "lengths on the same fleet at which the declared share of requests meets both objectives, by bisection (some "
        f"{TRUTH_REQUESTS:,} requests a rate: chance leaves 1 to 3 %). Believed is the median over "
        f"{SPAN_S / 60:g} minutes after the first {KNOWN_S / 60:g}. Rates are requests/s of one replica.",
        "Ebbtide plans to use 70 % of the misses that are allowed, so where misses grow with the tenth power of the "
        "load it means to be 3 to 4 % below the truth.",
        _table(calm, "combination", lambda one: f"{one.combination.name}: {one.combination.words}"),
        f"Asked: off by at most {OFF:.0%}, and above the truth by at most {UNSAFE:.0%}. {_verdict(calm)}",
        f"![What is believed over what is true, by minute]({picture})",
    ]
    if troubled:
        parts += [
            "## When something goes wrong",
            _table(troubled, "trouble", lambda one: f"{one.combination.name}: {one.trouble}"),
            f"{_verdict(troubled)} Replicas of unlike speed exist in simulator `ebbtide` alone, and their truth is "
            "measured on the same unlike fleet.",
        ]
    return "\n\n".join([*parts, BEYOND]) + "\n"


def _table(found: Sequence[Found], title: str, name: Callable[[Found], str]) -> str:
    rows = [
        f"| {title} | simulator | replicas | objectives | true | believed | ratio | within 10 % for good | |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for one in found:
        of = one.combination
        asked = f"{100 * of.attainment:g} %: {1000 * of.ttft_s:g} ms, {1000 * of.itl_s:g} ms"
        settled = "not" if one.settled_s is None else f"{one.settled_s / 60:.0f} min"
        rates = f"{one.truth:.3g} | {one.believed:.3g} | {one.ratio:.2f} | {settled}"
        rows.append(
            f"| {name(one)} | {one.simulator} | {of.replicas} | {asked} | {rates} | {'' if one.kept else 'off'} |"
        )
    return "\n".join(rows)


def _verdict(found: Sequence[Found]) -> str:
    off = [
        f"{one.combination.name} in `{one.simulator}` ({one.trouble}) at {one.ratio:.2f}"
        for one in found
        if not one.kept
    ]
    return f"Kept in {len(found) - len(off)} of {len(found)}" + (f"; not: {', '.join(off)}." if off else ".")


_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#57606a", "#d4a72c", "#0550ae", "#a40e26")


def picture_of(found: Sequence[Found]) -> str:
    """Belief over truth by minute, a panel a simulator."""
    calm = [one for one in found if one.trouble == CALM.name]
    panels = [
        Panel(
            title=f"simulator {simulator}",
            x=axis(0.0, LENGTH_S / 60, 9),
            y=Axis(0.4, 1.4, tuple((tick / 10, f"{tick / 10:g}") for tick in range(4, 15, 2))),
            marks=[_line(one) for one in calm if one.simulator == simulator],
            x_title="minutes of load",
            y_title="believed / true",
            levels=((1.0 + UNSAFE, ""), (1.0 - OFF, "")),
        )
        for simulator in dict.fromkeys(one.simulator for one in calm)
    ]
    return chart(panels, 860.0, 260.0, legend=True)


def _line(one: Found) -> Mark:
    colour = _COLOURS[COMBINATIONS.index(one.combination) % len(_COLOURS)]
    return Mark(
        [(second / 60, rate / one.truth) for second, rate in one.series], colour, "line", label=one.combination.name
    )


def main(given: list[str] | None = None) -> int:
    """Returns 1 where something is off by more than is asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulators", type=lambda text: text.split(","), default=["ebbtide", "dynamo"])
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of combinations")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE)
    options, commit = parser.parse_args(given), commit_now()
    chosen = [one for one in COMBINATIONS if not options.only or one.name in options.only]
    if not chosen:
        parser.error(f"--only: there are {', '.join(one.name for one in COMBINATIONS)}")
    found = [one for simulator in options.simulators for one in measure(simulator, options.jobs, chosen)]
    picture = options.page.with_suffix(".svg")
    options.page.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(picture_of(found))
    words = shlex.join(["python", "-m", "benchmarks.capacity", *(sys.argv[1:] if given is None else given)])
    options.page.write_text(page(found, words, commit, picture.name))
    print(options.page)
    return 0 if all(one.kept for one in found) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
