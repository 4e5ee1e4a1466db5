"""Fine-tuning on a handful of demonstrations, and the same without pre-training beside it."""

from __future__ import annotations

import copy
import gc
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from headstart.algorithms.imitation import SHOWN_ONLY, few_shot_rates, imitate
from headstart.artifact import Artifact, write_card
from headstart.config import check_ranges
from headstart.data.cache import open_cache
from headstart.data.demonstrations import enough_demonstrations
from headstart.data.loader import LoaderConfig, Trajectories
from headstart.data.store import Dataset
from headstart.ledger import (
    FINETUNED_MODEL,
    Bill,
    Cost,
    Meter,
    RunMeter,
    finish,
    read_bill,
    settle,
    share_of,
)
from headstart.model.checkpoint import load_model, save_model
from headstart.model.learner import Learner, LearnerConfig, make_loader, one_thread
from headstart.model.policy import Policy, Prompt
from headstart.model.transformer import Transformer, build_transformer
from headstart.rollout import Interaction, examine
from headstart.seeds import environment_seeds
from headstart.stats import success_rates
from headstart.suites import registry
from headstart.types import Episode, EvalResult, Task


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
    learner: LearnerConfig = field(default_factory=few_shot_rates)
    scratch: bool = True
    """Also train the same model from random weights, ``heldout.scratch_demos_1`` and so on."""
    scratch_updates: int = 300
    """Optimiser steps from scratch. It is charged for all of them, needed or not."""
    scratch_learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(matrix_learning_rate=0.01, learning_rate=1e-3)
    )
    """Chosen for itself on the validation tasks (LOG.md), as is ``scratch_updates``."""
    loader: LoaderConfig = SHOWN_ONLY
    episodes: int = 20
    """Episodes a policy is evaluated on."""
    max_episode_steps: int = 300
    """Steps after which an episode is truncated."""
    seed: int = 0
    """Of weights, batches, starts and goals."""

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges(self, updates=some, scratch_updates=some, episodes=some)
        check_ranges(self, max_episode_steps=some)
        if min(self.counts, default=0) < 1:
            raise ValueError(f"counts is {self.counts}; use one number or more, each at least 1")


