"""Cells for comparisons: as rows made by hand, and as folders of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cells import make_cells
from lazy import lazy

from harness.analysis.cell_row import identity_row
from harness.core.cell import Plan
from harness.core.endings import Status
from harness.results.store import Record, Results
from harness.scenario.plan import Machine

compare = lazy("harness.analysis.compare")

HERE = {"cpu": "a processor", "gpu": "", "torch": "2.13.0", "id": "1"}

PARTS = {"input_s": 0.02, "compute_s": 0.3, "communication_s": 0.06, "idle_s": 0.0, "other_s": 0.02}

STEP_S = 0.004


def cell(point: str = "a", seed: int = 0, step_s: float = STEP_S, **changes: Any) -> compare.MeasuredCell:
    row: dict[str, Any] = {
        "cell_id": f"{point}-{seed}",
        "strategy": "sync-ddp",
        "options": "{}",
        "engine": "real",
        "synchrony": "synchronous",
        "device": "cpu",
        "gpus": 2,
        "global_batch_size": 32,
        "learning_rate": 0.1,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "steps": 100,
        "step_time_s": step_s,
        "throughput_samples_per_s": 32 / step_s,
        "bytes_sent_per_step": 246_824.0,
        "dram_tensors_peak_bytes": 4_553_744.0,
        **PARTS,
    }
    steps = changes.pop("steps_s", None)
    environment = changes.pop("environment", HERE)
    row["communication_s"] += 100 * (step_s - STEP_S)
    return compare.MeasuredCell(
        point, row | changes, environment, steps=(lambda: steps) if steps is not None else tuple
    )


def virtual(seed: int = 0, point: str = "a", **changes: Any) -> compare.MeasuredCell:
    known = {"engine": "virtual", "samples_to_target": 5280, "updates_to_target": 165, "samples_seen": 5600}
    return cell(point, seed, **known | changes)


def store(
    folder: Path,
    step_s: float = STEP_S,
    environment: dict[str, Any] = HERE,
    mark: object = 0,
    name: str = "test",
    **changes: Any,
) -> Path:
    cells = make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1], **changes)
    results = Results(folder)
    results.write_plan(Plan(name, "", Machine(cores=2), tuple(cells)))
    for made in cells:
        row = identity_row(made, "env") | {
            "status": "ok",
            "reason": "",
            "notes": "",
            "throughput_samples_per_s": 32 / step_s,
        }
        row |= {"steps": 100, "step_time_s": step_s, **PARTS}
        results.write_record(Record(made, Status.OK, "", (), row, environment, detail={"mark": mark}), {})
    return folder
