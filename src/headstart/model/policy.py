"""A trained model that acts: a prompt, encoded once, and a short history for each environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from headstart.behaviors.base import Decision
from headstart.data.loader import evenly_spaced
from headstart.model.actor_critic import ActorCritic, ActorCriticPolicy
from headstart.model.channels import columns
from headstart.model.checkpoint import is_small_policy, load_model, load_small_policy
from headstart.model.soft_actor_critic import SquashedPolicy
from headstart.model.transformer import Cache, Transformer
from headstart.model.words import encode
from headstart.types import Channel, Episode, Task


@dataclass(frozen=True)
class Prompt:
    """What a policy is told and shown. Either may be missing.

    Example: ``Prompt("open the drawer")``, ``Prompt(demonstration=episode)``.
    """

    instruction: str | None = None
    demonstration: Episode | None = None


@dataclass
class Noise:
    """Exploration that goes somewhere: an autoregressive process on each channel.

    It is measured in deviations of the predicted bins, so that it is small where the model is sure.
    """

    scale: torch.Tensor  # (num_envs,) deviations
    correlation: float
    """From one step to the next, in [0, 1)."""
    generator: torch.Generator


class Policy:
    """Acts in several environments of one body at once (an Actor).

    A model of many bodies acts on this one's channels; those that it does not have are missing.

    Args:
        channels: the body's channels in the order of the observations' and actions' columns,
            as in ``Task.channels``.
        prompts: what the policy is told and shown. They must have the same cues, and instructions
            of one length.
        envs_per_prompt: environment i acts on prompt ``i // envs_per_prompt``.
        num_envs: or so many environments, each of which acts on the prompt whose demonstration
            starts most like its episode.
        noise: explore; None: greedy, the mean of the predicted bins.

    Raises:
        ValueError: the model does not know a channel, or a demonstration has other columns.
    """

    name = "policy"

    def __init__(
        self,
        model: Transformer,
        channels: Sequence[Channel],
        prompts: Sequence[Prompt],
        envs_per_prompt: int = 1,
        noise: Noise | None = None,
        num_envs: int | None = None,
    ) -> None:
        self.model = model
        self._noise = noise
        self._obs_channels = tuple(c for c in channels if c.role in ("observation", "goal"))
        self._action_channels = tuple(c for c in channels if c.role == "action")
        self._obs_columns = columns(model.channels, self._obs_channels)
        action_columns = columns(model.channels, self._action_channels)
        self._action_columns = [k - model.num_obs for k in action_columns]
        self._by_start = num_envs is not None and len(prompts) > 1
        num_envs = num_envs or len(prompts) * envs_per_prompt
        self.prompt_of_env = np.minimum(np.arange(num_envs) // envs_per_prompt, len(prompts) - 1)
        """(num_envs,) the prompt that each environment acts on."""
        self._start_PO = torch.zeros(0)  # first observations of what the prompts show
        self._cache = self._encode(prompts)
        self._gathered: Cache = []
        self._gathered_ids = np.zeros(0, dtype=np.int64)
        self._bins = torch.linspace(-1.0, 1.0, model.config.num_bins)
        window = model.config.window
        self._history = torch.full((num_envs, window, model.num_obs), torch.nan)
        self._length = np.zeros(num_envs, dtype=np.int64)
        self._drift = torch.zeros(num_envs, model.num_actions)

    def reset(self, env_ids: np.ndarray | None = None) -> None:
        """Forget the episode so far."""
        ids = slice(None) if env_ids is None else env_ids
        self._length[ids] = 0
        self._drift[ids] = 0.0

    @torch.inference_mode()
    def act(self, obs: np.ndarray, env_ids: np.ndarray | None = None) -> Decision:
        """Decide for obs (n, O) float32, raw units. Greedy: the mean of the predicted bins.

        Args:
            env_ids: (n,) int64, which environments these rows are of; by default all, in order.

        Raises:
            ValueError: obs of another shape, or not of numbers.
        """
        ids = np.arange(len(self._length)) if env_ids is None else env_ids
        self._check(obs, len(ids))
        is_first = self._length[ids] == 0
        self._remember(obs, ids)
        if self._by_start and is_first.any():
            self._choose(ids[is_first])
        action = np.zeros((len(ids), len(self._action_channels)), dtype=np.float32)
        lengths = self._length[ids]
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            logits_BAV = self.model.action_logits(
                self._prompt(ids[rows]), self._history[ids[rows], -int(length) :]
            )
            share_BAV = logits_BAV.float().softmax(-1)
            mean_BA = (share_BAV * self._bins).sum(-1)
            if self._noise:
                variance_BA = (share_BAV * self._bins.square()).sum(-1) - mean_BA.square()
                mean_BA = mean_BA + self._explore(self._noise, variance_BA, ids[rows])
            action[rows] = self.model.denormalise_action(mean_BA)[:, self._action_columns].numpy()
        return Decision(action)

    def _check(self, obs: np.ndarray, num_envs: int) -> None:
        shape = (num_envs, len(self._obs_channels))
        expected = f"expected float32 {shape}, a row an environment"
        if not isinstance(obs, np.ndarray):
            raise ValueError(f"obs is a {type(obs).__name__}, {expected}")
        if obs.shape != shape or obs.dtype.kind not in "fiu":
            raise ValueError(f"obs is {obs.dtype} {obs.shape}, {expected}")

    def _explore(self, noise: Noise, variance_BA: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
        fresh_BA = torch.empty_like(variance_BA).normal_(generator=noise.generator)
        # n_t = rho n_{t-1} + sqrt(1 - rho^2) e_t: of unit variance once it runs
        rho = noise.correlation
        self._drift[ids] = rho * self._drift[ids] + (1 - rho**2) ** 0.5 * fresh_BA
        deviation_BA = variance_BA.clamp(min=0.0).sqrt()
        return noise.scale[ids, None] * deviation_BA * self._drift[ids]

    def _remember(self, obs: np.ndarray, ids: np.ndarray) -> None:
        """Histories are kept at the end of their window, newest last."""
        newest = torch.full((len(ids), 1, self.model.num_obs), torch.nan)
        newest[:, 0, self._obs_columns] = torch.as_tensor(obs, dtype=torch.float32)
        self._history[ids] = torch.cat([self._history[ids][:, 1:], newest], dim=1)
        self._length[ids] = np.minimum(self._length[ids] + 1, self.model.config.window)

    def _choose(self, ids: np.ndarray) -> None:
        """The nearest start, in deviations; what either does not have makes no difference."""
        apart_EPO = self._history[ids, -1][:, None] - self._start_PO
        apart_EPO = (apart_EPO / self.model.deviation_C[: self.model.num_obs]).nan_to_num(0.0)
        self.prompt_of_env[ids] = apart_EPO.square().sum(-1).argmin(1).numpy()
        self._gathered_ids = np.zeros(0, dtype=np.int64)

    def _prompt(self, ids: np.ndarray) -> Cache:
        """The prompt of each of these environments; gathered anew only when they are others."""
        if not np.array_equal(ids, self._gathered_ids):
            which = self.prompt_of_env[ids]
            self._gathered = [(k[which], v[which]) for k, v in self._cache]
            self._gathered_ids = ids.copy()
        return self._gathered

    @torch.inference_mode()
    def _encode(self, prompts: Sequence[Prompt]) -> Cache:
        config = self.model.config
        words = demonstrations = None
        if prompts[0].instruction is not None:
            ids = [
                encode(p.instruction or "", self.model.vocabulary, config.max_words)
                for p in prompts
            ]
            words = torch.from_numpy(np.stack(ids))
            words = words[:, : int((words != 0).sum(1).max())]
        if prompts[0].demonstration is not None:
            shown = [self._shown(p.demonstration) for p in prompts if p.demonstration is not None]
            demonstrations = torch.from_numpy(np.stack(shown))
            self._start_PO = demonstrations[:, 0, : self.model.num_obs]
        return self.model.encode_prompt(words, demonstrations)

    def _shown(self, episode: Episode) -> np.ndarray:
        """(P, O + A) float32: an episode as it stands in a prompt."""
        widths = episode.obs.shape[1], episode.label.shape[1]
        own = len(self._obs_channels), len(self._action_channels)
        if widths != own:
            raise ValueError(
                f"a demonstration of {episode.task_id} has {widths[0]} observation and"
                f" {widths[1]} action columns, expected the body's {own[0]} and {own[1]}"
            )
        num_steps = self.model.config.demonstration_steps
        step = evenly_spaced(np.array([episode.num_steps]), num_steps)[0]
        shown = np.full((num_steps, len(self.model.channels)), np.nan, dtype=np.float32)
        shown[:, self._obs_columns] = episode.obs[step]
        shown[:, [self.model.num_obs + k for k in self._action_columns]] = episode.label[step]
        return shown


def load_policy(
    path: Path | str, task: Task, prompt: Prompt | None = None
) -> Policy | ActorCriticPolicy | SquashedPolicy:
    """A policy for one environment of a task, told the task's instruction unless prompted.

    What has learned one task from reward, by PPO or soft actor-critic, takes no prompt.

    Example: ``load_policy("runs/first/pretrain", task).act(obs).action``.

    Raises:
        ValueError: no model in ``path``, or a damaged one, or one for another body, or a prompt for
            one that takes none.
    """
    if is_small_policy(Path(path)):
        if prompt is not None:
            raise ValueError(f"{path}: has learned one task, and takes no prompt")
        small = load_small_policy(Path(path), task)
        is_ppo = isinstance(small, ActorCritic)
        return ActorCriticPolicy(small, 1) if is_ppo else SquashedPolicy(small, 1)
    model = load_model(Path(path))
    return Policy(model, task.channels, [prompt or Prompt(task.instruction)])
