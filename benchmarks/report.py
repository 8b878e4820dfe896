"""How long the report of a large sweep takes: 1,000 simulated cells that train, drawn three times.

python benchmarks/report.py [FOLDER]      # FOLDER: results of an earlier run, to draw again
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from harness.results.store import Results

REPEATS = 3
REPORT_S, CSV_S, PAGE_BYTES = 20.0, 3.0, 10e6

SWEEP = """
engine = "virtual"
[workload]
model = "softmax"
dataset = "digits"
[sweep]
strategy = ["single", "async-ps", "sync-ddp", "local-sgd"]
global_batch_size = [32]
learning_rate = [0.001, 0.01, 0.1, 0.3, 1.0]
gpus = [1, 2, 4, 8]
seeds = 20
exclude = [
    { strategy = "async-ps", gpus = 1 },
    { strategy = "sync-ddp", gpus = 1 },
    { strategy = "local-sgd", gpus = 1 },
]
[goal]
target_accuracy = 0.9
max_epochs = 3
[cluster]
device = { samples_per_second = 20000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


def run_sweep(root: Path) -> Path:
    """Run the sweep and return its results folder."""
    (root / "sweep.toml").write_text(SWEEP)
    command = [sys.executable, "-m", "harness", "run", str(root / "sweep.toml"), "--results", str(root)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"harness run: {time.perf_counter() - began:.0f} s")
    return root / "sweep"


def time_report(folder: Path) -> None:
    """Time `harness report` as a user types it, and the table alone."""
    command = [sys.executable, "-m", "harness", "report", str(folder)]
    reports, tables = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        reports.append(time.perf_counter() - began)
        began = time.perf_counter()
        Results(folder).write_cells_csv()
        tables.append(time.perf_counter() - began)
    cells, size = len(Results(folder).plan().cells), (folder / "report.html").stat().st_size
    told("harness report", reports, REPORT_S, cells)
    told("cells.csv", tables, CSV_S, cells)
    print(f"page: {size / 1e6:.2f} MB (aim {PAGE_BYTES / 1e6:g} MB: {'ok' if size < PAGE_BYTES else 'MISSED'})")


def told(name: str, seconds: list[float], aim_s: float, cells: int) -> None:
    middle = median(seconds)
    print(
        f"{name} of {cells:,} cells: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)}; aim "
        f"{aim_s:g} s: {'ok' if middle < aim_s else 'MISSED'})"
    )


def main() -> None:
    if len(sys.argv) > 1:
        return time_report(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as root:
        time_report(run_sweep(Path(root)))


if __name__ == "__main__":
    main()
