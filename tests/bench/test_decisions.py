"""The standard set: what is typed for each case, what is skipped, and the page about all of them."""

import csv
import re
import statistics
from pathlib import Path

import msgspec
import pytest
from benchmarks import cases, decisions, faults, kept, robustness

from ebbtide.bench.command import ask
from ebbtide.bench.results import Agreement, AsPublished, Compared, Versus, encode
from ebbtide.cli.bench import replay
from tests.bench.findings import CHEAPER, CLAIRVOYANT, DEARER, EBBTIDE, policy, results, run


def pretended(typed: list[str], calls: list[list[str]], *policies) -> int:
    """As `ebbtide bench replay` does: files in the folder after --out."""
    calls.append(typed)
    out = Path(typed[typed.index("--out") + 1])
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_bytes(encode(results(*policies)))
    for picture in ("attainment.svg", "replicas.svg"):
        (out / picture).write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return 0


WHEN = ("before", "frozen")


def value_of(option: str, typed: list[str]) -> str:
    return typed[typed.index(option) + 1]


def compared_too(typed: list[str], there: Agreement, *policies) -> int:
    """The same with what the other simulator gave."""
    status = pretended(typed, [], *policies)
    Path(typed[typed.index("--out") + 1], "results.json").write_bytes(encode(results(*policies, agreement=there)))
    return status


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    for case in (*cases.CASES, *cases.HELD_OUT):
        if isinstance(case.trace, str):
            (folder / case.trace).write_text("")
    return folder


def main(tmp_path: Path, traces: Path, *more: str, call) -> tuple[int, str]:
    where = ["--traces", str(traces), "--out", str(tmp_path / "out"), "--page", str(tmp_path / "docs" / "page.md")]
    where += ["--results", str(tmp_path / "docs" / "results")]
    status = decisions.main([*where, *more], call=call)
    return status, (tmp_path / "docs" / "page.md").read_text()


@pytest.mark.parametrize("case", [*cases.standard(), *cases.held_out(), *cases.grid()], ids=lambda case: case.name)
def test_every_command_of_the_set_is_one_that_the_command_line_takes(case: cases.Case, tmp_path: Path) -> None:
    (tmp_path / cases.STARTUPS).write_text("".join(f"{seconds}\n" for seconds in case.startups))
    typed = decisions.arguments(case, tmp_path / "t.csv", tmp_path, decisions.STRONGEST, 1, 2, tmp_path)
    context = replay.make_context("replay", typed[2:])
    asked = ask(context.params)
    assert asked.peak_replicas == case.peak
    assert asked.train_until_s is not None, "schedules have something to go by"
    assert asked.startup_s == case.startups or len(asked.startup_s) == 1
    assert "ebbtide" in asked.policies


def test_names_of_the_set_are_unlike_and_it_has_short_cases_in_both_simulators() -> None:
    for some in ([*cases.standard(), *cases.held_out()], cases.grid()):
        assert len({case.name for case in some}) == len(some)
    assert {case.options.split()[1] for case in cases.quick()} == {"dynamo", "ebbtide"}


