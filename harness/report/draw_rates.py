"""The map of learning rates: what each rate did with each strategy on each number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from harness.analysis.loss_shape import MEANS, SHAPES, Shape
from harness.core.words import counted, listed
from harness.report.lettering import NAME_ROOM, wrapped
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import INK, Panel, kind_in_words, legend_below

PAINT: dict[Shape, tuple[str, str]] = {
    "stuck": ("#0b4a8a", "#ffffff"),
    "slow": ("#9ecae8", "#000000"),
    "good": ("#009e73", "#ffffff"),
    "oscillating": ("#f5c75c", "#000000"),
    "collapsed": ("#d55e00", "#ffffff"),
    "diverged": ("#6e1a00", "#ffffff"),
}
"""Background and text: blue for too small, green for good, orange to brown for too large; told apart by their
lightness too. After M. Okabe and K. Ito 2008, Color universal design."""

MOST_COLUMNS = 7
"""Chosen: with more, "oscillating" no longer fits into a field at a readable size."""

MOST_MAPS = 8

LEAST_RATES = 3
"""Rates from which on a map comes before the answer: too small, good and too large take three; chosen."""

FIT = 42.0
"""Size of the text times the columns at which "oscillating" still fits into a field."""


def rate_panels(frame: pd.DataFrame) -> list[Panel]:
    """Draw a map for each engine and batch, strategies side by side as far as there is room; none of one rate alone.

    Args:
        frame: of `harness.analysis.rate_regimes.map_frame`.
    """
    if not len(frame) or frame["learning_rate"].nunique() < 2:
        return []
    several = frame["global_batch_size"].nunique() > 1
    maps = []
    for (engine, batch), group in frame.groupby(["engine", "global_batch_size"], sort=False):
        found = group.assign(
            simulated=engine == "virtual",
            name=[" ".join(filter(None, (row.strategy, row.details))) for row in group.itertuples()],
            on=[_workers(row.workers, row.gpus) for row in group.itertuples()],
        )
        maps += [_map(part, f"global batch {batch}" if several else "") for part in _side_by_side(found)]
    return maps[:MOST_MAPS]


def is_a_map(frame: pd.DataFrame) -> bool:
    """Say whether a sweep has several rates and several worker counts: then the map teaches most."""
    if not len(frame):
        return False
    counts = max(frame["workers"].nunique(), frame["gpus"].nunique())
    return bool(frame["learning_rate"].nunique() >= LEAST_RATES and counts > 1)


def _workers(workers: float, gpus: int) -> str:
    """Count workers where each holds its own copy, else devices."""
    number, noun = (int(workers), "worker") if workers == gpus and gpus > 1 else (int(gpus), "device")
    return counted(number, noun)


_Column = tuple[str, str]


def _side_by_side(group: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield parts that fit beside each other, strategies whole where they fit."""
    held: list[_Column] = []
    by_strategy = {name: _columns(part) for name, part in group.groupby("strategy", sort=False)}
    for name in sorted(by_strategy, key=lambda name: (name != "single", len(by_strategy[name]), name)):
        if held and len(held) + len(by_strategy[name]) > MOST_COLUMNS:
            yield _only(group, held)
            held = []
        held += by_strategy[name]
    for start in range(0, len(held), MOST_COLUMNS):
        yield _only(group, held[start : start + MOST_COLUMNS])


def _columns(group: pd.DataFrame) -> list[_Column]:
    """Return (name, workers in words) of each column of a map."""
    return list(dict.fromkeys(zip(group["name"], group["on"], strict=True)))


def _only(group: pd.DataFrame, columns: Sequence[_Column]) -> pd.DataFrame:
    places = {column: place for place, column in enumerate(columns)}
    found = group.assign(place=[places.get(column) for column in zip(group["name"], group["on"], strict=True)])
    return found.dropna(subset=["place"]).sort_values(["place", "learning_rate"])


def _map(group: pd.DataFrame, batch: str) -> Panel:
    kind = kind_in_words(bool(group["simulated"].iloc[0]))
    rates, columns = sorted(group["learning_rate"].unique()), _columns(group)

    def draw(axes: Axes, _: Palette) -> None:
        for row in group.itertuples():
            _field(axes, row, rates.index(row.learning_rate), len(columns), _meaning(row.regime, group))
        _name_axes(axes, columns, rates)
        present = [shape for shape in SHAPES if shape in set(group["regime"])]
        names = [_meaning(shape, group) for shape in present]
        paints = [PAINT[shape][0] for shape in present]
        handles = [Patch(facecolor=paint, label=name) for paint, name in zip(paints, names, strict=True)]
        legend_below(axes, handles, 3, fontsize=8)

    return Panel(
        title=", ".join(filter(None, ("Learning rates by strategy and workers", kind, batch))),
        height_inch=0.7 + 0.52 * len(rates) + 0.15 * max(name.count("\n") for name in _headings(columns)),
        draw=draw,
        caption=rates_in_words(group),
        details=" ".join(f"{r.name}, {r.on}, rate {r.learning_rate:g}: {r.text}." for r in group.itertuples()),
        table=group.drop(columns=["name", "on", "place", "shown", "simulated"]),
    )


