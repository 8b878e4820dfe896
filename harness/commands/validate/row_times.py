"""Between what tables print and seconds per step."""

from __future__ import annotations

import re

from harness.commands.validate.case_models import items_per_sample
from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables
from harness.core.units import SECONDS


def samples_of(row: TableRow) -> float:
    """Return the samples of one step of the whole job.

    Raises:
        Unpredictable: the table does not say.
    """
    if row.degrees is not None:
        return row.degrees.global_batch
    if row.batch_per_gpu is None:
        raise Unpredictable("the batch is not stated")
    if row.strategy in SPLIT_STRATEGIES:
        return row.batch_per_gpu
    return row.batch_per_gpu * (row.microbatches or 1) * (row.gpus or 1)


def seconds_of(published: Tables, row: TableRow) -> float:
    """Return the seconds of one step that a row's value means.

    Raises:
        Unpredictable: the table does not say enough.
    """
    return row.value * _seconds_per_unit(row) if row.metric == "step_time" else _rate_work(published, row) / row.value


def value_of(published: Tables, row: TableRow, step_s: float) -> float:
    """Return what a table would print for a step of so many seconds.

    Raises:
        Unpredictable: the table does not say enough.
    """
    return step_s / _seconds_per_unit(row) if row.metric == "step_time" else _rate_work(published, row) / step_s


def _rate_work(published: Tables, row: TableRow) -> float:
    if row.metric not in ("throughput", "throughput_per_gpu"):
        raise Unpredictable(f"{row.metric} is not a rate or a time of steps")
    counted = row.unit.split("/")[0]
    each = row.degrees.sequence if row.degrees and counted == "tokens" else items_per_sample(published, row)
    if each is None:
        raise Unpredictable(f"how many {counted} a sample holds is not stated")
    return samples_of(row) * each / ((row.gpus or 1) if row.metric == "throughput_per_gpu" else 1)


def _seconds_per_unit(row: TableRow) -> float:
    found = re.fullmatch(r"(s|ms|us)(?: per (\d+) steps)?", row.unit)
    if not found:
        raise Unpredictable(f"unit {row.unit!r}: expected s, ms or us, or such as s per 3 steps")
    return SECONDS[found[1]] / int(found[2] or 1)
