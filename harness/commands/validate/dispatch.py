"""Every row to its law; what no law covers is a missing prediction with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.commands.validate.as_layout import predict_layout
from harness.commands.validate.case_systems import Unpredictable, apart_of, block_of
from harness.commands.validate.linear import linear
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables
from harness.commands.validate.rows_exchange import predict_all_reduce, predict_exchange
from harness.commands.validate.rows_hybrid import hybrid_uncertainty, predict_hybrid
from harness.commands.validate.rows_memory import predict_arithmetic, predict_memory
from harness.commands.validate.rows_pipeline import RATES, pipeline_uncertainty, predict_pipeline
from harness.commands.validate.rows_replicas import (
    REDUCED,
    SERVED,
    predict_replicas,
    predict_utilisation,
    replicas_uncertainty,
)
from harness.commands.validate.rows_single import predict_single
from harness.commands.validate.rows_transformer import predict_steps, steps_uncertainty
from harness.commands.validate.score import PredictedRow
from harness.costs.profiles import Constants

Predictor = Callable[[Tables, TableRow, Constants], float]

_STATING: Mapping[Predictor, Callable[[Tables, TableRow, Constants], float | None]] = {
    predict_replicas: replicas_uncertainty,
    predict_pipeline: pipeline_uncertainty,
    predict_steps: steps_uncertainty,
    predict_hybrid: hybrid_uncertainty,
}
"""What `plan` states of the scenarios of rows: how far they may be off, one standard deviation."""


def predict_all(published: Tables, constants: Constants, rows: Sequence[TableRow] | None = None) -> list[PredictedRow]:
    """Return a prediction, or the reason why there is none, for every row that is not an input."""
    return [predict_row(published, row, constants) for row in (published.targets if rows is None else rows)]


def predict_row(published: Tables, row: TableRow, constants: Constants) -> PredictedRow:
    """Return the prediction for a row."""
    baseline = linear(row, published.inputs)
    try:
        apart = () if row.layout else apart_of(block_of(published, row), row.model)
        predictor = _predictor(row)
        value = predictor(published, row, constants)
        states = _STATING.get(predictor)
        stated = states(published, row, constants) if states else None
        return PredictedRow(row, value, baseline, apart=apart, stated=stated)
    except Unpredictable as missing:
        return PredictedRow(row, None, baseline, str(missing))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Figures of a stranger's block may contradict each other in ways that no check foresees; the row says so.
        return PredictedRow(row, None, baseline, f"its figures do not fit together ({type(error).__name__}: {error})")


def _predictor(row: TableRow) -> Predictor:
    if row.layout is not None:
        return predict_layout
    if row.num_bytes is not None:
        return predict_all_reduce
    if row.degrees is not None:
        return predict_steps
    if row.strategy == "3d" and row.metric in RATES:
        return predict_hybrid
    if row.strategy in REPLICATED and row.metric in TIMED and row.degrees is None:
        return predict_replicas
    if row.metric == "macs":
        return predict_arithmetic
    if row.metric.endswith("_memory"):
        return predict_memory
    if row.metric == "gpu_utilisation":
        return predict_utilisation
    if row.strategy in SPLIT_STRATEGIES and row.metric in (*RATES, "bubble"):
        return predict_pipeline
    if row.metric == "collective_time" and row.strategy in SERVED:
        return predict_exchange
    if row.strategy == "single" and row.metric in TIMED:
        return predict_single
    raise Unpredictable(f"no law for {row.metric} of strategy {row.strategy!r} (kind {row.kind!r})")


REPLICATED = (*REDUCED, *SERVED, "async-ps")
TIMED = ("throughput", "throughput_per_gpu", "step_time", "scaling_efficiency")
