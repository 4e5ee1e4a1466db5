"""Proximal policy optimisation from random weights: the scratch arm, by reward alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart.algorithms.base import Spent, check_finite
from headstart.config import check_ranges
from headstart.model.actor_critic import FRAME_STACK, WIDTHS, ActorCritic, ActorCriticPolicy
from headstart.model.checkpoint import (
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    save_small_policy,
)
from headstart.objectives import (
    gaussian_entropy,
    gaussian_logprob,
    generalised_advantages,
    ppo_loss,
)
from headstart.rollout import Interaction, collect
from headstart.suites.base import VecEnv
from headstart.types import Task

VALUE_COEF = 0.5
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of proximal policy optimisation."""

    num_envs: int = 8
    """Environments stepped together."""
    num_steps: int = 300
    """Steps each environment takes between two updates. A whole episode keeps rollouts alike."""
    hidden_size: int = 128
    """Width of the two hidden layers of the policy, and of the value."""
    initial_std: float = 0.5
    """The policy's deviation at the start, in units of the action (the innovation's)."""
    noise_correlation: float = 0.9
    """Correlation of the exploration noise from one step to the next."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    max_kl: float = 0.03
    """An update ends early once the policy has moved so far [nats]."""
    gamma: float = 0.997
    """Discount of a step."""
    gae_lambda: float = 0.97
    """Weight of long returns in generalised advantage estimation."""
    clip_coef: float = 0.2
    """How far the probability ratio may move before its gradient is cut."""
    entropy_coef: float = 0.0
    """Weight of the policy's entropy."""
    update_epochs: int = 8
    """Passes over a rollout."""
    num_minibatches: int = 4
    """Gradient steps a pass."""

    def __post_init__(self) -> None:
        some, rate, share = (1, math.inf), (0, math.inf), (0, 1)
        check_ranges(self, num_envs=some, hidden_size=WIDTHS, update_epochs=some)
        # advantages are told from one another, which takes two
        check_ranges(self, num_steps=(2 if self.num_envs == 1 else 1, math.inf))
        check_ranges(self, num_minibatches=some, learning_rate=rate, initial_std=(1e-6, math.inf))
        check_ranges(self, noise_correlation=share, gamma=share, gae_lambda=share)
        check_ranges(self, clip_coef=rate, entropy_coef=rate)
        if not self.max_kl > 0.0:  # infinity is one: no update ends early
            raise ValueError(f"max_kl is {self.max_kl}; use more than 0")


@dataclass
class Rollout:
    """What S steps in each of E environments brought: tensors on the CPU."""

    history: Tensor  # (S, E, F, O) float32, what was decided on
    next_history: Tensor  # (S, E, F, O) float32; at an episode's end: with its final observation
    action: Tensor  # (S, E, A) float32
    mean: Tensor  # (S, E, A) float32, the networks' action
    offset: Tensor  # (S, E, A) float32, what the noise carried over from the step before
    reward: Tensor  # (S, E) float32
    terminated: Tensor  # (S, E) bool, as the rest
    truncated: Tensor
    success: Tensor

    @classmethod
    def of(cls, columns: dict[str, np.ndarray]) -> Rollout:
        return cls(**{name: torch.from_numpy(column) for name, column in columns.items()})


