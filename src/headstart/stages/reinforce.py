"""Reinforcement learning from scratch: proximal policy optimisation on a task's own reward.

Work goes in rounds. A round steps environments of its own, made from seeds of its own, then
evaluates and writes a checkpoint; so a run that was stopped and resumed is the run that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from headstart.artifact import Artifact, write_bytes, write_card
from headstart.config import free, from_json
from headstart.ledger import (
    Cost,
    Meter,
    settle,
    spent_so_far,
    write_unfinished_bill,
)
from headstart.model.actor_critic import ActorCritic, ActorCriticPolicy
from headstart.model.checkpoint import (
    load_optimizer,
    load_training,
    optimizer_tensors,
    save_training,
)
from headstart.objectives import (
    gaussian_entropy,
    gaussian_logprob,
    generalised_advantages,
    ppo_loss,
)
from headstart.rollout import Interaction, run_episodes
from headstart.seeds import environment_seeds
from headstart.suites import registry
from headstart.types import Task

FRAME_STACK = 2
"""Two frames, because the observations have no velocities."""
VALUE_COEF = 0.5
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Settings of reinforcement learning from scratch."""

    task: str = "metaworld/door-unlock"
    """The task to learn, ``suite/name``."""
    seed: int = 0
    """Sets the initial weights, the exploration and every environment."""
    env_steps: int = 1_000_000
    """Training stops after so many environment steps (evaluation not counted)."""
    stop_at_success: float = 0.9
    """Training stops when two evaluations in a row reach this success rate."""
    eval_every_steps: int = 20_000
    """Training steps between evaluations."""
    eval_episodes: int = 50
    """Episodes an evaluation has."""
    max_episode_steps: int = 300
    """Steps after which an episode, in training or evaluation, is truncated."""
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
    tracker: str = free("tensorboard")
    """Where metrics go beside JSON lines: tensorboard, none, trackio or wandb."""


@dataclass
class Rollout:
    """What S steps in each of E environments brought: tensors on the CPU."""

    history: Tensor  # (S, E, F, O) float32, what was decided on
    next_history: Tensor  # (S, E, F, O) float32; at an episode's end: with its final observation
    action: Tensor  # (S, E, A) float32
    offset: Tensor  # (S, E, A) float32, what the noise carried over from the step before
    logprob: Tensor  # (S, E) float32, as the rest
    value: Tensor
    reward: Tensor
    terminated: Tensor  # (S, E) bool, as the rest
    truncated: Tensor
    success: Tensor


def collect(interaction: Interaction, num_steps: int) -> Rollout:
    """Step every environment ``num_steps`` times, restarting episodes that end."""
    env_ids = np.arange(interaction.env.num_envs, dtype=np.int32)
    columns: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(Rollout)}
    for _ in range(num_steps):
        transition = interaction.step(env_ids)
        decision, result = transition.decision, transition.result
        history = decision.extras["history"]
        next_history = np.concatenate([history[:, 1:], result.obs[:, None]], axis=1)
        row = decision.extras | {"next_history": next_history, "action": decision.action}
        for name, column in columns.items():
            column.append(row[name] if name in row else getattr(result, name))
        interaction.reset(env_ids[result.terminated | result.truncated])
    return Rollout(**{name: torch.from_numpy(np.stack(rows)) for name, rows in columns.items()})


