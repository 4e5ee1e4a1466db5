"""The off-policy learner's model: a squashed Gaussian policy and an ensemble of critics.

Shapes: B batch, F frames, O observation channels, D = F O what a network reads, A action channels,
N members of the ensemble, H hidden.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.behaviors.base import Decision
from headstart.model.actor_critic import History, RunningStatistics, last_and_changes, normalised
from headstart.objectives import squashed_gaussian_logprob

LOG_STD_RANGE = (-5.0, 1.0)
"""Of the policy's deviation, before squashing."""
INITIAL_TEMPERATURE = 0.01


class Ensemble(nn.Module):
    """N small networks of one shape, evaluated together by batched matrix products.

    Linear layers with LayerNorm and ReLU between them. LayerNorm keeps critics from
    extrapolating beyond what was seen, without which few of them could learn so fast.

    All parameters are one tensor: the optimiser and the targets' average take one step each.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        last_gain: of the last layer's initial weights.
    """

    def __init__(
        self, members: int, sizes: list[int], last_gain: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.sizes = sizes
        width = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
        self.flat_NP = nn.Parameter(torch.zeros(members, width))
        for weight, _ in self.layers(self.flat_NP.detach()):
            gain = last_gain if weight.shape[-1] == sizes[-1] else 2**0.5
            weight.normal_(std=gain / weight.shape[1] ** 0.5, generator=generator)

    def layers(self, flat_NP: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weight (N, in, out) and bias (N, 1, out): views of all parameters."""
        found, start = [], 0
        for fan_in, fan_out in pairwise(self.sizes):
            weight = flat_NP[:, start : start + fan_in * fan_out].unflatten(1, (fan_in, fan_out))
            start += (fan_in + 1) * fan_out
            found.append((weight, flat_NP[:, None, start - fan_out : start]))
        return found

    def forward(self, x_BD: Tensor, flat_NP: Tensor | None = None) -> Tensor:
        """Outputs (N, B, out); with other parameters if they are given, e.g. some members'."""
        flat_NP = self.flat_NP if flat_NP is None else flat_NP
        x_NBH = x_BD.expand(len(flat_NP), *x_BD.shape)
        for i, (weight, bias) in enumerate(self.layers(flat_NP)):
            if i:
                x_NBH = F.layer_norm(x_NBH, x_NBH.shape[-1:]).relu()
            x_NBH = torch.baddbmm(bias, x_NBH, weight)
        return x_NBH


class SoftActorCritic(nn.Module):
    """A policy, critics, their slowly following targets, the temperature and all normalisation.

    Args:
        obs_size: O. action_size: A. frame_stack: F >= 1.
        hidden_size: H of both hidden layers of the policy and of every critic.
        num_critics: N.
        generator: draws the initial weights.
    """

    highest_reward: Tensor  # () float32, of absolute rewards seen

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden_size: int,
        num_critics: int,
        frame_stack: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.obs_size, self.action_size, self.frame_stack = obs_size, action_size, frame_stack
        width, hidden = frame_stack * obs_size, [hidden_size, hidden_size]
        self.features = RunningStatistics(width)
        self.actor = Ensemble(1, [width, *hidden, 2 * action_size], 0.01, generator)
        self.critics = Ensemble(num_critics, [width + action_size, *hidden, 1], 0.01, generator)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(INITIAL_TEMPERATURE))))
        self.register_buffer("highest_reward", torch.tensor(0.0))

    @property
    def sizes(self) -> dict[str, int]:
        """What another of the same size is made with."""
        return {
            "obs_size": self.obs_size,
            "action_size": self.action_size,
            "hidden_size": self.actor.sizes[1],
            "num_critics": len(self.critics.flat_NP),
            "frame_stack": self.frame_stack,
        }

    def policy(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (B, A) each of the action before it is squashed."""
        mean_BA, log_std_BA = self.actor(x_BD)[0].chunk(2, dim=-1)
        return mean_BA, log_std_BA.clamp(*LOG_STD_RANGE)

    def sample(self, x_BD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (B, A) in [-1, 1] and their log-densities (B,)."""
        mean_BA, log_std_BA = self.policy(x_BD)
        noise_BA = torch.empty_like(mean_BA).normal_(generator=generator)
        unsquashed_BA = mean_BA + log_std_BA.exp() * noise_BA
        logprob_B = squashed_gaussian_logprob(noise_BA, log_std_BA, unsquashed_BA)
        return unsquashed_BA.tanh(), logprob_B

    @torch.no_grad()
    def take_in_rewards(self, reward: Tensor) -> None:
        """Keep the highest reward, the unit of values: what is in that unit shrinks as it grows."""
        before = self.highest_reward.clone()
        self.highest_reward.copy_(torch.maximum(before, reward.abs().max()))
        if before > 0:
            ratio = before / self.highest_reward
            self.log_temperature += ratio.log()
            for critics in (self.critics, self.targets):
                for last in critics.layers(critics.flat_NP)[-1]:
                    last *= ratio


class SquashedPolicy:
    """Acts with a SoftActorCritic: samples with a generator, takes the squashed mean without one.

    The noise is autoregressive with the policy's own deviation in every step, so that exploration
    goes somewhere rather than trembling on the spot. ``Decision.extras``: ``history`` (n, F, O)
    float32, what was decided on.

    Args:
        noise_correlation: rho in [0, 1), from one step to the next.
    """

    name = "soft-actor-critic"

    def __init__(
        self,
        model: SoftActorCritic,
        num_envs: int,
        generator: torch.Generator | None = None,
        noise_correlation: float = 0.0,
    ) -> None:
        self.model = model
        self.generator = generator
        self.noise_correlation = noise_correlation
        self._history = History(num_envs, model.frame_stack, model.obs_size)
        self._noise = torch.zeros(num_envs, model.action_size)

    def reset(self, env_ids: np.ndarray | None = None) -> None:
        """Forget the episode so far."""
        ids = np.arange(len(self._noise)) if env_ids is None else env_ids
        self._history.reset(ids)
        if self.generator is not None:
            self._noise[ids] = self._white(len(ids))

    @torch.inference_mode()
    def act(self, obs: np.ndarray, env_ids: np.ndarray | None = None) -> Decision:
        """Decide for obs (n, O) float32 of these environments, by default all, in order."""
        env_ids = np.arange(len(self._noise)) if env_ids is None else env_ids
        history = self._history.push(obs, env_ids)
        x_BD = normalised(self.model.features, last_and_changes(history))
        mean_BA, log_std_BA = self.model.policy(x_BD)
        if self.generator is not None:
            mean_BA = mean_BA + log_std_BA.exp() * self._noise[env_ids]
            # xi_{t+1} = rho xi_t + sqrt(1 - rho^2) white
            rho, white_BA = self.noise_correlation, self._white(len(obs))
            self._noise[env_ids] = rho * self._noise[env_ids] + (1 - rho**2) ** 0.5 * white_BA
        return Decision(mean_BA.tanh().numpy(), extras={"history": history})

    def _white(self, num: int) -> Tensor:
        return torch.randn(num, self.model.action_size, generator=self.generator)
