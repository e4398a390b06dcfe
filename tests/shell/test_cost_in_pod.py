"""`kubectl ebbtide cost` from a machine without a ledger: it is asked for in the operator's pod, by kubectl.

kubectl is a program of the test's: it answers `get` with what the test says and `exec` with what it says, or by running
the same command as the pod would. What an API server does with `exec` is kubectl's to know.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ebbtide.cli.main import cli
from ebbtide.ledger.store import Ledger
from ebbtide.model.money import Lifetime, Payer, PriceRecord
from ebbtide.model.spec import Billing, Price, Tariff

SINCE_S = 1_767_225_600  # 1 January 2026
FORBIDDEN = (
    'Error from server (Forbidden): pods "ebbtide-7f-x1" is forbidden: User "ann" cannot create resource "pods/exec"'
)

_KUBECTL = """#!{python} -IS
import json, os, sys
said = json.loads(open({said!r}).read())
arguments = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(arguments) + chr(10))
def answer(key):
    out, err, code = said[key]
    sys.stdout.write(out); sys.stderr.write(err); sys.stdout.flush()
    sys.exit(code)
if "exec" not in arguments:
    answer("lease" if "lease" in arguments else "pods")
if said["exec"] is not None:
    answer("exec")
command = arguments[arguments.index("--") + 1:]
os.environ.update(said["environment"])
os.execv(said["python"], [said["python"], "-m", *command])
"""


def pod(name: str, *, args: Sequence[str] = ("operator",), labelled: bool = True, **more: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "ebbtide"} if labelled else {}
    containers = [{"name": "proxy"}, {"name": "operator", "args": list(args), **more.pop("container", {})}]
    return {
        "metadata": {"name": name, "labels": labels, **more.pop("metadata", {})},
        "spec": {"containers": containers, **more.pop("spec", {})},
        "status": {"phase": more.pop("phase", "Running")},
    }


def lease(holder: str) -> str:
    return json.dumps({"spec": {"holderIdentity": holder}})


@dataclass
class Kubectl:
    """What the test's kubectl answers, as (stdout, stderr, exit code), and what it was asked."""

    folder: Path
    lease: tuple[str, str, int] = (lease("ebbtide-7f-x1_0a1b2c3d"), "", 0)
    pods: Sequence[dict[str, Any]] = field(default_factory=lambda: [pod("ebbtide-7f-x1")])
    pods_fail: str = ""
    exec: tuple[str, str, int] | None = ("done\n", "", 0)
    environment: dict[str, str] = field(default_factory=dict)

    def install(self) -> None:
        listed = ("", self.pods_fail, 1) if self.pods_fail else (json.dumps({"items": list(self.pods)}), "", 0)
        said = {"lease": self.lease, "pods": listed, "exec": self.exec, "environment": self.environment}
        (self.folder / "said.json").write_text(json.dumps({**said, "python": sys.executable}))
        names = {"python": sys.executable, "said": str(self.folder / "said.json"), "calls": str(self.folder / "calls")}
        program = self.folder / "kubectl"
        program.write_text(_KUBECTL.format(**names))
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    """Found first on PATH; no ledger lies where one does by default."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("EBBTIDE_LEDGER", "EBBTIDE_DATA_DIR", "EBBTIDE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ebbtide.cli.cost.DATA_DIR", tmp_path / "nothing")
    return Kubectl(folder)


def ask(kubectl: Kubectl, *arguments: str, plugin: bool = True) -> Result:
    kubectl.install()
    return CliRunner().invoke(cli, ["cost", *arguments], prog_name="kubectl ebbtide" if plugin else "ebbtide")


def executed(kubectl: Kubectl) -> list[str]:
    """The last call's arguments."""
    call = kubectl.calls[-1]
    assert "exec" in call, kubectl.calls
    return call


def test_it_is_run_in_the_leaders_pod_with_the_arguments_that_were_given(
    kubectl: Kubectl, capfd: pytest.CaptureFixture[str]
) -> None:
    kubectl.pods = [pod("ebbtide-7f-w0"), pod("ebbtide-7f-x1")]
    found = ask(kubectl, "--by", "team,model", "--tokens", "--period=last-month", "-o", "csv")
    assert found.exit_code == 0, found.output
    assert executed(kubectl) == [
        *("exec", "--namespace=ebbtide-system", "ebbtide-7f-x1", "--container=operator", "--"),
        *("ebbtide", "cost", "--by=team,model", "--period=last-month", "--tokens", "--output=csv"),
    ]
    assert capfd.readouterr().out == "done\n"
    assert "pod ebbtide-system/ebbtide-7f-x1" in found.stderr and not found.stdout


def test_options_of_kubectl_reach_every_call_and_no_other(kubectl: Kubectl) -> None:
    found = ask(kubectl, "--context", "prod", "--kubeconfig", "/k", "-n", "money", "--lease-name", "mine")
    assert found.exit_code == 0, found.output
    assert len(kubectl.calls) == 3
    for call in kubectl.calls:
        assert {"--kubeconfig=/k", "--context=prod", "--namespace=money"} <= set(call)
    assert "mine" in kubectl.calls[0]
    assert executed(kubectl)[-2:] == ["ebbtide", "cost"]


