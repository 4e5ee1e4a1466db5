"""LeRobot folders of version 2.0, 2.1 and 3.0 that others wrote.

Every numeric feature becomes channels, named by the source's own names. LeRobot keeps T rows and
no observation after the last action; ``next.done`` marks every episode's end, whatever ended it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from headstart.data.importers import lerobot_files as files
from headstart.data.importers.base import (
    MAX_DIMENSIONS,
    Dropped,
    Source,
    decode_picture,
    feature_channels,
    role_of,
    slug,
    unknown_reward,
)
from headstart.data.importers.lerobot_files import Feature, Info, Row
from headstart.data.video import VideoFile, check_clip
from headstart.types import Camera, Channel, Clip, Episode

TIMESTAMP_TOLERANCE_S = 1e-4
"""LeRobot's own (``tolerance_s``) for a step's time against its frame's in the video."""

_REWARD, _SUCCESS, _DONE, _TRUNCATED = "next.reward", "next.success", "next.done", "next.truncated"
_OUTCOMES = (_REWARD, _SUCCESS, _DONE, _TRUNCATED)
_PLACES = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def matches(path: Path) -> bool:
    return (path / "meta/info.json").is_file()


def open_source(path: Path, robot: str) -> Source:
    """Open a LeRobot folder.

    Args:
        robot: first part of the channels' names; "" for the source's robot type.

    Raises:
        ValueError: it is damaged, of another version, or a dataset of our own.
    """
    return LeRobotSource(files.read_info(path), robot)


