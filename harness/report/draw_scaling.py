"""Speed-up against devices, with the ideal line; the base is named and of the same engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from harness.analysis.scaling import amdahl
from harness.core.words import share_in_percent, times
from harness.report.svg import (
    INK,
    MARKERS,
    Drawing,
    drawing,
    kind_in_words,
    new_figure,
    plain_numbers,
    ranked,
    shorten,
    style,
)

MOST_LINES = 8

LEAST_COUNTS = 2
"""Device counts above the base from which on a serial share is told: through one point goes any law; chosen."""


def scaling_drawings(scaling: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw the speed-up of each strategy against its devices, measured and simulated, strong and weak apart.

    Args:
        scaling: of `harness.analysis.scaling.scaling_frame`, with columns simulated and line.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    if not len(scaling):
        return []
    drawn = []
    for number, ((simulated, kind), group) in enumerate(scaling.groupby(["simulated", "scaling"])):
        lines = _lines(group)
        if len(lines):
            drawn.append(_scaling(lines, palette, bool(simulated), str(kind), f"{prefix}scaling{number}"))
    return drawn


def _lines(group: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each line and device count: rates do not change speed, so their points stand together."""
    keys = ["line", "strategy", "gpus", "base", "base_gpus", "ideal"]
    numbers = ["speedup", "efficiency", "speedup_low", "speedup_high"]
    group = group.assign(between_runs=group["between_runs"].eq(True))
    groups = group.groupby(keys, as_index=False, sort=False)
    lines = groups[numbers].median().merge(groups["between_runs"].all(), on=keys).sort_values(["line", "gpus"])
    # A line that is but a base, such as single's one device, says nothing of scaling.
    grown = lines[lines["gpus"] > lines["base_gpus"]]["line"]
    kept = list(dict.fromkeys(grown))[:MOST_LINES]
    return lines[lines["line"].isin(kept)]


def _scaling(lines: pd.DataFrame, palette: Mapping[str, str], simulated: bool, kind: str, prefix: str) -> Drawing:
    title = f"{kind.capitalize()} scaling, {kind_in_words(simulated)}"
    counts = sorted({*lines["gpus"], *lines["base_gpus"]})
    with style():
        figure, axes = new_figure(2.5 + 0.2 * lines["line"].nunique())
        bases = sorted(lines["base_gpus"].unique())
        for number, base in enumerate(bases):
            reach = [count for count in counts if count >= base]
            ideal = [count / base for count in reach]
            axes.plot(reach, ideal, ":", color=INK, linewidth=1.2, label="" if number else "ideal: as many times")
        seen: Counter[str] = Counter()
        for _, line in lines.groupby("line", sort=False):
            strategy = line["strategy"].iloc[0]
            _line(axes, line, palette[strategy], simulated, MARKERS[seen[strategy] % len(MARKERS)])
            seen[strategy] += 1
        _log_axes(axes, counts)
        axes.set(xlabel="devices", ylabel="simulated speed-up" if simulated else "speed-up")
        figure.legend(loc="outside lower center", ncols=1)
        details = " ".join(_point_in_words(row) for row in lines.itertuples())
        return drawing(figure, title, _caption(lines, kind), details, lines, prefix)


def _line(axes: Any, line: pd.DataFrame, colour: str, simulated: bool, marker: str) -> None:
    look = {"markerfacecolor": "none" if simulated else colour, "linestyle": "--" if simulated else "-"}
    axes.plot(line["gpus"], line["speedup"], color=colour, marker=marker, label=shorten(line["line"].iloc[0]), **look)
    known = line.dropna(subset=["speedup_low", "speedup_high"])
    axes.vlines(known["gpus"], known["speedup_low"], known["speedup_high"], color=colour, linewidth=1.2)


def _log_axes(axes: Any, counts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for ax in (axes.xaxis, axes.yaxis):
        plain_numbers(ax)
        ax.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(counts))


def _point_in_words(row: Any) -> str:
    return (
        f"{row.line} on {row.gpus}: {row.speedup:.3g} times as fast as {row.base}, of {row.ideal:.3g} times at best "
        f"({100 * row.efficiency:.0f} %)."
    )


def _serial(lines: pd.DataFrame) -> list[str]:
    """Say what share of the work more devices do not speed up, of lines with enough counts that gained anything."""
    told = []
    for name, line in lines.groupby("line", sort=False):
        many = line[(line["gpus"] > line["base_gpus"]) & (line["speedup"] > 1)]
        if len(many) < LEAST_COUNTS:
            continue
        serial = amdahl(many["ideal"].tolist(), many["speedup"].tolist())
        if serial > 0:
            told.append(
                f"{name} scales as if {share_in_percent(serial)} of its work were serial: {times(1 / serial)} times at "
                "most, with any number of devices."
            )
    return told


def _caption(lines: pd.DataFrame, kind: str) -> str:
    held = "the global batch" if kind == "strong" else "the batch of each rank"
    lines = lines[lines["line"].isin(ranked(lines["line"]))]
    many = lines[lines["gpus"] > lines["base_gpus"]]
    most = many[many["gpus"] == many["gpus"].max()]
    found = [_point_in_words(row) for row in most.sort_values("speedup").iloc[[0, -1]].drop_duplicates().itertuples()]
    known = lines.dropna(subset=["speedup_low"])
    if len(known):
        of = (
            "over runs"
            if known["between_runs"].all()
            else "over the steps within a run: between runs it may differ more"
        )
        found.append(f"Upright lines: 95 % intervals, {of}.")
    # Amdahl's law is one of a fixed amount of work: under weak scaling it grows.
    serial = _serial(lines)[:1] if kind == "strong" else []
    return " ".join([*found, *serial, f"{held.capitalize()} is held fixed."])
