"""`harness export`: find a cell, refuse what has no counterpart, make its script in another process, and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.commands.export_script.refused import why_not
from harness.commands.show_text import finished
from harness.core.errors import HarnessError, InputError, PluginError
from harness.engines.calibration.look_in_child import LOOKING_S
from harness.engines.processes.tasks import answers, started

if TYPE_CHECKING:
    from harness.commands.export_script.make_script import PlainScript
    from harness.core.cell import Cell

    Stages = Sequence[Sequence[str]]
    from harness.results.store import Record


def write_exported(what: str, root: Path, to: Path | None, plugins: Sequence[str] = ()) -> str:
    """Write a cell's script; return what to say of it.

    Raises:
        InputError: there is no such finished cell, a script of it cannot be written, or the file is there already.
        PluginError: the model or the data fail.
    """
    record, folder = finished(what, root, "give the id that `harness show SCENARIO` lists, or its folder")
    cell = replace(record.cell, folder=str(_folder(record.cell, folder)))
    steps = int(record.row.get("steps") or 0)
    reason = why_not(cell) or (None if steps else f"it has not trained: {record.status}, {record.reason}")
    if reason is not None:
        raise InputError([f"{cell.cell_id}: {reason}"])
    target = to or Path(f"{Path(cell.workload.model.name.partition(':')[0]).stem}_{cell.strategy.replace('-', '_')}.py")
    if target.exists():
        raise InputError([f"{target} already exists and was not changed; choose another name by --to"])
    script = _in_child(cell, steps, _placement(record), target.resolve(), plugins)
    target.write_text(script.text, encoding="utf-8")
    written = [str(target)]
    for name, arrays in script.arrays.items():
        import numpy as np

        np.savez_compressed(target.with_name(name), **arrays)  # type: ignore[arg-type]
        written.append(str(target.with_name(name)))
    start = next(line.strip() for line in script.text.splitlines()[1:] if line.strip())
    return "\n".join([f"wrote {' and '.join(written)}; next: {start}", *(f"note: {note}" for note in script.notes)])


def _folder(cell: Cell, results: Path) -> Path:
    """Return what the cell's files are relative to; a relative folder is that of where the run was started."""
    given = Path(cell.folder)
    name = cell.workload.model.name.rpartition(":")[0]
    run_from = results.resolve().parent.parent
    there = [given, run_from / given]
    return next((folder for folder in there if (folder / name).exists()), given).resolve()


def _placement(record: Record) -> Stages | None:
    """Return the names of each stage's layers: as recorded, else as the scenario names them."""
    recorded = ((record.detail or {}).get("facts") or {}).get("placement")
    given = record.cell.options.get("placement")
    return recorded or (None if isinstance(given, str) else given)


def _in_child(cell: Cell, steps: int, placement: Stages | None, target: Path, plugins: Sequence[str]) -> PlainScript:
    with started([(_make, (cell, steps, placement, target, tuple(plugins)))], 1, cell) as connections:
        (made,) = answers(connections, f"exporting {cell.cell_id}", LOOKING_S)
    if isinstance(made, tuple):
        code, text = made
        raise InputError([text]) if code == InputError.exit_code else PluginError(text)
    return cast("PlainScript", made)


def _make(
    cell: Cell,
    steps: int,
    placement: Stages | None,
    target: Path,
    plugins: tuple[str, ...],
    control: connection.Connection,
) -> PlainScript | tuple[int, str]:
    """Return the script, or the exit code and the words of its refusal: an exception would arrive without its kind."""
    from harness.commands.export_script.make_script import make_script

    try:
        return make_script(cell, steps, placement, target, plugins)
    except HarnessError as error:
        return error.exit_code, str(error)
