"""Results as text: the answer of a folder, one cell, or two cells side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.cell_row import as_shown
from harness.core.endings import Status
from harness.core.errors import InputError, unknown
from harness.core.words import counted, escaped, fenced, recorded
from harness.results.logs import read_log
from harness.results.store import Record, Results, find_results

TAIL_LINES = 20
_IN_HEAD = ("cell_id", "status", "reason", "notes")
"""Columns that the head of a cell's text has said already."""


def show(what: str, root: Path, *, markdown: bool = False, log: bool = False, plugins: Sequence[str] = ()) -> str:
    """Return the text for a path, a scenario's name or a cell's id.

    Args:
        plugins: files whose strategies may be asked what would explain a difference.

    Raises:
        InputError: there is nothing of that name.
    """
    found = cell_at(what, root)
    if found is not None:
        results, cell_id = found
        return _log(results, cell_id) if log else cell_text(results, cell_id)
    return "\n\n".join(folder_text(results, markdown, plugins) for results in folders_at(what, root))


def folders_at(what: str, root: Path) -> list[Results]:
    """Return the scenarios' folders of a path or a scenario's name.

    Raises:
        InputError: there is nothing of that name.
    """
    path = Path(what) if Path(what).exists() else root / what
    if not path.exists():
        known = [folder.parent.name for folder in sorted(root.glob("*/plan.json"))]
        there = f"Scenarios with results: {', '.join(known)}" if known else f"No scenario has results in {root}"
        raise InputError([unknown(f"{what}: no path, scenario or cell of this name", what, known, there)])
    return find_results(path)


def show_pair(first: str, second: str, root: Path, plugins: Sequence[str] = ()) -> str:
    """Return two cells side by side, with what makes the difference and what would account for it.

    Raises:
        InputError: one of them is no finished cell.
    """
    from harness.commands.explain_text import pair_text

    beside = "two of them stand side by side, each by its id or its folder"
    return pair_text(finished(first, root, beside)[0], finished(second, root, beside)[0], plugins)


def finished(what: str, root: Path, then: str) -> tuple[Record, Path]:
    """Return the record of a cell, by its id or its folder, and the folder of its scenario's results.

    Raises:
        InputError: there is none of that name; `then` says what to do.
    """
    found = cell_at(what, root)
    record = found[0].record(found[1]) if found else None
    if found is None or record is None:
        raise InputError([f"{what}: no finished cell; {then}"])
    return record, found[0].folder


def cell_at(what: str, root: Path) -> tuple[Results, str] | None:
    """Return the results that hold a cell, and its id; None where nothing of that name is one."""
    path = Path(what)
    if (path / "record.json").is_file() or path.name == "record.json":
        folder = path if path.is_dir() else path.parent
        return Results(folder.parent.parent), folder.name
    matches = sorted(root.glob(f"*/cells/{what}"))
    return (Results(matches[0].parent.parent), what) if matches else None


def folder_text(results: Results, markdown: bool = False, plugins: Sequence[str] = ()) -> str:
    """Return cells by status, the answer, and predictions beside measurements."""
    from harness.analysis.answer import answer_as_markdown, answer_as_text
    from harness.commands.explain_text import compared_text
    from harness.commands.turning_points import folder_answer

    plan, records = results.plan(), results.records()
    counts = Counter(record.status for record in records.values())
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    head = f"{plan.name}: {len(records)} of {counted(len(plan.cells), 'cell')}" + (
        f" ({by_status})" if by_status else ""
    )
    found = folder_answer(results, plugins)
    others = [f"{r.cell.cell_id}: {r.status}, {r.reason}" for r in records.values() if r.status != Status.OK][:20]
    compared = list(compared_text(results, plugins))
    if not markdown:
        return "\n".join([head, answer_as_text(found), *(f"  {line}" for line in others), *compared])
    lines = [escaped(head), answer_as_markdown(found), *(f"- {escaped(line)}" for line in others)]
    return "\n".join([*lines, *fenced(compared)])


def cell_text(results: Results, cell_id: str) -> str:
    """Return a cell's status, reason, notes, figures and the tail of its log."""
    record = results.record(cell_id)
    if record is None:
        log = _log_path(results, cell_id)
        return f"{cell_id}: not finished" + (f"\n{_tail(log)}" if log.exists() else "")
    lines = [f"{cell_id}: {record.status}", f"  reason: {record.reason}"]
    lines += [f"  note: {note}" for note in record.notes]
    row = as_shown(record.row)
    figures = {name: value for name, value in row.items() if name not in _IN_HEAD and value not in (None, "")}
    lines += [f"  {name}: {recorded(value)}" for name, value in figures.items()]
    lines += [f"  disturbed by: {kind.of(amount)}" for kind, amount in record.disturbances.items()]
    lines += _telemetry(record)
    return "\n".join([*lines, _tail(_log_path(results, cell_id))])


def _log_path(results: Results, cell_id: str) -> Path:
    """Return where a cell's log lies.

    Raises:
        MachineError: a link leads out of the results folder.
    """
    path = results.cell_folder(cell_id) / "log.txt"
    results.refuse_links(path)
    return path


def _telemetry(record: Record) -> list[str]:
    """Return what the probes did not measure, and what a reader of their figures must know."""
    telemetry = (record.detail or {}).get("telemetry") or {}
    lacking = [f"  not measured: {probe}: {reason}" for probe, reason in telemetry.get("unavailable", {}).items()]
    return lacking + [f"  telemetry: {note}" for note in telemetry.get("notes", ())]


def _tail(log: Path) -> str:
    if not log.exists() or not log.stat().st_size:
        return "  log: empty"
    try:
        lines = read_log(log).splitlines()
    except OSError as error:
        return f"  log: cannot be read: {error.strerror}"
    return "\n".join([f"  log (last {min(TAIL_LINES, len(lines))} lines of {log}):", *lines[-TAIL_LINES:]])


def _log(results: Results, cell_id: str) -> str:
    path = _log_path(results, cell_id)
    return read_log(path) if path.exists() else f"{cell_id}: no log"
