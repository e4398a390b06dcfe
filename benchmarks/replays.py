"""What the benchmarks that replay by themselves share: a runner with its store and workers, and progress on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.bench.runner import Runner
from ebbtide.bench.simulators import install
from ebbtide.bench.store import Store, cache_root
from ebbtide.bench.workers import Workers


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def runner(simulator: str, jobs: int) -> Iterator[Runner]:
    """A runner whose results are kept: what was interrupted goes on where it was."""
    install(simulator, say)
    store = Store(cache_root() / "results")
    workers = Workers(jobs, store)
    try:
        yield Runner(simulator, store, workers, say)
    finally:
        workers.close()
        store.trim()
