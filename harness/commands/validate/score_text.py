"""Scores as text, predictions as CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.commands.validate.case_systems import INPUT_BOUND, SCORED_APART
from harness.commands.validate.floor import floor_of
from harness.commands.validate.published import Tables
from harness.commands.validate.refit import left_out_by
from harness.commands.validate.score import (
    PredictedRow,
    Score,
    by_kind,
    by_series,
    by_source,
    coverage,
    error_of,
    score,
)
from harness.core.words import aligned
from harness.costs import profiles
from harness.costs.profiles import FITTED, STATED_ERRORS, Constants

_COLUMNS = (
    *("table", "kind", "case", "series", "model", "strategy", "precision", "gpus", "batch_per_gpu", "microbatches"),
    *("layers", "dp", "tp", "pp", "bytes", "metric", "unit", "value", "predicted", "error", "baseline"),
    *("baseline_error", "input_bound", "reason"),
)

_HEAD = ("rows", "missing", "MAPE", "median", "p95", "bias", "worst", "linear")
_BRIEF = ("rows", "missing", "MAPE", "linear")
_BESIDE = ("left out", "before", "left out")

BEFORE = Path(profiles.__file__).with_name("before.csv")
"""Scores of the published tables a release ago, by kind and by source: beside them one sees what a change is worth."""


def write_csv(predictions: Sequence[PredictedRow], path: Path) -> None:
    """Write one line for each row; the error is in percent, or in points for kinds that are scored so."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(map(_cells, predictions))


def _cells(prediction: PredictedRow) -> list[object]:
    row, degrees = prediction.row, prediction.row.degrees
    split = (degrees.layers, degrees.data, degrees.tensor, degrees.pipeline) if degrees else ("",) * 4
    known = (row.table, row.kind, row.case, row.series, row.model, row.strategy, row.precision)
    numbers = (row.gpus, row.batch_per_gpu, row.microbatches, *split, row.num_bytes, row.metric, row.unit, row.value)
    results = (prediction.predicted, error_of(row, prediction.predicted))
    baseline = (prediction.linear, error_of(row, prediction.linear))
    cells = [
        *known,
        *numbers,
        *results,
        *baseline,
        "yes" if INPUT_BOUND in prediction.apart else "no",
        prediction.reason,
    ]
    return ["" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells]


def report_text(
    published: Tables,
    predictions: Sequence[PredictedRow],
    constants: Constants,
    left_out: Sequence[PredictedRow] | str,
    verbose: bool = False,
) -> str:
    """Return everything that `harness validate` prints.

    Args:
        left_out: the same rows, each predicted with constants fitted without its source; or why nothing was refitted.
    """
    beside = OtherScores(() if isinstance(left_out, str) else left_out)
    unsaid = Counter((p.row.table, p.row.kind, p.reason) for p in predictions if not p.said)
    predictions = [prediction for prediction in predictions if prediction.said]
    lines = [*_introduction(published, predictions), "", *_table("By kind", by_kind(predictions), beside)]
    lines += ["", *_table("By kind and source", by_source(predictions), beside, brief=True)]
    for words in SCORED_APART:
        some = [prediction for prediction in predictions if words in prediction.apart]
        if some:
            lines += ["", *_table(f"Of these, {words}", by_kind(some), brief=True)]
    lines += ["", *_left_out_text(published, left_out)]
    lines += _coverage(predictions if isinstance(left_out, str) else left_out)
    lines += _floors(predictions, beside)
    if verbose:
        lines += ["", *_table("By series", by_series(predictions))]
    missing = Counter((p.row.table, p.row.kind, p.reason) for p in predictions if p.predicted is None)
    lines += [*_reasons("Missing predictions", missing), *_reasons("Not scored, for no scenario says it", unsaid)]
    if published.outcomes:
        lines += ["", f"convergence.csv: {published.outcomes} outcomes of training, which costs cannot predict"]
    return "\n".join([*lines, "", *_constants(constants)])


class OtherScores:
    """What stands beside a score: without the source, and what predictions came to before.

    Args:
        left_out: rows predicted with constants fitted without them.
    """

    def __init__(self, left_out: Sequence[PredictedRow]) -> None:
        groups = {**by_source(left_out), **{(*kind, ""): group for kind, group in by_kind(left_out).items()}}
        self.left_out = {key: score((p.row, p.predicted) for p in group).mape for key, group in groups.items()}
        with BEFORE.open(newline="", encoding="utf-8") as stream:
            self.before = {(r["table"], r["kind"], r["source"], r["rows"]): r for r in csv.DictReader(stream)}

    def figures(self, key: Sequence[str], rows: int) -> tuple[str, str, str]:
        """Return the score without the source, and both as they were before; of other tables there is no before."""
        place = (key[0], key[1], key[2] if len(key) > 2 else "")
        before = self.before.get((*place, str(rows)), {})
        return _figure(self.left_out.get(place)), before.get("mape") or "-", before.get("left_out") or "-"


