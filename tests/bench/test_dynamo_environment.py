"""The environment of Dynamo's replay and its worker: what is wrong is said in a line, nothing half is left."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import ebbtide
from ebbtide.bench.dynamo.environment import PINS, Environment, ensure, find_python, installed
from ebbtide.bench.dynamo.simulator import DynamoSimulator
from ebbtide.bench.run import HOLD, RunResult, SimulatorError
from ebbtide.errors import ConfigurationError, NotFoundError
from tests.bench.cases import a_case, steady
from tests.bench.dynamo import require_dynamo

# stands in for the environment's interpreter; `$1` of the answer is what the worker does with a job
FAKE_PYTHON = """#!{python}
import sys
for line in sys.stdin:
    {body}
"""
SHIPPED = "lib/python3.11/site-packages/aiconfigurator_core"


def fake(folder: Path, body: str = "sys.exit(3)") -> Environment:
    """An environment that looks whole, whose worker does `body` for each job."""
    environment = Environment(folder)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(FAKE_PYTHON.format(python=sys.executable, body=body))
    environment.python.chmod(0o755)
    shipped = environment.directory / SHIPPED
    (shipped / "systems" / "data" / "a100_sxm").mkdir(parents=True)
    (shipped / "model_configs").mkdir()
    for name in ("systems/a100_sxm.yaml", "systems/query_versions.yaml"):
        (shipped / name).touch()
    (shipped / "model_configs" / "meta-llama--Meta-Llama-3.1-8B_config.json").touch()
    environment.mark()
    return environment


def test_what_is_not_installed_is_said_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"dynamo-1\.5\.1: not installed; 'make bench-decisions'"):
        installed(Environment(tmp_path))


def test_half_an_environment_is_never_used(tmp_path: Path) -> None:
    environment = fake(tmp_path)
    assert installed(environment) is environment and ensure(pytest.fail, environment) is environment
    (environment.directory / "ebbtide-installed").write_text("other pins")
    assert "from other pins" in environment.flaw
    (environment.directory / "ebbtide-installed").unlink()
    assert environment.flaw.startswith("half installed")
    environment.mark()
    environment.python.unlink()
    assert environment.flaw.startswith("broken")


@pytest.mark.slow
def test_an_installation_that_fails_leaves_nothing_but_its_log(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pins = tmp_path / "pins.txt"
    pins.write_text(f"ebbtide-no-such-package==1 --hash=sha256:{'0' * 64}\n")
    environment, said = Environment(tmp_path / "cache", pins), []
    with pytest.raises(SimulatorError, match=r"(?s)pip ended with status 1:.*ebbtide-no-such-package.*mirror"):
        ensure(said.append, environment)
    assert [line[:11] for line in said if line.startswith("step")] == ["step 1 of 3", "step 2 of 3"]
    assert environment.log.exists() and not environment.directory.exists()


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_a_machine_that_the_pins_do_not_fit_is_told_what_runs_there(system: str, machine: str) -> None:
    with pytest.raises(ConfigurationError, match="--simulator ebbtide"):
        find_python(system, machine)


def test_all_pins_are_exact_and_have_a_hash() -> None:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert {"ai-dynamo==1.5.1", "ai-dynamo-runtime==1.5.1", "aiconfigurator-core==0.12.0", "msgspec==0.22.0"} <= {
        line.split()[0] for line in lines
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"system": "h999"}, "ships no system 'h999'; it has: a100_sxm$", id="system"),
        pytest.param(
            {"model": "nobody/none"}, "no model 'nobody/none'; it has: meta-llama/Meta-Llama-3.1-8B", id="model"
        ),
        pytest.param({"start_replicas": 0}, "at least one replica", id="zero replicas"),
    ],
)
def test_what_the_simulator_does_not_ship_is_named_before_anything_runs(tmp_path: Path, changes, named: str) -> None:
    with DynamoSimulator(fake(tmp_path)) as simulator, pytest.raises(ConfigurationError, match=named):
        simulator.run(a_case(**changes), steady(1.0, 5.0), HOLD, 0.0, 1)


def test_the_worker_needs_nothing_but_msgspec(tmp_path: Path) -> None:
    """What else Ebbtide is made of does not exist in the environment of the replay."""
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    places = [str(tmp_path), str(Path(ebbtide.__file__).parent.parent)]
    if "site-packages" in places[1]:
        pytest.skip("ebbtide is installed beside its dependencies")
    script = f"import sys; sys.path += {places!r}; import ebbtide.bench.dynamo.worker"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_requests_are_no_case(tmp_path: Path) -> None:
    with DynamoSimulator(fake(tmp_path)) as simulator, pytest.raises(ConfigurationError, match="no requests"):
        simulator.run(a_case(), [], HOLD, 0.0, 1)


def says(kind: str, text: str) -> str:
    return f"print({json.dumps({'kind': kind, 'text': text})!r}, flush=True)"


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        pytest.param(
            "sys.stderr.write('no memory'); sys.exit(3)", SimulatorError, "status 3:\n    no memory", id="dies"
        ),
        pytest.param(says("refused", "no rival"), ConfigurationError, "^no rival$", id="refuses"),
        pytest.param(says("broken", "Traceback: ouch"), SimulatorError, "under hold:\nTraceback: ouch", id="breaks"),
        pytest.param(
            says("engine", "Traceback\n64 heads by 3"),
            ConfigurationError,
            "no meta-llama/Meta-Llama-3.1-8B on 1 x a100_sxm: 64 heads by 3",
            id="has no such engine",
        ),
        pytest.param(
            says("engine", "Traceback\nException: AIC: compile_engine: num_heads 12 should be divisible by tp_size 5"),
            ConfigurationError,
            "^simulator dynamo has no meta-llama/Meta-Llama-3.1-8B on 1 x a100_sxm: --tp must divide the model's 12 "
            "attention heads: 1, 2, 3, 4, 6, 12 are allowed$",
            id="cannot split the heads",
        ),
        pytest.param(
            says("engine", "Traceback\nException: AIC: perf data directory not found in /a/b or in /c"),
            ConfigurationError,
            "^simulator dynamo has no meta-llama/Meta-Llama-3.1-8B on 1 x a100_sxm: it ships no timings of vLLM for "
            "this system: choose another --system$",
            id="has no timings",
        ),
    ],
)
def test_how_a_run_can_fail(tmp_path: Path, body: str, error: type[Exception], words: str) -> None:
    with DynamoSimulator(fake(tmp_path, body)) as simulator:
        for _ in range(2):
            with pytest.raises(error, match=words):
                simulator.run(a_case(), steady(1.0, 5.0), HOLD, 0.0, 1)


def test_a_worker_that_died_is_followed_by_another(tmp_path: Path) -> None:
    mark = f"__import__('pathlib').Path({str(tmp_path / 'died')!r})"
    body = f"sys.exit({mark}.write_text('x')) if not {mark}.exists() else {says('refused', 'alive')}"
    with DynamoSimulator(fake(tmp_path, body)) as simulator:
        with pytest.raises(SimulatorError, match="status 1"):
            simulator.run(a_case(), steady(1.0, 5.0), HOLD, 0.0, 1)
        with pytest.raises(ConfigurationError, match="alive"):
            simulator.run(a_case(), steady(1.0, 5.0), HOLD, 0.0, 1)


def test_a_result_is_read_from_the_workers_file(tmp_path: Path) -> None:
    body = (
        "from pathlib import Path; import msgspec; "
        "Path(line.strip()).with_suffix('.out').write_bytes(msgspec.msgpack.encode("
        "{'served': [[0.5, 8, 9, 0.1, 0.2, 3.0]], 'replicas': [], 'billed_s': 60.0, 'startup_billed_s': 0.0,"
        " 'scale_events': 0, 'wall_s': 0.1})); print('{\"kind\": \"done\"}', flush=True)"
    )
    with DynamoSimulator(fake(tmp_path, body)) as simulator:
        result = simulator.run(a_case(), steady(1.0, 5.0), HOLD, 0.0, 1)
    assert isinstance(result, RunResult)
    assert (result.served[0].ttft_s, result.billed_s) == (0.1, 60.0)


def test_tests_of_the_replay_skip_without_it_but_fail_where_it_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EBBTIDE_DYNAMO", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        require_dynamo()
    monkeypatch.setenv("EBBTIDE_DYNAMO", "required")
    with pytest.raises(NotFoundError, match="not installed"):
        require_dynamo()
