"""A suite small enough for tests: move a point in the plane to a goal. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headstart.behaviors.base import Decision
from headstart.suites.base import StepResult
from headstart.types import Channel, Task

CHANNELS = (
    Channel("point/x", "observation", "m"),
    Channel("point/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("goal/y", "goal", "m"),
    Channel("point/dx", "action", "dm"),
    Channel("point/dy", "action", "dm"),
)

TASKS = {
    name: Task("tiny", name, "move the point to the goal", CHANNELS, 50, 10.0)
    for name in ("reach", "reach-once")
}
"""``reach`` goes on after success; ``reach-once`` terminates there."""

SPLITS = {"all": tuple(TASKS)}

RADIUS = 0.15
"""Success: the point is nearer to the goal than this [m]."""


class TinyVecEnv:
    """Starts and goals are drawn from [-1, 1] squared; an action of 1 moves the point 0.1 m.

    Observation: point (2), goal (2). Reward: 1 - distance to the goal [m].
    """

    def __init__(
        self, task: Task, seeds: Sequence[int], max_episode_steps: int | None = None
    ) -> None:
        self.task = task
        self.seeds = tuple(int(s) for s in seeds)
        self._max_steps = max_episode_steps or task.max_episode_steps
        self._rngs = [np.random.default_rng(s) for s in self.seeds]
        self._obs = np.zeros((self.num_envs, 4), dtype=np.float32)
        self._steps = np.zeros(self.num_envs, dtype=int)
        self._finished = np.ones(self.num_envs, dtype=bool)

    @property
    def num_envs(self) -> int:
        return len(self.seeds)

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        ids = np.arange(self.num_envs) if env_ids is None else env_ids
        for i in ids:
            self._obs[i] = self._rngs[i].uniform(-1.0, 1.0, 4)
        self._steps[ids] = 0
        self._finished[ids] = False
        return self._obs[ids]

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        ids = np.arange(self.num_envs) if env_ids is None else env_ids
        if self._finished[ids].any():
            raise ValueError(f"{self.task.id}: no running episode; call reset(env_ids) first")
        self._obs[ids, :2] += 0.1 * np.clip(action, -1.0, 1.0).astype(np.float32)
        self._steps[ids] += 1
        obs = self._obs[ids]
        distance = np.linalg.norm(obs[:, :2] - obs[:, 2:], axis=1)
        success = distance < RADIUS
        terminated = success if self.task.name == "reach-once" else np.zeros_like(success)
        truncated = (self._steps[ids] >= self._max_steps) & ~terminated
        self._finished[ids] = terminated | truncated
        return StepResult(
            obs=obs,
            reward=(1.0 - distance).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            success=success,
        )

    def close(self) -> None:
        pass


class Diverging(TinyVecEnv):
    """A TinyVecEnv whose physics diverges.

    Args:
        when: (seed, step) -> what is NaN then, ``obs``, ``reward`` or ``reset``. Steps of an
            environment are counted from 0 over all its episodes; a reset is before that step.
    """

    def __init__(
        self,
        task: Task,
        seeds: Sequence[int],
        max_episode_steps: int | None,
        when: Mapping[tuple[int, int], str],
    ) -> None:
        super().__init__(task, seeds, max_episode_steps)
        self.when = when
        self.taken = np.zeros(self.num_envs, dtype=int)

    def _rows(self, ids: np.ndarray, what: str) -> list[int]:
        now = [(self.seeds[i], int(self.taken[i])) for i in ids]
        return [row for row, key in enumerate(now) if self.when.get(key) == what]

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        ids = np.arange(self.num_envs) if env_ids is None else env_ids
        obs = super().reset(ids)
        obs[self._rows(ids, "reset"), 1] = np.nan
        return obs

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        ids = np.arange(self.num_envs) if env_ids is None else env_ids
        result = super().step(action, ids)
        result.obs[self._rows(ids, "obs"), 1] = np.nan
        result.success[self._rows(ids, "obs")] = True  # worth nothing
        result.reward[self._rows(ids, "reward")] = np.inf
        self.taken[ids] += 1
        return result


def make(task: Task, seeds: Sequence[int], max_episode_steps: int | None = None) -> TinyVecEnv:
    return TinyVecEnv(task, seeds, max_episode_steps)


class ToGoal:
    """The expert of the tiny suite: straight to the goal."""

    name = "expert"

    def reset(self, env_ids: np.ndarray) -> None: ...

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        return Decision(np.clip(10 * (obs[:, 2:] - obs[:, :2]), -1, 1).astype(np.float32))
