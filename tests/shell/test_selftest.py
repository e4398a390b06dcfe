"""What the operator asks itself at its start: it ends there where money would stop nothing."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ebbtide.controller.selftest import CASES, self_test
from ebbtide.core.plan import plan
from ebbtide.errors import EbbtideError
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import Snapshot


def test_f12_it_passes_and_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    self_test()
    assert [record.getMessage() for record in caplog.records] == [
        "self-test passed: prices and ceilings hold raises back"
    ]


def test_it_is_shown_that_without_money_to_hold_it_back_the_service_would_grow() -> None:
    assert CASES[0].policy is None and CASES[0].replicas > 1 >= max(CASES[1].replicas, CASES[3].replicas)


@pytest.mark.parametrize(
    ("blind", "said"),
    [
        ({"policies": ()}, "with a ceiling of 6 USD an hour it came to 4, not 2"),
        ({"policies": ()}, "with a day whose money is spent it came to 4, not 1"),
        ({"unreadable": ()}, "with a policy whose ceilings have names of another version it came to 4, not 1"),
        ({"services": ()}, "with no policy, and GPUs at 3 USD an hour it came to 1, not 4"),
    ],
)
def test_f12_a_plan_that_does_not_see_it_ends_the_start_in_words(blind: dict[str, Any], said: str) -> None:
    def decide(snapshot: Snapshot, memory: Memory, now_s: float) -> tuple[Plan, Memory]:
        return plan(msgspec.structs.replace(snapshot, **blind), memory, now_s)

    with pytest.raises(EbbtideError) as refused:
        self_test(decide)
    assert said in str(refused.value) and "nothing is scaled" in str(refused.value)


def test_the_operator_ends_with_1_before_it_listens_or_asks_the_api_server(tmp_path: Any) -> None:
    """A build whose plan knows no ceilings: the step is taken out before the program starts."""
    program = (
        "import sys\n"
        "from ebbtide.core import plan\n"
        "plan.STEPS = tuple(step for step in plan.STEPS if step[0] != 'ceilings')\n"
        "sys.argv = ['ebbtide', 'operator', '--data-dir', sys.argv[1], '--kubeconfig', '/nowhere']\n"
        "from ebbtide.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "error: self-test: a service of 1 replica that declares 4: with a ceiling" in done.stderr
    assert "listening" not in done.stderr and not (tmp_path / "data").exists()
