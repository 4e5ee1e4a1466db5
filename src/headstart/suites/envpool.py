"""The adapter that all EnvPool suites share. EnvPool steps many environments in C++ threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from headstart.suites.base import StepResult
from headstart.types import Task

FRESH_SEED_STRIDE = 100
"""Seeds from an environment to the one that takes its place; pools may use as many."""


class EnvPoolVecEnv:
    """EnvPool behind the VecEnv contract.

    Args:
        task: the task these environments are of.
        env_id: EnvPool's name, e.g. ``MetaWorld/DoorUnlock-v3``.
        seeds: one per environment; the sequence of starts in environment k depends on it alone.
        read_obs: picks the task's observation channels from EnvPool's (n, ...) array.
        max_episode_steps: steps after which an episode is truncated.
        fresh: build a new environment for every episode, for a task whose reset is broken.
        options: passed on to EnvPool.
    """

    def __init__(
        self,
        task: Task,
        env_id: str,
        seeds: Sequence[int],
        read_obs: Callable[[np.ndarray], np.ndarray],
        max_episode_steps: int | None = None,
        fresh: bool = False,
        **options: Any,
    ) -> None:
        self.task = task
        self.seeds = tuple(int(s) for s in seeds)
        self._env_id = env_id
        self._read_obs = read_obs
        self._options = {
            **options,
            "max_episode_steps": max_episode_steps or task.max_episode_steps,
        }
        self._fresh = fresh
        self._all = np.arange(len(self.seeds), dtype=np.int32)
        self._finished = np.ones(len(self.seeds), dtype=bool)  # nothing runs before a reset
        # The pool that each environment is in: 0, but with ``fresh`` its episode's number.
        self._pool_of_env = np.full(len(self.seeds), -1 if fresh else 0)
        self._pools = {} if fresh else {0: self._build(0)}

    @property
    def num_envs(self) -> int:
        return len(self.seeds)

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        ids = self._all if env_ids is None else np.asarray(env_ids, dtype=np.int32)
        if self._fresh:
            self._pool_of_env[ids] += 1
            for number in set(self._pool_of_env[ids].tolist()) - set(self._pools):
                self._pools[number] = self._build(number)
            for number in [n for n in self._pools if n < self._pool_of_env.min()]:
                self._pools.pop(number).close()  # nobody comes back to it
        obs = np.zeros((len(ids), len(self.task.obs_channels)), dtype=np.float32)
        for pool, rows in self._by_pool(ids):
            obs[rows] = self._read_obs(pool.reset(ids[rows])[0])
        self._finished[ids] = False
        return obs

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        ids = self._all if env_ids is None else np.asarray(env_ids, dtype=np.int32)
        if self._finished[ids].any():
            raise ValueError(
                f"{self.task.id}: environments {ids[self._finished[ids]].tolist()} have no running"
                " episode; call reset(env_ids) first"
            )
        clipped = np.ascontiguousarray(np.clip(action, -1.0, 1.0), dtype=np.float32)
        parts = list(self._by_pool(ids))
        results = [self._step_pool(pool, clipped[rows], ids[rows]) for pool, rows in parts]
        result = results[0]
        if len(results) > 1:
            order = np.argsort(np.concatenate([rows for _, rows in parts]))
            columns = zip(*(vars(r).values() for r in results), strict=True)
            result = StepResult(*(np.concatenate(column)[order] for column in columns))
        self._finished[ids] = result.terminated | result.truncated
        return result

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8: the first environment as it looks now. Needs EnvPool's render_mode."""
        return self._pools[int(self._pool_of_env[0])].render()[0]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _build(self, number: int) -> Any:
        import envpool

        return envpool.make_gymnasium(
            self._env_id,
            num_envs=self.num_envs,
            num_threads=min(self.num_envs, os.cpu_count() or 1),
            seed=[seed + number * FRESH_SEED_STRIDE for seed in self.seeds],
            **self._options,
        )

    def _by_pool(self, ids: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Each pool that has some of these environments, and which rows of ``ids`` they are."""
        numbers = self._pool_of_env[ids]
        for number in np.unique(numbers).tolist():
            yield self._pools[number], np.flatnonzero(numbers == number)

    def _step_pool(self, pool: Any, action: np.ndarray, ids: np.ndarray) -> StepResult:
        obs, reward, terminated, truncated, info = pool.step(action, ids)
        return StepResult(
            obs=self._read_obs(obs).astype(np.float32),
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            success=info["success"] > 0.5,
        )
