"""Episodes to training batches: which sequences a model is shown, in what order.

A batch is a pure function of (seed, number of the update), so that a resumed run draws the very
batches that it would have drawn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from headstart.config import check_ranges
from headstart.data.frames import RandomFrames
from headstart.data.mixture import SLACK, Mixture
from headstart.data.trajectories import Trajectories
from headstart.types import Channel, TokenBatch

WORDS, SHOWN, BOTH, NONE = range(4)
"""The cues of a batch: told in words, shown a demonstration, both, or nothing."""

AHEAD = 2
"""Batches made ahead of the one in use."""


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

    def __post_init__(self) -> None:
        share, count = (0, 1), (1, math.inf)
        check_ranges(self, told=share, shown=share, random_frames=share)
        check_ranges(self, num_prompts=count, num_windows=count)
        if self.told + self.shown > 1.0 + SLACK:
            raise ValueError(
                f"told {self.told} and shown {self.shown} are more than all sequences; they are"
                " parts of 1"
            )


class Loader:
    """Draws training batches.

    Args:
        words: (tasks, W) int64, each task's instruction.
        window: K, steps a window. demonstration_steps: P.
        columns: names of the batches' observation and action columns; by default the data's.
            A column that a dataset does not have is NaN.
    """

    def __init__(
        self,
        data: Trajectories | Mixture,
        config: LoaderConfig,
        words: np.ndarray,
        window: int,
        demonstration_steps: int,
        seed: int,
        columns: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> None:
        self.data = Mixture.of(data)
        self.config = config
        self._words = words
        self._window = window
        self._demonstration_steps = demonstration_steps
        self._seed = seed
        obs_names, action_names = columns or (
            _names(self.data.obs_channels),
            _names(self.data.action_channels),
        )
        self._widths = (len(obs_names), len(action_names))
        self._parts = [_Part(part, obs_names, action_names) for part in self.data.parts]
        self._part_of_task = np.repeat(
            np.arange(len(self._parts)), [len(part.tasks) for part in self.data.parts]
        )
        sizes = [len(part.start) for part in self.data.parts]
        self._first_episode = np.cumsum([0, *sizes])[:-1]
        self._length = np.concatenate([part.length for part in self.data.parts])
        self._episodes = _Groups(self.data, np.ones(len(self._length), dtype=bool))
        self._shown = _Groups(self.data, np.concatenate([p.shows for p in self.data.parts]))

    def batch(self, update: int) -> TokenBatch:
        """The batch of this update."""
        rng = np.random.default_rng([self._seed, update])
        cue = self._draw_cue(rng)
        task = self._draw_tasks(rng)
        shown = self._shown.pick(rng, task, 1)[:, 0] if cue in (SHOWN, BOTH) else None
        episode = self._draw_episodes(rng, task, shown)
        # A window may start anywhere; past an episode's end its last step is repeated, unlabelled.
        first = (rng.random(episode.shape) * self._length[episode]).astype(np.int64)
        parts = []
        for number in np.unique(self._part_of_task[task]).tolist():
            chosen = np.flatnonzero(self._part_of_task[task] == number)
            part, offset = self._parts[number], self._first_episode[number]
            batch = part.windows(episode[chosen] - offset, first[chosen], self._window)
            if shown is not None:
                batch.demonstration = part.demonstrations(
                    shown[chosen] - offset, self._demonstration_steps
                )
            if cue == SHOWN:
                part.frames.turn(batch, rng, self.config.random_frames)
            parts.append((chosen, part, batch))
        batch = self._join(parts)
        if cue == WORDS:
            batch.words = self._words[task]
        if cue == BOTH:
            wrong = rng.random(len(task)) < 0.5
            batch.words = self._words[np.where(wrong, rng.permutation(task), task)]
        return batch

    def batches(self, first: int, last: int) -> Iterator[TokenBatch]:
        """The batches of updates ``first`` to ``last - 1``, made ahead in a thread."""
        with ThreadPoolExecutor(1, "loader") as thread:
            ahead = deque()
            for update in range(first, last + AHEAD):
                if update >= first + AHEAD:
                    yield ahead.popleft().result()
                if update < last:
                    ahead.append(thread.submit(self.batch, update))

    def _draw_cue(self, rng: np.random.Generator) -> int:
        told, shown = self.config.told, self.config.shown
        rest = max(0.0, 1.0 - told - shown)
        return int(rng.choice(4, p=[told, shown, rest * 0.8, rest * 0.2]))

    def _draw_tasks(self, rng: np.random.Generator) -> np.ndarray:
        probability = self.data.task_probability
        if probability is None:
            return rng.integers(len(self._words), size=self.config.num_prompts)
        return rng.choice(len(self._words), size=self.config.num_prompts, p=probability)

    def _draw_episodes(
        self, rng: np.random.Generator, task: np.ndarray, shown: np.ndarray | None
    ) -> np.ndarray:
        """(B, N): episodes of each task, but not the one that is shown, unless it is the only
        one: a model that has an episode in its prompt could copy it."""
        number, first = (x[task][:, None] for x in (self._episodes.sizes, self._episodes.firsts))
        avoided = np.full(len(task), -1) if shown is None else shown
        others = number - (avoided >= 0)[:, None]
        u = rng.random((len(task), self.config.num_windows))
        # A task's episodes follow one another, so leaving one out is stepping over it.
        episode = first + (u * np.maximum(others, 1)).astype(np.int64)
        step_over = (avoided >= 0) & (others[:, 0] > 0)
        return episode + ((episode >= avoided[:, None]) & step_over[:, None])

    def _join(self, parts: Sequence[tuple[np.ndarray, _Part, TokenBatch]]) -> TokenBatch:
        """One batch of the parts' sequences, each in its rows and in the common columns."""
        num_obs, num_actions = self._widths
        if len(parts) == 1 and parts[0][1].is_whole:
            return parts[0][2]
        obs = [part.obs_columns for _, part, _ in parts]
        action = [part.action_columns for _, part, _ in parts]
        both = [np.concatenate([o, num_obs + a]) for o, a in zip(obs, action, strict=True)]
        rows = [chosen for chosen, _, _ in parts]
        batches = [batch for _, _, batch in parts]
        shown = [b.demonstration for b in batches if b.demonstration is not None]
        return TokenBatch(
            words=None,
            demonstration=_scatter(shown, rows, both, num_obs + num_actions) if shown else None,
            obs=_scatter([b.obs for b in batches], rows, obs, num_obs),
            action=_scatter([b.action for b in batches], rows, action, num_actions),
            label=_scatter([b.label for b in batches], rows, action, num_actions),
            change=_scatter([b.change for b in batches], rows, obs, num_obs),
        )


