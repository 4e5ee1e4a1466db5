"""Reinforcement learning from a prior: it does again, and better, what has once succeeded.

A pre-trained model needs no gradient of the reward to begin with: it tries what it can do already
- the task's words, then what it was shown of other tasks - until an episode succeeds. That episode
is a demonstration, its own: from then on it is in the prompt, and the model imitates all such
episodes after every batch of them. Half of the episodes are played with noise, to find better.

Relatives: expert iteration (Anthony et al. 2017, arXiv:1705.08439), self-imitation learning (Oh et
al. 2018, arXiv:1806.05635). What is judged and saved is the policy that had the best success in
the episodes of training, never one that was looked at in an evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart.algorithms.base import Spent
from headstart.algorithms.imitation import SHOWN_ONLY, few_shot_rates, imitate
from headstart.data.loader import Loader, LoaderConfig
from headstart.data.store import DatasetWriter
from headstart.data.trajectories import Trajectories
from headstart.model.checkpoint import save_model
from headstart.model.learner import Learner, LearnerConfig, make_loader
from headstart.model.policy import Noise, Policy, Prompt
from headstart.model.transformer import Transformer
from headstart.rollout import Interaction, run_episodes
from headstart.suites.base import VecEnv
from headstart.types import Episode, Task

TOLD, SKILL, OWN = range(3)
"""Kinds of prompts: the task's words, a demonstration of another task, an episode of this task."""


@dataclass(frozen=True, kw_only=True)
class OwnSuccessesConfig:
    """Settings of learning from own successes."""

    num_envs: int = 10
    """Episodes played between two improvements."""
    noise: float = 1.0
    """Exploration of every other episode, in deviations of the predicted action."""
    noise_correlation: float = 0.9
    """Of the noise from one step to the next."""
    updates: int = 50
    """Optimiser steps of an improvement."""
    most_episodes: int = 40
    """Own successes that are imitated, the quickest."""
    learner: LearnerConfig = field(default_factory=few_shot_rates)
    loader: LoaderConfig = SHOWN_ONLY
    judged_over: int = 3
    """Batches of episodes whose mean success tells how good a policy is."""


