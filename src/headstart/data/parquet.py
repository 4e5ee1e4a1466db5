"""Tables as Parquet files in memory, with a checksum on every page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, row_groups: Sequence[int]) -> bytes:
    """The table as a Parquet file with row groups of these lengths."""
    sink = pa.BufferOutputStream()
    options: dict[str, Any] = {
        "compression": "snappy",
        "use_dictionary": False,  # hardly a float occurs twice
        "write_page_checksum": True,
        "write_statistics": ["episode_index"],
        "store_schema": True,
    }
    start = 0
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        for length, same in itertools.groupby(row_groups):
            rows = length * sum(1 for _ in same)
            writer.write_table(table.slice(start, rows), row_group_size=length or None)
            start += rows
    return sink.getvalue().to_pybytes()


def decode(
    content: bytes | pa.Buffer,
    where: object,
    schema: pa.Schema,
    row_groups: Sequence[int] | None = None,
) -> pa.Table:
    """The columns of ``schema``, with the checksum of every page that is read verified.

    Args:
        where: the file's path, for messages.

    Raises:
        ValueError: the file is damaged, or does not have these columns.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        groups = range(file.num_row_groups) if row_groups is None else row_groups
        table = file.read_row_groups(list(groups), columns=schema.names)
        # Parquet takes a dot for nesting, so asking for "action" gives "action.expert" as well.
        table = table.select(schema.names)
        if not table.schema.equals(schema):
            raise ValueError("its columns are of other types")
    except (OSError, pa.ArrowException, ValueError, LookupError) as error:
        raise ValueError(f"{where}: damaged: {str(error).splitlines()[0]}") from None
    return table


def key_value(content: bytes | pa.Buffer, key: str) -> bytes | None:
    """What a Parquet file says of itself under this key."""
    metadata = pq.read_metadata(pa.BufferReader(content)).metadata or {}
    return metadata.get(key.encode())


def to_arrow(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """(N, D) as lists of D where the column is of lists, else (N,) or (N, 1) as a plain column."""
    flat = pa.array(array.ravel())
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    return flat


def from_arrow(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The chunks as arrays, (n,) or (n, D); views of Arrow's memory where that is possible."""
    if not pa.types.is_fixed_size_list(column.type):
        return [chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks]
    width = column.type.list_size
    return [
        chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), width)
        for chunk in column.chunks
    ]
