"""Pre-training: one transformer, next-token prediction over words, observations and actions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from headstart.artifact import Artifact, write_card
from headstart.config import free, from_json
from headstart.data.loader import Loader, LoaderConfig, Trajectories
from headstart.data.store import Dataset
from headstart.ledger import (
    Cost,
    Meter,
    read_bill,
    settle,
    spent_so_far,
    write_unfinished_bill,
)
from headstart.model.channels import measure
from headstart.model.checkpoint import load_training, save_model, save_training
from headstart.model.learner import Learner, LearnerConfig, make_loader
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.model.words import build_vocabulary
from headstart.suites import registry

VALIDATION_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of pre-training."""

    data: Path
    """A dataset folder, as ``headstart collect`` writes."""
    updates: int = 2500
    """Optimiser steps."""
    leave_out: str = ""
    """Tasks of the dataset not to train on, e.g. ``metaworld/validation`` to choose settings."""
    seed: int = 0
    """Sets the initial weights and the order of the data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    validation_episodes: int = 2
    """Episodes of each task kept out of training, to measure the loss on; a quarter of them at
    most. Where there are two, one is shown and the other predicted."""
    log_every: int = 20
    checkpoint_every: int = 500
    device: str = free("auto")
    """``cpu``, ``cuda`` or ``auto``: a GPU where there is one."""
    tracker: str = free("tensorboard")
    """Where metrics go beside JSON lines: tensorboard, none, trackio or wandb."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come, as its checkpoint says."""

    updates: int = 0
    cost: Cost = field(default_factory=Cost)


