"""OGBench npz files.

::

    observations.npy  (N, O) float32, or (N, H, W, 3) uint8 in the visual sets
    actions.npy       (N, A) float32
    terminals.npy     (N,) bool: the last row of each trajectory
    qpos, qvel, button_states, and rewards and masks where someone relabelled

A trajectory of T + 1 rows has T steps: its last row holds the observation after the last action,
and an action that was never part of a transition. Source: OGBench 1.2.2, ``ogbench/utils.py``.

The file is read as a stream, checksums included, with a block of whole trajectories in memory.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from headstart.data.importers.base import (
    MAX_DIMENSIONS,
    Dropped,
    Source,
    feature_channels,
    slug,
    unknown_reward,
)
from headstart.types import Camera, Channel, Episode

BLOCK_BYTES = 16 * 2**20

_REQUIRED = ("observations", "actions", "terminals")
_STATE = ("qpos", "qvel", "button_states")
_MAX_RATIO = 1100  # deflate packs 1,032 bytes into one at best
_HEADER_BYTES = 10_000

# Physics step x frame skip of ``locomaze``, control_timestep of ``manipspace`` [Hz].
_RATES = (("humanoidmaze", 40.0), ("maze", 10.0), ("antsoccer", 10.0))
_MANIPULATION_HZ = 20.0


class Member:
    """One array of an npz file, read row by row from the front."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str) -> None:
        self._where = f"{path}: {name}"
        try:
            facts = archive.getinfo(f"{name}.npy")
            self._file: IO[bytes] = archive.open(facts)
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, by_column, self.dtype = read(self._file, max_header_size=_HEADER_BYTES)
        except KeyError:
            raise ValueError(f"{self._where}: not there") from None
        except _ERRORS as error:
            raise ValueError(f"{self._where}: damaged: {error}") from None
        if self.dtype.kind not in "biuf" or (by_column and len(shape) > 1) or not shape:
            raise ValueError(f"{self._where}: {self.dtype} {shape}; expected rows of numbers")
        self.rows, self.shape = shape[0], shape[1:]
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        if self._file.tell() + self.rows * self.row_bytes != facts.file_size:
            raise ValueError(f"{self._where}: damaged: it says {shape}, the file has other bytes")
        if facts.file_size > facts.compress_size * _MAX_RATIO:
            raise ValueError(f"{self._where}: damaged: too small for what it says it holds")

    def read(self, rows: int) -> np.ndarray:
        """The next rows, or as many as are left. (n, ...) of the file's dtype."""
        wanted = rows * self.row_bytes
        parts, left = [], wanted
        try:
            while left and (part := self._file.read(min(left, 2**20))):
                parts.append(part)
                left -= len(part)
        except _ERRORS as error:
            raise ValueError(f"{self._where}: damaged: {error}") from None
        if left:
            raise ValueError(f"{self._where}: damaged: it ends early")
        return np.frombuffer(b"".join(parts), self.dtype).reshape(rows, *self.shape)


