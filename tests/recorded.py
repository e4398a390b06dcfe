"""Scrapes of real engines to compare with. They are not part of the project: without them a test skips and says so."""

import os
from pathlib import Path

import pytest

VARIABLE = "EBBTIDE_ENGINE_METRICS"


def recorded_scrape(name: str) -> str:
    """The text of the scrape, from the folder that `VARIABLE` names, else from `shared/engine-metrics` beside us."""
    folder = Path(os.environ.get(VARIABLE, Path(__file__).parents[2] / "shared" / "engine-metrics"))
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in {folder}; set {VARIABLE} to a folder with recorded scrapes")
    return (folder / name).read_text()