class Learner:
    """A model and what improves it: the optimiser and the random numbers."""

    def __init__(self, config: ReinforceConfig, task: Task) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
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

    def policy(self, num_envs: int, explore: bool) -> ActorCriticPolicy:
        """Acts with the model as it is at the time: with noise to learn, without to be judged."""
        generator = self.generator if explore else None
        return ActorCriticPolicy(self.model, num_envs, generator, self.config.noise_correlation)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Improve the model on a rollout, then take the rollout into the normalisation.

        Returns:
            Metrics, and ``flops``: floating-point operations of acting and learning.

        Raises:
            ValueError: the weights are no longer finite.
        """
        history_BFO = rollout.history.flatten(0, 1)
        advantage_SE, returns_SE = self._advantages(rollout)
        batch = {
            "x_BD": self.model.normalise(history_BFO),
            "action_BA": (rollout.action - rollout.offset).flatten(0, 1),
            "logprob_B": rollout.logprob.flatten(),
            "advantage_B": _standardised(advantage_SE.flatten()),
            "returns_B": returns_SE.flatten(),
        }
        losses: list[Tensor] = []
        epochs, approx_kl = 0, 0.0
        while epochs < self.config.update_epochs and approx_kl < self.config.max_kl:
            losses += self._epoch(batch)
            approx_kl = losses[-1][3].item()
            epochs += 1
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise ValueError(f"{self.config.task}: learning diverged; lower learning_rate")
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
            - ((returns_SE - rollout.value).var() / returns_SE.var()).item(),
            "charts/update_epochs": epochs,
            # a forward pass is 2 operations a weight; forward and backward 6
            "flops": (2 * 2 + 6 * epochs) * num_weights * len(history_BFO),
        }

    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        config = self.config
        scaled_SE = self._scaled_reward(rollout)
        with torch.no_grad():
            next_value_B = self.model.value(rollout.next_history.flatten(0, 1))
        return generalised_advantages(
            scaled_SE,
            rollout.value,
            next_value_B.view_as(scaled_SE),
            rollout.terminated,
            rollout.truncated,
            config.gamma,
            config.gae_lambda,
        )

    def _scaled_reward(self, rollout: Rollout) -> Tensor:
        """Rewards in deviations of the discounted return, over all that was seen so far."""
        ended_SE = rollout.terminated | rollout.truncated
        return_E, returns = torch.zeros_like(rollout.reward[0]), []
        for reward_E, ended_E in zip(rollout.reward, ended_SE, strict=True):
            # G_s = gamma (1 - ended_{s-1}) G_{s-1} + r_s
            return_E = self.config.gamma * return_E + reward_E
            returns.append(return_E)
            return_E = return_E * ~ended_E
        self.model.discounted_return.update(torch.cat(returns)[:, None])
        return rollout.reward / self.model.discounted_return.deviation()

    def _epoch(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """One pass in random order; the parts of each minibatch's loss (see PPOLoss)."""
        config, model = self.config, self.model
        parts = []
        order_B = torch.randperm(len(batch["x_BD"]), generator=self.generator)
        for rows in order_B.chunk(config.num_minibatches):
            x_BD, action_BA, old_logprob_B, advantage_B, returns_B = (
                column[rows] for column in batch.values()
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
        """All that learning goes on from."""
        model = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        optimizer = optimizer_tensors(self.optimizer, "optimizer")
        return model | optimizer | {"generator": self.generator.get_state()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(model)
        load_optimizer(self.optimizer, tensors, "optimizer")
        self.generator.set_state(tensors["generator"])


def _standardised(x_B: Tensor) -> Tensor:
    return (x_B - x_B.mean()) / (x_B.std() + 1e-8)


@dataclass(frozen=True)
class Progress:
    """How far a run has come, as its checkpoint says."""

    rounds: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    """Of training alone, without evaluation, and without work that an interruption undid."""

    @property
    def env_steps(self) -> int:
        return self.cost.env_steps or 0

    def reached(self, success_rate: float) -> bool:
        """Whether the last two evaluations had this success rate."""
        last = [point["success_rate"] for point in self.curve[-2:]]
        return len(last) == 2 and min(last) >= success_rate


def reinforce(config: ReinforceConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Learn a task from its reward alone, from random weights, by PPO.

    Writes an artifact: ``model.safetensors``, ``checkpoint.safetensors`` and the usual files.
    It may be stopped at any time and resumed from its last checkpoint; on a CPU the resumed run
    ends with the same weights and success rates, bit for bit, as one that was never stopped.

    Args:
        out: the artifact's folder.
        resume: go on with the run in ``out``, if there is one; a complete one is only read.

    Returns:
        What ``result.json`` holds. ``curve`` has a point per evaluation: training cost so far
        (``env_steps``, ``core_s``, ``flops``, ``wall_s``; evaluation not counted) and the greedy
        policy's ``success_rate`` over ``episodes``: success at any step of an episode.

    Raises:
        ValueError: no such task; ``out`` holds something else; learning diverged.
    """
    task = registry.get_task(config.task)
    artifact = Artifact.create(out, "reinforce", config, resume, config.tracker)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    learner = Learner(config, task)
    progress = _load_checkpoint(out, learner)
    artifact.truncate_metrics(progress.env_steps)
    bar = tqdm(total=config.env_steps, initial=progress.env_steps, unit="step", desc=config.task)
    with bar, _one_thread(), Meter(spent_so_far(out)) as meter:
        try:
            while progress.env_steps < config.env_steps and not progress.reached(
                config.stop_at_success
            ):
                progress = _round(learner, task, artifact, progress, meter, bar)
                save_training(out / "checkpoint.safetensors", learner.tensors(), progress)
                write_unfinished_bill(out, "reinforce", meter.cost())
            result = {
                "arm": "scratch_reinforce",
                "task": config.task,
                "seed": config.seed,
                "reached": progress.reached(config.stop_at_success),
                "curve": progress.curve,
            }
            write_bytes(out / "model.safetensors", save(learner.model.state_dict()))
            write_card(out, f"{config.task}, learned from reward", _card(config, progress))
            artifact.write_result(result)
        finally:  # what an interrupted run has spent is spent
            write_unfinished_bill(out, "reinforce", meter.cost())
    settle(out)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are small: a second thread waits more than it works, and slows the simulator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _round(
    learner: Learner, task: Task, artifact: Artifact, progress: Progress, meter: Meter, bar: tqdm
) -> Progress:
    """Train for ``eval_every_steps``, then evaluate."""
    config = learner.config
    with Meter(progress.cost) as training:
        env = registry.make(
            task,
            _seeds(config, task, "reinforcement", progress.rounds, config.num_envs),
            config.max_episode_steps,
        )
        interaction = Interaction(env, learner.policy(config.num_envs, explore=True))
        interaction.reset(np.arange(config.num_envs, dtype=np.int32))
        while interaction.env_steps < config.eval_every_steps:
            before = interaction.env_steps
            metrics = _improve(learner, interaction)
            for m in (training, meter):
                m.count_env_steps("reinforce", interaction.env_steps - before)
                m.count_flops(metrics["flops"])
            bar.update(interaction.env_steps - before)
            cost = training.cost()
            metrics |= {"step": cost.env_steps, "charts/core_s": cost.core_s}
            artifact.log(metrics)
        env.close()
        del interaction, env  # frees the simulator's memory before evaluation takes its own
    success = _evaluate(learner, task, progress.rounds, meter)
    cost = training.cost()
    point = {
        "env_steps": cost.env_steps,
        "core_s": cost.core_s,
        "flops": cost.flops,
        "wall_s": cost.wall_s,
        "success_rate": float(success.mean()),
        "episodes": len(success),
    }
    artifact.log({"step": cost.env_steps, "eval/success_rate": point["success_rate"]})
    bar.set_postfix(success=f"{success.mean():.2f}")
    return Progress(progress.rounds + 1, [*progress.curve, point], cost)


def _improve(learner: Learner, interaction: Interaction) -> dict[str, float]:
    """Collect one rollout and learn from it."""
    rollout = collect(interaction, learner.config.num_steps)
    return learner.update(rollout) | {
        "train/reward": rollout.reward.mean().item(),
        "train/success": rollout.success.any(0).float().mean().item(),
        "train/action_std": learner.model.log_std_A.exp().mean().item(),
    }


def _evaluate(learner: Learner, task: Task, index: int, meter: Meter) -> np.ndarray:
    """Success (n,) bool of greedy episodes, each in an environment of its own, n as configured."""
    config = learner.config
    seeds = _seeds(config, task, "evaluation", index, config.eval_episodes)
    env = registry.make(task, seeds, config.max_episode_steps)
    interaction = Interaction(env, learner.policy(config.eval_episodes, explore=False))
    episodes = run_episodes(interaction, config.max_episode_steps)
    try:
        return np.array([episode.success.any() for _, episode in episodes])
    finally:
        meter.count_env_steps("evaluate", interaction.env_steps)
        env.close()


def _seeds(config: ReinforceConfig, task: Task, purpose: str, index: int, n: int) -> list[int]:
    """Seeds of the ``index``-th n environments of a purpose. After 10,000 they come around."""
    start = index % (10_000 // n) * n
    return environment_seeds(purpose, config.seed, registry.task_index(task), n, start)


def _card(config: ReinforceConfig, progress: Progress) -> list[str]:
    last = progress.curve[-1]
    return [
        "- PPO from random weights on the task's own reward, no demonstration, seed"
        f" {config.seed}.",
        f"- Success at any of {config.max_episode_steps} steps, acting greedily:"
        f" {last['success_rate']:.0%} of {last['episodes']} episodes at the end.",
        f"- Cost: {last['env_steps']} simulator steps of training, {last['core_s']:.0f}"
        " core-seconds; with evaluation in `ledger.json`.",
        "- `model.safetensors` holds the weights, `config.json` the settings.",
    ]


def _load_checkpoint(out: Path, learner: Learner) -> Progress:
    """Put the last checkpoint's state into the learner; without one, a run's beginning."""
    saved = load_training(out / "checkpoint.safetensors")
    if saved is None:
        return Progress()
    learner.load_tensors(saved[0])
    return from_json(Progress, saved[1])
