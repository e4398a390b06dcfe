"""`ebbtide bench`: what Ebbtide's decisions cost beside those of other autoscalers, on any trace."""

import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import click

from ebbtide.errors import ConfigurationError

STRONGEST = "ebbtide,schedule,slo-law,knative-kpa,hpa-queue"
WRONG_INPUT, INTERRUPTED = 2, 130
_DEFAULT_OUT = Path("out/bench")
_BUDGET_OUT = Path("out/budget")
_BATCH_OUT = Path("out/batch")


class OneLine(click.Group):
    """Commands whose wrong options are said as their other wrong input is: in one line, not in click's several."""

    def invoke(self, ctx: click.Context) -> Any:
        """As any group; a usage error of a command is one line with exit code 2."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            words = error.format_message().rstrip(".")
            _refuse(ConfigurationError(f"{words}; `{command} --help` lists what there is"))


@click.group(cls=OneLine)
def bench() -> None:
    """Compare Ebbtide with other autoscalers on recorded traffic, in simulators."""


@bench.command(
    epilog="""\b
DIST is a number of tokens, lognormal:MEDIAN,SIGMA,MAX, or a file with requests. The same file for both keeps
its requests whole, and their bursts.
\b
A trace of rates for a day, schedules trained on the days before:
  ebbtide bench replay --trace week.csv --train-until 5d --hours 24 --peak-replicas 8 \\
      --input-tokens chat.csv --output-tokens chat.csv --out out/day
The same rivals with the settings that would have been right on an earlier day:
  ebbtide bench replay --trace week.csv --train-until 4d --hours 24 ... --out out/before
  ebbtide bench replay --trace week.csv --train-until 5d --hours 24 ... --tune frozen:out/before/results.json
