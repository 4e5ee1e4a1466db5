"""Pre-training: one transformer, next-token prediction over words, observations and actions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from headstart.artifact import Artifact, count, write_card
from headstart.config import check_ranges, did_you_mean, free, from_json
from headstart.data.cache import Cache, open_cache
from headstart.data.loader import Loader, LoaderConfig
from headstart.data.mixture import Mixture, Source, check_channels, resolve_shares
from headstart.data.store import Dataset
from headstart.interrupt import deferred_interrupt
from headstart.ledger import Cost, Meter, RunMeter, read_bill, settle
from headstart.model.channels import measure
from headstart.model.checkpoint import (
    load_training,
    remove_training,
    save_model,
    save_training,
)
from headstart.model.learner import Learner, LearnerConfig, make_loader
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.model.words import build_vocabulary
from headstart.suites import registry

VALIDATION_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of pre-training."""

    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """A dataset folder, as ``headstart collect`` and ``headstart data import`` write; several to
    train one model on all. ``FOLDER=0.3`` gives a dataset that share of the sequences, and those
    without a share split the rest by their numbers of tasks."""
    updates: int = 2500
    """Optimiser steps."""
    leave_out: str = ""
    """Tasks of the data not to train on: a split such as ``metaworld/validation`` to choose
    settings, or ids or names of tasks, separated by commas."""
    seed: int = 0
    """Sets the initial weights and the order of the data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    validation_episodes: int = 2
    """Episodes of each task kept out of training, to measure the loss on; half of them at
    most. Where there are two, one is shown and the other predicted."""
    log_every: int = 20
    """Updates between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Updates between the states that --resume goes on from; one that is stopped keeps its last
    as well."""
    device: str = free("auto")
    """``cpu``, ``cuda`` or ``auto``: a GPU where there is one."""
    tracker: Literal["tensorboard", "none", "trackio", "wandb"] = free("tensorboard")
    """Where metrics go beside JSON lines."""

    def __post_init__(self) -> None:
        single = isinstance(self.data, (str, Path))
        data = (self.data,) if single else self.data
        object.__setattr__(self, "data", tuple(str(d) for d in data))
        none, one = (0, math.inf), (1, math.inf)
        check_ranges(self, updates=one, seed=(0, 2**32 - 1), validation_episodes=none)
        check_ranges(self, log_every=one, checkpoint_every=one)


@dataclass(frozen=True)
class Progress:
    """How far a run has come, as its checkpoint says."""

    updates: int = 0
    cost: Cost = field(default_factory=Cost)


def pretrain(config: PretrainConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Train a transformer on one or more datasets and write it as an artifact.

    It may be stopped at any time: Ctrl-C and SIGTERM wait for the update and save a checkpoint. On
    a CPU the resumed run ends with the same weights, bit for bit, as one that was never stopped.

    Returns:
        What ``result.json`` holds: parameters, updates, FLOPs, and under ``kept_out`` the numbers
        of the episodes of each dataset that it was not trained on but judged by.

    Raises:
        ValueError: no dataset there, or a damaged one; datasets that cannot be mixed; ``out`` holds
            something else.
    """
    out = Path(out)
    device = pick_device(config.device)
    with Meter() as opening:  # which makes the data's cache where there is none
        train, validation, kept_out = open_data(config)
    bills = tuple(read_bill(source.path) for source in map(Source.parse, config.data))
    artifact = Artifact.create(out, "pretrain", config, resume, config.tracker)
    if artifact.is_complete:
        remove_training(out / "checkpoint.safetensors")  # where the run died before it did that
        settle(out)
        return artifact.result()
    learner = Learner(build_model(config, train).to(device), config.learner, config.updates)
    loader, judge = (
        make_loader(part, config.loader, learner.model, config.seed) for part in (train, validation)
    )
    progress = _resume(out, learner, artifact)
    gpus = int(learner.device.type == "cuda")
    meter = RunMeter(out, "pretrain", bills, gpus, before=opening.cost())
    with meter, Meter(progress.cost, gpus) as straight:
        _train(config, artifact, learner, (loader, judge), progress, meter, straight)
    learner.model.trained_on = frozenset(train.tasks)
    save_model(out, learner.model)
    cost = straight.cost()
    result = {
        "parameters": learner.model.num_parameters(),
        "updates": config.updates,
        "tasks": list(dict.fromkeys(train.tasks)),
        "kept_out": kept_out,
        "flops": cost.flops,
        "wall_s": cost.wall_s,
        "flops_per_s": (cost.flops or 0.0) / max(cost.wall_s or 0.0, 1e-9),
    }
    write_card(out, "A pre-trained sequence model", _card(config, train, result))
    artifact.write_result(result)
    remove_training(out / "checkpoint.safetensors")
    settle(out)
    return result


