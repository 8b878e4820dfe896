"""Predicted beside measured: simulated cells against real ones of the same point, and against what others observed.

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness.analysis.point_names import devices_in_words
from harness.analysis.points import SWEPT, Row, number, points
from harness.core.cell import Observation
from harness.core.words import counted, duration, share_in_percent

INSIDE = 2.0
"""Standard deviations within which a measurement is said to lie inside the stated uncertainty: 95 % of a normal."""

MOST_EXPLAINED = 3
"""Observations outside the stated uncertainty, and poor scalings, that are explained with a folder's answer, the worst
first; chosen: a screen of text."""

_SAME = (
    *("strategy", "options", "device", "precision", "gpus"),
    *("batch_size", "micro_batch_size", "global_batch_size", "learning_rate", "lr_rule"),
)
"""Columns in which a real cell and its virtual twin agree."""


@dataclass(frozen=True)
class Quantity:
    """Something that is both predicted and measured.

    Attributes:
        column: of cells.csv.
        timed: whether the stated uncertainty, which is one of times, holds for it.
    """

    name: str
    column: str
    timed: bool

    def text(self, value: float) -> str:
        """Write a value with its unit."""
        if self.column == "throughput_samples_per_s":
            return f"{value:,.0f} samples/s" if value >= 99.5 else f"{value:.3g} samples/s"
        return f"{value / 2**20:,.4g} MiB" if self.column.endswith("_bytes") else duration(value)


THROUGHPUT = Quantity("throughput", "throughput_samples_per_s", timed=True)
STEP_TIME = Quantity("step time", "step_time_s", timed=True)

QUANTITIES = (
    STEP_TIME,
    THROUGHPUT,
    # Which step reaches the target differs from seed to seed, and real and virtual seeds are the same: what is left is
    # time.
    Quantity("time to target", "time_to_target_s", timed=True),
    Quantity("counted DRAM", "dram_tensors_peak_bytes", timed=False),
    Quantity("allocated DRAM", "dram_allocated_peak_bytes", timed=False),
)


@dataclass(frozen=True)
class Comparison:
    """One quantity of one point, predicted and measured: medians over seeds.

    Attributes:
        where: the point in words.
        strategy: the point's.
        spread: least and most that was measured.
        stated: relative uncertainty of the prediction, one standard deviation; None where none was stated.
        source: who measured it, where that was not this machine.
        cell_ids: a predicted and a measured cell, for a closer look; the second empty where there is none.
    """

    where: str
    strategy: str
    quantity: Quantity
    predicted: float
    measured: float
    num_predicted: int
    num_measured: int
    spread: tuple[float, float]
    stated: float | None = None
    source: str = ""
    cell_ids: tuple[str, str] = ("", "")

    @property
    def error(self) -> float:
        """What the prediction is off by, as a share of what was measured; above 0 where it says more."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether the measurement lies inside the stated uncertainty; None where none was stated."""
        if self.stated is None:
            return None
        # As a ratio, so that too much and too little count alike however wide the band is.
        ratio = max(self.measured / self.predicted, self.predicted / self.measured)
        return ratio <= 1 + INSIDE * self.stated


def compare_twins(rows: Sequence[Row]) -> list[Comparison]:
    """Compare points of which both engines have results, quantity by quantity."""
    groups: dict[tuple[str, ...], tuple[list[Row], list[Row]]] = {}
    for row in rows:
        pair = groups.setdefault(_point(row), ([], []))
        pair[row["engine"] != "virtual"].append(row)
    names = point_names(rows)
    found = (
        _compare(virtual, real, quantity, names)
        for virtual, real in groups.values()
        if virtual and real
        for quantity in QUANTITIES
    )
    return [comparison for comparison in found if comparison is not None]


def _point(row: Row) -> tuple[str, ...]:
    swept = {key: row[key] for key in sorted(row) if key.startswith(SWEPT)}
    return (*(str(row.get(column)) for column in _SAME), json.dumps(swept, default=str))


