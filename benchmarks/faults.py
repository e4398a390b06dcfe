"""The short cases with faults, and the page about them.

python -m benchmarks.faults --traces ../shared/traces     # half an hour on 2 cores; goes on where it was
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import decisions, kept, robustness
from ebbtide.cli.bench import INTERRUPTED

PAGE = Path("docs/benchmarks/robustness.md")


def page(rows: list[robustness.Row], command: str, commit: str) -> str:
    """What was asked, and the table."""
    table = robustness.table(rows) or "## When something goes wrong\n\nNo case was run: its trace is not there."
    parts = (
        "# When something goes wrong",
        f"Written by `{command}` on commit {commit}: the cases that `QUICK=1` runs. What was asked: at most "
        f"{robustness.MOST_DEARER:.0%} dearer than itself without a forecast, under the same fault.",
        table.partition("\n\n")[2],
    )
    return "\n\n".join(parts) + "\n"


def main(given: list[str] | None = None, call: Callable[[list[str]], int] = decisions.ebbtide) -> int:
    """Returns 1 when a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder of the trace files")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=decisions.OUT, help="where each comparison's own report goes")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(given)
    rows = robustness.run(decisions.asked_under_faults(options), call)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join(["python", "-m", "benchmarks.faults", *(sys.argv[1:] if given is None else given)])
    options.page.write_text(page(rows, words, kept.commit_now()))
    print(options.page)
    return 1 if any(row.status for row in rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
