"""Core-seconds of PPO inside the simulator and outside it: ours against Stable-Baselines3's.

    make build/peers
    build/peers/bin/python benchmarks/ppo_time.py

The same task, environments, networks and settings, one thread, and the same work: no update ends
early. Only the noise differs: ours is correlated, the peer's white, which costs it least.
Evaluation is not in it. Both sides take turns; prints the median of each side's repeats.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import tyro

from headstart.algorithms.ppo import PPO, PPOConfig
from headstart.model.learner import one_thread
from headstart.seeds import environment_seeds
from headstart.suites import registry
from headstart.suites.base import StepResult, VecEnv
from peer_arms import Peer, ours_ppo

MAX_EPISODE_STEPS = 300


@dataclass(frozen=True)
class Arguments:
    task: str = "metaworld/handle-press"
    env_steps: int = 24_000
    repeats: int = 3


class Timed:
    """Environments that count the core-seconds spent inside them."""

    def __init__(self, env: VecEnv) -> None:
        self.env, self.task, self.seeds, self.close = env, env.task, env.seeds, env.close
        self.core_s = 0.0

    @property
    def num_envs(self) -> int:
        return self.env.num_envs

    def reset(self, env_ids: np.ndarray | None = None) -> np.ndarray:
        began = time.process_time()
        obs = self.env.reset(env_ids)
        self.core_s += time.process_time() - began
        return obs

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        began = time.process_time()
        result = self.env.step(action, env_ids)
        self.core_s += time.process_time() - began
        return result


def measure(side: str, task_id: str, env_steps: int) -> tuple[float, float, int]:
    """Core-seconds in total and in the simulator, and the steps taken."""
    task, config = registry.get_task(task_id), PPOConfig(max_kl=float("inf"))
    peer = side == "stable-baselines3"
    white = replace(config, noise_correlation=0.0)  # of what it has that costs it least
    learner = Peer("ppo", ours_ppo(white), config, task, 0) if peer else PPO(config, task, 0)
    seeds = environment_seeds("reinforcement", 0, registry.task_index(task), config.num_envs)
    env = Timed(registry.make(task, seeds, MAX_EPISODE_STEPS))
    began = time.process_time()
    taken = sum(spent.env_steps for spent in learner.improve(env, env_steps))
    total = time.process_time() - began
    env.close()
    return total, env.core_s, taken


@one_thread()
def main(arguments: Arguments) -> None:
    sides = ("headstart", "stable-baselines3")
    for side in sides:  # what is imported and allocated once is not counted
        measure(side, arguments.task, 1)
    runs = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side in sides:
            runs[side].append(measure(side, arguments.task, arguments.env_steps))
    print(f"{arguments.task}, core-seconds: total, in the simulator; outside it per 1,000 steps")
    outside = {}
    for side, measured in runs.items():
        total, simulator = (median(run[k] for run in measured) for k in (0, 1))
        outside[side] = median(1000 * (run[0] - run[1]) / run[2] for run in measured)
        steps = measured[0][2]
        print(f"{side}, {steps} steps: {total:.2f}, {simulator:.2f}; {outside[side]:.4f}")
    print(f"outside the simulator, ours / theirs: {outside[sides[0]] / outside[sides[1]]:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
