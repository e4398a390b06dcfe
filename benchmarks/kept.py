"""Results of cases that are committed beside the page, so that one page can be of runs on several days and machines.

A file a case: what the page shows of it and no more, with the commit that it was run on.
"""

import subprocess
from pathlib import Path

import msgspec

from ebbtide.bench.report import nearest_runs
from ebbtide.bench.results import PolicyResult, Results
from ebbtide.errors import ConfigurationError

FOLDER = Path("docs/benchmarks/results")
UNKNOWN = "unknown"


class Record(msgspec.Struct, frozen=True):
    """One comparison and the commit of the code that computed it."""

    commit: str
    results: Results


def commit_now() -> str:
    """Of this working tree; says so where code has changed since, or where there is no repository."""
    try:
        head, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", ".", "../operator")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{head} with changes" if changed else head


def commits_of(block: str, file: str) -> tuple[str, str]:
    """The commits that first and last touched the tuple `block` in `file` of this folder; unknown where git is not."""
    try:
        found = _git("log", "-s", "--format=%h", "--abbrev=12", "-L", f"/^{block} = (/,/^)/:{file}").split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    return (found[-1], found[0]) if found else (UNKNOWN, UNKNOWN)


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *words], cwd=here, check=True, capture_output=True, text=True).stdout.strip()


def write(folder: Path, name: str, results: Results, commit: str) -> None:
    """Keeps the results of the case `name`: of each policy the runs at its setting nearest to the target alone."""
    target = results.case.replica.attainment
    policies = tuple(_shown(one, target) for one in results.policies)
    record = Record(commit, msgspec.structs.replace(results, policies=policies))
    folder.mkdir(parents=True, exist_ok=True)
    _file(folder, name).write_bytes(msgspec.json.encode(record) + b"\n")


def read(folder: Path, name: str) -> Record | None:
    """What `write` kept; None: nothing. ConfigurationError names a file of another form."""
    file = _file(folder, name)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{file}: it is no kept result of a case: {error}") from error


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _shown(policy: PolicyResult, target: float) -> PolicyResult:
    return msgspec.structs.replace(policy, runs=tuple(nearest_runs(policy, target)) if policy.runs else ())
