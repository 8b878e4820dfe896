"""Fresh runs of what looked slower: beside the night's own results, which they never replace.

results/<scenario>/reruns/<number>/cells/<cell-id>/   as in the results themselves; each record says which rerun it is
results/<scenario>/reruns/reference.json              the reference's runs beside them
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.analysis.points import mean_update_s
from harness.core.cell import point_key
from harness.results.reference import read_reference
from harness.results.store import Results

RERUNS = "reruns"


def rerun_folder(results: Results, number: int) -> Results:
    """Return where the cells of one fresh run lie."""
    return Results(results.folder / RERUNS / str(number), rerun=number)


def fresh_times(results: Results) -> Mapping[str, Sequence[float]]:
    """Return the logarithms of the seconds of an update of all fresh runs that ended, by point."""
    found: dict[str, list[float]] = {}
    for plan in sorted(results.folder.glob(f"{RERUNS}/*/plan.json")):
        for record in Results(plan.parent).records().values():
            if record.status.trained and (seconds := mean_update_s(record.row)):
                found.setdefault(point_key(record.cell), []).append(math.log(seconds))
    return found


def logs_of_reference(folder: Path, kind: str = "") -> tuple[str, list[float]]:
    """Return which loop ran beside the cells, and the logarithms of its seconds; empty where none, or another, ran."""
    found = read_reference(folder)
    if found is None or (kind and found.kind != kind):
        return "", []
    return found.kind, [math.log(run.seconds) for run in found.runs]
