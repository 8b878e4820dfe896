"""Rows of transformer steps under data, tensor and pipeline parallelism."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from harness.api.strategy import Layout
from harness.commands.validate.case_cluster import row_cluster
from harness.commands.validate.case_models import HALF_BYTES
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.published import Degrees, TableRow, Tables
from harness.commands.validate.row_times import computing_behind
from harness.commands.validate.rows_pipeline import VOCABULARY, even_sizes, names_by_stage, schedule_of
from harness.costs.memory import Placement
from harness.costs.profiles import Constants, LayerShape, LayerTime, Linear, ModelShape, Profile, TimeCurve
from harness.costs.steps import Recompute, all_reduce_s, optimizer_s, step_cost

_FORWARD_SHARES = {"none": 1 / 3, "all": 1 / 4}
"""Of a layer's time: the backward pass is twice the forward pass; recomputation repeats the forward pass.

Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix.
"""

ADAM_BYTES_PER_PARAMETER = 30
"""Moved by an update with fp32 master weights: gradient, master weight and two moments in, the latter three and
the half weight out. Source: Rajbhandari et al. 2020, "ZeRO", section 3.1 for what there is."""


class Coefficients(NamedTuple):
    """What a step on one device comes to.

    Attributes:
        layer_s: one layer's forward and backward pass, recomputation included, by micro-batch size.
        head_s: embedding, head and loss, likewise.
        fixed_s: once a step whatever the layers.
        update_s: once a step for each layer.
    """

    layer_s: TimeCurve
    head_s: TimeCurve
    fixed_s: float
    update_s: float


def predict_steps(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of transformer steps, in milliseconds.

    Raises:
        Unpredictable: no calibration row.
    """
    coefficients = None
    if _degrees(row).parameters is None:
        coefficients = _measured(published, row.table, row.series, constants)
    if coefficients is None:
        reference = _nearest(published, row)
        coefficients = _calibrated(published, reference, constants)
    return 1e3 * _step_s(published, row, coefficients, constants)


def _nearest(published: Tables, row: TableRow) -> TableRow:
    """Return the calibration row of the same model that is most like the row.

    Raises:
        Unpredictable: there is none.
    """
    degrees = _degrees(row)
    same = [
        other
        for other in published.inputs
        if other.degrees
        and (other.table, other.series) == (row.table, row.series)
        and other.degrees.parameters == degrees.parameters
    ]

    def distance(other: TableRow) -> tuple[int, int, int]:
        found = _degrees(other)
        layers, sizes = abs(found.layers - degrees.layers), abs(found.micro_batch - degrees.micro_batch)
        return layers, sizes, abs((other.microbatches or 1) - (row.microbatches or 1))

    nearest = min(same, key=distance, default=None)
    if nearest is None:
        raise Unpredictable("no calibration row of the same model")
    return nearest


def _degrees(row: TableRow) -> Degrees:
    if row.degrees is None:
        raise Unpredictable("degrees of parallelism are not stated")
    return row.degrees


# -- one device's speed ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _measured(published: Tables, table: str, series: str, constants: Constants) -> Coefficients | None:
    """Return coefficients by least squares over all calibration rows without tensor or pipeline parallelism.

    None where there are too few to tell layers from the rest.
    """
    import numpy as np

    rows = [
        row
        for row in published.inputs
        if (row.table, row.series) == (table, series)
        and row.degrees
        and row.degrees.tensor == row.degrees.pipeline == 1
    ]
    sizes = sorted({_degrees(row).micro_batch for row in rows})
    equations, seconds = np.zeros((len(rows), 2 * len(sizes) + 2)), np.zeros(len(rows))
    for number, row in enumerate(rows):
        degrees, place = _degrees(row), sizes.index(_degrees(row).micro_batch)
        pieces = row.microbatches or 1
        equations[number, place] = pieces * degrees.layers
        equations[number, len(sizes) + place] = pieces
        equations[number, -2:] = 1.0, degrees.layers
        seconds[number] = row.value / 1e3 - _exchange_s(published, row, constants)
    if not rows or np.linalg.matrix_rank(equations) < equations.shape[1]:
        return None
    found = np.linalg.lstsq(equations, seconds, rcond=None)[0].tolist()
    layer = TimeCurve(tuple(zip(map(float, sizes), found, strict=False)))
    head = TimeCurve(tuple((float(size), max(0.0, s)) for size, s in zip(sizes, found[len(sizes) :], strict=False)))
    return Coefficients(layer, head, max(0.0, found[-2]), max(0.0, found[-1]))


def _exchange_s(published: Tables, row: TableRow, constants: Constants) -> float:
    degrees = _degrees(row)
    shape = _shape(degrees)
    return all_reduce_s(row_cluster(published, row, constants), degrees.data, shape.parameter_bytes)


def _calibrated(published: Tables, reference: TableRow, constants: Constants) -> Coefficients:
    """Return coefficients whose step of the calibration row takes as long as it was measured to take."""
    sample_s = _sample_s(published, reference, reference.value / 1e3, constants)
    return _of_sample(reference, sample_s, constants)


