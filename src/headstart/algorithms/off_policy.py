"""Soft actor-critic, from random weights or with demonstrations in every batch.

Everything that ever happened is learned from again and again, so a task takes fewer steps than on
policy; small batched networks and one update in several steps keep an update cheap on one core.

Relatives: soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905), minima over random subsets
of an ensemble (REDQ, Chen et al. 2021, arXiv:2101.05982), LayerNorm critics and demonstrations in
every batch (RLPD, Ball et al. 2023, arXiv:2302.02948).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headstart.algorithms.base import Spent, check_finite
from headstart.algorithms.replay import Replay
from headstart.config import check_ranges
from headstart.model.actor_critic import FRAME_STACK, WIDTHS, History, last_and_changes, normalised
from headstart.model.checkpoint import (
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    save_small_policy,
)
from headstart.model.soft_actor_critic import SoftActorCritic, SquashedPolicy
from headstart.objectives import n_step_returns, soft_target
from headstart.rollout import Interaction, collect
from headstart.suites.base import VecEnv
from headstart.types import Episode, Task

UPDATES_AT_A_TIME = 100
"""Whose batches are drawn together, where there are thousands to make."""
VALUE_RANGE = 10.0
"""What receiving the highest reward for ever is worth to the critics."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig:
    """Settings of the off-policy learner."""

    num_envs: int = 8
    """Environments stepped together."""
    num_steps: int = 300
    """Steps each environment takes between two reports."""
    burst: int = 25
    """Steps each environment takes between two bouts of learning."""
    warmup_steps: int = 1000
    """Steps of all environments before learning begins."""
    hidden_size: int = 128
    """Width of the two hidden layers of the policy, and of every critic."""
    num_critics: int = 2
    """Critics that are trained."""
    num_minimum: int = 2
    """Critics, drawn anew each update, whose minimum is the target's value."""
    batch_size: int = 128
    """Transitions of an update."""
    demonstration_share: float = 0.1
    """Share of a batch that is drawn from demonstrations, if there are any. RLPD's half learns a
    single one by heart, and little else (LOG.md)."""
    updates_per_step: float = 0.125
    """Updates for each step of an environment."""
    actor_every: int = 2
    """Updates of the critics for one of the policy and the temperature."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    temperature_learning_rate: float = 5e-3
    """Adam's step size for the logarithm of the temperature."""
    target_rate: float = 0.02
    """Share of the way that the target critics go towards the critics in an update."""
    target_entropy: float = -0.5
    """Entropy that the temperature holds the policy to, an action channel [nats]."""
    noise_correlation: float = 0.9
    """Correlation of the exploration noise from one step to the next."""
    gamma: float = 0.99
    """Discount of a step."""
    n_step: int = 3
    """Steps whose rewards are summed before the critics' own estimate."""
    capacity: int = 300_000
    """Transitions that are kept; the oldest go."""

    def __post_init__(self) -> None:
        some, rate, share = (1, math.inf), (0, math.inf), (0, 1)
        check_ranges(self, num_envs=some, num_steps=some, burst=some, warmup_steps=rate)
        check_ranges(self, hidden_size=WIDTHS, num_critics=(1, 100))
        check_ranges(self, num_minimum=(1, self.num_critics))
        check_ranges(self, batch_size=(2, math.inf), updates_per_step=rate, actor_every=some)
        check_ranges(self, learning_rate=rate, temperature_learning_rate=rate, target_rate=share)
        # a reward for ever has to be worth something finite, see VALUE_RANGE
        check_ranges(
            self, demonstration_share=share, noise_correlation=share, gamma=(0, 0.9999), n_step=some
        )
        check_ranges(self, target_entropy=(-math.inf, math.inf))
        check_ranges(self, capacity=(max(1, self.warmup_steps), math.inf))


