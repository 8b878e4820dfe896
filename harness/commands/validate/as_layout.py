"""Published layouts of LLM training as scenarios: what anybody could write who trains such a model, and its memory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import median

from harness.commands.validate.case_scenario import (
    CasePoint,
    CaseScenario,
    Keys,
    fullest_device,
    plain_name,
    toml_lines,
)
from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.layout_rows import LayoutRow
from harness.commands.validate.published import TableRow, Tables
from harness.core.units import GIGA
from harness.costs.profiles import Constants

FORMATS_OF = {
    "bloom-176b-prequel": {"framework": "deepspeed"},
    "hf-ultrascale": {"framework": "megatron"},
    "simumax-b200": {"framework": "megatron"},
    "megatron-moe-zoo": {"framework": "megatron"},
}
"""By source; others train with FSDP. nanotron keeps what Megatron-LM keeps: half weights, fp32 gradients and copies."""

ALONG_SEQUENCES = ("yes", "unknown")
"""Only nanotron's rows do not say: its memory falls with tensor parallelism as it does where sequences are cut too."""

MULTIPLES = tuple(k / 50 for k in range(151))
"""Of what an allocator is said to keep, that a refit tries: from none to three times as much; chosen."""

_MARKS = ("cp", "ep", "vpp")
"""Degrees that no strategy here has: only 1 can be said."""


def layout_scenario(row: LayoutRow, context_bytes: int = 0) -> CaseScenario:
    """Return the scenario of a layout.

    Args:
        context_bytes: of a device's memory, what no tensor takes.

    Raises:
        Unpredictable: scenarios cannot say it.
    """
    others = [f"{mark} = {row[mark]}" for mark in _MARKS if row[mark] not in ("", "1")]
    if others:
        raise Unpredictable(f"no strategy here has {', '.join(others)}")
    if row["recompute"] not in ("none", "full"):
        raise Unpredictable(f'recompute = "{row["recompute"]}": layers are computed again whole, or not at all')
    if not row["micro_batch"] or not row["grad_accum"]:
        raise Unpredictable("the micro-batch is not stated")
    gpus, micro = int(row["gpus"]), round(float(row["micro_batch"]))
    batch = micro * round(float(row["grad_accum"]))
    strategy, options = _strategy(row)
    sections: dict[str, Keys] = {
        "workload": _workload(row),
        "sweep": {"strategy": strategy, "gpus": [gpus], "batch_size": [batch], "micro_batch_size": [micro]},
        f"strategy.{strategy}": options,
        "goal": {"max_steps": 3},
        # Memory asks for no speed; links and the device's are those of the plan that such a scenario would have.
        "cluster": {
            "device": {"step_time": "1 s", "batch_size": 1},
            "gpus_per_node": int(row["gpus_per_node"]),
            "intra_node": "100 GB/s",
            "inter_node": "10 GB/s",
        },
    }
    if context_bytes:
        sections |= {"limits": {"context": f"{context_bytes} B"}}
    text = f'engine = "virtual"\ndevice = "cuda"\n{toml_lines(sections)}\n'
    return CaseScenario(plain_name(row["id"]), text, CasePoint(strategy, gpus, batch, micro))


def _strategy(row: LayoutRow) -> tuple[str, dict[str, object]]:
    again = {"recompute": row["recompute"] == "full"}
    tensor, pipeline = int(row["tp"]), int(row["pp"])
    if row["zero"].startswith("fsdp"):
        if tensor * pipeline > 1 or row["zero_group"]:
            raise Unpredictable("fsdp here shares out over all devices, and stands alone")
        return "fsdp", again | {"shard": "parameters" if row["zero"] == "fsdp" else "optimizer"}
    options: dict[str, object] = {"data": int(row["dp"]), "pipeline": pipeline, "tensor": tensor}
    options |= {"placement": _stages(int(str(row.architecture["layers"])), pipeline)} if pipeline > 1 else {}
    options |= {"shard": "states"} if row["zero"] == "1" else {}
    options |= {"sequence_parallel": True} if row["sequence_parallel"] in ALONG_SEQUENCES else {}
    return "hybrid", options | again


