"""Whatever was recorded: a page, with nothing on it that is no number or no word."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cells import make_cells
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import NASTY, Seen, record_of

from harness.analysis.loss_shape import SHAPES
from harness.core.cell import Cell, Plan
from harness.core.machine import Machine
from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS
from harness.report import write_report
from harness.results.store import Results

BOTH = {"strategy": ["single", "sync-ddp", "async-ps"], "gpus": [1, 2], "learning_rate": [0.01, 0.1, 1.0], "seeds": 2}
GPUS = {"strategy": ["single", "model-split"], "gpus": [1, 4], "global_batch_size": [8, 16, 32]}
CLUSTER = {"preset": "dgx-h100", "device": {"samples_per_second": 100, "batch_size": 16}}
PLANS: dict[str, dict[str, Any]] = {
    "both engines": {"engine": "both", "cores": 2, "sweep": BOTH},
    "simulated GPUs": {"engine": "virtual", "sweep": GPUS, "cluster": CLUSTER},
}


@cache
def planned(plan: str) -> tuple[Cell, ...]:
    return tuple(make_cells(**PLANS[plan])[:14])


amount = st.one_of(st.none(), st.just(0.0), st.floats(1e-9, 1e9))
positive = st.one_of(st.none(), st.floats(1e-6, 1e6))
count = st.one_of(st.none(), st.integers(1, 10_000))

MEASURES = {
    **dict.fromkeys(["steps", "samples_seen", "samples_to_target", "updates_to_target", "num_train"], count),
    **dict.fromkeys(["time_to_target_s", "throughput_samples_per_s", "step_time_s", "step_time_p95_s"], positive),
    **dict.fromkeys(["wall_s", "setup_s", "evaluation_s", "energy_j", "stated_error", "displacement"], amount),
    **dict.fromkeys(["input_s", "compute_s", "communication_s", "idle_s", "other_s", "staleness_mean"], amount),
    **dict.fromkeys(
        ["validation_loss", "train_loss", "initial_loss", "bubble_fraction", "noise_scale_samples"], amount
    ),
    **dict.fromkeys(["dram_tensors_peak_bytes", "dram_allocated_peak_bytes", "dram_reserved_peak_bytes"], count),
    **dict.fromkeys(["nvml_used_peak_bytes", "pipeline"], count),
    "validation_accuracy": st.one_of(st.none(), st.floats(0, 1)),
    "regime": st.sampled_from([None, *SHAPES]),
    "fitting": st.sampled_from([None, "fits", "overfit", "underfit"]),
}
QUANTITIES = ["host_cpu", "nvml_gpu_utilisation", "nvml_used", "nvml_power", "nvml_throttle_reasons"]


def table(columns: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, list[Any]]]:
    """Return tables with so many rows at most."""
    rows = st.lists(st.tuples(*columns.values()), max_size=most)
    return rows.map(lambda found: {name: [row[k] for row in found] for k, name in enumerate(columns)})


rank = st.integers(0, 2)
steps = table(
    {name: rank if name in ("worker", "device") else st.integers(0, 40) for name in STEP_COLUMNS}
    | dict.fromkeys(["start_s", "input_s", "compute_s", "communication_s", "idle_s"], st.floats(0, 100))
    | {"loss": amount},
    30,
)
updates = table(
    {name: st.integers(0, 40) for name in UPDATE_COLUMNS}
    | {"time_s": st.floats(0, 100), "parts": st.sampled_from([None, 2]), "samples": st.integers(2, 64)}
    | dict.fromkeys(["small_square", "big_square"], st.one_of(st.none(), st.floats(0, 10))),
    80,
)
EVALUATION = ("samples", "updates", "time_s", "train_loss", "validation_loss", "validation_accuracy")
evaluations = table(dict.fromkeys(EVALUATION, amount) | {"samples": st.integers(1, 999)}, 8).map(
    lambda found: found | {"samples": sorted(found["samples"])}
)
telemetry = table(
    {"time_s": st.floats(-1, 5), "source": st.just("x"), "device": st.sampled_from("ab")}
    | {"quantity": st.sampled_from(QUANTITIES), "value": st.floats(0, 1e11), "unit": st.just("?")},
    20,
)


@st.composite
def stored(draw: st.DrawFn, cell: Cell) -> tuple[Any, dict[str, Any]]:
    """Return a record of a cell with its tables."""
    status = draw(st.sampled_from(["ok", "ok", "ok", "target-missed", "diverged", "crashed", "out-of-memory"]))
    record = record_of(cell, status=status, reason=draw(st.sampled_from(["", NASTY])))
    record.row.update({name: draw(values) for name, values in MEASURES.items()})
    if status == "target-missed":
        record.row["time_to_target_s"] = None
    kinds = {name: draw(count) for name in ("parameters", "gradients", "activations")}
    record.detail["dram"] = {name: number for name, number in kinds.items() if number}  # type: ignore[index]
    tables = {
        "evals.csv": evaluations,
        "steps.parquet": steps,
        "updates.parquet": updates,
        "telemetry.parquet": telemetry,
    }
    return record, {name: found for name, shape in tables.items() if (found := draw(shape)) and draw(st.booleans())}


@settings(
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data(), st.sampled_from(sorted(PLANS)))
def test_any_records_have_a_page(data: st.DataObject, plan: str) -> None:
    cells = planned(plan)
    with TemporaryDirectory() as folder:
        results = Results(Path(folder))
        results.write_plan(Plan(cells=cells, name="any", description=NASTY, machine=Machine(cores=2)))
        for cell in cells[: data.draw(st.integers(0, len(cells)))]:
            results.write_record(*data.draw(stored(cell)))
        text = write_report([results], Path(folder) / "report.html").read_text(encoding="utf-8")
        assert json.dumps(text)  # no half a character
        shown = " ".join(Seen(text).texts)
        assert "<script>alert" not in text
        odd = re.search(r"\b(nan|inf|None)\b", shown)
        assert odd is None, shown[max(0, odd.start() - 200) : odd.end() + 50]
