"""The flight recorder: exact values back, little space, bounded, and the same plan in another process."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.cli.replay import decide_again, describe, diff, replay
from ebbtide.core.plan import plan as core_plan
from ebbtide.errors import ConfigurationError, EbbtideError, NotFoundError
from ebbtide.model.memory import Memory, ServiceMemory
from ebbtide.model.plan import Plan
from ebbtide.model.reasons import Code
from ebbtide.model.snapshot import EngineReadings, Latency, Quality, Reading, Snapshot
from ebbtide.record.recorder import LAST, FlightRecorder, decision_id, digest_of
from tests.shell import world

ROOT = Path(__file__).parents[2]
MEMORY = Memory(started_at=1.5, services=(ServiceMemory(key="team/chat"),))


def readings(value: float) -> EngineReadings:
    buckets = ((0.1, 2.0), (float("inf"), 3.3333333333333335))
    return EngineReadings(
        engine="vLLM",
        running=Reading(quality=Quality.FRESH, value=value, age_s=2.0),
        ttft=Latency(per_second=3.5, mean_s=0.1 + 0.2, buckets=buckets),
    )


def snapshot_with(value: float, services: int = 1) -> Snapshot:
    states = []
    for number in range(services):
        spec = world.service_spec(f"team/chat-{number:05}")
        pods = tuple(world.pod(f"p{i}", engine=readings(value if number == 0 else 7.0)) for i in range(3))
        states.append(world.service_state(spec, world.variant_state(pods=pods)))
    return world.snapshot(*states)


def tiny_plan(snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
    """A decision core of two lines, for tests: it depends on everything that must survive."""
    pods = snapshot.services[0].variants[0].pods
    text = ", ".join(f"{pod.name}: {pod.engine.ttft if pod.engine else None}" for pod in pods)
    chosen = sorted({pod.uid for pod in pods})[0]
    plan = world.plan(
        world.service_plan(
            reason=world.reason(text=f"{text} {memory.started_at} {chosen}"), spend_per_hour=Decimal("1.10")
        ),
        at=now_s,
    )
    return plan, memory


def recorded(directory: Path, now_s: float = world.NOW_S) -> str:
    recorder = FlightRecorder(directory, max_bytes=1_000_000)
    snapshot = snapshot_with(4.0)
    return recorder.record(snapshot, MEMORY, now_s, tiny_plan(snapshot, MEMORY, now_s)[0])


@given(
    value=st.floats(allow_nan=False),
    price=st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=0, max_value=1000),
)
def test_every_value_comes_back_exactly(value: float, price: Decimal, tmp_path_factory: pytest.TempPathFactory) -> None:
    snapshot = msgspec.structs.replace(snapshot_with(value), pools=(world.pool_state(price_per_gpu_hour=price),))
    recorder = FlightRecorder(tmp_path_factory.mktemp("flight"), max_bytes=1_000_000)
    plan = world.plan()
    found = recorder.load(recorder.record(snapshot, MEMORY, 1234.5678901234567, plan))
    assert (found.snapshot, found.memory, found.plan, found.now_s) == (snapshot, MEMORY, plan, 1234.5678901234567)
    assert str(found.snapshot.pools[0].price_per_gpu_hour) == str(price), "1.10 stays 1.10"


def test_the_id_says_when_and_what() -> None:
    assert decision_id(1_769_850_300.123, "1a2b3c4d5e6f") == "20260131T090500.123Z-1a2b3c4d"


def test_an_int_where_a_float_belongs_has_the_same_digest() -> None:
    assert digest_of(world.plan(at=5)) == digest_of(world.plan(at=5.0))
    assert digest_of(world.plan(at=5)) != digest_of(world.plan(at=6.0))


def test_what_did_not_change_is_stored_once(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=100_000_000)
    [first, second] = [snapshot_with(value, services=200) for value in (1.0, 2.0)]
    recorder.record(first, MEMORY, 1.0, world.plan())
    before = size(tmp_path)
    recorder.record(second, MEMORY, 2.0, world.plan())
    assert size(tmp_path) - before < before / 3, "one of 200 services changed"
    recorder.record(second, MEMORY, 3.0, world.plan())
    assert [recorder.load(id_).snapshot for id_ in recorder.ids()] == [first, second, second]


def test_what_comes_back_after_another_recording_is_read_back(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=100_000_000)
    seen = [snapshot_with(value, services=200) for value in (1.0, 2.0, 1.0, 3.0, 2.0)]
    for now_s, snapshot in enumerate(seen):
        recorder.record(snapshot, MEMORY, float(now_s), world.plan())
    assert len(list(tmp_path.iterdir())) == 1
    assert [recorder.load(id_).snapshot for id_ in recorder.ids()] == seen


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_the_disk_is_bounded_and_what_is_left_is_whole(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=60_000)
    ids = [recorder.record(snapshot_with(float(i), 20), MEMORY, float(i), world.plan()) for i in range(200)]
    held = recorder.ids()
    assert size(tmp_path) <= 60_000
    assert held == ids[-len(held) :], "the oldest go first"
    assert 10 < len(held) < 200
    assert recorder.load(held[0]).snapshot.services[0].variants[0].pods[0].engine is not None


def test_a_restart_keeps_what_was_recorded(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    second = recorded(tmp_path, world.NOW_S + 10)  # another recorder, as after a restart
    reader = FlightRecorder(tmp_path, max_bytes=1_000_000)
    assert [reader.load(first).now_s, reader.load(LAST).id] == [world.NOW_S, second]


def test_a_tail_cut_off_by_a_crash_costs_only_that_recording(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=1_000_000)
    ids = [recorder.record(snapshot_with(float(i)), MEMORY, float(i), world.plan()) for i in range(3)]
    recorder.close()
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    assert FlightRecorder(tmp_path, max_bytes=1).ids() == ids[:2]


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    id_ = recorded(tmp_path)
    [file] = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(EbbtideError):
        FlightRecorder(tmp_path, max_bytes=1).load(id_)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("20200101", "not held any more"), ("2", "fits 2 decisions")],
)
def test_an_id_that_is_not_there_names_what_is(tmp_path: Path, wanted: str, words: str) -> None:
    recorded(tmp_path)
    recorded(tmp_path, world.NOW_S + 10)
    with pytest.raises(NotFoundError, match=words):
        FlightRecorder(tmp_path, max_bytes=1).load(wanted)


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no decisions"):
        FlightRecorder(tmp_path, max_bytes=1).load(LAST)


def test_a_directory_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="writable"):
        FlightRecorder(tmp_path / "file" / "flight", max_bytes=1)


def test_a_failing_disk_never_disturbs_the_cycle(tmp_path: Path) -> None:
    directory = tmp_path / "flight"
    recorder = FlightRecorder(directory, max_bytes=1000)
    directory.rmdir()
    id_ = recorder.record(snapshot_with(1.0), MEMORY, world.NOW_S, world.plan())
    assert id_ in recorder.notice
    directory.mkdir()
    assert recorder.load(recorder.record(snapshot_with(1.0), MEMORY, world.NOW_S, world.plan())).id == id_


@pytest.mark.parametrize(
    ("plan", "after_s", "want"),
    [
        pytest.param(world.plan(), 10, False, id="the same again"),
        pytest.param(world.plan(), 60, True, id="the same again, a minute later"),
        pytest.param(world.plan(actions=(world.action(),)), 10, True, id="it writes"),
        pytest.param(
            world.plan(world.service_plan(reason=world.reason(Code.PAUSED))), 10, True, id="for another reason"
        ),
        pytest.param(
            world.plan(world.service_plan(variants=(world.variant_plan(wanted=5),))), 10, True, id="it wants more"
        ),
        pytest.param(world.plan(at=world.NOW_S + 10), 10, False, id="only numbers moved"),
    ],
)
def test_when_a_cycle_is_worth_recording(tmp_path: Path, plan: Plan, after_s: float, want: bool) -> None:
    recorder = FlightRecorder(tmp_path, max_bytes=1_000_000, every_s=60.0)
    assert recorder.due(world.plan(), world.NOW_S), "the first one always"
    recorder.record(snapshot_with(1.0), MEMORY, world.NOW_S, world.plan())
    assert recorder.due(plan, world.NOW_S + after_s) is want


# -- replay


def test_deciding_again_gives_the_same_bits(tmp_path: Path) -> None:
    again = decide_again(FlightRecorder(tmp_path, 1).load(recorded(tmp_path)), tiny_plan)
    assert again.same
    assert diff(again) == []
    assert "write: nothing" in list(describe(again))


def test_another_outcome_is_shown_line_by_line(tmp_path: Path) -> None:
    def other(snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
        plan, memory = tiny_plan(snapshot, memory, now_s)
        return msgspec.structs.replace(plan, actions=(world.action(),)), memory

    again = decide_again(FlightRecorder(tmp_path, 1).load(recorded(tmp_path)), other)
    assert not again.same
    assert any(line.startswith("+") and "to_replicas" in line for line in diff(again))


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_the_command_in_a_fresh_process_with_another_hash_seed(tmp_path: Path, seed: str) -> None:
    snapshot = snapshot_with(4.0, services=20)
    recorder = FlightRecorder(tmp_path, max_bytes=1_000_000)
    memory = Memory()
    for cycle in range(3):  # so that the recorded memory holds something
        now_s = world.NOW_S + 10 * cycle
        plan, after = core_plan(snapshot, memory, now_s)
        recorder.record(snapshot, memory, now_s, plan)
        memory = after
    command = [sys.executable, "-m", "ebbtide", "replay", "--decision", LAST, "--recorder", str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_a_fresh_process_with_another_hash_seed_decides_the_same(tmp_path: Path, seed: str) -> None:
    id_ = recorded(tmp_path)
    program = (
        "import sys; from pathlib import Path; from ebbtide.cli.replay import decide_again;"
        "from ebbtide.record.recorder import FlightRecorder; from tests.shell.test_recorder import tiny_plan;"
        "sys.exit(not decide_again(FlightRecorder(Path(sys.argv[1]), 1).load(sys.argv[2]), tiny_plan).same)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), id_], env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0


def test_the_command_lists_and_refuses_in_words(tmp_path: Path) -> None:
    id_ = recorded(tmp_path)
    runner = CliRunner()
    assert runner.invoke(replay, ["--list", "--recorder", str(tmp_path)]).output == f"{id_}\n"
    missing = runner.invoke(replay, ["--recorder", str(tmp_path)])
    assert missing.exit_code == 2
    assert "--decision" in missing.output


def test_the_command_compares_with_the_real_core(tmp_path: Path) -> None:
    snapshot = snapshot_with(4.0)
    recorder = FlightRecorder(tmp_path, max_bytes=1_000_000)
    same = recorder.record(snapshot, MEMORY, world.NOW_S, core_plan(snapshot, MEMORY, world.NOW_S)[0])
    other = recorder.record(snapshot, MEMORY, world.NOW_S + 1, world.plan())
    runner = CliRunner()
    good = runner.invoke(replay, ["--decision", same, "--recorder", str(tmp_path)])
    assert (good.exit_code, "bit for bit" in good.output) == (0, True), good.output
    bad = runner.invoke(replay, ["--decision", other, "--recorder", str(tmp_path), "-o", "json"])
    assert bad.exit_code == 1
    document = json.loads(bad.output)
    assert not document["same"]
    assert document["diff"]