def _train(
    config: PretrainConfig,
    artifact: Artifact,
    learner: Learner,
    loaders: tuple[Loader, Loader],
    progress: Progress,
    meter: RunMeter,
    straight: Meter,
) -> None:
    """All updates from where ``progress`` says.

    Args:
        straight: meters what checkpoints carry, which is without work that an interruption undid.
    """
    loader, judge = loaders
    bar = tqdm(total=config.updates, initial=progress.updates, desc="pretrain", unit="update")
    with bar, deferred_interrupt() as stopped:
        batches = loader.batches(progress.updates, config.updates)
        for update, batch in enumerate(batches, progress.updates):
            loss = learner.step([batch], update)
            flops = learner.take_flops()
            meter.count_flops(flops)
            straight.count_flops(flops)
            bar.update()
            if (update + 1) % config.log_every == 0:
                artifact.log({"step": update + 1} | _metrics("train", loss))
                bar.set_postfix(action_loss=f"{loss.action.item():.3f}")
                meter.save_bill()
            due = (update + 1) % config.checkpoint_every == 0 or update + 1 == config.updates
            if due:
                artifact.log({"step": update + 1} | _validate(learner, judge))
            if due or stopped():
                # First what it cost: whatever is kept has been paid for.
                meter.save_bill()
                save_training(
                    artifact.root / "checkpoint.safetensors",
                    learner.tensors(),
                    Progress(update + 1, straight.cost()),
                )
            if stopped():
                raise KeyboardInterrupt


def open_data(config: PretrainConfig) -> tuple[Mixture, Mixture, list[dict[str, Any]]]:
    """What to train on, what to judge by, and which episodes of each dataset the latter are.

    Raises:
        ValueError: a missing, damaged or empty dataset; datasets that cannot be mixed.
    """
    sources = [Source.parse(text) for text in config.data]
    if not sources:
        raise ValueError("there is no dataset to train on; name one with --data")
    if len({source.path for source in sources}) < len(sources):
        raise ValueError("a dataset is named twice; give it a share instead, as in FOLDER=0.3")
    datasets = [Dataset(source.path) for source in sources]
    check_channels([(dataset.root, dataset.channels) for dataset in datasets])
    caches = [open_cache(dataset) for dataset in datasets]
    left_out = _left_out(config.leave_out, [cache.task_id for cache in caches])
    train, validation, kept_out = [], [], []
    for dataset, cache in zip(datasets, caches, strict=True):
        taught, judged = split(cache, config.validation_episodes, left_out)
        train.append(cache.trajectories(taught, lone_shown=False))
        validation.append(cache.trajectories(judged if len(judged) else taught))
        facts = {"data": str(dataset.root), "digest": dataset.digest, "episodes": judged.tolist()}
        kept_out.append(facts)
    shares = resolve_shares(sources, [len(part.tasks) for part in train])
    return Mixture(tuple(train), shares), Mixture(tuple(validation), shares), kept_out


def split(cache: Cache, validation_episodes: int, left_out: set[str]) -> tuple[np.ndarray, ...]:
    """Numbers of the episodes to train on, and of those to judge by.

    The latter are the last of each task that succeeded, or of a task that none is known to have
    succeeded on just the last: half of a task's episodes at most.
    """
    tasks = cache.task_id.tolist()
    solved_tasks = set(cache.task_id[cache.solved].tolist())
    left = {task: min(validation_episodes, n // 2) for task, n in Counter(tasks).items()}
    train, validation = [], []
    for number in reversed(range(len(tasks))):
        task = tasks[number]
        if task in left_out:
            continue
        fit = cache.solved[number] or task not in solved_tasks
        if fit and left[task] > 0:
            left[task] -= 1
            validation.append(number)
        else:
            train.append(number)
    return np.array(train[::-1], dtype=np.int64), np.array(validation, dtype=np.int64)


def _left_out(names: str, task_ids: list[np.ndarray]) -> set[str]:
    """Ids of the tasks that these names, separated by commas, stand for.

    Raises:
        ValueError: neither a task of the data nor a split or task that the registry knows.
    """
    known = dict.fromkeys(t for ids in task_ids for t in np.unique(ids).tolist())
    left_out: set[str] = set()
    for name in filter(None, (n.strip() for n in names.split(","))):
        found = {t for t in known if name in (t, t.partition("/")[2])}
        if not found:
            try:
                found = {task.id for task in registry.get_split(name)}
            except ValueError:
                near = did_you_mean(name, [*known])
                raise ValueError(f"--leave-out: no task or split '{name}'{near}") from None
        left_out |= found
    return left_out


def pick_device(name: str) -> str:
    """``auto`` is a GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("auto", "cpu", best):
        raise ValueError(f"no device '{name}' here; use {best} or auto")
    return best if name == "auto" else name


def build_model(config: PretrainConfig, data: Mixture) -> Transformer:
    vocabulary = build_vocabulary(data.instructions)
    return build_transformer(config.model, measure(data.parts), vocabulary, config.seed)


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


def _card(config: PretrainConfig, data: Mixture, result: dict[str, Any]) -> list[str]:
    num_episodes = sum(len(part.length) for part in data.parts)
    num_steps = sum(int(part.length.sum()) for part in data.parts)
    return [
        f"- {result['parameters']:,} parameters, {result['updates']} updates by next-token"
        " prediction over words, observations and actions; no reward, no success label.",
        f"- Data: `{'`, `'.join(config.data)}`: {count(num_episodes, 'episode')},"
        f" {count(num_steps, 'step')}, {count(len(result['tasks']), 'task')}.",
        f"- Cost: {result['flops']:.3g} FLOPs, {result['wall_s']:.0f} s; the full bill with the"
        " data's is in `ledger.json`.",
        f"- Config: {asdict(config.model)}; the rest is in `config.json`.",
        "- Use: `headstart.load_policy(folder, task).act(obs)`.",
    ]
