"""Learning rates over a sweep: the regime of every point, its seeds voting, as a map."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from harness.analysis.loss_shape import DEFAULTS, MEANS, SHAPES, Features, Shape, Thresholds, classify, features
from harness.analysis.ranking import Standing
from harness.analysis.votes import Vote, vote, vote_of

__all__ = [
    "DEFAULTS", "MEANS", "SHAPES", "Features", "Shape", "Thresholds", "Vote", "classify", "features",
    "map_frame", "regimes_frame", "vote",
]  # fmt: skip


def regimes_frame(standings: Iterable[Standing]) -> pd.DataFrame:
    """Return one row for each point whose cells trained.

    Its shape and verdict, seeds that show the shape and seeds in all, seeds by shape, seeds that reached.

    Args:
        standings: of `harness.analysis.result_findings.ResultFindings`.
    """
    rows = []
    keys = ("strategy", "options", "engine", "device", "gpus", "workers", "global_batch_size", "learning_rate")
    for standing in standings:
        point, found = standing.point, vote_of(standing)
        if not any(isinstance(row.get("regime"), str) for row in point.rows):
            continue
        row = {key: point.row.get(key) for key in keys} | {"details": point.details, "seeds": found.seeds}
        row |= {"regime": found.shape, "verdict": found.verdict, "reached": found.reached, "text": found.text}
        row["shown"] = found.counts[found.shape] if found.shape else 0
        rows.append(row | {f"seeds_{shape}": found.counts.get(shape, 0) for shape in SHAPES})
    return pd.DataFrame(rows)


def map_frame(standings: Iterable[Standing]) -> pd.DataFrame:
    """Return the map: learning rate x global batch x workers (or devices) to a regime, of each strategy and engine.

    Where points differ in more than that (an option, a swept key) each is a row, told apart by `details`.
    """
    found = regimes_frame(standings)
    if not len(found):
        return found
    axes = ["strategy", "engine", "details", "global_batch_size", "workers", "gpus", "learning_rate"]
    return found[[*axes, "regime", "verdict", "text", "shown", "seeds", "reached"]].sort_values(axes, ignore_index=True)
