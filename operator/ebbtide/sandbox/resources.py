"""Where the manifests are that ship with Ebbtide: in the installed package, or in the source tree."""

from pathlib import Path

from ebbtide.errors import SandboxError

_PACKAGE = Path(__file__).parents[1]


def manifest(name: str) -> Path:
    """The path of `manifests/NAME`; SandboxError when the installation is incomplete."""
    for candidate in (_PACKAGE / "manifests" / name, _PACKAGE.parents[1] / "manifests" / name):
        if candidate.exists():
            return candidate
    raise SandboxError(f"manifests/{name} is missing from this installation: install ebbtide again")
