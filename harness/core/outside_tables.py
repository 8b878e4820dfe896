"""Parquet files that others made: what they unpack to is counted from their footer before anything is unpacked."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from harness.core.outside_files import open_outside

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

LEAST_ALLOWED = 400 * 2**20
"""Bytes that a file of any size may unpack to; chosen: 50 million numbers, and no machine that trains lacks them."""

MOST_FOLD = 64
"""Beyond that, bytes for each byte of the file; chosen: ten hours of telemetry of eight GPUs unpack to half as much."""

MOST_CHUNKS = 100_000
"""Columns of all row groups; chosen: a thousand columns of a hundred groups, and a second to count them."""

_STRING_FOLD = 14
"""Bytes of a text in Python for each of a short one in a file: 49 more, for 4 of its length there."""


def read_table(path: Path, least_allowed: int = LEAST_ALLOWED, fold: int = MOST_FOLD) -> pyarrow.Table:
    """Return a Parquet file as a table, in which texts that repeat are kept once.

    Args:
        least_allowed: bytes that it may unpack to whatever its size.
        fold: bytes for each of its own that it may unpack to beyond that.

    Raises:
        OSError: it cannot be read, is no file, or unpacks to more; `strerror` says which.
        pyarrow.ArrowException: it is damaged.
    """
    from pyarrow import parquet

    with open_outside(path) as stream:
        found = parquet.ParquetFile(stream)
        allowed = max(least_allowed, fold * os.fstat(stream.fileno()).st_size)
        _refuse_more(path, found.metadata, allowed)
        texts = _texts(found.metadata)
        table = parquet.ParquetFile(_from_start(stream), read_dictionary=texts).read()
    if (num_bytes := sum(column.nbytes for column in table.columns)) > allowed:
        _refuse(path, f"{num_bytes:,} bytes", allowed)
    return table


def read_frame(path: Path) -> pd.DataFrame:
    """Return a Parquet file as a frame; see `read_table`.

    Raises:
        OSError, pyarrow.ArrowException: as there.
    """
    frame = read_table(path).to_pandas()
    repeated = [name for name in frame.columns if frame[name].dtype == "category"]
    return frame.astype(dict.fromkeys(repeated, object))  # each row points at a text that is there once


def _from_start(stream: BinaryIO) -> BinaryIO:
    stream.seek(0)
    return stream


def _refuse_more(path: Path, metadata: parquet.FileMetaData, allowed: int) -> None:
    if metadata.num_row_groups * metadata.num_columns > MOST_CHUNKS:
        _refuse(path, f"{metadata.num_row_groups:,} groups of {metadata.num_columns:,} columns", allowed)
    if (num_bytes := _unpacked_bytes(metadata)) > allowed:
        _refuse(path, f"{num_bytes:,} bytes", allowed)


def _unpacked_bytes(metadata: parquet.FileMetaData) -> int:
    """Return about how many bytes of Python's a file becomes, a text that repeats counted once.

    Source: parquet.thrift, ColumnMetaData: num_values counts what lists hold; sizes are after decompression and before
    decoding, which may repeat one value a billion times.
    """
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(metadata.num_columns):
            column = group.column(place)
            num_values = max(column.num_values, group.num_rows)
            text = column.physical_type == "BYTE_ARRAY"
            total += (1 if column.physical_type == "BOOLEAN" else 8) * num_values
            total += (_STRING_FOLD if text else 1) * column.total_uncompressed_size
    return total


def _texts(metadata: parquet.FileMetaData) -> list[str]:
    columns = map(metadata.schema.column, range(metadata.num_columns))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _refuse(path: Path, size: str, allowed: int) -> None:
    raise OSError(errno.EFBIG, f"it unpacks to {size}, and at most {allowed:,} bytes are read", str(path))
