"""The LeRobot v3.0 dataset format: names, schemas, tables. Files are opened in store.py.

::

    meta/info.json                                 features, totals; derived from what follows
    meta/stats.json                                per feature: min max mean std count quantiles
    meta/tasks.parquet                             instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet       one row per episode
    data/chunk-000/file-000.parquet                one row per step, one row group per episode

What LeRobot has no place for goes into columns it does not look at, and under the key
"headstart" of info.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstart.types import Channel, Episode

CODEBASE_VERSION = "v3.0"
FORMAT_VERSION = 1
FILES_PER_CHUNK = 1000

OBS, ACTION, LABEL = "observation.state", "action", "action.expert"
REWARD, SUCCESS, DONE, TRUNCATED = "next.reward", "next.success", "next.done", "next.truncated"

TASKS_SCHEMA = pa.schema({"task_index": pa.int64(), "task": pa.string()})


class Schema(Protocol):
    """The streams of a dataset. A Task has one, and so has a Dataset."""

    @property
    def channels(self) -> tuple[Channel, ...]: ...

    @property
    def obs_channels(self) -> tuple[Channel, ...]: ...

    @property
    def action_channels(self) -> tuple[Channel, ...]: ...

    @property
    def control_hz(self) -> float: ...


def data_path(file: int) -> str:
    return f"data/chunk-{file // FILES_PER_CHUNK:03d}/file-{file % FILES_PER_CHUNK:03d}.parquet"


def episodes_path(file: int) -> str:
    return f"meta/episodes/{data_path(file).removeprefix('data/')}"


def frames_per_second(schema: Schema) -> int:
    """LeRobot wants a whole number; the exact rate is kept under "headstart" in info.json."""
    return max(1, round(schema.control_hz))


def features(schema: Schema) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the columns, in their order."""

    def vector(channels: Sequence[Channel]) -> dict[str, Any]:
        names = [c.name for c in channels]
        return {"dtype": "float32", "shape": [len(names)], "names": names}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    return {
        OBS: vector(schema.obs_channels),
        ACTION: vector(schema.action_channels),  # executed
        LABEL: vector(schema.action_channels),  # the expert's, NaN where unknown
        REWARD: scalar("float32"),
        SUCCESS: scalar("bool"),
        DONE: scalar("bool"),  # the episode's last step, terminated or truncated
        TRUNCATED: scalar("bool"),
        "timestamp": scalar("float32"),
        "frame_index": scalar("int64"),
        "episode_index": scalar("int64"),
        "index": scalar("int64"),
        "task_index": scalar("int64"),
    }


def info(schema: Schema, num_episodes: int, num_steps: int, num_tasks: int) -> dict[str, Any]:
    """The content of meta/info.json."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": None,
        "total_episodes": num_episodes,
        "total_frames": num_steps,
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": frames_per_second(schema),
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features(schema),
        "headstart": {
            "format_version": FORMAT_VERSION,
            "control_hz": schema.control_hz,
            "channels": [{"name": c.name, "role": c.role, "unit": c.unit} for c in schema.channels],
        },
    }


def check_episode(episode: Episode, schema: Schema) -> None:
    """Refuse what would be lost or spoil a dataset.

    Raises:
        ValueError: no steps, a wrong shape or dtype, or an obs or action that is not finite, but
            for channels that are missing (NaN) throughout.
    """
    steps = len(episode.action)
    num_obs, num_actions = len(schema.obs_channels), len(schema.action_channels)
    where = f"episode of '{episode.task_id}', seed {episode.seed}"
    if steps == 0:
        raise ValueError(f"{where}: no steps")
    for name, array, dtype, shape in (
        ("obs", episode.obs, np.float32, (steps, num_obs)),
        ("action", episode.action, np.float32, (steps, num_actions)),
        ("action_expert", episode.label, np.float32, (steps, num_actions)),
        ("reward", episode.reward, np.float32, (steps,)),
        ("success", episode.success, np.bool_, (steps,)),
        ("final_obs", episode.final_obs, np.float32, (num_obs,)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(
                f"{where}: {name} is {array.dtype} {array.shape},"
                f" expected {np.dtype(dtype)} {shape}"
            )
        finite = np.isfinite(array)
        if name in ("obs", "final_obs"):  # a channel that a task has not is NaN in every step
            finite |= np.isnan(episode.obs).all(axis=0)
        if name in ("obs", "action", "final_obs") and not finite.all():
            raise ValueError(f"{where}: {name} has values that are not finite")


def episode_sha256(episode: Episode) -> str:
    """Identity of an episode's content, wherever in whichever dataset it lies."""
    facts = [
        episode.task_id,
        episode.instruction,
        episode.behavior,
        int(episode.seed),
        bool(episode.terminated),
        bool(episode.truncated),
        *episode.obs.shape,
        episode.action.shape[1],
        episode.action_expert is not None,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode())
    label = [] if episode.action_expert is None else [episode.action_expert]
    arrays = [episode.obs, episode.action, *label, episode.reward, episode.success]
    for array in [*arrays, episode.final_obs]:
        digest.update(array.tobytes())
    return digest.hexdigest()


