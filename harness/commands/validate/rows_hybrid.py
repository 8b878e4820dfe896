"""Rows of throughput.csv that combine data, tensor and pipeline parallelism: degrees stand in the system block."""

from __future__ import annotations

from dataclasses import replace

from harness.commands.validate.case_systems import Unpredictable, block_of, first_match
from harness.commands.validate.published import Degrees, TableRow, Tables, TomlTable, input_of, stated
from harness.commands.validate.row_times import seconds_of, value_of
from harness.commands.validate.rows_transformer import calibrated_step
from harness.costs.price import PricedStep
from harness.costs.profiles import Constants


def predict_hybrid(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of a combined layout, in its unit.

    Raises:
        Unpredictable: its degrees or sizes are not stated, or no row of the case is a calibration of the same strategy.
    """
    step = _step(published, row, constants)
    return value_of(published, with_degrees(published, row), step.seconds)


def hybrid_uncertainty(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the uncertainty that `plan` states of a row's scenario.

    Raises:
        Unpredictable: as `predict_hybrid`.
    """
    return _step(published, row, constants).error


def _step(published: Tables, row: TableRow, constants: Constants) -> PricedStep:
    target = with_degrees(published, row)
    known = [r for r in published.inputs if (r.case, r.strategy, r.metric) == (row.case, row.strategy, row.metric)]
    if not known:
        raise Unpredictable("no calibration row of the same case, strategy and metric")
    nearest = min(known, key=lambda r: (r.model != row.model, abs((r.gpus or 1) - (row.gpus or 1))))
    reference = with_degrees(published, nearest)
    known_s = seconds_of(published, reference)
    return calibrated_step(published, target, reference, known_s, constants)


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


def _size(published: Tables, row: TableRow, entry: TomlTable, name: str) -> int:
    pattern = r"hidden (\d+)" if name == "hidden" else rf"(\d+) {name}"
    found = entry.get(name) or stated(str(published.models.get(row.model, {}).get("name", "")), pattern)
    if found is None:
        raise Unpredictable(f"{name} of the model: not stated")
    return int(found)


def _sequence(published: Tables, row: TableRow, block: TomlTable) -> int:
    text = str(block.get("input", input_of(published, row.model)))
    found = block.get("sequence") or stated(text, r"(\d+) tokens")
    if found is None:
        raise Unpredictable("the length of sequences is not stated")
    return int(found)
