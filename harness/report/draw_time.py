"""Where the time went: parts of a step, a few steps on a common clock, bubbles, staleness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from harness.analysis.time_parts import TRAINING
from harness.core.words import counted, duration, listed, time_unit
from harness.report.end_labels import ends_of, label_ends
from harness.report.lettering import wrapped
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    MOST_BARS,
    Panel,
    Rows,
    clock_in_words,
    first_of,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    measured_and_simulated,
    rows_of,
    sample,
    write,
)

LOOKS = {
    "compute_s": (1.0, None),
    "communication_s": (0.4, "//"),
    "idle_s": (0.0, "||"),
    "input_s": (0.25, "xx"),
    "other_s": (0.12, None),
}
"""Opacity of the strategy's colour, and hatch: told apart without colour, in print too."""

LEAST_NAMED = 1e-3
"""Share of all steps below which a part is not named: it cannot be seen; chosen."""


@measured_and_simulated
def part_panels(parts: pd.DataFrame, simulated: bool, title: str = "Where the time of a step goes") -> Panel:
    """Draw what a step consists of, a bar for each label: its parts add up to the step.

    Args:
        parts: columns simulated, strategy, label, and seconds of an update by part; one row for each label.
        title: what it is, without the engine.
    """
    rows = parts.head(MOST_BARS)
    steps = rows[list(TRAINING)].sum(axis=1)
    bars = [(row["strategy"], {part: row[part] for part in TRAINING}) for _, row in rows.iterrows()]
    names = rows_of(f"{row.label}: {duration(steps[row.Index])}" for row in rows.itertuples())
    return Panel(
        title=f"{title}, {kind_in_words(simulated)}",
        height_inch=0.75 + names.height_inch,
        draw=lambda axes, palette: draw_steps_of(axes, palette, bars, names, simulated),
        caption=_most_exchange(rows, steps) + first_of(len(rows), len(parts)),
        details=" ".join(_parts_in_words(row, steps[row.name]) for _, row in rows.iterrows()),
        table=rows.drop(columns=["simulated"]),
    )


def draw_steps_of(
    axes: Axes,
    palette: Palette,
    bars: Sequence[tuple[str, Mapping[str, float]]],
    names: Rows,
    simulated: bool,
) -> None:
    """Draw a bar for each step, its parts one after another.

    Args:
        axes: where.
        palette: colour by strategy.
        bars: strategy, and seconds by part.
        names: a row for each bar.
        simulated: whether the seconds are.
    """
    size, unit = time_unit(max(sum(parts.values()) for _, parts in bars))
    for place, text, (strategy, parts) in zip(names.places, names.texts, bars, strict=True):
        left, said = 0.0, " ".join(text.split())
        for part, seconds in parts.items():
            drawn = _segments(
                axes, [Stretch(left / size, seconds / size, place)], 0.4, palette[strategy], part, simulated
            )
            for patch in drawn:
                mark(patch, TRAINING[part], f"{said}: {TRAINING[part]} {duration(seconds)}")
            left += seconds
    names.name(axes)
    axes.set(xlabel=f"{clock_in_words(unit, simulated)} per step, mean over devices", xlim=(0, None))
    sums = {part: sum(parts.get(part, 0.0) for _, parts in bars) for part in TRAINING}
    _name_parts(axes, [part for part in TRAINING if sums[part] > LEAST_NAMED * sum(sums.values())], simulated)


Looks = Sequence[Mapping[str, Any]]
"""What lies over each other in one place."""


class Stretch(NamedTuple):
    """A stretch of a part on a row."""

    left: float
    width: float
    place: float


def _segments(
    axes: Axes, spans: Sequence[Stretch], height: float, colour: str, part: str, simulated: bool
) -> list[PathPatch]:
    """Draw stretches of one part as one path: of many, the page would hold every style many times."""
    corners = [
        [(left, place - height / 2), (left + width, place - height / 2), (left + width, place + height / 2),
         (left, place + height / 2), (left, place - height / 2)]
        for left, width, place in spans if width > 0
    ]  # fmt: skip
    if not corners:
        return []
    path = Path.make_compound_path(*(Path(rectangle, closed=True) for rectangle in corners))
    patches = [PathPatch(path, **how) for how in _looks(part, colour, simulated)]
    for patch in patches:
        axes.add_patch(patch)
    axes.update_datalim(path.vertices)
    axes.autoscale_view()
    return patches


