"""Fine-tuning on a handful of demonstrations, and the same without pre-training beside it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headstart.artifact import Artifact, write_card
from headstart.data.loader import Loader, LoaderConfig, Trajectories
from headstart.data.store import Dataset, demonstrations_of
from headstart.ledger import (
    Meter,
    read_bill,
    settle,
    share_of,
    spent_so_far,
    write_unfinished_bill,
)
from headstart.model.checkpoint import load_model, save_model
from headstart.model.learner import Learner, LearnerConfig, make_loader
from headstart.model.policy import Policy, Prompt
from headstart.model.transformer import Transformer, build_transformer
from headstart.rollout import Interaction, examine
from headstart.seeds import environment_seeds
from headstart.suites import registry
from headstart.types import Episode, EvalResult, Task, TokenBatch

SHOWN_ONLY = LoaderConfig(told=0.0, shown=1.0, num_prompts=4, random_frames=0.5)
"""Fine-tuned policies act on a demonstration in their prompt, so that is how they train."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of fine-tuning."""

    model: Path
    """Folder of the pre-trained model."""
    demonstrations: Path
    """Dataset of unperturbed demonstrations."""
    data: Path
    """The dataset of pre-training, half of every batch, so that nothing is forgotten."""
    split: str = "metaworld/ml45-test"
    """The tasks to learn, each by itself."""
    counts: tuple[int, ...] = (1, 5)
    """Demonstrations to learn from; each count is an arm, ``heldout.demos_1`` and so on."""
    updates: int = 50
    """Optimiser steps of a pre-trained model."""
    learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(
            matrix_learning_rate=0.005, learning_rate=5e-4, warmup_updates=10
        )
    )
    scratch: bool = True
    """Also train the same model from random weights, ``heldout.scratch_demos_1`` and so on."""
    scratch_updates: int = 300
    """Optimiser steps from scratch. It is charged for all of them, needed or not."""
    scratch_learner: LearnerConfig = field(default_factory=LearnerConfig)
    loader: LoaderConfig = SHOWN_ONLY
    episodes: int = 20
    """Episodes a policy is evaluated on."""
    max_episode_steps: int = 300
    seed: int = 0


def finetune(config: FinetuneConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Learn each task of a split from a few demonstrations, and evaluate what was learned.

    Writes the fine-tuned models to ``models/<task>-<count>``.

    Returns:
        What ``result.json`` holds: a row an arm and task, each with its own ``cost``.

    Raises:
        ValueError: a missing or damaged model or dataset; a task with too few demonstrations.
    """
    shown = demonstrations_of(config.demonstrations, max(config.counts))
    tasks = registry.get_split(config.split)
    for task in tasks:
        if len(shown.get(task.id, [])) < max(config.counts):
            raise ValueError(
                f"{config.demonstrations}: {len(shown.get(task.id, []))} demonstrations of"
                f" {task.id}, {max(config.counts)} needed; collect more"
            )
    artifact = Artifact.create(out, "finetune", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    bills = tuple(read_bill(p) for p in (config.model, config.demonstrations, config.data))
    school = School(config, out)
    arms = ("demos", "scratch_demos") if config.scratch else ("demos",)
    work = [(task, count, arm) for task in tasks for count in config.counts for arm in arms]
    with Meter(spent_so_far(out)) as meter:
        try:
            for task, count, arm in tqdm(work, desc="finetune", unit="policy"):
                school.teach(task, shown[task.id][:count], arm, meter)
        finally:  # what an interrupted run has spent is spent
            write_unfinished_bill(out, "finetune", meter.cost(), bills)
    result = {"rows": school.rows, "wall_s": meter.cost().wall_s}
    artifact.write_result(result)
    settle(out)
    write_card(out, "Fine-tuned on a few demonstrations", _card(config, school.rows))
    return result


class School:
    """Trains one policy after another and keeps how they did."""

    def __init__(self, config: FinetuneConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.rows: list[dict[str, Any]] = []
        dataset = Dataset(config.data)
        self._demonstrations_cost = read_bill(config.demonstrations).cost
        self._channels = (dataset.obs_channels, dataset.action_channels)
        self._old = Trajectories.from_episodes(dataset.episodes(), *self._channels)

    def teach(self, task: Task, shown: list[Episode], arm: str, meter: Meter) -> None:
        """Train one policy on these demonstrations, evaluate it, and add its row."""
        with Meter() as own:
            scratch = arm == "scratch_demos"
            model = self._learn(shown, scratch, own)
        trained = own.cost()
        meter.count_flops(trained.flops or 0.0)
        steps = sum(episode.num_steps for episode in shown)
        cost = share_of(self._demonstrations_cost, steps, len(shown)) + trained
        if not scratch:
            save_model(self.out / "models" / f"{task.name}-{len(shown)}", model)
        result = self._examine(task, shown, f"heldout.{arm}_{len(shown)}", model, meter)
        self.rows.append(asdict(result) | {"cost": cost.to_json(), "wall_s": trained.wall_s})

    def _learn(self, shown: list[Episode], scratch: bool, meter: Meter) -> Transformer:
        config = self.config
        model = load_model(Path(config.model))
        new = Trajectories.from_episodes(shown, *self._channels)
        settings, updates, old = (
            config.learner,
            config.updates,
            make_loader(self._old, config.loader, model, config.seed),
        )
        if scratch:
            # The same statistics, so that the two differ in their weights alone.
            model = build_transformer(model.config, model.channels, model.vocabulary, config.seed)
            settings, updates, old = config.scratch_learner, config.scratch_updates, None
        model.train()
        learner = Learner(model, settings, updates)
        loader = make_loader(new, config.loader, model, config.seed)
        for update in range(updates):
            learner.step(_batches(loader, old, update), update)
        meter.count_flops(learner.take_flops())
        return model.eval()

    def _examine(
        self, task: Task, shown: list[Episode], arm: str, model: Transformer, meter: Meter
    ) -> EvalResult:
        config = self.config
        # Starts of their own: those of the evaluation off the bat are not looked at again.
        seeds = environment_seeds(
            "evaluation", config.seed, registry.task_index(task), config.episodes, start=5000
        )
        env = registry.make(task, seeds, config.max_episode_steps)
        policy = Policy(model, task.channels, [Prompt(demonstration=shown[0])], config.episodes)
        interaction = Interaction(env, policy)
        (result,), _ = examine(
            interaction, arm, 1, config.episodes, config.max_episode_steps, config.seed
        )
        meter.count_env_steps("evaluate", interaction.env_steps)
        env.close()
        del env, interaction
        gc.collect()  # an EnvPool frees its memory only when nothing refers to it
        return result


def _batches(new: Loader, old: Loader | None, update: int) -> Iterator[TokenBatch]:
    yield new.batch(update)
    if old is not None:
        yield old.batch(update)


def _card(config: FinetuneConfig, rows: list[dict[str, Any]]) -> list[str]:
    rates = {
        arm: np.mean([s for r in rows if r["arm"] == arm for s in r["success"]])
        for arm in dict.fromkeys(r["arm"] for r in rows)
    }
    return [
        f"- From `{config.model}`, on demonstrations of `{config.demonstrations}`, seed"
        f" {config.seed}; models in `models/`.",
        f"- Success at any of {config.max_episode_steps} steps, {config.episodes} episodes a task:",
        *[f"- `{arm}`: {rate:.1%}" for arm, rate in rates.items()],
    ]