def _compare(
    virtual: Sequence[Row], real: Sequence[Row], quantity: Quantity, names: Mapping[str, str]
) -> Comparison | None:
    predicted, measured = (_values(rows, quantity.column) for rows in (virtual, real))
    if not predicted or not measured or median(measured) <= 0:
        return None
    return Comparison(
        where=names[real[0]["cell_id"]],
        strategy=str(real[0]["strategy"]),
        quantity=quantity,
        predicted=median(predicted),
        measured=median(measured),
        num_predicted=len(predicted),
        num_measured=len(measured),
        spread=(min(measured), max(measured)),
        stated=stated_error(virtual) if quantity.timed else None,
        cell_ids=(str(virtual[0]["cell_id"]), str(real[0]["cell_id"])),
    )


def _values(rows: Iterable[Row], column: str) -> list[float]:
    return [value for row in rows if (value := number(row, column)) is not None]


def stated_error(rows: Sequence[Row]) -> float | None:
    """Return the largest uncertainty that predictions of one point state."""
    return max(_values(rows, "stated_error"), default=None)


def compare_observed(rows: Sequence[Row], observed: Mapping[str, Sequence[Observation]]) -> list[Comparison]:
    """Compare simulated points with what was observed elsewhere.

    Args:
        rows: of cells.csv.
        observed: measurements of each cell by its id.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["engine"] == "virtual" and observed.get(row["cell_id"]):
            groups.setdefault(_point(row), []).append(row)
    names = point_names(rows)
    found = (
        _observed(group, measurement, quantity, names)
        for group in groups.values()
        for measurement in observed[group[0]["cell_id"]]
        for quantity in (THROUGHPUT, STEP_TIME)
    )
    return [comparison for comparison in found if comparison is not None]


def _observed(
    rows: Sequence[Row], measurement: Observation, quantity: Quantity, names: Mapping[str, str]
) -> Comparison | None:
    measured, predicted = number(vars(measurement), quantity.column), _values(rows, quantity.column)
    if not measured or not predicted:
        return None
    return Comparison(
        where=names[rows[0]["cell_id"]],
        strategy=str(rows[0]["strategy"]),
        quantity=quantity,
        predicted=median(predicted),
        measured=measured,
        num_predicted=len(predicted),
        num_measured=1,
        spread=(measured, measured),
        stated=stated_error(rows),
        source=measurement.source,
        cell_ids=(str(rows[0]["cell_id"]), ""),
    )


# -- words -------------------------------------------------------------------------------------------------------------

HEAD = ("point", "quantity", "predicted", "measured", "error", "stated", "inside")


def point_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return by cell id such as "sync-ddp on 2 CPU cores, global batch 32", and how it differs from its like."""
    names = {}
    for point in points(rows, by_target=False):
        details = f", {point.details}" if point.details else ""
        for row in point.rows:
            batch = f"global batch {row['global_batch_size']}"
            names[str(row["cell_id"])] = f"{row['strategy']} on {devices_in_words(row)}, {batch}{details}"
    return names


def in_cells(comparison: Comparison) -> tuple[str, ...]:
    """Return a comparison as the texts of one row under `HEAD`."""
    quantity, (low, high) = comparison.quantity, comparison.spread
    measured = quantity.text(comparison.measured)
    if comparison.num_measured > 1:
        measured += f" (n = {comparison.num_measured}, {quantity.text(low)} to {quantity.text(high)})"
    elif comparison.source:
        measured += f" ({comparison.source})"
    inside = {True: "yes", False: "no", None: ""}[comparison.inside]
    stated = "" if comparison.stated is None else f"±{share_in_percent(INSIDE * comparison.stated)}"
    predicted = quantity.text(comparison.predicted)
    return comparison.where, quantity.name, predicted, measured, f"{100 * comparison.error:+.1f} %", stated, inside


def summary(comparisons: Sequence[Comparison]) -> list[str]:
    """Say for each quantity how far predictions were off, and how often a measurement lay inside what they stated."""
    lines = []
    for name in dict.fromkeys(comparison.quantity.name for comparison in comparisons):
        group = [comparison for comparison in comparisons if comparison.quantity.name == name]
        errors = [abs(comparison.error) for comparison in group]
        points = counted(len(group), "point")
        line = f"{name}: median error {100 * median(errors):.1f} %, at worst {100 * max(errors):.1f} %, over {points}"
        judged = [comparison.inside for comparison in group if comparison.inside is not None]
        if judged:
            line += f"; {sum(judged)} of {len(judged)} measurements lie inside the stated uncertainty"
        lines.append(line)
    return lines