class LeRobotSource(Source):
    """A LeRobot folder, read a data file at a time."""

    def __init__(self, info: Info, robot: str) -> None:
        super().__init__(f"LeRobot {info.version}", (), float(info.fps), info.num_episodes)
        self._info = info
        self._robot = slug(robot) or slug("" if info.robot == "unknown" else info.robot)
        if not self._robot:
            self._robot = slug(info.root.resolve().name, "robot")
            self.note(f"it names no robot; its channels are named after its folder, {self._robot}/")
        self._obs: list[Feature] = []
        self._actions: list[Feature] = []
        self._outcomes: list[Feature] = []
        self._pictures: dict[str, Feature] = {}  # by the camera's name
        self._times: dict[str, tuple[Path, np.ndarray]] = {}  # frames of each key's last video
        for feature in info.features.values():
            self._sort(feature)
        self.channels = self._name_channels()
        self.cameras = tuple(_camera(name, f) for name, f in self._pictures.items())
        self._tasks = files.read_tasks(info)
        self._rows = files.read_rows(info, self._keys("video"))
        if [row.number for row in self._rows] != list(range(len(self._rows))):
            self.note("its episodes are not numbered 0, 1, 2 and so on; here they are")
        self.note("the observation after the last action is unknown: LeRobot has no place for it")
        if not self._tells_termination:
            self.note("episodes count as truncated: it does not say which were terminated")

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        number = 0
        for path, group in groupby(self._rows, key=lambda row: row.data):
            rows = list(group)
            if number + len(rows) > start:
                yield from self._read_file(path, rows, max(0, start - number))
            number += len(rows)

    def _sort(self, feature: Feature) -> None:
        """Put a feature where it belongs, or note why it is left out."""
        if feature.key in _PLACES:
            return
        reason = _left_out(feature)
        if reason:
            self.note(f"'{feature.key}' was left out: {reason}")
        elif feature.dtype in ("image", "video"):
            self._pictures[_camera_name(feature.key, self._pictures)] = feature
        elif feature.key in _OUTCOMES:
            self._outcomes.append(feature)
        else:
            is_action = role_of(feature.key) == "action"
            (self._actions if is_action else self._obs).append(feature)
            if np.dtype(feature.dtype) not in (np.float32, np.float16, np.bool_):
                self.note(f"'{feature.key}' is {feature.dtype}, stored as float32")
            if not is_action and not feature.key.startswith("observation"):
                self.note(f"'{feature.key}' counts as an observation")

    def _name_channels(self) -> tuple[Channel, ...]:
        named: dict[str, Channel] = {}
        for feature in (*self._obs, *self._actions):
            role = role_of(feature.key)
            stem = feature.key
            new = feature_channels(self._robot, stem, feature.shape, role, feature.names)
            if any(channel.name in named for channel in new):  # observation.x and x
                stem = feature.key.replace(".", "_")
                new = feature_channels(self._robot, stem, feature.shape, role, feature.names)
            named |= {channel.name: channel for channel in new}
        return tuple(named.values())

    def _keys(self, dtype: str) -> list[str]:
        return [f.key for f in self._pictures.values() if f.dtype == dtype]

    @property
    def _tells_termination(self) -> bool:
        return {_DONE, _TRUNCATED} <= {f.key for f in self._outcomes}

    def _read_file(
        self, path: Path, rows: Sequence[Row], start: int
    ) -> Iterator[Episode | Dropped]:
        """The episodes of one data file, from the start-th of them on."""
        numeric = (*self._obs, *self._actions, *self._outcomes)
        keys = [*_PLACES[:3], "task_index", *(f.key for f in numeric), *self._keys("image")]
        table = files.read_table(path, keys)
        places = {
            key: files.values(table, Feature(key, "int64", (1,), None), path)[:, 0]
            for key in _PLACES
            if key in keys
        }
        spans = _spans(path, places["episode_index"], places["frame_index"], rows)
        self._check_times(path, places)
        obs = _stack(table, self._obs, path)  # (N, O) float32
        action = _stack(table, self._actions, path)  # (N, A) float32
        outcomes = {f.key: files.values(table, f, path)[:, 0] for f in self._outcomes}
        for row in rows[start:]:
            steps = slice(*spans[row.number])
            if not self._has_frames(row):
                yield Dropped("a camera has not one frame for each step")
            elif row.num_steps == 0:
                yield Dropped("no steps")
            else:
                yield self._episode(
                    row,
                    obs[steps],
                    action[steps],
                    {key: column[steps] for key, column in outcomes.items()},
                    self._instruction(path, places["task_index"][steps]),
                    self._images(row, table.slice(steps.start, row.num_steps)),
                )

    def _episode(
        self,
        row: Row,
        obs: np.ndarray,
        action: np.ndarray,
        outcomes: dict[str, np.ndarray],
        instruction: str,
        images: dict[str, np.ndarray | Clip],
    ) -> Episode:
        terminated = self._tells_termination and bool(
            outcomes[_DONE][-1] and not outcomes[_TRUNCATED][-1]
        )
        success = outcomes.get(_SUCCESS, np.zeros(row.num_steps, bool))
        return Episode(
            task_id=f"{self._robot}/{slug(instruction, 'task')}",
            instruction=instruction,
            obs=obs,
            action=action,
            reward=outcomes.get(_REWARD, unknown_reward(row.num_steps)).astype(np.float32),
            success=success > 0.5,
            final_obs=np.full(obs.shape[1], np.nan, np.float32),
            terminated=terminated,
            truncated=not terminated,
            seed=-1,
            behavior="unknown",
            images=images,
        )

    def _instruction(self, path: Path, task_index: np.ndarray) -> str:
        first = int(task_index[0])
        if first not in self._tasks:
            raise ValueError(f"{path}: task {first} is not in meta/tasks")
        if (task_index != first).any():
            self.note("an episode's task changes on its way; its first is kept")
        return self._tasks[first]

    def _images(self, row: Row, steps: pa.Table) -> dict[str, np.ndarray | Clip]:
        images: dict[str, np.ndarray | Clip] = {}
        for camera in self.cameras:
            feature = self._pictures[camera.name]
            if feature.dtype == "video":
                images[camera.name] = row.clips[feature.key]
            else:
                where = f"{row.data}: '{feature.key}' of episode {row.number}"
                images[camera.name] = _decode(steps.column(feature.key), camera, where)
        return images

    def _has_frames(self, row: Row) -> bool:
        """Whether each video has a frame for each step, and as many as the table says."""
        for key, clip in row.clips.items():
            if row.num_frames.get(key, row.num_steps) != row.num_steps:
                return False
            if self._times.get(key, (None,))[0] != clip.path:
                with VideoFile(clip.path, clip.path) as video:
                    self._times[key] = (clip.path, video.times_s())
            try:
                check_clip(self._times[key][1], clip, row.num_steps, self._info.fps, key)
            except ValueError:
                return False
        return True

    def _check_times(self, path: Path, places: dict[str, np.ndarray]) -> None:
        """Frames of a video are found by their times, so steps must be evenly spaced."""
        expected = places["frame_index"] / self._info.fps
        if np.abs(places["timestamp"] - expected).max(initial=0.0) <= TIMESTAMP_TOLERANCE_S:
            return
        if self._keys("video"):
            raise ValueError(f"{path}: timestamps are not {self._info.fps} a second")
        self.note(f"timestamps are uneven; steps are taken to be {self._info.fps} a second")