def _looks(part: str, colour: str, simulated: bool) -> Looks:
    """Return a part's hatch over its ground: an SVG hatch would take its ground's opacity for its own lines too."""
    opacity, hatch = LOOKS[part]
    face = to_rgba(colour, opacity * (0.55 if simulated else 1))
    outline = {"edgecolor": colour, "linewidth": 0.7, "linestyle": "--" if simulated else "-"}
    if hatch is None or opacity == 0:
        return [{"facecolor": face if opacity else "none", "hatch": hatch, **outline}]
    return [{"facecolor": face, "linewidth": 0}, {"facecolor": "none", "hatch": hatch, **outline}]


def _name_parts(axes: Axes, parts: Sequence[str], simulated: bool) -> None:
    """Name the parts that are drawn, in the page's ink: they look alike in every strategy's colour."""
    handles = [tuple(Patch(**how) for how in _looks(part, INK, simulated)) for part in parts]
    how = {"labels": [TRAINING[part] for part in parts], "handler_map": {tuple: HandlerTuple(ndivide=1)}}
    legend_below(axes, handles, 2, fontsize=8.5, handlelength=2.2, **how)


def _parts_in_words(row: pd.Series, step: float) -> str:
    parts = [f"{TRAINING[part]} {duration(row[part])}" for part in TRAINING if row[part] > 0]
    return f"{row['label']}: {duration(step)} a step ({', '.join(parts)})."


def _most_exchange(rows: pd.DataFrame, steps: pd.Series) -> str:
    """Say who computes least of the time, in its largest other part, and who most."""
    share = rows["compute_s"] / steps
    least, most = share.idxmin(), share.idxmax()
    others = [part for part in TRAINING if part != "compute_s"]
    part = max(others, key=lambda part: rows.loc[least, part])
    taken = rows.loc[least, part] / steps[least]
    text = f"{rows.loc[most, 'label']}: computing takes {100 * share[most]:.0f} % of a step"
    if least == most or taken < 0.01:
        return f"{text}. The parts add up to the step."
    return (
        f"{text}. For {rows.loc[least, 'label']} that share is only {100 * share[least]:.0f} %, because "
        f"{TRAINING[part]} takes {100 * taken:.0f} %. The parts add up to the step."
    )


# -- timeline ----------------------------------------------------------------------------------------------------------


@measured_and_simulated
def timeline_panels(steps: pd.DataFrame, simulated: bool) -> Panel:
    """Draw a few steps of every device on one clock: who waits for whom; a slider goes through the run.

    Args:
        steps: rows of steps.parquet with columns simulated, strategy, label, lane, gpus, cell, window_s, and stop: at
            which share of the run, in percent; times from the window's start.
    """
    end = float(steps["window_s"].max())
    size, unit = time_unit(end)
    stops = sorted(steps["stop"].unique())
    lanes = list(dict.fromkeys(zip(steps["label"], steps["lane"], strict=True)))
    heads = {label: wrapped(str(label)) for label in dict.fromkeys(steps["label"])}
    place = _lane_places(lanes, heads)

    def draw(axes: Axes, palette: Palette) -> None:
        for (number, label, lane), rows in steps.groupby(["stop", "label", "lane"], sort=False):
            _lane(axes, rows, place[label, lane], palette, Clock(size, end, stops.index(number)))
        _name_lanes(axes, place, heads)
        axes.set(xlabel=clock_in_words(unit, simulated), xlim=(0, end / size))
        _name_parts(axes, [part for part in SHOWN_PARTS if steps[part].sum() > 0], simulated)

    return Panel(
        title=f"Who waits for whom: a few steps on one clock, {kind_in_words(simulated)}",
        height_inch=0.7 + LANE_INCH * (max(place.values()) + 0.7),
        draw=draw,
        caption=_longest_wait(steps),
        details=_lanes_in_words(steps),
        table=steps.drop(columns=["simulated", "window_s"]),
        stops=tuple(f"{number:g} % of each run" for number in stops) if len(stops) > 1 else (),
    )


