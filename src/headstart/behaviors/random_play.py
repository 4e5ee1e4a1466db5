"""Random play: motion without a purpose that still goes somewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.behaviors.base import Decision
from headstart.types import Task


class RandomPlay:
    """Actions from an Ornstein-Uhlenbeck process, clipped to [-1, 1].

    With correlation r and independent standard normal e, per channel::

        a[0] = s e,    a[t] = r a[t-1] + sqrt(1 - r^2) s e

    so that every a[t] has deviation s before clipping and is remembered for 1 / (1 - r) steps.

    Args:
        task: says how many action channels there are.
        seeds: one per environment; the actions in environment k depend on it alone.
        correlation: r, between one step and the next; 0.95 holds a direction for about 20 steps.
        std: s.
    """

    name = "random"

    def __init__(
        self, task: Task, seeds: Sequence[int], correlation: float = 0.95, std: float = 0.7
    ) -> None:
        self.correlation = correlation
        self.std = std
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._action = np.zeros((len(seeds), len(task.action_channels)))

    def reset(self, env_ids: np.ndarray) -> None:
        for i in env_ids:
            self._action[i] = self.std * self._draw(i)

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        action = self._action[env_ids]
        noise = np.stack([self._draw(i) for i in env_ids])
        # a[t+1] = r a[t] + sqrt(1 - r^2) s e
        r = self.correlation
        self._action[env_ids] = r * action + np.sqrt(1.0 - r**2) * self.std * noise
        return Decision(np.clip(action, -1.0, 1.0).astype(np.float32))

    def _draw(self, env_id: int) -> np.ndarray:
        return self._rngs[env_id].normal(size=self._action.shape[1])
