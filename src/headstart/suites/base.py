"""The contract of a vectorised environment.

Resets are explicit: ``step`` never resets by itself. Rows may be stepped or reset in part, so a
finished episode costs nothing, there is no phantom transition to mask, and what ``step`` returns
at the end of an episode is its final observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headstart.types import Task


@dataclass
class StepResult:
    """Result of one step of n environments, in the order of the ``env_ids`` given."""

    obs: np.ndarray  # (n, O) float32; at the end of an episode: its final observation
    reward: np.ndarray  # (n,) float32
    terminated: np.ndarray  # (n,) bool
    truncated: np.ndarray  # (n,) bool
    success: np.ndarray  # (n,) bool, of the state reached


class VecEnv(Protocol):
    """Several environments of one task, environment k seeded with ``seeds[k]``.

    Where the physics diverges, an observation or reward is not finite: ``rollout.Interaction`` ends
    the episode and has it reset. NaN throughout is a channel that the task does not have.
    """

    task: Task
    seeds: tuple[int, ...]

    @property
    def num_envs(self) -> int: ...

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        """Start new episodes in ``env_ids`` (all by default); returns their obs (n, O) float32."""
        ...

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        """Apply action (n, A) to ``env_ids`` (all by default).

        Raises:
            ValueError: an episode there has ended and no reset has begun another.
        """
        ...

    def close(self) -> None: ...


class Wrapped:
    """Other environments, with something changed by who inherits from it."""

    def __init__(self, env: VecEnv) -> None:
        self.env, self.task, self.seeds = env, env.task, env.seeds
        self.reset, self.close = env.reset, env.close

    @property
    def num_envs(self) -> int:
        return self.env.num_envs

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        return self.env.step(action, env_ids)
