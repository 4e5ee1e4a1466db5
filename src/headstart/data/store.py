"""Durable datasets: LeRobot v3 folders that a crash cannot spoil.

Every ``save_episodes`` writes one data file and then one episodes file, each complete and on the
disk before it gets its name. The episodes file is what makes the data count: episodes whose
``save_episodes`` returned are there after any crash, bit for bit. ``info.json`` is derived.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headstart.artifact import read_json, write_bytes, write_json
from headstart.config import did_you_mean, differences
from headstart.data import lerobot_v3 as v3
from headstart.types import Channel, Episode


class Dataset:
    """A dataset on disk, opened for reading.

    Opening verifies that every file is there in its full length. Reading verifies what is read:
    ``load_columns`` the checksum of each file, ``episodes`` the checksum of each episode.

    Raises:
        ValueError: a file is missing, cut short, damaged or of another version.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        info = _read_info(self.root)
        own = info["headstart"]
        self.channels = tuple(Channel(**channel) for channel in own["channels"])
        self.control_hz: float = own["control_hz"]
        self.fps: int = info["fps"]
        self.instructions = _read_instructions(self.root)
        self._rows = _read_episode_rows(
            self.root, info["total_episodes"], v3.episodes_schema(len(self.obs_channels))
        )
        self._check_data_files()

    @property
    def obs_channels(self) -> tuple[Channel, ...]:
        return tuple(c for c in self.channels if c.role in ("observation", "goal"))

    @property
    def action_channels(self) -> tuple[Channel, ...]:
        return tuple(c for c in self.channels if c.role == "action")

    @property
    def num_episodes(self) -> int:
        return self._rows.num_rows

    @property
    def num_steps(self) -> int:
        return int(self._row_column("length").sum())

    def episode_table(self) -> dict[str, np.ndarray]:
        """One row per episode.

        Returns:
            ``start`` and ``num_steps`` (N,) int64: where its steps are in ``load_columns``;
            ``final_obs`` (N, O) float32; ``terminated``, ``truncated`` (N,) bool; ``seed`` (N,)
            int64; ``task_id``, ``instruction``, ``behavior``, ``sha256`` (N,) str.
        """
        instructions = self._rows.column("tasks").combine_chunks().flatten().to_pylist()
        numbers = ("seed", "terminated", "truncated", "final_obs")
        texts = ("task_id", "behavior", "sha256")
        return {
            "start": self._row_column("dataset_from_index"),
            "num_steps": self._row_column("length"),
            "instruction": np.array(instructions, dtype=np.str_),
            **{n: np.array(self._rows.column(n).to_pylist(), dtype=np.str_) for n in texts},
            **{n: self._row_column(n) for n in numbers},
        }

    def load_columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Whole columns over all steps, e.g. ``observation.state`` (N, O) or ``next.reward`` (N,).

        Raises:
            ValueError: no such column, or a damaged file.
        """
        known = v3.features(self)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{self.root}: no column '{name}'{did_you_mean(name, list(known))}"
                )
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for file, sha256 in self._data_files():
            _check_sha256(self.root / v3.data_path(file), sha256)
            for name, chunks in self._read_frames(file, names).items():
                parts[name] += chunks
        return {name: _concatenate(parts[name], known[name]) for name in names}

    def episodes(self, indices: Sequence[int] | None = None) -> list[Episode]:
        """These episodes (all by default), equal in every bit to what was saved.

        A label without a single known row (all NaN) reads as None.

        Raises:
            ValueError: no such episode, or a damaged one.
        """
        wanted = np.arange(self.num_episodes) if indices is None else np.asarray(indices, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.num_episodes)]
        if len(outside):
            raise ValueError(
                f"{self.root}: no episode {outside[0]}; there are {self.num_episodes}, from 0"
            )
        table = self.episode_table()
        episode_file = self._episode_files()
        found: dict[int, Episode] = {}
        for file in np.unique(episode_file[wanted]).tolist():
            numbers = np.unique(wanted[episode_file[wanted] == file])
            first = int(np.searchsorted(episode_file, file))
            found |= self._read_episodes(file, first, numbers, table)
        return [found[i] for i in wanted.tolist()]

    def _read_episodes(
        self, file: int, first: int, numbers: np.ndarray, table: dict[str, np.ndarray]
    ) -> dict[int, Episode]:
        """Episodes of one data file, whose first row group holds episode ``first``."""
        names = (v3.OBS, v3.ACTION, v3.LABEL, v3.REWARD, v3.SUCCESS)
        frames = self._read_frames(file, names, (numbers - first).tolist())
        known = v3.features(self)
        columns = {name: _concatenate(chunks, known[name]) for name, chunks in frames.items()}
        found = {}
        start = 0
        for i in numbers.tolist():
            stop = start + int(table["num_steps"][i])
            found[i] = _episode({k: v[start:stop] for k, v in columns.items()}, table, i)
            if v3.episode_sha256(found[i]) != table["sha256"][i]:
                path = self.root / v3.data_path(file)
                raise ValueError(f"{path}: damaged: episode {i} is not what was saved")
            start = stop
        return found

    def _read_frames(
        self, file: int, names: Sequence[str], row_groups: Sequence[int] | None = None
    ) -> dict[str, list[np.ndarray]]:
        """Chunks of these columns of a data file."""
        schema = pa.schema([v3.frames_schema(self).field(name) for name in names])
        frames = v3.read_parquet(self.root / v3.data_path(file), schema, row_groups)
        return {name: v3.from_arrow(frames.column(name)) for name in names}

    def _row_column(self, name: str) -> np.ndarray:
        return np.concatenate(v3.from_arrow(self._rows.column(name)))

    def _episode_files(self) -> np.ndarray:
        """(N,) number of the data file that each episode lies in."""
        chunk, file = self._row_column("data/chunk_index"), self._row_column("data/file_index")
        return chunk * v3.FILES_PER_CHUNK + file

    def _data_files(self, column: str = "data/file_sha256") -> list[tuple[int, Any]]:
        """(number, what the column says) of each data file, in order."""
        files, first = np.unique(self._episode_files(), return_index=True)
        values = self._rows.column(column).take(pa.array(first)).to_pylist()
        return list(zip(files.tolist(), values, strict=True))

    def _check_data_files(self) -> None:
        for file, num_bytes in self._data_files("data/file_bytes"):
            path = self.root / v3.data_path(file)
            if not path.exists():
                raise ValueError(f"{path}: no such file")
            if path.stat().st_size != num_bytes:
                raise ValueError(f"{path}: {path.stat().st_size} bytes, expected {num_bytes}")


class DatasetWriter:
    """Writes episodes to a new dataset, or appends to the one in ``root``.

    Args:
        schema: the channels and the control rate, e.g. a Task or another Dataset. All episodes
            share them; their tasks may differ.

    Raises:
        ValueError: ``root`` holds a dataset with other channels or rate, or a damaged one, or
            another writer is at work there.
    """

    def __init__(self, root: Path | str, schema: v3.Schema) -> None:
        self.root = Path(root)
        self.schema = schema
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _lock(self.root)
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise

    def save_episodes(self, episodes: Sequence[Episode]) -> None:
        """Append the episodes. Once this returns they are on the disk, whatever happens next.

        Raises:
            ValueError: an episode does not fit the channels or is not finite; none is saved.
        """
        assert self._lock is not None, "the writer is closed"
        if not episodes:
            return
        for episode in episodes:
            v3.check_episode(episode, self.schema)
        instructions = list(
            dict.fromkeys([*self._instructions, *(e.instruction for e in episodes)])
        )
        if instructions != self._instructions:
            self._write_tasks(instructions)
        task_index = {instruction: i for i, instruction in enumerate(instructions)}
        first = (self.num_episodes, self.num_steps)
        frames = v3.frames_table(episodes, *first, task_index, self.schema)
        data = v3.encode_parquet(frames, [e.num_steps for e in episodes])
        write_bytes(self.root / v3.data_path(self._num_files), data)
        rows = v3.episodes_table(episodes, *first, self._num_files, data)
        path = self.root / v3.episodes_path(self._num_files)
        write_bytes(path, v3.encode_parquet(rows, [len(episodes)]))
        self.num_episodes += len(episodes)
        self.num_steps += frames.num_rows
        self._num_files += 1
        self._write_info()

    def close(self) -> None:
        """Write meta/stats.json and let others write."""
        if self._lock is None:
            return
        try:
            if self.num_episodes:
                columns = Dataset(self.root).load_columns(list(v3.features(self.schema)))
                stats = {name: v3.feature_stats(column) for name, column in columns.items()}
                known = {name: values for name, values in stats.items() if values is not None}
                write_json(self.root / "meta/stats.json", known)
        finally:
            self._unlock()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self.num_episodes = self.num_steps = self._num_files = 0
        self._instructions: list[str] = []
        if (self.root / "meta/info.json").exists():
            dataset = Dataset(self.root)
            _check_same_schema(dataset, self.schema)
            self.num_episodes, self.num_steps = dataset.num_episodes, dataset.num_steps
            self._num_files = len(dataset._data_files())
            self._instructions = dataset.instructions
        elif any((self.root / "data").rglob("*.parquet")):
            raise ValueError(f"{self.root}: holds data but no meta/info.json; use a new folder")
        self._remove_unfinished()
        self._write_tasks(self._instructions)
        self._write_info()

    def _remove_unfinished(self) -> None:
        """Remove what a writer that died left behind: a file half written, or one not counted."""
        (self.root / v3.data_path(self._num_files)).unlink(missing_ok=True)
        for folder in ("data", "meta"):
            for path in (self.root / folder).rglob(".*.tmp"):
                path.unlink()

    def _write_tasks(self, instructions: list[str]) -> None:
        table = v3.tasks_table(instructions)
        content = v3.encode_parquet(table, [len(instructions)])
        write_bytes(self.root / "meta/tasks.parquet", content)
        self._instructions = instructions

    def _write_info(self) -> None:
        info = v3.info(self.schema, self.num_episodes, self.num_steps, len(self._instructions))
        write_json(self.root / "meta/info.json", info)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # which lets go of the lock
            self._lock = None


def demonstrations_of(root: Path | None, most: int) -> dict[str, list[Episode]]:
    """Unperturbed successful episodes of each task in a dataset; {} without one.

    They are chosen by their seeds: episodes are stored as they end, and the first to end are the
    quickest.
    """
    if root is None:
        return {}
    dataset = Dataset(root)
    table = dataset.episode_table()
    undisturbed = np.flatnonzero(table["behavior"] != "perturbed-expert")
    in_order = undisturbed[np.argsort(table["seed"][undisturbed], kind="stable")]
    found: dict[str, list[Episode]] = {}
    for episode in dataset.episodes(in_order.tolist()):
        if episode.success.any() and len(found.get(episode.task_id, [])) < most:
            found.setdefault(episode.task_id, []).append(episode)
    return found


def _lock(root: Path) -> int:
    """Lock the folder against other writers. The system unlocks it when the process dies."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{root}: another writer is at work here; close it first") from None
    return descriptor


