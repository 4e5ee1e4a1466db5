"""Datasets: LeRobot v3 folders in which nothing that was saved gets lost or changes unnoticed.

Read them with ``Dataset``, write them with ``DatasetWriter`` (writer.py). What counts is what
meta/journal.jsonl (journal.py) tells of: data files, videos, and the sha256 of each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headstart.config import did_you_mean
from headstart.data import checks, files, journal, parquet, recovery, video
from headstart.data import lerobot_v3 as v3
from headstart.data.journal import Rows
from headstart.data.writer import DatasetWriter
from headstart.types import Camera, Clip, Episode, Streams

__all__ = ["Dataset", "DatasetWriter"]


class Dataset(Streams):
    """A dataset on disk, opened for reading.

    Opening verifies that every file is there in its full length. A file is read only after its
    sha256 was found to be the one recorded, and an episode is checked once more by its own. Of a
    dataset whose writer died in a save, or is at work, the saves that are whole are there.

    Raises:
        ValueError: a file is missing, cut short, damaged or of another version.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        found = recovery.read_journal(self.root)
        self._header = found.header
        self._entries = recovery.entries(found)
        self._verified: set[str] = set()
        schema = checks.schema_of(found.path, found.header)
        self.channels = schema.channels
        self.cameras: tuple[Camera, ...] = schema.cameras
        self.control_hz: float = schema.control_hz
        self.instructions: list[str] = list(journal.instructions(found.saves))
        self._rows = Rows(found.saves, len(self.obs_channels))

    @property
    def fps(self) -> int:
        """The rate of time stamps and videos: ``control_hz`` as a whole number."""
        return v3.frames_per_second(self)

    @property
    def num_episodes(self) -> int:
        return len(self._rows.num_steps)

    @property
    def num_steps(self) -> int:
        return int(self._rows.num_steps.sum())

    @property
    def digest(self) -> str:
        """A sha256 of all content: the same for the same files, another when anything changes."""
        facts = [self._header["channels"], self._header["cameras"], self.control_hz]
        content = hashlib.sha256(json.dumps(facts).encode())
        for sha256 in (*self._rows.texts("sha256"), *(e["sha256"] for e in self._entries.values())):
            content.update(sha256.encode())
        return content.hexdigest()

    def episode_table(self) -> dict[str, np.ndarray]:
        """One row per episode.

        Returns:
            ``start`` and ``num_steps`` (N,) int64: where its steps are in ``load_columns``;
            ``final_obs`` (N, O) float32; ``terminated``, ``truncated`` (N,) bool; ``seed`` (N,)
            int64; ``task_id``, ``instruction``, ``behavior``, ``sha256`` (N,) str.
        """
        rows = self._rows
        texts = {n: rows.texts(n) for n in ("task_id", "behavior", "sha256")}
        texts["instruction"] = [self.instructions[i] for i in rows.task_index.tolist()]
        numbers = {
            "start": rows.start,
            "num_steps": rows.num_steps,
            "seed": rows.seed,
            "terminated": rows.terminated,
            "truncated": rows.truncated,
            "final_obs": rows.final_obs,
        }
        return {n: v.copy() for n, v in numbers.items()} | {
            n: np.array(v, dtype=np.str_) for n, v in texts.items()
        }

    def load_columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Whole columns over all steps, e.g. ``observation.state`` (N, O) or ``next.reward`` (N,).

        Beside the columns themselves one data file at a time is in memory.

        Raises:
            ValueError: no such column, or a damaged file.
        """
        known = v3.columns(self)
        # A robot without actions or observations has no such column: none of width 0 can be stored.
        known |= {n: v3.NO_CHANNELS for n in (v3.OBS, v3.ACTION, v3.LABEL) if n not in known}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{self.root}: no column '{name}'{did_you_mean(name, list(known))}"
                )
        found = {
            name: np.empty((self.num_steps, *_width(known[name])), known[name]["dtype"])
            for name in names
        }
        stored = v3.numbers_schema(self)
        schema = pa.schema([stored.field(name) for name in found if name in stored.names])
        start = 0
        steps_of_file = np.bincount(self._rows.file, self._rows.num_steps).astype(np.int64)
        for file, num_steps in enumerate(steps_of_file.tolist()):
            frames = self._read_frames(file, schema)
            stop = start + num_steps
            if frames.num_rows != num_steps:
                path = self.root / v3.data_path(file)
                raise ValueError(f"{path}: {frames.num_rows} steps, expected {num_steps}")
            for name in schema.names:
                chunks, column = parquet.from_arrow(frames.column(name)), found[name]
                column[start:stop] = np.concatenate(chunks).reshape(-1, *column.shape[1:])
            start = stop
        return found

    def episodes(self, indices: Sequence[int] | None = None) -> list[Episode]:
        """These episodes (all by default), equal in every bit to what was saved.

        A label without a single known row (all NaN) reads as None. Pictures stored as video come
        as clips of our own files, those stored as images are decoded when they are asked for.

        Raises:
            ValueError: no such episode, or a damaged one.
        """
        wanted = self._wanted(indices)
        in_order = np.unique(wanted)
        found = dict(zip(in_order.tolist(), self.iter_episodes(in_order), strict=True))
        return [found[i] for i in wanted.tolist()]

    def iter_episodes(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Episode]:
        """The same, one after another, with one data file in memory at a time."""
        wanted = self._wanted(indices)
        file_of = self._rows.file
        for file, group in itertools.groupby(wanted.tolist(), lambda number: int(file_of[number])):
            yield from self._read_episodes(file, list(group))

    def images(self, episode: int, camera: str, steps: Sequence[int] | None = None) -> np.ndarray:
        """(n, H, W, 3) uint8: what a camera saw in these steps of an episode, all by default.

        Raises:
            ValueError: no such episode, camera or step; a damaged file.
        """
        cameras = {c.name: c for c in self.cameras}
        if camera not in cameras:
            raise ValueError(f"{self.root}: no camera '{camera}'{did_you_mean(camera, [*cameras])}")
        self._wanted([episode])
        num = int(self._rows.num_steps[episode])
        at = np.arange(num) if steps is None else np.asarray(steps, np.int64)
        outside = at[(at < 0) | (at >= num)]
        if len(outside):
            raise ValueError(
                f"{self.root}: no step {outside[0]} in episode {episode}; there are {num}, from 0"
            )
        if cameras[camera].storage == "image":
            key = v3.image_key(camera)
            schema = pa.schema([pa.field(key, v3.IMAGE_TYPE)])
            file = int(self._rows.file[episode])
            frames = self._read_frames(file, schema, [self._span(episode)]).take(pa.array(at))
            stored = v3.png_files(frames, camera)
            return video.decode_png(stored, cameras[camera], self.root / v3.data_path(file))
        clip = self.clip(episode, camera)
        self._verify(clip.path.relative_to(self.root).as_posix())
        with video.VideoFile(clip.path, clip.path) as opened:
            return opened.frames(clip.start_s + at / self.fps)

    def clip(self, episode: int, camera: str) -> Clip:
        """Where a video camera's pictures of an episode are; no file is read."""
        file, start_s = self._videos[camera]
        path = self.root / v3.video_path(camera, int(file[episode]))
        return Clip(path, float(start_s[episode]))

    def _wanted(self, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
        wanted = np.arange(self.num_episodes) if indices is None else np.asarray(indices, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.num_episodes)]
        if len(outside):
            raise ValueError(
                f"{self.root}: no episode {outside[0]}; there are {self.num_episodes}, from 0"
            )
        return wanted

    def _read_episodes(self, file: int, numbers: list[int]) -> Iterator[Episode]:
        """Episodes of one data file."""
        spans = [self._span(i) for i in numbers]
        frames = self._read_frames(file, v3.frames_schema(self), spans)
        arrays = v3.episode_arrays(frames, self)
        path, start = self.root / v3.data_path(file), 0
        for i in numbers:
            stop = start + int(self._rows.num_steps[i])
            episode = self._episode(i, {k: v[start:stop] for k, v in arrays.items()})
            if v3.episode_sha256(episode) != self._table["sha256"][i]:
                raise ValueError(f"{path}: damaged: episode {i} is not what was saved")
            episode.images = self._pictures(i, frames.slice(start, stop - start), path)
            yield episode
            start = stop

    def _episode(self, i: int, arrays: dict[str, Any]) -> Episode:
        table = self._table
        label = v3.without_unknown_label(arrays.pop("action_expert"))
        return Episode(
            task_id=str(table["task_id"][i]),
            instruction=str(table["instruction"][i]),
            final_obs=table["final_obs"][i].copy(),
            terminated=bool(table["terminated"][i]),
            truncated=bool(table["truncated"][i]),
            seed=int(table["seed"][i]),
            behavior=str(table["behavior"][i]),
            action_expert=label,
            **arrays,
        )

    @cached_property
    def _table(self) -> dict[str, np.ndarray]:
        return self.episode_table()

    def _pictures(self, i: int, frames: pa.Table, where: Path) -> video.Pictures:
        clips, stored = {}, {}
        for camera in self.cameras:
            if camera.storage == "image":
                stored[camera.name] = v3.png_files(frames, camera.name)
            else:
                clips[camera.name] = self.clip(i, camera.name)
        return video.Pictures(clips, stored, self.cameras, where)

    @cached_property
    def _videos(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        stored = [camera.name for camera in self.cameras if camera.storage == "video"]
        return {name: self._rows.video(name) for name in stored}

    def _span(self, episode: int) -> tuple[int, int]:
        """Its rows in its data file."""
        starts = self._rows.start
        start = int(starts[episode] - starts[self._rows.first_of_file[episode]])
        return start, start + int(self._rows.num_steps[episode])

    def _read_frames(
        self, file: int, schema: pa.Schema, spans: Sequence[tuple[int, int]] | None = None
    ) -> pa.Table:
        """Columns of a data file, whose content is verified before it is parsed."""
        name = v3.data_path(file)
        path = self.root / name
        if name in self._verified:
            with pa.memory_map(str(path)) as source:
                return parquet.decode(source.read_buffer(), path, schema, spans)
        content = path.read_bytes()
        self._check(name, hashlib.sha256(content).hexdigest())
        return parquet.decode(content, path, schema, spans)

    def _verify(self, name: str) -> None:
        """Verify a file once."""
        if name not in self._verified:
            self._check(name, files.sha256(self.root / name))

    def _check(self, name: str, sha256: str) -> None:
        if sha256 != self._entries[name]["sha256"]:
            path = self.root / name
            raise ValueError(f"{path}: damaged: its checksum is not the one recorded")
        self._verified.add(name)


def _width(feature: Mapping[str, Any]) -> tuple[int, ...]:
    """(D,) where the feature has a name for each of its D dimensions, else ()."""
    return () if feature["names"] is None else tuple(feature["shape"])
