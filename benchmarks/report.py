"""How long the report of a large sweep takes, and how long a reader waits for it to answer, in a headless Chromium.

Drawn three times, of 1,000 simulated cells that train.

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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import BINARY, chromium

REPEATS = 3
REPORT_S, CSV_S, PAGE_BYTES = 20.0, 3.0, 10e6
ANSWER_MS, ANSWERS = 100.0, 15

LARGEST = "[...document.querySelectorAll('figure')].reduce((a, b) => count(a) >= count(b) ? a : b)"
INTERACTIONS = {
    "hover": "const box = marks[k % marks.length].getBoundingClientRect(); figure.dispatchEvent(new PointerEvent("
    "'pointermove', {bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}))",
    "legend": "figure.querySelectorAll('[role=button]')[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))",
    "slider": "slider.value = k % 11; slider.dispatchEvent(new Event('input', {bubbles: true}))",
    "filter": "search.value = ['async-ps 0.1', '', 'diverged', 'sync-ddp 4'][k % 4]; "
    "search.dispatchEvent(new Event('input', {bubbles: true}))",
    "sort": "if (!k) { search.value = ''; search.dispatchEvent(new Event('input', {bubbles: true})) } "
    "heads[k % heads.length].click()",
    "scroll": "const box = document.querySelector('.long'); box.scrollTop = k % 2 * box.scrollHeight",
}
"""What a reader does, as script: `figure` is the one with the most marks, `k` counts the times."""

MEASURE = """(async () => {
    const count = figure => figure.querySelectorAll('.m').length, figure = LARGEST, taken = [];
    const marks = [...figure.querySelectorAll('.m')], slider = document.querySelector('input[type=range]');
    const search = document.querySelector('input[type=search]'), heads = document.querySelectorAll('.cells th button');
    figure.scrollIntoView({block: 'center'});
    for (let k = 0; k < ANSWERS; k++) {
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        const began = performance.now();
        ACTION;
        document.documentElement.getBoundingClientRect(); // the layout that it asks for
        taken.push(performance.now() - began);
    }
    return taken;
})()"""

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
    time_answers(folder / "report.html")


def time_answers(page: Path) -> None:
    """Time what a reader does on a page: the script and the layout that follows from it."""
    if BINARY is None:
        print("no Chromium: nothing was measured in the page")
        return
    with chromium() as browser:
        browser.open(page)
        for name, action in INTERACTIONS.items():
            script = MEASURE.replace("LARGEST", LARGEST).replace("ANSWERS", str(ANSWERS)).replace("ACTION", action)
            taken = browser.run(script)
            found = f"{median(taken):.1f} ms (longest {max(taken):.1f}, n = {len(taken)}; aim {ANSWER_MS:g} ms"
            print(f"{name}: {found}: {'ok' if max(taken) < ANSWER_MS else 'MISSED'})")


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
