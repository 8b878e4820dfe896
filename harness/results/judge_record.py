"""Records and plans of strangers: what the analyses trust is looked at once, where it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args, get_type_hints

from harness.analysis.cell_row import identity_row
from harness.core.records import Json, Unreadable
from harness.core.row import WholeRow

if TYPE_CHECKING:
    from harness.core.cell import Cell, Plan

_TYPES: dict[type, tuple[type, ...]] = {float: (float, int)}
"""What may stand for a type; any other only for itself."""

ONE_CELL = ("strategy", "engine", "gpus", "global_batch_size", "seed")
"""What of a cell its record, the record's row and the plan have to agree in: analyses take each of them from any."""

_TABLES = ("facts", "dram", "host_seconds", "telemetry", "failure")
"""Parts of a record's detail that are tables."""

_LONGEST_ID = 255
"""Bytes of a folder's name in most file systems."""


def judged_row(cell: Cell, row: Json, status: str, environment: str) -> Json:
    """Return a record's row as the analyses take it: each column of its type, and what it lacks of the cell put in.

    Args:
        cell: of the record.
        row: as it is stored.
        status: of the record.
        environment: id of the record's environment.

    Raises:
        Unreadable: a column is of another type, or says something else than the cell.
    """
    _refuse_sizes(cell)
    known = identity_row(cell, environment) | {"status": status}
    whole = known | row
    for column, value in whole.items():
        _refuse_value(column, value)
    for column in ("cell_id", "status", *ONE_CELL):
        if whole[column] != known[column]:
            raise Unreadable(f"row.{column}: it is not the cell's, {known[column]}")
    _refuse_options(whole["options"])
    return whole


def judged_plan(plan: Plan) -> Plan:
    """Return a plan whose cells have names that folders can have.

    Raises:
        Unreadable: one has not.
    """
    for cell in plan.cells:
        refuse_id(cell.cell_id)
        _refuse_sizes(cell)
    return plan


def _refuse_sizes(cell: Cell) -> None:
    if min(cell.gpus, cell.global_batch_size) < 1:
        raise Unreadable(f"gpus, global_batch_size: {cell.gpus}, {cell.global_batch_size}, expected 1 or more")


def refuse_id(cell_id: str) -> None:
    """Refuse an id that is no name of a folder.

    Raises:
        Unreadable: it would lead elsewhere.
    """
    if not cell_id or "/" in cell_id or cell_id[0] == "." or len(cell_id.encode()) > _LONGEST_ID:
        raise Unreadable(f"cell_id: {cell_id[:_LONGEST_ID]!r} names no folder")


def _columns() -> dict[str, tuple[type, ...]]:
    """Return the types that a value of each column may have."""
    hints = get_type_hints(WholeRow)
    parts = {name: get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: tuple(t for part in known for t in _TYPES.get(part, (part,))) for name, known in parts.items()}


_COLUMNS = _columns()


def _refuse_value(column: str, value: object) -> None:
    if value is None or column.startswith("swept "):
        return
    allowed = _COLUMNS.get(column, (str, float, int, bool))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise Unreadable(f"row.{column}: {type(value).__name__}, expected {names}")


def _refuse_options(options: object) -> None:
    try:
        table = json.loads(options) if isinstance(options, str) else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise Unreadable("row.options: no table in JSON")


def refuse_detail(detail: Json) -> None:
    """Refuse a record's detail whose parts are not what is read from them.

    Raises:
        Unreadable: one is not.
    """
    for key in _TABLES:
        if not isinstance(detail.get(key) or {}, Mapping):
            raise Unreadable(f"detail.{key}: expected a table")
    for kind, num_bytes in (detail.get("dram") or {}).items():
        if not isinstance(num_bytes, (int, float)):
            raise Unreadable(f"detail.dram.{kind}: expected a number")
    telemetry = detail.get("telemetry") or {}
    for key in ("unavailable", "energy", "lost"):
        if not isinstance(telemetry.get(key, {}), Mapping):
            raise Unreadable(f"detail.telemetry.{key}: expected a table")
    if not isinstance(telemetry.get("notes", []), (list, tuple)):
        raise Unreadable("detail.telemetry.notes: expected a list")
