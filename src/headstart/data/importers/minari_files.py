"""A Minari data set's files: its spaces, and the arrays of an episode in HDF5, Arrow or Parquet.

::

    data/main_data.hdf5             hdf5: a group episode_0 for each episode
    data/0/part-0.parquet           arrow, parquet: a folder for each episode
    data/0/metadata.json            arrow, parquet: its seed

A Tuple's parts are named ``_index_0`` in HDF5 and ``0`` in Arrow. Arrow and Parquet pad all columns
to T + 1 rows. Source: Minari 0.5.4, ``minari/dataset/_storages`` and ``minari/serialization.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.artifact import read_json
from headstart.data.importers import hdf5

_SUCCESS = ("success", "is_success")
_MOST_READ_BYTES = 2**24
_MIN_PICTURE = 32  # pixels a side; Minari takes smaller boxes for maps, e.g. minigrid's

Keys = tuple[str | int, ...]
"""Where something is in a nested observation: names in a Dict, places in a Tuple."""


@dataclass(frozen=True)
class Leaf:
    """One array of a nested space."""

    keys: Keys
    kind: Literal["numbers", "picture", "text"]
    shape: tuple[int, ...]
    dtype: str
    encoded: bool = False
    """A picture kept as JPEG."""

    @property
    def feature(self) -> str:
        return ".".join(map(str, self.keys))


@dataclass
class RawEpisode:
    """What a storage has of an episode; ``observations`` and ``actions`` fetch by keys."""

    observations: Callable[[Leaf], Any]  # (T + 1, ...), or a list of T + 1 bytes
    actions: Callable[[Leaf], Any]  # (T, ...)
    reward: np.ndarray  # (T,)
    terminated: bool
    truncated: bool
    success: np.ndarray | None  # (T + 1,) or (T,)
    infos: Sequence[str]
    facts: dict[str, Any]  # seed, and task_id, behavior, instruction where known


def leaves(space: Any, where: str, jpeg: bool, keys: Keys = ()) -> Iterator[Leaf]:
    """The arrays of a space in Minari's JSON form (``minari/serialization.py``), in its order.

    Raises:
        ValueError: it is not such a space.
    """
    try:
        kind = space["type"]
        if len(keys) > 16:
            raise ValueError("nested too deep")
        if kind == "Dict":
            for key, inner in space["subspaces"].items():
                yield from leaves(inner, where, jpeg, (*keys, key))
        elif kind == "Tuple":
            for place, inner in enumerate(space["subspaces"]):
                yield from leaves(inner, where, jpeg, (*keys, place))
        elif kind == "Text":
            yield Leaf(keys, "text", (), "str")
        elif kind == "Box":
            yield _box(space, jpeg, keys)
        elif kind == "Discrete":
            yield Leaf(keys, "numbers", (), "int64")
        elif kind == "MultiDiscrete":
            yield Leaf(keys, "numbers", np.shape(space["nvec"]), str(space["dtype"]))
        elif kind == "MultiBinary":
            yield Leaf(keys, "numbers", tuple(np.atleast_1d(space["n"]).tolist()), "int8")
        else:
            raise ValueError(f"type {kind!r}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: not a space as Minari writes them: {error}") from None


def _box(space: dict[str, Any], jpeg: bool, keys: Keys) -> Leaf:
    shape, dtype = tuple(int(n) for n in space["shape"]), str(space["dtype"])
    if any(n < 0 for n in shape) or np.dtype(dtype).kind not in "biuf":
        raise ValueError(f"a Box of {dtype} {shape}")
    if dtype != "uint8" or len(shape) not in (2, 3) or min(shape[:2]) < _MIN_PICTURE:
        return Leaf(keys, "numbers", shape, dtype)
    full = not np.any(space["low"]) and bool(np.all(np.equal(space["high"], 255)))
    return Leaf(keys, "picture", shape, dtype, encoded=jpeg and full)


def read_hdf5(data: Path, numbers: range) -> Iterator[RawEpisode]:
    """Episodes of these numbers. Raises ValueError: one is missing or damaged."""

    def fetcher(group: Any, name: str) -> Callable[[Leaf], Any]:
        def fetch(leaf: Leaf) -> Any:
            path = [name, *(f"_index_{k}" if isinstance(k, int) else k for k in leaf.keys)]
            parent = group
            for step in path[:-1]:
                parent = hdf5.get_group(parent, step)
            as_bytes = leaf.encoded or leaf.kind == "text"
            return (hdf5.read_blobs if as_bytes else hdf5.read)(parent, path[-1])

        return fetch

    with hdf5.open_file(main_file(data)) as file:
        for number in numbers:
            group = hdf5.get_group(file, f"episode_{number}")
            infos = hdf5.get_group(group, "infos") if hdf5.has(group, "infos") else None
            found = [] if infos is None else hdf5.names(infos)
            known = next((n for n in _SUCCESS if n in found), None)
            facts: dict[str, Any] = {"seed": _seed(hdf5.whole_attribute(group, "seed"))}
            if infos is not None and "instruction" in found:
                facts["instruction"] = text(hdf5.read_blobs(infos, "instruction")[0])
                facts |= {n: hdf5.text_attribute(group, n) for n in ("task_id", "behavior")}
            yield RawEpisode(
                fetcher(group, "observations"),
                fetcher(group, "actions"),
                hdf5.read(group, "rewards"),
                _last(hdf5.read(group, "terminations")),
                _last(hdf5.read(group, "truncations")),
                hdf5.read(infos, known) if infos is not None and known else None,
                [n for n in found if n not in (known, "instruction")],
                facts,
            )


def read_arrow(data: Path, numbers: range, kind: str) -> Iterator[RawEpisode]:
    """Episodes of these numbers; ``kind`` is "arrow" or "parquet". Raises ValueError as above."""
    for number in numbers:
        folder = data / str(number)
        columns = _arrow_columns(folder, kind)
        facts = read_json(folder / "metadata.json")
        infos = columns.get("infos")
        found = [] if infos is None else [field.name for field in infos.type]
        known = next((n for n in _SUCCESS if n in found), None)
        success = None if infos is None or not known else _numbers(infos.field(known), folder)
        reward, terminated, truncated = (
            _numbers(_column(columns, name, folder), folder)[:-1]
            for name in ("rewards", "terminations", "truncations")
        )
        yield RawEpisode(
            _arrow_fetcher(_column(columns, "observations", folder), folder),
            _arrow_fetcher(_column(columns, "actions", folder), folder, slice(None, -1)),
            reward,
            _last(terminated),
            _last(truncated),
            success,
            [n for n in found if n != known],
            {"seed": _seed(facts.get("seed") if isinstance(facts, dict) else None)},
        )


def _arrow_columns(folder: Path, kind: str) -> dict[str, Any]:
    """The columns of an episode's files as Arrow arrays, checked before their content is used."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbered = (folder / f"part-{number}.{kind}" for number in itertools.count())
    parts = list(itertools.takewhile(Path.is_file, numbered))
    if not parts:
        raise ValueError(f"{folder}: no part-0.{kind}")
    tables = []
    for part in parts:
        try:
            with _opened(part) as file:
                if kind == "parquet":
                    table = pq.ParquetFile(file).read(use_threads=False)
                else:
                    table = pa.ipc.open_file(file).read_all()
            table.validate(full=True)
            tables.append(table)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise ValueError(f"{part}: damaged: {str(error).splitlines()[0]}") from None
    table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    return {n: table.column(n).combine_chunks() for n in table.column_names}


