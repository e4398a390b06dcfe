"""What the generated definitions must be, whatever the fields are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.api.crd import crd_documents, main, render
from tests.api.constraints import RULES, constraints, nodes, violating
from tests.api.samples import FULL

ROOT = Path(__file__).parents[2]
KINDS = sorted(FULL)


def _places(kind, wanted):
    return [".".join(map(str, at)) for at, node in nodes(kind) if wanted(node)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind):
    described_by_parent = ("items", "additionalProperties")

    def silent(at, node):
        named = at and at[-1] not in described_by_parent
        return (named or not at) and len(node.get("description", "")) < 10

    assert [".".join(map(str, at)) for at, node in nodes(kind) if silent(at, node)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_that_people_write_says_what_happens_when_it_is_unset(kind):
    def silent(at, node):
        named = at[:2] == ("properties", "spec") and len(at) > 2 and at[-2] == "properties"
        return named and not any(word in node["description"] for word in ("Required", "Unset: "))

    assert [".".join(map(str, at)) for at, node in nodes(kind) if silent(at, node)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_is_in_the_description(kind):
    def silent(node):
        default = node.get("default")
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        return isinstance(default, str | int) and shown not in node["description"]

    assert _places(kind, silent) == []


_SIZES = ("minimum", "maximum", "minItems", "maxItems", "minProperties", "maxProperties")
_LENGTHS = ("minLength", "maxLength")
_NUMBER = re.compile(r"duration\(self\)|double\(self\)|\[MB\]")
_IN_RULES = re.compile(r"duration\('(\w+)'\)|double\(self\) [<>]=? (\d+)[.]0|k\.size\(\) <= (\d+)")


def _is_number(node: dict[str, Any]) -> bool:
    """A text that stands for a quantity: a duration, an amount, a number of weights."""
    by_pattern = node.get("pattern", "").lstrip("^(").startswith("[0-9]")
    return by_pattern or any(_NUMBER.search(rule["rule"]) for rule in node.get(RULES, ()))


def _allowed(node: dict[str, Any]) -> Iterator[str]:
    """Every choice and bound that a description has to name: those of the field, of its items and of its keys."""
    yield from node.get("enum", ())
    by_grammar = _is_number(node) or "format" in node  # of a duration or an amount the value's range says it
    keywords = _SIZES if by_grammar else (*_SIZES, *_LENGTHS)
    yield from (str(node[keyword]) for keyword in keywords if keyword in node)
    for rule in node.get(RULES, ()) if "properties" not in node else ():
        yield from (bound for found in _IN_RULES.findall(rule["rule"]) for bound in found if bound)
    inner = node.get("items", node.get("additionalProperties", {"properties": {}}))
    if "properties" not in inner:  # the fields of an object speak for themselves
        yield from _allowed(inner)


def _names(description: str, word: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w|[.]\d)", description) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_every_bound_and_choice_of_what_people_write_is_in_the_description(kind):
    silent = [
        f"{'.'.join(map(str, at))}: {bound}"
        for at, node in nodes(kind)
        if at[:2] == ("properties", "spec") and at[-2] == "properties"
        for bound in _allowed(node)
        if not _names(node["description"], bound)
    ]
    assert silent == []


_UNITS = (
    *("replicas", "GPUs", "nodes", "tokens", "requests", "seconds", "percent", "currency", "years", "watt", "jobs"),
    "as a duration",
    "millions (M) or billions (B)",
)
_NO_QUANTITY = ("port", "priority", "observedGeneration", "generation", "monthStartsOn", "services", "days")


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantity_has_its_unit_in_the_description(kind):
    def unitless(at, node):
        quantity = node["type"] == "integer" or _is_number(node)
        said = node.get("description", "").lower()
        return quantity and at[-1] not in _NO_QUANTITY and not any(unit.lower() in said for unit in _UNITS)

    assert [".".join(map(str, at)) for at, node in nodes(kind) if unitless(at, node)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_required_fields_say_so_and_others_do_not(kind):
    wrong = []
    for at, node in nodes(kind):
        if at[:2] != ("properties", "spec"):
            continue
        required = set(node.get("required", ()))
        for name, child in node.get("properties", {}).items():
            if (name in required) != ("Required" in child["description"]):
                wrong.append(f"{'.'.join(map(str, at))}.{name}")
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_string_list_and_map_is_bounded(kind):
    def unbounded(node):
        return (
            (node["type"] == "string" and "maxLength" not in node and "enum" not in node)
            or (node["type"] == "array" and "maxItems" not in node)
            or (node["type"] == "object" and "properties" not in node and "maxProperties" not in node)
        )

    assert _places(kind, unbounded) == []


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_no_floats(kind):
    assert _places(kind, lambda node: node["type"] not in ("string", "integer", "boolean", "array", "object")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_says_how_it_is_merged(kind):
    assert _places(kind, lambda node: node["type"] == "array" and "x-kubernetes-list-type" not in node) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_has_a_message(kind):
    rules = [rule for _, node in nodes(kind) for rule in node.get("x-kubernetes-validations", ())]
    assert rules
    assert [rule["rule"] for rule in rules if len(rule.get("message", "")) < 15] == []


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_a_map_by_type_with_the_usual_fields(kind):
    (conditions,) = (node for at, node in nodes(kind) if at[-1:] == ("conditions",))
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["properties"]) == {
        "type", "status", "reason", "message", "lastTransitionTime", "observedGeneration",
    }  # fmt: skip
    assert set(conditions["items"]["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}


def test_the_committed_definitions_are_those_of_the_models(tmp_path):
    main([str(tmp_path)])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")} == written, "run: make crds"


def test_the_yaml_reads_back_as_the_same_data():
    for document in crd_documents().values():
        assert yaml.safe_load(render(document)) == document


def test_kinds_names_and_columns():
    service, pool, policy, batch = (document["spec"] for document in crd_documents().values())
    assert (service["scope"], service["names"]["shortNames"], service["names"]["categories"]) == (
        "Namespaced", ["infs"], ["ebbtide"],
    )  # fmt: skip
    assert (pool["scope"], pool["names"]["shortNames"], pool["names"]["categories"]) == (
        "Cluster", ["gpool"], ["ebbtide"],
    )  # fmt: skip
    assert (policy["scope"], policy["names"]["plural"], policy["names"]["shortNames"]) == (
        "Cluster", "costpolicies", ["costp"],
    )  # fmt: skip
    assert (batch["scope"], batch["names"]["plural"], batch["names"]["shortNames"]) == (
        "Namespaced", "batchpolicies", ["batchp"],
    )  # fmt: skip
    assert all(spec["versions"][0]["subresources"] == {"status": {}} for spec in (service, pool, policy, batch))

    def shown(spec):
        columns = spec["versions"][0]["additionalPrinterColumns"]
        return [column["name"].upper() for column in columns if "priority" not in column]

    assert shown(service) == ["MODE", "READY", "NOW", "WANT", "ALLOWED", "REASON", "$/H", "AGE"]
    assert shown(pool) == ["ACCELERATOR", "TYPE", "NODES", "GPUS", "FREE", "PRICE", "READY", "AGE"]
    assert shown(policy) == [
        "READY", "SERVICES", "$/H", "MAX/H", "DAY", "MAX/DAY", "MONTH", "MAX/MONTH", "REASON", "AGE",
    ]  # fmt: skip
    assert shown(batch) == [
        "STRATEGY", "READY", "QUEUED", "RUNNING", "STOPPED", "GPUS", "MISSED", "NEXT-START", "SAVED", "REASON", "AGE",
    ]  # fmt: skip


def test_every_bound_can_be_broken_by_a_generated_object():
    by_hand = {"x-kubernetes-validations"}
    assert [each.name for each in constraints() if violating(each) is None and each.keyword not in by_hand] == []


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_has_to_read_a_regular_expression_to_learn_what_is_allowed(kind):
    """The server quotes a pattern as it is; a rule has a message. And none turns text into a number unlooked at."""
    spec = [(".".join(map(str, at)), node) for at, node in nodes(kind) if at[:2] == ("properties", "spec")]
    assert [place for place, node in spec if "pattern" in node] == []
    converting = [each["rule"] for _, node in spec for each in node.get(RULES, ()) if "(self) >" in each["rule"]]
    assert converting
    assert [each for each in converting if not each.startswith("self.matches(")] == []