LANE_INCH = 0.23

SHOWN_PARTS = ("input_s", "compute_s", "communication_s", "idle_s")


class Clock(NamedTuple):
    """The clock of a window.

    Attributes:
        size: seconds in one unit of the axis.
        end: of the window, in seconds.
        stop: of the slider at which it is seen.
    """

    size: float
    end: float
    stop: int


def _lane(axes: Axes, rows: pd.DataFrame, place: float, palette: Palette, clock: Clock) -> None:
    """Draw the steps of one device within one window."""
    first = rows.iloc[0]
    ends = rows["start_s"].to_numpy(float)
    for part in SHOWN_PARTS:
        starts, ends = ends, ends + rows[part].to_numpy(float)
        spans = [
            Stretch(begin / clock.size, (stop - begin) / clock.size, place)
            for begin, stop in zip(starts.clip(0, clock.end), ends.clip(0, clock.end), strict=True)
        ]
        said = f"{first['cell']}, {first['lane']}: {TRAINING[part]} {duration(float(rows[part].mean()))} a step here"
        for patch in _segments(axes, spans, 0.72, palette[first["strategy"]], part, bool(first["simulated"])):
            mark(patch, TRAINING[part], said, clock.stop)


def _lane_places(lanes: Sequence[tuple[str, str]], heads: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Return where each lane lies: each point has rows for its name, then one for each device."""
    places: dict[tuple[str, str], float] = {}
    below, named = -1.0, ""
    for label, lane in lanes:
        below += 1.0 if label == named else 2.15 + 0.6 * heads[label].count("\n")
        named, places[label, lane] = label, below
    return places


def _name_lanes(axes: Axes, place: Mapping[tuple[str, str], float], heads: Mapping[str, str]) -> None:
    last = max(place.values())
    for label, head in heads.items():
        first = min(number for (name, _), number in place.items() if name == label)
        write(axes, first - 0.5, head)
    axes.set_yticks(list(place.values()), [lane for _, lane in place], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(last + 0.6, -0.1)
    axes.grid(visible=False, axis="y")


def _waits(steps: pd.DataFrame) -> pd.DataFrame:
    lanes = steps.groupby(["label", "lane"], sort=False)[["compute_s", "communication_s", "idle_s"]].mean()
    return lanes.reset_index()


def _longest_wait(steps: pd.DataFrame) -> str:
    found = _waits(steps)
    worst = found.loc[found["idle_s"].idxmax()]
    note = "The order of the parts within a step is not recorded; they are drawn one after another."
    note += _not_drawn(steps)
    if worst["idle_s"] <= 0.01 * worst["compute_s"]:
        return f"No device waits for more than 1 % of its computing time. {note}"
    same = found[found["label"] == worst["label"]]
    least = same.loc[same["idle_s"].idxmin()]
    text = f"In {worst['label']}, {worst['lane']} waits longest: {duration(worst['idle_s'])} of each step"
    if least["lane"] != worst["lane"]:
        waits = f"waits for {duration(least['idle_s'])}" if least["idle_s"] > 0 else "does not wait"
        text += f", {least['lane']} {waits}"
    return f"{text}. {note}"


def _not_drawn(steps: pd.DataFrame) -> str:
    """Say where a device stands for others: those of one worker are recorded together on the simulated clock."""
    lanes = steps.groupby("label", sort=False).agg(drawn=("lane", "nunique"), gpus=("gpus", "first"))
    fewer = [f"{row.drawn} of {row.gpus} devices of {row.Index}" for row in lanes.itertuples() if row.drawn < row.gpus]
    return f" Only {listed(fewer)} are drawn." if fewer else ""


def _lanes_in_words(steps: pd.DataFrame) -> str:
    return " ".join(
        f"{row.label}, {row.lane}: computing {duration(row.compute_s)}, exposed communication "
        f"{duration(row.communication_s)}, waiting {duration(row.idle_s)} a step."
        for row in _waits(steps).itertuples()
    )


# -- bubbles and staleness ---------------------------------------------------------------------------------------------


THEORY = "theory"


@measured_and_simulated
def bubble_panels(bubbles: pd.DataFrame, simulated: bool) -> Panel:
    """Draw each pipeline's bubble beside its theory.

    Args:
        bubbles: of `harness.analysis.time_parts.bubbles_frame`, with columns simulated and label, one row a label.
    """
    rows = bubbles.head(MOST_BARS)
    known = rows.dropna(subset=["ideal"])
    names = rows_of(f"{row.label}: {100 * row.bubble:.0f} %" for row in rows.itertuples())
    told = [_bubble_in_words(row) for row in rows.itertuples()]

    def draw(axes: Axes, palette: Palette) -> None:
        for place, row, said in zip(names.places, rows.itertuples(), told, strict=True):
            part = "idle_s" if simulated else "compute_s"
            for patch in _segments(
                axes, [Stretch(0, 100 * row.bubble, place)], 0.4, palette[row.strategy], part, simulated
            ):
                mark(patch, name=said)
            if not pd.isna(row.ideal):
                (line,) = axes.plot([100 * row.ideal], [place], "|", color=INK, markersize=16, markeredgewidth=2)
                mark(line, THEORY, said)
        names.name(axes)
        axes.set(xlabel="% of a step in which a stage idles", xlim=(0, None))
        if len(known):
            legend_below(axes, [sample(axes, THEORY, marker="|", markersize=12, linestyle="none")])

    return Panel(
        title=f"Pipeline bubble and theory, {kind_in_words(simulated)}",
        height_inch=0.75 + names.height_inch,
        draw=draw,
        caption=f"{' '.join(told[:3])} The theory assumes equal stages and no transfer time.",
        details=" ".join(told),
        table=rows.drop(columns=["simulated", "cell_id"]),
    )


def _bubble_in_words(row: Any) -> str:
    against = "" if pd.isna(row.ideal) else f"; in theory {row.schedule} idles for {100 * row.ideal:.0f} %"
    name = f"{row.label} ({row.stages} stages, {row.microbatches} micro-batches)"
    return f"A stage of {name} idles for {100 * row.bubble:.0f} % of a step{against}."


@measured_and_simulated
def staleness_panels(staleness: pd.DataFrame, simulated: bool) -> Panel:
    """Draw how old gradients were when they changed the weights.

    Args:
        staleness: columns simulated, strategy, label, gpus, staleness, share; in the order of the
            staleness; shares of a label add up to 1.
    """
    lines = lines_of(staleness.assign(percent=100 * staleness["share"]), "label")

    def draw(axes: Axes, palette: Palette) -> None:
        for line in lines:
            how = look(palette.shade(line.strategy, line.gpus), simulated) | {"marker": line.marker, "markersize": 5}
            (drawn,) = axes.plot(line.rows["staleness"], line.rows["percent"], label=line.label, **how)
            mark(drawn, line.label, _staleness_in_words(line.label, line.rows))
        axes.set(xlabel="updates between reading the weights and changing them", ylabel="% of updates", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        label_ends(axes, ends_of(lines, "staleness", "percent", palette))
        legend_below(axes)

    told = [_staleness_in_words(line.label, line.rows) for line in lines]
    return Panel(
        title=f"Staleness of gradients, {kind_in_words(simulated)}",
        height_inch=2.1,
        draw=draw,
        caption=" ".join(dict.fromkeys((told[0], told[-1]))),
        details=" ".join(told),
        table=staleness.drop(columns=["simulated"]),
    )


def _staleness_in_words(label: str, line: pd.DataFrame) -> str:
    share = line["share"].cumsum()
    middle, late = (int(line["staleness"][share >= part - 1e-9].iloc[0]) for part in (0.5, 0.95))
    return f"Half of the gradients of {label} are at most {counted(middle, 'update')} old, 95 % at most {late}."
