"""Train against validation: who over- and who underfits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.curves import MOST_POINTS, median_curve
from harness.core.words import listed, three
from harness.report.end_labels import LineEnd, label_ends
from harness.report.marks import mark, name_cells
from harness.report.shades import Palette
from harness.report.svg import (
    MOST_LINES,
    Panel,
    first_of,
    kind_in_words,
    legend_below,
    look,
    measured_and_simulated,
    plain_numbers,
    sample,
)

BOTH_LOSSES = ("train_loss", "validation_loss")


class _Fit(NamedTuple):
    """One point: its cells, the medians of their losses, (x, y) each, and how many of its seeds fit how."""

    line: str
    name: str
    strategy: str
    gpus: int
    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    votes: Counter[str]

    @property
    def ends(self) -> tuple[float, float]:
        """Where training and validation loss end."""
        training, validation = (float(y[-1]) if len(y) else float("nan") for _, y in (self.training, self.validation))
        return training, validation

    def end(self, palette: Palette) -> LineEnd:
        """Where its validation loss ends."""
        x, y = self.validation
        return LineEnd(
            float(x[-1]), float(y[-1]), self.gpus, self.strategy, palette.shade(self.strategy, self.gpus), self.line
        )


@measured_and_simulated
def fit_panels(curves: pd.DataFrame, simulated: bool, fits: Mapping[str, str]) -> Panel | None:
    """Draw training and validation loss of each strategy's best point, medians over seeds.

    Args:
        curves: columns as in harness.report.frames.CURVE_COLUMNS, of the cells to draw.
        fits: "underfit", "overfit" or "fits" by cell id, where it is known.
    """
    known = curves.dropna(subset=list(BOTH_LOSSES))
    known = known[(known[list(BOTH_LOSSES)] > 0).all(axis=1)]
    # Where seeds have no stretch in common there is no median to draw.
    every = [(str(line), rows) for line, rows in known.groupby("line", sort=False) if _in_common(rows)]
    if not every:
        return None
    points = [_fit(line, rows, fits) for line, rows in every[:MOST_LINES]]

    def draw(axes: Axes, palette: Palette) -> None:
        for point in points:
            how = look(palette.shade(point.strategy, point.gpus), simulated)
            (thin,) = axes.plot(*point.training, linewidth=0.8, **how)
            marks: dict[str, Any] = {"marker": "o", "markersize": 4, "markevery": max(1, len(point.validation[0]) // 6)}
            (thick,) = axes.plot(*point.validation, linewidth=1.8, label=point.line, **marks, **how)
            for artist, kind in ((thin, "training loss"), (thick, "validation loss")):
                mark(artist, point.line, f"{point.name}: {kind}")
        axes.set(xlabel="samples seen", ylabel="loss", yscale="log", xlim=(0, None))
        plain_numbers(axes.yaxis)
        label_ends(axes, [point.end(palette) for point in points if len(point.validation[0])])
        sample(axes, "thin: training loss", linewidth=0.8, linestyle="--" if simulated else "-")
        legend_below(axes)

    return Panel(
        title=f"Training and validation loss, {kind_in_words(simulated)}, each strategy at its best rate and batch",
        height_inch=2.5,
        draw=draw,
        caption=_caption(points) + first_of(len(points), len(every)),
        details=" ".join(map(_in_words, points)),
        table=pd.concat([rows[["line", "seed", "samples", *BOTH_LOSSES]] for _, rows in every[:MOST_LINES]]),
    )


def _in_common(line: pd.DataFrame) -> bool:
    ends = line.groupby("seed")["samples"].agg(["first", "last"])
    return bool(ends["first"].max() <= ends["last"].min())


def _fit(line: str, rows: pd.DataFrame, fits: Mapping[str, str]) -> _Fit:
    seeds = [seed for _, seed in rows.groupby("seed")]
    training, validation = (
        median_curve([(seed["samples"].to_numpy(float), seed[column].to_numpy(float)) for seed in seeds], MOST_POINTS)
        for column in BOTH_LOSSES
    )
    votes = Counter(fits[cell_id] for cell_id in rows["cell_id"].unique() if cell_id in fits)
    first = rows.iloc[0]
    name = name_cells(line, rows)
    return _Fit(line, name, str(first["strategy"]), int(first["gpus"]), training, validation, votes)


def _caption(points: Sequence[_Fit]) -> str:
    gaps = [(point.ends[1] / point.ends[0], point.line) for point in points]
    widest = max((gap for gap in gaps if gap[0] == gap[0]), default=None)
    text = ""
    if widest:
        several = f"{widest[1]} has the widest gap: its validation loss"
        head = several if len(gaps) > 1 else f"The validation loss of {widest[1]}"
        text = f"{head} ends at {three(widest[0])} times its training loss. "
    said = [f"Overfitted: {_who(points, 'overfit')}."] if _who(points, "overfit") else []
    said += [f"Underfitted: {_who(points, 'underfit')}."] if _who(points, "underfit") else []
    words = " ".join(said) or ("No strategy overfits or underfits." if all(point.votes for point in points) else "")
    return f"{text}{words}".strip() or "Training and validation loss."


def _who(points: Sequence[_Fit], fit: str) -> str:
    return listed(f"{p.line} ({p.votes[fit]} of {p.votes.total()} seeds)" for p in points if p.votes[fit])


def _in_words(point: _Fit) -> str:
    training, validation = point.ends
    seeds = listed(f"{count} of {point.votes.total()} seeds {kind}" for kind, count in sorted(point.votes.items()))
    end = f"; {seeds}" if seeds else ""
    return f"{point.line}: training loss {training:.3g}, validation loss {validation:.3g}{end}."
