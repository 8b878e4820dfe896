"""Folders of records made by hand, and what stands on the page that is written of them."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from cells import make_cells

from harness.analysis.cell_row import identity_row
from harness.core.cell import Cell, Plan
from harness.core.endings import Status
from harness.core.machine import Machine
from harness.results.store import Record, Results

NASTY = "<script>alert(\"1\")</script> & 'quotes' \N{GREEK SMALL LETTER ALPHA}\N{SNOWMAN}"

BYTES = {"parameters": 247000, "gradients": 247000, "optimizer": 0, "activations": 900000, "buffers": 0}


def results_at(folder: Path, cells: Sequence[Cell], run: int | None = None, **plan: Any) -> Results:
    """Write a plan and records of its first `run` cells: curves rise, devices halve the computing and add exchange."""
    results = Results(folder)
    given = {"name": "lenet", "description": "four strategies", "machine": Machine(cores=2)} | plan
    results.write_plan(Plan(cells=tuple(cells), **given))
    for cell in cells[:run]:
        results.write_record(record_of(cell), {"evals.csv": evaluations(cell)})
    return results


def record_of(cell: Cell, **changes: Any) -> Record:
    row = identity_row(cell, "12ab") | measures(cell)
    given: dict[str, Any] = {"status": "ok", "reason": "reached the target", "notes": ()} | changes
    row |= {"status": given["status"], "reason": given["reason"], "notes": "; ".join(given["notes"])}
    environment = {"python": "3.11", "cpu": "a processor", "id": "12ab"}
    given["status"] = Status(given["status"])
    return Record(cell=cell, row=row, environment=environment, detail={"dram": BYTES}, **given)


def measures(cell: Cell) -> dict[str, Any]:
    split = cell.gpus > 1
    pace = (1.6 if split else 1.0) * (1 + 0.03 * cell.seed)
    return {
        "steps": 200,
        "samples_seen": 6400,
        "wall_s": 2 * pace,
        "time_to_target_s": 2 * pace,
        "samples_to_target": 6400,
        "throughput_samples_per_s": 3200 / pace,
        "validation_accuracy": 0.96,
        "compute_s": 1.2 / cell.gpus,
        "communication_s": 0.8 if split else 0.0,
        "idle_s": 0.2 if split else 0.0,
        "dram_tensors_peak_bytes": sum(BYTES.values()),
        "staleness_mean": 0.0,
    }


def evaluations(cell: Cell, count: int = 40) -> dict[str, list[Any]]:
    samples = [404 * (k + 1) for k in range(count)]
    pace = 3200 / (1.6 if cell.gpus > 1 else 1.0)
    accuracy = [0.97 - 0.85 * 0.9 ** (k * (1 + 5 * cell.learning_rate)) - 0.004 * cell.seed for k in range(count)]
    return {
        "samples": samples,
        "updates": [s // 32 for s in samples],
        "time_s": [s / pace for s in samples],
        "train_loss": [1.0] * count,
        "validation_loss": [1.0] * count,
        "validation_accuracy": accuracy,
    }


def steps_of(cell: Cell, count: int = 60) -> dict[str, list[Any]]:
    """Return a table of steps: the second of two devices waits for the first."""
    rows = [(worker, step) for worker in range(cell.gpus) for step in range(count)]
    waits = [0.002 * worker for worker, _ in rows]
    return {
        "worker": [worker for worker, _ in rows],
        "device": [0] * len(rows),
        "step": [step for _, step in rows],
        "start_s": [0.01 * step for _, step in rows],
        "input_s": [0.0] * len(rows),
        "compute_s": [0.006 - wait for wait in waits],
        "communication_s": [0.004 if cell.gpus > 1 else 0.0] * len(rows),
        "idle_s": waits,
        "loss": [1.0] * len(rows),
    }


def lenet_cells(**changes: Any) -> list[Cell]:
    given = {
        "engine": "both",
        "cores": 2,
        "sweep__strategy": ["single", "sync-ddp", "async-ps", "model-split"],
        "sweep__gpus": [1, 2],
        "sweep__learning_rate": [0.05, 0.1],
        "sweep__seeds": 5,
    }
    return make_cells(**(given | changes))


class Seen(HTMLParser):
    """Every tag with its attributes, and every text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.code += data
        else:
            self.texts.append(data)
