"""HDF5 files of somebody else's: nothing outside the file is opened, no size is taken on trust.

Only hard links are followed, only plain data sets inside the file are read, and what a data set
says of its size is held against what the file stores of it before memory is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5s  # pyright: ignore[reportAttributeAccessIssue]

MAX_BYTES = 4 * 2**30
"""The largest data set that is read at once."""

_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
"""deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf: what the library reads by itself."""

_MAX_RATIO = 1100
"""Deflate packs 1,032 bytes into one at best; the other filters less."""

_ALL: Any = h5s.ALL  # a plain number to the type checker


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading.

    Raises:
        ValueError: it is missing, cut short or not HDF5; or damaged where the block reads it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with _Explained(path), h5py.File(path, "r", locking=False) as file:
        yield file


def get_group(parent: h5py.Group, name: str) -> h5py.Group:
    """A group inside a group. Raises ValueError if it is not there, or is a link."""
    with _Explained(parent, name):
        _check_link(parent, name)
        group = parent[name]
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{parent.file.filename}: {parent.name}/{name}: expected a group")
    return group


def has(parent: h5py.Group, name: str) -> bool:
    """Whether there is a group, data set or link of that name. No link is followed."""
    with _Explained(parent, name):
        return _is_name(name) and parent.id.links.exists(name.encode())


def names(group: h5py.Group) -> list[str]:
    """What the group holds, in the file's own order."""
    with _Explained(group):
        return list(group.keys())


def shape_of(parent: h5py.Group, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype of a data set; None for a group."""
    with _Explained(parent, name):
        _check_link(parent, name)
        found = parent[name]
        return (found.shape, found.dtype) if isinstance(found, h5py.Dataset) else None


def read(parent: h5py.Group, name: str, last_row: bool = False) -> np.ndarray:
    """A data set of numbers or fixed-length strings, whole or its last row.

    Raises:
        ValueError: it is missing, damaged, outside the file, of another dtype, or larger than the
            file can hold or than ``MAX_BYTES``.
    """
    dataset, shape, dtype = _open(parent, name)
    with _Explained(parent, name):
        if dtype.kind not in "biufS":
            raise ValueError(f"dtype {dtype}, expected numbers")
        if not last_row:
            values = np.empty(shape, dtype)
            if values.size:
                dataset.read(_ALL, _ALL, values)
            return values
        if not shape or not shape[0]:
            raise ValueError("no rows")
        if (offset := dataset.get_offset()) is None:
            return np.asarray(h5py.Dataset(dataset)[-1])
        # Plain bytes in the file: a tenth of the time that the library takes to slice.
        size = math.prod(shape[1:])
        at = offset + (shape[0] - 1) * size * dtype.itemsize
        return np.fromfile(parent.file.filename, dtype, size, offset=at).reshape(shape[1:])


def read_blobs(parent: h5py.Group, name: str) -> list[bytes]:
    """Rows of bytes or text: of variable length, fixed-length strings, or a matrix of uint8."""
    dataset, *_ = _open(parent, name)
    with _Explained(parent, name):
        rows = h5py.Dataset(dataset)[()]
        if not isinstance(rows, np.ndarray) or rows.ndim == 0:
            return [_bytes(rows)]
        return [_bytes(row) for row in rows]


def text_attribute(group: h5py.Group, name: str) -> str | None:
    """An attribute that is text; None where there is none."""
    with _Explained(group, name):
        value = group.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def whole_attribute(group: h5py.Group, name: str) -> int | None:
    """An attribute that is a whole number; None where there is none."""
    with _Explained(group, name):
        value = group.attrs.get(name)
    return int(value) if isinstance(value, (int, np.integer)) else None


def _open(parent: h5py.Group, name: str) -> tuple[h5d.DatasetID, tuple[int, ...], np.dtype]:
    """A data set that lies inside the file and is no larger than the file can hold."""
    with _Explained(parent, name):
        _check_link(parent, name)
        dataset = h5d.open(parent.id, name.encode())
        shape, dtype = dataset.shape, dataset.dtype  # each is parsed anew when asked for
        size = dtype.itemsize
        if dtype.hasobject:  # of variable length: what the file has is a reference
            size = max(size, dataset.get_type().get_size())
        declared = math.prod(shape) * size
        ratio = 1
        if dataset.get_offset() is None:  # else plain bytes at a place in this file
            plan = dataset.get_create_plist()
            layout = plan.get_layout()
            if layout == h5d.VIRTUAL or plan.get_external_count():
                raise ValueError("its data lie in another file; copy them into this one")
            filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
            if filters - _FILTERS:
                raise ValueError(f"packed with filter {max(filters)}; re-pack it with gzip")
            ratio = _MAX_RATIO if filters else 1
        stored = dataset.get_storage_size()  # of a virtual one this would open the other file
        if declared > stored * ratio:
            raise ValueError(f"damaged: says {declared} bytes, the file has {stored} for it")
        if declared > MAX_BYTES:
            raise ValueError(f"{declared} bytes; at most {MAX_BYTES} can be read at once")
    return dataset, shape, dtype


def _check_link(parent: h5py.Group, name: str) -> None:
    """Raises ValueError; call it where the error is explained."""
    if not _is_name(name):
        raise ValueError("not there")
    try:
        kind = parent.id.links.get_info(name.encode()).type
    except (KeyError, RuntimeError):  # the library tells a missing link by either
        raise ValueError("not there") from None
    if kind != h5l.TYPE_HARD:
        raise ValueError("a link to elsewhere; copy the data here")


def _is_name(name: str) -> bool:
    """Of something right inside a group, and not a path."""
    return "/" not in name and name not in ("", ".")


def _bytes(row: Any) -> bytes:
    if isinstance(row, str):
        return row.encode()
    if isinstance(row, bytes):
        return row
    if isinstance(row, np.ndarray) and row.dtype == np.uint8:
        return row.tobytes()
    raise ValueError(f"a row of {type(row).__name__}, expected bytes or text")


class _Explained:
    """What happens inside the block, as one ValueError that says in which file and where."""

    def __init__(self, place: Path | h5py.Group, name: str = "") -> None:
        self._place, self._name = place, name

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, _LocatedError) or not isinstance(error, _ERRORS):
            return
        reason = (str(error).splitlines() or [""])[0].strip("'\"") or type(error).__name__
        damaged = "" if isinstance(error, ValueError) else "damaged: "
        raise _LocatedError(f"{self._where()}: {damaged}{reason}") from None

    def _where(self) -> str:
        if isinstance(self._place, Path):
            return str(self._place)
        inside = f"{self._place.name or ''}/{self._name}".replace("//", "/")
        return f"{self._place.file.filename}: {inside.rstrip('/') or '/'}"


class _LocatedError(ValueError):
    """Says where already."""


_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError)