class _Part:
    """One dataset of a mixture, in its own columns."""

    def __init__(
        self, data: Trajectories, obs_names: Sequence[str], action_names: Sequence[str]
    ) -> None:
        self.data = data
        own_obs, own_action = _names(data.obs_channels), _names(data.action_channels)
        self.is_whole = own_obs == list(obs_names) and own_action == list(action_names)
        self.obs_columns = np.array([obs_names.index(n) for n in own_obs], dtype=np.int64)
        self.action_columns = np.array([action_names.index(n) for n in own_action], dtype=np.int64)
        obs = (rows[:, : len(own_obs)] for rows, _ in data.chunks())
        self.frames = RandomFrames(own_obs, own_action, obs)

    def windows(self, episode: np.ndarray, first: np.ndarray, num_steps: int) -> TokenBatch:
        """Windows (B, N) of the episodes, without a cue."""
        data = self.data
        num_obs, num_actions = len(data.obs_channels), len(data.action_channels)
        rows = data.windows(episode, first, num_steps + 1)  # a change needs the step after
        step = first[..., None] + np.arange(num_steps)
        length = data.length[episode][..., None]
        obs, label = rows[..., :num_obs], rows[..., rows.shape[-1] - num_actions :]
        return TokenBatch(
            words=None,
            demonstration=None,
            obs=obs[..., :-1, :].copy(),
            action=rows[..., :-1, num_obs : num_obs + num_actions].copy(),
            label=np.where((step < length)[..., None], label[..., :-1, :], np.nan),
            change=np.where(
                (step < length - 1)[..., None], obs[..., 1:, :] - obs[..., :-1, :], np.nan
            ),
        )

    def demonstrations(self, episode: np.ndarray, num_steps: int) -> np.ndarray:
        """(B, P, O + A) float32: episodes as they stand in a prompt; NaN for a negative one."""
        data = self.data
        known = np.maximum(episode, 0)
        steps = data.start[known][:, None] + evenly_spaced(data.length[known], num_steps)
        rows = data.rows[steps]
        label = rows[..., rows.shape[-1] - len(data.action_channels) :]
        shown = np.concatenate([rows[..., : len(data.obs_channels)], label], axis=-1)
        shown[episode < 0] = np.nan
        return shown


class _Groups:
    """The chosen episodes of each task, counted through all parts."""

    def __init__(self, data: Mixture, chosen: np.ndarray) -> None:
        first_task = np.cumsum([0, *(len(part.tasks) for part in data.parts)])[:-1]
        task = np.concatenate(
            [part.task_of_episode + t for part, t in zip(data.parts, first_task, strict=True)]
        )
        order = np.argsort(task, kind="stable")
        self._members = order[chosen[order]]
        self.sizes = np.bincount(task[chosen], minlength=len(data.tasks))
        self.firsts = np.cumsum(self.sizes) - self.sizes

    def pick(self, rng: np.random.Generator, task: np.ndarray, count: int) -> np.ndarray:
        """(B, count): that many random episodes of each task; -1 where it has none."""
        sizes = self.sizes[task][:, None]
        place = (rng.random((len(task), count)) * sizes).astype(np.int64)
        place += self.firsts[task][:, None]
        members = np.append(self._members, -1)
        return np.where(sizes > 0, members[place], -1)


def evenly_spaced(length: np.ndarray, num_steps: int) -> np.ndarray:
    """(B, P) the steps of episodes of these lengths (B,) that stand in a prompt, first to last."""
    progress = np.linspace(0.0, 1.0, num_steps)
    return np.round(progress * (length[:, None] - 1)).astype(np.int64)


def _names(channels: Sequence[Channel]) -> list[str]:
    return [channel.name for channel in channels]


def _scatter(
    values: Sequence[np.ndarray],
    rows: Sequence[np.ndarray],
    columns: Sequence[np.ndarray],
    width: int,
) -> np.ndarray:
    """One array (B, ..., width) float32 of the parts' (b, ..., w); NaN where a part has nothing."""
    total = sum(len(chosen) for chosen in rows)
    joined = np.full((total, *values[0].shape[1:-1], width), np.nan, dtype=np.float32)
    for value, chosen, column in zip(values, rows, columns, strict=True):
        for source, target in enumerate(column.tolist()):
            joined[chosen, ..., target] = value[..., source]
    return joined
