"""Rows of data parallelism, with all-reduces or with servers."""

from __future__ import annotations

from dataclasses import replace

from harness.commands.validate.as_scenario import STRATEGIES, case_point, scenario_of
from harness.commands.validate.case_models import BACKWARD_SHARE
from harness.commands.validate.case_scenario import CaseScenario, foretold_step, predicted_s
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.linear import calibration_row
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import seconds_of, value_of
from harness.costs.profiles import Constants

REDUCED = ("sync-ddp", "replicated-nccl")
SERVED = ("sync-ps-cpu", "sync-ps-gpu", "sync-ps-distributed")

RATED = ("throughput", "throughput_per_gpu", "step_time")


def predict_replicas(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of data parallelism, in its unit.

    Raises:
        Unpredictable: no speed of one device, or the strategy is none of these.
    """
    if row.metric == "scaling_efficiency":
        return _efficiency(published, row, constants)
    scenario = _calibrating(published, row, calibration_row(published, row))
    return value_of(published, row, predicted_s(scenario, published.scenarios, constants))


def replicas_uncertainty(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the uncertainty that `plan` states of a row's scenario.

    Raises:
        Unpredictable: no speed of one device.
    """
    if row.metric == "scaling_efficiency":
        scenario = _efficient(published, row)[1]
    else:
        scenario = _calibrating(published, row, calibration_row(published, row))
    return foretold_step(scenario, published.scenarios, constants).error


def _calibrating(published: Tables, row: TableRow, reference: TableRow) -> CaseScenario:
    """Return the scenario of a row that is calibrated on another."""
    # A server of one worker leaves what one device computes.
    served_alone = reference.gpus == 1 and reference.strategy in (*SERVED, "async-ps")
    known = case_point(replace(reference, strategy="single") if served_alone else reference)
    measured_s = seconds_of(published, row) if row.metric in RATED else None
    return scenario_of(published, row, known, seconds_of(published, reference), measured_s)


def _efficiency(published: Tables, row: TableRow, constants: Constants) -> float:
    few_s, many_s = (predicted_s(each, published.scenarios, constants) for each in _efficient(published, row))
    return few_s / many_s


def _efficient(published: Tables, row: TableRow) -> tuple[CaseScenario, CaseScenario]:
    """Return the scenarios whose times an efficiency is the ratio of: of the fewest devices, and of the row."""
    block = block_of(published, row)
    if "backward_ms" in block:
        known, known_s = replace(row, strategy="single", gpus=1), block["backward_ms"] / 1e3 / BACKWARD_SHARE
    else:
        known = _known_speed(published, row, block.get("speed_from", ()))
        known_s = seconds_of(published, known)
    few = int(block.get("reference_gpus", 1))
    base = replace(row, gpus=few, nodes=None, strategy="single" if few == 1 else row.strategy)
    return (
        scenario_of(published, base, case_point(known), known_s),
        scenario_of(published, row, case_point(known), known_s),
    )


def _known_speed(published: Tables, row: TableRow, cases: tuple[str, ...]) -> TableRow:
    known = [r for r in published.inputs if r.model == row.model and r.metric in RATED and r.strategy in STRATEGIES]
    for found in (r for case in (row.case, *cases) for r in known if r.case == case):
        return found
    raise Unpredictable("no rate of one device: neither a calibration row, nor one in the cases of speed_from")
