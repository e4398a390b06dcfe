"""What is kept, under which key, and what makes a result a new one."""

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from ebbtide.bench import runner as runner_module
from ebbtide.bench.case import Case, EngineLimits
from ebbtide.bench.faults import Faults
from ebbtide.bench.policy import Minute
from ebbtide.bench.run import HOLD, PATH, RunResult, Served
from ebbtide.bench.runner import Runner, Seeded
from ebbtide.bench.simulators import SIMULATORS
from ebbtide.bench.sources import digest_of_sources, modules_of
from ebbtide.bench.store import Load, Store
from ebbtide.bench.workers import Workers
from ebbtide.sim.requests import Request
from tests.bench.fake_simulator import PLACE

CASE = Case(
    name="one", model="tiny", system="s", ttft_s=0.5, itl_s=0.05, attainment=0.99, startup_s=(60.0,), max_replicas=4,
    start_replicas=1,
)  # fmt: skip
RESULT = RunResult(
    (Served(0.0, 10, 5, 0.25, 0.02, 0.35), Served(1.0, 10, 5, None, None, None)), ((0.0, 1, 1),), 9.0, 0.0, 0, 1.5
)


def load(*requests: tuple[float, int, int], history: tuple[Minute, ...] = ()) -> Load:
    return Load(tuple(Request(number, *parts) for number, parts in enumerate(requests)), history)


def test_what_was_put_comes_back_and_equal_traffic_has_one_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.put_load(load((0.5, 10, 5), history=(Minute(-60.0, 3, 30, 15),)))
    assert store.put_load(load((0.5, 10, 5), history=(Minute(-60.0, 3, 30, 15),))) == first
    assert store.put_load(load((0.5, 10, 5))) != first
    assert store.load(first).history[0].requests == 3
    store.put_result("abcdef", RESULT)
    assert store.result("abcdef") == RESULT
    assert store.result("abcdee") is None


def test_a_result_that_was_cut_off_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_result("abcdef", RESULT)
    path = tmp_path / "results" / "ab" / "cdef"
    path.write_bytes(path.read_bytes()[:20])
    assert store.result("abcdef") is None


def test_nothing_but_whole_files_is_left_by_writing(tmp_path: Path) -> None:
    Store(tmp_path).put_result("abcdef", RESULT)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cdef"]


