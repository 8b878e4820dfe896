"""The map of learning rates: what each rate did with each strategy on each number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.patches import Patch, Rectangle

from harness.analysis.loss_shape import MEANS, SHAPES, Shape
from harness.core.words import counted
from harness.report.svg import INK, Drawing, drawing, kind_in_words, new_figure, shorten, style

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


def rate_drawings(frame: pd.DataFrame, prefix: str) -> list[Drawing]:
    """Draw a map for each engine and batch, strategies side by side as far as there is room; none of one rate alone.

    Args:
        frame: of `harness.analysis.rate_regimes.map_frame`.
        prefix: starts the ids inside the SVG.
    """
    if not len(frame) or frame["learning_rate"].nunique() < 2:
        return []
    maps = []
    for (engine, batch), group in frame.groupby(["engine", "global_batch_size"], sort=False):
        found = group.assign(simulated=engine == "virtual", column=_columns(group))
        maps += [(f"global batch {batch}", part) for part in _side_by_side(found)]
    several = frame["global_batch_size"].nunique() > 1
    return [
        _map(part, batch if several else "", f"{prefix}rates{number}")
        for number, (batch, part) in enumerate(maps[:MOST_MAPS])
    ]


def is_a_map(frame: pd.DataFrame) -> bool:
    """Say whether a sweep has several rates and several worker counts: then the map teaches most."""
    if not len(frame):
        return False
    counts = max(frame["workers"].nunique(), frame["gpus"].nunique())
    return bool(frame["learning_rate"].nunique() >= LEAST_RATES and counts > 1)


def _columns(group: pd.DataFrame) -> list[str]:
    return [
        " ".join(filter(None, (row.strategy, row.details))) + "\n" + _workers(row.workers, row.gpus)
        for row in group.itertuples()
    ]


def _workers(workers: float, gpus: int) -> str:
    """Count workers where each holds its own copy, else devices."""
    number, noun = (int(workers), "worker") if workers == gpus and gpus > 1 else (int(gpus), "device")
    return counted(number, noun)


def _side_by_side(group: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield parts that fit beside each other, strategies whole where they fit."""
    held: list[str] = []
    by_strategy = {name: list(dict.fromkeys(part["column"])) for name, part in group.groupby("strategy", sort=False)}
    order = sorted(by_strategy, key=lambda name: (name != "single", len(by_strategy[name]), name))
    for name in order:
        if held and len(held) + len(by_strategy[name]) > MOST_COLUMNS:
            yield _only(group, held)
            held = []
        held += by_strategy[name]
    for start in range(0, len(held), MOST_COLUMNS):
        yield _only(group, held[start : start + MOST_COLUMNS])


def _only(group: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    kept = group[group["column"].isin(columns)].copy()
    kept["place"] = kept["column"].map({name: place for place, name in enumerate(columns)})
    return kept.sort_values(["place", "learning_rate"])


def _map(group: pd.DataFrame, batch: str, prefix: str) -> Drawing:
    kind = kind_in_words(bool(group["simulated"].iloc[0]))
    title = ", ".join(filter(None, ("Learning rates by strategy and workers", kind, batch)))
    rates = sorted(group["learning_rate"].unique())
    columns = list(dict.fromkeys(group["column"]))
    with style():
        figure, axes = new_figure(1.25 + 0.52 * len(rates))
        for row in group.itertuples():
            _field(axes, row, rates.index(row.learning_rate), len(columns))
        _name_axes(axes, columns, rates)
        present = [shape for shape in SHAPES if shape in set(group["regime"])]
        handles = [
            Patch(facecolor=PAINT[shape][0], label=shape if shape == "good" else f"{shape}: {MEANS[shape]}")
            for shape in present
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
        words = [f"{row.column.replace(chr(10), ', ')}, rate {row.learning_rate:g}: {row.text}." for row in
                 group.itertuples()]  # fmt: skip
        table = group.drop(columns=["column", "place", "simulated"])
        return drawing(figure, title, rates_in_words(group), " ".join(words), table, prefix)


def _field(axes: Any, row: Any, place: int, columns: int) -> None:
    shape = row.regime if row.regime in PAINT else None
    paint, ink = PAINT[shape] if shape else ("none", INK)
    edges: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.4 if shape else 0.8, "linestyle": "-" if shape else ":"}
    axes.add_patch(Rectangle((row.place - 0.48, place - 0.46), 0.96, 0.92, facecolor=paint, **edges))
    size = min(9.0, FIT / columns)
    votes = row.text.rsplit(" ", 3)[1:] if shape else []
    axes.text(
        row.place,
        place + 0.17,
        shape or "too short",
        ha="center",
        va="center",
        color=ink,
        fontsize=size,
        fontweight="bold" if shape == "good" else "normal",
    )
    reached = "" if pd.isna(row.reached) else f"reached {int(row.reached)}/{row.seeds}"
    below = "\n".join(filter(None, (_seeds(votes), reached)))
    axes.text(
        row.place, place - 0.17, below, ha="center", va="center", color=ink, fontsize=0.85 * size, linespacing=1.1
    )


def _seeds(votes: Sequence[str]) -> str:
    """Return how many of a point's seeds show its shape, of words such as "2", "of", "3"; empty for no shape."""
    if not votes:
        return ""
    return f"{' '.join(votes)} seeds" if votes[0] != votes[-1] else "all seeds" if votes[0] != "1" else "1 seed"


def _name_axes(axes: Any, columns: Sequence[str], rates: Sequence[float]) -> None:
    axes.set(xlim=(-0.55, len(columns) - 0.45), ylim=(-0.55, len(rates) - 0.45), ylabel="learning rate")
    names = ["\n".join(shorten(line, 14) for line in column.split("\n")) for column in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=min(9.0, FIT / len(columns)))
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


# -- words -------------------------------------------------------------------------------------------------------------


def rates_in_words(group: pd.DataFrame) -> str:
    """Say what the map shows: the good rates of each column, and what is too large where most workers are."""
    by_rates: dict[str, list[str]] = {}
    for column, part in group.groupby("column", sort=False):
        by_rates.setdefault(_good(part), []).append(_named(str(column)))
    first = "; ".join(f"{rates} for {_list(names)}" for rates, names in by_rates.items())
    widest = group[group["workers"] == group["workers"].max()]
    if group["workers"].nunique() == 1:
        widest = group[group["gpus"] == group["gpus"].max()]
    return f"Good rates: {first}. {_too_large(widest)}".strip()


def _good(part: pd.DataFrame) -> str:
    good = sorted(part[part["regime"] == "good"]["learning_rate"])
    return _list(f"{rate:g}" for rate in good) if good else "none"


def _named(column: str) -> str:
    name, workers = column.split("\n")
    return f"{shorten(name)} on {workers}"


def _too_large(widest: pd.DataFrame) -> str:
    large = widest[widest["verdict"] == "too large"]
    if large.empty:
        return ""
    (column, part), *_ = large.groupby("column", sort=False)
    rates = [f"{row.learning_rate:g} ({row.text.split('; ')[-1]} seeds)" for row in part.itertuples()]
    return f"Too large for {_named(column)}: {_list(rates)}."


def _list(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
