"""Tables as Parquet files in memory, with a checksum on every page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, row_groups: Sequence[int]) -> memoryview:
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
    return memoryview(sink.getvalue())


def decode(
    content: bytes | pa.Buffer,
    where: object,
    schema: pa.Schema,
    spans: Sequence[tuple[int, int]] | None = None,
) -> pa.Table:
    """The columns of ``schema``, with the checksum of every page that is read verified.

    Args:
        where: the file's path, for messages.
        spans: the rows to read, as (start, stop) in ascending order; None: all. Only row groups
            that hold some of them are read.

    Raises:
        ValueError: the file is damaged, or does not have these columns or rows.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        sizes = np.array([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
        groups, parts = _covering(sizes, spans) if spans else (np.arange(len(sizes)), [])
        table = file.read_row_groups(groups.tolist(), columns=schema.names)
        # Parquet takes a dot for nesting, so asking for "action" gives "action.expert" as well.
        table = table.select(schema.names)
        if parts:
            table = pa.concat_tables([table.slice(start, length) for start, length in parts])
        if not table.schema.equals(schema):
            raise ValueError("its columns are of other types")
    except (OSError, pa.ArrowException, ValueError, LookupError) as error:
        raise ValueError(f"{where}: damaged: {str(error).splitlines()[0]}") from None
    return table


def _covering(
    sizes: np.ndarray, spans: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Which of the row groups hold some of these rows, and where these then are among theirs.

    Returns:
        The groups, and (start, length) of each span, neighbours as one.
    """
    starts, stops = np.array(spans).T
    apart = starts[1:] != stops[:-1]
    starts, stops = starts[np.append(True, apart)], stops[np.append(apart, True)]
    ends = sizes.cumsum()
    if stops[-1] > ends[-1]:
        raise ValueError(f"{ends[-1]} rows, {stops[-1]} expected")
    first, last = (np.searchsorted(ends, rows, "right") for rows in (starts, stops - 1))
    is_read = np.zeros(len(sizes), bool)
    for begin, end in zip(first, last, strict=True):
        is_read[begin : end + 1] = True
    skipped = np.where(is_read, 0, sizes).cumsum()[first]
    parts = zip((starts - skipped).tolist(), (stops - starts).tolist(), strict=True)
    return np.flatnonzero(is_read), list(parts)


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
