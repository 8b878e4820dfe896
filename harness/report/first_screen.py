"""The first screen's pictures: each strategy at its best, how it did, why, and on the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from harness.analysis.answer import pool_of
from harness.analysis.censored import run_of
from harness.analysis.confidence import recommended_first
from harness.analysis.exam import exams, failed
from harness.analysis.point_names import setting
from harness.analysis.points import (
    Point,
    Row,
    has_target,
    number,
    points,
    without_controls,
)
from harness.analysis.ranking import Standing, best_standings
from harness.analysis.time_to_accuracy import reached_by
from harness.report.draw_bars import throughput_drawings
from harness.report.draw_curves import ACCURACY, curve_drawing
from harness.report.draw_memory import dram_drawings
from harness.report.draw_scaling import scaling_drawings
from harness.report.draw_target import SAMPLES, TIME, Measure, ToTarget, target_drawings
from harness.report.draw_time import part_drawings
from harness.report.frames import parts_frame
from harness.report.svg import Drawing

MOST_PICTURES = 3

MOST_WAYS = 6
"""Points of a single strategy in a small picture; chosen."""


def best_of(rows: Sequence[Row]) -> list[Standing]:
    """Return each ranked strategy's best point, the recommended first; of a single strategy the ways to split it."""
    pool = pool_of(rows, failed(exams(rows)))
    found = without_controls(points(pool, has_target(pool)))
    best = best_standings(found)
    return recommended_first(best, found) if len(best) > 1 else _ways(found)


def _ways(found: Sequence[Point]) -> list[Standing]:
    """Return the best point of each number of devices, option and micro-batch, by devices or else the best first."""
    ways: dict[tuple[object, ...], Standing] = {}
    for standing in sorted(map(Standing, found), key=lambda standing: standing.rank):
        point = standing.point
        ways.setdefault((point.gpus, point.details, point.row.get("micro_batch_size")), standing)
    kept = list(ways.values())[:MOST_WAYS]
    several = len({standing.point.gpus for standing in kept}) > 1
    return sorted(kept, key=lambda standing: standing.point.gpus) if several else kept


def pictures(
    best: Sequence[Standing],
    bars: pd.DataFrame,
    curves: pd.DataFrame,
    scaling: pd.DataFrame,
    palette: Mapping[str, str],
    target: float | None,
    prefix: str,
) -> list[Drawing]:
    """Draw at most three small pictures of each strategy at its best.

    Args:
        best: of `best_of`.
        bars: of `bars_frame`.
        curves: of `curves_frame`.
        scaling: of `scaling_lines`.
        palette: colour by strategy.
        target: the accuracy that was asked for.
        prefix: starts the ids inside the SVG.
    """
    ids = [row["cell_id"] for standing in best for row in standing.point.rows]
    chosen = bars[bars["cell_id"].isin(ids)]
    order = {cell_id: place for place, cell_id in enumerate(ids)}
    chosen = chosen.sort_values("cell_id", key=lambda column: column.map(order))
    labels = dict(zip(bars["cell_id"], bars["label"], strict=True))
    ways = [way for standing in best if (way := to_target(standing, labels)) is not None]
    drawn = target_drawings(ways, palette, f"{prefix}first-") if best and best[0].point.by_target else []
    drawn = drawn or _speed(best, scaling, chosen, palette, f"{prefix}first-")
    drawn += part_drawings(parts_frame(chosen), palette, f"{prefix}first-", "Where the time of a step went")
    # One line for each point: curves of a panel are named by less than what tells the points of a strategy apart.
    drawn += _curve(best, curves.assign(line=curves["cell_id"].map(labels)), palette, target, prefix)
    drawn += dram_drawings(chosen, palette, f"{prefix}first-") if len(drawn) < MOST_PICTURES else []
    return drawn[:MOST_PICTURES]


def to_target(standing: Standing, labels: Mapping[str, str], measure: Measure = TIME) -> ToTarget | None:
    """Return a point on its way to the target; None where no seed trained to an end."""
    point = standing.point
    runs = standing.runs
    if measure is not TIME:
        runs = tuple(run for row in point.rows if (run := run_of(row, measure.key)) is not None)
    if not runs:
        return None
    epoch = number(point.row, "num_train") if measure is SAMPLES else None
    simulated = point.row["engine"] == "virtual"
    return ToTarget(simulated, point.strategy, labels[point.row["cell_id"]], runs, reached_by(runs), epoch)


def _speed(
    best: Sequence[Standing], scaling: pd.DataFrame, bars: pd.DataFrame, palette: Mapping[str, str], prefix: str
) -> list[Drawing]:
    """Draw how one strategy's speed grows with its devices, or how fast each of several is."""
    alone = len({standing.point.strategy for standing in best}) == 1
    drawn = scaling_drawings(scaling, palette, prefix) if alone else []
    return drawn[:1] or throughput_drawings(bars, palette, prefix)


def _curve(
    best: Sequence[Standing], curves: pd.DataFrame, palette: Mapping[str, str], target: float | None, prefix: str
) -> list[Drawing]:
    at = {row["cell_id"]: setting(standing.point) for standing in best for row in standing.point.rows}
    panel = curves[curves["cell_id"].isin(list(at))]
    if panel.empty:
        return []
    panel = panel.assign(panel="each strategy at its best rate and batch")
    drawn = curve_drawing(panel, ACCURACY, "time_s", palette, target, f"{prefix}first-curve")
    return [] if drawn is None else [drawn]
