"""From a pydantic model to the structural OpenAPI v3 schema that Kubernetes accepts in a CustomResourceDefinition.

Pydantic's own JSON schema is not one: `$ref` is not allowed, an optional field is no `anyOf` with null, and titles say
nothing. Decides the form alone; what a field means stands in the models. Must never drop a constraint silently: a key
that it does not know is an error.
"""

from typing import Any

from pydantic import BaseModel

from ebbtide.api.fields import RULES, matches
from ebbtide.errors import EbbtideError

Schema = dict[str, Any]

# in the order in which they are written, which is the order in which a person reads them
_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
_DROPPED = {"title", "$defs"}


def structural_schema(model: type[BaseModel]) -> Schema:
    """The model's schema, with every definition inlined and each optional field as a field that may be left out."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(raw, raw.get("$defs", {}), str(raw.get("title", "")))


def _convert(raw: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    node = _without_null(_inlined(raw, definitions), definitions)
    unknown = set(node) - set(_KEPT) - _DROPPED
    if unknown or node.get("type") == "number":
        raise EbbtideError(f"{path}: {', '.join(sorted(unknown)) or 'type number'} has no place in a CRD schema")
    if node.get("x-kubernetes-preserve-unknown-fields"):
        node.pop("additionalProperties", None)  # the server refuses both together
    if "properties" in node:
        children = node["properties"].items()
        node["properties"] = {name: _convert(child, definitions, f"{path}.{name}") for name, child in children}
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _convert(node[key], definitions, f"{path}.{key}")
    _tidy(node)
    return {key: node[key] for key in _KEPT if key in node}


def _inlined(raw: Schema, definitions: dict[str, Schema]) -> Schema:
    """`{"$ref": X, "description": D}` becomes X with the description D: what is said at the field wins."""
    if "$ref" not in raw:
        return dict(raw)
    beside = {key: value for key, value in raw.items() if key != "$ref"}
    return {**definitions[str(raw["$ref"]).rpartition("/")[2]], **beside}


def _without_null(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """`anyOf: [X, null]` becomes X: in Kubernetes a field that is unset is left out."""
    if "anyOf" not in node:
        return node
    (only,) = (option for option in node.pop("anyOf") if option != {"type": "null"})
    return {**_inlined(only, definitions), **node}


def _tidy(node: Schema) -> None:
    """Defaults that say nothing go. An object's default is written out, because the server checks rules on it.

    A pattern that a rule holds too goes: the rule refuses the same in words that a person can act on.
    """
    if "default" in node:
        node["default"] = _said(node["default"])
        if node["default"] in (None, [], {}):
            del node["default"]
    if any(matches(node.get("pattern", "")) in each["rule"] for each in node.get(RULES, ())):
        del node["pattern"]
    if "description" in node:
        node["description"] = " ".join(str(node["description"]).split())


def _said(value: Any) -> Any:
    """`value` without fields that are None."""
    if isinstance(value, dict):
        return {key: _said(each) for key, each in value.items() if each is not None}
    return value