def finetune(config: FinetuneConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Learn each task of a split from a few demonstrations, and evaluate what was learned.

    Writes the fine-tuned models to ``models/<task>-<count>``, each with a card and a bill.

    Returns:
        What ``result.json`` holds: a row an arm and task, each with its own ``cost``.

    Raises:
        ValueError: a missing or damaged model or dataset; a task with too few demonstrations.
    """
    out = Path(out)
    tasks = registry.get_split(config.split)
    shown = enough_demonstrations(config.demonstrations, tasks, max(config.counts))
    artifact = Artifact.create(out, "finetune", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    bills = tuple(read_bill(p) for p in (config.model, config.demonstrations, config.data))
    with Meter() as opening:  # which makes the data's cache where there is none
        school = School(config, out, bills)
    arms = ("demos", "scratch_demos") if config.scratch else ("demos",)
    work = [(arm, task, count) for arm in arms for task in tasks for count in config.counts]
    rows = artifact.progress()
    with RunMeter(out, "finetune", bills, before=opening.cost()) as meter:
        # A policy a row, in this order: what earlier tries finished is at the front.
        for arm, task, count in tqdm(
            work[len(rows) :], "finetune", len(work), unit="policy", initial=len(rows)
        ):
            rows.append(school.teach(task, shown[task.id][:count], arm, meter))
            # First what it cost: whatever is kept has been paid for.
            meter.save_bill()
            artifact.save_progress(rows[-1])
    result = {"rows": rows, "wall_s": meter.cost().wall_s}
    write_card(out, "Fine-tuned on a few demonstrations", _card(config, rows))
    artifact.write_result(result)
    settle(out)
    return result


class School:
    """Trains one policy after another and examines each."""

    def __init__(self, config: FinetuneConfig, out: Path, bills: tuple[Bill, ...]) -> None:
        self.config = config
        self.out = out
        self._bills = bills
        self._demonstrations_cost = read_bill(config.demonstrations).cost
        self._prior = load_model(Path(config.model))
        old = open_cache(Dataset(config.data)).trajectories()
        self._old = make_loader(old, config.loader, self._prior, config.seed)
        self._old_tasks = frozenset(old.tasks)

    def teach(self, task: Task, shown: list[Episode], arm: str, meter: Meter) -> dict[str, Any]:
        """Train one policy on these demonstrations and evaluate it: its row of result.json.

        Args:
            shown: in the task's columns, as ``enough_demonstrations`` gives them.
        """
        with Meter() as own, one_thread():
            learn = self._from_scratch if arm == "scratch_demos" else self._from_prior
            # in the task's columns, whatever those of the data of pre-training are
            new = Trajectories.from_episodes(shown, task.obs_channels, task.action_channels)
            model = learn(new, own)
        model.trained_on |= {task.id}
        trained = own.cost()
        meter.count_flops(trained.flops)
        steps = sum(episode.num_steps for episode in shown)
        cost = share_of(self._demonstrations_cost, steps, len(shown)) + trained
        result = self._examine(task, shown, f"heldout.{arm}_{len(shown)}", model, meter)
        row = asdict(result) | {"cost": cost.to_json()}
        if arm == "demos":
            self._save(f"{task.name}-{len(shown)}", model, row, trained)
        return row

    def _from_prior(self, new: Trajectories, meter: Meter) -> Transformer:
        """The pre-trained model goes on, half of every batch from the old data."""
        config = self.config
        model = copy.deepcopy(self._prior)
        loaders = [make_loader(new, config.loader, model, config.seed), self._old]
        meter.count_flops(imitate(Learner(model, config.learner, config.updates), loaders))
        model.trained_on |= self._old_tasks
        return model

    def _from_scratch(self, new: Trajectories, meter: Meter) -> Transformer:
        """The same model from random weights, on the demonstrations alone."""
        config, prior = self.config, self._prior
        # The same statistics, so that the two differ in their weights alone.
        model = build_transformer(prior.config, prior.channels, prior.vocabulary, config.seed)
        loaders = [make_loader(new, config.loader, model, config.seed)]
        learner = Learner(model, config.scratch_learner, config.scratch_updates)
        meter.count_flops(imitate(learner, loaders))
        return model

    def _save(self, name: str, model: Transformer, row: dict[str, Any], cost: Cost) -> None:
        root = self.out / "models" / name
        save_model(root, model)
        success = sum(row["success"])
        write_card(
            root,
            f"{row['task']}, {row['arm'].removeprefix('heldout.')}",
            [
                f"- From `{self.config.model}`, {self.config.updates} updates on the first"
                f" demonstrations in `{self.config.demonstrations}`, seed {self.config.seed}.",
                f"- With the first of them in its prompt: {success} of {len(row['success'])}"
                f" episodes succeeded at any of {self.config.max_episode_steps} steps.",
                f"- Cost: {cost.flops:.3g} FLOPs, {cost.wall_s:.1f} s; with its ancestors' in"
                " `ledger.json`.",
                "- Use: `headstart.load_policy(folder, task, prompt).act(obs)`.",
            ],
        )
        finish(root, Bill("", FINETUNED_MODEL, name, cost, self._bills))

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
        try:
            (result,), _ = examine(
                interaction, arm, 1, config.episodes, config.max_episode_steps, config.seed
            )
        finally:
            meter.count_env_steps("evaluate", interaction.env_steps)
        env.close()
        del env, interaction
        gc.collect()  # an EnvPool frees its memory only when nothing refers to it
        return result


def _card(config: FinetuneConfig, rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"- From `{config.model}`, on demonstrations of `{config.demonstrations}`, seed"
        f" {config.seed}; models in `models/`.",
        f"- Success at any of {config.max_episode_steps} steps, {config.episodes} episodes a task:",
        *[f"- `{arm}`: {rate:.1%}" for arm, rate in success_rates(rows).items()],
    ]