def calibrated_step_s(
    published: Tables, row: TableRow, reference: TableRow, measured_s: float, constants: Constants
) -> float:
    """Return the seconds of a row's step from those of a calibration row, whose model may be of another size.

    A layer's arithmetic grows with tokens, with the square of the hidden size, and by attention with their product.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix.

    Raises:
        Unpredictable: degrees of parallelism are not stated.
    """
    sample_s = _sample_s(published, reference, measured_s, constants)
    ratio = _arithmetic(_degrees(row)) / _arithmetic(_degrees(reference))
    return _step_s(published, row, _of_sample(row, sample_s * ratio, constants), constants)


def _arithmetic(degrees: Degrees) -> float:
    return degrees.sequence * degrees.hidden**2 * (1 + degrees.sequence / (6 * degrees.hidden))


@lru_cache(maxsize=64)
def _sample_s(published: Tables, reference: TableRow, measured_s: float, constants: Constants) -> float:
    return computing_behind(
        measured_s,
        lambda sample_s: _step_s(published, reference, _of_sample(reference, sample_s, constants), constants),
    )


def _of_sample(row: TableRow, sample_s: float, constants: Constants) -> Coefficients:
    """Return coefficients of layers that each take `sample_s` for a sample, beside launching their kernels."""
    degrees = _degrees(row)
    launch = constants.layer_launch_s / _FORWARD_SHARES["all"]
    points: tuple[tuple[float, float], ...] = ((1.0, sample_s),)
    if launch and sample_s:
        # Launching takes longer than computing up to this many samples.
        knee = launch / sample_s
        points = tuple((size, max(launch, size * sample_s)) for size in (knee / 2, knee, 2 * knee))
    # The head is one matrix of vocabulary x hidden beside twelve of hidden x hidden in a layer, not recomputed.
    head = sample_s * VOCABULARY / (12 * degrees.hidden) * 3 / 4
    update = 12 * degrees.hidden**2 * ADAM_BYTES_PER_PARAMETER / MEMORY_BYTES_PER_S
    return Coefficients(TimeCurve(points), TimeCurve(((1.0, head),)), 0.0, update)


MEMORY_BYTES_PER_S = 1.5e12
"""Of the device whose update is not measured: A100 at its data sheet's 1555 GB/s; only updates depend on it."""


# -- the step ----------------------------------------------------------------------------------------------------------


def _step_s(published: Tables, row: TableRow, coefficients: Coefficients, constants: Constants) -> float:
    degrees, block = _degrees(row), block_of(published, row)
    again: Recompute = block.get("recompute", "none")
    profile = _profile(degrees, coefficients, again)
    layout = Layout(
        data=degrees.data,
        tensor=degrees.tensor,
        pipeline=degrees.pipeline,
        accumulate=row.microbatches or 1,
        bucket_bytes=int(block.get("bucket_bytes", Layout.bucket_bytes)),
        overlap=bool(block.get("overlap", True)) and degrees.pipeline == 1,
        schedule=schedule_of(str(block.get("schedule", "1f1b")), block) if degrees.pipeline > 1 else None,
    )
    # Everything that a plain step adds is in the calibration rows, which ran with the wrapper.
    cluster = row_cluster(published, row, replace(constants, step_fraction=0.0))
    samples = degrees.micro_batch * (row.microbatches or 1) * degrees.data
    placement = _placement(degrees) if degrees.pipeline > 1 else None
    cost = step_cost(profile, cluster, layout, samples, degrees.micro_batch, placement, recompute=again)
    return cost.total_s + optimizer_s(profile, cluster, layout) + coefficients.fixed_s


def _profile(degrees: Degrees, coefficients: Coefficients, recompute: Recompute) -> Profile:
    share = _FORWARD_SHARES["none" if recompute == "none" else "all"]
    layer = LayerTime(coefficients.layer_s.scaled(share), coefficients.layer_s.scaled(2 * share))
    # The head's activations are not recomputed: it is no part of a checkpointed layer.
    head = LayerTime(coefficients.head_s.scaled(share), coefficients.head_s.scaled(2 * share))
    least = min(seconds for _, seconds in coefficients.layer_s.points) * share
    return Profile(
        _shape(degrees),
        (LayerTime(), *[layer] * degrees.layers, head),
        optimizer_s=coefficients.update_s * degrees.layers,
        launch_s=0.0 if degrees.tensor == 1 else least,
    )


@lru_cache(maxsize=64)
def _shape(degrees: Degrees) -> ModelShape:
    hidden = degrees.hidden
    table = VOCABULARY * hidden
    output = Linear(0.0, degrees.sequence * hidden * HALF_BYTES)
    block = LayerShape("", (12 * hidden * hidden + 13 * hidden,), output_bytes=output, split=1.0, width=hidden)
    blocks = (replace(block, name=f"layer {k}") for k in range(degrees.layers))
    first = LayerShape("embedding", (table + degrees.sequence * hidden,), output_bytes=output)
    # Logits stay where they are computed; their loss is a scalar.
    last = LayerShape("head", (), output_bytes=Linear(0.0, 4.0), split=1.0)
    return ModelShape((first, *blocks, last), element_bytes=HALF_BYTES)


def _placement(degrees: Degrees) -> Placement:
    names = [f"layer {k}" for k in range(degrees.layers)]
    sizes = even_sizes(degrees.layers, degrees.pipeline)
    return names_by_stage(["embedding", *names, "head"], [1 + sizes[0], *sizes[1:-1], sizes[-1] + 1])
