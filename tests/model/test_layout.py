"""Facts about the tree that nothing else would notice."""

from pathlib import Path

import msgspec

from ebbtide.model import memory, plan, snapshot

ROOT = Path(__file__).parents[2]


def test_operator_is_not_a_package_because_it_would_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_the_data_of_a_cycle_survive_encoding_bit_for_bit() -> None:
    for value in (snapshot.Snapshot(taken_at=1.5), memory.Memory(started_at=2.0), plan.Plan(at=3.0)):
        encoded = msgspec.json.encode(value, order="deterministic")
        again = msgspec.json.decode(encoded, type=type(value))
        assert again == value
        assert msgspec.json.encode(again, order="deterministic") == encoded