def _left_out(feature: Feature) -> str | None:
    """Why a feature is not kept; None if it is."""
    if feature.dtype in ("image", "video"):
        if feature.is_depth:
            return "a depth camera"
        if len(feature.shape) != 3 or 3 not in (feature.shape[0], feature.shape[2]):
            return f"a camera of shape {feature.shape}, not RGB"
        return None
    if not feature.is_numeric:
        return f"a feature of type {feature.dtype}"
    if feature.key in _OUTCOMES:
        return None if feature.size == 1 else f"of shape {feature.shape}, not one number"
    if feature.key.startswith("next."):
        return "not seen at the step, but after it"
    if not 0 < feature.size <= MAX_DIMENSIONS:
        return f"{feature.size} numbers a step, at most {MAX_DIMENSIONS} become channels"
    return None


def _camera_name(key: str, taken: dict[str, Feature]) -> str:
    """``observation.images.top`` -> ``top``."""
    name = slug(key.removeprefix("observation.").removeprefix("images."), "camera")
    return slug(key) if name in taken else name


def _camera(name: str, feature: Feature) -> Camera:
    height, width, channels = feature.shape
    if channels != 3 or (feature.names or ("",))[0].startswith("channel"):
        _, height, width = feature.shape
    return Camera(name, height, width, "video" if feature.dtype == "video" else "image")


def _stack(table: pa.Table, features: Sequence[Feature], path: Path) -> np.ndarray:
    """(N, sum of sizes) float32: the features side by side."""
    stacked = np.empty((table.num_rows, sum(f.size for f in features)), np.float32)
    start = 0
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite, and is then refused
        for feature in features:
            stacked[:, start : start + feature.size] = files.values(table, feature, path)
            start += feature.size
    return stacked


def _spans(
    path: Path, episode_index: np.ndarray, frame_index: np.ndarray, rows: Sequence[Row]
) -> dict[int, tuple[int, int]]:
    """Where each episode's steps lie in a data file: number -> (start, stop).

    Raises:
        ValueError: these are not the steps that the rows promise, all and in order.
    """
    num = len(episode_index)
    starts = np.flatnonzero(np.diff(episode_index, prepend=-1))  # numbers are at least 0
    stops = np.append(starts[1:], num)[: len(starts)]
    spans = {int(episode_index[a]): (int(a), int(b)) for a, b in zip(starts, stops, strict=True)}
    if len(spans) != len(starts):
        raise ValueError(f"{path}: the steps of an episode do not lie together")
    in_order = frame_index == np.arange(num) - np.repeat(starts, stops - starts)
    if not in_order.all():
        number = episode_index[np.argmin(in_order)]
        raise ValueError(f"{path}: steps of episode {number} are missing or out of order")
    for row in rows:
        start, stop = spans.setdefault(row.number, (0, 0))
        if stop - start != row.num_steps:
            raise ValueError(
                f"{path}: {stop - start} steps of episode {row.number}, meta/ says {row.num_steps}"
            )
    unknown = spans.keys() - {row.number for row in rows}
    if unknown:
        raise ValueError(f"{path}: holds episode {min(unknown)}, which meta/ places elsewhere")
    return spans


def _decode(column: pa.ChunkedArray, camera: Camera, where: str) -> np.ndarray:
    """(T, H, W, 3) uint8 of an image column's PNG or JPEG files."""
    shape = (camera.height, camera.width, 3)
    pictures = np.empty((len(column), *shape), np.uint8)
    for picture, entry in zip(pictures, column.to_pylist(), strict=True):
        content = entry.get("bytes") if isinstance(entry, dict) else None
        if not isinstance(content, bytes) or not content:
            raise ValueError(f"{where}: a picture is missing; it may lie in a file of its own")
        decoded = decode_picture(content, where)
        if decoded.shape != shape:
            raise ValueError(f"{where}: a picture of shape {decoded.shape}, expected {shape}")
        picture[:] = decoded
    return pictures
