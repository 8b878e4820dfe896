"""The first hour on a GPU, in eight minutes: what only a GPU can show, the most important first.

    python benchmarks/gpu_hour [--minutes 8] [--only a b] [--out results/reference] [--wheels FOLDER]
    python benchmarks/gpu_hour --device cpu --sizes tiny    # what a machine without one can run of it

Writes a page, the records of all cells with their reports, and one archive of them. Needs no network. docs/gpu-hour.md
says what each section is for.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from hour import Hour, Notebook, Section, Verdict, read_findings  # noqa: E402
from machine import (  # noqa: E402
    ROOT,
    ask_torch,
    folder_name,
    install_wheels,
    lacking,
    register_checkout,
    requirements,
    wheels_to_bring,
)
from page import assumptions, confirmed, pack, page, scrub  # noqa: E402
from sections import SECTIONS, SIZES, Look  # noqa: E402

KEPT_S = 10.0
"""Of the limit that sections may not use: the page and the archive are made then. Chosen."""

SETTLED_EXIT, MISSED_EXIT, MACHINE_EXIT = 0, 1, 3

NOT_ON_CPU = {
    "NCCL, DDP and fully_shard over NCCL": "they need a GPU",
    "CUDA streams, events and graphs": "they need a GPU",
    "the types that autocast chooses on CUDA": "they need a GPU",
    "CUDA's allocator, and out of memory": "they need a GPU",
    "figures of NVML and GPM, energy": "they need a GPU",
}
"""What runs neither on a CPU nor on a device that only records its calls."""


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="benchmarks/gpu_hour")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of everything together (default 8)")
    parser.add_argument("--sizes", choices=tuple(SIZES), help="how much is computed (default full; tiny on cpu)")
    parser.add_argument("--only", nargs="+", choices=[section.key for section in SECTIONS], help="run these sections")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference", help="where the device's folder is")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use where this Python lacks some")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    chosen.sizes = chosen.sizes or ("full" if chosen.device == "cuda" else "tiny")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the hour, or in a process of its own one section of it."""
    chosen = parsed(arguments)
    if chosen.section:
        return one_section(chosen)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside it keeps what is done, too
    with tempfile.TemporaryDirectory(prefix="gpu-hour-") as scratch:
        site = Path(scratch) / "site"
        site.mkdir()
        sys.path.append(str(site))
        if chosen.wheels:
            print("unpacked:", ", ".join(install_wheels(chosen.wheels, site)) or "nothing, all is here already")
        missing = lacking(requirements()[0])
        if missing:
            print(wheels_to_bring([*missing, *lacking(requirements()[1])]))
            return MACHINE_EXIT
        register_checkout(site)
        environment = environment_of(Path(scratch), site)
        try:
            facts = ask_torch(environment)
        except RuntimeError as error:
            print(f"torch does not start: {error}")
            return MACHINE_EXIT
        if chosen.device == "cuda" and not facts["gpus"]:
            print("torch sees no GPU here. --device cpu --sizes tiny runs what a CPU can")
            return MACHINE_EXIT
        return hour(chosen, environment, facts, began)


def environment_of(scratch: Path, site: Path) -> dict[str, str]:
    """Return what sections run in: this checkout first, and empty caches, so that nothing was measured before."""
    paths = [str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HARNESS_CACHE": str(scratch / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONUNBUFFERED": "1",
    }


def hour(chosen: argparse.Namespace, environment: dict[str, str], facts: dict[str, object], began: float) -> int:
    """Run the sections, write the page and the archive, and return the exit code."""
    from harness.core.environment import describe_environment
    from harness.core.machine import detect_machine

    here = describe_environment(detect_machine())
    name = str(facts["name"]) if chosen.device == "cuda" else f"cpu {here['cpu']}"
    folder = fresh(chosen.out, folder_name(name))
    facts = {key: value for key, value in (here | facts).items() if key not in ("id", "gpu")}
    facts |= {"sizes": chosen.sizes, "date": time.strftime("%Y-%m-%d")}
    (folder / "machine.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def command(key: str, seconds: float) -> list[str]:
        asked = ["--section", key, "--folder", str(folder), "--seconds", f"{seconds:.1f}"]
        return [sys.executable, str(HERE), *asked, "--device", chosen.device, "--sizes", chosen.sizes]

    sections = [section for section in SECTIONS if not chosen.only or section.key in chosen.only]
    run = Hour(folder, 60 * chosen.minutes - KEPT_S - (time.monotonic() - began), command, environment)
    print(f"{name}: {len(sections)} sections in {chosen.minutes:g} minutes, written to {folder}")
    try:
        run.run(sections)
    except KeyboardInterrupt:
        print("stopped; what is done is kept")
    return conclude(chosen, run, sections, facts)


def fresh(out: Path, name: str) -> Path:
    """Return the device's folder, empty: what an earlier run left there is moved aside, since nothing done is lost."""
    folder = out / name
    if folder.exists():
        aside = out / "aside"
        aside.mkdir(exist_ok=True)
        folder.rename(aside / f"{name}-{time.time_ns()}")
    folder.mkdir(parents=True)
    return folder


def conclude(chosen: argparse.Namespace, run: Hour, sections: Sequence[Section], facts: dict[str, object]) -> int:
    """Write the page and the archive of what was found."""
    folder = run.folder
    if chosen.device == "cpu":
        for what, why in NOT_ON_CPU.items():
            print(Notebook(run.findings, "cpu").add(what, Verdict.NOT_RUN, why=why).text)
    scrub(folder, {str(folder.resolve()): ".", f"{ROOT}{os.sep}": "", str(ROOT): ".", str(Path.home()): "~"})
    findings = read_findings(run.findings)
    document = ROOT / "docs" / "gpu.md"
    listed = assumptions(document.read_text(encoding="utf-8")) if document.is_file() else {}
    reports = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/report.html"))]
    every = [*sections, Section("cpu", "What a CPU cannot run", 0, print)] if chosen.device == "cpu" else sections
    (folder / "README.md").write_text(page(findings, every, run.seconds, facts, listed, reports), encoding="utf-8")
    names = confirmed(findings)
    print(f"confirmed of docs/gpu.md: {', '.join(names) or 'nothing'}")
    print(f"page: {folder / 'README.md'}")
    print(f"archive: {pack(folder)}")
    bad = [found for found in findings if found.verdict in (Verdict.MISSED, Verdict.FAILED)]
    return MISSED_EXIT if bad else SETTLED_EXIT


def one_section(chosen: argparse.Namespace) -> int:
    """Run one section in this process; what it raises is found, like everything else."""
    (section,) = [section for section in SECTIONS if section.key == chosen.section]
    notes = Notebook(chosen.folder / "findings.jsonl", section.key, confirms=chosen.device == "cuda")
    until = time.monotonic() + chosen.seconds
    try:
        section.run(Look(chosen.device, SIZES[chosen.sizes], chosen.folder, notes, until))
    except KeyboardInterrupt:
        pass  # whoever asked for it writes down why
    except Exception:
        notes.failed(section.title, traceback.format_exc())
    return SETTLED_EXIT


if __name__ == "__main__":
    sys.exit(main())