def test_without_the_plugin_the_cluster_is_asked_only_where_it_is_named(kubectl: Kubectl) -> None:
    found = ask(kubectl, plugin=False)
    assert "there is no such file" in str(found.exception) and "kubectl ebbtide cost" in str(found.exception)
    assert not kubectl.calls
    assert ask(kubectl, "--context", "prod", plugin=False).exit_code == 0
    assert "--context=prod" in executed(kubectl)


def test_a_ledger_that_is_given_or_lies_there_is_read_and_no_cluster_is_asked(
    kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = ask(kubectl, "--ledger", str(tmp_path / "other.sqlite"))
    assert "there is no such file" in str(missing.exception)
    made = Ledger(tmp_path / "nothing" / "ledger.sqlite")
    made.lead(SINCE_S)
    made.close()
    assert ask(kubectl, "--period", "2026-01-02").exit_code == 0
    monkeypatch.setenv("EBBTIDE_DATA_DIR", str(tmp_path / "elsewhere"))
    assert "elsewhere/ledger.sqlite: there is no such file" in str(ask(kubectl).exception)
    assert not kubectl.calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ledger", "x", "--context", "prod"), "--ledger and --context: one of them is allowed"),
        (("--by", "colour"), '"colour" is not allowed'),
        (("--period", "soon"), '"soon" is not allowed'),
        (("--tokens", "--savings"), "ask for one at a time"),
    ],
)
def test_wrong_usage_is_said_before_a_cluster_is_asked(
    kubectl: Kubectl, arguments: tuple[str, ...], words: str
) -> None:
    found = ask(kubectl, *arguments)
    assert (found.exit_code, words in found.output) == (2, True), found.output
    assert not kubectl.calls


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"args": ["operator", "--ledger=postgresql://db/e"]}, ["ebbtide", "cost", "--ledger=postgresql://db/e"]),
        ({"args": ["operator", "--ledger", "/l.sqlite"]}, ["ebbtide", "cost", "--ledger=/l.sqlite"]),
        ({"args": ["operator", "--data-dir", "/data"]}, ["ebbtide", "cost", "--ledger=/data/ledger.sqlite"]),
        ({"command": ["/v/python", "-m", "ebbtide"], "args": ["operator"]}, ["/v/python", "-m", "ebbtide", "cost"]),
        ({"command": ["/v/ebbtide", "operator"], "args": []}, ["/v/ebbtide", "cost"]),
        ({"command": ["sh", "-c", "exec ebbtide operator"], "args": []}, ["ebbtide", "cost"]),
        (
            {"args": ["operator", "--ledger=$(URL)"], "env": [{"name": "URL", "value": "postgresql://db/f"}]},
            ["ebbtide", "cost", "--ledger=postgresql://db/f"],
        ),
    ],
)
def test_the_operators_own_flags_say_where_its_ledger_is(
    kubectl: Kubectl, container: dict[str, Any], expected: list[str]
) -> None:
    kubectl.pods = [pod("ebbtide-7f-x1", container=container)]
    assert ask(kubectl).exit_code == 0
    call = executed(kubectl)
    assert call[call.index("--") + 1 :] == expected


def test_a_ledger_flag_that_only_the_pod_can_fill_in_is_an_error(kubectl: Kubectl) -> None:
    kubectl.pods = [pod("ebbtide-7f-x1", args=["operator", "--ledger=$(SECRET)"])]
    said = str(ask(kubectl).exception)
    assert "--ledger=$(SECRET)" in said and "EBBTIDE_LEDGER" in said


@pytest.mark.parametrize(
    ("holder", "pods", "chosen"),
    [
        ("ebbtide-7f-x1_aa", [pod("ebbtide-7f-x1", labelled=False), pod("else", labelled=False)], "ebbtide-7f-x1"),
        ("a" * 63 + "_aa", [pod("a" * 63 + "-long"), pod("b")], "a" * 63 + "-long"),
        ("node-3_aa", [pod("b"), pod("c", spec={"hostNetwork": True, "nodeName": "node-3"})], "c"),
        ("gone_aa", [pod("ebbtide-7f-x1"), pod("old", phase="Failed")], "ebbtide-7f-x1"),
        ("", [pod("ebbtide-7f-x1"), pod("ends", metadata={"deletionTimestamp": "now"})], "ebbtide-7f-x1"),
    ],
    ids=["by name", "a host name has 63 letters", "on its host's network", "the only one that runs", "nobody leads"],
)
def test_which_pod_leads(kubectl: Kubectl, holder: str, pods: list[dict[str, Any]], chosen: str) -> None:
    kubectl.lease, kubectl.pods = (lease(holder), "", 0), pods
    assert ask(kubectl).exit_code == 0
    assert chosen in executed(kubectl)


