"""Constants refitted without a source: what they are worth for measurements that they have never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from harness.commands.validate.as_layout import looked_at_device, predict_layout
from harness.commands.validate.dispatch import predict_all, predict_row, why_unsaid
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables
from harness.commands.validate.score import PredictedRow, error_of
from harness.costs.profiles import FITTED, PUBLISHED, Constants, FitGroup

if TYPE_CHECKING:
    import numpy as np

_GROUPS: Mapping[str, FitGroup] = {
    "single-node data parallel": "replicas",
    "multi-node": "replicas",
    "parameter server": "replicas",
    "pipeline": "pipelines",
    "pipeline bubble": "pipelines",
    "collectives": "protocols",
}
"""Kinds of rows whose errors decide a group's constants; rows of transformer steps decide theirs, whatever the kind."""

SOFTNESS_PERCENT = 1.5
"""Errors above this count in proportion, not squared: a case that no law explains must not bend the others. Chosen."""

PRIOR_PERCENT = 0.5
"""What it costs to move a constant by half of its range from its prior: chosen, small beside the error of a row."""

_STEP = 0.01
"""Of a constant's range: for the derivatives. Chosen, larger than the kinks of max() and smaller than the range."""

_MOST_ROWS = 120
"""Of one case in a fit: chosen; smooth tables of hundreds of rows say no more, and would drown the other cases."""


def group_of(row: TableRow) -> FitGroup | None:
    """Return the constants that a row's error decides; None where it decides none."""
    return "transformers" if row.degrees else _GROUPS.get(row.kind) if row.scored else None


