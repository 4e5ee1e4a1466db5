"""Data, demonstrations and a pre-trained model of the smallest size that the stages take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from headstart.data.loader import LoaderConfig
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.tools import MergeConfig, merge
from headstart.model.transformer import ModelConfig
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.types import Channel, Episode, Task

SEEN, HELD_OUT = "metaworld/reach", "metaworld/handle-press"
SIZE = ModelConfig(n_layer=1, n_head=2, n_embd=16, demonstration_steps=8)
LOADER = LoaderConfig(num_prompts=2, num_windows=2)


def write(root: Path) -> Path:
    """``data``, ``demonstrations`` and ``model`` under ``root``."""
    collect(CollectConfig(split=SEEN, env_steps=600, num_envs=2), root / "data")
    shown = CollectConfig(split=HELD_OUT, purpose="prompt", env_steps=0, perturbed=0.0, num_envs=2)
    collect(shown, root / "demonstrations")
    settings = PretrainConfig(
        data=root / "data", updates=2, model=SIZE, loader=LOADER, tracker="none"
    )
    pretrain(settings, root / "model")
    return root


def reverse(source: Path, out: Path) -> Path:
    """A copy whose channels stand in reverse order."""
    dataset = Dataset(source)
    with DatasetWriter(
        out, Task("", "", "", dataset.channels[::-1], 0, dataset.control_hz)
    ) as writer:
        writer.save_episodes([_reversed(episode) for episode in dataset.episodes()])
    return out


def merge_with_another_body(source: Path, root: Path) -> Path:
    """A dataset merged with one of a body before it, which has an elbow, and of the others'
    channels, in reverse order, all but an action."""
    dataset = Dataset(source)
    episode = _reversed(dataset.episodes([0])[0])
    channels = (Channel("elbow", "observation"), *dataset.obs_channels[::-1],
                *dataset.action_channels[:0:-1])  # fmt: skip
    task = Task("lab", "turn", "turn it", channels, 300, dataset.control_hz)
    turned = replace(
        episode,
        task_id=task.id,
        instruction=task.instruction,
        obs=np.insert(episode.obs, 0, 1.0, axis=1),
        final_obs=np.insert(episode.final_obs, 0, 1.0),
        action=episode.action[:, :-1].copy(),
        action_expert=None,
        seed=-1,
    )
    with DatasetWriter(root / "lab", task) as writer:
        writer.save_episode(turned)
    merge(MergeConfig(sources=(root / "lab", source), out=root / "merged"))
    return root / "merged"


def _reversed(episode: Episode) -> Episode:
    """Its columns in reverse order."""
    label = episode.action_expert
    return replace(
        episode,
        obs=episode.obs[:, ::-1].copy(),
        final_obs=episode.final_obs[::-1].copy(),
        action=episode.action[:, ::-1].copy(),
        action_expert=None if label is None else label[:, ::-1].copy(),
    )


def taking(monkeypatch: pytest.MonkeyPatch, stage: ModuleType, name: str) -> None:
    """A stage's function ``name`` takes 100 s of a core each time, and all else no time."""
    now, function = [0.0], getattr(stage, name)

    def slow(*args: object) -> object:
        now[0] += 100.0
        return function(*args)

    monkeypatch.setattr(stage, name, slow)
    monkeypatch.setattr("headstart.ledger._clocks", lambda: (now[0], now[0]))


def failing_after(
    step: Callable, calls: int, error: type[BaseException] = RuntimeError
) -> Callable:
    """A function or method that does as ``step`` so many times, and from then on raises."""
    left = iter(range(calls))

    def failing(*args: object) -> object:
        if next(left, None) is None:
            raise error("the simulator died")
        return step(*args)

    return failing
