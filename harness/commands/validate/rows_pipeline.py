"""Rows of models that are cut into stages."""

from __future__ import annotations

from harness.commands.validate.as_pipeline import pipeline_scenario
from harness.commands.validate.case_scenario import CaseScenario, foretold_step, predicted_bubble, predicted_s
from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.linear import reference_of
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import seconds_of, value_of
from harness.costs.profiles import Constants

RATES = ("throughput", "throughput_per_gpu", "step_time")


def predict_pipeline(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of a pipeline: a rate, a time or a bubble.

    Raises:
        Unpredictable: no calibration row, or the scenario is refused.
    """
    scenario = _scenario(published, row)
    if row.metric == "bubble":
        return predicted_bubble(scenario, published.scenarios, constants)
    step_s = predicted_s(scenario, published.scenarios, constants)
    return value_of(published, row, step_s * (row.batch_per_gpu or 1.0) / scenario.wanted.batch_size)


def pipeline_uncertainty(published: Tables, row: TableRow, constants: Constants) -> float | None:
    """Return the uncertainty that `plan` states of a row's scenario; None of a bubble, which is no time.

    Raises:
        Unpredictable: no calibration row, or the scenario is refused.
    """
    if row.metric == "bubble":
        return None
    return foretold_step(_scenario(published, row), published.scenarios, constants).error


def _scenario(published: Tables, row: TableRow) -> CaseScenario:
    known = _reference(published, row)
    wanted_s = None if row.metric == "bubble" else seconds_of(published, row)
    return pipeline_scenario(published, row, known, seconds_of(published, known), wanted_s)


def _reference(published: Tables, row: TableRow) -> TableRow:
    found = reference_of(row, published.inputs)
    if found is None:
        same = [r for r in published.inputs if (r.table, r.case, r.model) == (row.table, row.case, row.model)]
        found = next((r for r in same if r.metric in RATES), None)
    if found is None:
        raise Unpredictable("no calibration row: a rate of the same model")
    return found
