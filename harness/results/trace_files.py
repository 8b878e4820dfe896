"""Write traces beside records: one file for a cell, and one for a pair that ran on both engines."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.core.atomic_files import write_atomically
from harness.core.cell import POINT_FIELDS, Cell
from harness.core.outcome import Outcome
from harness.core.records import Json
from harness.results.beside_records import read_beside
from harness.results.store import Results
from harness.results.trace_document import chosen_spans, side_by_side, trace_document

TRACED = "traced: stamps and hooks took some time in its first steps"
_SHARED = (*(name for name in POINT_FIELDS if name not in ("engine", "device")), "measure", "seed")
"""Fields that a real cell and its virtual twin share."""


def steps_to_record(cell: Cell, steps: int) -> int:
    """Return up to which step an engine has to keep spans."""
    return int(cell.measure.warmup_steps) + steps


def document_of(cell: Cell, outcome: Outcome, steps: int) -> Json:
    """Return a cell's trace: so many steps after the warm-up, which is at most a tenth of the run as in throughput."""
    own = [worker for worker in outcome.steps.get("worker", []) if worker == 0]
    first = min(int(cell.measure.warmup_steps), len(own) // 10)
    spans = chosen_spans(outcome.spans, first, steps)
    marks = [(e.time_s, f"evaluation after {e.samples} samples") for e in outcome.evaluations]
    clock = "simulated" if cell.engine == "virtual" else "wall"
    return trace_document(spans, marks, {"cell": cell.cell_id, "clock": clock, "first step": first})


def write_trace(results: Results, cell: Cell, document: Json) -> Path:
    """Write a cell's trace.json, and the file beside its twin's where that is there."""
    path = results.cell_folder(cell.cell_id) / "trace.json"
    _write(path, document)
    twin = next((other for other in results.plan().cells if are_twins(cell, other)), None)
    if twin is not None and (results.cell_folder(twin.cell_id) / "trace.json").is_file():
        real, virtual = (cell, twin) if cell.engine == "real" else (twin, cell)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what lies there may be no trace
            traces = {"real": _read(results, real), "virtual": _read(results, virtual)}
            _write(results.folder / "traces" / f"{real.cell_id}.json", side_by_side(traces))
    return path


def are_twins(cell: Cell, other: Cell) -> bool:
    """Say whether two cells are the same point with the same seed on the two engines."""
    return cell.engine != other.engine and all(getattr(cell, key) == getattr(other, key) for key in _SHARED)


def _read(results: Results, cell: Cell) -> Json:
    return read_beside(results.cell_folder(cell.cell_id) / "trace.json", results.folder)


def _write(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document) + "\n")
