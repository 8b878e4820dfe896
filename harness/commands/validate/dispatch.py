"""Every row to its law; what no law covers is a missing prediction with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.commands.validate.as_exchange import predict_exchange
from harness.commands.validate.as_layout import predict_layout
from harness.commands.validate.as_memory import predict_memory
from harness.commands.validate.case_systems import Unpredictable, apart_of, block_of
from harness.commands.validate.linear import linear
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables
from harness.commands.validate.rows_pipeline import RATES, pipeline_uncertainty, predict_pipeline
from harness.commands.validate.rows_replicas import (
    REDUCED,
    SERVED,
    predict_replicas,
    replicas_uncertainty,
)
from harness.commands.validate.rows_transformer import predict_steps, steps_uncertainty
from harness.commands.validate.score import PredictedRow
from harness.costs.profiles import Constants

Predictor = Callable[[Tables, TableRow, Constants], float]

_STATING: Mapping[Predictor, Callable[[Tables, TableRow, Constants], float | None]] = {
    predict_replicas: replicas_uncertainty,
    predict_pipeline: pipeline_uncertainty,
    predict_steps: steps_uncertainty,
}
"""What `plan` states of the scenarios of rows: how far they may be off, one standard deviation."""


def predict_all(published: Tables, constants: Constants, rows: Sequence[TableRow] | None = None) -> list[PredictedRow]:
    """Return a prediction, or the reason why there is none, for every row that is not an input."""
    return [predict_row(published, row, constants) for row in (published.targets if rows is None else rows)]


def predict_row(
    published: Tables, row: TableRow, constants: Constants, predictor: Predictor | None = None
) -> PredictedRow:
    """Return the prediction for a row.

    Args:
        predictor: default: what predicts rows of its kind.
    """
    baseline, unsaid = linear(row, published.inputs), why_unsaid(row)
    if unsaid:
        return PredictedRow(row, None, baseline, unsaid, said=False)
    try:
        apart = () if row.layout else apart_of(block_of(published, row), row.model)
        predictor = predictor or _predictor(row)
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
    if row.num_bytes is not None or (row.metric == "collective_time" and row.strategy in SERVED):
        return predict_exchange
    if row.degrees is not None:
        return predict_steps
    if row.strategy in REPLICATED and row.metric in TIMED:
        return predict_replicas
    if row.strategy in SPLIT_STRATEGIES and row.metric == "peak_memory":
        return predict_memory
    if row.strategy in SPLIT_STRATEGIES and row.metric in (*RATES, "bubble"):
        return predict_pipeline
    raise Unpredictable(f"no law for {row.metric} of strategy {row.strategy!r} (kind {row.kind!r})")


_OF_LAYERS = "arithmetic on a model's layers, of nothing that ran"
_UNSAID: Mapping[str, str] = {
    **dict.fromkeys(("macs", "parameter_memory", "feature_memory", "static_memory"), _OF_LAYERS),
    "activation_memory": "nobody says what these models' layers keep",
    "gpu_utilisation": "a driver counts samples in which any kernel runs, which no scenario predicts",
}
"""By metric, why no scenario says rows of it."""


def why_unsaid(row: TableRow) -> str:
    """Return why no scenario says what a row is of; empty where one does, or would if more were known."""
    if row.metric == "peak_memory" and not row.layout and row.strategy not in SPLIT_STRATEGIES:
        return "it hangs on layers that nobody gives, or on a version of torch, which scenarios do not name"
    if row.metric in TIMED and row.strategy == "single":
        return "one device under other settings: a measurement calibrates cells of its own workload only"
    return _UNSAID.get(row.metric, "")


REPLICATED = (*REDUCED, *SERVED, "async-ps")
TIMED = ("throughput", "throughput_per_gpu", "step_time", "scaling_efficiency")
