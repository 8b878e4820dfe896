"""Where the time went: parts of a step, a few steps on a common clock, bubbles, staleness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis.time_parts import TRAINING
from harness.core.words import counted, duration, listed, time_unit
from harness.report.svg import (
    INK,
    MARKERS,
    Drawing,
    clock_in_words,
    drawing,
    first_of,
    kind_in_words,
    name_rows,
    new_figure,
    shorten,
    style,
)

LOOKS = {
    "compute_s": (1.0, None),
    "communication_s": (0.4, "//"),
    "idle_s": (0.0, "||"),
    "input_s": (0.25, "xx"),
    "other_s": (0.12, None),
}
"""Opacity of the strategy's colour, and hatch: told apart without colour, in print too."""

SEEN = 1e-3
"""Share of all steps below which a part is not named: it cannot be seen; chosen."""

MOST_BARS = 24
MOST_LANES = 4
"""Devices of a strategy in the timeline; chosen: enough to see who waits for whom."""


def part_drawings(parts: pd.DataFrame, palette: Mapping[str, str], prefix: str, title: str = "") -> list[Drawing]:
    """Draw what a step consists of, a bar for each label: its parts add up to the step.

    Args:
        parts: columns simulated, strategy, label, and seconds of an update by part; one row for each label.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
        title: where it is not the usual one.
    """
    return [
        _parts(group.head(MOST_BARS), palette, title, len(group), f"{prefix}parts{int(simulated)}")
        for simulated, group in parts.groupby("simulated")
    ]


def _parts(rows: pd.DataFrame, palette: Mapping[str, str], title: str, found: int, prefix: str) -> Drawing:
    simulated = bool(rows["simulated"].iloc[0])
    rows = rows.reset_index(drop=True)
    steps = rows[list(TRAINING)].sum(axis=1)
    size, unit = time_unit(float(steps.max()))
    title = f"{title or 'Where the time of a step goes'}, {kind_in_words(simulated)}"
    words = [f"{shorten(row.label)}: {duration(steps[row.Index])}" for row in rows.itertuples()]
    with style():
        figure, axes = new_figure(1.35 + 0.44 * len(rows))
        for place, row in rows.iterrows():
            left = 0.0
            for part in TRAINING:
                segment(axes, place, left / size, row[part] / size, 0.4, palette[row["strategy"]], part, simulated)
                left += row[part]
        name_rows(axes, words)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} per step, mean over devices", xlim=(0, None))
        legend(figure, [part for part in TRAINING if rows[part].sum() > SEEN * steps.sum()], simulated)
        details = " ".join(_parts_in_words(row, steps[row.name]) for _, row in rows.iterrows())
        more = first_of(len(rows), found)
        table = rows.drop(columns=["simulated"])
        return drawing(figure, title, _most_exchange(rows, steps) + more, details, table, prefix)


def segment(
    axes: Any, place: float, left: float, width: float, height: float, colour: str, part: str, simulated: bool
) -> None:
    """Draw one part of a step: by its hatch, with a broken edge where it is simulated."""
    if width <= 0:
        return
    for look in _looks(part, colour, simulated):
        axes.barh(place, width, height, left, **look)


def _looks(part: str, colour: str, simulated: bool) -> list[dict[str, Any]]:
    """Return what lies over each other: an SVG hatch would take its ground's opacity for its own lines too."""
    opacity, hatch = LOOKS[part]
    face = to_rgba(colour, opacity * (0.55 if simulated else 1))
    outline = {"edgecolor": colour, "linewidth": 0.7, "linestyle": "--" if simulated else "-"}
    if hatch is None or opacity == 0:
        return [{"facecolor": face if opacity else "none", "hatch": hatch, **outline}]
    return [{"facecolor": face, "linewidth": 0}, {"facecolor": "none", "hatch": hatch, **outline}]


