"""Rewrites the pinned Go modules in `controlplane/` from the versions in `versions.py`.

For developers, after a change of a version: `python -m ebbtide.sandbox.modules [FOLDER]`. Needs Go and its module
proxy. Each tool has a module of its own, because their dependencies conflict when merged; `go.mod` and `go.sum` are
kept in the project, so that every build is the same.
"""

import json
import subprocess
import sys
from pathlib import Path

from ebbtide.errors import SandboxError
from ebbtide.sandbox.gobuild import MODULES
from ebbtide.sandbox.versions import KUBERNETES, Tool, etcd, kubernetes, kwok, prometheus

_GO = "1.26.0"


def all_tools() -> list[Tool]:
    """Every tool in every pinned version."""
    return [etcd(), kwok(), prometheus(), *(kubernetes(minor) for minor in sorted(KUBERNETES))]


def go_mod(tool: Tool, staging: list[str]) -> str:
    """The `go.mod` before `go mod tidy` fills in the rest; `staging` are the modules to be replaced."""
    module, version = tool.require
    lines = [f"module ebbtide.dev/controlplane/{tool.module}", "", f"go {_GO}", ""]
    lines += [line for binary in tool.binaries for line in (f"tool {binary.package}", "")]
    lines += [f"require {module} {version}", ""]
    if staging:
        # k8s.io/kubernetes v1.36.3 belongs to k8s.io/api v0.36.3
        small = f"v0.{tool.version.split('.', 1)[1]}"
        lines += ["replace (", *(f"\t{name} => {name} {small}" for name in staging), ")", ""]
    return "\n".join(lines)


def staging_modules(requirements: str) -> list[str]:
    """The modules that a `go.mod` requires at exactly v0.0.0: names that only exist beside Kubernetes' own source.

    k8s.io/utils and k8s.io/kube-openapi have real pseudo-versions (v0.0.0-2026...) and must stay.
    """
    words = (line.replace("require ", "").split() for line in requirements.splitlines())
    return sorted(parts[0] for parts in words if len(parts) >= 2 and parts[1] == "v0.0.0")


def regenerate(tool: Tool, modules: Path) -> Path:
    """Write and tidy one module; answers its folder."""
    folder = modules / tool.module
    folder.mkdir(parents=True, exist_ok=True)
    module, version = tool.require
    downloaded = json.loads(_go(folder, "mod", "download", "-json", f"{module}@{version}"))
    # only Kubernetes lives in a repository of staging modules; the others' replaces point into their own trees
    staging = staging_modules(Path(downloaded["GoMod"]).read_text()) if tool.name == "kubernetes" else []
    for name in ("go.mod", "go.sum"):
        (folder / name).unlink(missing_ok=True)
    (folder / "go.mod").write_text(go_mod(tool, staging))
    _go(folder, "mod", "tidy")
    return folder


def _go(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["go", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SandboxError("go is not installed: it is needed to pin the modules") from None
    if done.returncode != 0:
        raise SandboxError(f"go {' '.join(arguments)} in {folder}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def main() -> None:
    """Rewrite all modules, or those under the folder given as the only argument."""
    modules = Path(sys.argv[1]) if len(sys.argv) > 1 else MODULES
    for tool in all_tools():
        sys.stdout.write(f"{tool.module}: {tool.require[0]} {tool.require[1]}\n")
        regenerate(tool, modules)


if __name__ == "__main__":
    main()