class PPO:
    """Two small networks and what improves them: the optimiser and the random numbers."""

    def __init__(self, config: PPOConfig, task: Task, seed: int) -> None:
        self.config = config
        self.task = task
        self.generator = torch.Generator().manual_seed(seed)
        self.model = ActorCritic(
            obs_size=len(task.obs_channels),
            action_size=len(task.action_channels),
            hidden_size=config.hidden_size,
            frame_stack=FRAME_STACK,
            initial_std=config.initial_std,
            generator=self.generator,
        )
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        interaction = Interaction(env, self.explorer(env.num_envs))
        interaction.reset(np.arange(env.num_envs, dtype=np.int32))
        while interaction.env_steps < env_steps:
            steps, diverged = interaction.env_steps, interaction.diverged.sum()
            rollout = Rollout.of(collect(interaction, self.config.num_steps))
            metrics = self.update(rollout) | {
                "train/reward": rollout.reward.mean().item(),
                "train/success": rollout.success.any(0).float().mean().item(),
                "train/action_std": self.model.log_std_A.exp().mean().item(),
            }
            steps, diverged = interaction.env_steps - steps, interaction.diverged.sum() - diverged
            yield Spent(steps, metrics.pop("flops"), metrics, int(diverged))

    def actor(self, num_envs: int) -> ActorCriticPolicy:
        return ActorCriticPolicy(self.model, num_envs)

    def explorer(self, num_envs: int) -> ActorCriticPolicy:
        """Acts with the model as it is at the time, and with noise."""
        return ActorCriticPolicy(
            self.model, num_envs, self.generator, self.config.noise_correlation
        )

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Improve the model on a rollout, then take the rollout into the normalisation.

        Returns:
            Metrics, and ``flops``: floating-point operations of acting and learning.

        Raises:
            ValueError: the weights are no longer finite.
        """
        history_BFO = rollout.history.flatten(0, 1)
        x_BD = self.model.normalise(history_BFO)
        # Not while acting: for all steps at once they cost far less.
        with torch.no_grad():
            value_SE = self.model.critic(x_BD).view_as(rollout.reward)
            logprob_SE = gaussian_logprob(
                rollout.mean + rollout.offset, self.model.log_std_A, rollout.action
            )
        advantage_SE, returns_SE = self._advantages(rollout, value_SE)
        batch = {
            "x_BD": x_BD,
            "action_BA": (rollout.action - rollout.offset).flatten(0, 1),
            "logprob_B": logprob_SE.flatten(),
            "advantage_B": _standardised(advantage_SE.flatten()),
            "returns_B": returns_SE.flatten(),
        }
        losses: list[Tensor] = []
        epochs, approx_kl = 0, -math.inf
        while epochs < self.config.update_epochs and approx_kl < self.config.max_kl:
            losses += self._epoch(batch)
            approx_kl = losses[-1][3].item()
            epochs += 1
        check_finite(self.model, self.task, "ppo")
        self.model.observe(history_BFO)
        policy, value, entropy, _, clip_fraction = torch.stack(losses).mean(0).tolist()
        num_weights = sum(p.numel() for p in self.model.parameters())
        return {
            "losses/policy": policy,
            "losses/value": value,
            "losses/entropy": entropy,
            "losses/approx_kl": approx_kl,
            "losses/clip_fraction": clip_fraction,
            "losses/explained_variance": 1.0
            - ((returns_SE - value_SE).var() / returns_SE.var()).item(),
            "charts/update_epochs": epochs,
            # a forward pass is 2 operations a weight; forward and backward 6
            "flops": (2 * 2 + 6 * epochs) * num_weights * len(history_BFO),
        }

    def _advantages(self, rollout: Rollout, value_SE: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        scaled_SE = self._scaled_reward(rollout)
        # The next step's value, but where an episode ends, or the rollout.
        next_value_SE, last_SE = value_SE.roll(-1, 0), rollout.terminated | rollout.truncated
        last_SE[-1] = True
        with torch.no_grad():
            next_value_SE[last_SE] = self.model.value(rollout.next_history[last_SE])
        return generalised_advantages(
            scaled_SE,
            value_SE,
            next_value_SE,
            rollout.terminated,
            rollout.truncated,
            config.gamma,
            config.gae_lambda,
        )

    def _scaled_reward(self, rollout: Rollout) -> Tensor:
        """Rewards in deviations of the discounted return, over all that was seen so far."""
        carry_SE = self.config.gamma * ~(rollout.terminated | rollout.truncated)
        return_SE = rollout.reward.clone()
        # NumPy's views: a few numbers at a time are quicker there
        returns, carry = return_SE.numpy(), carry_SE.numpy()
        for s in range(1, len(returns)):
            # G_s = r_s + gamma (1 - ended_{s-1}) G_{s-1}
            returns[s] += carry[s - 1] * returns[s - 1]
        self.model.discounted_return.update(return_SE.flatten()[:, None])
        return rollout.reward / self.model.discounted_return.deviation()

    def _epoch(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """One pass in random order; the parts of each minibatch's loss (see PPOLoss)."""
        config, model = self.config, self.model
        parts = []
        order_B = torch.randperm(len(batch["x_BD"]), generator=self.generator)
        for rows in order_B.chunk(config.num_minibatches):
            x_BD, action_BA, old_logprob_B, advantage_B, returns_B = (
                column.index_select(0, rows) for column in batch.values()
            )
            loss = ppo_loss(
                gaussian_logprob(model.actor(x_BD), model.log_std_A, action_BA),
                old_logprob_B,
                advantage_B,
                model.critic(x_BD).squeeze(-1),
                returns_B,
                gaussian_entropy(model.log_std_A),
                config.clip_coef,
                VALUE_COEF,
                config.entropy_coef,
            )
            self.optimizer.zero_grad()
            loss.total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            parts.append(torch.stack(loss[1:]))
        return parts

    def tensors(self) -> dict[str, Tensor]:
        model = module_tensors(self.model, "model")
        optimizer = optimizer_tensors(self.optimizer, "optimizer")
        return model | optimizer | {"generator": self.generator.get_state()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        load_module(self.model, tensors, "model")
        load_optimizer(self.optimizer, tensors, "optimizer")
        self.generator.set_state(tensors["generator"])

    def save(self, root: Path) -> None:
        save_small_policy(root, self.model, self.task)


def _standardised(x_B: Tensor) -> Tensor:
    return (x_B - x_B.mean()) / (x_B.std() + 1e-8)
