"""Train against validation: who over- and who underfits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.curves import MOST_POINTS, median_curve
from harness.core.words import listed, three
from harness.report.svg import INK, Drawing, drawing, first_of, kind_in_words, new_figure, plain_numbers, shorten, style

MOST_LINES = 6

LOSSES = {"train_loss": "training", "validation_loss": "validation"}


def fit_drawings(
    curves: pd.DataFrame, fits: Mapping[str, str], palette: Mapping[str, str], prefix: str
) -> list[Drawing]:
    """Draw training and validation loss of each strategy's best point, medians over seeds.

    Args:
        curves: columns as in harness.report.frames.CURVE_COLUMNS, of the cells to draw.
        fits: "underfit", "overfit" or "fits" by cell id, where it is known.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    known = curves.dropna(subset=list(LOSSES))
    known = known[(known[list(LOSSES)] > 0).all(axis=1)]
    # Where seeds have no stretch in common there is no median to draw.
    usable = [str(line) for line, rows in known.groupby("line") if _in_common(rows)]
    known = known[known["line"].isin(usable)]
    return [
        _fit(group, fits, palette, bool(simulated), f"{prefix}fit{int(simulated)}")
        for simulated, group in known.groupby("simulated")
    ]


def _in_common(line: pd.DataFrame) -> bool:
    ends = line.groupby("seed")["samples"].agg(["first", "last"])
    return bool(ends["first"].max() <= ends["last"].min())


def _fit(
    curves: pd.DataFrame, fits: Mapping[str, str], palette: Mapping[str, str], simulated: bool, prefix: str
) -> Drawing:
    every = [(str(line), rows) for line, rows in curves.groupby("line", sort=False)]
    lines = every[:MOST_LINES]
    title = f"Train against validation, {kind_in_words(simulated)}, each strategy at its best rate and batch"
    with style():
        figure, axes = new_figure(2.7 + 0.2 * (len(lines) + 1))
        ends = [_line(axes, line, rows, palette[rows["strategy"].iloc[0]], simulated) for line, rows in lines]
        axes.set(xlabel="samples seen", ylabel="loss", yscale="log", xlim=(0, None))
        plain_numbers(axes.yaxis)
        axes.plot([], [], color=INK, linewidth=0.8, linestyle="--" if simulated else "-", label="thin: training")
        figure.legend(loc="outside lower center", ncols=1)
        votes = [_votes(rows, fits) for _, rows in lines]
        details = " ".join(map(_in_words, lines, ends, votes))
        caption = _caption(lines, ends, votes) + first_of(len(lines), len(every))
        return drawing(figure, title, caption, details, _table(lines), prefix)


def _line(axes: Any, line: str, rows: pd.DataFrame, colour: str, simulated: bool) -> tuple[float, float]:
    """Draw both losses of a point; return where they end."""
    ends = []
    for column, kind in LOSSES.items():
        seeds = [(s["samples"].to_numpy(float), s[column].to_numpy(float)) for _, s in rows.groupby("seed")]
        x, y = median_curve(seeds, MOST_POINTS)
        thick = kind == "validation"
        look: dict[str, Any] = {"linestyle": "--" if simulated else "-", "linewidth": 1.8 if thick else 0.8}
        if thick:
            look |= {"marker": "o", "markersize": 4, "markevery": max(1, len(x) // 6), "label": shorten(line)}
            look |= {"markerfacecolor": "none" if simulated else colour}
        axes.plot(x, y, color=colour, **look)
        ends.append(float(y[-1]) if len(y) else float("nan"))
    return ends[0], ends[1]


def _votes(rows: pd.DataFrame, fits: Mapping[str, str]) -> Counter[str]:
    return Counter(fits[cell_id] for cell_id in rows["cell_id"].unique() if cell_id in fits)


def _caption(lines: Sequence[tuple[str, pd.DataFrame]], ends: Sequence[tuple[float, float]], votes: Any) -> str:
    gaps = [(validation / training, line) for (line, _), (training, validation) in zip(lines, ends, strict=True)]
    widest = max((gap for gap in gaps if gap[0] == gap[0]), default=None)
    text = ""
    if widest:
        text = f"The validation loss of {widest[1]} ends at {three(widest[0])} times its training loss"
        text += ", the widest gap. " if len(gaps) > 1 else ". "
    bad = {
        kind: listed(
            f"{line} ({vote[kind]} of {vote.total()} seeds)"
            for (line, _), vote in zip(lines, votes, strict=True)
            if vote[kind]
        )
        for kind in ("overfit", "underfit")
    }
    said = [f"Overfitted: {bad['overfit']}." if bad["overfit"] else ""]
    said += [f"Underfitted: {bad['underfit']}." if bad["underfit"] else ""]
    words = " ".join(filter(None, said)) or ("None over- or underfits." if all(votes) else "")
    return f"{text}{words}".strip() or "Training and validation loss."


def _in_words(line: tuple[str, pd.DataFrame], end: tuple[float, float], votes: Counter[str]) -> str:
    seeds = listed(f"{count} of {votes.total()} seeds {kind}" for kind, count in sorted(votes.items()))
    return f"{line[0]}: training loss {end[0]:.3g}, validation loss {end[1]:.3g}{f'; {seeds}' if seeds else ''}."


def _table(lines: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    return pd.concat([rows[["line", "seed", "samples", *LOSSES]] for _, rows in lines])
