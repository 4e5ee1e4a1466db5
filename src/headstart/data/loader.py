"""Episodes to training batches: which sequences a model is shown, in what order.

A batch is a pure function of (seed, number of the update), so that a resumed run draws the very
batches that it would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.data.frames import RandomFrames
from headstart.types import Channel, Episode, TokenBatch

WORDS, SHOWN, BOTH, NONE = range(4)
"""The cues of a batch: told in words, shown a demonstration, both, or nothing."""


@dataclass
class Trajectories:
    """Episodes of one body laid end to end, sorted by task.

    ::

        flat row     0 1 2 3 4 5 6 ...
        episode      0 0 0 1 1 2 2        start = [0 3 5], length = [3 2 2]
        task         a a a a a b b        task_of_episode = [0 0 1]
    """

    obs_channels: tuple[Channel, ...]
    action_channels: tuple[Channel, ...]
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]  # one a task
    obs: np.ndarray  # (T, O) float32
    action: np.ndarray  # (T, A) float32, executed
    label: np.ndarray  # (T, A) float32, to imitate
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
        """Lay these episodes end to end.

        Episodes that succeeded are fit to be shown; of a task that none is known to have
        succeeded on, all are.

        Raises:
            ValueError: no episode.
        """
        if not episodes:
            raise ValueError("there is no episode to train on")
        tasks = tuple(dict.fromkeys(e.task_id for e in episodes))
        ordered = sorted(episodes, key=lambda e: tasks.index(e.task_id))
        length = np.array([e.num_steps for e in ordered])
        instructions = {e.task_id: e.instruction for e in episodes}
        solved = {e.task_id for e in episodes if e.success.any()}
        shows = np.array([bool(e.success.any()) or e.task_id not in solved for e in ordered])
        return cls(
            obs_channels,
            action_channels,
            tasks,
            tuple(instructions[t] for t in tasks),
            obs=np.concatenate([e.obs for e in ordered]),
            action=np.concatenate([e.action for e in ordered]),
            label=np.concatenate([e.label for e in ordered]),
            start=np.cumsum(length) - length,
            length=length,
            task_of_episode=np.array([tasks.index(e.task_id) for e in ordered]),
            shows=shows,
        )

    @property
    def last_step(self) -> np.ndarray:
        """(T,) bool, true at each episode's last row."""
        last = np.zeros(len(self.obs), dtype=bool)
        last[self.start + self.length - 1] = True
        return last


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How training sequences are put together."""

    num_prompts: int = 32
    """Sequences a batch."""
    num_windows: int = 32
    """Windows that share a sequence's words and demonstration."""
    told: float = 0.3
    """Share of the batches that are told in words only."""
    shown: float = 0.6
    """Share of the batches that are shown a demonstration only. Of what is left, most get both
    cues, half of them with another task's words, so that words do not overrule what was shown;
    the others get none."""
    random_frames: float = 0.7
    """Share of the shown sequences that are re-expressed in a random frame (data/frames.py)."""


class Loader:
    """Draws training batches.

    Args:
        words: (tasks, W) int64, each task's instruction.
        window: K, steps a window. demonstration_steps: P.
    """

    def __init__(
        self,
        data: Trajectories,
        config: LoaderConfig,
        words: np.ndarray,
        window: int,
        demonstration_steps: int,
        seed: int,
    ) -> None:
        self.data = data
        self.config = config
        self._words = words
        self._window = window
        self._demonstration_steps = demonstration_steps
        self._seed = seed
        self._num_episodes = np.bincount(data.task_of_episode, minlength=len(data.tasks))
        self._shown = [
            np.flatnonzero(data.shows & (data.task_of_episode == task))
            for task in range(len(data.tasks))
        ]
        self._frames = RandomFrames(
            [c.name for c in data.obs_channels], [c.name for c in data.action_channels], data.obs
        )

    def batch(self, update: int) -> TokenBatch:
        """The batch of this update."""
        rng = np.random.default_rng([self._seed, update])
        cue = self._draw_cue(rng)
        task = rng.integers(len(self.data.tasks), size=self.config.num_prompts)
        shown = self._draw_shown(rng, task) if cue in (SHOWN, BOTH) else None
        batch = self._draw_windows(rng, task, shown)
        if shown is not None:
            batch.demonstration = self._demonstrations(shown)
        if cue == SHOWN:
            self._frames.turn(batch, rng, self.config.random_frames)
        if cue == WORDS:
            batch.words = self._words[task]
        if cue == BOTH:
            wrong = rng.random(len(task)) < 0.5
            batch.words = self._words[np.where(wrong, rng.permutation(task), task)]
        return batch

    def _draw_cue(self, rng: np.random.Generator) -> int:
        told, shown = self.config.told, self.config.shown
        rest = 1.0 - told - shown
        return int(rng.choice(4, p=[told, shown, rest * 0.8, rest * 0.2]))

    def _draw_shown(self, rng: np.random.Generator, task: np.ndarray) -> np.ndarray:
        """(B,): an episode of each task that is fit to be shown."""
        sizes = np.array([len(group) for group in self._shown])
        place = (rng.random(len(task)) * sizes[task]).astype(np.int64)
        return np.concatenate(self._shown)[(np.cumsum(sizes) - sizes)[task] + place]

    def _draw_episodes(
        self, rng: np.random.Generator, task: np.ndarray, shown: np.ndarray | None
    ) -> np.ndarray:
        """(B, N): episodes of each task, but not the one that is shown, unless it is the only
        one: a model that has an episode in its prompt could copy it."""
        number = self._num_episodes
        first = (np.cumsum(number) - number)[task][:, None]
        others = number[task][:, None] - (shown is not None)
        u = rng.random((len(task), self.config.num_windows))
        episode = first + (u * np.maximum(others, 1)).astype(np.int64)
        if shown is None:
            return episode
        return episode + ((episode >= shown[:, None]) & (others > 0))

    def _demonstrations(self, episode: np.ndarray) -> np.ndarray:
        """(B, P, O + A) float32: these episodes (B,) as they stand in a prompt."""
        data = self.data
        row = data.start[episode][:, None] + evenly_spaced(
            data.length[episode], self._demonstration_steps
        )
        return np.concatenate([data.obs[row], data.label[row]], axis=-1)

    def _draw_windows(
        self, rng: np.random.Generator, task: np.ndarray, shown: np.ndarray | None
    ) -> TokenBatch:
        """N windows of episodes of each task, no cue yet."""
        data, K = self.data, self._window
        episode = self._draw_episodes(rng, task, shown)
        length = data.length[episode][..., None]
        # A window may start anywhere; past an episode's end its last step is repeated, unlabelled.
        first = (rng.random(episode.shape) * data.length[episode]).astype(np.int64)
        step = first[..., None] + np.arange(K)
        row = data.start[episode][..., None] + np.minimum(step, length - 1)
        following = np.minimum(row + 1, len(data.obs) - 1)
        has_next = (step < length - 1)[..., None]
        return TokenBatch(
            words=None,
            demonstration=None,
            obs=data.obs[row],
            action=data.action[row],
            label=np.where((step < length)[..., None], data.label[row], np.nan),
            change=np.where(has_next, data.obs[following] - data.obs[row], np.nan),
        )


def evenly_spaced(length: np.ndarray, num_steps: int) -> np.ndarray:
    """(B, P) the steps of episodes of these lengths (B,) that stand in a prompt, first to last."""
    progress = np.linspace(0.0, 1.0, num_steps)
    return np.round(progress * (length[:, None] - 1)).astype(np.int64)
