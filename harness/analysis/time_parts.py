"""Where the time went: parts that add up to the wall time, bubbles beside their theory, staleness as it spread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.analysis.points import Row, number

TRAINING = {
    "compute_s": "computing",
    "communication_s": "exposed communication",
    "idle_s": "waiting for others",
    "input_s": "input",
    "other_s": "other",
}
"""Parts of the training time: means over devices, without overlap."""

PARTS = TRAINING | {"evaluation_s": "evaluation", "setup_s": "setting up"}
"""Parts of the wall time."""

CLOSED = 0.02
"""Share of the wall time that parts may miss or exceed it by and still be said to add up to it: 2 %, as promised."""


def parts_of(row: Row) -> dict[str, float]:
    """Return the seconds of every part that was measured; setting up and evaluating are off the simulated clock."""
    return {part: value for part in PARTS if (value := number(row, part)) is not None}


def gap(row: Row) -> float | None:
    """Return how far the parts are from the wall time, as a share of it; None where it was not measured."""
    wall, parts = number(row, "wall_s"), parts_of(row)
    return (sum(parts.values()) - wall) / wall if wall and parts else None


def parts_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each part of each cell: seconds, share of the wall time, seconds per update.

    Column `closed` says whether the cell's parts add up to its wall time; one that do not is shown with a warning.
    """
    rows = []
    for cell in cells.to_dict("records"):
        off, wall, updates = gap(cell), number(cell, "wall_s"), number(cell, "steps")
        if off is None or wall is None:
            continue
        head = {key: cell[key] for key in ("cell_id", "strategy", "engine", "gpus", "seed", "status")}
        head |= {"wall_s": wall, "gap": off, "closed": abs(off) <= CLOSED}
        for part, seconds in parts_of(cell).items():
            each = seconds / updates if updates and part in TRAINING else None
            named = {"part": part, "name": PARTS[part], "seconds": seconds}
            rows.append(head | named | {"share": seconds / wall, "per_update_s": each})
    return pd.DataFrame(rows)


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
