"""Predicted beside measured: simulated cells against real ones of the same point, and against what others observed.

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness.analysis.point_names import on_devices
from harness.analysis.points import Row, number, point_of_twins, points
from harness.analysis.quantities import Quantity
from harness.core.cell import Observation
from harness.core.text import Text
from harness.core.uncertainty import stated_band, stated_words
from harness.core.words import counted

MUCH = 0.1
"""What a prediction may be off by before somebody asks why, though it stated more; chosen: what waits for links states
half of that wait as uncertain."""

MOST_EXPLAINED = 3
"""Observations that predictions miss, and poor scalings, that are explained with a folder's answer, the worst
first; chosen: a screen of text."""

THROUGHPUT = Quantity("throughput_samples_per_s", "throughput", "samples/s")
STEP_TIME = Quantity("step_time_s", "step time", "s")

QUANTITIES = (
    STEP_TIME,
    THROUGHPUT,
    # Which step reaches the target differs from seed to seed, and real and virtual seeds are the same: what is left is
    # time.
    Quantity("time_to_target_s", "time to target", "s"),
    Quantity("dram_tensors_peak_bytes", "counted DRAM", "MiB"),
    Quantity("dram_allocated_peak_bytes", "allocated DRAM", "MiB"),
)


@dataclass(frozen=True)
class PredictionCheck:
    """One quantity of one point, predicted and measured: medians over seeds.

    Attributes:
        strategy: of the point.
        where: the point in words.
        spread: least and most that was measured.
        stated: relative uncertainty of the prediction, one standard deviation; None where none was stated.
        source: who measured it, where that was not this machine.
        cell_ids: a predicted and a measured cell, for a closer look; the second empty where there is none.
    """

    strategy: str
    where: str
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
        low, high = stated_band(self.predicted, self.stated)
        return low <= self.measured <= high

    @property
    def asks_why(self) -> bool:
        """Whether the difference is worth explaining: outside what was stated, or much whatever was stated."""
        return not self.inside or abs(self.error) > MUCH


def compare_twins(rows: Sequence[Row]) -> list[PredictionCheck]:
    """Compare points of which both engines have results, quantity by quantity."""
    groups: dict[tuple[str, ...], tuple[list[Row], list[Row]]] = {}
    for row in rows:
        pair = groups.setdefault(point_of_twins(row), ([], []))
        pair[row["engine"] != "virtual"].append(row)
    names = point_names(rows)
    found = (
        _check(virtual, quantity, _values(real, quantity.column), names, cell_id=str(real[0]["cell_id"]))
        for virtual, real in groups.values()
        if virtual and real
        for quantity in QUANTITIES
    )
    return [check for check in found if check is not None]


def compare_observed(rows: Sequence[Row], observed: Mapping[str, Sequence[Observation]]) -> list[PredictionCheck]:
    """Compare simulated points with what was observed elsewhere.

    Args:
        rows: of cells.csv.
        observed: measurements of each cell by its id.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["engine"] == "virtual" and observed.get(row["cell_id"]):
            groups.setdefault(point_of_twins(row), []).append(row)
    names = point_names(rows)
    found = (
        _check(group, quantity, _values([vars(seen)], quantity.column), names, source=seen.source)
        for group in groups.values()
        for seen in observed[group[0]["cell_id"]]
        if not seen.calibrates
        for quantity in (THROUGHPUT, STEP_TIME)
    )
    return [check for check in found if check is not None]


def _check(
    virtual: Sequence[Row],
    quantity: Quantity,
    measured: Sequence[float],
    names: Mapping[str, str],
    cell_id: str = "",
    source: str = "",
) -> PredictionCheck | None:
    """Return the check of one quantity; None where either side does not have it.

    Args:
        virtual: seeds of the simulated point.
        cell_id: of a measured cell; source: who measured it. One of the two is empty.
    """
    predicted = _values(virtual, quantity.column)
    if not predicted or not measured or median(measured) <= 0:
        return None
    return PredictionCheck(
        strategy=str(virtual[0]["strategy"]),
        where=names[cell_id or virtual[0]["cell_id"]],
        quantity=quantity,
        predicted=median(predicted),
        measured=median(measured),
        num_predicted=len(predicted),
        num_measured=len(measured),
        spread=(min(measured), max(measured)),
        stated=stated_error(virtual) if quantity.timed else None,
        source=source,
        cell_ids=(str(virtual[0]["cell_id"]), cell_id),
    )


def _values(rows: Iterable[Row], column: str) -> list[float]:
    return [value for row in rows if (value := number(row, column)) is not None]


def stated_error(rows: Sequence[Row]) -> float | None:
    """Return the largest uncertainty that predictions of one point state."""
    return max(_values(rows, "stated_error"), default=None)


# -- words -------------------------------------------------------------------------------------------------------------

HEAD = ("point", "quantity", "predicted", "measured", "error", "stated", "inside")


def point_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return by cell id such as "sync-ddp on 2 CPU cores, global batch 32", and how it differs from its like."""
    names = {}
    for point in points(rows, by_target=False):
        for row in point.rows:
            parts = [on_devices(row), f"global batch {row['global_batch_size']}", *point.varied]
            names[str(row["cell_id"])] = ", ".join(parts)
    return names


def in_cells(check: PredictionCheck) -> tuple[str, ...]:
    """Return a check as the texts of one row under `HEAD`."""
    words, (low, high) = check.quantity.text, check.spread
    measured = words(check.measured)
    if check.num_measured > 1:
        measured += f" (n = {check.num_measured}, {words(low)} to {words(high)})"
    elif check.source:
        measured += f" ({check.source})"
    inside = {True: "yes", False: "no", None: ""}[check.inside]
    stated = "" if check.stated is None else stated_words(check.stated)
    error = f"{100 * check.error:+.1f} %"
    return check.where, check.quantity.name, words(check.predicted), measured, error, stated, inside


def summary(checks: Sequence[PredictionCheck]) -> list[Text]:
    """Say for each quantity how far predictions were off, and how often a measurement lay inside what they stated."""
    lines = []
    for quantity in dict.fromkeys(check.quantity for check in checks):
        group = [check for check in checks if check.quantity == quantity]
        errors = [abs(check.error) for check in group]
        points = counted(len(group), "point")
        line = f"{quantity.name}: median error {100 * median(errors):.1f} %, worst {100 * max(errors):.1f} % ({points})"
        judged = [check.inside for check in group if check.inside is not None]
        if judged:
            line += f"; {sum(judged)} of {len(judged)} measurements lie inside the stated uncertainty"
        lines.append(Text(line))
    return lines
