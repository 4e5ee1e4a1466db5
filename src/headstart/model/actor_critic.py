"""The scratch arm's model: two small networks that read a short history of observations.

Shapes: B batch, F frames (oldest first), O observation channels, A action channels, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.behaviors.base import Decision

FRAME_STACK = 2
"""Two frames, because the observations have no velocities."""
DEVIATION_FLOOR = 1e-3
"""A channel that hardly moves is not blown up: deviations are never taken smaller than this."""
WIDTHS = (1, 4096)
"""Of hidden layers: these are small networks, made for one core."""
CLIP = 5.0
"""Normalised observations are cut to so many deviations."""


class RunningStatistics(nn.Module):
    """Mean and variance of a stream of rows, one per column; buffers, so saved with the model.

    Batches are merged by the parallel form of Welford's method (Chan, Golub and LeVeque 1983).
    """

    mean: Tensor  # (D,) float64
    variance: Tensor  # (D,) float64, of the population
    count: Tensor  # () float64, rows seen

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._scale = (-1.0, np.zeros(size), np.zeros(size))  # the count that it was for

    def update(self, rows_BD: Tensor) -> None:
        """Take in more rows."""
        rows_BD = rows_BD.to(torch.float64)
        n, total = len(rows_BD), self.count + len(rows_BD)
        delta_D = rows_BD.mean(0) - self.mean
        # M2 = M2_a + M2_b + delta^2 n_a n_b / (n_a + n_b)
        m2_D = self.variance * self.count + rows_BD.var(0, correction=0) * n
        m2_D = m2_D + delta_D.square() * self.count * n / total
        self.mean += delta_D * n / total
        self.variance.copy_(m2_D / total)
        self.count += n

    def deviation(self) -> Tensor:
        """(D,) float32, never below the floor."""
        return self.variance.sqrt().clamp(min=DEVIATION_FLOOR).float()

    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) float64 and deviation (D,) float32; computed once for the rows seen."""
        count = self.count.item()
        if self._scale[0] != count:
            self._scale = (count, self.mean.numpy().copy(), self.deviation().numpy())
        return self._scale[1:]


class ActorCritic(nn.Module):
    """A Gaussian policy with state-independent deviations, and a value, on separate networks.

    Observations are normalised by running statistics that are part of the state. Call ``observe``
    between updates only: policy and old log-probabilities must see the same numbers.

    Args:
        obs_size: O. action_size: A. frame_stack: F >= 1.
        hidden_size: H of both networks.
        generator: draws the initial weights.
        initial_std: the policy's deviation at the start, in units of the action.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden_size: int,
        frame_stack: int,
        generator: torch.Generator,
        initial_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.frame_stack, self.hidden_size = frame_stack, hidden_size
        self.obs_size, self.action_size = obs_size, action_size
        self.features = RunningStatistics(frame_stack * obs_size)
        self.discounted_return = RunningStatistics(1)
        sizes = [frame_stack * obs_size, hidden_size, hidden_size]
        self.actor = _mlp([*sizes, action_size], last_gain=0.01, generator=generator)
        self.critic = _mlp([*sizes, 1], last_gain=1.0, generator=generator)
        self.log_std_A = nn.Parameter(torch.full((action_size,), float(np.log(initial_std))))

    @property
    def sizes(self) -> dict[str, int]:
        """What another of the same size is made with."""
        return {
            "obs_size": self.obs_size,
            "action_size": self.action_size,
            "hidden_size": self.hidden_size,
            "frame_stack": self.frame_stack,
        }

    def forward(self, history_BFO: Tensor) -> tuple[Tensor, Tensor]:
        """Mean action (B, A) and value (B,), the latter in units of scaled reward."""
        x_BD = self.normalise(history_BFO)
        return self.actor(x_BD), self.critic(x_BD).squeeze(-1)

    def value(self, history_BFO: Tensor) -> Tensor:
        """Value (B,) alone."""
        return self.critic(self.normalise(history_BFO)).squeeze(-1)

    def normalise(self, history_BFO: Tensor) -> Tensor:
        """What the networks read (B, F O): the last frame and its changes, in deviations."""
        return normalised(self.features, last_and_changes(history_BFO.numpy()))

    def observe(self, history_BFO: Tensor) -> None:
        """Take observations into the normalising statistics."""
        self.features.update(torch.from_numpy(last_and_changes(history_BFO.numpy())))


def last_and_changes(history_BFO: np.ndarray) -> np.ndarray:
    """(B, F O): changes between frames get a scale of their own, as they are far smaller."""
    changes_BD = (history_BFO[:, 1:] - history_BFO[:, :-1]).reshape(len(history_BFO), -1)
    x_BD = np.concatenate([history_BFO[:, -1], changes_BD], axis=1)
    x_BD[np.isnan(x_BD)] = 0.0
    return x_BD


def normalised(statistics: RunningStatistics, x_BD: np.ndarray) -> Tensor:
    """Rows (B, D) float32 in deviations, cut. NumPy's overhead is the smaller for a few rows."""
    mean, deviation = statistics.scale()
    return torch.from_numpy(((x_BD - mean) / deviation).astype(np.float32).clip(-CLIP, CLIP))


Layer = tuple[np.ndarray, np.ndarray]
"""Weight (out, in) and bias (out,)."""


