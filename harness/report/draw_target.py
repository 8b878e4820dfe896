"""How much each strategy needs to the target, in seconds or in samples: every seed, means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.analysis.censored import SeedRun
from harness.analysis.exact import MIN_SEEDS, Interval
from harness.analysis.time_to_accuracy import Reached
from harness.core.words import duration, listed, time_unit
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    MOST_MARKED,
    Panel,
    clock_in_words,
    first_of,
    from_zero_or_log,
    kind_in_words,
    legend_below,
    plain_numbers,
    rows_of,
    sample,
)

ALIKE = 1.01
"""Ratio of the largest value to the least below which nobody would speak of a difference; chosen."""


def samples(count: float) -> str:
    """Write a number of samples."""
    return f"{count:,.0f} samples"


@dataclass(frozen=True)
class Spent:
    """What is counted on the way to the target.

    Attributes:
        key: of `harness.analysis.censored.MEASURES`.
        write: a value with its unit.
        axis: from the largest value and whether it is simulated to what one unit of the axis is, and its label.
    """

    key: str
    title: str
    write: Callable[[float], str]
    axis: Callable[[float, bool], tuple[float, str]]


def _seconds(largest: float, simulated: bool) -> tuple[float, str]:
    size, unit = time_unit(largest)
    return size, f"{clock_in_words(unit, simulated)} of training to the target"


TIME = Spent("time", "Time to the target", duration, _seconds)
SAMPLES = Spent("samples", "Samples to the target", samples, lambda *_: (1.0, "samples seen to the target"))


@dataclass(frozen=True)
class ToTarget:
    """A point on its way to the target.

    Attributes:
        runs: its seeds, in seconds or samples; those that never trained to an end are not among them.
        names: of their cells; empty where those are not known.
        found: what they say together.
        mean: their geometric mean where all of them reached it, as the answer has it; interval: of that.
        epoch: samples of one; None where that is not known.
        ranked: whether a caption may compare it.
    """

    simulated: bool
    strategy: str
    label: str
    runs: tuple[SeedRun, ...]
    found: Reached
    mean: float | None = None
    interval: Interval | None = None
    epoch: float | None = None
    ranked: bool = True
    names: tuple[str, ...] = ()

    @property
    def sure(self) -> bool:
        """Whether every seed reached it: then their mean stands for them, else the expected time with restarts."""
        return self.found.reached == self.found.runs

    @property
    def drawn(self) -> tuple[float, ...]:
        """All values that are drawn of it."""
        ends = (self.interval.low, self.interval.high) if self.interval is not None and self.sure else ()
        return (*(run.spent for run in self.runs), self.value, *ends)

    @property
    def value(self) -> float:
        """What stands for the point; inf where no seed got there."""
        if not self.sure:
            return self.found.expected
        return self.mean if self.mean is not None else geometric_mean(run.spent for run in self.runs)


def target_panels(rows: Sequence[ToTarget], measure: Spent = TIME) -> list[Panel]:
    """Draw what every seed needed to the target, their mean and its interval; measured and simulated apart.

    Args:
        rows: in the order in which they are drawn.
        measure: what the rows count.
    """
    groups = [[row for row in rows if row.simulated == simulated] for simulated in (False, True)]
    return [
        _target(group[:MOST_MARKED], len(group), measure)
        for group in groups
        if any(row.found.reached for row in group[:MOST_MARKED])
    ]


def _target(rows: Sequence[ToTarget], found: int, measure: Spent) -> Panel:
    simulated = rows[0].simulated
    places = rows_of(f"{row.label}: {_in_short(row, measure)}" for row in rows)
    size, axis = measure.axis(max(run.spent for row in rows for run in row.runs), simulated)

    def draw(axes: Axes, palette: Palette) -> None:
        for place, row in zip(places.places, rows, strict=True):
            _row(axes, place, row, palette[row.strategy], size, measure)
        places.name(axes)
        axes.set(xlabel=axis)
        from_zero_or_log(axes, (value for row in rows for value in row.drawn))
        _epochs(axes, rows)
        _legend(axes, rows)

    return Panel(
        title=f"{measure.title}, {kind_in_words(simulated)}",
        height_inch=(0.95 if _epoch(rows) else 0.65) + places.height_inch,
        draw=draw,
        caption=_caption(rows, measure) + first_of(len(rows), found),
        details=" ".join(to_target_in_words(row, measure) for row in rows),
        table=_table(rows, measure),
    )


def _epoch(rows: Sequence[ToTarget]) -> float | None:
    (epoch, *others) = {row.epoch for row in rows}
    return None if others else epoch


def _epochs(axes: Axes, rows: Sequence[ToTarget]) -> None:
    """Count epochs above samples, where an epoch is the same for all."""
    epoch = _epoch(rows)
    if epoch is None:
        return
    functions: Any = (lambda count: count / epoch, lambda count: count * epoch)
    above = axes.secondary_xaxis("top", functions=functions)
    above.set_xlabel("epochs")
    if axes.get_xscale() == "log":
        plain_numbers(above.xaxis)
    else:
        above.xaxis.set_major_locator(MaxNLocator(5))
        above.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.6g}"))
    above.spines["top"].set_visible(False)


def _row(axes: Axes, place: float, row: ToTarget, colour: str, size: float, measure: Spent) -> None:
    names = row.names or (row.label,) * len(row.runs)
    for run, name in zip(row.runs, names, strict=True):
        shape, end = (REACHED, "to the target") if run.reached else (NEVER, "without reaching it")
        face = "none" if row.simulated or not run.reached else colour
        (drawn,) = axes.plot([run.spent / size], [place], shape.marker, markersize=shape.size, color=colour,
                             markerfacecolor=face, zorder=3)  # fmt: skip
        mark(drawn, shape.name, f"{name}: {measure.write(run.spent)} {end}")
    said = to_target_in_words(row, measure)
    if math.isfinite(row.value):
        shape = MEAN if row.sure else EXPECTED
        (drawn,) = axes.plot([row.value / size], [place], shape.marker, markersize=shape.size, color=INK, zorder=4)
        mark(drawn, shape.name, said)
    # Of the mean: where a seed never got there the expected value stands for the point, and has none.
    if row.interval is not None and row.sure:
        ends = [row.interval.low / size, row.interval.high / size]
        (drawn,) = axes.plot(ends, [place, place], color=INK, linewidth=1.2, zorder=2)
        mark(drawn, INTERVAL.name, said)


class _Shape(NamedTuple):
    marker: str
    size: float
    name: str


REACHED = _Shape("o", 5, "one seed")
MEAN = _Shape("|", 13, "mean")
EXPECTED = _Shape("x", 7, "expected if failed runs are repeated")
INTERVAL = _Shape("_", 12, "interval of the mean")
NEVER = _Shape(">", 6, "seed that never reached it")


def _shapes(row: ToTarget) -> Iterator[_Shape]:
    """Yield what is drawn of a row."""
    yield REACHED
    if math.isfinite(row.value):
        yield MEAN if row.sure else EXPECTED
    if row.interval is not None and row.sure:
        yield INTERVAL
    if not row.sure:
        yield NEVER


def _legend(axes: Axes, rows: Sequence[ToTarget]) -> None:
    seen = {shape for row in rows for shape in _shapes(row)}
    handles = [
        sample(axes, shape.name, marker=shape.marker, markersize=shape.size, linestyle="none",
               markerfacecolor="none" if rows[0].simulated or shape is NEVER else INK)
        for shape in (REACHED, MEAN, EXPECTED, INTERVAL, NEVER) if shape in seen
    ]  # fmt: skip
    legend_below(axes, handles, 2, fontsize=8.5)


def _in_short(row: ToTarget, measure: Spent) -> str:
    if row.sure:
        return measure.write(row.value)
    got = f"{row.found.reached} of {row.found.runs} seeds"
    return f"{measure.write(row.value)} expected ({got})" if math.isfinite(row.value) else f"{got} reached it"


def to_target_in_words(row: ToTarget, measure: Spent) -> str:
    """Say what the seeds of a point say, the ones that never got there included."""
    found = row.found
    text = f"{row.label}: {found.reached} of {found.runs} seeds reached the target"
    if row.sure:
        text += f", mean {measure.write(row.value)}"
    if row.interval is not None and row.sure:
        low, high = measure.write(row.interval.low), measure.write(row.interval.high)
        text += f" ({100 * row.interval.coverage:.4g} % interval {low} to {high})"
    if 0 < found.reached < found.runs:
        text += f"; {measure.write(found.expected)} expected if failed runs are repeated"
    return text + "."


def _caption(rows: Sequence[ToTarget], measure: Spent) -> str:
    rows = [row for row in rows if row.ranked] or rows
    likely = [row for row in rows if 2 * row.found.reached >= row.found.runs] or rows
    best = min(likely, key=lambda row: row.value)
    text = to_target_in_words(best, measure)
    slow = [row for row in rows if row is not best and math.isfinite(row.value)]
    if slow and math.isfinite(best.value):
        worst = max(slow, key=lambda row: row.value)
        times = worst.value / best.value
        far = f"{worst.label} takes {times:.3g} times as {'long' if measure is TIME else 'many samples'}"
        text += (
            f" {far}." if times >= ALIKE else f" All {'take equally long' if measure is TIME else 'need equally many'}."
        )
    never = [row.label for row in rows if not row.found.reached]
    text += f" No seed of {listed(never)} reached it." if never else ""
    return text + (
        f" Set seeds = {MIN_SEEDS} to get a confidence interval." if best.sure and best.interval is None else ""
    )


def _table(rows: Sequence[ToTarget], measure: Spent) -> pd.DataFrame:
    spent = "spent_s" if measure is TIME else "samples"
    runs = [(row.label, row.simulated, run.spent, run.reached) for row in rows for run in row.runs]
    return pd.DataFrame(runs, columns=["label", "simulated", spent, "reached"])
