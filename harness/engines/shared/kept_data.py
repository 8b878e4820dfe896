"""Data that are loaded once for many simulated cells: by the server that their processes are forked from.

A process that is forked has the pages of its parent, so that data which nobody writes to are in memory once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.records import to_json
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.engines.shared.loads import Load
    from harness.workloads.data import Data
    from harness.workloads.entries import Dataset, DataShape, Model

    Prepared = tuple[Data, DataShape, Load]

_prepared: dict[str, tuple[Dataset, Model, Prepared]] = {}
"""By `data_key`; filled in a server, and read in the processes that are forked from it."""


def data_key(cell: Cell) -> str:
    """Return what tells the data of a simulated cell from those of others; empty where each cell loads its own.

    Files of the user's may change while a run goes on, and a measured cell counts what its own processes hold.
    """
    work, goal = cell.workload, cell.goal
    names = (work.model.name, work.dataset.name)
    if cell.engine != "virtual" or cell.timing_only or any(map(is_user_function, names)) or not _is_fixed(names[1]):
        return ""
    judged = (goal.validation_fraction, goal.evaluate_every is not None)
    return json.dumps([names, *map(to_json, (work.dataset, work.loss, work.precision, work.loading)), judged])


def _is_fixed(name: str) -> bool:
    from harness.workloads import harness_datasets

    return any(dataset.name == name and dataset.fixed for dataset in harness_datasets())


def keep(cell: Cell, dataset: Dataset, model: Model, prepared: Prepared) -> None:
    """Keep a cell's data for the processes that will be forked from this one.

    Args:
        dataset, model: that the data were prepared from and for.
    """
    _prepared[data_key(cell)] = dataset, model, prepared


def loaded_before(dataset: Dataset, model: Model, cell: Cell, device: str) -> Prepared | None:
    """Return a cell's data as they were prepared before this process was forked; None where they were not.

    Args:
        dataset, model: as this process knows them: a plugin may have put others in the place of built-in ones.
    """
    found = _prepared.get(data_key(cell)) if device == "cpu" and _prepared else None
    if found is None or found[0] is not dataset or found[1] is not model:
        return None
    data, shape, load = found[2]
    return data, shape, replace(load, cell=cell)
