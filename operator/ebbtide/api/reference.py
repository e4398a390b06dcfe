"""The field reference `docs/reference/api.md`, generated from the same schemas as the CRDs.

`python -m ebbtide.api.reference docs/reference/api.md` writes it. Must never say more than the schemas do.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebbtide.api.crd import GROUP, VERSION, crd_documents
from ebbtide.api.fields import RULES
from ebbtide.api.schema import Schema

_INTRODUCTION = f"""# API reference: {GROUP}/{VERSION}

Generated from `operator/ebbtide/api` by `make crds`. Change the models, not this file. `kubectl explain` shows the same
texts. Durations are written like `500ms`, `30s` or `1m30s`; money, rates and percentages are decimal strings in quotes,
never floats. Bounds on several fields at once stand below the object that holds them. What the reasons in status mean
and what to do about them: [reasons.md](reasons.md).
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(line for crd in crd_documents().values() for line in _kind(crd["spec"]))])


def _kind(spec: Schema) -> Iterator[str]:
    names = spec["names"]
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
    yield f"## {names['kind']}\n"
    yield f"{schema['description']}\n"
    yield f"{spec['scope']}; short name `{names['shortNames'][0]}`; category `{names['categories'][0]}`.\n"
    yield from _rules(schema)
    for part in ("spec", "status"):
        yield from _object(part, schema["properties"][part])


def _object(path: str, node: Schema) -> Iterator[str]:
    """One table, then those of the objects inside."""
    yield f"### {path}\n"
    yield f"{node['description']}\n"
    yield "| field | type | default | allowed | meaning |"
    yield "|---|---|---|---|---|"
    required = node.get("required", ())
    for name, child in node["properties"].items():
        yield _row(name, child, name in required)
    yield ""
    yield from _rules(node)
    for name, child in node["properties"].items():
        inner, suffix = (child["items"], "[]") if child["type"] == "array" else (child, "")
        if "properties" in inner:
            yield from _object(f"{path}.{name}{suffix}", {"description": child["description"], **inner})


def _row(name: str, node: Schema, required: bool) -> str:
    default = "required" if required else _default(node.get("default"))
    cells = (f"`{name}`", _type(node), default, _allowed(node), node["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: object) -> str:
    if isinstance(value, dict):
        return "see below"
    return "" if value is None else f"`{value}`"


def _type(node: Schema) -> str:
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    return str(node["type"])


def _allowed(node: Schema) -> str:
    """Bounds, choices and the words of the rules on this one field."""
    said = [f"`{choice}`" for choice in node.get("enum", ())]
    if "pattern" in node:
        said.append(f"`{node['pattern']}`")
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in node or high in node:
            said.append(_range(node.get(low), node.get(high)) + unit)
    if "properties" not in node:
        said += [rule["message"] for rule in node.get(RULES, ())]
    return ", ".join(said)


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _rules(node: Schema) -> Iterator[str]:
    for rule in node.get(RULES, ()):
        yield f"- {rule['message']}"
    if node.get(RULES):
        yield ""


def main(arguments: Sequence[str]) -> None:
    """Write the page to the file named by the one argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m ebbtide.api.reference FILE")
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
