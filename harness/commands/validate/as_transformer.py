"""Published steps of transformers as scenarios: sizes of the model, or times of its layers, and degrees as options."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from harness.commands.validate.as_pipeline import SCHEDULES, file_name
from harness.commands.validate.case_cluster import cluster_keys, table_lines
from harness.commands.validate.case_cuts import VOCABULARY, even_sizes
from harness.commands.validate.case_models import HALF_BYTES
from harness.commands.validate.case_scenario import CasePoint, CaseScenario, Keys, csv_lines, plain_name, toml_lines
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.published import Degrees, TableRow, Tables, TomlTable
from harness.core.units import MIB


class MicroBatchSeconds(NamedTuple):
    """What the layers of a transformer take on one device for one micro-batch, in seconds.

    Attributes:
        layer_s: a block's pass forward and back, recomputation included.
        head_s: embedding, head and loss, likewise.
        update_s: of a block's weights, once a step.
        step_s: of everything else that a step does once.
    """

    layer_s: float
    head_s: float
    update_s: float
    step_s: float


def degrees_of(row: TableRow) -> Degrees:
    """Return the row's degrees of parallelism.

    Raises:
        Unpredictable: they are not stated.
    """
    if row.degrees is None:
        raise Unpredictable("degrees of parallelism are not stated")
    return row.degrees


def timed_scenario(published: Tables, row: TableRow, seconds: MicroBatchSeconds) -> CaseScenario:
    """Return the scenario of a row of which the layers' times are known."""
    degrees, block = degrees_of(row), block_of(published, row)
    forward_share = 1 / (3 if block.get("recompute", "none") == "none" else 4)
    text = _lines(degrees, seconds, forward_share)
    layers = file_name(row.model, text)
    step_s = 3 * forward_share * (degrees.layers * seconds.layer_s + seconds.head_s)
    return _scenario(
        published,
        [row],
        {"profile": layers, "batch_size": degrees.micro_batch},
        cluster_keys(published, row, step_s, degrees.micro_batch),
        [(layers, text)],
    )


def model_of(row: TableRow) -> Keys:
    """Return the model of a row by its sizes."""
    degrees = degrees_of(row)
    return {
        "parameters": float(_table(degrees) + degrees.layers * _block(degrees)),
        **{name: getattr(degrees, name) for name in ("layers", "hidden", "heads", "sequence")},
    }


def sized_scenario(published: Tables, row: TableRow, sample_s: float, known: TableRow, known_s: float) -> CaseScenario:
    """Return the scenario of a row whose model is known by its sizes.

    Args:
        sample_s: of one sample on one device, before anything is calibrated.
        known, known_s: the calibration row and the seconds of its step.
    """
    rows = [row] if known is row else [known, row]
    return _scenario(published, rows, model_of(row), cluster_keys(published, row, sample_s, 1), [], known_s)


def _scenario(
    published: Tables,
    rows: list[TableRow],
    model: Keys,
    cluster: Keys,
    files: list[tuple[str, str]],
    known_s: float | None = None,
) -> CaseScenario:
    """Return the scenario of rows of one model; the last one is to be predicted.

    Args:
        known_s: what the first one was measured to take.
    """
    row, points = rows[-1], [_point(one) for one in rows]
    block = block_of(published, row)
    table = str(block["link"].get("collectives", "")).partition(":")[0]
    options = [_options(published, one, "profile" in model) for one in rows]
    sections: dict[str, Keys] = {
        # Equal slices of tokens lie in memory: rows that only differ in devices differ by 0.2 %.
        "workload": {"model": model, "precision": "bf16", "gradients": "fp16", "input": "ready"},
        "sweep": {
            "strategy": [{"name": "hybrid", **one} for k, one in enumerate(options) if one not in options[:k]],
            "gpus": sorted({point.gpus for point in points}),
            "batch_size": sorted({point.batch_size for point in points}),
            "micro_batch_size": sorted({point.micro_batch_size for point in points}),
        },
        "goal": {"max_steps": 3},
        "cluster": cluster,
    }
    name = plain_name(f"{row.table}-{row.case}-{row.line}")
    text = f'engine = "virtual"\nname = "{name}"\n{toml_lines(sections)}\n'
    text += "" if known_s is None else points[0].observed(known_s, "calibrate", row.case)
    files = [*files, *([(f"{table}.csv", table_lines(published, table))] if table else [])]
    return CaseScenario(name, text, points[-1], tuple(files))


