"""A flat copy of a dataset's steps, mapped into memory: what training reads.

::

    <dataset>/.cache/<the dataset's digest>/steps.npy     (T, C) float32: obs | action | label
                                            solved.npy    (E,) bool: succeeded at some step
                                            cache.json    layout, sizes and checksums; written last

It is built when a dataset is first trained on, and anew when the dataset has changed. The folder
is hidden, so it is no part of the dataset's identity, and it may be deleted at any time.

Opening reads the whole copy once and compares a CRC-32 of every 4 MiB, at 1 to 3 GB/s, so a copy
that was cut short or has a flipped bit is built anew instead of being trained on. That costs little
beside what follows: the statistics read all steps as well, then out of the warm page cache. A
cryptographic digest would be slower and guard against nothing more; this is no defence against
people who may write to the folder, who could as well change the dataset.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.artifact import read_json, write_json
from headstart.data.files import flush
from headstart.data.store import Dataset
from headstart.data.trajectories import Trajectories
from headstart.types import Channel

LAYOUT = 1
BLOCK_BYTES = 2**22
_STEPS, _SOLVED, _HEADER = "steps.npy", "solved.npy", "cache.json"


@dataclass(frozen=True)
class Cache:
    """All steps of a dataset as one mapped array, and a row an episode."""

    obs_channels: tuple[Channel, ...]
    action_channels: tuple[Channel, ...]
    rows: np.ndarray  # (T, O + A) or (T, O + 2 A) float32, see Trajectories
    start: np.ndarray  # (E,) int64
    length: np.ndarray  # (E,) int64
    task_id: np.ndarray  # (E,) str
    instruction: np.ndarray  # (E,) str
    solved: np.ndarray  # (E,) bool

    def trajectories(
        self, episodes: np.ndarray | None = None, lone_shown: bool = True
    ) -> Trajectories:
        """These episodes where they are.

        Args:
            episodes: their numbers; None: all.
            lone_shown: whether a task's only episode is fit to be shown. It would be its own
                answer, which teaches to copy.

        Raises:
            ValueError: no episode.
        """
        if episodes is None:
            episodes = np.arange(len(self.length))
        data = Trajectories.select(
            self.obs_channels,
            self.action_channels,
            self.rows,
            self.start[episodes],
            self.length[episodes],
            self.task_id[episodes],
            self.instruction[episodes],
            self.solved[episodes],
        )
        if not lone_shown:
            data.shows &= np.bincount(data.task_of_episode)[data.task_of_episode] > 1
        return data


def open_cache(dataset: Dataset) -> Cache:
    """A dataset's steps, mapped into memory; the copy is built where there is none or a bad one.

    Where the dataset's folder cannot be written to, the copy goes to the temporary folder.

    Raises:
        ValueError: the dataset is damaged, or has no episode.
    """
    if not dataset.num_episodes:
        raise ValueError(f"{dataset.root}: there is no episode to train on")
    try:
        folder = _writable(dataset.root / ".cache")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        folder = _temporary_folder(dataset.root)
        print(f"{dataset.root} cannot be written to; its flat copy is in {folder}", flush=True)
    table = dataset.episode_table()
    home = folder / dataset.digest
    with _lock(folder):
        problem = _problem(home)
        if problem:
            if home.exists():
                print(f"{home}: {problem}; it is built anew", flush=True)
            _build(dataset, table["num_steps"], folder, home)
    return Cache(
        dataset.obs_channels,
        dataset.action_channels,
        map_rows(home / _STEPS),
        table["start"],
        table["num_steps"],
        table["task_id"],
        table["instruction"],
        np.load(home / _SOLVED, allow_pickle=False),
    )


def map_rows(path: Path) -> np.memmap:
    """An array file, mapped into memory to be drawn from at random.

    Its pages can be evicted, so memory stays bounded however large it is. Without reading ahead: in
    a file larger than the memory what is read ahead is evicted before it is used, and evicts more.
    """
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    rows.base.madvise(mmap.MADV_RANDOM)
    return rows


def _build(dataset: Dataset, num_steps: np.ndarray, folder: Path, home: Path) -> None:
    """Write the copy, one episode in memory at a time, and remove all others."""
    for old in folder.iterdir():  # of an earlier content, damaged, or left by one that died
        if old.is_dir():
            shutil.rmtree(old)
    half = folder / f".{home.name}.tmp"
    try:
        half.mkdir()
        solved = _write_steps(dataset, num_steps, half / _STEPS, labelled=False)
        if solved is None:
            solved = _write_steps(dataset, num_steps, half / _STEPS, labelled=True)
        assert solved is not None
        np.save(half / _SOLVED, solved)
        for name in (_STEPS, _SOLVED):
            flush(half / name)
        files = {name: _describe(half / name) for name in (_STEPS, _SOLVED)}
        write_json(half / _HEADER, {"layout": LAYOUT, "block_bytes": BLOCK_BYTES, "files": files})
        os.rename(half, home)
        flush(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        error.filename = error.filename or str(half)  # a full disk does not say where
        raise


def _write_steps(
    dataset: Dataset, num_steps: np.ndarray, path: Path, labelled: bool
) -> np.ndarray | None:
    """Write steps.npy; returns (E,) bool which episodes succeeded.

    Without ``labelled`` no column is spent on labels; None as soon as an episode turns out to have
    labels that are not its actions.
    """
    solved = np.zeros(len(num_steps), dtype=bool)
    num_obs, num_actions = len(dataset.obs_channels), len(dataset.action_channels)
    shape = (int(num_steps.sum()), num_obs + num_actions * (1 + labelled))
    with path.open("wb", buffering=BLOCK_BYTES) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for number, episode in enumerate(dataset.iter_episodes()):
            if episode.action_expert is not None and not labelled:
                return None
            solved[number] = episode.success.any()
            label = [episode.label] if labelled else []
            rows = np.concatenate([episode.obs, episode.action, *label], axis=1, dtype="<f4")
            file.write(rows.data)
    return solved


def _problem(home: Path) -> str:
    """What is wrong with a copy; empty if nothing is."""
    if not home.exists():
        return "there is none"
    try:
        header = read_json(home / _HEADER)
        if header["layout"] != LAYOUT or header["block_bytes"] != BLOCK_BYTES:
            return "it is of another layout"
        for name in (_STEPS, _SOLVED):
            if header["files"][name] != _describe(home / name):
                return f"{name} is damaged"
    except (ValueError, OSError, LookupError, TypeError) as error:
        return f"damaged: {error}"
    return ""


def _describe(path: Path) -> dict[str, Any]:
    """Length of a file and the CRC-32 of each of its blocks."""
    block, checksums = bytearray(BLOCK_BYTES), []
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            checksums.append(zlib.crc32(memoryview(block)[:count]))
    return {"bytes": path.stat().st_size, "crc32": checksums}


def _writable(folder: Path) -> Path:
    """The folder, made if need be. Raises OSError where nothing can be written into it."""
    folder.mkdir(exist_ok=True)
    os.close(os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644))
    return folder


def _temporary_folder(root: Path) -> Path:
    """A folder of this user's own for a dataset that lies here.

    Raises:
        ValueError: somebody else has made it.
    """
    own = Path(tempfile.gettempdir()) / f"headstart-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.lstat().st_uid != os.getuid():
        raise ValueError(f"{own} is another user's; remove it, or set TMPDIR to a folder of yours")
    return _writable(own / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16])


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time builds; others wait and find it built."""
    descriptor = os.open(folder / "lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