class OGBenchSource(Source):
    """An OGBench file, opened for reading."""

    def __init__(self, path: Path, robot: str) -> None:
        self.path = path
        env, self.behavior = _env_and_kind(path)
        self.robot = robot or slug(env, "robot")
        self.instruction = f"{env} {self.behavior}".replace("-", " ").removesuffix(" unknown")
        with _open(path) as archive:
            members = {i.removesuffix(".npy"): i for i in archive.namelist()}
            first = {n: Member(path, archive, n) for n in _REQUIRED}
            rows = {n: m.rows for n, m in first.items()}
            if len(set(rows.values())) != 1:
                raise ValueError(f"{path}: of different lengths: {rows}")
            self.lengths = _lengths(first["terminals"])
            self._choose(path, archive, first, [n for n in members if n not in _REQUIRED])
        channels: list[Channel] = []
        for name, shape in self._state.items():
            feature = "state" if name == "observations" else name
            channels += feature_channels(self.robot, feature, shape, "observation")
        shape = first["actions"].shape
        if (size := int(np.prod(shape))) > MAX_DIMENSIONS:
            raise ValueError(f"{path}: actions: {size} numbers a step; at most {MAX_DIMENSIONS}")
        channels += feature_channels(self.robot, "action", shape, "action")
        rate = next((hz for word, hz in _RATES if word in env), _MANIPULATION_HZ)
        super().__init__("OGBench npz", tuple(channels), rate, len(self.lengths), self._cameras)
        for line in self._lines:
            self.note(line)
        self.note("terminals mark where a trajectory was cut: every episode is truncated")

    def _choose(
        self, path: Path, archive: zipfile.ZipFile, first: dict[str, Member], rest: list[str]
    ) -> None:
        """Which arrays become channels, which a camera, which is left out."""
        shape, dtype = first["observations"].shape, first["observations"].dtype
        self._cameras: tuple[Camera, ...] = ()
        self._state: dict[str, tuple[int, ...]] = {}
        self._lines: list[str] = []
        if dtype == np.uint8 and len(shape) == 3 and shape[2] == 3:
            self._cameras = (Camera("observations", shape[0], shape[1], "image"),)
            for name in (n for n in _STATE if n in rest):
                self._state[name] = Member(path, archive, name).shape
            self._lines.append("the picture after the last action has no place: left out")
        elif int(np.prod(shape)) <= MAX_DIMENSIONS:
            self._state["observations"] = shape
        else:
            raise ValueError(f"{path}: observations of {dtype} {shape}: no state, no RGB picture")
        used = {*self._state, "rewards", "masks"}
        if left_out := [name for name in rest if name not in used]:
            self._lines.append(f"left out: {', '.join(left_out)}")
        self._scalars = [name for name in ("rewards", "masks") if name in rest]

    def episodes(self, start: int = 0) -> Iterator[Episode | Dropped]:
        first_row = sum(self.lengths[:start])
        with _open(self.path) as archive:
            names = {*self._state, *(c.name for c in self._cameras), *self._scalars, "actions"}
            members = {name: Member(self.path, archive, name) for name in sorted(names)}
            _skip(members, first_row)
            for lengths in self._blocks(members, start):
                yield from self._cut(_read(members, sum(lengths)), lengths)

    def _blocks(self, members: dict[str, Member], start: int) -> Iterator[list[int]]:
        """Lengths of the trajectories of each block."""
        row_bytes = sum(m.row_bytes for m in members.values())
        block: list[int] = []
        for length in self.lengths[start:]:
            block.append(length)
            if sum(block) * row_bytes >= BLOCK_BYTES:
                yield block
                block = []
        if block:
            yield block

    def _cut(
        self, arrays: dict[str, np.ndarray], lengths: list[int]
    ) -> Iterator[Episode | Dropped]:
        rows = sum(lengths)
        parts = [arrays[n].reshape(rows, -1).astype(np.float32, copy=False) for n in self._state]
        none = np.empty((rows, 0), np.float32)
        obs = parts[0] if len(parts) == 1 else np.concatenate([none, *parts], axis=1)
        action = arrays["actions"].reshape(rows, -1).astype(np.float32, copy=False)
        end = 0
        for length in lengths:
            begin, end = end, end + length
            last = end - 1
            if length == 1:
                yield Dropped("a single row, so no step")
                continue
            reward, success = unknown_reward(length - 1), np.zeros(length - 1, bool)
            if "rewards" in arrays:
                reward = arrays["rewards"][begin:last].astype(np.float32)
            if "masks" in arrays:  # 0 in a state that is the goal's
                success = arrays["masks"][begin + 1 : end] == 0
            yield Episode(
                task_id=f"{self.robot}/{slug(self.instruction)}",
                instruction=self.instruction,
                obs=obs[begin:last],
                action=action[begin:last],
                reward=reward,
                success=success,
                final_obs=obs[last],
                terminated=False,
                truncated=True,
                seed=-1,
                behavior=self.behavior,
                images={c.name: arrays[c.name][begin:last] for c in self._cameras},
            )


def matches(path: Path) -> bool:
    """A file that ends in .npz and starts as a zip archive does."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def open_source(path: Path, robot: str) -> Source:
    """Raises ValueError: an array is missing, damaged, or not of numbers."""
    return OGBenchSource(path, robot)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _ERRORS as error:
        raise ValueError(f"{path}: damaged: {error}") from None


def _lengths(terminals: Member) -> list[int]:
    """Rows of each trajectory. Rows after the last terminal are one that was cut short."""
    ends: list[np.ndarray] = []
    for start in range(0, terminals.rows, 2**20):
        flags = terminals.read(min(2**20, terminals.rows - start))
        ends.append(np.flatnonzero(flags.reshape(-1)) + start + 1)
    found = np.concatenate([*ends, [terminals.rows]]).astype(np.int64)
    return [int(n) for n in np.diff(found, prepend=0) if n > 0]


def _skip(members: dict[str, Member], rows: int) -> None:
    for start in range(0, rows, 2**14):
        _read(members, min(2**14, rows - start))


def _read(members: dict[str, Member], rows: int) -> dict[str, np.ndarray]:
    return {name: member.read(rows) for name, member in members.items()}


def _env_and_kind(path: Path) -> tuple[str, str]:
    """``antmaze-large-navigate-v0-val.npz`` -> ``antmaze-large`` and who acted: ``navigate``."""
    stem = re.sub(r"(-train|-val)?$", "", path.stem)
    found = re.fullmatch(r"(.+)-([a-z]+)-v\d+", stem)
    return (found[1], found[2]) if found else (stem, "unknown")


_ERRORS: Any = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError
)  # fmt: skip
