"""The one interaction loop. Collecting, evaluating, fine-tuning and reinforcing all step here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headstart.behaviors.base import Actor, Decision
from headstart.suites.base import StepResult, VecEnv
from headstart.types import Episode


@dataclass
class Transition:
    """One step of n environments."""

    env_ids: np.ndarray  # (n,)
    obs: np.ndarray  # (n, O) what was seen before acting
    decision: Decision
    result: StepResult


class Interaction:
    """An actor in an environment: who is where, and how many steps it took."""

    def __init__(self, env: VecEnv, actor: Actor) -> None:
        self.env = env
        self.actor = actor
        self.env_steps = 0
        self.obs = np.zeros((env.num_envs, len(env.task.obs_channels)), dtype=np.float32)

    def reset(self, env_ids: np.ndarray) -> None:
        """Start new episodes in these environments."""
        if len(env_ids):
            self.obs[env_ids] = self.env.reset(env_ids)
            self.actor.reset(env_ids)

    def step(self, env_ids: np.ndarray) -> Transition:
        """Act once in these environments."""
        obs = self.obs[env_ids]
        decision = self.actor.act(obs, env_ids)
        result = self.env.step(decision.action, env_ids)
        self.obs[env_ids] = result.obs
        self.env_steps += len(env_ids)
        return Transition(env_ids, obs, decision, result)


class _Recording:
    """The transitions of one running episode."""

    def __init__(self) -> None:
        self.obs: list[np.ndarray] = []
        self.action: list[np.ndarray] = []
        self.label: list[np.ndarray] = []
        self.reward: list[float] = []
        self.success: list[bool] = []

    def append(self, transition: Transition, row: int) -> None:
        self.obs.append(transition.obs[row])
        self.action.append(np.clip(transition.decision.action[row], -1.0, 1.0))
        if transition.decision.label is not None:
            self.label.append(transition.decision.label[row])
        self.reward.append(float(transition.result.reward[row]))
        self.success.append(bool(transition.result.success[row]))

    def steps_since_success(self) -> int:
        """Steps taken after the first success; -1 before it."""
        return len(self.success) - 1 - self.success.index(True) if any(self.success) else -1

    def episode(self, env: VecEnv, env_id: int, actor: str, result: StepResult, row: int) -> Episode:
        terminated = bool(result.terminated[row])
        return Episode(
            task_id=env.task.id,
            instruction=env.task.instruction,
            obs=np.asarray(self.obs, dtype=np.float32),
            action=np.asarray(self.action, dtype=np.float32),
            reward=np.asarray(self.reward, dtype=np.float32),
            success=np.asarray(self.success, dtype=bool),
            final_obs=result.obs[row],
            terminated=terminated,
            truncated=not terminated,
            seed=env.seeds[env_id],
            behavior=actor,
            action_expert=np.asarray(self.label, dtype=np.float32) if self.label else None,
        )


def run_episodes(
    interaction: Interaction,
    episodes_per_env: int = 1,
    max_steps: int = 500,
    steps_after_success: int | None = 0,
) -> Iterator[Episode]:
    """Run episodes in every environment and yield each as it ends.

    An environment that has had its episodes is stepped no more. The order of the episodes is
    set by the seeds alone.

    Args:
        max_steps: an episode is truncated after so many steps.
        steps_after_success: truncate so many steps after the first success; None: never.
    """
    env, actor = interaction.env, interaction.actor
    left = np.full(env.num_envs, episodes_per_env)
    active = np.arange(env.num_envs, dtype=np.int32)
    recordings = {int(i): _Recording() for i in active}
    interaction.reset(active)
    while len(active):
        transition = interaction.step(active)
        ended = []
        for row, env_id in enumerate(active.tolist()):
            recording = recordings[env_id]
            recording.append(transition, row)
            since = recording.steps_since_success()
            stop = (
                transition.result.terminated[row]
                or transition.result.truncated[row]
                or len(recording.action) >= max_steps
                or (steps_after_success is not None and since >= steps_after_success)
            )
            if stop:
                yield recording.episode(env, env_id, actor.name, transition.result, row)
                ended.append(env_id)
                recordings[env_id] = _Recording()
        left[ended] -= 1
        interaction.reset(np.array([i for i in ended if left[i] > 0], dtype=np.int32))
        active = active[left[active] > 0]