def frames_table(
    episodes: Sequence[Episode],
    first_episode: int,
    first_step: int,
    task_index: dict[str, int],
    schema: Schema,
) -> pa.Table:
    """One row per step of the episodes, which start at these numbers in the dataset."""
    lengths = np.array([e.num_steps for e in episodes])
    ends = lengths.cumsum()
    frame_index = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    truncated = np.zeros(ends[-1], dtype=bool)
    done = np.zeros(ends[-1], dtype=bool)
    truncated[ends - 1] = [e.truncated for e in episodes]
    done[ends - 1] = [e.terminated or e.truncated for e in episodes]
    labels = [
        np.full_like(e.action, np.nan) if e.action_expert is None else e.action_expert
        for e in episodes
    ]
    columns = {
        OBS: np.concatenate([e.obs for e in episodes]),
        ACTION: np.concatenate([e.action for e in episodes]),
        LABEL: np.concatenate(labels),
        REWARD: np.concatenate([e.reward for e in episodes]),
        SUCCESS: np.concatenate([e.success for e in episodes]),
        DONE: done,
        TRUNCATED: truncated,
        "timestamp": (frame_index / frames_per_second(schema)).astype(np.float32),
        "frame_index": frame_index,
        "episode_index": np.repeat(np.arange(len(episodes)) + first_episode, lengths),
        "index": np.arange(ends[-1]) + first_step,
        "task_index": np.repeat([task_index[e.instruction] for e in episodes], lengths),
    }
    table = frames_schema(schema)
    return pa.table({n: to_arrow(columns[n], table.field(n).type) for n in columns}, schema=table)


def frames_schema(schema: Schema) -> pa.Schema:
    """Columns of a data file. LeRobot wants vectors of length 1 as plain columns."""

    def column(feature: dict[str, Any]) -> pa.DataType:
        dtype = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
        return dtype if feature["shape"] == [1] else pa.list_(dtype, *feature["shape"])

    return pa.schema({name: column(feature) for name, feature in features(schema).items()})


def episodes_table(
    episodes: Sequence[Episode], first_episode: int, first_step: int, file: int, data: bytes
) -> pa.Table:
    """One row per episode; ``data`` is the content of the data file that holds them."""
    lengths = np.array([e.num_steps for e in episodes])
    ends = lengths.cumsum() + first_step
    chunk_index, file_index = divmod(file, FILES_PER_CHUNK)
    num = len(episodes)
    table = episodes_schema(len(episodes[0].final_obs))
    columns = {
        "episode_index": np.arange(num) + first_episode,
        "tasks": [[e.instruction] for e in episodes],
        "length": lengths,
        "data/chunk_index": [chunk_index] * num,
        "data/file_index": [file_index] * num,
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
        "meta/episodes/chunk_index": [chunk_index] * num,
        "meta/episodes/file_index": [file_index] * num,
        "task_id": [e.task_id for e in episodes],
        "behavior": [e.behavior for e in episodes],
        "seed": [int(e.seed) for e in episodes],
        "terminated": [bool(e.terminated) for e in episodes],
        "truncated": [bool(e.truncated) for e in episodes],
        "final_obs": to_arrow(
            np.stack([e.final_obs for e in episodes]), table.field("final_obs").type
        ),
        "sha256": [episode_sha256(e) for e in episodes],
        "data/file_bytes": [len(data)] * num,
        "data/file_sha256": [hashlib.sha256(data).hexdigest()] * num,
    }
    return pa.table(columns, schema=table)


