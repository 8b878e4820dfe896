"""How busy devices were as the run went on, each source under its own name."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from harness.core.words import time_unit
from harness.report.svg import (
    MOST_LINES,
    Palette,
    Panel,
    clock_in_words,
    first_of,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    measured_and_simulated,
    shorten,
)

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
        "Share of time in which any kernel ran, averaged over the cell's GPUs. A GPU that waits in a kernel for "
        "its peers counts as busy.",
        100,
    ),
    "host_cpu": Gauge(
        "CPU cores busy for each device",
        "cores for each device",
        "CPU time of the cell's processes as the system counts it, divided by the cell's devices. It includes servers, "
        "evaluations and pauses.",
    ),
    "computing": Gauge(
        "Share of time spent computing",
        "% of the time",
        "Share of the forward pass, backward pass and optimizer in the steps, averaged over devices. The rest is "
        "exchange, waiting and input.",
        100,
        "of training",
    ),
    "nvml_used": Gauge(
        "Memory in use as NVML sees it",
        "GiB, fullest GPU",
        "Everything on the device, including the driver's context and other processes. No allocator reports it.",
        2**-30,
    ),
}
"""By quantity of the telemetry; "computing" comes from the steps."""


def usage_panels(usage: pd.DataFrame) -> list[Panel]:
    """Draw each gauge against the seconds of one run of each strategy at its best.

    Args:
        usage: columns gauge, simulated, strategy, gpus, label, time_s and value.
    """
    gauges = usage.groupby("gauge", sort=False) if len(usage) else ()
    return [panel for gauge, group in gauges for panel in _usage(group, GAUGES[str(gauge)])]


@measured_and_simulated
def _usage(usage: pd.DataFrame, simulated: bool, gauge: Gauge) -> Panel | None:
    values = usage.groupby("label")["value"]
    if (values.std() <= STEADY * values.mean()).all():
        return None
    every = list(dict.fromkeys(usage["label"]))
    drawn = usage[usage["label"].isin(every[:MOST_LINES])]
    size, unit = time_unit(float(usage["time_s"].max()))
    means = (drawn.groupby("label", sort=False)["value"].mean() * gauge.scale).to_dict()

    def draw(axes: Axes, palette: Palette) -> None:
        for line in lines_of(drawn, "label"):
            how = look(palette[line.strategy], simulated) | {"marker": line.marker, "markersize": 3.5}
            how |= {"markevery": max(1, len(line.rows) // 8), "linewidth": 1.3, "label": shorten(line.label)}
            axes.plot(line.rows["time_s"] / size, line.rows["value"] * gauge.scale, **how)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} {gauge.clock}", ylabel=gauge.axis)
        axes.set(xlim=(0, None), ylim=(0, None))
        legend_below(axes)

    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    text = f"Mean over the run: {means[most]:.3g} for {most}"
    text += f", {means[least]:.3g} for {least}" if most != least else ""
    return Panel(
        title=f"{gauge.title}, {kind_in_words(simulated)}",
        height_inch=2.3 + 0.2 * len(means),
        draw=draw,
        caption=f"{text}. {gauge.says}{first_of(len(means), len(every))}",
        details=" ".join(f"{label}: {mean:.3g} {gauge.axis} on average." for label, mean in means.items()),
        table=drawn[["label", "time_s", "value"]],
    )