class OffPolicy:
    """Policy, critics, what was experienced, and what is drawn from for learning.

    Args:
        demonstrations: a share of every batch is drawn from them. Their rewards are known.
    """

    def __init__(
        self,
        config: OffPolicyConfig,
        task: Task,
        seed: int,
        demonstrations: Sequence[Episode] = (),
    ) -> None:
        self.config = config
        self.task = task
        self.generator = torch.Generator().manual_seed(seed)
        self.model = SoftActorCritic(
            obs_size=len(task.obs_channels),
            action_size=len(task.action_channels),
            hidden_size=config.hidden_size,
            num_critics=config.num_critics,
            frame_stack=FRAME_STACK,
            generator=self.generator,
        )
        model, rate = self.model, config.learning_rate
        self.optimizers = {
            "critics": torch.optim.Adam(model.critics.parameters(), lr=rate, fused=True),
            "actor": torch.optim.Adam(model.actor.parameters(), lr=rate, fused=True),
            "temperature": torch.optim.Adam(
                [model.log_temperature], lr=config.temperature_learning_rate
            ),
        }
        self.outcomes: list[list[bool]] = []
        """By environment, of its episodes that ended in this round: whether the last step did
        succeed."""
        self._owed = 0.0  # updates that are still to be made, a fraction of one
        self._updates = 0
        self._entropy = torch.tensor(0.0)  # of the policy when it was last improved
        width = 2 * model.features.mean.numel() + model.action_size + 2
        self.replay = Replay(config.capacity, width)
        self.shown = Replay(max(config.capacity, sum(e.num_steps for e in demonstrations)), width)
        for episode in demonstrations:
            self._remember(_columns(episode), self.shown)

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        config = self.config
        interaction = Interaction(env, self.explorer(env.num_envs))
        interaction.reset(np.arange(env.num_envs, dtype=np.int32))
        self.outcomes = [[] for _ in range(env.num_envs)]
        while interaction.env_steps < env_steps:
            steps, diverged = interaction.env_steps, interaction.diverged.sum()
            parts, success, reward = [], [], []
            for start in range(0, config.num_steps, config.burst):
                columns = collect(interaction, min(config.burst, config.num_steps - start))
                self._remember(columns, self.replay)
                ended = columns["terminated"] | columns["truncated"]
                for step, i in np.argwhere(ended):
                    self.outcomes[i].append(bool(columns["success"][step, i]))
                success.append(columns["success"].any(0))
                reward.append(columns["reward"].mean())
                if len(self.replay) >= config.warmup_steps:
                    self._owed += columns["reward"].size * config.updates_per_step
                    parts += self._learn(int(self._owed))
                    self._owed %= 1
                    check_finite(self.model, self.task, "off_policy")  # before it acts
            metrics = {
                "train/reward": float(np.mean(reward)),
                "train/success": float(np.any(success, axis=0).mean()),
                **self._metrics(parts),
            }
            steps, diverged = interaction.env_steps - steps, interaction.diverged.sum() - diverged
            yield Spent(steps, self._flops(steps, len(parts)), metrics, int(diverged))

    def remember(self, episode: Episode) -> None:
        """Learn from an episode that somebody else played; from a success in every batch."""
        columns = _columns(episode)
        self._remember(columns, self.replay)
        if episode.success.any():
            self._remember(columns, self.shown)

    def catch_up(self) -> float:
        """Learn from what is in the buffer as if it had been played here; returns floating-point
        operations."""
        bouts = int(len(self.replay) * self.config.updates_per_step) // UPDATES_AT_A_TIME
        for _ in range(bouts):
            self._learn(UPDATES_AT_A_TIME)
        check_finite(self.model, self.task, "off_policy")
        return self._flops(0, bouts * UPDATES_AT_A_TIME)

    def actor(self, num_envs: int) -> SquashedPolicy:
        return SquashedPolicy(self.model, num_envs)

    def explorer(self, num_envs: int) -> SquashedPolicy:
        """Acts with the model as it is at the time, and with noise."""
        return SquashedPolicy(self.model, num_envs, self.generator, self.config.noise_correlation)

    def _remember(self, columns: dict[str, np.ndarray], replay: Replay) -> None:
        """Add S steps in each of E environments to a buffer, and to all normalisation.

        A row: x (D), action (A), next x (D), return, discount.
        """
        config, model = self.config, self.model
        c = {name: torch.from_numpy(column) for name, column in columns.items()}
        # who has succeeded for good has that reward for ever: r + gamma r + ... = r / (1 - gamma)
        for_good = c["terminated"] & c["success"]
        reward_SE = torch.where(for_good, c["reward"] / (1 - config.gamma), c["reward"])
        return_SE, discount_SE, last_SE = n_step_returns(
            reward_SE, c["terminated"], c["truncated"], config.gamma, config.n_step
        )
        num_envs = c["reward"].shape[1]
        x, next_x = (
            torch.from_numpy(last_and_changes(c[name].flatten(0, 1).numpy()))
            for name in ("history", "next_history")
        )
        next_x = next_x[(last_SE * num_envs + torch.arange(num_envs)).flatten()]
        outcome = torch.stack([return_SE.flatten(), discount_SE.flatten()], dim=1)
        replay.add(torch.cat([x, c["action"].flatten(0, 1), next_x, outcome], dim=1))
        model.features.update(x)
        model.take_in_rewards(c["reward"])

    def _batches(self, num: int) -> Tensor:
        """Rows (num, batch_size, W), those from demonstrations first."""
        size = self.config.batch_size
        share = self.config.demonstration_share if len(self.shown) else 0.0
        from_shown = min(round(size * share), size - 1)
        rows = self.replay.sample(num * (size - from_shown), self.generator)
        rows = rows.unflatten(0, (num, -1))
        if from_shown:
            shown = self.shown.sample(num * from_shown, self.generator).unflatten(0, (num, -1))
            rows = torch.cat([shown, rows], dim=1)
        return rows

    def _learn(self, updates: int) -> list[Tensor]:
        """Several updates; metrics of each."""
        if not updates:
            return []
        config, features = self.config, self.model.features
        width, num_actions = features.mean.numel(), self.model.action_size
        rows = self._batches(updates)
        x, action, next_x, outcome = rows.split([width, num_actions, width, 2], dim=-1)
        x, next_x = (normalised(features, rows.numpy()) for rows in (x, next_x))
        # the highest reward for ever is worth VALUE_RANGE
        scale = VALUE_RANGE * (1 - config.gamma) / self.model.highest_reward.clamp(min=1e-6)
        parts = []
        for i in range(updates):
            return_B, discount_B = outcome[i].unbind(-1)
            target_B = self._target(scale * return_B, discount_B, next_x[i])
            loss, value = self._improve_critics(torch.cat([x[i], action[i]], dim=-1), target_B)
            if self._updates % config.actor_every == 0:
                self._entropy = self._improve_actor(x[i])
            self._updates += 1
            parts.append(torch.stack([loss, value, self._entropy]))
        return parts

    @torch.no_grad()
    def _target(self, return_B: Tensor, discount_B: Tensor, next_x_BD: Tensor) -> Tensor:
        config, model = self.config, self.model
        action_BA, logprob_B = model.sample(next_x_BD, self.generator)
        flat_MP = model.targets.flat_NP
        if config.num_minimum < config.num_critics:
            order = torch.randperm(config.num_critics, generator=self.generator)
            flat_MP = flat_MP[order[: config.num_minimum]]
        next_value_MB = model.targets(torch.cat([next_x_BD, action_BA], dim=-1), flat_MP)[..., 0]
        bonus_B = -model.log_temperature.exp() * logprob_B
        return soft_target(return_B, discount_B, next_value_MB, bonus_B)

    def _improve_critics(self, x_BD: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """One step towards the target; mean squared error and mean value."""
        model = self.model
        value_NB = model.critics(x_BD)[..., 0]
        # each member regresses by itself: a sum over N, a mean over B
        loss = (value_NB - target_B).square().mean(-1).sum()
        self.optimizers["critics"].zero_grad()
        loss.backward()
        self.optimizers["critics"].step()
        model.targets.flat_NP.lerp_(model.critics.flat_NP.detach(), self.config.target_rate)
        return loss.detach(), value_NB.detach().mean()

    def _improve_actor(self, x_BD: Tensor) -> Tensor:
        """One step of the policy and of the temperature; the policy's entropy."""
        model, config = self.model, self.config
        action_BA, logprob_B = model.sample(x_BD, self.generator)
        critics_NP = model.critics.flat_NP.detach()
        value_B = model.critics(torch.cat([x_BD, action_BA], dim=-1), critics_NP)[..., 0].mean(0)
        loss = (model.log_temperature.detach().exp() * logprob_B - value_B).mean()
        self.optimizers["actor"].zero_grad()
        loss.backward()
        self.optimizers["actor"].step()
        entropy = -logprob_B.detach().mean()
        # the temperature rises while the entropy is below its target
        excess = entropy - config.target_entropy * model.action_size
        model.log_temperature.grad = excess
        self.optimizers["temperature"].step()
        return entropy

    def _metrics(self, parts: list[Tensor]) -> dict[str, float]:
        if not parts:
            return {}
        loss, value, entropy = torch.stack(parts).mean(0).tolist()
        return {
            "losses/critic": loss,
            "losses/value": value,
            "losses/entropy": entropy,
            "losses/temperature": self.model.log_temperature.exp().item(),
        }

    def _flops(self, env_steps: int, updates: int) -> float:
        """Of acting and learning: a forward pass is 2 operations a weight, a backward pass 4."""
        config = self.config
        actor, critics = (
            sum(p.numel() for p in m.parameters()) for m in (self.model.actor, self.model.critics)
        )
        target = critics * config.num_minimum / config.num_critics
        # critics learn: actor and targets forward, critics both; policy: both, critics' inputs
        row = 2 * actor + 2 * target + 6 * critics + (6 * actor + 4 * critics) / config.actor_every
        return 2 * actor * env_steps + row * config.batch_size * updates

    def tensors(self) -> dict[str, Tensor]:
        found = module_tensors(self.model, "model") | {"generator": self.generator.get_state()}
        counts = [self._owed, self._updates, self._entropy.item()]
        found["counts"] = torch.tensor(counts, dtype=torch.float64)
        for name, optimizer in self.optimizers.items():
            found |= optimizer_tensors(optimizer, name)
        for name, replay in (("replay", self.replay), ("shown", self.shown)):
            found |= {f"{name}.{key}": tensor for key, tensor in replay.tensors().items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        load_module(self.model, tensors, "model")
        self.generator.set_state(tensors["generator"])
        self._owed, updates, entropy = tensors["counts"].tolist()
        self._updates, self._entropy = int(updates), torch.tensor(entropy)
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, tensors, name)
        for name, replay in (("replay", self.replay), ("shown", self.shown)):
            replay.load_tensors({key: tensors[f"{name}.{key}"] for key in ("rows", "added")})

    def save(self, root: Path) -> None:
        save_small_policy(root, self.model, self.task)


def _columns(episode: Episode) -> dict[str, np.ndarray]:
    """A demonstration as ``collect`` would have given it, in one environment."""
    history = History(1, FRAME_STACK, episode.obs.shape[1])
    frames = [*episode.obs, episode.final_obs]
    stacked = np.stack([history.push(frame[None], np.zeros(1, int)) for frame in frames])
    ended = np.arange(episode.num_steps)[:, None] == episode.num_steps - 1
    return {
        "history": stacked[:-1],
        "next_history": stacked[1:],
        "action": np.clip(episode.action, -1.0, 1.0)[:, None],
        "reward": episode.reward[:, None],
        "terminated": ended & episode.terminated,
        "truncated": ended & (not episode.terminated),
        "success": episode.success[:, None],
    }
