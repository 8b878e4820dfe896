"""Whether a cell's model takes its data, found by one trial step in a process of its own: this one does without torch.

That a model fits is kept, so that a plan asks once. That it does not is tried anew every time: what has to change for
it may lie in a file of data that nobody has read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.errors import HarnessError, MachineError, Misfit, PluginError, Untrainable, words_of_error
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

_KIND = "trial"


@dataclass(frozen=True)
class Fits:
    """What a plan has to know of a model that takes its data.

    Attributes:
        batch_norm: whether a sample's output depends on those that pass with it, through BatchNorm.
    """

    batch_norm: bool


def fit_in_child(cell: Cell, plugins: Sequence[str], tell: Callable[[str], None]) -> Fits | PluginError | NotKnown:
    """Return what a trial step of a cell's model showed, why it cannot be trained on its data, or why nobody knows.

    Args:
        tell: called with what is tried, where it was not tried before.
    """
    key = trial_key(cell)
    if (kept := cache.load(_KIND, key)) is not None:
        return Fits(**kept)
    what = f"trying {cell.workload.model.name} on {cell.workload.dataset.name}"
    tell(what)
    try:
        with started([(_try, (cell, tuple(plugins)))], cell.threads_per_device, cell) as connections:
            (found,) = answers(connections, what, FITTING_S)
    except MachineError as error:
        return NotKnown(Hurdle.PROCESS, Text(str(error)))
    assert isinstance(found, Fits | PluginError | NotKnown)
    if isinstance(found, Fits):
        cache.save(_KIND, key, asdict(found))
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


def _try(cell: Cell, plugins: Sequence[str], control: connection.Connection) -> Fits | PluginError | NotKnown:
    from harness.engines.shared.setup import make_setup

    device = "cuda:0" if cell.device == "cuda" and cell.engine == "real" else "cpu"
    try:
        setup = make_setup(cell, plugins, device)
    except HarnessError as error:  # the data cannot be had here: running the cell words it
        return NotKnown(Hurdle.LOAD, Text(str(error)))
    try:
        return Fits(batch_norm=bool(setup.refuse_misfit().norms))
    except (Misfit, Untrainable) as error:
        return error
    except Exception as error:  # building the model is the user's own code
        return NotKnown(Hurdle.BUILD, Text(words_of_error(error)))
    finally:
        setup.stop_reading()
