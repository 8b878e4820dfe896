"""Tables beside records, which may be damaged or a stranger's: read whole, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import InputError
from harness.core.outside_files import csv_rows, read_outside
from harness.core.outside_tables import read_frame, read_table

if TYPE_CHECKING:
    import pandas as pd

    from harness.core.outcome import TableColumns


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV of numbers; what was not measured is not in them.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        rows = csv_rows(read_outside(path))
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def read_columns(path: Path) -> TableColumns:
    """Return a table as columns; a file that is not there, or has no rows, has none. What was not measured is None.

    Args:
        path: a CSV of numbers, or a Parquet file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    if not path.exists():
        return {}
    import pyarrow

    try:
        if path.suffix != ".csv":
            return dict(read_table(path).to_pydict())
        rows = csv_rows(read_outside(path))
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in (rows[0] if rows else ())}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None


def read_parquet(path: Path) -> pd.DataFrame:
    """Return a Parquet file.

    Raises:
        InputError: it cannot be read.
    """
    import pyarrow

    try:
        return read_frame(path)
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return InputError([f"{path}: cannot be read: {reason}; move its cell's folder away to run the cell again"])
