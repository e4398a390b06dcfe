"""Tells which of our own modules a piece of code depends on, and gives them one digest.

A cached result is worth keeping only while the code that made it is the same. Imports are read from the sources (late
ones in functions too), never executed; modules of other packages do not count, because they are pinned. Text files in
the folders of the modules, such as pins, count as well.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

_OURS = "ebbtide"


@functools.lru_cache(maxsize=64)
def digest_of_sources(module: str, without: tuple[str, ...] = ()) -> str:
    """Sha256 over `module` and every module of ours that it imports, directly or not, except those below `without`."""
    digest = hashlib.sha256()
    modules = modules_of(module, without)
    texts = {path.name: path for folder in {path.parent for path in modules.values()} for path in folder.glob("*.txt")}
    for name, path in [*sorted(modules.items()), *sorted(texts.items())]:
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def modules_of(module: str, without: tuple[str, ...]) -> dict[str, Path]:
    """`module` and every module of ours that it imports, directly or not, with its file."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or _below(name, without) else _file(name)
        if path is not None:
            found[name] = path
            waiting += _imports(name, path)
    return found


def _below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    root = name.partition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            wanted = [base, *(f"{base}.{alias.name}" for alias in node.names)]  # a name may be a module
        else:
            continue
        yield from (one for one in wanted if one.partition(".")[0] in (_OURS, root))


def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # `from module import name` tried as a module of a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
