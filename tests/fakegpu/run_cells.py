"""Run cells on the CPU and on the fake GPU, through the product's own launcher, and print what came out as JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import make_cells

from harness.core.cell import Cell
from harness.engines.processes import launch


def on(device: str, cell: Cell, options: dict[str, Any]) -> dict[str, Any]:
    """Run a cell and return its outcome as plain data, with each process's notes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FAKE_GPU_LOG"] = folder
        launch._device_of = lambda *_: device  # torch's Python backend has one device for each process
        cell = replace(cell, device="cpu" if device == "cpu" else "cuda")
        result = launch.run_cell(cell, options=options | {"keep_weights": True}, log=str(Path(folder) / "log"))
        names = {pid: label for pid, label, _ in result.targets}
        notes = {
            names.get(int(path.stem), path.stem): [json.loads(line) for line in path.read_text().splitlines()]
            for path in Path(folder).glob("*.jsonl")
        }
        if result.failure is not None:
            print((Path(folder) / "log").read_text(), file=sys.stderr)
            return {"failure": f"{result.cause}: {result.reason}", "notes": notes}
    outcome = result.outcome
    return {
        "notes": notes,
        "weights": outcome.weights.tolist(),
        "steps": {name: list(map(_plain, column)) for name, column in outcome.steps.items()},
        "evaluations": [[e.samples, e.validation_loss, e.validation_metric] for e in outcome.evaluations],
        "test": outcome.test,
        "allocator": outcome.allocator,
        "updates": outcome.updates,
        "targets": [device for _, _, device in result.targets],
        "spans": [[span.name, span.start_s, span.end_s, span.step] for span in outcome.spans],
    }


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    found = {}
    for name, wanted in json.loads(sys.argv[1]).items():
        (cell,) = make_cells(engine="real", device="cpu", **wanted["cell"])
        there = replace(cell, workload=replace(cell.workload, **wanted.get("workload", {})))
        found[name] = {
            device: on(device, asked, wanted["options"]) for device, asked in (("cpu", cell), ("fakegpu:0", there))
        }
    print(json.dumps(found))
