"""What a machine has to bring: packages, the checkout registered as if it were installed, and a device.

Imports the standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FOR_TESTS = ("pytest", "pytest-timeout", "hypothesis")
"""What the tests marked `gpu` need beside the harness itself."""


def requirements() -> tuple[list[str], list[str]]:
    """Return what the harness requires, and what its tests on a GPU require beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tests = [text for text in project["optional-dependencies"]["test"] if name_of(text) in FOR_TESTS]
    return project["dependencies"], tests


def name_of(requirement: str) -> str:
    """Return the distribution that a requirement names."""
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower()


def lacking(needed: Iterable[str]) -> list[str]:
    """Return the requirements that this environment does not meet."""
    return [requirement for requirement in needed if not _met(requirement)]


def _met(requirement: str) -> bool:
    try:
        version = metadata.version(name_of(requirement))
    except metadata.PackageNotFoundError:
        return False
    least = requirement.partition(">=")[2].partition(",")[0]
    return not least or _numbers(version) >= _numbers(least)


def _numbers(version: str) -> list[int]:
    release = re.match(r"[\d.]*", version.partition("+")[0])
    return [int(part) for part in (release[0] if release else "").split(".") if part]


def wheels_to_bring(missing: Sequence[str]) -> str:
    """Say which wheels a machine lacks, and how they get there without a network of its own."""
    torch = [text for text in missing if name_of(text) == "torch"]
    others = [text for text in missing if text not in torch]
    lines = [f"this Python ({sys.version.split()[0]}) lacks: {', '.join(missing)}"]
    if torch:
        lines.append("torch: install the build for this machine's driver first; it brings NCCL, cuDNN and Triton")
    if others:
        asked = " ".join(f"'{text}'" for text in others)
        python = ".".join(map(str, sys.version_info[:2]))
        lines += [
            "where there is a network, fetch wheels of these and of what they need:",
            f"  python -m pip download --dest wheels --only-binary :all: --python-version {python} \\",
            f"    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 {asked}",
            "bring the folder here, and run this script with --wheels wheels",
        ]
    return "\n".join(lines)


def install_wheels(folder: Path, site: Path) -> list[str]:
    """Unpack the wheels of a folder that this environment lacks into a folder of their own; return their names.

    Without what they depend on: that lies in the folder too, or is here already, torch above all.
    """
    wheels = [wheel for wheel in sorted(folder.glob("*.whl")) if not _installed(wheel)]
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
        subprocess.run([*command, *map(str, wheels)], check=True)
    return [wheel.name for wheel in wheels]


def _installed(wheel: Path) -> bool:
    name, version = wheel.name.split("-")[:2]
    return _met(f"{name.replace('_', '-')}>={version}")


def register_checkout(site: Path) -> None:
    """Let this Python find the entry points of the checkout, as installing it would, where it is not installed."""
    if any(entry.value.startswith("harness.") for entry in metadata.entry_points(group="harness")):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"{project['name'].replace('-', '_')}-0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    groups = project["entry-points"]
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


_ASK = """
import json, torch
facts = {"torch": torch.__version__, "cuda": torch.version.cuda or "", "gpus": 0, "name": ""}
if torch.cuda.is_available():
    seen = torch.cuda.get_device_properties(0)
    facts |= {"gpus": torch.cuda.device_count(), "name": seen.name, "memory_bytes": seen.total_memory}
    facts |= {"capability": f"{seen.major}.{seen.minor}", "cudnn": torch.backends.cudnn.version()}
    facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else ""
print(json.dumps(facts))
"""


def ask_torch(environment: dict[str, str]) -> dict[str, object]:
    """Return what torch says of this machine, in a process of its own: CUDA is not begun in this one.

    Raises:
        RuntimeError: torch cannot be imported; the message is its own.
    """
    command = [sys.executable, "-c", _ASK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def folder_name(words: str) -> str:
    """Return a device's name as a folder: "NVIDIA H200" becomes nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "unnamed"