def test_trimming_deletes_what_was_used_longest_ago(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for age, key in enumerate(("aa1", "bb2", "cc3")):
        store.put_result(key, RESULT)
        path = tmp_path / "results" / key[:2] / key[2:]
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    size = path.stat().st_size
    assert store.result("cc3") == RESULT, "using it makes it the youngest"
    assert store.trim(2 * size) == 1
    assert [store.result(key) is not None for key in ("aa1", "bb2", "cc3")] == [True, False, True]
    left = tmp_path / "results" / "dd" / "unfinished-x"
    left.parent.mkdir()
    left.write_text("half")
    store.trim(2 * size)
    assert left.exists(), "another process may still be writing it"
    os.utime(left, (1_000_000, 1_000_000))
    store.trim(2 * size)
    assert not left.exists()


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setitem(SIMULATORS, "fake", PLACE)
    store = Store(tmp_path)
    workers = Workers(1, store)
    yield Runner("fake", store, workers, print)
    workers.close()


def replaced(**changes) -> Case:
    return msgspec.structs.replace(CASE, **changes)


NEW = {
    "another objective": ((replaced(ttft_s=0.6), Seeded(1, "load"), "schedule", 1.0)),
    "another price": (replaced(gpu_hour_price=Decimal("3.00")), Seeded(1, "load"), "schedule", 1.0),
    "another start-up time": (replaced(startup_s=(60.0, 90.0)), Seeded(1, "load"), "schedule", 1.0),
    "another engine": (replaced(engine=EngineLimits(kv_blocks=6000)), Seeded(1, "load"), "schedule", 1.0),
    "another delay of metrics": (replaced(metric_delay_s=30.0), Seeded(1, "load"), "schedule", 1.0),
    "another path": (replaced(path=((0.0, 2),)), Seeded(1, "load"), "schedule", 1.0),
    "other traffic": (CASE, Seeded(1, "other"), "schedule", 1.0),
    "another seed": (CASE, Seeded(2, "load"), "schedule", 1.0),
    "another policy": (CASE, Seeded(1, "load"), "slo-law", 1.0),
    "another knob": (CASE, Seeded(1, "load"), "schedule", 1.1),
}


@pytest.mark.parametrize("what", NEW)
def test_a_result_is_a_new_one_with(runner: Runner, what: str) -> None:
    known = runner.job(CASE, Seeded(1, "load"), "schedule", 1.0)
    assert runner.job(*NEW[what]).key != known.key


def test_a_result_is_the_same_under_another_name_of_the_case(runner: Runner) -> None:
    known = runner.job(CASE, Seeded(1, "load"), "schedule", 1.0)
    assert runner.job(replaced(name="two"), Seeded(1, "load"), "schedule", 1.0).key == known.key


@pytest.mark.parametrize(
    ("policy", "changes", "same"),
    [
        (HOLD, {"ttft_s": 9.0, "itl_s": 9.0, "attainment": 0.5, "metric_delay_s": 60.0}, True),
        (HOLD, {"startup_s": (240.0,), "faults": Faults(reset_s=9.0)}, True),
        (HOLD, {"start_replicas": 2}, False),
        (PATH, {"ttft_s": 9.0, "declared": True}, True),
        (PATH, {"startup_s": (240.0,)}, False),
        (PATH, {"path": ((0.0, 2),)}, False),
        ("schedule", {"faults": Faults(reset_s=9.0)}, False),
        ("schedule", {"ttft_s": 9.0}, False),
    ],
)
def test_who_looks_at_nothing_is_the_same_whatever_is_shown_and_wanted(
    runner: Runner, policy: str, changes: dict, same: bool
) -> None:
    keys = [runner.job(case, Seeded(1, "load"), policy, 1.0).key for case in (CASE, replaced(**changes))]
    assert (keys[0] == keys[1]) is same


def test_a_result_is_a_new_one_in_another_simulator_or_with_other_sources(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = runner.job(CASE, Seeded(1, "load"), "schedule", 1.0).key
    workers = Workers(1, runner.store)
    assert Runner("ebbtide", runner.store, workers, print).job(CASE, Seeded(1, "load"), "schedule", 1.0).key != known
    workers.close()
    sources = {name: runner_module.policy_sources(name) for name in ("ebbtide", "schedule", "slo-law", "hold")}
    assert len(set(sources.values())) == 4


def test_a_new_field_of_the_snapshot_plays_ebbtide_anew_and_no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole set of rivals is an hour of replays, and what they are shown is `bench.policy`."""
    asked: dict[str, list[str]] = {}

    def digest(module: str, without: tuple[str, ...] = ()) -> str:
        return "\n".join(sorted(modules_of(module, without)))

    monkeypatch.setattr(runner_module, "digest_of_sources", digest)
    for name in ("ebbtide", "slo-law", HOLD, PATH):
        asked[name] = runner_module.simulator_sources("dynamo", name).split("\n")
    assert "ebbtide.model.snapshot" in asked["ebbtide"]
    for name in ("slo-law", HOLD, PATH):
        assert "ebbtide.bench.policy" in asked[name]
        assert not [module for module in asked[name] if module.startswith(("ebbtide.model", "ebbtide.core"))]


def test_sources_are_those_that_are_imported_late_ones_and_pins_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pack"
    (package / "sub").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "a.py": "import json\nfrom pack import b\n\ndef late():\n    from .sub.c import thing\n",
        "b.py": "B = 1\n",
        "other.py": "OTHER = 1\n",
        "sub/__init__.py": "",
        "sub/c.py": "import pack.a\nthing = 1\n",
        "sub/pins.txt": "x==1\n",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(without: tuple[str, ...] = ()) -> str:
        digest_of_sources.cache_clear()
        return digest_of_sources("pack.a", without)

    def changed(name: str, without: tuple[str, ...] = ()) -> bool:
        before = digest(without)
        (package / name).write_text((package / name).read_text() + "# more\n")
        return digest(without) != before

    assert changed("a.py")
    assert changed("b.py")
    assert changed("sub/c.py"), "imported inside a function"
    assert changed("sub/pins.txt")
    assert not changed("other.py")
    assert not changed("sub/c.py", without=("pack.sub",))
    digest_of_sources.cache_clear()


def test_the_simulators_sources_are_not_those_of_the_plan_or_of_the_rivals() -> None:
    from ebbtide.bench import sources

    modules = sources.modules_of("ebbtide.bench.own", ("ebbtide.core", "ebbtide.bench.rivals"))
    assert "ebbtide.sim.engine" in modules
    assert not [name for name in modules if name.startswith(("ebbtide.core", "ebbtide.bench.rivals"))]
    assert "ebbtide.core.forecast" in sources.modules_of("ebbtide.core.plan", ())
    assert "ebbtide.bench.rivals.slo_law" not in sources.modules_of("ebbtide.bench.rivals.schedule", ())
