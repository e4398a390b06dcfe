"""Every wrong input of `ebbtide bench replay` is one line that says what is wrong and what is allowed, exit code 2."""

import hashlib
import os
import re
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from ebbtide.api import fields
from ebbtide.bench import question
from ebbtide.bench.command import ask
from ebbtide.bench.comparison import frozen_on
from ebbtide.bench.loads import span_of
from ebbtide.bench.results import encode
from ebbtide.bench.simulators import SIMULATORS
from ebbtide.cli.bench import replay
from ebbtide.cli.main import main
from tests.bench.fake_simulator import PLACE
from tests.bench.findings import EBBTIDE, results
from tests.bench.replaying import folder, write_trace

GOOD = [(float(second), 100, 10) for second in range(300)]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs the command with these arguments in an empty folder; what the one line says after `error: `."""
    monkeypatch.setitem(SIMULATORS, "fake", PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_trace(Path("good.jsonl"), GOOD)

    def call(*arguments: str, alone: bool = False) -> str:
        given = ["--simulator", "fake", "--model", "tiny", "--policies", "ebbtide", "--seeds", "1"]
        if "--trace" not in arguments:
            given += ["--trace", "good.jsonl"]
        monkeypatch.setattr(sys, "argv", ["ebbtide", "bench", "replay", *given, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert not Path("out/bench/results.json").exists()
        said = capsys.readouterr().err.splitlines()
        errors = [line for line in said if line.startswith("error: ")]
        assert errors == (said if alone else said[-1:]), said
        return errors[0].removeprefix("error: ")

    return call


def lines(*rows: tuple[float, int, int]) -> str:
    return "".join(f'{{"timestamp": {1000 * t_s}, "input_length": {i}, "output_length": {o}}}\n' for t_s, i, o in rows)


TOKENS = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LENGTHS = ("--input-tokens", "100", "--output-tokens", "10")

BAD_TRACES = {
    "a file that is not there": (None, "x.csv", (), "trace x.csv: No such file or directory"),
    "an empty file of requests": ("", "x.jsonl", (), "trace x.jsonl: it holds no requests"),
    "an empty file": (
        "",
        "x.csv",
        (),
        "trace x.csv: it is empty; expected TIMESTAMP,ContextTokens,GeneratedTokens or utc,rpm or t_s,rps or t_s and "
        "token columns",
    ),
    "a table without a request": (TOKENS, "x.csv", (), "trace x.csv: it holds no requests"),
    "times that go back": (
        lines((1, 5, 5), (3, 5, 5), (2, 5, 5)),
        "x.jsonl",
        (),
        "trace x.jsonl line 3: time 2.0000 s: it is 1 s before the line above; times must not go back",
    ),
    "a time before zero": (
        lines((-1, 5, 5)),
        "x.jsonl",
        (),
        "trace x.jsonl line 1: time -1.0000 s: it is before zero; times must not go back",
    ),
    "an empty prompt": (
        lines((1, 0, 5)),
        "x.jsonl",
        (),
        "trace x.jsonl line 1: 0 prompt and 5 output tokens: 1 or more of each are allowed",
    ),
    "an empty answer": (
        TOKENS + "2024-05-10 00:00:00.0000000,10,0\n",
        "x.csv",
        (),
        "trace x.csv line 2: 10 prompt and 0 output tokens: 1 or more of each are allowed",
    ),
    "a line that is no JSON": (
        "{\n",
        "x.jsonl",
        (),
        "trace x.jsonl line 1: Input data was truncated",
    ),
    "rates whose times go back": (
        "t_s,rps\n0,1\n60,1\n30,1\n",
        "x.csv",
        LENGTHS,
        "trace x.csv line 4: time 30: it is 30 s before the line above; times must not go back",
    ),
    "a rate below zero": (
        "t_s,rps\n0,1\n60,-1\n",
        "x.csv",
        LENGTHS,
        "trace x.csv line 3: '60,-1': -1 is no rate: 0 or more is allowed",
    ),
    "rates that are 0 all the time": (
        "t_s,rps\n0,0\n600,0\n",
        "x.csv",
        LENGTHS,
        "trace x.csv: its rate is 0 in all of the span that is asked for",
    ),
    "rates without lengths": (
        "t_s,rps\n0,1\n600,1\n",
        "x.csv",
        (),
        "trace x.csv: it holds rates only: give --input-tokens and --output-tokens, each a number, "
        "lognormal:MEDIAN,SIGMA,MAX or a file with requests",
    ),
    "lengths that nobody understands": (
        "t_s,rps\n0,1\n600,1\n",
        "x.csv",
        ("--input-tokens", "many", "--output-tokens", "10"),
        "input tokens 'many': write a number of tokens, lognormal:MEDIAN,SIGMA,MAX or a file with requests",
    ),
    "another format than the file has": (
        "t_s,rps\n0,1\n600,1\n",
        "x.csv",
        (*LENGTHS, "--format", "tokens"),
        "trace x.csv: it is of format rate, not tokens",
    ),
    "a trace of less than a minute": (
        lines((0, 5, 5), (1, 5, 5)),
        "x.jsonl",
        (),
        "trace x.jsonl: all of it lies within 2 s; at least a minute is needed",
    ),
    "one request": (
        lines((7, 5, 5)),
        "x.jsonl",
        (),
        "trace x.jsonl: all of it lies within 1 s; at least a minute is needed",
    ),
    "a request in a far century": (
        TOKENS + "2024-05-10 00:00:00,10,10\n2999-05-10 00:00:00,10,10\n",
        "x.csv",
        (),
        "trace x.csv: 0 to 8.54666e+06 h of it would be read, up to 8,784 h are allowed: are its times right? --hours "
        "and --start choose a part",
    ),
    "a rate at a far moment": (
        "t_s,rps\n0,1\n1e18,1\n",
        "x.csv",
        LENGTHS,
        "trace x.csv: 0 to 2.77778e+14 h of it would be read, up to 8,784 h are allowed: are its times right? --hours "
        "and --start choose a part",
    ),
    "training of many years": (
        "t_s,rps\n0,1\n1e18,1\n",
        "x.csv",
        (*LENGTHS, "--train-until", "400d", "--hours", "1"),
        "trace x.csv: 0 to 9,601 h of it would be read, up to 8,784 h are allowed: are its times right? --hours "
        "and --start choose a part",
    ),
}


FORMS = "write a number of tokens, lognormal:MEDIAN,SIGMA,MAX or a file with requests"
BAD_LENGTHS = {
    "inf": "number inf: 1 to 10,000,000 is allowed",
    "nan": "number nan: 1 to 10,000,000 is allowed",
    "0": "number 0: 1 to 10,000,000 is allowed",
    "lognormal:100,inf,1000": "sigma inf: 0 to 10 is allowed",
    "lognormal:100,800,1000": "sigma 800: 0 to 10 is allowed",
    "lognormal:100,-1,1000": "sigma -1: 0 to 10 is allowed",
    "lognormal:inf,1,1000": "median inf: 1 to 10,000,000 is allowed",
    "lognormal:100,1,inf": "max inf: 1 to 10,000,000 is allowed",
    "lognormal:100,1,1e30": "max 1e+30: 1 to 10,000,000 is allowed",
}


@pytest.mark.parametrize("text", BAD_LENGTHS)
def test_lengths_beyond_all_bounds_are_refused(refused, text: str) -> None:
    Path("x.csv").write_text("t_s,rps\n0,1\n600,1\n")
    given = ("--trace", "x.csv", "--input-tokens", text, "--output-tokens", "10")
    assert refused(*given) == f"input tokens {text!r}: {BAD_LENGTHS[text]}; {FORMS}"


@pytest.mark.parametrize("case", BAD_TRACES)
def test_a_bad_trace_is_refused(refused, case: str) -> None:
    content, name, options, said = BAD_TRACES[case]
    if content is not None:
        Path(name).write_text(content)
    assert refused("--trace", name, *options) == said


POLICIES = "--policies nobody: simulator fake has no such policy; it has: ebbtide, static-peak, static-mean, "
BAD_OPTIONS = {
    "--simulator other": "--simulator other: it does not exist; there are: dynamo, ebbtide, fake",
    "--format csv": "--format csv: allowed are mooncake, tokens, rate",
    "--noise 3": "--noise 3: allowed are 0, 1, 2",
    "--start later": "--start later: 'later' is not a duration: write for example 500ms, 30s, 10m or 1h30m; it counts "
    "from the first second of the trace",
    "--start 2h": "trace good.jsonl: it covers 0 to 0.08306 h; 2 to 0.08306 h is asked for, and at least a minute is "
    "needed",
    "--hours 0": "--hours 0: above 0 and at most 8784 hours is allowed",
    "--hours 1": "trace good.jsonl: it covers 0 to 0.08306 h; 0 to 1 h is asked for, and at least a minute is needed",
    "--start 1m --train-until 2m": "trace good.jsonl: --start 1m is before --train-until 2m: training would be scored",
    "--scale 0": "--scale 0: above 0 and at most 10000 times is allowed",
    "--scale nan": "--scale nan: above 0 and at most 10000 times is allowed",
    "--scale 2 --peak-replicas 3": "--scale and --peak-replicas: one of them is allowed",
    "--peak-replicas 0": "--peak-replicas 0: 1 to 512 is allowed",
    "--peak-replicas 20 --max-replicas 3": "--peak-replicas 20: --max-replicas 3 allows 1 to 3",
    "--max-replicas 1000": "--max-replicas 1000: 1 to 512 is allowed",
    "--tp 0": "--tp 0: 1 to 1024 is allowed",
    "--kv-blocks 0": "--kv-blocks 0: 1 to 1000000 is allowed",
    "--kv-blocks 1": "--kv-blocks 1: the longest request has 110 tokens, and a replica would hold 64: 2 and more are",
    **{
        f"--gpu-hour-price {text}": f"--gpu-hour-price {text}: a price above 0 and at most 10000 is allowed, such as"
        for text in ("free", "-1", "0", "nan", "inf", "10000.01", "1e400", "1e-400", "2.5000000000000000001", "٣")
    },
    "--ttft-ms 0": "--ttft-ms 0: above 0 and at most 3.6e+06 ms is allowed",
    "--itl-ms inf": "--itl-ms inf: above 0 and at most 3.6e+06 ms is allowed",
    "--attainment 100": "--attainment 100: above 1 and below 100 percent is allowed",
    "--attainment 0": "--attainment 0: above 1 and below 100 percent is allowed",
    "--attainment 1": "--attainment 1: above 1 and below 100 percent is allowed",
    "--attainment 0.99": "--attainment 0.99: above 1 and below 100 percent is allowed; a share of 0.99 is written 99",
    "--startup-s 0": "--startup-s 0: above 0 and at most 86400 seconds is allowed",
    "--startup-s 5 --startup-file f": "--startup-s and --startup-file: one of them is allowed",
    "--startup-file none.txt": "--startup-file none.txt: No such file or directory",
    "--startup-file empty.txt": "--startup-file empty.txt: it is empty; one number of seconds a line is expected",
    "--startup-file bad.txt": "--startup-file bad.txt line 2: soon: above 0 and at most 86400 seconds is allowed",
    "--simulator dynamo --startup-file f": "--startup-file f: in simulator dynamo every start takes as long; use "
    "--startup-s there, or --simulator ebbtide",
    "--metric-delay-s -1": "--metric-delay-s -1: 0 to 3600 seconds is allowed",
    "--rate-factor 0": "--rate-factor 0: above 0 and at most 100 times is allowed",
    "--metrics-out 20m": "--metrics-out 20m: ",
    "--clock-jump 20m:x": "--clock-jump 20m:x: ",
    "--counter-reset soon": "--counter-reset soon: ",
    "--garbage 20m:-10m": "--garbage 20m:-10m: ",
    "--metrics-out 4m:2m": "--metrics-out: it begins at 4m and lasts 2m, the scored span ends at 5m: all of it must "
    "lie before that",
    "--metrics-out 1h:1m": "--metrics-out: it begins at 1h and lasts 1m, the scored span ends at 5m: all of it must "
    "lie before that",
    "--garbage 2m:10m": "--garbage: it begins at 2m and lasts 10m, the scored span ends at 5m: all of it must lie "
    "before that",
    "--clock-jump 5m:-10m": "--clock-jump: it begins at 5m, the scored span ends at 5m: all of it must lie before that",
    "--counter-reset 6m": "--counter-reset: it begins at 6m, the scored span ends at 5m: all of it must lie before "
    "that",
    "--policies ,": "--policies ',': at least one is needed, of: ebbtide, static-peak, static-mean, ",
    "--policies ebbtide,nobody": POLICIES,
    "--policies dynamo-planner": POLICIES.replace("nobody", "dynamo-planner"),
    "--tune best": "--tune best: allowed are hindsight, published or frozen:FILE, a results.json of training days",
    "--tune frozen:none.json": "none.json: No such file or directory",
    "--tune frozen:empty.txt": "empty.txt: it is no results.json of `ebbtide bench replay`: Input data was truncated",
    "--seeds 0": "--seeds 0: 1 to 100 is allowed",
    "--jobs 0": "--jobs 0: 1 to 256 is allowed",
    "--out good.jsonl/out": "--out good.jsonl/out: Not a directory",
    "--input-tokens 5": "--input-tokens and --output-tokens: both are needed where one is given",
    "--input-tokens 5 --output-tokens 5": "trace good.jsonl: it has its own lengths; --input-tokens and "
    "--output-tokens are for rates",
    "--column prod": "trace good.jsonl: --column prod: it holds requests; columns are of rates",
    "--noise 0": "trace good.jsonl: --noise 0: it holds requests, which are played as they are; only 1 is allowed",
    "--noise 2": "trace good.jsonl: --noise 2: it holds requests, which are played as they are; only 1 is allowed",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_a_bad_option_is_refused(refused, options: str) -> None:
    Path("empty.txt").write_text("")
    Path("bad.txt").write_text("30\nsoon\n")
    said = BAD_OPTIONS[options]
    assert refused(*options.split())[: len(said)] == said


@pytest.mark.parametrize(
    ("found_on", "scored", "words"),
    [
        ((0.0, 5 / 60), (), "0 to 0.08333 h of the same trace, and 0 to 0.08333 h is scored"),
        ((0.0, 2 / 60), ("--start", "1m"), "0 to 0.03333 h of the same trace, and 0.01667 to 0.08333 h is scored"),
        ((60.0, 1 / 60), ("--hours", "0.04"), "0.01667 to 0.03333 h of the same trace, and 0 to 0.04 h is scored"),
    ],
    ids=["the same span", "one that begins inside", "one that lies inside"],
)
def test_settings_found_on_a_part_of_what_is_scored_are_not_frozen(
    refused, found_on: tuple[float, float], scored: tuple[str, ...], words: str
) -> None:
    found = results(EBBTIDE)
    digest = hashlib.sha256(Path("good.jsonl").read_bytes()).hexdigest()
    there = msgspec.structs.replace(found.case.traffic, sha256=digest, start_s=found_on[0], hours=found_on[1])
    case = msgspec.structs.replace(found.case, traffic=there)
    Path("before.json").write_bytes(encode(msgspec.structs.replace(found, case=case)))
    assert refused("--tune", "frozen:before.json", *scored, alone=True) == (
        f"--tune frozen:before.json: its settings were found on {words}: a file of a span that does not overlap is "
        "allowed"
    )


def test_settings_found_just_before_what_is_scored_are_frozen(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    write_trace(trace, GOOD)
    typed = [
        "--trace",
        str(trace),
        "--start",
        "2m",
        "--simulator",
        "ebbtide",
        "--tune",
        f"frozen:{tmp_path / 'b.json'}",
    ]
    asked = ask(replay.make_context("replay", typed).params)
    span, found = span_of(asked), results(EBBTIDE)
    there = msgspec.structs.replace(found.case.traffic, sha256=span.sha256, start_s=0.0, hours=118 / 3600)
    case = msgspec.structs.replace(found.case, traffic=there)
    (tmp_path / "b.json").write_bytes(encode(msgspec.structs.replace(found, case=case)))
    before = frozen_on(asked, span)
    assert before is not None and (before.sha256, before.start_s, before.hours) == (span.sha256, 0.0, 118 / 3600)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trace pipe", "trace pipe: it is no regular file"),
        ("--trace .", "trace .: it is no regular file"),
        ("--tune frozen:pipe", "pipe: it is no regular file"),
        ("--startup-file pipe --simulator ebbtide", "--startup-file pipe: it is no regular file"),
    ],
)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(refused, option: str, said: str) -> None:
    os.mkfifo("pipe")
    assert refused(*option.split(), alone=True) == said


HELP = "; `ebbtide bench replay --help` lists what there is"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("replay", "Missing option '--trace'" + HELP),
        ("replay --trace t --seeds abc", "Invalid value for '--seeds': 'abc' is not a valid integer" + HELP),
        ("replay --trace t --hours", "Option '--hours' requires an argument; `ebbtide bench"),
        ("replay --trace t --hourz 3", "No such option '--hourz'"),
        ("replay --trace t more", "Got unexpected extra argument (more)" + HELP),
        ("repla", "No such command 'repla'"),
    ],
)
def test_what_the_command_line_cannot_read_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["ebbtide", "bench", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


def test_a_price_is_bounded_as_that_of_a_pool() -> None:
    assert Decimal(fields.MOST_MONEY) == question.MOST_PRICE
    assert question.price(fields.MOST_MONEY) == question.MOST_PRICE


def test_a_model_that_the_simulator_does_not_ship_is_refused_with_one_line_and_no_other(
    refused,
) -> None:
    assert refused("--model", "huge", alone=True) == "simulator fake has no model huge; it has: tiny"


def test_a_system_that_our_own_simulator_does_not_have_is_refused(refused) -> None:
    said = refused("--simulator", "ebbtide", "--model", "meta-llama/Meta-Llama-3.1-8B", "--system", "tpu")
    assert said.startswith("simulator ebbtide has no meta-llama/Meta-Llama-3.1-8B on 1 x tpu; models of 8B run on 1")


@pytest.mark.parametrize(
    ("option", "objectives"),
    [
        ("--ttft-ms", "first token in 1 ms, gap of 50 ms"),
        ("--itl-ms", "first token in 500 ms, gap of 1 ms"),
    ],
)
def test_objectives_that_no_idle_replica_meets_are_refused(refused, option: str, objectives: str) -> None:
    assert refused(option, "1") == (
        f"case good: {objectives}: 100 % of the requests miss that even alone on an idle replica, less than 50 % is "
        "allowed: raise --ttft-ms or --itl-ms, or take a faster replica"
    )


@pytest.mark.slow
def test_a_trace_that_needs_more_replicas_than_allowed_is_refused(refused) -> None:
    said = refused("--scale", "17", "--max-replicas", "3")
    assert said.startswith("trace good.jsonl: its busiest five minutes need about 4")
    assert said.endswith(" replicas, 3 are allowed: raise --max-replicas, or lower --scale or --peak-replicas")


@pytest.mark.slow
@pytest.mark.parametrize("bound", [("--max-replicas", "2"), ()], ids=["bound by its user", "bound by what may run"])
def test_a_trace_that_needs_far_more_replicas_than_allowed_is_refused_before_a_fleet_is_measured(
    tmp_path: Path, bound: tuple[str, ...]
) -> None:
    made = folder(tmp_path)
    run = made.run("--scale", "300", *bound, "--out", str(tmp_path / "out"))
    assert run.returncode == 2
    allowed = bound[1] if bound else "512"
    said = run.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"error: trace \S+: its busiest five minutes need \d+ replicas or more, {allowed} are allowed: raise "
        "--max-replicas, or lower --scale or --peak-replicas",
        said,
    )
    lonely = run.stderr.count("measuring") - run.stderr.count("measuring 1 replicas")
    assert lonely == 1, "on idle ones, for what cannot be bought"


@pytest.mark.parametrize(
    ("trace", "options", "many"),
    [
        ("t_s,rps\n0,1e12\n600,1e12\n", (*LENGTHS, "--max-replicas", "2"), "600,000,000,000,000"),
        ("t_s,rps\n0,1\n3600,1\n", (*LENGTHS, "--scale", "10000"), "36,000,000"),
    ],
    ids=["a rate beyond all bounds", "a scale beyond all bounds"],
)
def test_more_requests_than_a_replay_can_hold_are_refused_before_anything_is_measured(
    refused, trace: str, options: tuple[str, ...], many: str
) -> None:
    Path("x.csv").write_text(trace)
    assert refused("--trace", "x.csv", *options, alone=True) == (
        f"trace x.csv: {many} requests in one replay, 5,000,000 are allowed: lower --scale, --peak-replicas or --hours"
    )


@pytest.mark.slow
def test_more_requests_than_one_replay_can_hold_are_refused(refused) -> None:
    write_trace(Path("long.jsonl"), [(0.25 * number, 100, 10) for number in range(4000)])
    assert refused("--trace", "long.jsonl", "--scale", "2000").startswith(
        "trace long.jsonl: 8,000,000 requests in one replay, 5,000,000 are allowed: lower --scale, --peak-replicas or"
    )
