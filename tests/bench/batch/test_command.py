"""The command in small: everybody plays, pictures and pages are written, nothing is played twice; wrong input."""

import sys
import xml.etree.ElementTree as ET
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from ebbtide.bench.batch import command
from ebbtide.bench.batch.players import EBBTIDE, KNOWING, PLAYERS
from ebbtide.bench.batch.results import Results
from ebbtide.cli.main import main

BUILT_IN = files("ebbtide.bench.batch").joinpath("off-peak.toml").read_text(encoding="utf-8")
SMALL = BUILT_IN.replace("peak_replicas = 24", "peak_replicas = 8").replace("deadline_h = 24", "deadline_h = 10")


@pytest.mark.slow
@pytest.mark.timeout(900)  # 25 s on a free core
def test_a_day_under_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(SMALL, encoding="utf-8")
    options = {"scenario": Path("mine.toml"), "traces": None, "seeds": 1, "days": 1, "lead_in_days": 1, "jobs": 1}
    asked = command.ask({**options, "cycle": "10m"})
    asked = msgspec.structs.replace(asked, stages=asked.stages[:1])
    said: list[str] = []
    out, page = tmp_path / "out", tmp_path / "docs" / "batch.md"
    found = command.answer(asked, out, page, "ebbtide bench batch", said.append, tmp_path / "cache")
    assert msgspec.json.decode((out / "results.json").read_bytes(), type=Results) == found
    assert [one.player for one in found.pooled] == list(PLAYERS)
    for folder, text in ((out, out / "report.md"), (page.parent, page)):
        for name in ("batch.svg", "batch-timeline.svg"):
            assert ET.fromstring((folder / name).read_text(encoding="utf-8")).tag.endswith("svg")
            assert f"]({name})" in text.read_text(encoding="utf-8")
    own, knowing = ({one.player: one for one in found.pooled}[name] for name in (EBBTIDE, KNOWING))
    assert own.undone == knowing.undone == 0.0
    assert all(
        run.score.free >= scene.bound - 1e-6 for scene in found.scenes for run in found.runs if not run.score.missed
    )

    said.clear()
    again = command.answer(asked, out, None, "ebbtide bench batch", said.append, tmp_path / "cache")
    assert said[:2] == ["1 of 1 scenes were played before", "7 of 7 runs were played before"]
    assert msgspec.structs.replace(again, wall_s=0.0) == msgspec.structs.replace(found, wall_s=0.0)


WRONG = {
    "no seed": (("--seeds", "0"), "--seeds 0"),
    "a cycle that no hour has": (("--cycle", "7m"), "--cycle 7m: 1m, 2m, 3m, 5m, 10m are allowed"),
    "a scenario that is not there": (("--scenario", "none.toml"), "scenario none.toml: No such file or directory"),
    "a trace that is not there": (("--traces", "none.csv"), "trace none.csv: No such file or directory"),
    "a folder without traces": (("--traces", "."), "--traces .: it holds none of azure2024"),
    "no trace": (("--traces", ","), "--traces: a folder or files with commas are needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(name, tmp_path, monkeypatch, capsys):
    arguments, said = WRONG[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ebbtide", "bench", "batch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines
    assert said in lines[0]
