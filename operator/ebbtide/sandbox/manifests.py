"""Reads the Kubernetes objects that the sandbox is told to apply."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ebbtide.errors import ConfigurationError


def documents(what: Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> list[Any]:
    """Objects of a YAML file, of a folder's files in order of name, or as given; ConfigurationError when none."""
    if isinstance(what, Mapping):
        return [dict(what)]
    if not isinstance(what, Path):
        return [dict(item) for item in what]
    files = sorted([*what.glob("*.yaml"), *what.glob("*.yml")]) if what.is_dir() else [what]
    found = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    if not found:
        raise ConfigurationError(f"{what} holds no YAML objects to apply")
    return found


def is_definition(document: Mapping[str, Any]) -> bool:
    """Whether it defines a kind of its own (a CRD), which is served a moment after it was accepted."""
    return document.get("kind") == "CustomResourceDefinition"