\b
Exit codes: 0 done, 2 wrong input, 130 interrupted; the same command goes on from where it was.""",
)
@click.option("--simulator", default="dynamo", show_default=True, help="dynamo (NVIDIA's offline replay) or ebbtide.")
@click.option("--trace", type=click.Path(path_type=Path), required=True, help="Requests (CSV, JSONL) or rates (CSV).")
@click.option("--format", "form", metavar="FORMAT", help="mooncake, tokens or rate; by default as the file shows.")
@click.option("--column", help="Which column of a rate trace with several; by default the first.")
@click.option("--start", metavar="T", help="Begin of the span, such as 6h, from the first second of the trace.")
@click.option("--hours", type=float, metavar="H", help="Length of the span; by default to the end of the trace.")
@click.option("--train-until", metavar="T", help="What comes before T is history for schedules and is not scored.")
@click.option(
    "--lead-in",
    metavar="T",
    default="30m",
    show_default=True,
    help="Ebbtide has run the service for the last T of it; 0s: it has never seen a replica.",
)
@click.option("--scale", type=float, help="Times as many requests: thinned, or overlaid with shifted copies.")
@click.option("--peak-replicas", type=int, metavar="N", help="In place of --scale: so much that the peak needs N.")
@click.option("--max-replicas", type=int, help="What a policy may run.  [default: 1.5 times the peak's need]")
@click.option("--noise", type=int, default=1, show_default=True, help="Bursts added to a rate trace: 0, 1 or 2.")
@click.option("--input-tokens", metavar="DIST", help="Prompt lengths, for a trace of rates; see below.")
@click.option("--output-tokens", metavar="DIST", help="Answer lengths, likewise.")
@click.option("--model", default="meta-llama/Meta-Llama-3.1-8B", show_default=True, metavar="NAME")
@click.option("--system", default="h100_sxm", show_default=True, help="GPU system that the simulator knows.")
@click.option("--tp", type=int, default=1, show_default=True, help="GPUs of one replica.")
@click.option(
    "--kv-blocks", type=int, default=7000, show_default=True, help="KV cache of one replica, in blocks of 64 tokens."
)
@click.option("--gpu-hour-price", default="2.50", show_default=True)
@click.option("--ttft-ms", type=float, default=500.0, show_default=True, help="Objective: time to the first token.")
@click.option("--itl-ms", type=float, default=50.0, show_default=True, help="Objective: mean gap between tokens.")
@click.option("--attainment", type=float, default=99.0, show_default=True, help="Percent that must meet both.")
@click.option("--startup-s", type=float, help="From the order to a ready replica.  [default: 100]")
@click.option("--startup-file", type=click.Path(path_type=Path), help="Start-up times, one a line, drawn in order.")
@click.option("--metric-delay-s", type=float, default=0.0, show_default=True, help="How late metrics are.")
@click.option("--rate-factor", type=float, help="Declare a replica to carry so many times what it does, to all.")
@click.option("--metrics-out", metavar="AT:LENGTH", help="No metrics from AT on, such as 20m:10m.")
@click.option("--clock-jump", metavar="AT:BY", help="The operator's clock jumps, such as 20m:1h or 20m:-10m.")
@click.option("--counter-reset", metavar="AT", help="Engines' counters start again at 0.")
@click.option("--garbage", metavar="AT:LENGTH", help="What Ebbtide remembers of demand is made up meanwhile.")
@click.option("--policies", default=STRONGEST, show_default=True, help="Names with commas, or all.")
@click.option("--tune", default="hindsight", show_default=True, help="hindsight, published or frozen:FILE.")
@click.option("--seeds", type=int, default=3, show_default=True, help="How many; they are 1, 2, 3, …")
@click.option("--jobs", type=int, default=2, show_default=True, help="Replays at the same time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=_DEFAULT_OUT, show_default=True)
@click.option(
    "--cross-check/--no-cross-check",
    default=None,
    help="Replay the settings found in the other simulator too.  [default: only after dynamo]",
)
def replay(**options: Any) -> None:
    """Replay a trace under Ebbtide and its rivals; write results.json, report.md and pictures."""
    from ebbtide.bench.command import answer, ask  # late, so that --help is fast

    _end_like_ctrl_c()
    try:
        results = answer(ask(options), options["jobs"], options["out"], _checked(options), _command(), _say)
    except ConfigurationError as error:
        _refuse(error)
    except KeyboardInterrupt:
        click.echo("interrupted: what was computed is kept, the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    for policy in sorted(results.policies, key=lambda one: (one.cost_at_target is None, one.cost_at_target or 0.0)):
        cost = "not reached" if policy.cost_at_target is None else f"{policy.cost_at_target:.2f}"
        click.echo(f"{policy.name:<24} {policy.tuning:<10} {cost:>12}")
    click.echo(f"{options['out'] / 'report.md'}")


@bench.command(
    epilog="""\b
A file of --traces holds rates or requests (see docs/bench-replay.md) of a day at least, and is repeated until the
month is full; FILE:COLUMN takes one of several columns. Of each service it sets the shape, --peak-replicas the level.
\b
  ebbtide bench budget --out out/budget
  ebbtide bench budget --traces week.csv,tiers.csv:prod,tiers.csv:dev --days 7
\b
Exit codes: 0 done, 2 wrong input, 130 interrupted; the same command goes on from where it was.""",
)
@click.option("--days", type=int, default=30, show_default=True, help="The last so many of a month of 30 days.")
@click.option("--traces", metavar="FILE,FILE,FILE", help="Load of chat, code, summaries.  [default: built-in shapes]")
@click.option("--peak-replicas", default="10,8,6", show_default=True, help="Needed in each one's busiest five minutes.")
@click.option("--lead-in-days", type=int, default=7, show_default=True, help="Ebbtide ran for so long before.")
@click.option("--gpu-hour-price", default="2.50", show_default=True, help="USD.")
@click.option("--startup-s", type=float, default=120.0, show_default=True, help="From the order to a ready replica.")
@click.option("--cycle", metavar="T", default="5m", show_default=True, help="A decision every 1m, 2m, 3m, 4m or 5m.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what chance makes of the load.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Runs at the same time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=_BUDGET_OUT, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
def budget(**options: Any) -> None:
    """Spend a month under ceilings of 60, 80 and 100 % of the unconstrained bill, in virtual time; beside rivals."""
    from ebbtide.bench.budget.command import answer, ask, encode, summary  # late, so that --help is fast

    try:
        results = answer(ask(options), options["out"], _command(), _say)
    except ConfigurationError as error:
        _refuse(error)
    except KeyboardInterrupt:
        click.echo("interrupted: what ran is kept, the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    click.echo(encode(results) if options["as_json"] else summary(results), nl=not options["as_json"])
    if not options["as_json"]:
        click.echo(f"{options['out'] / 'report.md'}")


@bench.command(
    epilog="""\b
