"""The catalogue of reasons: complete, and without reasons that nothing gives."""

import re
from pathlib import Path

from ebbtide.model.catalogue import CATALOGUE, SECTIONS
from ebbtide.model.reasons import Code

PRODUCT = Path(__file__).parents[2] / "operator" / "ebbtide"


def test_every_code_stands_in_one_section_with_its_meaning_and_what_to_do() -> None:
    assert CATALOGUE.keys() == set(Code)
    assert sum(len(entries) for _, entries in SECTIONS) == len(CATALOGUE)
    assert [
        code for code, entry in CATALOGUE.items() if not (entry.meaning.endswith(".") and entry.fix.endswith("."))
    ] == []


def test_every_code_is_given_somewhere_by_the_product() -> None:
    described = {PRODUCT / "model" / "catalogue.py", PRODUCT / "model" / "reasons.py"}
    sources = [path.read_text(encoding="utf-8") for path in PRODUCT.rglob("*.py") if path not in described]
    given = {name for source in sources for name in re.findall(r"\bCode\.([A-Z_]+)\b", source)}
    assert {code for code in Code if code.name not in given} == set()
    assert {code for code, entry in CATALOGUE.items() if not entry.where} == set()
