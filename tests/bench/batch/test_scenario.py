"""The scenario file: the built-in one holds, a wrong one is one line, prices follow the hour."""

from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from ebbtide.bench.batch.load import BEGIN_S
from ebbtide.bench.batch.scenario import Hours, read
from ebbtide.errors import ConfigurationError
from tests.bench.batch.scenes import HOUR_S, ON_DEMAND

BUILT_IN = files("ebbtide.bench.batch").joinpath("off-peak.toml").read_text(encoding="utf-8")


def test_the_built_in_scenario_is_that_of_the_file():
    found = read(None)
    assert found.batch.token_share == 0.3
    assert [kind.deadline_h for kind in found.job] == [1.0, 8.0, 24.0]
    assert found.on_demand.cheapest == Decimal("1.45")


BAD = {
    "no file": (None, "No such file"),
    "no TOML": ("chat = [", "it is no TOML"),
    "a missing part": ("[chat]\npeak_replicas = 3\nstartup_s = 1\nexit_s = 1\n", "missing required field `reserved`"),
    "a field that nobody knows": (BUILT_IN.replace("exit_s = 30", "exit_s = 30\ncolour = 3"), "colour"),
    "replicas below one": (BUILT_IN.replace("peak_replicas = 24", "peak_replicas = 0"), "$.chat.peak_replicas"),
    "a price below nothing": (BUILT_IN.replace("price = 2.90", "price = -2.90"), "on_demand.price -2.90: 0 to 1000"),
    "a price that is no number": (BUILT_IN.replace("price = 1.45", "price = nan"), "on_demand.off_peak[0].price"),
    "an hour that no clock shows": (BUILT_IN.replace('from = "22:00"', 'from = "25:00"', 1), "$.on_demand.off_peak[0]"),
    "shares beyond all": (BUILT_IN.replace("share = 0.50", "share = 0.60"), "they add up to 1.1, 1 is needed"),
    "two kinds of one name": (BUILT_IN.replace('"embedding"', '"evaluation"'), "each is allowed once"),
    "a Job beyond the pool": (
        BUILT_IN.replace("max_gpus = 96", "max_gpus = 24").replace("pods = 4", "pods = 32"),
        "32",
    ),
    "a pod beyond a node": (BUILT_IN.replace("gpus_per_pod = 1", "gpus_per_pod = 2", 1), "on_demand.gpus_per_node"),
    "more chat than GPUs": (BUILT_IN.replace("max_gpus = 96", "max_gpus = 8"), "more than on_demand.max_gpus"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_scenario_is_said_with_its_field(name, tmp_path: Path):
    text, said = BAD[name]
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        read(path)
    assert str(raised.value).startswith(f"scenario {path}: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        (Hours("22:00", "06:00", Decimal(1)), (22, 23.99, 0, 5.99), (6, 12, 21.99)),
        (Hours("06:00", "22:00", Decimal(1)), (6, 12, 21.99), (22, 0, 5.99)),
        (Hours("00:00", "24:00", Decimal(1)), (0, 12, 23.99), ()),
    ],
)
def test_hours_may_cross_midnight(hours, inside, outside):
    assert all(hours.holds(BEGIN_S + round(at * HOUR_S)) for at in inside)
    assert not any(hours.holds(BEGIN_S + round(at * HOUR_S)) for at in outside)


def test_a_snapshot_shows_each_step_of_the_price_once():
    steps = ON_DEMAND.steps(BEGIN_S + 300, BEGIN_S + 24 * HOUR_S)
    assert [((step.at_s - BEGIN_S) / HOUR_S, step.per_gpu_hour) for step in steps] == [
        (300 / HOUR_S, Decimal("1.00")),
        (6.0, Decimal("3.00")),
        (22.0, Decimal("1.00")),
    ]
