"""Collecting: behaviours act, and what they did becomes a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from headstart.artifact import Artifact, check_memory, count, write_card
from headstart.behaviors.base import Actor
from headstart.behaviors.perturbed import PerturbedExpert
from headstart.behaviors.random_play import RandomPlay
from headstart.behaviors.scripted import ScriptedExpert
from headstart.config import check_ranges
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.summary import described_bill, summary
from headstart.ledger import Cost, Meter, RunMeter, settle
from headstart.rollout import Interaction, run_episodes
from headstart.seeds import environment_seeds
from headstart.suites import registry
from headstart.types import Episode, Task


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Settings of collecting episodes."""

    split: str = "metaworld/ml45-train"
    """The tasks, ``suite/split``, or one task, ``suite/name``."""
    seed: int = 0
    """Of starts, goals and perturbations."""
    purpose: Literal["data", "prompt"] = "data"
    """What the episodes are for; purposes never share a start (headstart.seeds)."""
    env_steps: int = 100_000
    """Simulator steps in all, shared equally by the tasks. 0: one episode an environment. Slow
    episodes may overdraw it: every task has some, undisturbed and perturbed."""
    behavior: Literal["expert", "random"] = "expert"
    """Who acts: the scripted expert, or random play, which nobody labels."""
    perturbed: float = 0.5
    """Share of the steps in which the expert is perturbed and shows how to recover."""
    num_envs: int = 8
    """Environments stepped together. Each takes about 20 MB."""
    max_episode_steps: int = 300
    """Steps after which an episode is truncated."""
    steps_after_success: int = 5
    """Steps an episode goes on for after its first success."""

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges(self, num_envs=some, max_episode_steps=some, perturbed=(0, 1))
        check_ranges(self, env_steps=(0, math.inf), steps_after_success=(0, math.inf))


