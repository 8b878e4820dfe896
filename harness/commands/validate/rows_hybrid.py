"""Rows of throughput.csv that combine data, tensor and pipeline parallelism: degrees stand in the system block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.commands.validate.case_models import items_per_sample
from harness.commands.validate.case_systems import Unpredictable, block_of, first_match
from harness.commands.validate.published import Degrees, TableRow, Tables
from harness.commands.validate.row_times import seconds_per_unit
from harness.commands.validate.rows_transformer import calibrated_step_s
from harness.costs.profiles import Constants


def predict_hybrid(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of a combined layout, in its unit.

    Raises:
        Unpredictable: its degrees or sizes are not stated, or no row of the case is a calibration of the same strategy.
    """
    target = with_degrees(published, row)
    known = [r for r in published.inputs if (r.case, r.strategy, r.metric) == (row.case, row.strategy, row.metric)]
    if not known:
        raise Unpredictable("no calibration row of the same case, strategy and metric")
    nearest = min(known, key=lambda r: (r.model != row.model, abs((r.gpus or 1) - (row.gpus or 1))))
    reference = with_degrees(published, nearest)
    measured_s = step_s(published, reference)
    return value(published, target, calibrated_step_s(published, target, reference, measured_s, constants))


def with_degrees(published: Tables, row: TableRow) -> TableRow:
    """Return the row with the degrees and sizes that its block's layouts say.

    Raises:
        Unpredictable: something is not stated.
    """
    block = block_of(published, row)
    entry = first_match(block.get("layouts", ()), row)
    if entry is None:
        raise Unpredictable("no layout of the block matches the row: degrees of parallelism are not stated")
    sizes = {name: _size(published, row, entry, name) for name in ("layers", "heads", "hidden")}
    data, tensor, pipeline = (int(entry.get(name, 1)) for name in ("data", "tensor", "pipeline"))
    if row.gpus and data * tensor * pipeline != row.gpus:
        raise Unpredictable(f"{data} x {tensor} x {pipeline} devices of the layout are not the row's {row.gpus}")
    whole, pieces = entry.get("global_batch"), row.microbatches
    micro = row.batch_per_gpu or (whole / data / pieces if whole and pieces else 1)
    pieces = pieces or (max(1, round(whole / data / micro)) if whole else 1)
    degrees = Degrees(
        **sizes,
        sequence=_sequence(published, row, block),
        micro_batch=max(1, round(micro)),
        global_batch=round(whole or micro * pieces * data),
        data=data,
        tensor=tensor,
        pipeline=pipeline,
        parameters=float(entry.get("parameters", 0.0)),
    )
    return replace(row, degrees=degrees, microbatches=pieces)


def _size(published: Tables, row: TableRow, entry: Mapping[str, Any], name: str) -> int:
    text = str(published.models.get(row.model, {}).get("name", ""))
    found = re.search(r"hidden (\d+)" if name == "hidden" else rf"(\d+) {name}", text)
    if name in entry or found:
        return int(entry[name] if name in entry else found[1] if found else 0)
    raise Unpredictable(f"{name} of the model: not stated")


def _sequence(published: Tables, row: TableRow, block: Mapping[str, Any]) -> int:
    found = re.search(r"(\d+) tokens", str(block.get("input", published.models.get(row.model, {}).get("input", ""))))
    if "sequence" in block or found:
        return int(block["sequence"] if "sequence" in block else found[1] if found else 0)
    raise Unpredictable("the length of sequences is not stated")


def step_s(published: Tables, row: TableRow) -> float:
    """Return the seconds of one step that a row with degrees means."""
    return row.value * seconds_per_unit(row) if row.metric == "step_time" else _work(published, row) / row.value


def value(published: Tables, row: TableRow, seconds: float) -> float:
    """Return what the table would print for a step of so many seconds."""
    return seconds / seconds_per_unit(row) if row.metric == "step_time" else _work(published, row) / seconds


def _work(published: Tables, row: TableRow) -> float:
    if row.degrees is None:
        raise Unpredictable("the global batch is not stated")
    each = items_per_sample(published, row)
    if row.unit.startswith("tokens"):
        each = row.degrees.sequence
    if each != each:
        raise Unpredictable(f"how many {row.unit.split('/')[0]} a sample holds is not stated")
    return row.degrees.global_batch * each / ((row.gpus or 1) if row.metric == "throughput_per_gpu" else 1)
