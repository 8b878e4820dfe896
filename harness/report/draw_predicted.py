"""Predictions beside measurements: the simulated hollow with its stated band, the measured filled with its spread."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.predicted import PredictionCheck
from harness.core.uncertainty import stated_band
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import INK, MOST_MARKED, Panel, legend_below, plain_numbers, rows_of, sample, spans_decades


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
    rows = rows_of(f"{item.where}: {100 * item.error:+.0f} %" for item in found)
    wide = spans_decades(value for item in found for value in _values(item))

    def draw(axes: Axes, palette: Palette) -> None:
        for place, item in zip(rows.places, found, strict=True):
            axes.plot([100, 100], [place - 0.22, place + 0.25], color=INK, linewidth=0.8)  # free of the names
            _row(axes, place, item, palette[item.strategy])
        rows.name(axes)
        if wide:
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        axes.set(xlabel=f"{quantity.name}, % of the measured value")
        _legend(axes, any(item.stated is not None for item in found))

    return Panel(
        title=f"{title}: {quantity.name}",
        height_inch=0.75 + rows.height_inch,
        draw=draw,
        caption=_caption(found),
        details=" ".join(map(_in_words, found)),
        table=_table(found),
    )


def _values(item: PredictionCheck) -> list[float]:
    """Return all that is drawn of a comparison, in percent of the measured value."""
    band = () if item.stated is None else stated_band(item.predicted, item.stated)
    return [100 * value / item.measured for value in (item.measured, item.predicted, *item.spread, *band)]


def _row(axes: Axes, place: float, item: PredictionCheck, colour: str) -> None:
    _, share, low, high, *band = _values(item)
    said = _in_words(item)
    (spread,) = axes.plot([low, high], [place + 0.1] * 2, color=colour, linewidth=1.5)
    (measured,) = axes.plot([100], [place + 0.1], "o", markersize=5.5, color=colour, zorder=3)
    for artist in (spread, measured):
        mark(artist, MEASURED, said)
    series = _simulated(item.stated is not None)
    (hollow,) = axes.plot([share], [place - 0.1], "o", markersize=5.8, markerfacecolor="none", color=colour, zorder=3)
    mark(hollow, series, said)
    if band:
        (line,) = axes.plot(band, [place - 0.1] * 2, "--", color=colour, linewidth=1.2)
        mark(line, series, said)


MEASURED = "measured, minimum to maximum"


def _simulated(stated: bool) -> str:
    return "simulated, with its stated error" if stated else "simulated, no stated error"


def _legend(axes: Axes, stated: bool) -> None:
    measured = sample(axes, MEASURED, marker="o")
    hollow = sample(axes, _simulated(stated), marker="o", markerfacecolor="none", linestyle="--" if stated else "none")
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