def collect(config: CollectConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Record a behavior on every task of a split, as a LeRobot v3 dataset.

    Episodes that failed are kept, marked by their own success column. A task is saved as a whole:
    an interrupted run, resumed, begins its first unsaved task anew and ends with the same data.

    Returns:
        What ``result.json`` holds: see ``summary``, and ``discarded``: the simulator steps that are
        in no episode, by reason: ``limit`` where the budget ended, ``interrupted`` in tries that
        were stopped, ``diverged`` one for each episode that ended because its next state was not
        finite. With ``env_steps``, which are stored, they sum to those of the bill.

    Raises:
        ValueError: no such split; too few steps for an episode; ``out`` holds something else;
            every episode of a task diverged.
    """
    out = Path(out)
    tasks = registry.get_split(config.split)
    check_memory(config.num_envs)
    least = _least_steps(config)
    if config.env_steps and config.env_steps < least * len(tasks):
        raise ValueError(
            f"{config.env_steps} environment steps are too few for {len(tasks)} tasks in"
            f" {config.num_envs} environments each; use at least {least * len(tasks)},"
            " or fewer environments"
        )
    environment_seeds(config.purpose, config.seed, 0, config.num_envs)  # refuses a bad seed
    artifact = Artifact.create(out, "collect", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    lost = {piece["task"]: piece for piece in artifact.progress()}
    with DatasetWriter(out, tasks[0]) as writer, RunMeter(out, "collect") as meter:
        saved = Dataset(out)
        done = set(saved.episode_table()["task_id"]) if saved.num_episodes else set()
        for number, task in enumerate(tqdm(tasks, desc="collect", unit="task")):
            if task.id in done:
                continue
            budget = limit = None
            if config.env_steps:
                # What one task overdraws, those after it share. The last one may not overdraw,
                # unless so little is left that most of its episodes would be cut off.
                left, tasks_left = config.env_steps - writer.num_steps, len(tasks) - number
                budget = left // tasks_left
                limit = left if tasks_left == 1 and left >= least else None
            episodes, abandoned, diverged = _record(config, task, budget, limit, meter)
            # First what they cost: whatever is stored has been paid for.
            lost[task.id] = {
                "task": task.id, "abandoned_steps": abandoned, "diverged_steps": diverged,
            }  # fmt: skip
            meter.save_bill()
            artifact.save_progress(lost[task.id])
            writer.save_episodes(episodes)
    result, cost = summary(Dataset(out)), meter.cost()
    limit = sum(piece["abandoned_steps"] for piece in lost.values())
    diverged = sum(piece.get("diverged_steps", 0) for piece in lost.values())
    kept = result["env_steps"] + limit + diverged
    interrupted = None if cost.env_steps is None else cost.env_steps - kept
    result["discarded"] = {"limit": limit, "interrupted": interrupted, "diverged": diverged}
    write_card(out, f"Episodes on {config.split}", _card(config, result, cost))
    artifact.write_result(result)
    settle(out)
    return result


def _shares(config: CollectConfig) -> tuple[float, float]:
    """Of the steps: undisturbed, and perturbed."""
    perturbed = config.perturbed if config.behavior == "expert" else 0.0
    return 1.0 - perturbed, perturbed


def _least_steps(config: CollectConfig) -> int:
    """Steps in which each environment can be expected to play what it has to on one task."""
    # An expert's episode takes 86 of 300 steps, mean over Meta-World; a random one all of them.
    expected = config.max_episode_steps // (4 if config.behavior == "expert" else 1)
    return sum(share > 0 for share in _shares(config)) * config.num_envs * expected


def _record(
    config: CollectConfig, task: Task, budget: int | None, limit: int | None, meter: Meter
) -> tuple[list[Episode], int, int]:
    """All episodes of one task, undisturbed first, then perturbed.

    Returns:
        Steps that are in none besides: those that a limit cut off, and those that diverged.
    """
    episodes: list[Episode] = []
    abandoned_steps = diverged_steps = 0
    for part, share in enumerate(_shares(config)):
        if share == 0.0:
            continue
        seeds = environment_seeds(
            config.purpose,
            config.seed,
            registry.task_index(task),
            config.num_envs,
            start=part * 5000,
        )
        actor = _actor(config, task, seeds, perturbed=part == 1)
        env = registry.make(task, seeds, config.max_episode_steps)
        interaction = Interaction(env, actor)
        new = run_episodes(
            interaction,
            config.max_episode_steps,
            config.steps_after_success,
            None if budget is None else int(budget * share),
            limit,
        )
        try:
            mine = [episode for _, episode in new if episode.num_steps]
        finally:
            meter.count_env_steps(actor.name, interaction.env_steps)
        stored = sum(episode.num_steps for episode in mine)
        diverged = int(interaction.diverged.sum())  # each took a step that is in no episode
        assert interaction.env_steps == stored + interaction.abandoned_steps + diverged, task.id
        if diverged and not mine:
            raise ValueError(f"{task.id}: every episode diverged; the simulation is broken")
        episodes += mine
        abandoned_steps += interaction.abandoned_steps
        diverged_steps += diverged
        env.close()
        limit = None if limit is None else limit - interaction.env_steps
    if config.behavior == "expert":
        meter.count_demonstrations(len(episodes))
    return episodes, abandoned_steps, diverged_steps


def _actor(config: CollectConfig, task: Task, seeds: list[int], perturbed: bool) -> Actor:
    if config.behavior == "random":
        return RandomPlay(task, seeds)
    expert = ScriptedExpert(task)
    return PerturbedExpert(expert, seeds) if perturbed else expert


def _card(config: CollectConfig, result: dict[str, Any], cost: Cost) -> list[str]:
    mean = sum(t["success"] for t in result["tasks"].values()) / len(result["tasks"])
    made = "- Made by random play; there is no label."
    if config.behavior == "expert":
        made = (
            f"- Made by scripted experts, {config.perturbed:.0%} of the steps perturbed; `action`"
            " is what was executed, `action.expert` the expert's own action there."
        )
    return [
        f"- {count(result['episodes'], 'episode')}, {count(result['env_steps'], 'simulator step')},"
        f" {count(len(result['tasks']), 'task')} of `{config.split}`, in LeRobot v3 format.",
        made,
        f"- Success at any step: {mean:.1%} (failed episodes are kept and marked).",
        f"- Cost: {', '.join(described_bill(cost))}.",
        f"- Seed {config.seed}, purpose `{config.purpose}`. Versions and machine: `config.json`.",
    ]