def test_without_leader_election_there_is_no_lease_and_the_only_pod_is_asked(kubectl: Kubectl) -> None:
    kubectl.lease = ("", "", 0)
    assert ask(kubectl).exit_code == 0
    assert "ebbtide-7f-x1" in executed(kubectl)


REFUSED = "The connection to the server localhost:8080 was refused - did you specify the right host or port?"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"lease": ("", REFUSED, 1)}, (REFUSED, "--context")),
        ({"lease": ("", 'error: context "x" does not exist', 1)}, ('context "x" does not exist',)),
        (
            {"lease": ("", 'Error from server (Forbidden): leases "ebbtide" is forbidden', 1)},
            ("Forbidden", "get leases, list pods and create pods/exec", "ebbtide-system", "--ledger"),
        ),
        ({"pods_fail": "Error from server (Forbidden): pods is forbidden"}, ("create pods/exec", "--ledger")),
        ({"pods": []}, ('no pod of the operator runs in namespace "ebbtide-system"', "--namespace")),
        (
            {"lease": (lease("laptop_aa"), "", 0), "pods": [pod("x", labelled=False)]},
            ("laptop_aa", "no pod of the operator runs", "--ledger"),
        ),
        (
            {"lease": (lease("gone_aa"), "", 0), "pods": [pod("a"), pod("b")]},
            ('"gone_aa"', "a, b", "in a few seconds"),
        ),
        ({"exec": ("", FORBIDDEN + "\n", 1)}, ("create pods/exec", "ebbtide-system", "--ledger")),
    ],
    ids=["no cluster", "no context", "no lease", "no pods", "no operator", "elsewhere", "nobody leads", "no exec"],
)
def test_what_it_says_where_it_cannot(kubectl: Kubectl, said: dict[str, Any], words: tuple[str, ...]) -> None:
    for name, value in said.items():
        setattr(kubectl, name, value)
    found = ask(kubectl)
    assert found.exit_code == 1
    for word in words:
        assert word in str(found.exception), found.exception


def test_without_kubectl_it_says_so(kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    said = str(ask(kubectl).exception)
    assert "kubectl" in said and "PATH" in said and "--ledger" in said


def test_the_exit_code_and_the_words_of_the_command_come_through(kubectl: Kubectl) -> None:
    kubectl.exec = ("", "error: ledger x: it has schema version 9\ncommand terminated with exit code 1\n", 1)
    found = ask(kubectl)
    assert found.exit_code == 1 and "schema version 9" in found.stderr
    assert "command terminated" not in found.stderr, "kubectl's own words about that say nothing more"


def test_focus_rows_are_written_here_and_not_in_the_pod(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.exec = ("a,b\n1,2\n", "1 rows of the hours\n", 0)
    path = tmp_path / "rows.csv"
    found = ask(kubectl, "--focus", str(path), "--account", "prod")
    assert found.exit_code == 0 and path.read_text() == "a,b\n1,2\n" and "1 rows" in found.stderr
    assert executed(kubectl)[-2:] == ["--focus=-", "--account=prod"]


def test_where_that_fails_a_file_of_rows_stays_as_it_was(kubectl: Kubectl, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("yesterday's")
    kubectl.exec = ("a,b\n", "error: no\n", 1)
    assert ask(kubectl, "--focus", str(path)).exit_code == 1
    assert path.read_text() == "yesterday's"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["rows.csv"]


def test_end_to_end_the_pod_answers_from_its_own_ledger(kubectl: Kubectl, tmp_path: Path) -> None:
    """The plugin as a process, and the command as a process of the pod's, beside a leader that has the file open."""
    data = tmp_path / "data"
    made = Ledger(data / "ledger.sqlite")
    prices = [PriceRecord("h100", 0, Price("USD", Tariff(Decimal("2.50"))), Billing.POD)]
    lives = [Lifetime("a", Payer("h100", "ml", "chat"), 4, SINCE_S, SINCE_S + 86_400)]
    made.write(made.lead(SINCE_S), SINCE_S + 2 * 86_400, lives, prices)
    kubectl.pods = [pod("ebbtide-7f-x1", container={"command": ["ebbtide", "operator"]})]
    kubectl.exec, kubectl.environment = None, {"EBBTIDE_DATA_DIR": str(data)}
    kubectl.install()
    plugin = tmp_path / "kubectl-ebbtide"
    plugin.write_text("from ebbtide.cli.main import main\nmain()\n")
    command = [sys.executable, str(plugin), "cost", "--period", "2026-01-01", "-o", "json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    made.close()
    assert found.returncode == 0, found.stderr
    (total,) = json.loads(found.stdout)["totals"]
    assert (total["service"], total["cost"]) == ("ml/chat", "240.000000")
    wrong = subprocess.run([*command[:3], "--period", "2099-01"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "has not begun" in wrong.stderr) == (2, True)