A scenario is a TOML file with prices, pools and kinds of Jobs; the built-in one is bench/batch/off-peak.toml.
--traces is a folder with recorded chat, or files with commas (FILE:COLUMN takes one of several columns); without
recorded ones shapes are generated.
\b
  ebbtide bench batch --out out/batch
  ebbtide bench batch --scenario mine.toml --traces week.csv,tiers.csv:prod --seeds 1 --days 2
\b
Exit codes: 0 done, 2 wrong input, 130 interrupted; the same command goes on from where it was.""",
)
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE", help="[default: the built-in off-peak]")
@click.option("--traces", metavar="DIR|FILES", help="Of chat.  [default: ../shared/traces, else built-in shapes]")
@click.option("--seeds", type=int, default=3, show_default=True, help="How many; they are 1, 2, 3, …")
@click.option("--days", type=int, default=3, show_default=True, help="For which Jobs come.")
@click.option("--lead-in-days", type=int, default=3, show_default=True, help="Ebbtide ran chat for so long before.")
@click.option("--cycle", metavar="T", default="5m", show_default=True, help="A decision of Ebbtide every 1m to 10m.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Runs at the same time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=_BATCH_OUT, show_default=True)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file too.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
def batch(**options: Any) -> None:
    """Run Jobs beside chat on reserved and on-demand GPUs with prices by the hour, in virtual time; beside rivals."""
    from ebbtide.bench.batch.command import answer, ask, encode, summary  # late, so that --help is fast

    try:
        results = answer(ask(options), options["out"], options["page"], _command(), _say)
    except ConfigurationError as error:
        _refuse(error)
    except KeyboardInterrupt:
        click.echo("interrupted: what was played is kept, the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    click.echo(encode(results) if options["as_json"] else summary(results), nl=not options["as_json"])
    if not options["as_json"]:
        click.echo(f"{options['out'] / 'report.md'}")


def _refuse(error: ConfigurationError) -> NoReturn:
    """One line on stderr that says what is wrong and what is allowed."""
    if (click.get_current_context().find_root().obj or {}).get("debug"):
        raise error
    click.echo("error: " + " ".join(str(error).split()), err=True)
    sys.exit(WRONG_INPUT)


def _end_like_ctrl_c() -> None:
    """SIGTERM ends a run with one line too, and what it started ends with it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _checked(options: dict[str, Any]) -> bool:
    """Our own simulator is always at hand; the other one is installed only for who asks for it."""
    given = options["cross_check"]
    return bool(options["simulator"] == "dynamo" if given is None else given)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _command() -> str:
    """What was typed, so that it can be repeated."""
    return shlex.join(["ebbtide", *without_overridden(sys.argv[1:], click.get_current_context().command)])


def without_overridden(arguments: Sequence[str], command: click.Command) -> list[str]:
    """The last of each option alone, which is the one that counts: `--ttft-ms 1000 --ttft-ms 2000` is 2000."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    known = {name: one for one in options for name in (*one.opts, *one.secondary_opts)}
    found: dict[object, list[str]] = {}
    words = iter(arguments)
    for place, word in enumerate(words):
        option = known.get(word.partition("=")[0])
        value = [] if option is None or option.is_flag or "=" in word else [*islice(words, 1)]
        key = place if option is None else option.name
        found.pop(key, None)
        found[key] = [word, *value]
    return [word for typed in found.values() for word in typed]