class OwnSuccesses:
    """A pre-trained model, the episodes it has succeeded in, and the best it has been so far.

    Args:
        model: the prior, or a model fine-tuned from it.
        old: batches of what it was pre-trained on; None: only its own successes.
        skills: demonstrations of other tasks, several a task, to be tried where words do not help.
        given: demonstrations of this task; the first is in the prompt from the beginning.
    """

    def __init__(
        self,
        config: OwnSuccessesConfig,
        task: Task,
        seed: int,
        model: Transformer,
        old: Loader | None = None,
        skills: Sequence[Sequence[Episode]] = (),
        given: Sequence[Episode] = (),
    ) -> None:
        self.config, self.task, self.seed = config, task, seed
        self.model, self.chosen = model, copy.deepcopy(model)
        self._old, self._skills = old, list(skills)
        self._tried = 0  # batches' worth of skills, in turn
        self._scores = np.full(len(skills), -np.inf)  # each skill's highest reward
        self._num_given = len(given)
        self._own = list(given)
        self._prompt = self._chosen_prompt = (OWN, 0) if given else (TOLD, 0)
        self._best = -1.0
        self._batches = 0
        self._rates: list[float] = []  # of the last batches played on a single prompt

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        num, forward = env.num_envs, 2.0 * self.model.num_parameters()
        spent = 0
        while spent < env_steps:
            prompts = self._prompts(num)
            policy = self._policy(self.model, prompts, self._noise(num))
            interaction = Interaction(env, policy)
            ended = dict(run_episodes(interaction, self.task.max_episode_steps))
            played = [ended[i] for i in range(num)]
            succeeded = [episode for episode in played if episode.success.any()]
            self._take_in(prompts, played)
            self._own += succeeded
            self._batches += 1
            flops = forward * interaction.env_steps
            if self._own:
                flops += self._learn()
                self._prompt = (OWN, self._quickest()[0])
            spent += interaction.env_steps
            metrics = {
                "train/success": len(succeeded) / num,
                "train/own_successes": float(len(self._own) - self._num_given),
                "train/chosen_success": self._best,
            }
            yield Spent(interaction.env_steps, flops, metrics)

    def actor(self, num_envs: int) -> Policy:
        return self._policy(self.chosen, [self._chosen_prompt] * num_envs, None)

    def _prompts(self, num: int) -> list[tuple[int, int]]:
        """What each environment acts on: one prompt, but for a batch of skills being tried.

        Skills take turns; from the second turn on, those that earned the highest reward come in
        between, as an episode that nearly succeeded may succeed from another start.
        """
        if self._own or self._batches == 0 or not self._skills:
            return [self._prompt] * num
        all_tried = self._tried >= len(self._skills)
        if all_tried and self._batches % 2 and np.ptp(self._scores):
            best = np.argsort(-self._scores, kind="stable")
            return [
                (SKILL, self._batches * len(best) + int(best[i % len(best)])) for i in range(num)
            ]
        self._tried += num
        return [(SKILL, self._tried - num + i) for i in range(num)]

    def _take_in(self, prompts: list[tuple[int, int]], played: list[Episode]) -> None:
        """Note how good the prompts were, and whether the policy is the best so far."""
        for (kind, index), episode in zip(prompts, played, strict=True):
            if kind == SKILL:
                place = index % len(self._skills)
                self._scores[place] = max(self._scores[place], episode.reward.max())
        if len(set(prompts)) > 1:
            return
        rate = float(np.mean([episode.success.any() for episode in played]))
        self._rates = [*self._rates, rate][-self.config.judged_over :]
        if np.mean(self._rates) >= self._best:
            self._best = float(np.mean(self._rates))
            self._chosen_prompt = prompts[0]
            self.chosen.load_state_dict(self.model.state_dict())

    def _learn(self) -> float:
        """Imitate what succeeded; returns floating-point operations."""
        config, model = self.config, self.model
        episodes = [self._own[i] for i in self._quickest()[: config.most_episodes]]
        new = Trajectories.from_episodes(
            episodes, self.task.obs_channels, self.task.action_channels
        )
        loaders = [make_loader(new, config.loader, model, self.seed)]
        loaders += [self._old] if self._old else []
        learner = Learner(model, config.learner, config.updates)
        return imitate(learner, loaders, self._batches * config.updates)

    def _quickest(self) -> list[int]:
        """Numbers of the given demonstrations, then of own successes from the shortest on."""
        given = list(range(self._num_given))
        own = range(self._num_given, len(self._own))
        return given + sorted(own, key=lambda i: (self._own[i].num_steps, i))

    def _noise(self, num: int) -> Noise:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._batches)
        scale = self.config.noise * (torch.arange(num) % 2)
        return Noise(scale, self.config.noise_correlation, generator)

    def _policy(
        self, model: Transformer, prompts: list[tuple[int, int]], noise: Noise | None
    ) -> Policy:
        return Policy(
            model, self.task.channels, [self._as_prompt(*p) for p in prompts], noise=noise
        )

    def _as_prompt(self, kind: int, index: int) -> Prompt:
        if kind == TOLD:
            return Prompt(self.task.instruction)
        if kind == OWN:
            return Prompt(demonstration=self._own[index])
        turn, place = divmod(index, len(self._skills))
        demonstrations = self._skills[place]
        return Prompt(demonstration=demonstrations[turn % len(demonstrations)])

    def tensors(self) -> dict[str, Tensor]:
        own = self._own[self._num_given :]
        arrays = {
            "episodes.length": np.array([e.num_steps for e in own], np.int64),
            "episodes.seed": np.array([e.seed for e in own], np.int64),
            "episodes.obs": _joined([e.obs for e in own], len(self.task.obs_channels)),
            "episodes.action": _joined([e.action for e in own], len(self.task.action_channels)),
            "prompts": np.array([*self._prompt, *self._chosen_prompt], np.int64),
            "counts": np.array([self._batches, self._tried]),
            "best": np.array(self._best),
            "rates": np.array(self._rates, np.float64),
            "scores": self._scores,
        }
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for name, model in (("model", self.model), ("chosen", self.chosen)):
            found |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for name, model in (("model", self.model), ("chosen", self.chosen)):
            start = f"{name}."
            known = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            model.load_state_dict(known)
        kind, index, chosen_kind, chosen_index = tensors["prompts"].tolist()
        self._prompt, self._chosen_prompt = (kind, index), (chosen_kind, chosen_index)
        self._batches, self._tried = tensors["counts"].tolist()
        self._rates, self._best = tensors["rates"].tolist(), float(tensors["best"])
        self._scores = tensors["scores"].numpy().copy()
        start = 0
        lengths, seeds = tensors["episodes.length"].tolist(), tensors["episodes.seed"].tolist()
        for length, seed in zip(lengths, seeds, strict=True):
            obs, action = (
                tensors[f"episodes.{name}"][start : start + length].numpy()
                for name in ("obs", "action")
            )
            self._own.append(_success(self.task, obs, action, seed))
            start += length

    def save(self, root: Path) -> None:
        """The model, and in the dataset ``prompt`` the demonstration that it acts on, if any."""
        save_model(root, self.chosen)
        shown = self._as_prompt(*self._chosen_prompt).demonstration
        if shown is not None and not (root / "prompt").exists():
            with DatasetWriter(root / "prompt", self.task) as writer:
                writer.save_episode(shown)


def _joined(arrays: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), np.float32), *arrays])


def _success(task: Task, obs: np.ndarray, action: np.ndarray, seed: int) -> Episode:
    """An own success as far as a checkpoint keeps it, which is all that imitation needs."""
    unknown = np.full(len(action), np.nan, np.float32)
    success = np.arange(len(action)) == len(action) - 1
    final_obs = np.full(obs.shape[1], np.nan, np.float32)
    return Episode(
        task.id, task.instruction, obs, action, unknown, success, final_obs, False, True, seed,
        Policy.name,
    )  # fmt: skip