def _opened(part: Path) -> Any:
    """The file for Arrow to read. Mapping a small one costs five times what reading it does."""
    import pyarrow as pa

    if part.stat().st_size > _MOST_READ_BYTES:
        return pa.memory_map(str(part))
    return pa.BufferReader(part.read_bytes())


def _arrow_fetcher(column: Any, folder: Path, rows: slice = slice(None)) -> Callable[[Leaf], Any]:
    def fetch(leaf: Leaf) -> Any:
        array = column
        try:
            for key in leaf.keys:
                array = array.field(str(key))
        except (KeyError, AttributeError):
            raise ValueError(f"{folder}: no column for '{leaf.feature}'") from None
        if leaf.encoded or leaf.kind == "text":
            return [value.as_py() for value in array][rows]
        return _numbers(array, folder)[rows]

    return fetch


def _numbers(array: Any, folder: Path) -> np.ndarray:
    """(rows,) or (rows, D) of an Arrow array."""
    import pyarrow as pa

    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else 0
    flat = array.flatten() if width else array
    primitive = pa.types.is_primitive(flat.type)
    if not primitive or array.null_count or flat.null_count:
        raise ValueError(f"{folder}: a column of {array.type} with gaps; expected numbers")
    values = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(array), width) if width else values


def _column(columns: dict[str, Any], name: str, folder: Path) -> Any:
    if name not in columns:
        raise ValueError(f"{folder}: no column '{name}'; it has {', '.join(columns)}")
    return columns[name]


def main_file(data: Path) -> Path:
    return data / "main_data.hdf5"


def _last(flags: np.ndarray) -> bool:
    return bool(flags[-1]) if len(flags) else False


def _seed(value: Any) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if known else -1


def text(row: Any) -> str:
    """A row of text: bytes, str or nothing."""
    return (row.decode(errors="replace") if isinstance(row, bytes) else str(row or "")).strip()