def test_the_page_has_a_row_a_case_its_losses_and_pictures(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    policies = (CLAIRVOYANT, EBBTIDE, DEARER, CHEAPER)
    status, page = main(tmp_path, traces, "--quick", call=lambda typed: pretended(typed, calls, *policies))
    assert status == 0
    assert len(calls) == 2
    assert "| conversation-quick | fake | 0.99 | 0.9915 | 12.00 | 1.200 | slo-law | -9.1% |" in page
    assert "Geometric mean over 2 cases: -9.1% saved" in page
    assert "- collapse: 9.1% dearer than slo-law at 99.00%." in page
    assert "![replicas over time](page/collapse-replicas.svg)" in page
    assert (tmp_path / "docs" / "page" / "collapse-replicas.svg").exists()
    assert "clairvoyant is" not in page
    assert "| collapse | slo-law | 10.0% | 20.0% | -100% |" in page[page.index("## Distance to the clairvoyant") :]
    assert "| **ebbtide** | 99.15% | 12.00 | 89.1% | 200 ms | 400 ms | 30 ms | 2.0 | 2.0% |" in page
    assert page.count("| policy | attained | for | worst 5 min | p95 TTFT |") == 2


def test_the_page_says_of_each_case_how_the_other_simulator_differs_and_what_hours_paid_whole_change(
    tmp_path: Path, traces: Path
) -> None:
    own = Compared(name="ebbtide", knob=0.0, cost=12.0, attainment=0.992, other_cost=9.0, other_attainment=0.991)
    beside = Compared(name="schedule", knob=1.0, cost=14.0, attainment=0.991, other_cost=8.0, other_attainment=0.995)
    there = Agreement(simulator="ebbtide", policies=(own, beside), same_order_by_cost=0.0, same_order_by_attainment=0.0)
    hourly = Versus(attainment=0.99, cost=16.0, ebbtide_cost=20.0)
    shipped = AsPublished(cost=14.0, attainment=0.98)
    rival = msgspec.structs.replace(DEARER, cost_at_target_hourly=16.0, versus_hourly=hourly, published=shipped)
    _, page = main(
        tmp_path, traces, "--only", "collapse", call=lambda typed: compared_too(typed, there, EBBTIDE, rival)
    )
    case = page[page.index("## collapse") :]
    assert "0% of the pairs of policies stand in the same order by cost, 0% by attainment." in case
    assert "1 the other way round there (here ebbtide before schedule), 0 open." in case
    assert "Of those that meet the target there with these settings, schedule costs least; all meet it." in case
    assert "| schedule | 15.00 | 16.00 | 1.500 |  | 14.00 @ 98.00% |" in case
    assert "| ebbtide | 12.00 |  | 1.200 |  |  |" in case
    assert "Billed by begun hours, Ebbtide is dearer than schedule (25.0%)." in case


def test_a_rival_that_had_nothing_to_go_by_is_marked_and_beaten_by_nobody(tmp_path: Path, traces: Path) -> None:
    idle = msgspec.structs.replace(CHEAPER, name="schedule", tuning="held", note="held: no same hour before; measured")
    _, page = main(tmp_path, traces, "--quick", call=lambda typed: pretended(typed, [], EBBTIDE, DEARER, idle))
    assert "| schedule (held: no same hour before) | 11.00 |" in page
    assert "Losses\n\nNone." in page


def test_a_target_that_is_missed_is_the_first_of_the_losses_and_costs_below_it_are_said_to_be(
    tmp_path: Path, traces: Path
) -> None:
    own = policy("ebbtide", None, [run(0.0, 12.0, 0.97)], tuning="default")
    beside = policy("hpa-queue", None, [run(0.5, 9.0, 0.96)], (0.96, 9.0, 11.7))
    _, page = main(tmp_path, traces, "--quick", call=lambda typed: pretended(typed, [], own, beside))
    losses = page[page.index("## Losses") :].splitlines()[2:6]
    assert losses == [
        "- conversation-quick: Ebbtide does not reach the target; no rival reaches it either.",
        "- collapse: Ebbtide does not reach the target; no rival reaches it either.",
        "- conversation-quick: 30.0% dearer than hpa-queue at 96.00%, where neither reaches the target.",
        "- collapse: 30.0% dearer than hpa-queue at 96.00%, where neither reaches the target.",
    ]


def test_the_page_says_what_its_cases_cannot_show(tmp_path: Path, traces: Path) -> None:
    def limits(*more: str) -> str:
        _, page = main(tmp_path, traces, *more, call=lambda typed: pretended(typed, [], EBBTIDE, DEARER))
        return next(line for line in page.splitlines() if line.startswith("**What these cases cannot show.** "))

    standard = limits()
    for words in (
        "2 seeds a case.",
        "Costs are those of simulator `fake` alone",
        "The busiest five minutes need 3 to 6 replicas",
        "which of them are missed is chance in part: code (1,000), collapse (1,000), ",
        "No rival's setting was found on another day",
        "several pools, zero replicas, lost spot nodes",
    ):
        assert words in standard, words
    whole = limits("--full")
    assert "busiest five minutes" not in whole, "20 replicas are in it"
    assert "No rival's setting" not in whole, "nor are frozen ones left out"


def test_a_case_without_its_trace_is_skipped_and_the_page_says_so(tmp_path: Path, traces: Path) -> None:
    (traces / "azure2023_conv.csv").unlink()
    calls: list[list[str]] = []
    status, page = main(tmp_path, traces, call=lambda typed: pretended(typed, calls, EBBTIDE, DEARER))
    assert status == 0, "a trace that is not there is no failure"
    assert f"- conversation: azure2023_conv.csv is not in {traces}" in page
    assert f"- diurnal-chat: azure2023_conv.csv is not in {traces}" in page, "its lengths come from there"
    left = {"azure2023_code", "mooncake_conversation", "servegen_deepseek-r1", "on-off", "slow-starts", "collapse"}
    assert {Path(typed[3]).stem for typed in calls} == left
    assert "## Losses\n\nNone." in page


def test_a_case_that_fails_is_said_with_its_command_and_the_others_go_on(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []

    def call(typed: list[str]) -> int:
        return 2 if "dynamo" in typed else pretended(typed, calls, EBBTIDE, DEARER)

    status, page = main(tmp_path, traces, "--quick", call=call)
    assert status == 1
    assert "- conversation-quick: it ended with status 2: ebbtide bench replay --trace" in page
    assert len(calls) == 1


def test_the_full_grid_also_freezes_settings_on_the_same_hours_of_the_day_before(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    part = [case.name for case in cases.grid()].index("diurnal-chat-4-noise1") + 1
    slices = ["--full", "--slice", f"{part}/{len(cases.grid())}"]
    status, page = main(tmp_path, traces, *slices, call=lambda typed: pretended(typed, calls, EBBTIDE, DEARER))
    assert status == 0
    test, before, frozen = calls
    assert test[test.index("--train-until") + 1] == frozen[frozen.index("--train-until") + 1] == "3d6h"
    assert before[before.index("--train-until") + 1] == "2d6h"
    assert before[before.index("--scale") + 1] == frozen[frozen.index("--scale") + 1] == "1.5", "as the test was"
    assert "--peak-replicas" not in before
    for typed in (before, frozen):
        assert typed[typed.index("--tp") + 1] == test[test.index("--tp") + 1] == "4", (
            "as many GPUs as replicas, by chance"
        )
    out = before[before.index("--out") + 1]
    assert frozen[frozen.index("--tune") + 1] == f"frozen:{out}/results.json"
    assert "## Rivals with the settings of an earlier span" in page


def test_slices_are_all_of_the_grid_once(tmp_path: Path, traces: Path) -> None:
    seen: list[str] = []
    for part in (1, 2, 3):
        calls: list[list[str]] = []
        main(
            tmp_path,
            traces,
            "--full",
            "--slice",
            f"{part}/3",
            call=lambda typed, calls=calls: pretended(typed, calls, EBBTIDE),
        )
        seen += [Path(typed[typed.index("--out") + 1]).name for typed in calls]
    whole = [name for name in seen if not name.endswith(("-before", "-frozen")) and "fault-" not in name]
    assert sorted(whole) == sorted(case.name for case in cases.grid())


@pytest.mark.parametrize("slices", [[], ["--slice", "2/16"]], ids=["whole", "a slice"])
def test_the_grid_has_a_page_of_its_own_and_leaves_that_of_the_standard_set_alone(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch, slices: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["--traces", str(traces), "--full", *slices]
    assert decisions.main(typed, call=lambda typed: pretended(typed, [], EBBTIDE, DEARER)) == 0
    assert not decisions.PAGE.exists()
    page = Path("docs/benchmarks/grid.md")
    assert "| conversation-10-noise1 | fake |" in page.read_text()
    assert page.with_suffix("").joinpath("conversation-10-noise1-replicas.svg").exists()


def test_the_page_of_each_slice_has_what_the_slices_before_it_left(tmp_path: Path, traces: Path) -> None:
    names = [case.name for case in cases.grid()]

    def page_of(part: int) -> str:
        found = (CLAIRVOYANT, EBBTIDE, DEARER, without(robustness.WITHOUT, 0.02))
        slices = ["--full", "--slice", f"{part}/3"]
        return main(tmp_path, traces, *slices, call=lambda typed: pretended(typed, [], *found))[1]

    first, second, third = page_of(1), page_of(2), page_of(3)
    assert "## From other runs" not in first
    assert [f"- {name}: left out by --slice 1/3" in first for name in names[:3]] == [False, True, True]
    left = [line for line in second.splitlines() if ", commit " in line and line.startswith("- ")]
    assert [line.partition(",")[0] for line in left] == [f"- {name}" for name in names[::3]], "named as of another run"
    assert "## Not run" not in third
    assert [name for name in names if f"| {name} | fake |" in third] == names
    assert [page.count("| collapse | none |") for page in (first, second, third)] == [1, 1, 1], "faults too"
    frozen = third[third.index("## Rivals with the settings") : third.index("## What each part")]
    assert [name for name in names if f"| {name} | schedule |" in frozen] == with_a_span_before(cases.grid())


SHORT = ("conversation", "conversation-quick", "code", "long-context")  # of them nothing precedes the span but minutes


def with_a_span_before(some: list[cases.Case]) -> list[str]:
    return [case.name for case in some if not re.match(f"({'|'.join(SHORT)})(-\\d|$)", case.name)]


def test_settings_frozen_on_an_earlier_span_are_an_option_of_every_set(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    _, page = main(tmp_path, traces, "--frozen", call=lambda typed: pretended(typed, calls, EBBTIDE, DEARER))
    names = [case.name for case in cases.standard()]
    frozen = page[page.index("## Rivals with the settings") : page.index("## conversation")]
    assert [name for name in names if f"| {name} | schedule |" in frozen] == with_a_span_before(cases.standard())
    for name, span, trained, earlier in (
        ("diurnal-chat", "1", "3d6h", "2d6h"),
        ("on-off", "2", "4h", "2h"),
        ("collapse", "0.75", "1h", "15m"),
    ):
        before, after = (next(typed for typed in calls if typed[-1].endswith(f"{name}-{end}")) for end in WHEN)
        assert value_of("--hours", before) == value_of("--hours", after) == span
        assert (value_of("--train-until", before), value_of("--train-until", after)) == (earlier, trained)
        assert value_of("--tune", after).startswith("frozen:")
    assert "No rival's setting" not in page


@pytest.mark.parametrize("case", [*cases.standard(), *cases.held_out()], ids=lambda case: case.name)
def test_our_own_simulator_is_checked_by_the_other_wherever_that_can_play_the_case(case: cases.Case) -> None:
    if "--simulator ebbtide" in case.options:
        assert ("--cross-check" in case.options) is not bool(case.startups)


def test_start_ups_that_differ_are_a_line_each_beside_the_trace(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    main(tmp_path, traces, "--only", "slow-starts", call=lambda typed: pretended(typed, calls, EBBTIDE, DEARER))
    file = Path(value_of("--startup-file", calls[0]))
    seconds = sorted(float(line) for line in file.read_text().splitlines())
    assert len(seconds) == 200 and (seconds[0], seconds[-1]) == (45.0, 353.4)
    assert statistics.median(seconds) == pytest.approx(90.0, rel=0.1)
    assert sum(one > 200.0 for one in seconds) >= 10


def test_results_of_another_form_are_said_and_not_shown(tmp_path: Path, traces: Path) -> None:
    old = tmp_path / "docs" / "results" / "collapse.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    only = ["--only", "conversation"]
    status, page = main(tmp_path, traces, *only, call=lambda typed: pretended(typed, [], EBBTIDE, DEARER))
    assert status == 0
    assert f"- collapse: left out by --only; {old}: it is no kept result of a case" in page


def test_the_page_is_assembled_of_what_several_runs_kept_each_with_its_commit(tmp_path: Path, traces: Path) -> None:
    def call(typed: list[str]) -> int:
        return pretended(typed, [], CLAIRVOYANT, EBBTIDE, DEARER, CHEAPER)

    _, first = main(tmp_path, traces, "--only", "code", call=call)
    main(tmp_path, traces, "--only", "collapse", call=call)
    status, page = main(tmp_path, traces, "--assemble", call=lambda typed: 1)
    assert status == 0, "nothing is run"
    assert "- conversation: left out by --assemble" in page
    assert [line for line in page.splitlines() if line.startswith(("- code, commit ", "- collapse, commit "))]
    assert page[page.index("## code\n") : page.index("## collapse")] == first[first.index("## code\n") :] + "\n"
    kept_file = tmp_path / "docs" / "results" / "code.json"
    record = kept.read(kept_file.parent, "code")
    assert record is not None and f"Run on commit {record.commit}:" in page
    assert [len(one.runs) for one in record.results.policies] == [1, 2, 1, 1], "of a setting no picture is drawn here"
    assert kept_file.stat().st_size < 10_000


def test_what_a_run_left_can_be_kept_as_of_its_commit(tmp_path: Path, traces: Path) -> None:
    pretended(["--out", str(tmp_path / "out" / "collapse")], [], EBBTIDE, DEARER)
    status, page = main(tmp_path, traces, "--adopt", "0123abc", call=lambda typed: 1)
    assert status == 0
    assert "- collapse, commit 0123abc" in page and "Run on commit 0123abc:" in page
    assert "- code: left out by --adopt" in page
    assert (tmp_path / "docs" / "page" / "collapse-replicas.svg").is_file()


@pytest.mark.parametrize(
    ("tried", "keeps"),
    [(["--quick"], False), (["--seeds", "2"], False), (["--policies", "ebbtide"], False), (["--only", "code"], True)],
)
def test_a_try_leaves_the_committed_page_alone(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch, tried: list[str], keeps: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["--traces", str(traces), *tried]
    assert decisions.main(typed, call=lambda typed: pretended(typed, [], EBBTIDE, DEARER)) == 0
    assert not decisions.PAGE.exists()
    assert Path("out/decisions/quick.md" if tried == ["--quick"] else "out/decisions/tried.md").exists()
    assert [file.name for file in kept.FOLDER.glob("*")] == (["code.json"] if keeps else [])


def test_the_quick_set_leaves_the_page_of_the_standard_set_alone(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, where, guide in (
        ([], Path("docs/benchmarks/decisions.md"), "../bench-replay.md"),
        (["--quick"], Path("out/decisions/quick.md"), "../../docs/bench-replay.md"),
        (["--held-out"], Path("docs/benchmarks/held-out.md"), "../bench-replay.md"),
    ):
        typed = ["--traces", str(traces), *options]
        assert decisions.main(typed, call=lambda typed: pretended(typed, [], EBBTIDE, DEARER)) == 0
        assert f"[How it is measured]({guide})" in where.read_text()
        shown = "walk" if "--held-out" in options else "collapse"
        assert where.with_suffix("").joinpath(f"{shown}-replicas.svg").exists()
        assert (decisions.UNSEEN in where.read_text()) is ("--held-out" in options)
    assert "## long-context" in Path("docs/benchmarks/decisions.md").read_text()


def test_of_what_was_never_run_no_page_is_written(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for which in ([], ["--held-out"]):
        assert decisions.main(["--traces", str(traces), "--assemble", *which], call=lambda typed: 0) == 1
        said = capsys.readouterr()
        assert said.err.splitlines()[-1] == "no case was ever run: no page is written"
        assert said.out == ""
    assert not Path("docs").exists()


def test_the_page_of_held_out_cases_says_which_commit_named_them_and_which_each_was_run_on(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept.write(kept.FOLDER, "walk", results(CLAIRVOYANT, EBBTIDE, DEARER), "0123abc")
    assert decisions.main(["--traces", str(traces), "--held-out", "--assemble"], call=lambda typed: 0) == 0
    page = decisions.HELD_OUT_PAGE.read_text()
    assert "- walk: run on 0123abc\n" in page and "- two-peaks: not run\n" in page
    assert "first run" not in page and "no decision was changed" not in page, "nobody looked"
    named, changed = kept.commits_of("HELD_OUT", "cases.py")
    assert re.fullmatch("[0-9a-f]{12}|unknown", named) and f"They were named by commit {named}" in page
    assert (f"last changed by {changed}" in page) is (changed != named)
    assert kept.commits_of("HELD_OUT", "no_such_file.py") == ("unknown", "unknown")


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/"])
def test_a_slice_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        decisions.main(["--slice", text])
    assert "a part of how many, such as 2/8" in capsys.readouterr().err


def test_a_generated_trace_is_a_row_a_minute_with_its_collapse(tmp_path: Path) -> None:
    case = next(case for case in cases.CASES if case.name == "collapse")
    assert not isinstance(case.trace, str)
    cases.write_shape(case.trace, tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    rates = {int(row["t_s"]): float(row["rps"]) for row in rows}
    assert (rates[4440], rates[4500]) == (18.0, 3.0)
    assert len(rates) == 1441


def without(name: str, saving: float, **more):
    """Ebbtide without a part: as much dearer as it saves."""
    return policy(name, 15.0, [run(1.0, 14.0, 0.98)], (0.99, 12.0 / (1 - saving), 12.0), tuning="ablation", **more)


def test_with_ablations_the_page_says_what_each_part_saves_case_by_case(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    found = (CLAIRVOYANT, EBBTIDE, DEARER, without("ebbtide-no-keep", 0.25), without("ebbtide-no-tail", -0.1))
    _, page = main(tmp_path, traces, "--quick", "--ablations", call=lambda typed: pretended(typed, calls, *found))
    assert all(typed[typed.index("--policies") + 1].endswith(",ablations") for typed in calls)
    assert "| keep | +25.0% | +25.0% | +25.0% |" in page
    assert "| tail | -10.0% | -10.0% | -10.0% |" in page
    assert "ebbtide-no-tail is" not in page, "no rival, so no loss"


def test_with_faults_each_is_a_row_with_what_the_forecast_costs_then(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []

    def call(typed: list[str]) -> int:
        if "--garbage" in typed and "dynamo" in typed:
            return 1
        saving = -0.08 if "--clock-jump" in typed else 0.02
        return pretended(typed, calls, CLAIRVOYANT, EBBTIDE, without(robustness.WITHOUT, saving))

    status, page = main(tmp_path, traces, "--quick", "--robustness", call=call)
    assert status == 1, "one of them failed"
    assert len(calls) == 2 + 2 * len(robustness.FAULTS) - 1
    assert "| collapse | none | 99.150% | 12.00 | 12.00 | 12.24 at 99.000% | -2.0% |" in page
    assert "| collapse | the clock jumps an hour ahead | 99.150% | 12.00 | 12.00 | 11.11 at 99.000% | +8.0% |" in page
    assert (
        "| conversation-quick | the forecast is fed garbage for 10 minutes | it ended with status 1 | | | | |" in page
    )
    assert "More than 5% dearer: conversation-quick, the clock jumps an hour ahead; " in page


@pytest.mark.parametrize("fault", robustness.FAULTS)
@pytest.mark.parametrize("case", cases.quick(), ids=lambda case: case.name)
def test_every_fault_is_one_that_the_command_line_takes_and_ends_within_the_span(
    case: cases.Case, fault: str, tmp_path: Path
) -> None:
    typed = decisions.arguments(case, tmp_path / "t.csv", tmp_path, robustness.POLICIES, 1, 2, tmp_path)
    asked = ask(replay.make_context("replay", [*typed[2:], *robustness.options_of(fault, typed)]).params)
    wrong = [*asked.faults.words(), asked.rate_factor, asked.metric_delay_s or None]
    assert len([one for one in wrong if one is not None]) == (fault != "none")
    assert asked.hours is not None
    for lasting in (asked.faults.metrics_out, asked.faults.garbage):
        assert lasting is None or (lasting[1] == 600.0 and sum(lasting) <= 3600 * asked.hours)


def test_the_page_of_faults_counts_how_many_are_within_the_bar(tmp_path: Path, traces: Path) -> None:
    def call(typed: list[str]) -> int:
        saving = -0.08 if "--clock-jump" in typed and "dynamo" in typed else 0.02
        return pretended(typed, [], CLAIRVOYANT, EBBTIDE, without(robustness.WITHOUT, saving))

    page = tmp_path / "page.md"
    given = ["--traces", str(traces), "--out", str(tmp_path / "out"), "--page", str(page)]
    assert faults.main(given, call=call) == 0
    text = page.read_text()
    assert text.startswith("# When something goes wrong\n\nWritten by `python -m benchmarks.faults ")
    assert text.count("| collapse |") == 9 and "## " not in text
    assert (
        "At most 5% dearer in 14 of 16: 8 faults in each of 2 cases. More than 5% dearer: conversation-quick, " in text
    )


def test_some_cases_alone_are_run_and_the_page_names_the_others(tmp_path: Path, traces: Path) -> None:
    calls: list[list[str]] = []
    status, page = main(
        tmp_path, traces, "--only", "collapse", call=lambda typed: pretended(typed, calls, EBBTIDE, DEARER)
    )
    assert (status, len(calls)) == (0, 1)
    assert "- conversation: left out by --only" in page
    with pytest.raises(SystemExit):
        main(tmp_path, traces, "--only", "collaps", call=lambda typed: 0)