def _check_same_schema(dataset: Dataset, schema: v3.Schema) -> None:
    changed = differences(_describe(dataset), _describe(schema))
    if changed:
        raise ValueError(f"{dataset.root}: cannot append, {changed[0]}; use a new folder")


def _describe(schema: v3.Schema) -> dict[str, Any]:
    channels = {
        f"channel {i}": f"{c.name} {c.role} [{c.unit}]" for i, c in enumerate(schema.channels)
    }
    return {"control_hz": float(schema.control_hz)} | channels


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta/info.json"
    info = read_json(path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != v3.CODEBASE_VERSION:
        raise ValueError(
            f"{path}: LeRobot version {version!r}; {v3.CODEBASE_VERSION!r} can be read"
        )
    if "headstart" not in info:
        raise ValueError(f"{path}: not written by headstart; it has to be imported first")
    own_version = info["headstart"].get("format_version")
    if own_version != v3.FORMAT_VERSION:
        raise ValueError(f"{path}: format version {own_version}; {v3.FORMAT_VERSION} can be read")
    missing = {"fps", "total_episodes"} - set(info)
    missing |= {"channels", "control_hz"} - set(info["headstart"])
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(sorted(missing))}")
    return info


def _read_instructions(root: Path) -> list[str]:
    table = v3.read_parquet(root / "meta/tasks.parquet", v3.TASKS_SCHEMA)
    return table.column("task").to_pylist()


