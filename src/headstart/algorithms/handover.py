"""From a prior: first its own successes, then, where those do not suffice, soft actor-critic.

Imitating what succeeded soon does most tasks. Where it stays half right, a policy that is taught by
what it did stays there: only the reward tells what to do otherwise. So a small policy takes over,
with all that was played in its buffer and the successes in every batch, as RLPD has
demonstrations (Ball et al. 2023, arXiv:2302.02948). What is judged and saved remains the better of
the two by the episodes of training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart.algorithms.base import Spent
from headstart.algorithms.off_policy import OffPolicy
from headstart.algorithms.own_successes import OwnSuccesses, is_better
from headstart.behaviors.base import Actor
from headstart.model.checkpoint import load_module, module_tensors, save_small_policy
from headstart.model.soft_actor_critic import SquashedPolicy
from headstart.suites.base import StepResult, VecEnv, Wrapped
from headstart.types import Task

JUDGED_OVER = 50
"""Episodes of training whose mean success tells how good the small policy is."""


class Handover:
    """Own successes up to ``handover_steps``, from then on the off-policy learner.

    There is none while prompts are still searched, nor where nine of ten episodes succeed.
    """

    def __init__(self, own: OwnSuccesses, task: Task, seed: int) -> None:
        self.own = own
        self.off_policy = OffPolicy(own.config.off_policy, task, seed)
        self.chosen = copy.deepcopy(self.off_policy.model)
        self._env_steps = 0
        self.taken_over_at: int | None = None
        """Environment steps after which soft actor-critic took over; None: it has not."""
        self._best = -1.0  # of the small policies that replaced the prior; -1: none did
        self._recent: list[bool] = []  # outcomes that it is judged by, the last ones

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        spent = 0
        while spent < env_steps:
            taken_over = self.taken_over_at is not None
            learn = self._off_policy if taken_over or self._is_due() else self._own
            for spending in learn(env, env_steps - spent):
                spent += spending.env_steps
                self._env_steps += spending.env_steps
                yield spending

    def _is_due(self) -> bool:
        own = self.own
        late = self._env_steps >= own.config.handover_steps
        return late and own.is_judged and own.best < own.config.good_enough

    def _own(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        """One improvement, whose episodes are kept for who may take over."""
        yield self.own.improve(env)
        for episode in self.own.played:
            # a success ends it for good, as in SuccessEnds
            for_good = episode.terminated or bool(episode.success.any())
            if episode.num_steps:
                self.off_policy.remember(
                    replace(episode, terminated=for_good, truncated=not for_good)
                )

    def _off_policy(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        """The small policy goes on learning, and is judged at the end."""
        flops = 0.0
        if self.taken_over_at is None:
            self.taken_over_at, flops = self._env_steps, self.off_policy.catch_up()
        steps = 0  # of each environment
        for spent in self.off_policy.improve(SuccessEnds(env), env_steps):
            steps += spent.env_steps // env.num_envs
            metrics = spent.metrics | {"train/chosen_success": max(self.own.best, self._best)}
            yield replace(spent, flops=flops + (spent.flops or 0.0), metrics=metrics)
            flops = 0.0
        self._judge(steps // self.own.max_episode_steps)

    def _judge(self, whole: int) -> None:
        """Whether the small policy did better than what is chosen.

        Args:
            whole: so many episodes ended in each environment, however long they took. Of all that
                ended, more would be quick ones, and those succeed.
        """
        outcomes = self.off_policy.outcomes
        self._recent += [won for of_env in outcomes for won in of_env[:whole]]
        self._recent = self._recent[-JUDGED_OVER:]
        if len(self._recent) < JUDGED_OVER:
            return
        rate = float(np.mean(self._recent))
        if is_better(rate, max(self.own.best, self._best), JUDGED_OVER):
            self._best = rate
            self.chosen.load_state_dict(self.off_policy.model.state_dict())

    @property
    def is_replaced(self) -> bool:
        """Whether a small policy is judged and saved, not the prior's."""
        return self._best >= 0

    def actor(self, num_envs: int) -> Actor:
        if not self.is_replaced:
            return self.own.actor(num_envs)
        return SquashedPolicy(self.chosen, num_envs)

    def tensors(self) -> dict[str, Tensor]:
        at = -1 if self.taken_over_at is None else self.taken_over_at
        counts = [self._env_steps, at, self._best]
        found = {"handover": torch.tensor(counts, dtype=torch.float64)}
        found["recent"] = torch.tensor(self._recent, dtype=torch.bool)
        found |= module_tensors(self.chosen, "chosen")
        for name, learner in (("own", self.own), ("off_policy", self.off_policy)):
            found |= {f"{name}.{key}": tensor for key, tensor in learner.tensors().items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        env_steps, at, self._best = tensors["handover"].tolist()
        self._env_steps, self.taken_over_at = int(env_steps), None if at < 0 else int(at)
        self._recent = tensors["recent"].tolist()
        load_module(self.chosen, tensors, "chosen")
        for name, learner in (("own", self.own), ("off_policy", self.off_policy)):
            start = f"{name}."
            learner.load_tensors(
                {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
            )

    def save(self, root: Path) -> None:
        if self.is_replaced:
            save_small_policy(root, self.chosen, self.off_policy.task)
        else:
            self.own.save(root)


class SuccessEnds(Wrapped):
    """Environments whose episodes end for good at their first success."""

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        result = super().step(action, env_ids)
        ended = result.terminated | result.success
        return replace(result, terminated=ended, truncated=result.truncated & ~ended)
