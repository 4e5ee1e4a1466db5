"""Does a run from a prior end below where it began? Many episodes of the policy at both ends.

    python benchmarks/both_ends.py runs/arms/told/*

Takes complete runs of ``headstart reinforce --model``, from the folder that they were started in.
Both policies play the same episodes. Prints a line a run, and how many end with an interval
(Wilson, 95 %) wholly below the one at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from headstart.artifact import read_sealed_json
from headstart.behaviors.base import Actor
from headstart.config import from_json
from headstart.data.store import Dataset
from headstart.model.checkpoint import load_model
from headstart.model.policy import Policy, Prompt
from headstart.rollout import Interaction, run_episodes
from headstart.seeds import environment_seeds
from headstart.stages.reinforce import ReinforceConfig, _algorithm, _given
from headstart.stats import wilson_interval
from headstart.suites import registry
from headstart.types import Task


@dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    episodes: int = 200


def main(arguments: Arguments) -> None:
    below = 0
    for root in arguments.runs:
        config = from_json(ReinforceConfig, read_sealed_json(root, "config.json")["config"])
        task = registry.get_task(config.task)
        learner = _algorithm(config, task, _given(config, task))
        actors = (learner.actor, lambda n, root=root, task=task: saved_policy(root, task, n))
        before, after = (successes(config, task, actor, arguments.episodes) for actor in actors)
        of_before, of_after = (wilson_interval(k, arguments.episodes) for k in (before, after))
        is_below = of_after[1] < of_before[0]
        below += is_below
        rates = f"{before / arguments.episodes:.1%} to {after / arguments.episodes:.1%}"
        print(f"{root}: {rates}" + (", wholly below" if is_below else ""), flush=True)
    print(f"wholly below where they began: {below} of {len(arguments.runs)}")


def saved_policy(root: Path, task: Task, num_envs: int) -> Policy:
    """What ``headstart reinforce`` left: a model, and the demonstrations it acts on, if any."""
    prompts = [Prompt(task.instruction)]
    if (root / "prompt").exists():
        prompts = [Prompt(demonstration=e) for e in Dataset(root / "prompt").episodes()]
    return Policy(load_model(root), task.channels, prompts, num_envs=num_envs)


def successes(
    config: ReinforceConfig, task: Task, actor: Callable[[int], Actor], num_episodes: int
) -> int:
    index = registry.task_index(task)
    seeds = environment_seeds("evaluation", config.seed, index, num_episodes)
    env = registry.make(task, seeds, config.max_episode_steps)
    played = run_episodes(Interaction(env, actor(num_episodes)), config.max_episode_steps)
    count = int(np.sum([episode.success.any() for _, episode in played]))
    env.close()
    return count


if __name__ == "__main__":
    main(tyro.cli(Arguments))
