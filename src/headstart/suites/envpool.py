"""The adapter that all EnvPool suites share. EnvPool steps many environments in C++ threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headstart.suites.base import StepResult
from headstart.types import Task


class EnvPoolVecEnv:
    """EnvPool behind the VecEnv contract.

    Args:
        task: the task these environments are of.
        env_id: EnvPool's name, e.g. ``MetaWorld/DoorUnlock-v3``.
        seeds: one per environment; the sequence of starts in environment k depends on it alone.
        read_obs: picks the task's observation channels from EnvPool's (n, ...) array.
        max_episode_steps: steps after which an episode is truncated.
        options: passed on to EnvPool.
    """

    def __init__(
        self,
        task: Task,
        env_id: str,
        seeds: Sequence[int],
        read_obs: Callable[[np.ndarray], np.ndarray],
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        import envpool

        self.task = task
        self.seeds = tuple(int(s) for s in seeds)
        self._read_obs = read_obs
        self._all = np.arange(len(self.seeds), dtype=np.int32)
        self._finished = np.ones(len(self.seeds), dtype=bool)  # nothing runs before a reset
        self._pool = envpool.make_gymnasium(
            env_id,
            num_envs=len(self.seeds),
            num_threads=min(len(self.seeds), os.cpu_count() or 1),
            seed=list(self.seeds),
            max_episode_steps=max_episode_steps or task.max_episode_steps,
            **options,
        )

    @property
    def num_envs(self) -> int:
        return len(self.seeds)

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        ids = self._all if env_ids is None else np.asarray(env_ids, dtype=np.int32)
        obs, _ = self._pool.reset(ids)
        self._finished[ids] = False
        return self._read_obs(obs).astype(np.float32)

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        ids = self._all if env_ids is None else np.asarray(env_ids, dtype=np.int32)
        if self._finished[ids].any():
            raise ValueError(
                f"{self.task.id}: environments {ids[self._finished[ids]].tolist()} have no running"
                " episode; call reset(env_ids) first"
            )
        clipped = np.ascontiguousarray(np.clip(action, -1.0, 1.0), dtype=np.float32)
        obs, reward, terminated, truncated, info = self._pool.step(clipped, ids)
        self._finished[ids] = terminated | truncated
        return StepResult(
            obs=self._read_obs(obs).astype(np.float32),
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            success=info["success"] > 0.5,
        )

    def close(self) -> None:
        self._pool.close()
