"""Times over the nights: each point with its levels and changes, and the machine by its reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator

from harness.analysis.trends import ChangedBy, Level, PointTrend, Trends
from harness.core.words import change_in_percent, duration, time_unit
from harness.report.svg import INK, Palette, Panel, legend_below, look, sample

HEIGHT_INCH = 2.6

ROOM = 0.25
"""Share of the values' range that is left free above and below; chosen."""

LEAST_RANGE = 0.05
"""Share of a time that its axis spans at least: noise of 1 % shall not look like an alarm; chosen."""


def point_panel(point: PointTrend, name: str, found: Trends) -> Panel | None:
    """Draw a point's time over the nights; None where it has none.

    Args:
        name: what it is called.
        found: the trends that it is of.
    """
    if not point.nights:
        return None
    began = [night.began for night in found.nights]
    days = date2num(began)
    size, unit = time_unit(max(point.adjusted_s))
    adjusted = _adjusted(point, found)

    def draw(axes: Axes, palette: Palette) -> None:
        colour = palette.get(str(point.row["strategy"]), INK)
        places = days[list(point.nights)]
        if adjusted:
            axes.plot(places, [s / size for s in point.measured_s], ".", color=INK, alpha=0.3, markersize=4)
        axes.plot(places, [s / size for s in point.adjusted_s], "o", markersize=3.5,
                  **(look(colour, point.simulated) | {"linestyle": "none"}))  # fmt: skip
        for level in point.levels:
            axes.plot(days[[level.first, level.last]], [level.seconds / size] * 2, color=colour, linewidth=1.6)
        values = [s / size for s in (*point.adjusted_s, *(point.measured_s if adjusted else ()))]
        _range(axes, values)
        for step in point.shifts:
            before, after = _levels_around(point.levels, step.place)
            _mark(axes, days[step.place], change_in_percent(after.seconds / before.seconds))
        if not point.simulated:
            _machine_marks(axes, days, found)
        axes.set_ylabel(f"{'simulated ' if point.simulated else ''}{unit} per update")
        _dates(axes)
        _legend(axes, colour, point, found)

    return Panel(
        title=name,
        height_inch=HEIGHT_INCH,
        draw=draw,
        caption=_caption(point, found, adjusted),
        details=" ".join(_level_in_words(level, found) for level in point.levels),
        table=pd.DataFrame(
            {
                "night": [found.nights[place].night for place in point.nights],
                "commit": [found.nights[place].commit for place in point.nights],
                "measured_s": point.measured_s,
                "adjusted_s": point.adjusted_s,
                "runs": point.runs,
            }
        ),
    )


def _adjusted(point: PointTrend, found: Trends) -> bool:
    return not point.simulated and any(night.reference is not None for night in found.nights)


def _levels_around(levels: Sequence[Level], place: int) -> tuple[Level, Level]:
    return next((old, new) for old, new in pairwise(levels) if new.first == place)


def _caption(point: PointTrend, found: Trends, adjusted: bool) -> str:
    text = "Lines: the median between two changes."
    if adjusted:
        text += " Filled dots: at the machine's usual speed, by the reference; pale dots: as measured."
    if point.shifts:
        steps = (
            f"{change_in_percent(after.seconds / before.seconds)} since {found.nights[after.first].began:%Y-%m-%d}"
            for before, after in (_levels_around(point.levels, step.place) for step in point.shifts)
        )
        return f"{'; '.join(steps)}. {text}"
    return f"No change found. {text}"


def _level_in_words(level: Level, found: Trends) -> str:
    first, last = (found.nights[place].night for place in (level.first, level.last))
    return f"{duration(level.seconds)} from {first} to {last}."


def machine_panel(found: Trends) -> Panel | None:
    """Draw how the reference moved over the nights; None without one."""
    if not found.drift:
        return None
    nights = found.nights[-len(found.drift) :]
    days = date2num([night.began for night in nights])
    percent = [100 * (factor - 1) for factor in found.drift]

    def draw(axes: Axes, _: Palette) -> None:
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.plot(days, percent, "o-", color=INK, markersize=3.5, linewidth=0.8)
        for shift in found.shifts:
            if shift.by is ChangedBy.MACHINE and shift.after in nights:
                _mark(axes, days[nights.index(shift.after)], change_in_percent(shift.factor))
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + ROOM * (high - low))
        axes.set_ylabel("% off its usual time")
        _dates(axes)

    return Panel(
        title="The machine, by its reference",
        height_inch=HEIGHT_INCH - 0.3,
        draw=draw,
        caption="A plain PyTorch loop that runs beside the cells. The machine does what it does, "
        "and it is taken out of the times above.",
        details=" ".join(f"{n.night}: {change_in_percent(f)}." for n, f in zip(nights, found.drift, strict=True)),
        table=pd.DataFrame({"night": [night.night for night in nights], "factor": found.drift}),
    )


# -- axes --------------------------------------------------------------------------------------------------------------


def _range(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    room = max((high - low) * ROOM, LEAST_RANGE * high / 2)
    axes.set_ylim(max(0.0, low - room), high + room)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _mark(axes: Axes, day: float, words: str) -> None:
    """Draw where something changed, with how much beside the top of the line."""
    axes.axvline(day, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.annotate(words, (day, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points",
                  va="top", fontsize=9)  # fmt: skip


def _machine_marks(axes: Axes, days: Sequence[float], found: Trends) -> None:
    for shift in found.shifts:
        if shift.by is ChangedBy.MACHINE:
            axes.axvline(days[found.nights.index(shift.after)], color=INK, linewidth=0.9, linestyle=":")


def _dates(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _legend(axes: Axes, colour: str, point: PointTrend, found: Trends) -> None:
    handles = []
    if _adjusted(point, found):
        handles.append(sample(axes, "at usual speed", marker="o", markersize=3.5, linestyle="none", color=colour))
        handles.append(sample(axes, "measured", marker=".", markersize=5, linestyle="none", alpha=0.3))
    if point.shifts:
        handles.append(sample(axes, "change", linewidth=0.9, linestyle=(0, (4, 2))))
    if not point.simulated and any(shift.by is ChangedBy.MACHINE for shift in found.shifts):
        handles.append(sample(axes, "the machine's", linewidth=0.9, linestyle=":"))
    if handles:
        legend_below(axes, handles, len(handles), fontsize=8, columnspacing=1.0)
