"""How long each strategy takes to the target, or how fast it is where there is none: medians with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.censored import Run
from harness.analysis.exact import MIN_SEEDS
from harness.analysis.time_to_accuracy import Reached
from harness.analysis.words import duration, listed
from harness.report.svg import (
    INK,
    Drawing,
    clock_in_words,
    drawing,
    kind_in_words,
    name_rows,
    new_figure,
    shorten,
    style,
    time_unit,
)

MOST_ROWS = 16


@dataclass(frozen=True)
class ToTarget:
    """A point on its way to the target.

    Attributes:
        runs: its seeds, in seconds; those that never trained to an end are not among them.
        found: what they say together.
    """

    simulated: bool
    strategy: str
    label: str
    runs: tuple[Run, ...]
    found: Reached

    @property
    def sure(self) -> bool:
        """Whether every seed reached it: then the median stands for them, else the expected time with restarts."""
        return self.found.reached == self.found.runs

    @property
    def seconds(self) -> float:
        """What the point is ranked by; inf where no seed got there."""
        return self.found.median if self.sure else self.found.expected


def target_drawings(rows: Sequence[ToTarget], palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw the seconds to the target of every seed, their median and its interval; measured and simulated apart.

    Args:
        rows: in the order in which they are drawn.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    groups = [[row for row in rows if row.simulated == simulated][:MOST_ROWS] for simulated in (False, True)]
    return [
        _target(group, palette, f"{prefix}target{number}")
        for number, group in enumerate(groups)
        if any(row.found.reached for row in group)
    ]


def _target(rows: Sequence[ToTarget], palette: Mapping[str, str], prefix: str) -> Drawing:
    simulated = rows[0].simulated
    size, unit = time_unit(max(run.spent for row in rows for run in row.runs))
    title = f"Time to the target, {kind_in_words(simulated)}"
    with style():
        figure, axes = new_figure(1.15 + 0.46 * len(rows))
        for place, row in enumerate(rows):
            _row(axes, place, row, palette[row.strategy], size)
        name_rows(axes, [f"{shorten(row.label)}: {_in_short(row)}" for row in rows])
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} of training to the target", xlim=(0, None))
        _legend(figure, axes, rows)
        details = " ".join(to_target_in_words(row) for row in rows)
        return drawing(figure, title, _caption(rows), details, _table(rows), prefix)


def _row(axes: Any, place: int, row: ToTarget, colour: str, size: float) -> None:
    face = "none" if row.simulated else colour
    there = [run.spent / size for run in row.runs if run.reached]
    never = [run.spent / size for run in row.runs if not run.reached]
    axes.scatter(there, [place] * len(there), s=22, facecolor=face, edgecolor=colour, linewidth=1, zorder=3)
    axes.scatter(never, [place] * len(never), s=36, marker=">", facecolor="none", edgecolor=colour, zorder=3)
    if math.isfinite(row.seconds):
        marker = "|" if row.sure else "x"
        axes.scatter([row.seconds / size], [place], s=210 if row.sure else 50, marker=marker, color=INK, zorder=4)
    interval = row.found.interval
    if interval is not None and math.isfinite(interval.low):
        high = interval.high if math.isfinite(interval.high) else max(run.spent for run in row.runs)
        axes.plot([interval.low / size, high / size], [place, place], color=INK, linewidth=1.2, zorder=2)


def _legend(figure: Any, axes: Any, rows: Sequence[ToTarget]) -> None:
    some = any(row.found.interval is not None for row in rows)
    never = any(not run.reached for row in rows for run in row.runs)
    shapes = [("o", 5, "a seed")]
    shapes += [("|", 11, "median")] if any(row.sure for row in rows) else []
    shapes += (
        [("x", 7, "expected, failed runs repeated")] if any(not row.sure and row.found.reached for row in rows) else []
    )
    shapes += [("_", 12, "its interval")] if some else []
    shapes += [(">", 6, "seed that ended without it")] if never else []
    handles = [
        axes.plot([], [], marker=marker, markersize=size, linestyle="none", color=INK, label=name,
                  markerfacecolor="none" if marker == ">" or rows[0].simulated else INK)[0]
        for marker, size, name in shapes
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5)


def _in_short(row: ToTarget) -> str:
    if row.sure:
        return duration(row.seconds)
    got = f"{row.found.reached} of {row.found.runs} seeds"
    return f"{duration(row.seconds)} expected ({got})" if math.isfinite(row.seconds) else f"{got} got there"


def to_target_in_words(row: ToTarget) -> str:
    """Say what the seeds of a point say, the ones that never got there included."""
    found = row.found
    text = f"{row.label}: {found.reached} of {found.runs} seeds reached the target"
    if row.sure:
        text += f", median {duration(found.median)}"
    if found.interval is not None and math.isfinite(found.interval.high):
        low, high = duration(found.interval.low), duration(found.interval.high)
        text += f" ({low} to {high} covers it with {100 * found.interval.coverage:.4g} %)"
    if 0 < found.reached < found.runs:
        text += f"; expected time {duration(found.expected)} where a run that fails is followed by another"
    return text + "."


def _caption(rows: Sequence[ToTarget]) -> str:
    likely = [row for row in rows if 2 * row.found.reached >= row.found.runs] or rows
    best = min(likely, key=lambda row: row.seconds)
    text = to_target_in_words(best)
    slow = [row for row in rows if row is not best and math.isfinite(row.seconds)]
    if slow and math.isfinite(best.seconds):
        worst = max(slow, key=lambda row: row.seconds)
        text += f" {worst.label} takes {worst.seconds / best.seconds:.3g} times as long."
    never = [row.label for row in rows if not row.found.reached]
    text += f" No seed of {listed(never)} got there." if never else ""
    return text + (" Below five seeds no interval is given." if best.found.runs < MIN_SEEDS else "")


def _table(rows: Sequence[ToTarget]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"label": row.label, "simulated": row.simulated, "spent_s": run.spent, "reached": run.reached}
            for row in rows
            for run in row.runs
        ]
    )
