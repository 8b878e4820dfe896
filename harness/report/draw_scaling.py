"""Speed-up against devices, with the ideal line; the base is named and of the same engine."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from harness.analysis.scaling import amdahl
from harness.core.words import share_in_percent, times
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    Panel,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    plain_numbers,
    ranked,
    ticks_at,
)

MOST_SCALED = 8
"""Lines of one figure; chosen: they spread, so that one more than elsewhere can be followed."""

LEAST_COUNTS = 2
"""Device counts above the base from which on a serial share is told: through one point goes any law; chosen."""


def scaling_panels(scaling: pd.DataFrame) -> list[Panel]:
    """Draw the speed-up of each strategy against its devices, measured and simulated, strong and weak apart.

    Args:
        scaling: of `harness.analysis.scaling.scaling_frame`, with columns simulated, line and ranked.
    """
    groups = scaling.groupby(["simulated", "scaling"]) if len(scaling) else ()
    found = ((_lines(group), bool(simulated), str(kind)) for (simulated, kind), group in groups)
    return [_scaling(lines, simulated, kind) for lines, simulated, kind in found if len(lines)]


def _lines(group: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each line and device count: rates do not change speed, so their points stand together."""
    keys = ["line", "strategy", "gpus", "base", "base_gpus", "ideal", "ranked"]
    numbers = ["speedup", "efficiency", "speedup_low", "speedup_high"]
    group = group.assign(between_runs=group["between_runs"].eq(True))
    groups = group.groupby(keys, as_index=False, sort=False)
    lines = groups[numbers].median().merge(groups["between_runs"].all(), on=keys).sort_values(["line", "gpus"])
    # A line that is but a base, such as single's one device, says nothing of scaling.
    grown = lines[lines["gpus"] > lines["base_gpus"]]["line"]
    kept = list(dict.fromkeys(grown))[:MOST_SCALED]
    return lines[lines["line"].isin(kept)]


def _scaling(lines: pd.DataFrame, simulated: bool, kind: str) -> Panel:
    counts = sorted({*lines["gpus"], *lines["base_gpus"]})

    def draw(axes: Axes, palette: Palette) -> None:
        for number, base in enumerate(sorted(lines["base_gpus"].unique())):
            reach = [count for count in counts if count >= base]
            ideal = [count / base for count in reach]
            axes.plot(reach, ideal, ":", color=INK, linewidth=1.2, label="" if number else "ideal (linear)")
        for line in lines_of(lines, "line", in_turn=True):
            how = look(palette[line.strategy], simulated) | {"marker": line.marker, "label": line.label}
            (drawn,) = axes.plot(line.rows["gpus"], line.rows["speedup"], **how)
            mark(drawn, line.label, " ".join(map(_point_in_words, line.rows.itertuples())))
            known = line.rows.dropna(subset=["speedup_low", "speedup_high"])
            ends = known["speedup_low"], known["speedup_high"]
            mark(axes.vlines(known["gpus"], *ends, color=palette[line.strategy], linewidth=1.2), line.label)
        _log_axes(axes, counts)
        axes.set(xlabel="devices", ylabel="simulated speed-up" if simulated else "speed-up")
        legend_below(axes)

    return Panel(
        title=f"{kind.capitalize()} scaling, {kind_in_words(simulated)}",
        height_inch=2.4,
        draw=draw,
        caption=_caption(lines, kind),
        details=" ".join(map(_point_in_words, lines.itertuples())),
        table=lines.drop(columns=["ranked"]),
    )


def _log_axes(axes: Axes, counts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for ax in (axes.xaxis, axes.yaxis):
        plain_numbers(ax)
        ax.set_minor_locator(NullLocator())
    ticks_at(axes.xaxis, counts)


def _point_in_words(row: Any) -> str:
    return (
        f"{row.line} on {row.gpus}: {row.speedup:.3g} times as fast as {row.base} (ideal: {row.ideal:.3g} times; "
        f"efficiency {100 * row.efficiency:.0f} %)."
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
                f"{name} scales as if {share_in_percent(serial)} of its work were serial: at most {times(1 / serial)} "
                "times as fast on any number of devices."
            )
    return told


def _caption(lines: pd.DataFrame, kind: str) -> str:
    held = "the global batch" if kind == "strong" else "the batch of each rank"
    lines = ranked(lines)
    many = lines[lines["gpus"] > lines["base_gpus"]]
    most = many[many["gpus"] == many["gpus"].max()]
    found = [_point_in_words(row) for row in most.sort_values("speedup").iloc[[0, -1]].drop_duplicates().itertuples()]
    known = lines.dropna(subset=["speedup_low"])
    if len(known):
        runs = known["between_runs"].all()
        of = "over runs" if runs else "over the steps within a run; runs can differ by more"
        found.append(f"Vertical lines are 95 % intervals {of}.")
    # Amdahl's law is one of a fixed amount of work: under weak scaling it grows.
    serial = _serial(lines)[:1] if kind == "strong" else []
    return " ".join([*found, *serial, f"{held.capitalize()} is held fixed."])
