"""The command line: commands load late, errors are one line, and every setting is an option of `operator`."""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from ebbtide import __version__
from ebbtide.cli import main as cli_main
from ebbtide.cli.main import cli, main
from ebbtide.controller.settings import settings_names
from ebbtide.errors import ConfigurationError
from ebbtide.ledger.store import Ledger
from ebbtide.sandbox.binaries import default_cache


@dataclass(frozen=True)
class Done:
    code: object
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the entry point in this process with these arguments."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["ebbtide", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capsys.readouterr())

    return call


def test_version_and_help():
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output.strip().endswith(__version__)
    assert "operator" in CliRunner().invoke(cli, ["-h"]).output


def test_a_command_whose_module_is_missing_does_not_appear(monkeypatch):
    monkeypatch.setattr(cli_main, "COMMANDS", ("operator", "no_such_command"))
    assert "no_such_command" not in CliRunner().invoke(cli, ["--help"]).output
    result = CliRunner().invoke(cli, ["no_such_command"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_the_version_loads_no_client_library():
    code = (
        "import sys; from click.testing import CliRunner; from ebbtide.cli.main import cli; "
        "CliRunner().invoke(cli, ['--version']); "
        "print([m for m in ('kopf', 'kubernetes', 'aiohttp', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_on_purpose_is_one_line_with_exit_code_1_and_no_traceback(run):
    refused = "error: setting cycle_interval (flag --cycle-interval): '0s' is not allowed: "
    assert run("operator", "--cycle-interval", "0s") == Done(1, "", f"{refused}a duration from 1s to 5m is allowed\n")


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ebbtide", "--debug", "operator", "--cycle-interval", "0s"])
    with pytest.raises(ConfigurationError):
        main()


def test_a_kubeconfig_that_does_not_exist_is_said_in_words(tmp_path):
    """As a process of its own: the way that everything else takes."""
    flags = ["--kubeconfig", str(tmp_path / "none"), "--data-dir", str(tmp_path), "--http-port", "0"]
    command = [sys.executable, "-m", "ebbtide", "operator", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no way to the API server" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_code_2(run):
    assert run("operator", "--no-such-flag").code == 2


def test_help_of_operator_shows_every_setting_with_its_default_and_range():
    text = " ".join(CliRunner().invoke(cli, ["operator", "--help"], terminal_width=200).output.split())
    for name in settings_names():
        assert f"--{name.replace('_', '-')}" in text
    for words in ("Range: 1s to 5m. Default: 10s.", "Default: 256Mi.", "Default: true.", "debug|info|warning|error"):
        assert words in text


def test_options_reach_the_settings_and_a_switch_can_be_turned_off(monkeypatch):
    seen = {}

    def refuse(flags, config):
        seen.update(flags, config=config)
        raise KeyboardInterrupt

    monkeypatch.setattr("ebbtide.cli.operator.load_settings", refuse)
    CliRunner().invoke(cli, ["operator", "--no-leader-election", "--http-port=0", "--config=x.yaml"])
    assert seen == {"leader_election": False, "http_port": "0", "config": Path("x.yaml")}


@pytest.mark.parametrize(
    ("called_as", "name"),
    [("/usr/bin/ebbtide", "ebbtide"), ("/usr/bin/kubectl-ebbtide", "kubectl ebbtide"), ("__main__.py", "ebbtide")],
)
def test_the_plugin_calls_itself_what_the_user_typed(monkeypatch, called_as, name):
    monkeypatch.setattr(sys, "argv", [called_as])
    assert cli_main.program_name() == name


def test_kubectl_finds_the_plugin_and_reports_cost_and_batch_work(tmp_path):
    """As kubectl runs it: the executable `kubectl-ebbtide` on PATH, made from what pyproject.toml names."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["kubectl-ebbtide"].partition(":")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.write(ledger.lead(1_768_478_400), 1_768_478_400, [])
    ledger.close()
    plugin = tmp_path / "kubectl-ebbtide"
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    plugin.chmod(0o755)
    found = [shutil.which("kubectl"), *map(str, default_cache().glob("kubernetes-*/kubectl"))]
    kubectl = next((path for path in found if path is not None), None)
    called = ["kubectl-ebbtide"] if kubectl is None else [kubectl, "ebbtide"]
    path = os.pathsep.join((str(tmp_path), os.environ.get("PATH", "")))
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run_plugin(*arguments):
        command = ["/usr/bin/env", *called, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    path_of = ["--ledger", str(tmp_path / "ledger.sqlite")]
    done = run_plugin("cost", *path_of, "--period", "2026-01", "-o", "csv")
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["service,currency,cost,gpu_hours,unknown_gpu_hours,estimated_gpu_hours"],
    ), done.stderr
    wrong = run_plugin("cost", *path_of, "--by", "colour")
    assert wrong.returncode == 2 and "Usage: kubectl ebbtide cost" in wrong.stderr
    wrong = run_plugin("batch", "--namespace", "Team")
    assert wrong.returncode == 2 and "Usage: kubectl ebbtide batch" in wrong.stderr
    assert wrong.stderr.splitlines()[-1] == (
        'Error: --namespace: "Team" is no name: write lower-case letters, digits and -'
    )