class ConstantsFit:
    """The errors of a group's rows as a function of its constants.

    A constant's position is 0..1 between its bounds; that of a rate is the position of the time that a byte takes.
    """

    def __init__(self, published: Tables, group: FitGroup, rows: Sequence[TableRow]) -> None:
        import numpy as np

        self.published, self.rows = published, list(rows)
        self.names = [name for name, fitted in FITTED.items() if fitted.group == group]
        bounds = [(_turned(name, FITTED[name].low), _turned(name, FITTED[name].high)) for name in self.names]
        self.low = np.array([min(pair) for pair in bounds])
        self.span = np.array([max(pair) for pair in bounds]) - self.low
        self.prior = self.position({name: FITTED[name].prior for name in self.names})

    def position(self, values: Mapping[str, float]) -> np.ndarray:
        """Return where values are between their bounds."""
        import numpy as np

        turned = np.array([_turned(name, values[name]) for name in self.names])
        position: np.ndarray = (turned - self.low) / self.span
        return position

    def constants(self, position: np.ndarray) -> Constants:
        """Return the constants at a position."""
        values = (self.low + position * self.span).tolist()
        return PUBLISHED.with_values(
            {name: _turned(name, value) for name, value in zip(self.names, values, strict=True)}
        )

    def errors(self, position: np.ndarray) -> np.ndarray:
        """Return the errors of all rows; a missing prediction counts as none."""
        import numpy as np

        predictions = predict_all(self.published, self.constants(position), self.rows)
        return np.array([error_of(p.row, p.predicted) or 0.0 for p in predictions])

    def slopes(self, position: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Return the derivatives of the errors, one column for each constant."""
        import numpy as np

        columns = []
        for number in range(len(self.names)):
            step = _STEP if position[number] + _STEP <= 1 else -_STEP
            moved = position.copy()
            moved[number] += step
            columns.append((self.errors(moved) - errors) / step)
        return np.stack(columns, axis=1)

    def step(self, position: np.ndarray, errors: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Return the best position near one where errors and their derivatives are known."""
        import numpy as np
        from scipy.optimize import least_squares

        def linear(x: np.ndarray) -> np.ndarray:
            return np.concatenate([errors + slopes @ (x - position), (x - self.prior) * 2 * PRIOR_PERCENT])

        inside = np.clip(position, 1e-9, 1 - 1e-9)
        result: np.ndarray = least_squares(
            linear,
            inside,
            bounds=(0.0, 1.0),
            loss="soft_l1",
            f_scale=SOFTNESS_PERCENT,
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
        ).x
        return result


def _turned(name: str, value: float) -> float:
    """Return a rate as the time of a byte, or back; other constants as they are."""
    return 1 / value if name.endswith("_bytes_per_s") else value


def fitted_rows(published: Tables, group: FitGroup) -> list[TableRow]:
    """Return the rows that a group is fitted on; input-bound ones say nothing about links and devices."""
    by_case: dict[str, list[TableRow]] = {}
    for row in published.targets:
        blocks = published.cases.get(row.case, {}).get("systems", ())
        bound = any(row.model in block.get("input_bound", ()) for block in blocks)
        if group_of(row) == group and not bound:
            by_case.setdefault(row.case, []).append(row)
    return [row for rows in by_case.values() for row in rows[:: -(-len(rows) // _MOST_ROWS)]]


class HeldBack(NamedTuple):
    """Rows that are left out of a fit together: those of a source, or some of them.

    Attributes:
        value: what the rows have in common; None where they are all of the source.
    """

    case: str
    value: object = None

    def holds(self, row: TableRow) -> bool:
        """Say whether a row is one of them, of whatever kind."""
        return row.case == self.case and self.value in (None, _trait(row)[1])


def _trait(row: TableRow) -> tuple[str, object]:
    """Return by what rows of one source are told apart, in words, and what the row has."""
    if row.num_bytes:
        return "machine and GPUs", row.series
    if row.degrees:
        return "model size", (row.degrees.hidden, row.degrees.layers)
    return "schedule" if row.strategy in SPLIT_STRATEGIES else "strategy", row.strategy


@lru_cache(maxsize=4)
def _lone_kinds(published: Tables) -> set[tuple[str, str]]:
    """Return the tables and kinds of which one source is all there is."""
    sources: dict[tuple[str, str], set[str]] = {}
    for row in published.targets:
        sources.setdefault((row.table, row.kind), set()).add(row.case)
    return {kind for kind, found in sources.items() if len(found) == 1}


def left_out_by(published: Tables, row: TableRow) -> str:
    """Return in words what is left out of the fit whose constants predict a row."""
    if row.layout:
        return "hidden size" if looked_at_device(row.layout) else "source"
    return _trait(row)[0] if group_of(row) and (row.table, row.kind) in _lone_kinds(published) else "source"


def leave_one_out(published: Tables) -> list[PredictedRow]:
    """Return every row of a fitted group, predicted with constants that were refitted without its source.

    Where one source is all there is of a kind, rows of the same model size, schedule, or machine and number of GPUs are
    left out instead. A refit is one step of Gauss and Newton from the fit on all rows, where derivatives are taken
    once. It may go anywhere, so that a constant of which only the left-out rows knew goes back to its prior.
    Where nothing is left to fit on, the constants are the priors.
    """
    found: list[PredictedRow] = []
    lone = _lone_kinds(published)
    for group in dict.fromkeys(fitted.group for fitted in FITTED.values()):
        problem = ConstantsFit(published, group, fitted_rows(published, group))
        parts: dict[HeldBack, list[TableRow]] = {}
        for row in published.targets:
            if group_of(row) == group:
                part = HeldBack(row.case, _trait(row)[1] if (row.table, row.kind) in lone else None)
                parts.setdefault(part, []).append(row)
        if problem.rows:
            start = problem.position({name: FITTED[name].value for name in problem.names})
            errors = problem.errors(start)
            slopes = problem.slopes(start, errors)
        for part, targets in parts.items():
            kept = [number for number, row in enumerate(problem.rows) if not part.holds(row)]
            position = problem.step(start, errors[kept], slopes[kept]) if kept else problem.prior
            found += predict_all(published, problem.constants(position), targets)
    # Of memory, what an allocator keeps is all that was fitted, and to one source only.
    memory = [row for row in published.targets if row.metric == "peak_memory" and not why_unsaid(row)]
    refitted = partial(predict_layout, refit=True)
    return found + [predict_row(published, row, PUBLISHED, refitted if row.layout else None) for row in memory]
