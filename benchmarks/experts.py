"""How well the scripted experts do, as they are and perturbed.

    python benchmarks/experts.py --episodes 50 --seed 0

Protocol: goal visible, success at any step within 300 steps, one seed an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from headstart.behaviors.base import Actor
from headstart.behaviors.perturbed import PerturbedExpert
from headstart.behaviors.scripted import ScriptedExpert
from headstart.rollout import Interaction, run_episodes
from headstart.stats import wilson_interval
from headstart.suites.registry import get_split, make
from headstart.types import Episode, Task

MAX_STEPS = 300


@dataclass(frozen=True)
class Arguments:
    episodes: int = 50
    """Episodes a task and kind."""
    seed: int = 0
    """First of the environments' seeds."""
    split: str = "metaworld/mt50"
    """Tasks to run, e.g. ``metaworld/door-lock``."""


def main(arguments: Arguments) -> None:
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    table = Table(("expert", "perturbed"))
    for task in get_split(arguments.split):
        expert = ScriptedExpert(task)
        actors: tuple[Actor, ...] = (expert, PerturbedExpert(expert, seeds))
        table.add(task.name, [run(task, actor, seeds) for actor in actors])
    table.summarise()


def run(
    task: Task, actor: Actor, seeds: Sequence[int], steps_after_success: int = 0
) -> list[Episode]:
    """One episode a seed, in the order of the seeds, in fresh environments."""
    env = make(task, seeds, MAX_STEPS)
    ended = dict(run_episodes(Interaction(env, actor), MAX_STEPS, steps_after_success))
    env.close()
    return [ended[i] for i in range(len(seeds))]


class Table:
    """Prints success and steps to success, a row a task and a column a kind of actor."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.rates: list[list[float]] = []
        print(f"{'task':26s}" + "".join(f"{kind:>12s}  95% interval  steps" for kind in kinds))

    def add(self, task: str, runs: list[list[Episode]]) -> None:
        """One row; ``runs`` has the episodes of each kind."""
        line, rates = f"{task:26s}", []
        for episodes in runs:
            steps = [len(e.success) for e in episodes if e.success.any()]
            first = [int(np.argmax(e.success)) + 1 for e in episodes if e.success.any()]
            low, high = wilson_interval(len(steps), len(episodes))
            rates.append(len(steps) / len(episodes))
            mean_steps = f"{np.mean(first):5.0f}" if first else "    -"
            line += f"{rates[-1]:12.2f}  [{low:.2f}, {high:.2f}]  {mean_steps}"
        self.rates.append(rates)
        print(line, flush=True)

    def summarise(self) -> None:
        for kind, rates in zip(self.kinds, np.array(self.rates).T, strict=True):
            good = int((rates >= 0.9).sum())
            print(f"{kind}: mean {rates.mean():.3f}, {good} of {len(rates)} tasks >= 0.90")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
