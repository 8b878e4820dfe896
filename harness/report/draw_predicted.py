"""Predictions beside measurements: the simulated hollow with its stated band, the measured filled with its spread."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.predicted import PredictionCheck
from harness.core.uncertainty import STATED
from harness.report.svg import INK, MOST_MARKED, Palette, Panel, legend_below, name_rows, sample, shorten


def predicted_panels(found: Sequence[PredictionCheck], title: str) -> list[Panel]:
    """Draw the predicted against the measured value, which stands at 100 %: one figure for each quantity.

    Args:
        found: of `compare_twins` or `compare_observed`.
        title: of the comparison.
    """
    names = dict.fromkeys(item.quantity.name for item in found)
    return [_predicted([item for item in found if item.quantity.name == name][:MOST_MARKED], title) for name in names]


def _predicted(found: Sequence[PredictionCheck], title: str) -> Panel:
    quantity = found[0].quantity

    def draw(axes: Axes, palette: Palette) -> None:
        axes.axvline(100, color=INK, linewidth=0.8)
        for place, item in enumerate(found):
            _row(axes, place, item, palette[item.strategy])
        name_rows(axes, [f"{shorten(item.where, 40)}: {100 * item.error:+.0f} %" for item in found])
        axes.set(xlabel=f"{quantity.name}, % of the measured value")
        _legend(axes, any(item.stated is not None for item in found))

    return Panel(
        title=f"{title}: {quantity.name}",
        height_inch=1.3 + 0.46 * len(found),
        draw=draw,
        caption=_caption(found),
        details=" ".join(map(_in_words, found)),
        table=_table(found),
    )


def _row(axes: Axes, place: int, item: PredictionCheck, colour: str) -> None:
    share = 100 * item.predicted / item.measured
    low, high = (100 * value / item.measured for value in item.spread)
    axes.plot([low, high], [place + 0.1] * 2, color=colour, linewidth=1.5)
    axes.scatter([100], [place + 0.1], s=30, color=colour, zorder=3)
    axes.scatter([share], [place - 0.1], s=34, facecolor="none", edgecolor=colour, linewidth=1.4, zorder=3)
    if item.stated is not None:
        band = STATED * item.stated * share
        axes.plot([share - band, share + band], [place - 0.1] * 2, "--", color=colour, linewidth=1.2)


def _legend(axes: Axes, stated: bool) -> None:
    name = "simulated, with its stated error" if stated else "simulated, no stated error"
    measured = sample(axes, "measured, minimum to maximum", marker="o")
    hollow = sample(axes, name, marker="o", markerfacecolor="none", linestyle="--" if stated else "none")
    legend_below(axes, [measured, hollow], fontsize=8.5)


def _in_words(item: PredictionCheck) -> str:
    predicted, measured = (item.quantity.text(value) for value in (item.predicted, item.measured))
    return f"{item.where}: predicted {predicted}, measured {measured} ({100 * item.error:+.1f} %)."


def _caption(found: Sequence[PredictionCheck]) -> str:
    worst = max(found, key=lambda item: abs(item.error))
    judged = [item.inside for item in found if item.inside is not None]
    text = f"Largest error: {_in_words(worst)}"
    return text + (f" {sum(judged)} of {len(judged)} measurements lie within the stated error." if judged else "")


def _table(found: Sequence[PredictionCheck]) -> pd.DataFrame:
    columns = ["point", "quantity", "predicted", "measured", "measured_least", "measured_most", "stated_error"]
    rows = [(i.where, i.quantity.name, i.predicted, i.measured, *i.spread, i.stated) for i in found]
    return pd.DataFrame(rows, columns=columns)
