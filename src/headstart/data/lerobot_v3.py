"""The LeRobot v3.0 dataset format: names, schemas, tables. Files are opened in store.py.

::

    meta/info.json                                 features, totals
    meta/stats.json                                per feature: min max mean std count quantiles
    meta/tasks.parquet                             instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet       one row per episode
    data/chunk-000/file-000.parquet                one row per step; row groups of an episode,
                                                   or where imported of 1,000 steps
    videos/observation.images.CAMERA/chunk-000/file-000.mp4    many episodes one after another

All of meta/ is derived from our own meta/journal.jsonl, data/ and videos/. What LeRobot has no
place for goes into columns it does not look at, and under the key "headstart" of info.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

import numpy as np
import pyarrow as pa

from headstart.config import did_you_mean
from headstart.data.journal import FORMAT_VERSION, Rows, header_of
from headstart.data.parquet import from_arrow, to_arrow
from headstart.types import Camera, Channel, Clip, Episode, Role

CODEBASE_VERSION = "v3.0"
FILES_PER_CHUNK = 1000

OBS, ACTION, LABEL = "observation.state", "action", "action.expert"
REWARD, SUCCESS, DONE, TRUNCATED = "next.reward", "next.success", "next.done", "next.truncated"

NO_CHANNELS: dict[str, Any] = {"dtype": "float32", "shape": [0], "names": []}

OWN = "headstart"
"""Key of what is ours in info.json, and in what a data file says of itself."""

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

    @property
    def cameras(self) -> tuple[Camera, ...]: ...


def data_path(file: int) -> str:
    return f"data/{_numbered(file)}.parquet"


def video_path(camera: str, file: int) -> str:
    return f"videos/{image_key(camera)}/{_numbered(file)}.mp4"


def episodes_path(file: int) -> str:
    return f"meta/episodes/{_numbered(file)}.parquet"


def image_key(camera: str) -> str:
    return f"observation.images.{camera}"


def _numbered(file: int) -> str:
    return f"chunk-{file // FILES_PER_CHUNK:03d}/file-{file % FILES_PER_CHUNK:03d}"


def frames_per_second(schema: Schema) -> int:
    """LeRobot wants a whole number; the exact rate is kept under "headstart" in info.json."""
    return max(1, round(schema.control_hz))


def check_schema(schema: Schema) -> None:
    """Refuse what cannot be written.

    Raises:
        ValueError: a rate that is not above 0; two channels or cameras of a name, or one without;
            no such role; a camera's name that no folder or column can have, or a video of odd
            size.
    """
    hz = schema.control_hz
    if not (math.isfinite(hz) and hz > 0):
        raise ValueError(f"control_hz is {hz:g}; it is how many steps a second has, above 0")
    channels = [channel.name for channel in schema.channels]
    for channel in schema.channels:
        if not channel.name:
            raise ValueError("a channel has no name; models know it by that")
        if channel.role not in (roles := get_args(Role)):
            raise ValueError(
                f"channel '{channel.name}': no role '{channel.role}'"
                f"{did_you_mean(str(channel.role), roles)}"
            )
        if channels.count(channel.name) > 1:
            raise ValueError(
                f"two channels are called '{channel.name}'; give each its own name, e.g. hand/x and"
                " hand/dx"
            )
    names = [camera.name for camera in schema.cameras]
    for camera in schema.cameras:
        if names.count(camera.name) > 1:
            raise ValueError(f"two cameras are called '{camera.name}'; give each its own name")
        if not camera.name or not set(camera.name) <= _NAME_CHARACTERS:
            raise ValueError(
                f"camera '{camera.name}': its name may have letters, digits, '_' and '-' only"
            )
        if camera.height < 1 or camera.width < 1:
            raise ValueError(f"camera '{camera.name}': {camera.height} x {camera.width} pixels")
        if camera.storage == "video" and (camera.height % 2 or camera.width % 2):
            raise ValueError(
                f"camera '{camera.name}': a video of {camera.height} x {camera.width} pixels; h264"
                " wants even numbers: crop the pictures, or use storage='image'"
            )


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def columns(schema: Schema) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the columns that hold numbers, in their order."""

    def vector(channels: Sequence[Channel]) -> dict[str, Any]:
        names = [c.name for c in channels]
        return {"dtype": "float32", "shape": [len(names)], "names": names}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    known = {
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
    return {name: feature for name, feature in known.items() if feature["shape"] != [0]}


def features(
    schema: Schema, codecs: Mapping[str, tuple[str, str]] | None = None
) -> dict[str, dict[str, Any]]:
    """LeRobot's description of all that a step has, in the order of the columns.

    Args:
        codecs: camera's name -> codec and pixel format of its videos; h264 by default.
    """
    known = columns(schema)
    for camera in schema.cameras:
        feature: dict[str, Any] = {
            "dtype": camera.storage,
            "shape": [camera.height, camera.width, 3],
            "names": ["height", "width", "channels"],
        }
        if camera.storage == "video":
            codec, pixel_format = (codecs or {}).get(camera.name, ("h264", "yuv420p"))
            feature["info"] = {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": codec,
                "video.pix_fmt": pixel_format,
                "video.is_depth_map": False,
                "video.fps": frames_per_second(schema),
                "video.channels": 3,
                "has_audio": False,
            }
        known[image_key(camera.name)] = feature
    return known


def info(
    schema: Schema, rows: Rows, num_tasks: int, codecs: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """The content of meta/info.json."""
    has_video = any(camera.storage == "video" for camera in schema.cameras)
    paths = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    own = header_of(schema.channels, schema.cameras, schema.control_hz)
    num_episodes = len(rows.num_steps)
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": None,
        "total_episodes": num_episodes,
        "total_frames": int(rows.num_steps.sum()),
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": frames_per_second(schema),
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": f"data/{paths}.parquet",
        "video_path": f"videos/{{video_key}}/{paths}.mp4" if has_video else None,
        "features": features(schema, codecs),
        OWN: {"format_version": FORMAT_VERSION, **own},
    }


def check_episode(episode: Episode, schema: Schema, where: str) -> None:
    """Refuse what would be lost or spoil a dataset.

    Args:
        where: which episode, for messages.

    Raises:
        ValueError: no steps, a wrong shape or dtype, or an obs or action that is not finite, but
            for channels that are missing (NaN) throughout, and a final_obs that is not known; a
            task_id that is not suite/name; pictures of another camera, number or size.
    """
    num_obs, num_actions = len(schema.obs_channels), len(schema.action_channels)
    by_step = (episode.obs, episode.action, episode.reward, episode.success)
    # What most have: the odd one out is to blame.
    ((steps, _),) = Counter(getattr(a, "shape", ())[:1] for a in by_step).most_common(1)
    if steps == (0,):
        raise ValueError(f"{where}: no steps")
    for name, array, dtype, shape in (
        ("obs", episode.obs, np.float32, (*steps, num_obs)),
        ("action", episode.action, np.float32, (*steps, num_actions)),
        ("action_expert", episode.label, np.float32, (*steps, num_actions)),
        ("reward", episode.reward, np.float32, steps),
        ("success", episode.success, np.bool_, steps),
        ("final_obs", episode.final_obs, np.float32, (num_obs,)),
    ):
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            kind = type(array).__name__
            found = f"{array.dtype} {array.shape}" if kind == "ndarray" else f"a {kind}"
            raise ValueError(f"{where}: {name} is {found}, expected {np.dtype(dtype)} {shape}")
        if name in ("obs", "action", "final_obs") and not _is_known(name, array, episode):
            raise ValueError(f"{where}: {name} has values that are not finite")
    if not all(episode.task_id.partition("/")):
        raise ValueError(f"{where}: task_id '{episode.task_id}' is not suite/name, as 'lab/pour'")
    _check_images(episode, schema.cameras, where)


def _is_known(name: str, array: np.ndarray, episode: Episode) -> bool:
    """Whether all values are finite, but for channels that are missing throughout."""
    finite = np.isfinite(array)
    if finite.all():
        return True
    if name == "final_obs" and np.isnan(array).all():
        return True
    return bool(
        (finite | np.isnan(episode.action if name == "action" else episode.obs).all(0)).all()
    )


def _check_images(episode: Episode, cameras: Sequence[Camera], where: str) -> None:
    names = [camera.name for camera in cameras]
    if set(episode.images) != set(names):
        raise ValueError(
            f"{where}: pictures of {sorted(episode.images) or 'no camera'}, expected of"
            f" {names or 'no camera'}"
        )
    for camera in cameras:
        images = episode.images[camera.name]
        if isinstance(images, Clip):
            if camera.storage == "image":
                raise ValueError(
                    f"{where}: camera '{camera.name}': a clip cannot be an image column"
                )
            continue
        shape = (episode.num_steps, camera.height, camera.width, 3)
        if images.dtype != np.uint8 or images.shape != shape:
            raise ValueError(
                f"{where}: camera '{camera.name}': pictures are {images.dtype} {images.shape},"
                f" expected uint8 {shape}"
            )


def episode_sha256(episode: Episode) -> str:
    """Identity of an episode's content but for pictures, wherever in whichever dataset it lies."""
    label = without_unknown_label(episode.action_expert)
    facts = [
        episode.task_id,
        episode.instruction,
        episode.behavior,
        int(episode.seed),
        bool(episode.terminated),
        bool(episode.truncated),
        *episode.obs.shape,
        episode.action.shape[1],
        label is not None,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode())
    arrays = [episode.obs, episode.action, label, episode.reward, episode.success]
    for array in [*arrays, episode.final_obs]:
        if array is not None:
            digest.update(array.tobytes())
    return digest.hexdigest()


def frames(
    episodes: Sequence[Episode],
    first_episode: int,
    first_step: int,
    task_index: Mapping[str, int],
    schema: Schema,
) -> dict[str, np.ndarray]:
    """``columns`` of the episodes' steps: the episodes start at these numbers in the dataset."""
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
    known = {
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
    return {name: known[name] for name in columns(schema)}


def frames_table(
    numbers: Mapping[str, np.ndarray], pictures: Mapping[str, list[bytes]], schema: Schema
) -> pa.Table:
    """One row per step.

    Args:
        numbers: what ``frames`` gives.
        pictures: PNG files of each camera whose pictures are stored in a column.
    """
    table = frames_schema(schema)
    arrays = {name: to_arrow(values, table.field(name).type) for name, values in numbers.items()}
    for camera, files in pictures.items():
        empty = pa.nulls(len(files), pa.string())
        bytes_and_path = [pa.array(files, pa.binary()), empty]
        arrays[image_key(camera)] = pa.StructArray.from_arrays(
            bytes_and_path, fields=list(IMAGE_TYPE)
        )
    return pa.table(arrays, schema=table)


IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def frames_schema(schema: Schema) -> pa.Schema:
    """Columns of a data file: those of ``numbers_schema``, then those of pictures."""
    known = numbers_schema(schema)
    for camera in schema.cameras:
        if camera.storage == "image":
            known = known.append(pa.field(image_key(camera.name), IMAGE_TYPE))
    return known


def numbers_schema(schema: Schema) -> pa.Schema:
    """The columns that hold numbers. LeRobot wants vectors of length 1 as plain columns."""

    def column(feature: dict[str, Any]) -> pa.DataType:
        dtype = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
        return dtype if feature["shape"] == [1] else pa.list_(dtype, *feature["shape"])

    return pa.schema({name: column(feature) for name, feature in columns(schema).items()})


def episode_arrays(frames: pa.Table, schema: Schema) -> dict[str, Any]:
    """The fields of ``Episode`` that have a row for each step, from a table of steps."""
    num_obs, num_actions = len(schema.obs_channels), len(schema.action_channels)
    found = {}
    for field, name, shape in (
        ("obs", OBS, (num_obs,)),
        ("action", ACTION, (num_actions,)),
        ("action_expert", LABEL, (num_actions,)),
        ("reward", REWARD, ()),
        ("success", SUCCESS, ()),
    ):
        chunks = from_arrow(frames.column(name)) if shape != (0,) else [np.zeros(0, np.float32)]
        found[field] = np.concatenate(chunks).reshape(frames.num_rows, *shape)
    return found


def without_unknown_label(label: np.ndarray | None) -> np.ndarray | None:
    """None for a label without a single known value, which a dataset cannot tell from none."""
    return None if label is None or np.isnan(label).all() else label


def png_files(frames: pa.Table, camera: str) -> list[bytes]:
    """A PNG file a step, from a table that has the camera's column."""
    return [picture["bytes"] for picture in frames.column(image_key(camera)).to_pylist()]


def episodes_table(
    schema: Schema,
    rows: Rows,
    instructions: Sequence[str],
    videos: Mapping[str, Mapping[str, Any]],
) -> pa.Table:
    """One row per episode: LeRobot's columns, and our own.

    Args:
        videos: camera -> sha256 -> what the journal says of each video file.
    """
    num, length, start = len(rows.num_steps), rows.num_steps, rows.start
    zeros = np.zeros(num, np.int64)
    tasks = pa.array([instructions[i] for i in rows.task_index.tolist()], pa.string())
    known = {
        "episode_index": np.arange(num),
        "tasks": pa.ListArray.from_arrays(np.arange(num + 1, dtype=np.int32), tasks),
        "length": length,
        "data/chunk_index": rows.file // FILES_PER_CHUNK,
        "data/file_index": rows.file % FILES_PER_CHUNK,
        "dataset_from_index": start,
        "dataset_to_index": start + length,
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }
    for camera in schema.cameras:
        if camera.storage == "video":
            file, start_s = rows.video(camera.name)
            key = f"videos/{image_key(camera.name)}"
            known[f"{key}/chunk_index"] = file // FILES_PER_CHUNK
            known[f"{key}/file_index"] = file % FILES_PER_CHUNK
            known[f"{key}/from_timestamp"] = start_s
            known[f"{key}/to_timestamp"] = start_s + length / frames_per_second(schema)
            digests = {entry["number"]: sha256 for sha256, entry in videos[camera.name].items()}
            known[f"{key}/sha256"] = pa.array([digests[i] for i in file.tolist()], pa.string())
    known |= {
        **{n: pa.array(rows.texts(n), pa.string()) for n in ("task_id", "behavior", "sha256")},
        "seed": rows.seed,
        "terminated": rows.terminated,
        "truncated": rows.truncated,
    }
    if schema.obs_channels:
        known["final_obs"] = pa.FixedSizeListArray.from_arrays(
            pa.array(rows.final_obs.ravel()), len(schema.obs_channels)
        )
    return pa.table(known)


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
