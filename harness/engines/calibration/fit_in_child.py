"""Whether a cell's model takes its data, found by one trial step in a process of its own: this one does without torch.

That a model fits is kept, so that a plan asks once. That it does not is tried anew every time: what has to change for
it may lie in a file of data that nobody has read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.errors import HarnessError, MachineError, Misfit, PluginError, Untrainable
from harness.core.not_known import Hurdle, NotKnown
from harness.core.records import Json, to_json
from harness.core.text import Text
from harness.core.version import __version__
from harness.engines.processes.tasks import answers, started

if TYPE_CHECKING:
    from harness.core.cell import Cell

FITTING_S = 60.0
"""Longest that a trial may keep a plan waiting, imports, data and model in all; chosen: transformers takes 15 s to
import. What takes longer is left to the cells."""

_KIND = "fits"


def fit_in_child(cell: Cell, plugins: Sequence[str], tell: Callable[[str], None]) -> PluginError | NotKnown | None:
    """Return why a cell's model cannot be trained on its data, or why nobody knows; None where it can.

    Args:
        tell: called with what is tried, where it was not tried before.
    """
    key = trial_key(cell)
    if cache.load(_KIND, key) is not None:
        return None
    what = f"trying {cell.workload.model.name} on {cell.workload.dataset.name}"
    tell(what)
    try:
        with started([(_try, (cell, tuple(plugins)))], cell.threads_per_device, cell) as connections:
            (found,) = answers(connections, what, FITTING_S)
    except MachineError as error:
        return NotKnown(Hurdle.PROCESS, Text(str(error)))
    assert found is None or isinstance(found, PluginError | NotKnown)
    if found is None:
        cache.save(_KIND, key, {"fits": True})
    return found


def trial_key(cell: Cell) -> Json:
    """Return everything that a trial follows from, as far as a plan knows it: cells that agree in it share one."""
    work = cell.workload
    return {
        "workload": to_json([work.model, work.dataset, work.loss, work.precision]),
        "code": {key: value for key, value in cell.code.items() if key in ("model", "dataset", "loss", "data")},
        "folder": str(Path(cell.folder).resolve()),
        "device": cell.device if cell.engine == "real" else "cpu",
        "versions": [__version__, metadata.version("torch")],
    }


def _try(cell: Cell, plugins: Sequence[str], control: connection.Connection) -> PluginError | NotKnown | None:
    from harness.engines.shared.setup import make_setup

    device = "cuda:0" if cell.device == "cuda" and cell.engine == "real" else "cpu"
    try:
        setup = make_setup(cell, plugins, device)
    except HarnessError as error:  # the data cannot be had here: running the cell words it
        return NotKnown(Hurdle.LOAD, Text(str(error)))
    try:
        setup.refuse_misfit()
    except (Misfit, Untrainable) as error:
        return error
    except Exception as error:  # building the model is the user's own code
        return NotKnown(Hurdle.BUILD, Text(str(error)))
    finally:
        setup.stop_reading()
    return None