def _read_episode_rows(root: Path, at_least: int, schema: pa.Schema) -> pa.Table:
    """One row per episode, from all episodes files."""
    tables = [schema.empty_table()]
    while (path := root / v3.episodes_path(len(tables) - 1)).exists():
        tables.append(v3.read_parquet(path, schema))
    rows = pa.concat_tables(tables)
    if rows.num_rows < at_least:  # more is a crash before info.json was written; nothing is lost
        raise ValueError(
            f"{path}: no such file; {at_least} episodes expected, {rows.num_rows} found"
        )
    numbers, lengths = rows.column("episode_index").to_numpy(), rows.column("length").to_numpy()
    starts = rows.column("dataset_from_index").to_numpy()
    whole = np.array_equal(numbers, np.arange(rows.num_rows))
    if not whole or not np.array_equal(starts, lengths.cumsum() - lengths):
        raise ValueError(f"{root / 'meta/episodes'}: the episodes do not follow one another")
    return rows


def _check_sha256(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path}: damaged: its checksum is not the one recorded")


def _concatenate(chunks: list[np.ndarray], feature: dict[str, Any]) -> np.ndarray:
    """One array (N,), or (N, D) where the feature has a name for each of its D dimensions."""
    width = [] if feature["names"] is None else feature["shape"]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, feature["dtype"])
    return flat.reshape(-1, *width)


def _episode(columns: dict[str, np.ndarray], table: dict[str, np.ndarray], i: int) -> Episode:
    label = columns[v3.LABEL]
    return Episode(
        task_id=str(table["task_id"][i]),
        instruction=str(table["instruction"][i]),
        obs=columns[v3.OBS],
        action=columns[v3.ACTION],
        reward=columns[v3.REWARD],
        success=columns[v3.SUCCESS],
        final_obs=table["final_obs"][i],
        terminated=bool(table["terminated"][i]),
        truncated=bool(table["truncated"][i]),
        seed=int(table["seed"][i]),
        behavior=str(table["behavior"][i]),
        action_expert=None if np.isnan(label).all() else label,
    )
