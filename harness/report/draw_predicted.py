"""Predictions beside measurements: the simulated hollow with its stated band, the measured filled with its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.predicted import INSIDE, Comparison
from harness.report.svg import INK, Drawing, drawing, name_rows, new_figure, shorten, style

MOST_ROWS = 16


def predicted_drawings(
    found: Sequence[Comparison], palette: Mapping[str, str], title: str, prefix: str
) -> list[Drawing]:
    """Draw the predicted against the measured value, which stands at 100 %: one figure for each quantity.

    Args:
        found: of `compare_twins` or `compare_observed`.
        palette: colour by strategy.
        title: of the comparison.
        prefix: starts the ids inside the SVG.
    """
    names = dict.fromkeys(item.quantity.name for item in found)
    return [
        _predicted([item for item in found if item.quantity.name == name][:MOST_ROWS], palette, title, f"{prefix}{n}")
        for n, name in enumerate(names)
    ]


def _predicted(found: Sequence[Comparison], palette: Mapping[str, str], title: str, prefix: str) -> Drawing:
    quantity = found[0].quantity
    with style():
        figure, axes = new_figure(1.3 + 0.46 * len(found))
        axes.axvline(100, color=INK, linewidth=0.8)
        for place, item in enumerate(found):
            _row(axes, place, item, next((c for s, c in palette.items() if item.where.startswith(f"{s} on")), INK))
        name_rows(axes, [f"{shorten(item.where, 40)}: {100 * item.error:+.0f} %" for item in found])
        axes.set(xlabel=f"{quantity.name}, % of what was measured")
        _legend(figure, axes, any(item.stated is not None for item in found))
        details = " ".join(_in_words(item) for item in found)
        return drawing(figure, f"{title}: {quantity.name}", _caption(found), details, _table(found), prefix)


def _row(axes: Any, place: int, item: Comparison, colour: str) -> None:
    share = 100 * item.predicted / item.measured
    low, high = (100 * value / item.measured for value in item.spread)
    axes.plot([low, high], [place + 0.1] * 2, color=colour, linewidth=1.5)
    axes.scatter([100], [place + 0.1], s=30, color=colour, zorder=3)
    axes.scatter([share], [place - 0.1], s=34, facecolor="none", edgecolor=colour, linewidth=1.4, zorder=3)
    if item.stated is not None:
        band = INSIDE * item.stated * share
        axes.plot([share - band, share + band], [place - 0.1] * 2, "--", color=colour, linewidth=1.2)


def _legend(figure: Any, axes: Any, stated: bool) -> None:
    hollow = {"marker": "o", "markerfacecolor": "none", "color": INK, "linestyle": "--" if stated else "none"}
    name = "simulated, with its stated band" if stated else "simulated; no band stated"
    handles = [
        axes.plot([], [], label="measured, least to most", marker="o", color=INK)[0],
        axes.plot([], [], label=name, **hollow)[0],
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, fontsize=8.5)


def _in_words(item: Comparison) -> str:
    predicted, measured = (item.quantity.text(value) for value in (item.predicted, item.measured))
    return f"{item.where}: predicted {predicted}, measured {measured} ({100 * item.error:+.1f} %)."


def _caption(found: Sequence[Comparison]) -> str:
    worst = max(found, key=lambda item: abs(item.error))
    judged = [item.inside for item in found if item.inside is not None]
    text = f"Farthest off: {_in_words(worst)}"
    return text + (f" {sum(judged)} of {len(judged)} measurements lie inside the stated band." if judged else "")


def _table(found: Sequence[Comparison]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "point": item.where,
                "quantity": item.quantity.name,
                "predicted": item.predicted,
                "measured": item.measured,
                "measured_least": item.spread[0],
                "measured_most": item.spread[1],
                "stated_error": item.stated,
            }
            for item in found
        ]
    )
