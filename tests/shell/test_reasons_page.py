"""The page of reasons: as the catalogue says, and with fields, flags and Events that exist."""

import re
from pathlib import Path
from typing import Any

import pytest

from ebbtide.api.crd import crd_documents
from ebbtide.controller.settings import settings_names
from ebbtide.model.catalogue import CATALOGUE, DECISION, Entry
from ebbtide.model.reasons import Code
from ebbtide.record.events import BY_CODE, BY_CONDITION
from ebbtide.record.reasons import main, reference
from ebbtide.record.view import (
    BACKGROUND_CONDITIONS,
    BATCH_CONDITIONS,
    DEGRADED_CONDITIONS,
    ENGINE_CONDITIONS,
    POLICY_CONDITIONS,
    POOL_CONDITIONS,
    SERVICE_CONDITIONS,
)

VLLM_FLAGS = {"--shutdown-timeout", "--max-num-queued-reqs", "--max-num-queued-tokens", "--gpu-memory-utilization"}
VLLM_FLAGS |= {"--kv-cache-dtype", "--num-gpu-blocks-override"}
ROOT = Path(__file__).parents[2]
ENTRIES = [pytest.param(entry, id=code.value) for code, entry in CATALOGUE.items()]


def test_the_committed_page_is_that_of_the_catalogue(tmp_path: Path) -> None:
    main(str(tmp_path / "reasons.md"))
    committed = (ROOT / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    assert committed == (tmp_path / "reasons.md").read_text(encoding="utf-8"), "run: make crds"


def test_every_code_that_is_given_has_its_row() -> None:
    page = reference()
    assert [code for code, entry in CATALOGUE.items() if entry.where and f"\n| `{code.value}` | " not in page] == []


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_named_exists(entry: Entry) -> None:
    named = re.findall(r"`([^`]+)`", entry.meaning + entry.fix)
    fields = [name for name in named if name.startswith(("spec.", "status."))]
    flags = [name for name in named if name.startswith("--")]
    schemas = [crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crd_documents().values()]
    assert [field for field in fields if not any(has(schema, field) for schema in schemas)] == []
    settings = {"--" + name.replace("_", "-") for name in settings_names()} | VLLM_FLAGS
    assert set(flags) <= settings


def has(schema: dict[str, Any], field: str) -> bool:
    node = schema
    for name in field.split("."):
        node = node.get("properties", {}).get(name.removesuffix("[]"), {})
        node = node.get("items", {}) if name.endswith("[]") else node
    return bool(node)


def test_a_reason_that_becomes_an_event_can_stand_where_the_event_looks_for_it() -> None:
    assert [code for code in BY_CODE if DECISION not in CATALOGUE[code].where] == []
    known = {*SERVICE_CONDITIONS, "Paused", "Limited"}
    assert [code for code in BY_CONDITION if not known & set(CATALOGUE[Code(code)].where)] == []


def test_every_place_is_a_condition_that_objects_have() -> None:
    known = {
        *SERVICE_CONDITIONS,
        *ENGINE_CONDITIONS,
        *DEGRADED_CONDITIONS,
        *BACKGROUND_CONDITIONS,
        "Paused",
        "Limited",
        *(f"GPUPool.{name}" for name in POOL_CONDITIONS),
        *(f"CostPolicy.{name}" for name in POLICY_CONDITIONS),
        *(f"BatchPolicy.{name}" for name in BATCH_CONDITIONS),
    }
    known |= {
        "GPUPool.NodesComing",
        "GPUPool.LedgerCurrent",
        "CostPolicy.LedgerAgrees",
        DECISION,
        "deployment",
        "policy",
        "job",
    }
    assert {place for entry in CATALOGUE.values() for place in entry.where} == known
