"""What counts in a dataset: meta/journal.jsonl, a file that only ever grows.

::

    {"format_version": 2, "control_hz": ..., "channels": [...], "cameras": [...], ...}
    {"save": 0, "first_episode": 0, "first_step": 0, "instructions": {...}, "files": [...],
     "episodes": {"length": [...], "seed": [...], ...}, ...}
    {"closed": 1, "files": [...], ...}       the derived files, as the writer left them

Every line ends with a hash of itself and has that of the line before it, so that a line that was
changed, cut or removed is found. A last line without an end is one that was being written when
the writer died; it does not count.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.files import flush, naming, write_all
from headstart.types import Camera, Channel

NAME = "meta/journal.jsonl"
FORMAT_VERSION = 2
_HASH_KEY = b',"sha256":"'
_TAIL_BYTES = len(_HASH_KEY) + 64 + len(b'"}')

Record = dict[str, Any]


class DamagedError(ValueError):
    """A line of a journal is not what was written there."""


@dataclass
class Journal:
    """The lines of a journal that count."""

    path: Path
    header: Record
    records: list[Record] = field(default_factory=list)
    """All lines after the header."""
    num_bytes: int = 0
    """Length of the lines that count; what follows in the file does not."""
    last_sha256: str = ""
    torn: bool = False
    """Whether the file goes on after them."""

    @property
    def saves(self) -> list[Record]:
        return [record for record in self.records if "save" in record]

    @property
    def closed(self) -> Record | None:
        """The last line, if a writer closed the dataset with it."""
        return self.records[-1] if self.records and "closed" in self.records[-1] else None

    def drop_last(self) -> Record:
        """Take the last line back: it does not count. Returns it."""
        record = self.records.pop()
        line = _line(record)
        self.num_bytes -= len(line)
        self.last_sha256 = record["previous"]
        self.torn = True
        return record


def read(path: Path) -> Journal:
    """Read a journal and verify its hashes.

    Raises:
        ValueError: no such file, none of a line or another version.
        DamagedError: a line is not what was written.
    """
    content = read_bytes(path)
    lines = content.split(b"\n")
    lines.pop()  # what follows the last line's end
    # After power loss some file systems show zeros where the last write did not arrive.
    if lines and b"\0" in lines[-1] and not _is_whole(lines[-1]):
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: no whole line; the writer died before anything was saved")
    records, previous = [], ""
    for number, line in enumerate(lines, 1):
        record = parse_line(line)
        if record is None:
            raise DamagedError(f"{path}: damaged: line {number} is not what was written")
        if record.get("previous") != previous:
            raise DamagedError(f"{path}: damaged: lines are missing before line {number}")
        previous = record["sha256"]
        records.append(record)
    header = records.pop(0)
    check_header(path, header)
    num_bytes = sum(map(len, lines)) + len(lines)
    return Journal(path, header, records, num_bytes, previous, num_bytes < len(content))


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None


def check_header(path: Path, header: Record) -> None:
    """Raises ValueError for a header of another version."""
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}; {FORMAT_VERSION} can be read")


def parse_line(line: bytes) -> Record | None:
    """The record of a line, or None if it is not whole, or no JSON that a parser can take in."""
    try:
        return json.loads(line) if _is_whole(line) else None
    except (ValueError, RecursionError):  # with a hash that is right: somebody made it
        return None


def _is_whole(line: bytes) -> bool:
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    return tail == _tail(body)


def _tail(body: bytes) -> bytes:
    return _HASH_KEY + hashlib.sha256(body).hexdigest().encode() + b'"}'


def _line(record: Record) -> bytes:
    """The line of a record that has its ``previous``; a ``sha256`` in it is left out."""
    facts = {key: value for key, value in record.items() if key != "sha256"}
    body = json.dumps(facts, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return body + _tail(body) + b"\n"


class JournalWriter:
    """Appends to a journal. A line is durable once ``flush`` returned."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._descriptor = os.open(journal.path, os.O_RDWR)
        try:
            if journal.torn:
                self.take_back()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, header: Record) -> JournalWriter:
        """A new journal, durable, whose folder exists."""
        record = {"format_version": FORMAT_VERSION, **header, "previous": ""}
        line = _line(record)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(descriptor, line, path)
            with naming(path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        flush(path.parent)
        return cls(Journal(path, record, [], len(line), line[-67:-3].decode()))

    def append(self, record: Record) -> Record:
        """Write a line, not yet durable; ``take_back`` undoes it, ``count`` makes it count."""
        record = record | {"previous": self.journal.last_sha256}
        self._next = _line(record)
        write_all(self._descriptor, self._next, self.journal.path, self.journal.num_bytes)
        return record

    def flush(self) -> None:
        with naming(self.journal.path):
            os.fsync(self._descriptor)

    def count(self, record: Record) -> None:
        """The line written last counts from now on."""
        self.journal.records.append(record)
        self.journal.num_bytes += len(self._next)
        self.journal.last_sha256 = self._next[-67:-3].decode()

    def take_back(self) -> None:
        """Cut off what follows the lines that count."""
        with naming(self.journal.path):
            os.ftruncate(self._descriptor, self.journal.num_bytes)
        self.flush()
        self.journal.torn = False

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def header_of(channels: Iterable[Channel], cameras: Iterable[Camera], control_hz: float) -> Record:
    return {
        "control_hz": float(control_hz),
        "channels": [{"name": c.name, "role": c.role, "unit": c.unit} for c in channels],
        "cameras": [
            {"name": c.name, "height": c.height, "width": c.width, "storage": c.storage}
            for c in cameras
        ],
    }


def instructions(saves: Iterable[Record]) -> dict[str, int]:
    """Instruction -> its task index, in order."""
    found = {int(i): text for save in saves for i, text in save["instructions"].items()}
    return {found[i]: i for i in sorted(found)}


def encode_floats(array: np.ndarray) -> str:
    """float32 as text that keeps every bit."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def decode_floats(texts: Iterable[str]) -> np.ndarray:
    """(N,) float32 from what ``encode_floats`` gave, one after another."""
    try:
        content = b"".join(map(base64.b64decode, texts))
    except binascii.Error:
        raise ValueError("not base64") from None
    return np.frombuffer(bytearray(content), "<f4")


class Rows:
    """One row per episode, from the saves in a journal: where it lies and what it is.

    Args:
        num_obs: observation channels.
    """

    def __init__(self, saves: list[Record], num_obs: int) -> None:
        self._saves = saves
        self._num_obs = num_obs

    @cached_property
    def num_steps(self) -> np.ndarray:
        """(N,) int64."""
        return self._numbers("length", np.int64)

    @cached_property
    def start(self) -> np.ndarray:
        """(N,) int64: the episode's first step in the dataset."""
        return self.num_steps.cumsum() - self.num_steps

    @cached_property
    def file(self) -> np.ndarray:
        """(N,) int64: number of the data file that the episode lies in."""
        sizes = [len(save["episodes"]["length"]) for save in self._saves]
        return np.repeat([save["save"] for save in self._saves], sizes).astype(np.int64)

    @cached_property
    def first_of_file(self) -> np.ndarray:
        """(N,) int64: the first episode of the data file that the episode lies in."""
        return np.searchsorted(self.file, self.file)

    @cached_property
    def task_index(self) -> np.ndarray:
        return self._numbers("task_index", np.int64)

    @cached_property
    def seed(self) -> np.ndarray:
        return self._numbers("seed", np.int64)

    @cached_property
    def terminated(self) -> np.ndarray:
        return self._numbers("terminated", np.bool_)

    @cached_property
    def truncated(self) -> np.ndarray:
        return self._numbers("truncated", np.bool_)

    @cached_property
    def final_obs(self) -> np.ndarray:
        """(N, O) float32."""
        floats = decode_floats(save["episodes"]["final_obs"] for save in self._saves)
        return floats.reshape(len(self.num_steps), self._num_obs)

    def texts(self, name: str) -> list[str]:
        """``task_id``, ``behavior`` or ``sha256``."""
        return list(chain.from_iterable(save["episodes"][name] for save in self._saves))

    def video(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) int64 number of the video file and (N,) float64 [s] where the episode begins."""
        videos = [save["episodes"]["videos"][camera] for save in self._saves]
        files = list(chain.from_iterable(video["file"] for video in videos))
        starts = list(chain.from_iterable(video["start_s"] for video in videos))
        return np.array(files, np.int64), np.array(starts, np.float64)

    def _numbers(self, name: str, dtype: type) -> np.ndarray:
        return np.array(self.texts(name), dtype)
