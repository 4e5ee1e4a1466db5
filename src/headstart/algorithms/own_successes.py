"""Reinforcement learning from a prior: it finds the prompt it does best on, and repeats successes.

A pre-trained model needs no gradient of the reward to begin with. Prompts are the arms of a bandit:
the task's words, and demonstrations of other tasks (opening a window teaches how to unlock a door).
Once one is found that serves, whatever has succeeded is a demonstration of this task too: the model
imitates the successes of its best prompts after every batch of episodes, half of which have noise,
and each episode is shown the one of them that starts most like it.

Relatives: Thompson sampling (1933), expert iteration (Anthony et al. 2017, arXiv:1705.08439),
self-imitation learning (Oh et al. 2018, arXiv:1806.05635). The policy that is judged and saved is
chosen by the episodes of training alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart.algorithms.base import Spent
from headstart.algorithms.imitation import SHOWN_ONLY, few_shot_rates, imitate
from headstart.algorithms.off_policy import OffPolicyConfig
from headstart.config import check_ranges
from headstart.data.loader import Loader, LoaderConfig
from headstart.data.store import DatasetWriter
from headstart.data.trajectories import Trajectories
from headstart.model.checkpoint import load_module, module_tensors, save_model
from headstart.model.learner import Learner, LearnerConfig, make_loader
from headstart.model.policy import Noise, Policy, Prompt
from headstart.model.transformer import Transformer
from headstart.rollout import Interaction, run_episodes
from headstart.suites.base import VecEnv
from headstart.types import Episode, Task

PRIOR_OUTCOMES = (0.5, 1.5)
"""Successes and failures that an untried prompt is taken to have had: most are of no use."""
GIVEN_OUTCOMES = (3.0, 0.0)
"""What a demonstration of the task itself is taken to have had beside that."""
SERVES = (5, 0.8)
"""Episodes and share of successes from which on a prompt is taken to serve. A quick success counts
for more, so that the words are not settled for where they succeed slowly and by luck."""
NEAR_MISS = 0.1
"""What the highest reward of all counts in a failure, as a share of a success."""


def twice_as_often() -> OffPolicyConfig:
    """Soft actor-critic that takes over learns from what was played before: twice the updates."""
    return OffPolicyConfig(updates_per_step=0.25)


@dataclass(frozen=True, kw_only=True)
class OwnSuccessesConfig:
    """Settings of learning from own successes."""

    num_envs: int = 10
    """Episodes played between two improvements."""
    search_batches: int = 9
    """Batches in which prompts are tried before the model is changed, unless one serves sooner."""
    noise: float = 1.0
    """Exploration of every other episode, in deviations of the predicted action."""
    noise_correlation: float = 0.9
    """Of the noise from one step to the next."""
    updates: int = 50
    """Optimiser steps of an improvement."""
    most_episodes: int = 20
    """Own successes that are imitated and may be shown: those of the best prompts."""
    learner: LearnerConfig = field(default_factory=few_shot_rates)
    loader: LoaderConfig = SHOWN_ONLY
    judged_over: int = 3
    """Batches of episodes whose mean success tells how good a policy is."""
    good_enough: float = 0.9
    """Success in training from which on nobody has to take over (``handover.py``)."""
    handover_steps: int = 24_000
    """Environment steps after which somebody does, if own successes are not good enough by then."""
    off_policy: OffPolicyConfig = field(default_factory=twice_as_often)
    """Settings of who takes over: soft actor-critic."""

    def __post_init__(self) -> None:
        some, rate = (1, math.inf), (0, math.inf)
        check_ranges(self, num_envs=some, updates=some, most_episodes=some, judged_over=some)
        check_ranges(self, search_batches=rate, noise=rate, noise_correlation=(0, 1))
        check_ranges(self, good_enough=(0, 1), handover_steps=rate)
        if self.off_policy.num_envs not in (twice_as_often().num_envs, self.num_envs):
            raise ValueError(
                "own_successes.off_policy.num_envs says nothing: who takes over plays in the"
                " environments of own_successes.num_envs; set that one"
            )


class OwnSuccesses:
    """A pre-trained model, the prompts it may act on and how it did on them.

    Args:
        model: the prior, or a model fine-tuned from it.
        old: batches of what it was pre-trained on; None: only its own successes.
        skills: demonstrations of other tasks, to be tried as prompts.
        given: demonstrations of this task, which are prompts and are imitated.
        max_episode_steps: an episode is truncated after so many steps; None: as the task says.
    """

    def __init__(
        self,
        config: OwnSuccessesConfig,
        task: Task,
        seed: int,
        model: Transformer,
        old: Loader | None = None,
        skills: Sequence[Episode] = (),
        given: Sequence[Episode] = (),
        max_episode_steps: int | None = None,
    ) -> None:
        self.config, self.task, self.seed = config, task, seed
        self.max_episode_steps = max_episode_steps or task.max_episode_steps
        self.model, self.chosen = model, copy.deepcopy(model)
        self._old = old
        # Prompts in a row: words, skills, given demonstrations, own successes.
        self._shown: list[Episode | None] = [None, *skills, *given]
        self._num_skills, self.num_given = len(skills), len(given)
        self._outcomes = np.tile(PRIOR_OUTCOMES, (len(self._shown), 1))
        self._outcomes[self._own_from :] += GIVEN_OUTCOMES
        # What the chosen policy acts on; of several the one that starts most like the episode.
        self._chosen_prompts = [*range(self._own_from, len(self._shown))] or [0]
        self._source: list[int] = []  # the prompt that each own success was played on
        self._highest_reward = 0.0
        self._batches = 0
        self._rates: list[float] = []  # of the last batches of one kind
        self._rated_told = False  # which kind: told, or shown
        self.best = -1.0
        """Success in training of the policy that is chosen; below 0 before it was judged."""
        self.played: list[Episode] = []
        """The last batch of episodes."""

    @property
    def _own_from(self) -> int:
        """The first prompt of the task itself."""
        return 1 + self._num_skills

    def improve(self, env: VecEnv) -> Spent:
        """An episode in each environment, and what is learned from them."""
        num = env.num_envs
        searching, prompts = self._is_searching(), self._prompts(num)
        by_start = None if searching else num
        policy = self._policy(self.model, prompts, self._noise(num), by_start)
        interaction = Interaction(env, policy)
        ended = dict(run_episodes(interaction, self.max_episode_steps))
        self.played = played = [ended[i] for i in range(num)]
        rate = _success_rate(played)
        self._take_in([prompts[i] for i in policy.prompt_of_env], played)
        self._judge(rate, None if searching else prompts)
        self._batches += 1
        # a forward pass is 2 operations a weight
        flops = 2.0 * self.model.num_parameters() * interaction.env_steps
        if self.is_judged:
            flops += self._learn()
        metrics = {
            "train/success": rate,
            "train/own_successes": len(self._shown) - self._own_from - self.num_given,
            "train/chosen_success": max(self.best, 0.0),
        }
        return Spent(interaction.env_steps, flops, metrics, int(interaction.diverged.sum()))

    def actor(self, num_envs: int) -> Policy:
        return self._policy(self.chosen, self._chosen_prompts, None, num_envs)

    def _prompts(self, num: int) -> list[int]:
        """What is acted on: in the search one prompt an environment, later those to choose from.

        Each as often as it may be the best of all. A policy is either told or shown, so a batch has
        words throughout or not at all.
        """
        searching = self._is_searching()
        if not (searching or self.is_judged):
            return self._chosen_prompts
        if self._batches == 0:
            return [0] * num
        arms = np.array([*range(self._own_from)] if searching else [0, *self._kept()])
        successes, failures = self._outcomes[arms].T
        generator = np.random.default_rng((self.seed, self._batches))
        sampled = generator.beta(successes, failures, size=(num, len(arms)))
        if (sampled.argmax(1) == 0).mean() > 0.5 or len(arms) == 1:
            return [0] * num if searching else [0]
        return arms[1 + sampled[:, 1:].argmax(1)].tolist() if searching else arms[1:].tolist()

    def _is_searching(self) -> bool:
        """Whether prompts are still tried, and the model is left as it was."""
        if self.num_given or self.is_judged:
            return False
        plays, share = SERVES
        serves = bool(((self._plays() >= plays) & (self._quality() >= share)).any())
        found = len(self._shown) > self._own_from
        return not found or not (serves or self._batches >= self.config.search_batches)

    def _quality(self) -> np.ndarray:
        """Expected outcome of each prompt."""
        successes, failures = self._outcomes.T
        return successes / (successes + failures)

    def _take_in(self, prompts: list[int], played: list[Episode]) -> None:
        """How the prompts did, and new ones: the episodes that succeeded."""
        highest = [float(episode.reward.max(initial=0.0)) for episode in played]
        self._highest_reward = max(self._highest_reward, *highest)
        for prompt, episode, reward in zip(prompts, played, highest, strict=True):
            # A quick success counts as one, one that took all the steps of the task as half of one.
            share = 1.0 - 0.5 * min(episode.num_steps / self.task.max_episode_steps, 1.0)
            if not episode.success.any():
                share = NEAR_MISS * max(reward, 0.0) / max(self._highest_reward, 1e-6)
            self._outcomes[prompt] += (share, 1.0 - share)
            if episode.success.any():
                self._shown.append(episode)
                self._source.append(prompt)
        new = len(self._shown) - len(self._outcomes)
        self._outcomes = np.concatenate([self._outcomes, np.tile(PRIOR_OUTCOMES, (new, 1))])

    @property
    def is_judged(self) -> bool:
        """Whether it is known how good the policy is that learning starts from."""
        return self.best >= 0.0

    def _judge(self, rate: float, prompts: list[int] | None) -> None:
        """Whether what played, before it learns from that, did better than any before.

        Args:
            prompts: what it acted on; None: prompts are searched, and judged by themselves.

        A few episodes tell little. So some batches judge the policy that learning starts from,
        and as many whatever is to replace it, which has to be better by a standard error. Batches
        that were told say nothing of a policy that is shown.
        """
        if prompts is None:
            self._chosen_prompts, self.best, self._rates = [self._best_prompt()], -1.0, []
            return
        over, told = self.config.judged_over, prompts == [0]
        before = self._rates if told == self._rated_told else []
        self._rates, self._rated_told = [*before, rate][-over:], told
        if len(self._rates) < over:
            return
        mean, before = float(np.mean(self._rates)), self.best
        if not self.is_judged:
            self.best, self._rates = mean, []
            return
        if is_better(mean, before, over * self.config.num_envs):
            self.best = mean
            self.chosen.load_state_dict(self.model.state_dict())
            self._chosen_prompts = prompts

    def _best_prompt(self) -> int:
        """The prompt that did best so far, of those that were tried."""
        return int(np.argmax(np.where(self._plays() > 0, self._quality(), -1.0)))

    def _plays(self) -> np.ndarray:
        """How often each prompt was played."""
        before = np.full(len(self._outcomes), sum(PRIOR_OUTCOMES))
        before[self._own_from : self._own_from + self.num_given] += sum(GIVEN_OUTCOMES)
        return (self._outcomes.sum(1) - before).round()

    def _learn(self) -> float:
        """Imitate what succeeded; returns floating-point operations."""
        config, model = self.config, self.model
        episodes = [e for i in self._kept() if (e := self._shown[i]) is not None]
        new = Trajectories.from_episodes(
            episodes, self.task.obs_channels, self.task.action_channels
        )
        loaders = [make_loader(new, config.loader, model, self.seed)]
        loaders += [self._old] if self._old else []
        learner = Learner(model, config.learner, config.updates)
        return imitate(learner, loaders, self._batches * config.updates)

    def _kept(self) -> list[int]:
        """Prompts of the task itself: what was given, and own successes, the best first.

        An own success is as good as the prompt it was played on: a lucky one is not worth much.
        """
        own_from, quality = self._own_from + self.num_given, self._quality()
        own = [
            (-quality[source], episode.num_steps, i)
            for i, (source, episode) in enumerate(
                zip(self._source, self._shown[own_from:], strict=True), own_from
            )
            if episode is not None
        ]
        best = [i for *_, i in sorted(own)[: self.config.most_episodes]]
        return [*range(self._own_from, own_from), *best]

    def _noise(self, num: int) -> Noise:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._batches)
        scale = (0.0 if self._is_searching() else self.config.noise) * (torch.arange(num) % 2)
        return Noise(scale, self.config.noise_correlation, generator)

    def _policy(
        self,
        model: Transformer,
        prompts: list[int],
        noise: Noise | None,
        by_start: int | None,
    ) -> Policy:
        """By the start in so many environments, else a prompt for each."""
        found = [
            Prompt(self.task.instruction if self._shown[i] is None else None, self._shown[i])
            for i in prompts
        ]
        return Policy(model, self.task.channels, found, noise=noise, num_envs=by_start)

    def tensors(self) -> dict[str, Tensor]:
        own = [e for e in self._shown[self._own_from + self.num_given :] if e is not None]
        obs_size = len(self.task.obs_channels)
        counts = [self._batches, self._rated_told, *self._chosen_prompts]
        arrays = {
            "episodes.length": np.array([e.num_steps for e in own], np.int64),
            "episodes.source": np.array(self._source, np.int64),
            "episodes.seed": np.array([e.seed for e in own], np.int64),
            "episodes.terminated": np.array([e.terminated for e in own], bool),
            "episodes.obs": _joined([e.obs for e in own], obs_size),
            "episodes.action": _joined([e.action for e in own], len(self.task.action_channels)),
            "episodes.reward": _joined([e.reward[:, None] for e in own], 1),
            "episodes.final_obs": _joined([e.final_obs[None] for e in own], obs_size),
            "outcomes": self._outcomes,
            "counts": np.array(counts, np.int64),
            "rates": np.array([self.best, self._highest_reward, *self._rates], np.float64),
        }
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
        models = module_tensors(self.model, "model") | module_tensors(self.chosen, "chosen")
        return found | models

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        load_module(self.model, tensors, "model")
        load_module(self.chosen, tensors, "chosen")
        self._batches, told, *self._chosen_prompts = tensors["counts"].tolist()
        self._rated_told = bool(told)
        self.best, self._highest_reward, *self._rates = tensors["rates"].tolist()
        self._outcomes = tensors["outcomes"].numpy().copy()
        self._source = tensors["episodes.source"].tolist()
        start, finals = 0, tensors["episodes.final_obs"].numpy()
        rest = (tensors[f"episodes.{name}"].tolist() for name in ("length", "terminated", "seed"))
        for final_obs, length, terminated, seed in zip(finals, *rest, strict=True):
            obs, action, reward = (
                tensors[f"episodes.{name}"][start : start + length].numpy()
                for name in ("obs", "action", "reward")
            )
            self._shown.append(
                _success(self.task, obs, action, reward[:, 0], final_obs, terminated, seed)
            )
            start += length

    def save(self, root: Path) -> None:
        """The model, and in the dataset ``prompt`` the demonstrations that it acts on, if any."""
        self.chosen.trained_on |= {self.task.id}
        save_model(root, self.chosen)
        shown = [e for i in self._chosen_prompts if (e := self._shown[i]) is not None]
        if shown:
            with DatasetWriter(root / "prompt", self.task) as writer:
                for episode in shown[writer.num_episodes :]:  # a try that was stopped wrote some
                    writer.save_episode(episode)


def is_better(rate: float, before: float, episodes: int) -> bool:
    """Whether one success rate is above another by more than its standard error; both over so many
    episodes."""
    # s = sqrt(2 p (1 - p) / n), the standard error of a difference of two success rates
    pooled = (rate + before) / 2
    return rate > before + math.sqrt(2 * pooled * (1 - pooled) / episodes)


def _success_rate(episodes: list[Episode]) -> float:
    return float(np.mean([episode.success.any() for episode in episodes]))


def _joined(arrays: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), np.float32), *arrays])


def _success(
    task: Task,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    final_obs: np.ndarray,
    terminated: bool,
    seed: int,
) -> Episode:
    """An own success as a checkpoint keeps it: it ended with the step that succeeded."""
    success = np.arange(len(action)) == len(action) - 1
    return Episode(
        task.id, task.instruction, obs, action, reward, success, final_obs, terminated,
        not terminated, seed, Policy.name,
    )  # fmt: skip