def _left_out_text(published: Tables, left_out: Sequence[PredictedRow] | str) -> Iterator[str]:
    if isinstance(left_out, str):
        yield f"left out: {left_out}"
        return
    yield "left out: MAPE with constants fitted without the row's source. before: the same two scores, a release ago"
    others = {(p.row.table, p.row.kind, by) for p in left_out if (by := left_out_by(published, p.row)) != "source"}
    for table, kind, by in sorted(others):
        yield f"    {table}: {kind}: one source is all there is, so what is left out are rows of the same {by}"


def _introduction(published: Tables, predictions: Sequence[PredictedRow]) -> Iterator[str]:
    facts = sum(not row.is_input and not row.scored for row in published.rows)
    more = f" ({facts} more rows are facts that nothing predicts)" if facts else ""
    yield f"{published.path}: {len(predictions)} rows to predict, {len(published.inputs)} rows to calibrate on{more}"
    yield "Errors are in percent, or in percentage points at [points]. linear: MAPE of perfect linear scaling."


def _table(
    title: str, groups: Mapping[Any, Sequence[PredictedRow]], beside: OtherScores | None = None, brief: bool = False
) -> Iterator[str]:
    """Return a line for each group, and but for `brief` its worst row."""
    scores = [(key, score((p.row, p.predicted) for p in group), group) for key, group in groups.items()]
    names = (*(_BRIEF if brief else _HEAD), *(_BESIDE if beside else ()))
    rows = [(title, *names)]
    for key, found, group in scores:
        more = beside.figures(key, found.rows) if beside else ()
        rows.append((*_row(key, found, group, brief), *more))
    head, *lines = aligned(rows, right=range(1, len(names) + 1))
    yield head
    for line, (_, found, _) in zip(lines, scores, strict=True):
        yield line
        if found.worst_name and not brief:
            yield f"    worst: {found.worst_name}"


def _row(key: Sequence[str], found: Score, group: Sequence[PredictedRow], brief: bool = False) -> tuple[str, ...]:
    name = f"{key[0]}: {' '.join(part for part in key[1:] if part)}" + (" [points]" if found.points else "")
    linear = score((prediction.row, prediction.linear) for prediction in group)
    figures = [_figure(found.mape)] if brief else _figures(found)
    return name, str(found.rows), str(found.missing or "-"), *figures, _figure(linear.mape)


def _figures(found: Score) -> Iterable[str]:
    return map(_figure, (found.mape, found.median, found.p95, found.bias, found.worst))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _coverage(predictions: Sequence[PredictedRow]) -> Iterator[str]:
    """Say how often a row lies within what its prediction states; a band of two deviations is what `plan` shows."""
    groups: Mapping[str, Sequence[Sequence[PredictedRow]]] = {
        "rows": [predictions],
        "sources, each counting alike": _each_source(predictions),
        **{f"{table}: {kind}": [group] for (table, kind), group in by_kind(predictions).items()},
    }
    rows = [("Of rows that state an uncertainty, share within", "rows", "1 sd", "2 sd")]
    for name, parts in groups.items():
        stating = [part for part in parts if coverage(part, 1.0) is not None]
        if stating:
            count = sum(item.stated is not None and INPUT_BOUND not in item.apart for part in stating for item in part)
            one, two = (fmean(coverage(part, width) or 0.0 for part in stating) for width in (1.0, 2.0))
            rows.append((name, str(count), f"{100 * one:.0f} %", f"{100 * two:.0f} %"))
    if len(rows) > 1:
        yield ""
        yield from aligned(rows, right=range(1, 4))


def _floors(predictions: Sequence[PredictedRow], beside: OtherScores) -> Iterator[str]:
    """Say below what no smooth law of layouts could come, by a fit that knows the very rows."""
    rows = [("Floor: what a free fit to the very rows leaves", "rows", "coefficients", "MAPE", "predicted", "left out")]
    for key, group in by_kind(predictions).items():
        floor, found = floor_of(group), score((p.row, p.predicted) for p in group)
        if floor and not found.points:
            left_out = _figure(beside.left_out.get((*key, "")))
            figures = (str(floor.coefficients), f"{floor.mape:.2f}", _figure(found.mape), left_out)
            rows.append((": ".join(key), str(found.rows), *figures))
    if len(rows) > 1:
        yield ""
        yield from aligned(rows, right=range(1, 6))


def _each_source(predictions: Sequence[PredictedRow]) -> list[list[PredictedRow]]:
    groups: dict[str, list[PredictedRow]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.row.case, []).append(prediction)
    return list(groups.values())


def _reasons(title: str, counts: Counter[tuple[str, str, str]]) -> Iterator[str]:
    if counts:
        yield ""
        yield title
    for (table, kind, reason), count in counts.items():
        yield f"    {count} of {table}, {kind}: {reason}"


def _constants(constants: Constants) -> Iterator[str]:
    yield "Constants, fitted on the published tables"
    rows = ((name, f"{getattr(constants, name):.4g}", fitted.reason) for name, fitted in FITTED.items())
    yield from (f"    {line}" for line in aligned(rows, right=(1,)))
    yield "Stated uncertainty, one standard deviation"
    stated = ((name, f"{item.value:.4g}", item.reason) for name, item in STATED_ERRORS.items())
    yield from (f"    {line}" for line in aligned(stated, right=(1,)))
