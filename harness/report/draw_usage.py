"""How busy devices were as the run went on, each source under its own name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.core.words import duration, figure, share_in_percent, three, time_unit
from harness.report.end_labels import ends_of, label_ends
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import (
    MOST_LINES,
    DrawnLine,
    Panel,
    clock_in_words,
    first_of,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    measured_and_simulated,
    rows_of,
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


GPU_KINDS = {
    "gpu_utilisation": Gauge(
        "GPU utilisation",
        "% of the time",
        "Share of time in which any kernel ran, averaged over the cell's GPUs. A GPU that waits in a kernel for "
        "its peers counts as busy.",
        100,
    ),
    "sm_activity": Gauge(
        "SMs busy",
        "% of the SMs",
        "Share of the multiprocessors that had work, averaged over time and the cell's GPUs (GPM). It tells a full GPU "
        "from one that a small kernel keeps busy.",
        100,
    ),
    "tensor_activity": Gauge(
        "Tensor cores busy",
        "% of the time",
        "Share of time in which tensor cores computed, averaged over the cell's GPUs (GPM).",
        100,
    ),
    "dram_bandwidth_utilisation": Gauge(
        "DRAM bandwidth",
        "% of the peak",
        "Traffic of the GPUs' own memory against what it can do at most, averaged over the cell's GPUs (GPM).",
        100,
    ),
    "sm_clock": Gauge("SM clock", "MHz", "Mean over the cell's GPUs. It falls where heat or a power limit holds it."),
    "power": Gauge("Power", "W, all GPUs", "Summed over the cell's GPUs, averaged by each over its own last period."),
    "used": Gauge(
        "Memory in use",
        "GiB, fullest GPU",
        "Everything on the device, including the driver's context and other processes. No allocator reports it.",
        2**-30,
    ),
    "targets_used": Gauge(
        "Memory of the cell's processes",
        "GiB, fullest GPU",
        "What the driver counts for the processes of the cell, context included.",
        2**-30,
    ),
}
"""By what a probe of GPUs calls it behind its own name."""

SOURCES = {"nvml": "NVML", "amdsmi": "AMD SMI"}
"""Probes of GPUs, in the words of a title."""

GPU_GAUGES = {
    f"{source}_{kind}": replace(gauge, title=f"{gauge.title} as {words} reports it")
    for source, words in SOURCES.items()
    for kind, gauge in GPU_KINDS.items()
}

GAUGES = GPU_GAUGES | {
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
    shown = drawn.assign(value=drawn["value"] * gauge.scale)
    means = (drawn.groupby("label", sort=False)["value"].mean() * gauge.scale).to_dict()

    def draw(axes: Axes, palette: Palette) -> None:
        for line in lines_of(drawn, "label"):
            how = look(palette.shade(line.strategy, line.gpus), simulated) | {"marker": line.marker, "markersize": 3.5}
            how |= {"markevery": max(1, len(line.rows) // 8), "linewidth": 1.3, "label": line.label}
            (run,) = axes.plot(line.rows["time_s"] / size, line.rows["value"] * gauge.scale, **how)
            mark(run, line.label, f"{_cell(line)}: {figure(means[line.label])} {gauge.axis} on average")
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} {gauge.clock}", ylabel=gauge.axis)
        axes.set(xlim=(0, None), ylim=(0, None))
        label_ends(axes, ends_of(lines_of(shown, "label"), "time_s", "value", palette, size))
        legend_below(axes)

    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    text = f"Mean over the run: {figure(means[most])} for {most}"
    text += f", {figure(means[least])} for {least}" if most != least else ""
    return Panel(
        title=f"{gauge.title}, {kind_in_words(simulated)}",
        height_inch=2.3,
        draw=draw,
        caption=f"{text}.{_energy(drawn)} {gauge.says}{first_of(len(means), len(every))}",
        details=" ".join(f"{label}: {figure(mean)} {gauge.axis} on average." for label, mean in means.items()),
        table=drawn[["label", "time_s", "value"]],
    )


def _cell(line: DrawnLine) -> str:
    """Return which cell a line is of, where that is known."""
    return str(line.rows["cell"].iloc[0]) if "cell" in line.rows.columns else line.label


def _energy(drawn: pd.DataFrame) -> str:
    """Return, of power, its integral beside the energy that was recorded."""
    if not drawn["gauge"].iloc[0].endswith("_power"):
        return ""
    words = []
    for label, run in drawn.groupby("label", sort=False):
        watts, times = run["value"].to_numpy(float), run["time_s"].to_numpy(float)
        integral = float(np.sum(np.diff(times) * (watts[1:] + watts[:-1]) / 2))
        recorded = run["energy_j"].iloc[0]
        counted = f", {three(recorded)} J recorded" if pd.notna(recorded) else ""
        words.append(f"{label}: {three(integral)} J as the integral{counted}")
    return f" Energy of {'; '.join(words)}."


# -- what held clocks back ---------------------------------------------------------------------------------------------


def limit_panels(limits: pd.DataFrame) -> list[Panel]:
    """Draw what held the clocks back over the seconds of one run of each strategy at its best.

    Args:
        limits: columns simulated, strategy, gpus, label, reason, time_s and value: the share of GPUs.
    """
    return _limits(limits)


@measured_and_simulated
def _limits(limits: pd.DataFrame, simulated: bool) -> Panel | None:
    every = list(dict.fromkeys(limits["label"]))
    drawn = limits[limits["label"].isin(every[:MOST_LINES])]
    lanes = list(drawn.groupby(["label", "reason"], sort=False))
    size, unit = time_unit(float(drawn["time_s"].max()))
    rows = rows_of(f"{reason}: {label}" for (label, reason), _ in lanes)

    def draw(axes: Axes, palette: Palette) -> None:
        for place, ((label, reason), run) in zip(rows.places, lanes, strict=True):
            for start, length, share in held_spans(run):
                bar, colour = (place - 0.225, 0.45), palette[run["strategy"].iloc[0]]
                held = axes.broken_barh([(start / size, length / size)], bar, color=colour, alpha=share)
                mark(held, name=f"{label}: {reason}, {share_in_percent(share)} of the GPUs for {duration(length)}")
        rows.name(axes)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} since training began, evaluations included", ylabel="")
        axes.set(xlim=(0, None))

    words = [_held(str(label), runs) for label, runs in drawn.groupby("label", sort=False)]
    return Panel(
        title=f"What held the clocks back, {kind_in_words(simulated)}",
        height_inch=0.75 + rows.height_inch,
        draw=draw,
        caption=f"{'. '.join(words)}. Where it held for some of the GPUs only, a bar is paler. A reason that the "
        f"driver never gave has no row. Idle: nothing ran.{first_of(min(len(every), MOST_LINES), len(every))}",
        details=" ".join(f"{line}." for line in words),
        table=drawn[["label", "reason", "time_s", "value"]],
    )


def _held(label: str, runs: pd.DataFrame) -> str:
    """Return what held one run back for which share of the time, most of it first."""
    shares = runs.groupby("reason")["value"].mean().sort_values(ascending=False)
    return (
        f"{label}: {', '.join(f'{reason} {share_in_percent(share)} of the time' for reason, share in shares.items())}"
    )


def held_spans(run: pd.DataFrame) -> Iterator[tuple[float, float, float]]:
    """Yield (start, length, share) while a reason held, from each reading to the next; equal neighbours are joined."""
    times, values = run["time_s"].to_numpy(float), run["value"].to_numpy(float)
    changed = np.flatnonzero(np.diff(values)) + 1
    starts, ends = np.r_[0, changed], np.r_[changed, len(values) - 1]
    for start, end in zip(starts, ends, strict=True):
        if values[start] > 0 and times[end] > times[start]:
            yield times[start], times[end] - times[start], values[start]
