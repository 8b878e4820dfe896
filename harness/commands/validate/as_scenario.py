"""A published row as a scenario: what anybody could write who has the machine's figures and one measurement.

The scenario names a cluster by its parts, a model layer by layer, one `[[observed]]` row to calibrate on, and the row
to be predicted.
"""

from __future__ import annotations

from harness.commands.validate.case_cluster import cluster_keys, table_lines
from harness.commands.validate.case_layers import published_parts
from harness.commands.validate.case_models import BACKWARD_SHARE, SCENARIO_PRECISIONS, parameter_bytes
from harness.commands.validate.case_scenario import CasePoint, CaseScenario, Keys, csv_lines, plain_name, toml_lines
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.published import TableRow, Tables

STRATEGIES = {
    **{"single": "single", "sync-ddp": "sync-ddp", "replicated-nccl": "sync-ddp", "async-ps": "async-ps"},
    **dict.fromkeys(("sync-ps-cpu", "sync-ps-gpu", "sync-ps-distributed"), "sync-ps"),
}
"""What scenarios call the strategies of the tables."""

DEFAULT_BATCH = 64
"""Samples for each device where nobody states them; only their time matters, and that is given."""


def case_point(row: TableRow) -> CasePoint:
    """Return the point of a row of data parallelism.

    Raises:
        Unpredictable: scenarios have no such strategy.
    """
    if row.strategy not in STRATEGIES:
        raise Unpredictable(f"strategy {row.strategy!r} has no cost law")
    micro = round(row.batch_per_gpu or DEFAULT_BATCH)
    return CasePoint(STRATEGIES[row.strategy], row.gpus or 1, micro * (row.microbatches or 1), micro)


def scenario_of(
    published: Tables, row: TableRow, known: CasePoint, known_s: float, wanted_s: float | None = None
) -> CaseScenario:
    """Return the scenario of a row.

    Args:
        known, known_s: what is measured; of another batch, in proportion, where it is of one device.
        wanted_s: what was measured of the row, where that is a time of steps.

    Raises:
        Unpredictable: a key that is needed has no value, or the two differ in what a scenario cannot have both of.
    """
    block, name, wanted = block_of(published, row), plain_name(f"{row.case}-{row.line}"), case_point(row)
    if known[2:] != wanted[2:]:
        if known.gpus > 1:
            raise Unpredictable("the calibration row has another batch on several devices")
        known_s *= wanted.batch_size / known.batch_size
        known = wanted._replace(strategy=known.strategy, gpus=known.gpus)
    num_bytes = parameter_bytes(published, row, block)
    # One file for each size: blocks may say another one, and files are read whenever a step is priced.
    layers, table = (
        f"{plain_name(row.model)}-{num_bytes:.0f}.csv",
        str(block["link"].get("collectives", "")).partition(":")[0],
    )
    cluster = cluster_keys(published, row, known_s, known.batch_size)
    sweep = {
        "strategy": list(dict.fromkeys((known.strategy, wanted.strategy))),
        "gpus": sorted({known.gpus, wanted.gpus}),
        "batch_size": [wanted.batch_size],
        "micro_batch_size": [wanted.micro_batch_size],
    }
    workload: dict[str, object] = {"model": {"profile": layers, "batch_size": 1}}
    if row.precision in SCENARIO_PRECISIONS:
        workload["precision"] = SCENARIO_PRECISIONS[row.precision]
    sections: dict[str, Keys] = {"workload": workload, "sweep": sweep, "goal": {"max_steps": 3}, "cluster": cluster}
    if not block.get("overlap", True) or block.get("bucket_bytes") == 0:
        sections["strategy.sync-ddp"] = {"overlap": False}
    elif "bucket_bytes" in block:
        sections["strategy.sync-ddp"] = {"bucket_mib": block["bucket_bytes"] / 2**20}
    text = (
        f'engine = "virtual"\nname = "{name}"\n{toml_lines(sections)}\n{known.observed(known_s, "calibrate", row.case)}'
    )
    text += "" if wanted_s is None else wanted.observed(wanted_s, "compare", row.case)
    files = [(layers, layer_lines(published, row, num_bytes))]
    files += [(f"{table}.csv", table_lines(published, table))] if table else []
    return CaseScenario(name, text, wanted, tuple(files))


# -- the model ---------------------------------------------------------------------------------------------------------


def layer_lines(published: Tables, row: TableRow, num_bytes: float) -> str:
    """Return a model's layers as a file of times and sizes: forward and backward take a second for one sample."""
    head = ("name", "forward_ms", "backward_ms", "activation_bytes", "parameter_bytes")
    rows = [
        (
            f"layer {number}",
            1e3 * (1 - BACKWARD_SHARE) * part.forward,
            1e3 * BACKWARD_SHARE * part.backward,
            part.output_bytes,
            4 * round(part.parameters * num_bytes / 4),
        )
        for number, part in enumerate(published_parts(published, row.model).parts)
    ]
    return csv_lines(head, rows)
