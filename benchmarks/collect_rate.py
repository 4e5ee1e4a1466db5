"""Collecting against the simulator alone: steps a second with expert and writing, and without.

    python benchmarks/collect_rate.py

The same environments replay the actions that were executed, with no expert and nothing recorded.
Building environments is timed apart.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import tyro

from headstart.behaviors.perturbed import PerturbedExpert
from headstart.behaviors.scripted import ScriptedExpert
from headstart.data.store import DatasetWriter
from headstart.rollout import Interaction, run_episodes
from headstart.stages.collect import CollectConfig
from headstart.suites.registry import get_split, make
from headstart.types import Episode, Task


@dataclass(frozen=True)
class Arguments:
    split: str = "metaworld/ml45-train"
    num_envs: int = CollectConfig.num_envs
    perturbed: bool = False


def collect(
    task: Task, arguments: Arguments, writer: DatasetWriter
) -> tuple[float, dict[int, Episode]]:
    """(seconds, episodes by environment), environments built beforehand."""
    seeds = range(arguments.num_envs)
    env = make(task, seeds, 300)
    expert = ScriptedExpert(task)
    actor = PerturbedExpert(expert, seeds) if arguments.perturbed else expert
    began = time.perf_counter()
    episodes = dict(run_episodes(Interaction(env, actor), 300, steps_after_success=5))
    writer.save_episodes(list(episodes.values()))
    return time.perf_counter() - began, episodes


def replay(task: Task, num_envs: int, episodes: dict[int, Episode]) -> float:
    """Seconds to step the same environments through the same actions."""
    env = make(task, range(num_envs), 300)
    actions = np.zeros((300, num_envs, len(task.action_channels)), np.float32)
    lengths = np.array([episodes[i].num_steps for i in range(num_envs)])
    for i, episode in episodes.items():
        actions[: episode.num_steps, i] = episode.action
    ids = [np.flatnonzero(lengths > t).astype(np.int32) for t in range(int(lengths.max()))]
    began = time.perf_counter()
    env.reset()
    for t, running in enumerate(ids):
        env.step(actions[t, running], running)
    return time.perf_counter() - began


def main(arguments: Arguments) -> None:
    collecting = replaying = building = 0.0
    steps = 0
    tasks = get_split(arguments.split)
    with tempfile.TemporaryDirectory() as folder, DatasetWriter(folder, tasks[0]) as writer:
        for task in tasks:
            began = time.perf_counter()
            make(task, range(arguments.num_envs)).close()
            building += time.perf_counter() - began
            seconds, episodes = collect(task, arguments, writer)
            collecting += seconds
            replaying += replay(task, arguments.num_envs, episodes)
            steps += sum(e.num_steps for e in episodes.values())
    print(f"{steps} steps; building the environments {building:.1f} s, apart")
    print(f"collecting {steps / collecting:.0f} steps/s, replaying {steps / replaying:.0f} steps/s")
    print(f"ratio {replaying / collecting:.0%}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