def _outputs(x_BD: np.ndarray, layers: Sequence[Layer]) -> list[np.ndarray]:
    """The outputs (B, H) of tanh layers, one after another, and of a linear one behind them."""
    outputs = []
    for weight, bias in layers:
        # h = tanh(W x + b), and W x + b at the end
        x_BD = x_BD @ weight.T
        x_BD += bias
        if len(outputs) < len(layers) - 1:
            np.tanh(x_BD, out=x_BD)
        outputs.append(x_BD)
    return outputs


class _TanhNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layers = _layers(parameters)
        *hidden, out_BA = _outputs(x_BD.numpy(), ctx.layers)
        ctx.inputs = [x_BD.numpy(), *hidden]
        return torch.from_numpy(out_BA)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        delta, found = gradients[0].numpy(), []
        for i in reversed(range(len(ctx.layers))):
            h, (weight, _) = ctx.inputs[i], ctx.layers[i]
            # dL/dW = (dL/dz)' h, dL/db = sum over B of dL/dz, where z = W h + b
            found = [torch.from_numpy(delta.T @ h), torch.from_numpy(delta.sum(0)), *found]
            if i > 0:
                # and of the layer before, where h = tanh z: dL/dz = (dL/dh) (1 - h^2)
                delta = delta @ weight
                slope = h * h
                delta *= np.subtract(1, slope, out=slope)
        return None, *found


class TanhNetwork(nn.Sequential):
    """Linear layers and tanh between them, on the CPU; no gradient for what goes in.

    In NumPy, as one node of the graph: for a minibatch its tanh is ten times as fast as PyTorch's.
    Its threads are not PyTorch's: who wants one says so to both (``threadpoolctl``).
    """

    def forward(self, input: Tensor) -> Tensor:
        return _TanhNetwork.apply(input, *self.parameters())

    def layers(self) -> list[Layer]:
        """Views of the weights: they follow the network, and nothing is recorded for them."""
        return _layers(tuple(self.parameters()))


def _layers(parameters: Sequence[Tensor]) -> list[Layer]:
    arrays = [parameter.detach().numpy() for parameter in parameters]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _mlp(sizes: list[int], last_gain: float, generator: torch.Generator) -> TanhNetwork:
    """Orthogonal weights (gain sqrt 2, in the last layer its own) and zero biases."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # no global RNG
        nn.init.orthogonal_(linear.weight, last_gain if last else 2**0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return TanhNetwork(*layers)


class History:
    """The last F frames of each of several environments; at first the first one repeated."""

    def __init__(self, num_envs: int, frame_stack: int, obs_size: int) -> None:
        self._fresh = np.ones(num_envs, dtype=bool)
        self._frames = np.zeros((num_envs, frame_stack, obs_size), dtype=np.float32)

    def reset(self, env_ids: np.ndarray) -> None:
        """New episodes are about to start in these environments."""
        self._fresh[env_ids] = True

    def push(self, obs: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """The histories (n, F, O) of these environments, ending with obs (n, O)."""
        history = np.concatenate([self._frames[env_ids, 1:], obs[:, None]], axis=1)
        fresh = self._fresh[env_ids]
        history[fresh] = obs[fresh, None]
        self._frames[env_ids], self._fresh[env_ids] = history, False
        return history


class ActorCriticPolicy:
    """Acts with an ActorCritic: samples with a generator, takes the mean action without one.

    Exploration noise is autoregressive, so that it goes somewhere rather than trembling on the
    spot: white noise at 80 Hz averages out. What is carried over moves the centre of the Gaussian
    that is sampled from, so log-probabilities are exact; the value does not see it.

    ``Decision.extras``: ``history`` (n, F, O), what was decided on, ``mean`` (n, A), the networks'
    action, and ``offset`` (n, A), what the noise carried over; all float32. A new episode's history
    is its first frame repeated and its offset zero.

    Args:
        noise_correlation: rho in [0, 1), from one step to the next.
    """

    def __init__(
        self,
        model: ActorCritic,
        num_envs: int,
        generator: torch.Generator | None = None,
        noise_correlation: float = 0.0,
    ) -> None:
        self.name = "actor-critic"
        self.model = model
        self.generator = generator
        self.noise_correlation = noise_correlation
        self._layers = model.actor.layers()
        self._log_std_A = model.log_std_A.detach()
        self._history = History(num_envs, model.frame_stack, model.obs_size)
        self._offset = np.zeros((num_envs, len(model.log_std_A)), dtype=np.float32)

    def reset(self, env_ids: np.ndarray | None = None) -> None:
        """Forget the episode so far."""
        ids = np.arange(len(self._offset)) if env_ids is None else env_ids
        self._history.reset(ids)
        self._offset[ids] = 0.0

    def act(self, obs: np.ndarray, env_ids: np.ndarray | None = None) -> Decision:
        """Decide for obs (n, O) float32 of these environments, by default all, in order."""
        env_ids = np.arange(len(self._offset)) if env_ids is None else env_ids
        history, offset = self._history.push(obs, env_ids), self._offset[env_ids]
        mean = _outputs(self.model.normalise(torch.from_numpy(history)).numpy(), self._layers)[-1]
        action = mean + offset
        if self.generator is not None:
            # a_t = mean_t + rho (a_{t-1} - mean_{t-1}) + std noise_t
            noise_BA = torch.empty(mean.shape).normal_(generator=self.generator)
            action += (self._log_std_A.exp() * noise_BA).numpy()
            self._offset[env_ids] = self.noise_correlation * (action - mean)
        return Decision(action, extras={"history": history, "mean": mean, "offset": offset})
