"""What lies where in a LeRobot folder of version 2.0, 2.1 or 3.0, and columns as NumPy arrays.

::

    v3.0  meta/info.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
          data/chunk-000/file-000.parquet     videos/KEY/chunk-000/file-000.mp4

    v2.x  meta/info.json  meta/tasks.jsonl    meta/episodes.jsonl
          data/chunk-000/episode_000000.parquet
          videos/chunk-000/KEY/episode_000000.mp4

Version 3.0 joins many episodes into one file; before, each had files of its own.
Source: lerobot 0.3.3 (v2.1) and 0.6.1 (v3.0), ``lerobot/datasets``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstart.artifact import read_json
from headstart.types import Clip

VERSIONS = ("v2.0", "v2.1", "v3.0")

_PATHS = {
    "v2": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
"""Where data and videos are. info.json repeats them; nobody's library offers to change them."""


@dataclass(frozen=True)
class Feature:
    """One entry of info.json's "features"."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    """One for each dimension, or for a picture one for each axis."""
    is_depth: bool = False

    @property
    def size(self) -> int:
        """Scalars in one step."""
        return int(np.prod(self.shape))

    @property
    def is_numeric(self) -> bool:
        try:
            return np.dtype(self.dtype).kind in "biuf"
        except TypeError:
            return False


@dataclass(frozen=True)
class Info:
    """meta/info.json, checked."""

    path: Path
    version: str
    fps: int
    robot: str
    num_episodes: int
    chunks_size: int
    features: dict[str, Feature]

    @property
    def root(self) -> Path:
        return self.path.parent.parent


@dataclass(frozen=True)
class Row:
    """One episode's line in the episodes table."""

    number: int
    num_steps: int
    data: Path
    clips: dict[str, Clip] = field(default_factory=dict)
    num_frames: dict[str, int] = field(default_factory=dict)
    """Of each video, where the table says so."""