def legend(figure: Any, parts: Sequence[str], simulated: bool) -> None:
    """Name the parts that are drawn, in the page's ink: they look alike in every strategy's colour."""
    handles = [tuple(Patch(**look) for look in _looks(part, INK, simulated)) for part in parts]
    names = [TRAINING[part] for part in parts]
    over = {tuple: HandlerTuple(ndivide=1)}
    place = {"loc": "outside lower center", "ncols": 2, "fontsize": 8.5, "handlelength": 2.2}
    figure.legend(handles, names, handler_map=over, **place)


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
    text = f"{rows.loc[most, 'label']} computes for {100 * share[most]:.0f} % of a step"
    if least == most or taken < 0.01:
        return f"{text}; the parts add up to the step."
    return (
        f"{text}; {rows.loc[least, 'label']} only for {100 * share[least]:.0f} %, and {TRAINING[part]} takes "
        f"{100 * taken:.0f} % of it. The parts add up to the step."
    )


# -- timeline ----------------------------------------------------------------------------------------------------------


def timeline_drawings(steps: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw a few steps of every device on one clock: who waits for whom.

    Args:
        steps: rows of steps.parquet with columns simulated, strategy, label and lane; times from the window's start.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    return [
        _timeline(group, palette, f"{prefix}timeline{int(simulated)}")
        for simulated, group in steps.groupby("simulated")
    ]


