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
from headstart.suites.base import StepResult, VecEnv
from headstart.types import Task

JUDGED_OVER = 30
"""The last episodes of training, whose mean success tells how good the small policy is."""


class Handover:
    """Own successes up to ``handover_steps``, from then on the off-policy learner.

    There is none while prompts are still searched, nor where nine of ten episodes succeed.
    """

    def __init__(self, own: OwnSuccesses, task: Task, seed: int) -> None:
        self.own = own
        self.off_policy = OffPolicy(own.config.off_policy, task, seed)
        self.chosen = copy.deepcopy(self.off_policy.model)
        self._env_steps = 0
        self._taken_over = False
        self._best = -1.0  # of the small policies that replaced the prior; -1: none did

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        spent = 0
        while spent < env_steps:
            learn = self._off_policy if self._taken_over or self._is_due() else self._own
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
        for spent in self.own.improve(env, 1):
            for episode in self.own.played:
                for_good = bool(episode.success.any())  # it ended with that, as in SuccessEnds
                ended = replace(episode, terminated=for_good, truncated=not for_good)
                if episode.num_steps:
                    self.off_policy.remember(ended)
            yield spent

    def _off_policy(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        """The small policy goes on learning, and is judged by its last episodes."""
        flops = 0.0 if self._taken_over else self.off_policy.catch_up()
        self._taken_over = True
        for spent in self.off_policy.improve(SuccessEnds(env), env_steps):
            last = self.off_policy.outcomes[-JUDGED_OVER:]
            rate, best = float(np.mean(last or [False])), max(self.own.best, self._best)
            if len(last) == JUDGED_OVER and is_better(rate, best, JUDGED_OVER):
                self._best = best = rate
                self.chosen.load_state_dict(self.off_policy.model.state_dict())
            metrics = spent.metrics | {"train/chosen_success": best}
            yield replace(spent, flops=flops + (spent.flops or 0.0), metrics=metrics)
            flops = 0.0

    def actor(self, num_envs: int) -> Actor:
        if self._best < 0:
            return self.own.actor(num_envs)
        return SquashedPolicy(self.chosen, num_envs)

    def tensors(self) -> dict[str, Tensor]:
        counts = [self._env_steps, self._taken_over, self._best]
        found = {"handover": torch.tensor(counts, dtype=torch.float64)}
        found |= module_tensors(self.chosen, "chosen")
        found |= {f"shown.{key}": t for key, t in self.off_policy.shown.tensors().items()}
        for name, learner in (("own", self.own), ("off_policy", self.off_policy)):
            found |= {f"{name}.{key}": tensor for key, tensor in learner.tensors().items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        env_steps, taken_over, self._best = tensors["handover"].tolist()
        self._env_steps, self._taken_over = int(env_steps), bool(taken_over)
        load_module(self.chosen, tensors, "chosen")
        self.off_policy.shown.load_tensors({k: tensors[f"shown.{k}"] for k in ("rows", "added")})
        for name, learner in (("own", self.own), ("off_policy", self.off_policy)):
            start = f"{name}."
            learner.load_tensors(
                {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
            )

    def save(self, root: Path) -> None:
        if self._best < 0:
            self.own.save(root)
        else:
            save_small_policy(root, self.chosen, self.off_policy.task)


class SuccessEnds:
    """Environments whose episodes end for good at their first success."""

    def __init__(self, env: VecEnv) -> None:
        self.env, self.task, self.seeds = env, env.task, env.seeds
        self.reset, self.close, self.num_envs = env.reset, env.close, env.num_envs

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        result = self.env.step(action, env_ids)
        ended = result.terminated | result.success
        return replace(result, terminated=ended, truncated=result.truncated & ~ended)
