"""A run of the real server as files, so that the comparison can be done again without it.

machine.json            what it ran on and how
first.json second.json  every request and what became of it, and every scrape with its time
"""

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.emulator.pages import Page
from ebbtide.errors import ConfigurationError
from ebbtide.sandbox.loadgen import Served


class Machine(msgspec.Struct, frozen=True):
    """Where and how the server ran. `probed_per_second`: requests/s of the probe; `others`: cores that others used."""

    cores: int
    processor: str
    memory_gib: float
    vllm: str
    flags: tuple[str, ...]
    model_size: str
    max_num_batched_tokens: int
    max_model_tokens: int
    start_s: float
    probed_per_second: float
    others: float
    recorded: str  # date
    seconds: float


class Scrape(msgspec.Struct, frozen=True):
    """One page as it came, `at_s` seconds after the start of the load."""

    at_s: float
    text: str


class Load(msgspec.Struct, frozen=True):
    """One stream on the real server."""

    served: tuple[Served, ...]
    scrapes: tuple[Scrape, ...]

    @property
    def pages(self) -> list[Page]:
        """The scrapes as data."""
        return [Page(scrape.at_s, scrape.text) for scrape in self.scrapes]


class Recording(msgspec.Struct, frozen=True):
    """Everything that the comparison needs."""

    machine: Machine
    first: Load
    second: Load


def write(folder: Path, recording: Recording) -> None:
    """Write the files; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("machine", "first", "second"):
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(getattr(recording, name)))


def read(folder: Path) -> Recording:
    """Read them back; ConfigurationError names the file that is missing or not of this kind."""
    parts: dict[str, Any] = {}
    for name, kind in (("machine", Machine), ("first", Load), ("second", Load)):
        path = folder / f"{name}.json"
        try:
            parts[name] = msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(f"recorded run {path}: {error}") from error
    return Recording(**parts)