def _timeline(steps: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> Drawing:
    simulated = bool(steps["simulated"].iloc[0])
    end = float(steps["window_s"].max())
    size, unit = time_unit(end)
    title = f"Who waits for whom: a few steps on one clock, {kind_in_words(simulated)}"
    lanes = list(dict.fromkeys(zip(steps["label"], steps["lane"], strict=True)))
    heads = list(dict.fromkeys(steps["label"]))
    # Each strategy has a row for its name, then one for each device.
    place = {lane: number + 1.15 * (heads.index(lane[0]) + 1) for number, lane in enumerate(lanes)}
    with style():
        figure, axes = new_figure(1.2 + 0.23 * (len(lanes) + 1.15 * len(heads)))
        for row in steps.to_dict("records"):
            left = row["start_s"]
            for part in ("input_s", "compute_s", "communication_s", "idle_s"):
                begin, left = max(left, 0.0), left + row[part]
                width, lane = min(left, end) - begin, place[row["label"], row["lane"]]
                segment(axes, lane, begin / size, width / size, 0.72, palette[row["strategy"]], part, simulated)
        _name_lanes(axes, place, heads)
        axes.set(xlabel=clock_in_words(unit, simulated), xlim=(0, end / size))
        legend(figure, [part for part in TRAINING if part != "other_s" and steps[part].sum() > 0], simulated)
        table = steps.drop(columns=["simulated", "window_s"])
        return drawing(figure, title, _longest_wait(steps), _lanes_in_words(steps), table, prefix)


def _name_lanes(axes: Any, place: Mapping[tuple[str, str], float], heads: Sequence[str]) -> None:
    last = max(place.values())
    for head in heads:
        first = min(number for (label, _), number in place.items() if label == head)
        axes.annotate(shorten(head), (0, first - 0.78), xycoords=axes.get_yaxis_transform(), xytext=(2, 0),
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
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
    note = "Parts of a step stand one after another: their order within it is not recorded."
    note += _not_drawn(steps)
    if worst["idle_s"] <= 0.01 * worst["compute_s"]:
        return f"No device waits for another by more than 1 % of its computing. {note}"
    same = found[found["label"] == worst["label"]]
    least = same.loc[same["idle_s"].idxmin()]
    text = f"Of {worst['label']}, {worst['lane']} waits longest: {duration(worst['idle_s'])} of each step"
    if least["lane"] != worst["lane"]:
        text += f", {least['lane']} for {duration(least['idle_s']) if least['idle_s'] > 0 else 'nothing'}"
    return f"{text}. {note}"


def _not_drawn(steps: pd.DataFrame) -> str:
    """Say where a device stands for others: those of one worker are recorded together on the simulated clock."""
    lanes = steps.groupby("label", sort=False).agg(drawn=("lane", "nunique"), gpus=("gpus", "first"))
    fewer = [f"{row.drawn} of {row.gpus} devices of {row.Index}" for row in lanes.itertuples() if row.drawn < row.gpus]
    return f" Drawn: {listed(fewer)}." if fewer else ""


def _lanes_in_words(steps: pd.DataFrame) -> str:
    return " ".join(
        f"{row.label}, {row.lane}: computing {duration(row.compute_s)}, exposed communication "
        f"{duration(row.communication_s)}, waiting {duration(row.idle_s)} a step."
        for row in _waits(steps).itertuples()
    )


# -- bubbles and staleness ---------------------------------------------------------------------------------------------


def bubble_drawings(bubbles: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw each pipeline's bubble beside its theory.

    Args:
        bubbles: of `harness.analysis.time_parts.bubbles_frame`, with columns simulated and label, one row a label.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    return [
        _bubbles(group.head(MOST_BARS).reset_index(drop=True), palette, f"{prefix}bubble{int(simulated)}")
        for simulated, group in bubbles.groupby("simulated")
    ]


def _bubbles(rows: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> Drawing:
    simulated = bool(rows["simulated"].iloc[0])
    title = f"Pipeline bubble beside theory, {kind_in_words(simulated)}"
    words = [f"{shorten(row.label)}: {100 * row.bubble:.0f} %" for row in rows.itertuples()]
    with style():
        figure, axes = new_figure(1.1 + 0.46 * len(rows))
        for place, row in rows.iterrows():
            part = "idle_s" if simulated else "compute_s"
            segment(axes, place, 0, 100 * row["bubble"], 0.4, palette[row["strategy"]], part, simulated)
        known = rows.dropna(subset=["ideal"])
        axes.scatter(100 * known["ideal"], known.index, marker="|", s=260, color=INK, linewidth=2, label="theory")
        name_rows(axes, words)
        axes.set(xlabel="% of a step in which a stage idles", xlim=(0, None))
        if len(known):
            figure.legend(loc="outside lower center")
        caption = " ".join(_bubble_in_words(row) for row in rows.head(3).itertuples())
        caption += " Theory: equal stages, free links."
        details = " ".join(_bubble_in_words(row) for row in rows.itertuples())
        return drawing(figure, title, caption, details, rows.drop(columns=["simulated", "cell_id"]), prefix)


def _bubble_in_words(row: Any) -> str:
    against = "" if pd.isna(row.ideal) else f" where {row.schedule} alone makes it {100 * row.ideal:.0f} %"
    name = f"{row.label} ({row.stages} stages, {row.microbatches} micro-batches)"
    return f"A stage of {name} idles for {100 * row.bubble:.0f} % of a step{against}."


def staleness_drawings(staleness: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw how old gradients were when they changed the weights.

    Args:
        staleness: columns simulated, strategy, label, gpus, staleness, share; shares of a label add up to 1.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    return [
        _staleness(group, palette, f"{prefix}staleness{int(simulated)}")
        for simulated, group in staleness.groupby("simulated")
    ]


def _staleness(rows: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> Drawing:
    simulated = bool(rows["simulated"].iloc[0])
    title = f"Staleness of gradients, {kind_in_words(simulated)}"
    counts = sorted(rows["gpus"].unique())
    sentences = []
    with style():
        labels = list(dict.fromkeys(rows["label"]))
        figure, axes = new_figure(2.3 + 0.2 * len(labels))
        for label in labels:
            line = rows[rows["label"] == label].sort_values("staleness")
            marker = MARKERS[counts.index(line["gpus"].iloc[0]) % len(MARKERS)]
            colour = palette[line["strategy"].iloc[0]]
            look = {"markerfacecolor": "none" if simulated else colour, "linestyle": "--" if simulated else "-"}
            axes.plot(line["staleness"], 100 * line["share"], color=colour, marker=marker, markersize=5,
                      label=shorten(label), **look)  # fmt: skip
            sentences.append(_staleness_in_words(label, line))
        axes.set(xlabel="updates between reading the weights and changing them", ylabel="% of updates", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.legend(loc="outside lower center", ncols=1)
        table = rows.drop(columns=["simulated"])
        return drawing(
            figure, title, " ".join(dict.fromkeys((sentences[0], sentences[-1]))), " ".join(sentences), table, prefix
        )


def _staleness_in_words(label: str, line: pd.DataFrame) -> str:
    share = line["share"].cumsum()
    middle, late = (int(line["staleness"][share >= part - 1e-9].iloc[0]) for part in (0.5, 0.95))
    return f"Half of the updates of {label} are at most {counted(middle, 'update')} old, 95 % at most {late}."
