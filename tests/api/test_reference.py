from pathlib import Path

from ebbtide.api.reference import main, reference
from tests.api.constraints import nodes
from tests.api.samples import FULL

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def test_the_committed_page_is_that_of_the_models(tmp_path):
    main([str(tmp_path / "api.md")])
    assert PAGE.read_text() == (tmp_path / "api.md").read_text(), "run: make crds"


def test_every_field_has_its_row():
    page = reference()
    missing = [
        at for kind in FULL for at, node in nodes(kind)
        if len(at) > 2 and at[-2] == "properties" and f"| `{at[-1]}` |" not in page
    ]  # fmt: skip
    assert missing == []


def test_every_rule_is_told():
    page = reference()
    rules = [
        rule["message"] for kind in FULL for _, node in nodes(kind) for rule in node.get("x-kubernetes-validations", ())
    ]
    told_by_items = (
        "must be a label value",
        "must be the name of a Prometheus metric",
        "must be the name of a namespace",
        "must be a day that the calendar has",
    )  # rules on items of lists and maps
    assert [each for each in rules if each not in page and not each.startswith(told_by_items)] == []
