"""Merges a user's podTemplate overlay over what Ebbtide renders. Pure.

Maps merge key by key and null removes a key (JSON merge patch, RFC 7396), with one difference: lists whose items carry
a key of their own merge item by item, because replacing the whole container list to add one environment variable
would lose probes, ports and GPU limits.
"""

from collections.abc import Mapping
from typing import Any

# Which key names an item, by the name of the list
_ITEM_KEY = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "ports": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
}
# The user's taints come on top of the pool's: dropping the pool's would keep the pod off its own nodes
_APPENDED = {"tolerations"}


def merge(base: Any, overlay: Any, name: str = "") -> Any:
    """`base` with `overlay` on top; neither is changed. `name` is the key that both were found under."""
    if isinstance(base, Mapping) and isinstance(overlay, Mapping):
        return _merge_maps(base, overlay)
    if isinstance(base, list) and isinstance(overlay, list):
        if name in _APPENDED:
            return [*base, *(item for item in overlay if item not in base)]
        if name in _ITEM_KEY and all(_is_keyed(item, _ITEM_KEY[name]) for item in [*base, *overlay]):
            return _merge_items(base, overlay, _ITEM_KEY[name])
    return _without_nulls(overlay)


def _merge_maps(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    # in the base's own order, so that an overlay does not reorder what it does not touch
    removed = {key for key, value in overlay.items() if value is None}
    merged = {key: value for key, value in base.items() if key not in removed}
    merged.update({key: merge(base.get(key), value, key) for key, value in overlay.items() if key not in removed})
    return merged


def _merge_items(base: list[Any], overlay: list[Any], key: str) -> list[Any]:
    changes = {item[key]: item for item in overlay}
    kept = [merge(item, changes.pop(item[key])) if item[key] in changes else item for item in base]
    return [*kept, *(_without_nulls(item) for item in changes.values())]


def _is_keyed(item: Any, key: str) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get(key), str)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
