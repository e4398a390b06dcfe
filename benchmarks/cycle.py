"""`make bench`: one cycle of the whole operator at 10 to 10,000 services, as a table and, with --json, as a file.

Each size gets two fresh processes: one that plays the cluster and one that is the operator (`benchmarks.cluster`,
`benchmarks.measured`); only the second is measured. It is repeated `--repeat` times and the quickest counts, because
whatever else runs on the machine can only add. With `--policies` the largest size is measured once more, under that
many CostPolicies of which a tenth binds (`benchmarks.fleet.cost_policies`), and with `--jobs-queued` once more beside
that many Jobs that wait (`benchmarks.batch`).

    python -m benchmarks.cycle [--sizes 10,100,1000,10000] [--quick] [--repeat 1] [--policies 0]
        [--jobs-queued 0] [--json FILE] [--markdown FILE]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import report

SIZES = (10, 100, 1000, 10_000)
QUICK = (10, 100)


def measure(services: int, cycles: int, policies: int, jobs: int) -> dict[str, Any]:
    """One size once; raises CalledProcessError when the operator's process failed."""
    counts = ["--services", str(services), "--policies", str(policies), "--jobs", str(jobs)]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster", *counts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        try:
            url = cluster.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the process that plays the cluster ended with {cluster.wait()}")
            command = [sys.executable, "-m", "benchmarks.measured", "--services", str(services), "--url", url]
            done = subprocess.run([*command, "--cycles", str(cycles)], check=True, stdout=subprocess.PIPE, text=True)
        finally:
            cluster.stdin.close()  # it ends by itself
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"policies": policies, "jobs": jobs}


def best(services: int, cycles: int, repeat: int, policies: int, jobs: int) -> dict[str, Any]:
    """The quickest of `repeat` measurements, by the CPU of a steady cycle."""
    cost = report.rows()[0].value
    return min((measure(services, cycles, policies, jobs) for _ in range(repeat)), key=cost)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of services of at least 1, separated by commas")
    return sizes


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=_sizes, help="numbers of services, separated by commas")
    parser.add_argument("--quick", action="store_true", help="10 and 100 services, three cycles")
    parser.add_argument("--cycles", type=int, help="steady cycles a size; the middle one is shown")
    parser.add_argument("--policies", type=int, default=0, help="CostPolicies over the largest size, once more")
    parser.add_argument("--jobs-queued", type=int, default=0, help="Jobs that wait beside the largest size, once more")
    parser.add_argument("--repeat", type=int, default=1, help="times each size is measured; the quickest is shown")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args(arguments)
    sizes = options.sizes or (QUICK if options.quick else SIZES)
    cycles = options.cycles or (3 if options.quick else 6)
    runs = [(size, 0, 0) for size in sizes]
    runs += [(max(sizes), options.policies, 0)] if options.policies else []
    runs += [(max(sizes), 0, options.jobs_queued)] if options.jobs_queued else []
    results = [best(size, cycles, options.repeat, policies, jobs) for size, policies, jobs in runs]
    console = Console(width=None if sys.stdout.isatty() else 160)
    report.show(results, console)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown(results))
    faults = report.missed(results)
    for fault in faults:
        console.print(f"missed: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
