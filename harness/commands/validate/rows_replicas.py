"""Rows of data parallelism, with all-reduces or with servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from harness.commands.validate.as_scenario import DEFAULT_BATCH, STRATEGIES, case_point, scenario_of
from harness.commands.validate.case_cluster import row_cluster
from harness.commands.validate.case_layers import published_parts
from harness.commands.validate.case_models import BACKWARD_SHARE, element_bytes, parameter_bytes, profile_of_parts
from harness.commands.validate.case_scenario import CaseScenario, foretold_step, predicted_s
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.linear import calibration_row, reference_of
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import computing_behind, seconds_of, value_of
from harness.costs.profiles import Constants
from harness.costs.steps import server_cost, server_times

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
    reference = calibration_row(published, row)
    return value_of(published, row, _calibrated(published, reference, constants)(row))


def _calibrated(published: Tables, reference: TableRow, constants: Constants) -> Callable[[TableRow], float]:
    """Return what predicts the seconds of a row's step from a row that is an input."""
    if reference.strategy in SERVED and (reference.gpus or 1) > 1:
        single_s = _single_s(published, reference, constants)
        return lambda row: served_step_s(published, row, single_s * _batch(row) / _batch(reference), constants)
    known_s = seconds_of(published, reference)

    def step_s(row: TableRow) -> float:
        if row.strategy not in STRATEGIES:
            return served_step_s(published, row, known_s * _batch(row) / _batch(reference), constants)
        return predicted_s(_calibrating(published, row, reference), published.scenarios, constants)

    return step_s


def uncertainty_of(published: Tables, row: TableRow, constants: Constants) -> float | None:
    """Return the uncertainty that `plan` states of a row's scenario; None where the row is none.

    Raises:
        Unpredictable: no speed of one device.
    """
    if row.strategy not in STRATEGIES:
        return None
    if row.metric == "scaling_efficiency":
        scenario = _efficient(published, row)[1]
    else:
        reference = calibration_row(published, row)
        if reference.strategy in SERVED and (reference.gpus or 1) > 1:
            return None
        scenario = _calibrating(published, row, reference)
    return foretold_step(scenario, published.scenarios, constants).error


def _calibrating(published: Tables, row: TableRow, reference: TableRow) -> CaseScenario:
    """Return the scenario of a row that is calibrated on another; a server of one worker leaves what it computes."""
    alone = reference if reference.strategy in STRATEGIES else replace(reference, strategy="single")
    measured_s = seconds_of(published, row) if row.metric in RATED else None
    return scenario_of(published, row, case_point(alone), seconds_of(published, reference), measured_s)


def _batch(row: TableRow) -> float:
    return (row.batch_per_gpu or DEFAULT_BATCH) * (row.microbatches or 1)


@lru_cache(maxsize=256)
def _single_s(published: Tables, reference: TableRow, constants: Constants) -> float:
    """Return the seconds of one device's computing behind a row of several devices and servers."""
    measured_s = seconds_of(published, reference)
    return computing_behind(measured_s, lambda single_s: served_step_s(published, reference, single_s, constants))


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


def predict_utilisation(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the percentage of samples in which any kernel runs, exchanges included.

    What runs no kernel in the calibration row's step (the host, the input) takes as long in every step of the same
    batch; a longer step is longer by kernels, of which those that exchange also run while they wait for others.

    Raises:
        Unpredictable: no calibration row, or no law for the strategy.
    """
    reference = calibration_row(published, row)
    rates = (reference_of(replace(reference, metric=metric), published.inputs) for metric in RATED)
    rate = next((found for found in rates if found is not None), None)
    if rate is None:
        raise Unpredictable("no calibration row says how long a step takes")
    step_s = _calibrated(published, rate, constants)
    return 100.0 - (100.0 - reference.value) * step_s(reference) / step_s(row)


def served_step_s(published: Tables, row: TableRow, single_s: float, constants: Constants) -> float:
    """Return the seconds of a step of a row with servers, on devices that compute `single_s`.

    Raises:
        Unpredictable: there is no law for the strategy.
    """
    block, cluster = block_of(published, row), row_cluster(published, row, constants)
    gpus, pieces, batch = row.gpus or 1, row.microbatches or 1, round(row.batch_per_gpu or DEFAULT_BATCH)
    num_bytes, width = parameter_bytes(published, row, block), element_bytes(row.precision)
    profile = profile_of_parts(published_parts(published, row.model).parts, num_bytes, width, single_s / pieces, batch)
    if row.strategy in SERVED:
        return server_cost(profile, cluster, gpus, batch, pieces).total_s
    if row.strategy == "async-ps":
        times = server_times(cluster, 1, profile.shape.parameter_bytes)
        # Bounds of a closed queue with constant times, which are exact: oracles of the published tables, section 5.
        return max(single_s + times.total_s, gpus * max(times.push_s, times.pull_s))
    raise Unpredictable(f"strategy {row.strategy!r} has no cost law")
