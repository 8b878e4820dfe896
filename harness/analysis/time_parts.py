"""Where the time went: its parts, bubbles beside their theory, staleness as it spread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.points import number

TRAINING = {
    "compute_s": "computing",
    "communication_s": "exposed communication",
    "idle_s": "waiting for others",
    "input_s": "input",
    "other_s": "other",
}
"""Parts of the training time: means over devices, without overlap."""


# -- bubbles -----------------------------------------------------------------------------------------------------------


def ideal_bubble(schedule: str, stages: int, microbatches: int, chunks: int = 2) -> float | None:
    """Return the share of a step in which a stage idles, all stages alike and links free; None for another schedule.

    Passes are as in the sources: a backward pass takes twice a forward one, half of it for the weights.

    Args:
        chunks: stages on each device, of interleaved-1f1b.

    Source: Y. Huang et al. 2019, GPipe, section 2.3; D. Narayanan et al. 2021, Efficient large-scale language model
    training on GPU clusters, section 2.2; P. Qi et al. 2023, Zero bubble pipeline parallelism, table 2.
    """
    fill = stages - 1
    if schedule == "naive":
        return fill / stages
    if schedule in ("gpipe", "1f1b"):
        return fill / (microbatches + fill)
    if schedule == "interleaved-1f1b":
        return fill / (chunks * microbatches + fill)
    if schedule == "zb-1p":
        return fill / (3 * microbatches + fill)
    return 0.0 if schedule == "zb-2p" else None


def bubbles_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each pipeline cell: its bubble, and the one of equal stages and free links."""
    rows = []
    for cell in cells.to_dict("records"):
        measured, stages = number(cell, "bubble_fraction"), number(cell, "pipeline")
        if measured is None or not stages:
            continue
        options: Mapping[str, Any] = json.loads(cell["options"])
        microbatches = -(-int(cell["batch_size"]) // int(cell["micro_batch_size"]))
        schedule, chunks = str(options.get("schedule")), options.get("chunks") or 2
        ideal = ideal_bubble(schedule, int(stages), microbatches, chunks)
        row = {key: cell[key] for key in ("cell_id", "strategy", "engine", "gpus", "seed")}
        row |= {"schedule": schedule, "stages": int(stages), "microbatches": microbatches}
        rows.append(row | {"bubble": measured, "ideal": ideal})
    return pd.DataFrame(rows)


# -- staleness ---------------------------------------------------------------------------------------------------------


def staleness_frame(cells: pd.DataFrame, updates: pd.DataFrame) -> pd.DataFrame:
    """Return how often each staleness occurred in each cell with a server: count and share of its updates."""
    if not len(updates):
        return pd.DataFrame(columns=["cell_id", "staleness", "count", "share", "strategy", "engine", "gpus", "workers"])
    known = updates.dropna(subset=["staleness"])
    counts = known.groupby(["cell_id", "staleness"]).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby("cell_id")["count"].transform("sum")
    heads = cells[["cell_id", "strategy", "engine", "gpus", "workers", "seed"]]
    return counts.astype({"staleness": int}).merge(heads, on="cell_id")
