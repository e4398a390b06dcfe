"""Every constraint that the CRDs carry, found by walking their schemas; and for each an object that breaks it alone.

The objects come from the samples with every field set: one value is pushed just past one bound, in a form that every
other check would let through. So the list grows with the API by itself.
"""

import copy
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from ebbtide.api.crd import crd_documents
from ebbtide.api.fields import DECIMAL_PATTERN, SIGNED_PATTERN
from tests.api.samples import ALL_FULL, REMOVED, Object, get_at, set_at

Schema = dict[str, Any]
ValuePath = tuple[str | int, ...]

RULES = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
_BOUNDS = (
    *("pattern", "format", "enum", "minLength", "maxLength", "minimum", "maximum"),
    *("minItems", "maxItems", "minProperties", "maxProperties"),
)


class Constraint(NamedTuple):
    kind: str
    at: tuple[str | int, ...]  # where in the schema
    keyword: str
    value_path: ValuePath  # where in the full sample
    sample: Object  # which has it
    index: int = 0  # of the rule

    @property
    def name(self) -> str:
        rule = f"[{self.index}]" if self.keyword == RULES else ""
        return f"{self.kind} {field_name(self.value_path) or 'object'} {self.keyword}{rule}"


@cache
def root_schema(kind: str) -> Schema:
    """Shared by all who ask: to be read only."""
    documents = [item for item in crd_documents().values() if item["spec"]["names"]["kind"] == kind]
    schema: Schema = documents[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(kind: str) -> Iterator[tuple[tuple[str | int, ...], Schema]]:
    """Every node of a kind's schema below spec and status, and the root itself, with its place."""

    def walk(at: tuple[str | int, ...], node: Schema) -> Iterator[tuple[tuple[str | int, ...], Schema]]:
        yield at, node
        for name, child in node.get("properties", {}).items():
            if at or name not in ("apiVersion", "kind", "metadata"):  # those the API server checks itself
                yield from walk((*at, "properties", name), child)
        for key in ("items", "additionalProperties"):
            if key in node:
                yield from walk((*at, key), node[key])

    yield from walk((), root_schema(kind))


def constraints() -> list[Constraint]:
    """All of every kind."""
    return [each for kind in ALL_FULL for at, node in nodes(kind) for each in _of_node(kind, at, node)]


def _of_node(kind: str, at: tuple[str | int, ...], node: Schema) -> Iterator[Constraint]:
    sample, path = value_path(kind, at)
    for keyword in _BOUNDS:
        if keyword in node:
            yield Constraint(kind, at, keyword, path, sample)
    if node.get(LIST_TYPE) in ("map", "set"):
        yield Constraint(kind, at, LIST_TYPE, path, sample)
    for index in range(len(node.get(RULES, ()))):
        yield Constraint(kind, at, RULES, path, sample, index)


def value_path(kind: str, at: tuple[str | int, ...]) -> tuple[Object, ValuePath]:
    """A sample that has a value for this place of the schema, and where. KeyError if none has the field."""
    for sample in ALL_FULL[kind]:
        found = _places(sample, at)
        if found:
            return sample, found[0]
    raise KeyError(f"no full {kind} of the samples has a value at {at}")


def _places(sample: Object, at: tuple[str | int, ...]) -> list[ValuePath]:
    found: list[ValuePath] = [()]
    steps = iter(at)
    for step in steps:
        values = [(path, get_at(sample, path)) for path in found]
        if step == "properties":
            name = next(steps)
            found = [(*path, name) for path, value in values if name in value]
        elif step == "items":
            found = [(*path, index) for path, value in values for index in range(len(value))]
        else:
            found = [(*path, key) for path, value in values for key in value]
    return found


def field_name(path: ValuePath) -> str:
    """As the API server writes it: `spec.variants[0].pool`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def violating(constraint: Constraint) -> Object | None:
    """The full sample with this one bound broken; None for what is broken by hand: the rules."""
    if constraint.keyword not in _BREAKERS:
        return None
    obj = copy.deepcopy(constraint.sample)
    node = get_at(root_schema(constraint.kind), constraint.at)
    for path, value in _MAKE_ROOM.get(constraint.name, ()):
        set_at(obj, path, value)
    value = _BREAKERS[constraint.keyword](get_at(obj, constraint.value_path), node)
    set_at(obj, constraint.value_path, value)
    return obj


# where a rule between fields would refuse the value too, the other field gives way
_SCALING = ("spec", "scaling")
_NO_PAUSE: tuple[ValuePath, Any] = ((*_SCALING, "pause"), REMOVED)
_MAKE_ROOM: dict[str, tuple[tuple[ValuePath, Any], ...]] = {
    "InferenceService spec.scaling.maxReplicas minimum": (_NO_PAUSE,),
    "InferenceService spec.scaling.pause.direction enum": (((*_SCALING, "pause", "replicas"), REMOVED),),
    "InferenceService spec.variants[0].minReplicas minimum": (
        ((*_SCALING, "scaleToZero"), REMOVED),
        ((*_SCALING, "minReplicas"), 1),
        (("spec", "serviceClass"), "Interactive"),
    ),
}


def _too_long(value: str, node: Schema) -> str:
    """A value of the same form with more than maxLength characters."""
    filler = "0" * (node["maxLength"] + 1)
    rules = " ".join(each["rule"] for each in node.get(RULES, ()))
    if "duration(self)" in rules:
        return "0h" * len(filler) + value
    if "double(self)" in rules or node.get("pattern") in (DECIMAL_PATTERN, SIGNED_PATTERN):
        return f"{value}.{filler}" if "." not in value else f"{value}{filler}"
    if node.get("format") == "date-time":
        return value.replace("Z", f".{filler}Z")
    if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return filler + value
    if "[MB]" in rules:  # number of parameters
        return f"{value[:-1]}.{filler}B"
    if "* *" in value:
        return "0," * len(filler) + value
    if value == "apps/v1":
        return f"{'a' * len(filler)}/v1"
    return value + "A" * len(filler) if value.isupper() else value + "a" * len(filler)


def _many(value: list[Any], node: Schema) -> list[Any]:
    """Copies of the first item, told apart where the list is a map or a set."""
    count = node["maxItems"] + 1
    if node.get(LIST_TYPE) == "set":
        return [f"{value[0]}_{index}" for index in range(count)]
    items = [copy.deepcopy(value[0]) for _ in range(count)]
    for key in node.get("x-kubernetes-list-map-keys", ()):
        for index, item in enumerate(items):
            item[key] = f"{item[key]}{index}"
            if "scaleTargetRef" in item:
                item["scaleTargetRef"]["name"] += str(index)
    return items


_BREAKERS: dict[str, Callable[[Any, Schema], Any]] = {
    "enum": lambda value, node: "Nonsense",
    "format": lambda value, node: "soon",
    "pattern": lambda value, node: "?",
    "minLength": lambda value, node: value[: node["minLength"] - 1],
    "maxLength": _too_long,
    "minimum": lambda value, node: node["minimum"] - 1,
    "maximum": lambda value, node: node["maximum"] + 1,
    "minItems": lambda value, node: [],
    "maxItems": _many,
    "minProperties": lambda value, node: {},
    "maxProperties": lambda value, node: {
        f"key{index}": next(iter(value.values())) for index in range(node["maxProperties"] + 1)
    },
    LIST_TYPE: lambda value, node: [value[0], value[0]],
}
