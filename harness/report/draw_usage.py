"""How busy devices were as the run went on, each source under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.core.words import time_unit
from harness.report.svg import (
    MARKERS,
    Drawing,
    clock_in_words,
    drawing,
    first_of,
    kind_in_words,
    new_figure,
    shorten,
    style,
)

MOST_LINES = 6

STEADY = 1e-3
"""Spread about the mean, as a share of it, below which nothing changes over time: the parts of a step say it all."""


@dataclass(frozen=True)
class Gauge:
    """One source of what is drawn over time.

    Attributes:
        title: what it is, in words that leave no doubt about what was counted.
        axis: its axis, with the unit.
        says: a sentence on what the figure means.
        clock: ends the name of the axis of time: steps are on the training clock, which stands at evaluations.
    """

    title: str
    axis: str
    says: str
    scale: float = 1.0
    clock: str = "since training began, evaluations included"


GAUGES = {
    "nvml_gpu_utilisation": Gauge(
        "GPU utilisation as NVML reports it",
        "% of the time",
        "Mean over the cell's GPUs of the share of time in which any kernel ran: a GPU that waits in a kernel for its "
        "peers counts as busy.",
        100,
    ),
    "host_cpu": Gauge(
        "CPU cores busy for each device",
        "cores for each device",
        "CPU time of the cell's processes as the system counts it, a server's included, over the cell's devices; "
        "evaluations and pauses are in it.",
    ),
    "computing": Gauge(
        "Share of time spent computing",
        "% of the time",
        "Mean over devices, from the parts of the steps: forward and backward pass and optimizer; the rest goes into "
        "exchange, waiting and input.",
        100,
        "of training",
    ),
    "nvml_used": Gauge(
        "Memory in use as NVML sees it",
        "GiB, fullest GPU",
        "Everything on the device, the driver's context and other processes included; no allocator's figure is in it.",
        2**-30,
    ),
}
"""By quantity of the telemetry; "computing" comes from the steps."""


def usage_drawings(usage: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw each gauge against the seconds of one run of each strategy at its best.

    Args:
        usage: columns gauge, simulated, strategy, gpus, label, time_s and value.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    return [
        _usage(group, GAUGES[str(gauge)], bool(simulated), palette, f"{prefix}{gauge}{int(simulated)}")
        for (gauge, simulated), group in usage.groupby(["gauge", "simulated"], sort=False)
        if not _steady(group)
    ]


def _steady(usage: pd.DataFrame) -> bool:
    values = usage.groupby("label")["value"]
    return bool((values.std() <= STEADY * values.mean()).all())


def _usage(usage: pd.DataFrame, gauge: Gauge, simulated: bool, palette: Mapping[str, str], prefix: str) -> Drawing:
    every = list(dict.fromkeys(usage["label"]))
    labels = every[:MOST_LINES]
    size, unit = time_unit(float(usage["time_s"].max()))
    counts = sorted(usage["gpus"].unique())
    title = f"{gauge.title}, {kind_in_words(simulated)}"
    means = {}
    with style():
        figure, axes = new_figure(2.3 + 0.2 * len(labels))
        for label in labels:
            line = usage[usage["label"] == label]
            means[label] = float(line["value"].mean() * gauge.scale)
            marker = MARKERS[counts.index(line["gpus"].iloc[0]) % len(MARKERS)]
            _line(axes, line, size, gauge, marker, palette[line["strategy"].iloc[0]], simulated)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} {gauge.clock}", ylabel=gauge.axis, ylim=(0, None))
        axes.set_xlim(0, None)
        figure.legend(loc="outside lower center", ncols=1)
        most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        text = f"Mean over the run: {means[most]:.3g} for {most}"
        text += f", {means[least]:.3g} for {least}" if most != least else ""
        details = " ".join(f"{label}: {mean:.3g} {gauge.axis} in the mean." for label, mean in means.items())
        table = usage[usage["label"].isin(labels)][["label", "time_s", "value"]]
        caption = f"{text}. {gauge.says}{first_of(len(labels), len(every))}"
        return drawing(figure, title, caption, details, table, prefix)


def _line(axes: Any, line: pd.DataFrame, size: float, gauge: Gauge, marker: str, colour: str, simulated: bool) -> None:
    look: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markevery": max(1, len(line) // 8), "linewidth": 1.3}
    look |= {"markerfacecolor": "none" if simulated else colour, "linestyle": "--" if simulated else "-"}
    label = shorten(line["label"].iloc[0])
    axes.plot(line["time_s"] / size, line["value"] * gauge.scale, color=colour, label=label, **look)