def _point(row: TableRow) -> CasePoint:
    degrees = degrees_of(row)
    told = tuple((name, getattr(degrees, name)) for name in ("data", "tensor", "pipeline"))
    gpus = degrees.data * degrees.tensor * degrees.pipeline
    return CasePoint("hybrid", gpus, degrees.micro_batch * (row.microbatches or 1), degrees.micro_batch, told)


def _options(published: Tables, row: TableRow, from_file: bool) -> dict[str, object]:
    degrees, block = degrees_of(row), block_of(published, row)
    options: dict[str, object] = {name: getattr(degrees, name) for name in ("data", "tensor", "pipeline")}
    if degrees.pipeline > 1:
        options["schedule"] = SCHEDULES[str(block.get("schedule", "1f1b"))]
        options["placement"] = _placement(degrees, from_file)
    if block.get("recompute", "none") != "none":
        options["recompute"] = True
    return options | _exchange(block)


def _exchange(block: TomlTable) -> dict[str, object]:
    if not block.get("overlap", True) or block.get("bucket_bytes") == 0:
        return {"overlap": False}
    return {"bucket_mib": block["bucket_bytes"] / MIB} if "bucket_bytes" in block else {}


def _names(degrees: Degrees) -> list[str]:
    return ["embedding", *(f"block {k}" for k in range(degrees.layers)), "head"]


def _placement(degrees: Degrees, from_file: bool) -> list[list[str]]:
    """Return equally many blocks for each stage, the embedding with the first one and the head with the last one."""
    names = [f"{number} {name}" if from_file else name for number, name in enumerate(_names(degrees), start=1)]
    sizes = even_sizes(degrees.layers, degrees.pipeline)
    sizes[0] += 1
    sizes[-1] += 1
    ends = accumulate(sizes)
    return [names[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _block(degrees: Degrees) -> int:
    return 12 * degrees.hidden**2 + 13 * degrees.hidden


def _table(degrees: Degrees) -> int:
    return (VOCABULARY + degrees.sequence) * degrees.hidden


def _lines(degrees: Degrees, seconds: MicroBatchSeconds, share: float) -> str:
    """Return the layers as a file of times of one micro-batch.

    Of a block's time the backward pass is twice the forward pass, which recomputation repeats. The embedding's time is
    in the head's, whose logits stay where they are.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", appendix.

    Args:
        share: of the forward pass in a block's time.
    """
    head = (
        *("name", "forward_ms", "backward_ms", "activation_bytes", "parameter_bytes"),
        *("update_ms", "step_ms", "split", "hidden"),
    )
    hidden = degrees.hidden
    output = degrees.micro_batch * degrees.sequence * hidden * HALF_BYTES
    rows: list[tuple[object, ...]] = []
    for name in _names(degrees):
        held, time = 4 * _block(degrees), seconds.layer_s
        more: tuple[object, ...] = (1e3 * seconds.update_s, 0.0, 1.0, hidden)
        if name == "embedding":
            held, time, more = 4 * _table(degrees), 0.0, (0.0, 1e3 * seconds.step_s, 0.0, 0)
        if name == "head":
            held, time, more = 0, seconds.head_s, (0.0, 0.0, 1.0, 0)
        given_on = 4 if name == "head" else output
        rows.append((name, 1e3 * share * time, 2e3 * share * time, given_on, held, *more))
    return csv_lines(head, rows)