def _meaning(shape: Shape | None, group: pd.DataFrame) -> str:
    """Return a shape with what it says of the rate, which is less where seeds reach the target all the same.

    It is empty where a run was too short to have any.
    """
    if shape not in PAINT:
        return ""
    verdicts = set(group[group["regime"] == shape]["verdict"])
    wrong = MEANS[shape]
    if shape == "good" or wrong not in verdicts:
        return shape
    return f"{shape}: {wrong}" + (" unless most seeds reach the target" if len(verdicts) > 1 else "")


def _field(axes: Axes, row: Any, place: int, columns: int, series: str) -> None:
    shape = row.regime if row.regime in PAINT else None
    paint, ink = PAINT[shape] if shape else ("none", INK)
    edges: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.4 if shape else 0.8, "linestyle": "-" if shape else ":"}
    field = axes.add_patch(Rectangle((row.place - 0.48, place - 0.46), 0.96, 0.92, facecolor=paint, **edges))
    about = f"{row.name} on {row.on}, global batch {row.global_batch_size:g}, learning rate {row.learning_rate:g}"
    mark(field, series, f"{about}, {counted(row.seeds, 'seed')}: {row.text}")
    size = min(9.0, FIT / columns)
    how: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    weight = "bold" if shape == "good" else "normal"
    texts = [axes.text(row.place, place + 0.17, shape or "too short", fontsize=size, fontweight=weight, **how)]
    reached = "" if pd.isna(row.reached) else f"reached {int(row.reached)}/{row.seeds}"
    below = "\n".join(filter(None, (_seeds(row) if shape else "", reached)))
    texts.append(axes.text(row.place, place - 0.17, below, fontsize=0.85 * size, linespacing=1.1, **how))
    for text in texts:
        mark(text, series)


def _seeds(row: Any) -> str:
    """Return how many of a point's seeds show its shape."""
    if row.shown < row.seeds:
        return f"{row.shown} of {row.seeds} seeds"
    return "all seeds" if row.seeds > 1 else "1 seed"


def _name_axes(axes: Axes, columns: Sequence[_Column], rates: Sequence[float]) -> None:
    axes.set(xlim=(-0.55, len(columns) - 0.45), ylim=(-0.55, len(rates) - 0.45), ylabel="learning rate")
    axes.set_xticks(range(len(columns)), _headings(columns), fontsize=_heading_size(columns))
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _heading_size(columns: Sequence[_Column]) -> float:
    return min(9.0, FIT / len(columns))


def _headings(columns: Sequence[_Column]) -> list[str]:
    size = _heading_size(columns)
    return ["\n".join(wrapped(word, size, 0.9 * NAME_ROOM / len(columns)) for word in column) for column in columns]


# -- words -------------------------------------------------------------------------------------------------------------


def rates_in_words(group: pd.DataFrame) -> str:
    """Say what the map shows: the good rates of each column, and what is too large where most workers are."""
    by_rates: dict[str, list[str]] = {}
    for column, part in group.groupby(["name", "on"], sort=False):
        by_rates.setdefault(_good(part), []).append(_named(column))
    first = "; ".join(f"{rates} for {listed(names)}" for rates, names in by_rates.items())
    widest = group[group["workers"] == group["workers"].max()]
    if group["workers"].nunique() == 1:
        widest = group[group["gpus"] == group["gpus"].max()]
    return f"Good rates: {first}. {_too_large(widest)}".strip()


def _good(part: pd.DataFrame) -> str:
    good = sorted(part[part["regime"] == "good"]["learning_rate"])
    return listed(f"{rate:g}" for rate in good) or "none"


def _named(column: _Column) -> str:
    name, workers = column
    return f"{name} on {workers}"


def _too_large(widest: pd.DataFrame) -> str:
    large = widest[widest["verdict"] == "too large"]
    if large.empty:
        return ""
    (column, part), *_ = large.groupby(["name", "on"], sort=False)
    rates = [f"{r.learning_rate:g} ({r.shown} of {r.seeds} seeds {r.regime})" for r in part.itertuples()]
    return f"Too large for {_named(column)}: {listed(rates)}."
