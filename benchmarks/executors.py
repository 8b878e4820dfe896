"""How much sooner the cells of a bundled scenario have run on several cores at once than on one.

Run it on an idle machine: python benchmarks/executors.py [--scenario classroom] [--at-once 2] [--rounds 3] [--whole]

Each measurement is a command of its own with a fresh results folder; times that simulation needs are measured once,
before the first. One core and several take turns: A B B A. Times of the cells begin with the first cell and end with
the last record; the start of the server that imports torch is in them, and reports are left out. With --whole the
whole command is timed beside it: start of Python, plan, cells, answer and report.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LIMIT = 0.62
"""Of one core's time that two may take."""

TIMED = """
import json, sys, time
from harness.commands import run
if "--whole" not in sys.argv:
    run.write_report_of = lambda results, *_: results.folder / "report.html"
else:
    sys.argv.remove("--whole")
cells = run.run_cells
def timed(*given, **options):
    began = time.monotonic()
    try:
        return cells(*given, **options)
    finally:
        print(json.dumps({"cells_s": time.monotonic() - began}), file=sys.stderr)
run.run_cells = timed
from harness.commands.cli import main
main(prog_name="harness")
"""


def seconds(scenario: str, at_once: int, folder: Path, *, whole: bool = False) -> tuple[float, float]:
    """Run a scenario in a fresh folder; return the seconds of its cells, and of the whole command.

    Raises:
        RuntimeError: it failed.
    """
    words = ["run", scenario, "--executor", f"local:{at_once}", "--results", str(folder), *(["--whole"] * whole)]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", TIMED, *words], capture_output=True, text=True)
    took_s = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    times = [json.loads(line)["cells_s"] for line in done.stderr.splitlines() if line.startswith('{"cells_s"')]
    return sum(times), took_s


def turns(rounds: int, at_once: int) -> list[int]:
    """Return who is measured when: A B B A A B ..."""
    pairs = itertools.islice(itertools.cycle([(1, at_once), (at_once, 1)]), rounds)
    return [each for pair in pairs for each in pair]


def main() -> int:
    """Measure, print, and return 1 where several cores are slower than promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="classroom")
    parser.add_argument("--at-once", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="time whole commands, reports included")
    asked = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {1: [], asked.at_once: []}
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as place:
        os.environ.setdefault("HARNESS_CACHE", str(Path(place) / "cache"))
        subprocess.run([sys.executable, "-m", "harness", "plan", asked.scenario, "--measure"], check=True, stdout=2)
        for number, at_once in enumerate(turns(asked.rounds, asked.at_once)):
            times = seconds(asked.scenario, at_once, Path(place) / str(number), whole=asked.whole)
            print(f"{at_once} at once: cells {times[0]:.1f} s, command {times[1]:.1f} s", flush=True)
            found[at_once].append(times)
    one, several = ([median(column) for column in zip(*found[n], strict=True)] for n in (1, asked.at_once))
    ratios = [b / a for a, b in zip(one, several, strict=True)]
    what = "whole command" if asked.whole else "command without a report"
    print(f"{asked.scenario}, {asked.at_once} at once of one at a time, medians of {asked.rounds}:")
    print(f"  cells {ratios[0]:.3f} (at most {LIMIT} on two cores), {what} {ratios[1]:.3f}")
    return int(asked.at_once == 2 and ratios[0] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
