"""The first screen's pictures: each strategy at its best, how it did, why, and on the way there."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.censored import SeedRun, run_of
from harness.analysis.confidence import interval, mean_of
from harness.analysis.exact import Interval
from harness.analysis.points import number
from harness.analysis.ranking import Standing
from harness.analysis.time_to_accuracy import reached_by
from harness.report.draw_bars import throughput_panels
from harness.report.draw_curves import curve_panel, learnt_of
from harness.report.draw_memory import dram_panels
from harness.report.draw_scaling import scaling_panels
from harness.report.draw_target import SAMPLES, TIME, Spent, ToTarget, target_panels
from harness.report.draw_time import part_panels
from harness.report.frames import PageFrames, steps_by_part
from harness.report.svg import Panel

MOST_PICTURES = 3


def first_panels(frames: PageFrames) -> list[Panel]:
    """Draw at most three small pictures of each strategy at its best."""
    best = frames.best
    ways = [way for standing in best if (way := to_target(standing, frames)) is not None]
    found = target_panels(ways) if best and best[0].point.by_target else []
    found = found or _speed(frames)
    found += part_panels(steps_by_part(frames.best_bars), "Where the time of a step went")
    if len(frames.best_curves):
        curves = frames.best_curves.assign(panel="each strategy at its best rate and batch")
        curve = curve_panel(curves, learnt_of(frames.metric), "time_s", frames.target)
        found += [curve] if curve else []
    found += dram_panels(frames.best_bars) if len(found) < MOST_PICTURES else []
    return found[:MOST_PICTURES]


def to_target(standing: Standing, frames: PageFrames, measure: Spent = TIME) -> ToTarget | None:
    """Return a point on its way to the target; None where no seed trained to an end."""
    point = standing.point
    rows = [(run, row) for row in point.rows if (run := run_of(row, measure.key)) is not None]
    runs = standing.runs if measure is TIME else tuple(run for run, _ in rows)
    if not runs:
        return None
    cell_id = point.row["cell_id"]
    mean, ends = _mean(standing, frames, runs, measure) if all(run.reached for run in runs) else (None, None)
    return ToTarget(
        simulated=point.row["engine"] == "virtual",
        strategy=point.strategy,
        label=frames.labels[cell_id],
        runs=runs,
        found=reached_by(runs),
        mean=mean,
        interval=ends,
        epoch=number(point.row, "num_train") if measure is SAMPLES else None,
        ranked=cell_id not in frames.unranked,
        names=tuple(frames.names[row["cell_id"]] for _, row in rows) if len(rows) == len(runs) else (),
    )


def _mean(
    standing: Standing, frames: PageFrames, runs: Sequence[SeedRun], measure: Spent
) -> tuple[float, Interval | None]:
    """Return what stands for a point whose seeds all got there, with its interval: in seconds as the answer has it."""
    if measure is not TIME:
        return mean_of([run.spent for run in runs])
    ranking = frames.findings.ranking_of(standing)
    return standing.seconds, interval(standing, ranking) if ranking else None


def _speed(frames: PageFrames) -> list[Panel]:
    """Draw how one strategy's speed grows with its devices, or how fast each of several is."""
    alone = len({standing.point.strategy for standing in frames.best}) == 1
    found = scaling_panels(frames.scaling) if alone else []
    return found[:1] or throughput_panels(frames.best_bars)
