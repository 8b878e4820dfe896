"""What a task takes along to another machine, and how it is made at home there.

Along go the user's files as the run holds them, the plugin files, and what was measured of the machine that a simulated
cell is priced with. Data sets do not: what the scenario names by a path has to be on every machine at that path, and
what is downloaded is downloaded by each.

Where a machine has the same files in the same places (a shared file system, or the machine itself) nothing is written.
Elsewhere they are laid out below a folder of their own, and what comes home has its paths as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from harness.core import cache
from harness.core.cell import Cell
from harness.core.held_files import contents
from harness.core.machine import detect_machine
from harness.core.outside_files import read_outside
from harness.core.text import Text
from harness.costs.cells import MeasuredHere, find_shape, keep_measured, keep_shape, measured_here, needs_measuring
from harness.costs.profiles import ModelShape
from harness.executors.protocol import CellTask, Ended
from harness.executors.run_one import host_of, run_elsewhere


@dataclass(frozen=True)
class TaskParcel:
    """A task with what it takes along.

    Attributes:
        stands: where the command stands: relative names of data begin there.
        home: the scenario's folder, resolved: the user's files lie there.
        files: plugins and files of the user's, by their resolved paths.
        shape: the layers of its model, where they were traced before.
        measured: what its simulated time follows from; None of a cell that needs nothing measured.
    """

    task: CellTask
    stands: str
    home: str
    files: dict[str, bytes]
    shape: ModelShape | None = None
    measured: MeasuredHere | None = None


def packed(task: CellTask) -> TaskParcel:
    """Return a task with what it takes along.

    Raises:
        OSError: a plugin cannot be read.
    """
    cell = task.cell
    measured = measured_here(cell, detect_machine()) if needs_measuring(cell) else None
    away = replace(task, environment=None, log="")  # its record tells of the machine that runs it
    shape = None if cell.not_possible else find_shape(cell, host_of(task.plugins))
    files = _plugin_files(task.plugins) | task.sources | _times_of_layers(task.cell)
    return TaskParcel(away, os.getcwd(), os.path.realpath(cell.folder), files, shape, measured)


@lru_cache(maxsize=8)
def _plugin_files(plugins: tuple[str, ...]) -> dict[str, bytes]:
    """Return the plugins' files; of a folder those in it, of which the host loads what is a plugin."""
    paths = [Path(each) for each in plugins]
    return contents(file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path]))


def _times_of_layers(cell: Cell) -> dict[str, bytes]:
    """Return the file of times that a model without mathematics names."""
    named = cell.workload.model.options.get("profile")
    if not isinstance(named, str) or cell.not_possible:
        return {}
    path = Path(cell.folder) / named
    return {str(path.resolve()): read_outside(path)}


def run_parcel(parcel: TaskParcel) -> Ended:
    """Run a task that has come from another machine.

    Raises:
        KeyboardInterrupt: a signal came; nothing is left running.
        HarnessError: a plugin cannot be loaded here.
    """
    with _laid_out(parcel) as root:
        there = _moved(parcel, root)
        with _priced(parcel, there):
            ended = run_elsewhere(there)
    return _at_home(ended, parcel.task, root)


# -- files -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _laid_out(parcel: TaskParcel) -> Iterator[str]:
    """Stand in the command's folder, and hand out below which folder the files lie; nothing where they are in place."""
    stood = os.getcwd()
    root = "" if _in_place(parcel) else _unpacked(parcel)
    stands = parcel.stands if os.path.isdir(parcel.stands) else root + parcel.stands
    try:
        if os.path.isdir(stands):
            os.chdir(stands)
        yield root
    finally:
        os.chdir(stood)


def _in_place(parcel: TaskParcel) -> bool:
    """Whether this machine has every file that came along, with the same content."""
    with contextlib.suppress(OSError):
        return all(read_outside(Path(path)) == content for path, content in parcel.files.items())
    return False


_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""Where files were laid out, by their digest: modules keep their names through the tasks of a process."""


def _unpacked(parcel: TaskParcel) -> str:
    """Lay the files out below a folder, each with its whole path, and return the folder."""
    where = (parcel.stands, parcel.home, sorted(parcel.files.items()))
    digest = hashlib.sha256(pickle.dumps(where)).hexdigest()
    if digest not in _folders:
        made = tempfile.TemporaryDirectory(prefix="harness-files-")
        root = os.path.realpath(made.name)
        for folder in (parcel.stands, parcel.home):
            os.makedirs(root + folder, exist_ok=True)
        for name, content in parcel.files.items():
            place = Path(root + name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        _folders[digest] = made
    return os.path.realpath(_folders[digest].name)


def _moved(parcel: TaskParcel, root: str) -> CellTask:
    """Return the task as it is run here: every path of its files below `root`."""
    task = parcel.task
    if not root:
        return task
    cell = replace(task.cell, folder=root + parcel.home)
    plugins = tuple(root + os.path.realpath(path) for path in task.plugins)
    return replace(task, cell=cell, plugins=plugins, sources={root + path: text for path, text in task.sources.items()})


def _at_home(ended: Ended, task: CellTask, root: str) -> Ended:
    """Return what came of a task with its paths as they are where it came from."""
    ended = replace(ended, task=task)
    if not root:
        return ended
    record = without_prefix(replace(ended.record, cell=task.cell), root)
    cell = replace(ended.record.cell, folder=task.cell.folder)  # its micro-batch and its notes may have been found here
    log = ended.log.replace(os.fsencode(root), b"")
    return replace(ended, record=replace(record, cell=without_prefix(cell, root)), log=log)


T = TypeVar("T")


def without_prefix(value: T, root: str) -> T:
    """Return a value with a folder that only this process has taken out of every path in its texts, however deep."""
    found: object = value
    if isinstance(value, Text):
        found = Text("".join(str.split(value, root)))
    elif isinstance(value, str):
        found = str.replace(value, root, "") if type(value) is str else value  # others are words of an enumeration
    elif isinstance(value, Mapping):
        found = {key: without_prefix(item, root) for key, item in value.items()}
    elif isinstance(value, tuple) and not hasattr(value, "_fields"):
        found = tuple(without_prefix(item, root) for item in value)
    elif isinstance(value, list):
        found = [without_prefix(item, root) for item in value]
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{each.name: without_prefix(getattr(value, each.name), root) for each in fields(value)})
    return cast("T", found)


# -- what was measured -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _priced(parcel: TaskParcel, there: CellTask) -> Iterator[None]:
    """Let a simulated cell be priced with what was measured where it came from, and with nothing measured here.

    That stands in a cache of its own: in the machine's it would pass for a measurement of the machine.
    """
    with contextlib.ExitStack() as stack:
        if parcel.measured is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-cache-"))
            stack.enter_context(cache.kept_in(folder))
            keep_measured(there.cell, detect_machine(), parcel.measured)
        if parcel.shape is not None:
            keep_shape(there.cell, host_of(there.plugins), parcel.shape)
        yield
