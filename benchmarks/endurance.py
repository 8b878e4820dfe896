"""Whether a long run wears out: memory, descriptors, /dev/shm and TMPDIR of one run of many small real cells.

    python benchmarks/endurance.py [--cells 500]

Prints what the run and the processes that live as long as it have after a tenth, half and all of the cells, and exits
with 1 where one of them grew from half to all. What draws reports is in it: it is part of every run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

SCENARIO = """
engine = "real"
[workload]
model = "softmax"
dataset = {{ name = "synthetic", samples = 128, test_samples = 32, size = 4, classes = 3 }}
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = [{rates}]
seeds = {seeds}
[goal]
target_accuracy = "none"
max_steps = 3
"""
RATES = 10

POLL_S = 0.2

MOST_GROWTH = 1.10
"""Of memory between half and all of the cells; chosen: records and reports of 250 cells more take a few per cent."""

MOST_MORE = 3
"""Descriptors, and entries of /dev/shm and TMPDIR: those of a cell that is being started or ends."""


@dataclass
class Seen:
    """What was seen at one moment.

    Attributes:
        cells: that had their record.
        memory: bytes, by what the process is called; descriptors: likewise.
        shared, temporary: entries of /dev/shm and of TMPDIR.
    """

    cells: int
    memory: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    shared: int = 0
    temporary: int = 0


def look(run: psutil.Process, place: Path, temporary: Path) -> Seen:
    """Look at a run and at what it has started itself; whoever ends meanwhile is left out."""
    seen = Seen(len(list(place.glob("results/*/cells/*/record.json"))))
    for process in (run, *run.children()):
        try:
            name = "run" if process.pid == run.pid else f"child {process.pid}"
            seen.memory[name], seen.descriptors[name] = process.memory_info().rss, process.num_fds()
        except psutil.Error:
            seen.memory.pop(name, None)
    seen.shared = len(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else 0
    seen.temporary = sum(len(names) for _, *names in os.walk(temporary) for names in names)
    return seen


def watch(place: Path, cells: int) -> tuple[list[Seen], int]:
    """Run the cells in a folder, and say what is seen at each mark; return that of all marks, and the exit code."""
    marks, found = marks_of(cells), []
    rates = ", ".join(f"{0.01 * (1 + k):.2f}" for k in range(RATES))
    (place / "endurance.toml").write_text(SCENARIO.format(rates=rates, seeds=max(1, cells // RATES)))
    temporary = place / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "harness", "run", "endurance.toml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    seen: list[Seen] = []
    with (
        (place / "output.txt").open("w") as output,
        subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        run = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                seen.append(look(run, place, temporary))
            except psutil.Error:
                break
            if len(found) < len(marks) and seen[-1].cells >= marks[len(found)]:
                found.append(at(seen, marks[len(found)], max(5, cells // 20)))
                print(in_words(found[-1]), flush=True)
            time.sleep(POLL_S)
    return found, process.wait()


def marks_of(cells: int) -> tuple[int, int, int]:
    """Return after how many cells figures are shown."""
    return cells // 10, cells // 2, cells


def in_words(seen: Seen) -> str:
    """Return the figures at one mark as a line."""
    each = [f"{name} {size / 2**20:.1f} MiB, {seen.descriptors[name]} fd" for name, size in seen.memory.items()]
    return f"{seen.cells} cells: {'; '.join(each)}; /dev/shm {seen.shared}, TMPDIR {seen.temporary}"


def at(seen: Sequence[Seen], cells: int, width: int) -> Seen:
    """Return the medians of what was seen over the last `width` cells before so many had ended."""
    near = [one for one in seen if cells - width < one.cells <= cells]
    if not near:
        sys.exit(f"nothing was seen at {cells} cells")
    names = set.intersection(*(set(one.memory) for one in near))
    return Seen(
        cells,
        {name: int(median(one.memory[name] for one in near)) for name in sorted(names, reverse=True)},
        {name: int(median(one.descriptors[name] for one in near)) for name in sorted(names, reverse=True)},
        int(median(one.shared for one in near)),
        int(median(one.temporary for one in near)),
    )


def grown(half: Seen, whole: Seen) -> list[str]:
    """Return what is more at the end than it was at half."""
    found = [
        f"memory of {name}: {half.memory[name]:,} bytes, then {whole.memory[name]:,}"
        for name in whole.memory
        if name in half.memory and whole.memory[name] > MOST_GROWTH * half.memory[name]
    ]
    counts = [(f"descriptors of {n}", half.descriptors.get(n, count), count) for n, count in whole.descriptors.items()]
    counts += [("/dev/shm", half.shared, whole.shared), ("TMPDIR", half.temporary, whole.temporary)]
    return [
        *found,
        *(f"{name}: {before}, then {after}" for name, before, after in counts if after > before + MOST_MORE),
    ]


def main() -> None:
    """Run, print, and end with 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    cells = parser.parse_args().cells // RATES * RATES
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        found, code = watch(Path(folder), cells)
        if code or len(found) < len(marks_of(cells)):
            sys.exit(f"exit code {code}:\n{(Path(folder) / 'output.txt').read_text()[-2000:]}")
    if more := grown(*found[1:]):
        sys.exit("grew: " + "; ".join(more))
    print("flat")


if __name__ == "__main__":
    main()
