"""Episodes of one body laid end to end: what training windows are cut out of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from headstart.types import Channel, Episode

CHUNK_STEPS = 2**17
"""Steps in memory at a time while a whole dataset is gone through."""


@dataclass
class Trajectories:
    """Episodes of one body laid end to end, and which of them to train on, sorted by task.

    ::

        row          0 1 2 3 4 5 6 ...
        episode      0 0 0 2 2 1 1        start = [0 5 3], length = [3 2 2]
        task         a a a b b a a        task_of_episode = [0 0 1]

    A row is a step: ``obs | action | label``, or ``obs | action`` where every label is the action.
    So a window is one piece of memory, whether the rows are an array or a file mapped into memory.
    """

    obs_channels: tuple[Channel, ...]
    action_channels: tuple[Channel, ...]
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]  # one a task
    rows: np.ndarray  # (T, O + A) or (T, O + 2 A) float32
    start: np.ndarray  # (E,) int64
    length: np.ndarray  # (E,) int64
    task_of_episode: np.ndarray  # (E,) int64
    shows: np.ndarray  # (E,) bool: fit to be shown as a demonstration

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Episode],
        obs_channels: tuple[Channel, ...],
        action_channels: tuple[Channel, ...],
    ) -> Trajectories:
        """Lay these episodes end to end, in memory.

        Raises:
            ValueError: no episode.
        """
        steps = [np.concatenate([e.obs, e.action, e.label], axis=1) for e in episodes]
        length = np.array([len(s) for s in steps], dtype=np.int64)
        return cls.select(
            obs_channels,
            action_channels,
            np.concatenate(steps) if steps else np.zeros((0, 0), np.float32),
            start=np.cumsum(length) - length,
            length=length,
            task_id=np.array([e.task_id for e in episodes]),
            instruction=np.array([e.instruction for e in episodes]),
            solved=np.array([bool(e.success.any()) for e in episodes]),
        )

    @classmethod
    def select(
        cls,
        obs_channels: tuple[Channel, ...],
        action_channels: tuple[Channel, ...],
        rows: np.ndarray,
        start: np.ndarray,
        length: np.ndarray,
        task_id: np.ndarray,
        instruction: np.ndarray,
        solved: np.ndarray,
    ) -> Trajectories:
        """These episodes (E,) of the rows; a task's last instruction counts.

        Episodes that succeeded are fit to be shown; of a task that none is known to have
        succeeded on, all are.

        Raises:
            ValueError: no episode.
        """
        if not len(start):
            raise ValueError("there is no episode to train on")
        tasks = tuple(dict.fromkeys(task_id.tolist()))
        number = {task: k for k, task in enumerate(tasks)}
        task_of_episode = np.array([number[t] for t in task_id.tolist()], dtype=np.int64)
        order = np.argsort(task_of_episode, kind="stable")
        instructions = dict(zip(task_id.tolist(), instruction.tolist(), strict=True))
        ever_solved = np.zeros(len(tasks), dtype=bool)
        ever_solved[task_of_episode[solved]] = True
        return cls(
            obs_channels,
            action_channels,
            tasks,
            tuple(instructions[t] for t in tasks),
            rows,
            start[order],
            length[order],
            task_of_episode[order],
            shows=(solved | ~ever_solved[task_of_episode])[order],
        )

    @property
    def obs(self) -> np.ndarray:
        """(T, O) float32."""
        return self.rows[:, : len(self.obs_channels)]

    @property
    def action(self) -> np.ndarray:
        """(T, A) float32, executed."""
        return self.rows[:, len(self.obs_channels) :][:, : len(self.action_channels)]

    @property
    def label(self) -> np.ndarray:
        """(T, A) float32, to imitate."""
        return self.rows[:, self.rows.shape[1] - len(self.action_channels) :]

    def windows(self, episode: np.ndarray, first: np.ndarray, num_steps: int) -> np.ndarray:
        """Rows (..., num_steps, C) from step ``first`` of each episode on, both (...) int64.

        Past an episode's end its last row is repeated.
        """
        row = (self.start[episode] + first).ravel()
        last = (self.start[episode] + self.length[episode] - 1).ravel()
        rows, width = self.rows, self.rows.shape[1]
        found = np.empty((len(row), num_steps, width), dtype=np.float32)
        crossing = np.flatnonzero(row + num_steps - 1 > last)
        places = len(rows) - num_steps + 1
        if places > 0:
            # Row i of this view is the window that begins at step i: copying it is one piece.
            assert rows.flags.c_contiguous
            view = as_strided(
                rows, (places, num_steps * width), rows.strides, subok=False, writeable=False
            )
            found = view[np.minimum(row, places - 1)].reshape(found.shape)
        steps = np.minimum(row[crossing, None] + np.arange(num_steps), last[crossing, None])
        found[crossing] = rows[steps]
        return found.reshape(*episode.shape, num_steps, width)

    def chunks(self, most: int = CHUNK_STEPS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All steps, at most so many at a time, for what needs them all.

        They come by task; where that takes more than one chunk, as they lie, which reads faster.

        Yields:
            Rows (n, C), and (n,) bool: after which of them the next row is not the next step.
        """
        pieces: list[np.ndarray] = []
        count = 0
        in_order = np.arange(len(self.start))
        order = in_order if self.length.sum() <= most else np.argsort(self.start)
        with self._reading() as read:
            for start, length in zip(
                self.start[order].tolist(), self.length[order].tolist(), strict=True
            ):
                for first in range(start, start + length, most):
                    last = min(first + most, start + length)
                    if count + last - first > most:
                        yield _join(pieces)
                        pieces, count = [], 0
                    pieces.append(read(first, last))
                    count += last - first
        if pieces:
            yield _join(pieces)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Callable[[int, int], np.ndarray]]:
        """What reads rows one range after another. A mapped file is read, not looked at through the
        mapping: that one is drawn from at random, so the system does not read ahead there."""
        rows = self.rows
        with contextlib.ExitStack() as stack:
            file = None
            if isinstance(rows, np.memmap) and rows.filename is not None:
                with contextlib.suppress(FileNotFoundError):  # a newer copy has replaced it
                    file = stack.enter_context(open(rows.filename, "rb", buffering=0))

            def read(first: int, last: int) -> np.ndarray:
                if file is None or not isinstance(rows, np.memmap):
                    return rows[first:last]
                found = np.empty((last - first, rows.shape[1]), dtype=rows.dtype)
                count = os.preadv(
                    file.fileno(), [found.data], rows.offset + first * rows.strides[0]
                )
                assert count == found.nbytes, "the file was cut short while it was read"
                return found

            yield read


def _join(pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(piece) for piece in pieces])
    breaks = np.zeros(ends[-1], dtype=bool)
    breaks[ends - 1] = True
    return np.concatenate(pieces), breaks