def episodes_schema(num_obs: int) -> pa.Schema:
    """Columns of an episodes file: LeRobot's, and from ``task_id`` on our own."""
    return pa.schema(
        {
            "episode_index": pa.int64(),
            "tasks": pa.list_(pa.string()),
            "length": pa.int64(),
            "data/chunk_index": pa.int64(),
            "data/file_index": pa.int64(),
            "dataset_from_index": pa.int64(),
            "dataset_to_index": pa.int64(),
            "meta/episodes/chunk_index": pa.int64(),
            "meta/episodes/file_index": pa.int64(),
            "task_id": pa.string(),
            "behavior": pa.string(),
            "seed": pa.int64(),
            "terminated": pa.bool_(),
            "truncated": pa.bool_(),
            "final_obs": pa.list_(pa.float32(), num_obs),
            "sha256": pa.string(),
            "data/file_bytes": pa.int64(),
            "data/file_sha256": pa.string(),
        }
    )


def tasks_table(instructions: Sequence[str]) -> pa.Table:
    """Instruction i has task_index i. LeRobot wants "task" to be the index of a pandas frame."""
    columns = {"task_index": list(range(len(instructions))), "task": list(instructions)}
    table = pa.table(columns, schema=TASKS_SCHEMA)

    def column(name: str | None, pandas_type: str, numpy_type: str, facts: Any = None) -> Any:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": pandas_type,
            "numpy_type": numpy_type,
            "metadata": facts,
        }

    # https://arrow.apache.org/docs/format: pandas metadata is JSON under the key "pandas".
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [column(None, "unicode", "object", {"encoding": "UTF-8"})],
        "columns": [
            column("task_index", "int64", "int64"),
            column("task", "unicode", "object"),
        ],
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def feature_stats(values: np.ndarray) -> dict[str, list[float]] | None:
    """LeRobot's statistics of a column (N,) or (N, D), values that are missing (NaN) left out.

    None if all are missing; a single column of D that is missing throughout counts as zeros.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    missing = np.isnan(rows).all(axis=0)
    if missing.all():
        return None
    rows[:, missing] = 0.0
    quantiles = np.nanquantile(rows, [0.01, 0.1, 0.5, 0.9, 0.99], axis=0)
    stats = {
        "min": np.nanmin(rows, axis=0),
        "max": np.nanmax(rows, axis=0),
        "mean": np.nanmean(rows, axis=0),
        "std": np.nanstd(rows, axis=0),
        "count": (~np.isnan(rows)).any(axis=1).sum(keepdims=True),
    }
    stats |= dict(zip(("q01", "q10", "q50", "q90", "q99"), quantiles, strict=True))
    return {name: value.tolist() for name, value in stats.items()}


def encode_parquet(table: pa.Table, row_groups: Sequence[int]) -> bytes:
    """The table as a Parquet file with row groups of these lengths and a checksum on every page."""
    sink = pa.BufferOutputStream()
    options: dict[str, Any] = {
        "compression": "snappy",
        "use_dictionary": False,  # hardly a float occurs twice
        "write_page_checksum": True,
        "write_statistics": ["episode_index"],
    }
    start = 0
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        for length in row_groups:
            writer.write_table(table.slice(start, length))
            start += length
    return sink.getvalue().to_pybytes()


def read_parquet(
    path: Path, schema: pa.Schema, row_groups: Sequence[int] | None = None
) -> pa.Table:
    """The columns of ``schema``, with the checksum of every page that is read verified.

    Raises:
        ValueError: the file is missing or damaged, or does not have these columns.
    """
    try:
        with pa.memory_map(str(path)) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            groups = range(file.num_row_groups) if row_groups is None else row_groups
            table = file.read_row_groups(list(groups), columns=schema.names)
        # Parquet takes a dot for nesting, so asking for "action" gives "action.expert" as well.
        table = table.select(schema.names)
        if not table.schema.equals(schema):
            raise ValueError("its columns are of other types")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException, ValueError, LookupError) as error:
        raise ValueError(f"{path}: damaged: {str(error).splitlines()[0]}") from None
    return table


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