def _stages(layers: int, pipeline: int) -> list[list[str]]:
    """Return equal stages, the last ones of fewer layers where they do not divide; a head goes with the last."""
    each = -(-layers // pipeline)
    first = [min(k * each, layers - (pipeline - k)) for k in range(pipeline)]
    return [[f"block {k}"] for k in first]


def _workload(row: LayoutRow) -> dict[str, object]:
    said = row.architecture
    model: dict[str, object] = {
        "parameters": float(str(said["parameters"])),
        "layers": said["layers"],
        "hidden": said["hidden"],
        "heads": said["heads"],
        "sequence": int(row["seq"]),
        "vocabulary": said["vocab"],
        "attention": "eager" if row["attention_kernel"] in ("torch", "fused") else "fused",
    }
    if said.get("gated"):
        model |= {"gated": True, "ffn": said["ffn_hidden"], "kv_heads": said["kv_heads"]}
    half = "fp16" if row["precision"] == "fp16" else "bf16"
    keys: dict[str, object] = {"model": model, "optimizer": "adam", "precision": half}
    return keys | ({"formats": FORMATS_OF[row["source"]]} if row["source"] in FORMATS_OF else {})


def looked_at_tensors(row: LayoutRow) -> bool:
    """Say whether the source looked at what tensors take, not at what the device has in use."""
    return "max_memory_allocated" in row["memory_kind"]


def looked_at_device(row: LayoutRow) -> bool:
    """Say whether the source looked at all that the device has in use."""
    return "nvidia-smi" in row["memory_kind"]


@lru_cache(maxsize=64)
def unused_of(published: Tables, source: str, width: int, refit: bool) -> tuple[int, float]:
    """Return what no tensor takes, as other rows of a source imply it: their median, of other widths only.

    Nobody says it of a machine but its measurements; all runs of a width are left out together.

    Args:
        refit: also fit how much an allocator keeps, by least absolute differences.

    Returns:
        bytes of the context, and what is kept as a multiple of what the laws say is.
    """
    rows = [row.layout for row in published.rows if row.layout is not None and row.layout["source"] == source]
    rows = [row for row in rows if row.architecture["hidden"] != width]
    implied = [found for row in rows if (found := _implied(row, published.scenarios)) is not None]

    def fitted(multiple: float) -> tuple[float, int, float]:
        rest = [left - (multiple - 1) * kept for left, kept in implied]
        context = median(rest)
        return sum(abs(one - context) for one in rest), max(1, round(context)), multiple

    _, context_bytes, multiple = min(map(fitted, MULTIPLES if refit else (1.0,))) if implied else (0.0, 0, 1.0)
    return context_bytes, multiple


def _implied(row: LayoutRow, folder: Path) -> tuple[float, int] | None:
    try:
        fullest = fullest_device(layout_scenario(row, 1), folder)
    except Unpredictable:
        return None
    return measured_bytes(row) - fullest.total_bytes, fullest.kept_bytes


def measured_bytes(row: LayoutRow) -> float:
    """Return what was measured."""
    return float(row["peak_memory_gb"]) * GIGA


def predict_layout(published: Tables, row: TableRow, _: Constants, refit: bool = False) -> float:
    """Return the predicted memory of a layout, in GB.

    Args:
        refit: with what an allocator keeps fitted to rows of other widths.

    Raises:
        Unpredictable: scenarios cannot say it, or refuse it.
    """
    layout = row.layout
    assert layout is not None
    context_bytes, multiple = 0, 1.0
    if looked_at_device(layout):
        width = int(str(layout.architecture["hidden"]))
        context_bytes, multiple = unused_of(published, layout["source"], width, refit)
    fullest = fullest_device(layout_scenario(layout, context_bytes), published.scenarios)
    in_use = fullest.total_bytes + (multiple - 1) * fullest.kept_bytes
    return (fullest.allocated_bytes if looked_at_tensors(layout) else in_use) / GIGA
