"""A published pipeline as a scenario: stages, schedule and micro-batches are options that any user has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from harness.api.schedules import ScheduleName
from harness.commands.validate.case_cluster import cluster_keys, table_lines
from harness.commands.validate.case_cuts import StageCut, cut_of
from harness.commands.validate.case_layers import FULL_BYTES, GENERIC_LAYERS, GENERIC_OUTPUT_BYTES
from harness.commands.validate.case_models import HALF_BYTES, element_bytes, parameter_bytes
from harness.commands.validate.case_scenario import CasePoint, CaseScenario, Keys, csv_lines, plain_name, toml_lines
from harness.commands.validate.case_systems import Unpredictable, block_of, first_match
from harness.commands.validate.published import TableRow, Tables, TomlTable
from harness.core.cell import Named

SCHEDULES: Mapping[str, ScheduleName] = {
    "model-split": "naive",
    "gpipe": "gpipe",
    "1f1b": "1f1b",
    "1f1b-interleaved": "interleaved-1f1b",
    "zb-1p": "zb-1p",
    "zb-2p": "zb-2p",
}
"""What scenarios call the schedules of the tables."""

WEIGHTLESS_HIDDEN = 1850
"""Hidden size at which passes for weights take half of a forward pass: what docs/strategies.md tells users to plan
zero-bubble schedules with."""


def pipeline_scenario(
    published: Tables, row: TableRow, known: TableRow, known_s: float, wanted_s: float | None = None
) -> CaseScenario:
    """Return the scenario of a row of a pipeline.

    Args:
        known, known_s: the calibration row and the seconds of its step.
        wanted_s: what was measured of the row, where that is a time of steps.

    Raises:
        Unpredictable: a key that is needed has no value.
    """
    name, block = plain_name(f"{row.case}-{row.line}"), block_of(published, row)
    mine, base = strategy_of(published, row), strategy_of(published, known)
    wanted, before = _point(row, mine), _point(known, base)
    known_s, wanted_s = known_s * _whole(known), wanted_s and wanted_s * _whole(row)
    model, files = _model(published, row, block)
    workload: dict[str, object] = {"model": model}
    if element_bytes(row.precision) == HALF_BYTES:
        workload["gradients"] = "fp16"
    table = str(block["link"].get("collectives", "")).partition(":")[0]
    sections: dict[str, Keys] = {
        "workload": workload,
        "sweep": {
            "strategy": [{"name": one.name, **one.options} for one in ([mine] if mine == base else [base, mine])],
            "gpus": sorted({before.gpus, wanted.gpus}),
            "batch_size": sorted({before.batch_size, wanted.batch_size}),
            "micro_batch_size": sorted({before.micro_batch_size, wanted.micro_batch_size}),
        },
        "goal": {"max_steps": 3},
        "cluster": cluster_keys(published, row, known_s, before.batch_size),
    }
    text = f'engine = "virtual"\nname = "{name}"\n{toml_lines(sections)}\n'
    text += before.observed(known_s, "calibrate", row.case)
    text += "" if wanted_s is None else wanted.observed(wanted_s, "compare", row.case)
    files += [(f"{table}.csv", table_lines(published, table))] if table else []
    return CaseScenario(name, text, wanted, tuple(files))


def _whole(row: TableRow) -> float:
    """Return the batch of equal micro-batches over the batch as the table has it."""
    return _batch(row) / (row.batch_per_gpu or 1)


def _batch(row: TableRow) -> int:
    if row.batch_per_gpu is None:
        raise Unpredictable("the mini-batch is not stated")
    pieces = row.microbatches or 1
    return -(-round(row.batch_per_gpu) // pieces) * pieces


def _point(row: TableRow, strategy: Named) -> CasePoint:
    told = tuple((key, value) for key, value in strategy.options.items() if isinstance(value, (str, bool, int)))
    batch = _batch(row)
    return CasePoint(strategy.name, row.gpus or 1, batch, batch // (row.microbatches or 1), told)


def strategy_of(published: Tables, row: TableRow) -> Named:
    """Return the strategy of a row with its options.

    Raises:
        Unpredictable: there is no schedule of that name.
    """
    block = block_of(published, row)
    recompute = {"none": False, "all": True}.get(block.get("recompute", "none"), "all-but-last")
    if row.strategy == "single":
        return Named("single")
    if row.gpus == 1:
        # Stages of one device follow each other without a message: only what is computed again is left of them.
        return Named("hybrid", {"pipeline": 1, "recompute": recompute})
    if row.strategy not in SCHEDULES:
        raise Unpredictable(f"schedule {row.strategy!r} is not known; known are {', '.join(SCHEDULES)}")
    entry = first_match(block.get("stages", ()), row) or {}
    steady = bool(block.get("asynchronous") or "replicas" in entry)
    options: dict[str, object] = {"schedule": "pipedream" if steady else SCHEDULES[row.strategy]}
    if steady and "replicas" in entry:
        options["replicas"] = entry["replicas"]
    cut = cut_of(published, row, block)
    if row.strategy == "1f1b-interleaved":
        options["chunks"] = int(block.get("chunks_per_stage", 2))
    elif cut is not None and cut.sizes:
        options["placement"] = cut.placement
    if row.strategy.startswith("zb") and cut is not None and cut.width:
        options["weight_time"] = round(cut.width / (cut.width + WEIGHTLESS_HIDDEN), 3)
    return Named("model-split", options | ({"recompute": recompute} if recompute else {}))


def _model(published: Tables, row: TableRow, block: TomlTable) -> tuple[Keys, list[tuple[str, str]]]:
    """Return the model: a file of its layers, or its size where nobody knows them."""
    num_bytes, cut = parameter_bytes(published, row, block), cut_of(published, row, block)
    if cut is None:
        kept = GENERIC_LAYERS * GENERIC_OUTPUT_BYTES
        return {"parameters": num_bytes / FULL_BYTES, "layers": GENERIC_LAYERS, "activations": f"{kept} B"}, []
    text = _lines(cut, num_bytes, element_bytes(row.precision))
    name = file_name(row.model, text)
    return {"profile": name, "batch_size": 1}, [(name, text)]


def file_name(model: str, text: str) -> str:
    """Return a name of a file of layers: one for each content, because files are read whenever a step is priced."""
    return f"{plain_name(model)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.csv"


def _lines(cut: StageCut, num_bytes: float, width: int) -> str:
    """Return the layers as a file: a pass forward and back takes a second for one sample."""
    head = ("name", "forward_ms", "backward_ms", "activation_bytes", "parameter_bytes", "hidden")

    def lines() -> Iterable[tuple[object, ...]]:
        for layer in cut.layers:
            output, held = layer.output_bytes * width / FULL_BYTES, 4 * round(layer.parameters * num_bytes / 4)
            yield layer.name, 1e3 * layer.forward, 1e3 * layer.backward, output, held, cut.width

    return csv_lines(head, list(lines()))