def pretrain(config: PretrainConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train a transformer on a dataset and write it as an artifact.

    It may be stopped at any time and resumed from its last checkpoint; on a CPU the resumed run
    ends with the same weights, bit for bit, as one that was never stopped.

    Returns:
        What ``result.json`` holds: parameters, updates, tokens, FLOPs, losses.

    Raises:
        ValueError: no dataset there, or a damaged one; ``out`` holds something else.
    """
    if config.updates < 1:
        raise ValueError(f"{config.updates} updates train nothing; use at least 1")
    device = pick_device(config.device)
    dataset = Dataset(config.data)
    artifact = Artifact.create(out, "pretrain", config, resume, config.tracker)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    train, validation = split(dataset, config)
    learner = Learner(build_model(config, train).to(device), config.learner, config.updates)
    loader, judge = (
        make_loader(part, config.loader, learner.model, config.seed) for part in (train, validation)
    )
    progress = _resume(out, learner, artifact)
    gpus = int(learner.device.type == "cuda")
    with Meter(spent_so_far(out), gpus) as meter, Meter(progress.cost, gpus) as straight:
        try:
            _train(config, artifact, learner, (loader, judge), progress, (meter, straight))
        finally:  # what an interrupted run has spent is spent
            write_unfinished_bill(out, "pretrain", meter.cost(), (read_bill(config.data),))
    save_model(out, learner.model)
    cost = straight.cost()
    result = {
        "parameters": learner.model.num_parameters(),
        "updates": config.updates,
        "tasks": list(train.tasks),
        "flops": cost.flops,
        "wall_s": cost.wall_s,
        "flops_per_s": (cost.flops or 0.0) / max(cost.wall_s or 0.0, 1e-9),
    }
    artifact.write_result(result)
    settle(out)
    write_card(out, "A pre-trained sequence model", _card(config, dataset, result))
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return result


def _train(
    config: PretrainConfig,
    artifact: Artifact,
    learner: Learner,
    loaders: tuple[Loader, Loader],
    progress: Progress,
    meters: tuple[Meter, Meter],
) -> None:
    """All updates from where ``progress`` says. The second meter is what checkpoints carry."""
    loader, judge = loaders
    bar = tqdm(total=config.updates, initial=progress.updates, desc="pretrain", unit="update")
    with bar:
        for update in range(progress.updates, config.updates):
            loss = learner.step([loader.batch(update)], update)
            flops = learner.take_flops()
            for meter in meters:
                meter.count_flops(flops)
            bar.update()
            if (update + 1) % config.log_every == 0:
                artifact.log({"step": update + 1} | _metrics("train", loss))
                bar.set_postfix(action_loss=f"{loss.action.item():.3f}")
            if (update + 1) % config.checkpoint_every == 0 or update + 1 == config.updates:
                artifact.log({"step": update + 1} | _validate(learner, judge))
                save_training(
                    artifact.root / "checkpoint.safetensors",
                    learner.tensors(),
                    Progress(update + 1, meters[1].cost()),
                )


def split(dataset: Dataset, config: PretrainConfig) -> tuple[Trajectories, Trajectories]:
    """Training and validation episodes; the latter the last of each task that succeeded."""
    left_out = {t.id for t in registry.get_split(config.leave_out)} if config.leave_out else set()
    episodes = [e for e in dataset.episodes() if e.task_id not in left_out]
    count = Counter(e.task_id for e in episodes)
    left = {task: min(config.validation_episodes, n // 4) for task, n in count.items()}
    train, validation = [], []
    for episode in reversed(episodes):
        if episode.success.any() and left[episode.task_id] > 0:
            left[episode.task_id] -= 1
            validation.append(episode)
        else:
            train.append(episode)
    channels = (dataset.obs_channels, dataset.action_channels)
    return (
        Trajectories.from_episodes(train[::-1], *channels),
        Trajectories.from_episodes(validation or train[::-1], *channels),
    )


def pick_device(name: str) -> str:
    """``auto`` is a GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("auto", "cpu", best):
        raise ValueError(f"no device '{name}' here; use {best} or auto")
    return best if name == "auto" else name


def build_model(config: PretrainConfig, data: Trajectories) -> Transformer:
    statistics = measure(
        data.obs_channels, data.action_channels, data.obs, data.action, data.last_step
    )
    vocabulary = build_vocabulary(data.instructions)
    return build_transformer(config.model, statistics, vocabulary, config.seed)


def _resume(out: Path, learner: Learner, artifact: Artifact) -> Progress:
    """Put the last checkpoint's state into the learner; without one, a run's beginning."""
    saved = load_training(out / "checkpoint.safetensors")
    progress = Progress()
    if saved is not None:
        learner.load_tensors(saved[0])
        progress = from_json(Progress, saved[1])
    artifact.truncate_metrics(progress.updates)
    return progress


@torch.inference_mode()
def _validate(learner: Learner, loader: Loader) -> dict[str, float]:
    """Losses on episodes kept out of training, the same batches every time."""
    losses = [learner.loss(loader.batch(k)) for k in range(VALIDATION_BATCHES)]
    return {
        "val/action_loss": float(np.mean([loss.action.item() for loss in losses])),
        "val/observation_loss": float(np.mean([loss.change.item() for loss in losses])),
    }


def _metrics(prefix: str, loss: Any) -> dict[str, float]:
    return {
        f"{prefix}/loss": loss.total.item(),
        f"{prefix}/action_loss": loss.action.item(),
        f"{prefix}/observation_loss": loss.change.item(),
        f"{prefix}/word_loss": loss.word.item(),
    }


def _card(config: PretrainConfig, dataset: Dataset, result: dict[str, Any]) -> list[str]:
    return [
        f"- {result['parameters']:,} parameters, {result['updates']} updates by next-token"
        " prediction over words, observations and actions; no reward, no success label.",
        f"- Data: `{config.data}`, {dataset.num_episodes} episodes, {dataset.num_steps} steps,"
        f" {len(result['tasks'])} tasks.",
        f"- Cost: {result['flops']:.3g} FLOPs, {result['wall_s']:.0f} s; the full bill with the"
        " data's is in `ledger.json`.",
        f"- Config: {asdict(config.model)}; the rest is in `config.json`.",
        "- Use: `headstart.load_policy(folder, task).act(obs)`.",
    ]
