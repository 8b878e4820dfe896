"""Rows of data parallelism, with all-reduces or with servers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from harness.api.strategy import Layout
from harness.commands.validate.case_layers import published_parts
from harness.commands.validate.case_models import BACKWARD_SHARE, element_bytes, parameter_bytes, profile_of_parts
from harness.commands.validate.case_systems import Unpredictable, block_of, row_cluster
from harness.commands.validate.linear import calibration_row, reference_of
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import computing_behind, seconds_of, value_of
from harness.costs.profiles import Constants
from harness.costs.steps import server_cost, server_times, step_cost

REDUCED = ("sync-ddp", "replicated-nccl")
SERVED = ("sync-ps-cpu", "sync-ps-gpu", "sync-ps-distributed")

RATED = ("throughput", "throughput_per_gpu", "step_time")

DEFAULT_BATCH = 64
"""Samples for each device where nobody states them; only their time matters, and that is given."""


def predict_replicas(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of data parallelism, in its unit.

    Raises:
        Unpredictable: no speed of one device, or the strategy is none of these.
    """
    if row.metric == "scaling_efficiency":
        return _efficiency(published, row, constants)
    reference = calibration_row(published, row)
    single_s = _single_s(published, reference, constants)
    # Batches of another size than the calibration row's take time in proportion.
    single_s *= _batch(row) / _batch(reference)
    return value_of(published, row, replica_step_s(published, row, single_s, _wrapped(reference, constants)))


def _batch(row: TableRow) -> float:
    return (row.batch_per_gpu or DEFAULT_BATCH) * (row.microbatches or 1)


def _wrapped(reference: TableRow, constants: Constants) -> Constants:
    """Return the constants beside a reference: one that ran with the wrapper has paid for it."""
    paid = reference.strategy in REDUCED and reference.gpus == 1
    return replace(constants, step_fraction=0.0) if paid else constants


@lru_cache(maxsize=256)
def _single_s(published: Tables, reference: TableRow, constants: Constants) -> float:
    """Return the seconds of one device's computing behind a reference row, which may be of several devices."""
    measured_s = seconds_of(published, reference)
    if (reference.gpus or 1) == 1:
        return measured_s
    return computing_behind(measured_s, lambda single_s: replica_step_s(published, reference, single_s, constants))


def _efficiency(published: Tables, row: TableRow, constants: Constants) -> float:
    block = block_of(published, row)
    if "backward_ms" in block:
        single_s = block["backward_ms"] / 1e3 / BACKWARD_SHARE
    else:
        single_s = _found_speed(published, row, block.get("speed_from", ()), constants)
    few = int(block.get("reference_gpus", 1))
    base = replace(row, gpus=few, nodes=None)
    before = single_s if few == 1 else replica_step_s(published, base, single_s, constants)
    return before / replica_step_s(published, row, single_s, constants)


def _found_speed(published: Tables, row: TableRow, cases: tuple[str, ...], constants: Constants) -> float:
    known = [r for r in published.inputs if r.model == row.model and r.metric in RATED]
    for found in (r for case in (row.case, *cases) for r in known if r.case == case):
        return _single_s(published, found, constants)
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
    single_s = _single_s(published, rate, constants) * _batch(reference) / _batch(rate)
    before = replica_step_s(published, reference, single_s, constants)
    after = replica_step_s(published, row, single_s * _batch(row) / _batch(reference), constants)
    return 100.0 - (100.0 - reference.value) * before / after


def replica_step_s(published: Tables, row: TableRow, single_s: float, constants: Constants) -> float:
    """Return the seconds of a row's step on devices that compute `single_s`.

    Raises:
        Unpredictable: there is no law for the strategy.
    """
    block, cluster = block_of(published, row), row_cluster(published, row, constants)
    gpus, pieces, batch = row.gpus or 1, row.microbatches or 1, round(row.batch_per_gpu or DEFAULT_BATCH)
    num_bytes, width = parameter_bytes(published, row, block), element_bytes(row.precision)
    profile = profile_of_parts(published_parts(published, row.model).parts, num_bytes, width, single_s / pieces, batch)
    if row.strategy in REDUCED or row.strategy == "single":
        layout = Layout(
            data=gpus,
            accumulate=pieces,
            bucket_bytes=int(block.get("bucket_bytes", Layout.bucket_bytes)),
            overlap=bool(block.get("overlap", True)),
            shard=block.get("shard", "none"),
        )
        return step_cost(profile, cluster, layout, batch * pieces * gpus, batch).total_s
    if row.strategy in SERVED:
        return server_cost(profile, cluster, gpus, batch, pieces).total_s
    if row.strategy == "async-ps":
        times = server_times(cluster, 1, profile.shape.parameter_bytes)
        # Bounds of a closed queue with constant times, which are exact: oracles of the published tables, section 5.
        return max(single_s + times.total_s, gpus * max(times.push_s, times.pull_s))
    raise Unpredictable(f"strategy {row.strategy!r} has no cost law")