def read_info(root: Path) -> Info:
    """meta/info.json of a LeRobot folder.

    Raises:
        ValueError: damaged, of another version, or a dataset of our own.
    """
    path = root / "meta/info.json"
    info = read_json(path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in VERSIONS:
        raise ValueError(
            f"{path}: LeRobot version {version!r}; {', '.join(VERSIONS)} can be imported"
        )
    if "headstart" in info:
        raise ValueError(f"{root}: already a Headstart dataset; use it as it is")
    for name, wanted in zip(("data_path", "video_path"), _PATHS[version[:2]], strict=True):
        if info.get(name) not in (wanted, None):
            raise ValueError(f"{path}: {name} is {info[name]!r}; {wanted!r} can be imported")
    try:
        found = Info(
            path=path,
            version=version,
            fps=int(info["fps"]),
            robot=str(info.get("robot_type") or ""),
            num_episodes=int(info["total_episodes"]),
            chunks_size=int(info.get("chunks_size") or 1000),
            features={str(k): _feature(str(k), v) for k, v in info["features"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: not a LeRobot info.json: {_one_line(error)}") from None
    if not 0 < found.fps == info["fps"] or found.chunks_size < 1:
        raise ValueError(f"{path}: fps is {info['fps']!r}, chunks_size {found.chunks_size}")
    return found


def read_tasks(info: Info) -> dict[int, str]:
    """task_index -> instruction.

    Raises:
        ValueError: the table is missing or damaged.
    """
    if info.version != "v3.0":
        lines = _read_lines(info.root / "meta/tasks.jsonl", ("task_index",))
        return {line["task_index"]: str(line.get("task", "")) for line in lines}
    path = info.root / "meta/tasks.parquet"
    table = read_table(path, None)
    texts = [n for n in table.schema.names if n != "task_index"]  # "task", or pandas' own name
    if "task_index" not in table.schema.names or len(texts) != 1:
        raise ValueError(f"{path}: columns {table.schema.names}, expected task_index and task")
    numbers = table.column("task_index").to_pylist()
    return dict(zip(numbers, map(str, table.column(texts[0]).to_pylist()), strict=True))


def read_rows(info: Info, videos: Sequence[str]) -> list[Row]:
    """The episodes, file by file and in each by their numbers.

    Args:
        videos: keys of the video features that are wanted.

    Raises:
        ValueError: a table is damaged, says something twice or less than info.json, or points to a
            file that is not there.
    """
    rows = _rows_v3(info, videos) if info.version == "v3.0" else _rows_v2(info, videos)
    if len(rows) != info.num_episodes:
        raise ValueError(
            f"{info.path}: {info.num_episodes} episodes, but {len(rows)} are listed in"
            f" {'meta/episodes' if info.version == 'v3.0' else 'meta/episodes.jsonl'}"
        )
    numbers = sorted(row.number for row in rows)
    twice = [a for a, b in pairwise(numbers) if a == b]
    if twice:
        raise ValueError(f"{info.root / 'meta'}: episode {twice[0]} is listed twice")
    paths = dict.fromkeys(
        p for row in rows for p in (row.data, *(c.path for c in row.clips.values()))
    )
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
    return sorted(rows, key=lambda row: (row.data, row.number))


def read_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """These columns of a Parquet file (None: all), checksums of pages verified where it has them.

    Raises:
        ValueError: the file is missing or damaged, or lacks a column.
    """
    try:
        with pa.memory_map(str(path)) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            names = file.schema_arrow.names if columns is None else list(columns)
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"no column '{missing[0]}'")
            # Parquet takes a dot for nesting: asking for "action" gives "action.other" as well.
            return file.read(columns=names).select(names)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException, ValueError, LookupError) as error:
        raise ValueError(f"{path}: damaged: {_one_line(error)}") from None


def values(table: pa.Table, feature: Feature, path: Path) -> np.ndarray:
    """A numeric column as (N, D): D = 1 for plain numbers, and lists of lists row by row.

    Raises:
        ValueError: it does not hold D numbers in every step.
    """
    array: Any = table.column(feature.key).combine_chunks()
    while True:
        if isinstance(array, pa.ExtensionArray):  # once the library "datasets" is loaded
            array = array.storage
        kind = array.type
        if pa.types.is_fixed_size_list(kind):
            even = array.null_count == 0
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            ends = array.offsets.to_numpy()
            even = array.null_count == 0 and len(np.unique(np.diff(ends))) <= 1
        else:
            break
        if not even:
            raise ValueError(f"{path}: '{feature.key}' is not of one length")
        array = array.flatten()
    if pa.types.is_nested(array.type) or len(array) != table.num_rows * feature.size:
        raise ValueError(f"{path}: '{feature.key}' has not {feature.size} numbers in every step")
    try:
        return array.to_numpy(zero_copy_only=False).reshape(table.num_rows, feature.size)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: '{feature.key}': {_one_line(error)}") from None


def _rows_v3(info: Info, videos: Sequence[str]) -> list[Row]:
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for key in videos:
        columns += [f"videos/{key}/{name}" for name in _VIDEO_COLUMNS]
    paths = sorted((info.root / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise ValueError(f"{info.root / 'meta/episodes'}: no episodes table")
    rows = []
    for path in paths:
        for line in read_table(path, columns).to_pylist():
            try:
                rows.append(_row_v3(info, line, videos))
            except (TypeError, ValueError, OverflowError):
                text = f"episode {line['episode_index']}: a value is missing or impossible"
                raise ValueError(f"{path}: {text}") from None
    return rows


_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


def _row_v3(info: Info, line: dict[str, Any], videos: Sequence[str]) -> Row:
    data_path, video_path = _PATHS["v3"]
    place = {name: _natural(line[f"data/{name}"]) for name in ("chunk_index", "file_index")}
    clips, num_frames = {}, {}
    for key in videos:
        chunk, file, start_s, end_s = (line[f"videos/{key}/{name}"] for name in _VIDEO_COLUMNS)
        path = video_path.format(
            video_key=key, chunk_index=_natural(chunk), file_index=_natural(file)
        )
        clips[key] = Clip(info.root / path, float(start_s))
        num_frames[key] = round((float(end_s) - float(start_s)) * info.fps)
    return Row(
        number=_natural(line["episode_index"]),
        num_steps=_natural(line["length"]),
        data=info.root / data_path.format(**place),
        clips=clips,
        num_frames=num_frames,
    )


def _rows_v2(info: Info, videos: Sequence[str]) -> list[Row]:
    data_path, video_path = _PATHS["v2"]
    path = info.root / "meta/episodes.jsonl"
    rows = []
    for line in _read_lines(path, ("episode_index", "length")):
        number, num_steps = _natural(line["episode_index"]), _natural(line["length"])
        place = {"episode_index": number, "episode_chunk": number // info.chunks_size}
        clips = {
            key: Clip(info.root / video_path.format(video_key=key, **place), 0.0) for key in videos
        }
        rows.append(Row(number, num_steps, info.root / data_path.format(**place), clips))
    return rows


def _read_lines(path: Path, integers: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, which must have these keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not all(isinstance(value[key], int) and value[key] >= 0 for key in integers):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            text = f"line {number} is not an object with {' and '.join(integers)}"
            raise ValueError(f"{path}: {text}") from None
        found.append(value)
    return found


def _feature(key: str, entry: Mapping[str, Any]) -> Feature:
    shape = tuple(_natural(n) for n in entry["shape"])
    if len(shape) > 8 or "/" in key or ".." in key:
        raise ValueError(f"feature '{key}' of shape {shape}")
    details = entry.get("info") or entry.get("video_info") or {}
    return Feature(
        key=key,
        dtype=str(entry["dtype"]),
        shape=shape,
        names=_names(entry.get("names")),
        is_depth=bool(details.get("is_depth_map") or details.get("video.is_depth_map")),
    )


def _names(names: Any) -> tuple[str, ...] | None:
    """A list, ``{"motors": [...]}`` or ``{"x": 0, "y": 1}``: libraries have written all three."""
    if isinstance(names, dict) and all(isinstance(n, int) for n in names.values()):
        names = sorted(names, key=lambda name: names[name])
    elif isinstance(names, dict):
        parts = [part if isinstance(part, list) else [part] for part in names.values()]
        names = [name for part in parts for name in part]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError(f"{value!r} is not a number of something")
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return (str(error) or type(error).__name__).splitlines()[0]
