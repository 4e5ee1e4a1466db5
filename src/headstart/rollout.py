"""The one interaction loop. Collecting, evaluating, fine-tuning and reinforcing all step here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headstart.behaviors.base import Actor, Decision
from headstart.suites.base import StepResult, VecEnv
from headstart.types import Episode, EvalResult


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
        self.abandoned_steps = 0
        """Steps of episodes that a limit cut short and that nobody was given."""
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


def collect(interaction: Interaction, num_steps: int) -> dict[str, np.ndarray]:
    """Step all E environments S = ``num_steps`` times, restarting episodes that end.

    The actor tells the F frames that it decides on as ``Decision.extras["history"]``.

    Returns:
        Columns (S, E, ...): all extras, ``action`` (A), ``next_history`` (F, O; at an episode's
        end with its final observation), ``reward``, ``terminated``, ``truncated``, ``success``.
    """
    env_ids = np.arange(interaction.env.num_envs, dtype=np.int32)
    rows: list[dict[str, np.ndarray]] = []
    for _ in range(num_steps):
        transition = interaction.step(env_ids)
        decision, result = transition.decision, transition.result
        rows.append(vars(result) | decision.extras | {"action": decision.action})
        interaction.reset(env_ids[result.terminated | result.truncated])
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    frames = [columns["history"][:, :, 1:], columns.pop("obs")[:, :, None]]
    return columns | {"next_history": np.concatenate(frames, axis=2)}


class _Recording:
    """The transitions of one running episode."""

    def __init__(self) -> None:
        self.obs: list[np.ndarray] = []
        self.action: list[np.ndarray] = []
        self.label: list[np.ndarray] = []
        self.reward: list[float] = []
        self.success: list[bool] = []
        self.first_success: int | None = None

    def append(self, transition: Transition, row: int) -> None:
        self.obs.append(transition.obs[row])
        self.action.append(np.clip(transition.decision.action[row], -1.0, 1.0))
        if transition.decision.label is not None:
            self.label.append(transition.decision.label[row])
        self.reward.append(float(transition.result.reward[row]))
        self.success.append(bool(transition.result.success[row]))
        if self.first_success is None and self.success[-1]:
            self.first_success = len(self.success) - 1

    def steps_since_success(self) -> int:
        """Steps taken after the first success; -1 before it."""
        return -1 if self.first_success is None else len(self.success) - 1 - self.first_success

    def episode(
        self, env: VecEnv, env_id: int, actor: str, result: StepResult, row: int
    ) -> Episode:
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
    max_steps: int,
    steps_after_success: int | None = 0,
    env_steps: int | None = None,
    limit: int | None = None,
    num_envs: int | None = None,
) -> Iterator[tuple[int, Episode]]:
    """Run episodes and yield (environment, episode) as each ends: one in every environment, or
    more within a budget.

    An environment that has had its episodes is stepped no more. What happens is set by the seeds
    alone.

    Args:
        max_steps: an episode is truncated after so many steps.
        steps_after_success: truncate so many steps after the first success; None: never.
        env_steps: begin new episodes as long as all are expected to end within this many steps;
            None: one episode an environment.
        limit: stop for good after so many steps and abandon what is running; None: never.
        num_envs: use only the first so many environments; None: all.
    """
    env, actor = interaction.env, interaction.actor
    active = np.arange(num_envs or env.num_envs, dtype=np.int32)
    recordings = {int(i): _Recording() for i in active}
    ended_steps, num_ended = 0, 0
    interaction.reset(active)
    while len(active) and (limit is None or interaction.env_steps + len(active) <= limit):
        transition = interaction.step(active)
        ended = []
        for row, env_id in enumerate(active.tolist()):
            recording = recordings[env_id]
            recording.append(transition, row)
            since = recording.steps_since_success()
            if (
                transition.result.terminated[row]
                or transition.result.truncated[row]
                or len(recording.action) >= max_steps
                or (steps_after_success is not None and since >= steps_after_success)
            ):
                yield env_id, recording.episode(env, env_id, actor.name, transition.result, row)
                ended_steps, num_ended = ended_steps + len(recording.action), num_ended + 1
                ended.append(env_id)
                recordings[env_id] = _Recording()
        running = active[~np.isin(active, ended)]
        again = np.zeros(0, dtype=np.int32)
        if env_steps is not None and ended:
            mean = ended_steps / num_ended
            # What those running still need; one that is past the mean may need a while yet.
            needed = sum(max(mean - len(recordings[i].action), mean / 4) for i in running.tolist())
            room = int((env_steps - interaction.env_steps - needed) / mean)
            again = np.array(ended[: max(room, 0)], dtype=np.int32)
            interaction.reset(again)
        active = np.sort(np.concatenate([running, again]))
    interaction.abandoned_steps = sum(len(recording.action) for recording in recordings.values())


def examine(
    interaction: Interaction, arm: str, num_prompts: int, episodes: int, max_steps: int, seed: int
) -> tuple[list[EvalResult], list[Episode]]:
    """One episode in each of the first ``num_prompts * episodes`` environments.

    Args:
        arm: what to call the policy.
        episodes: environment i belongs to prompt i // episodes.
        seed: the run's.

    Returns:
        A result a prompt, and the episodes in the order of the environments.
    """
    ended = dict(run_episodes(interaction, max_steps, num_envs=num_prompts * episodes))
    played = [ended[i] for i in range(num_prompts * episodes)]
    results = [
        EvalResult(
            arm,
            interaction.env.task.id,
            prompt,
            seed,
            episode_seeds=[e.seed for e in mine],
            success=[bool(e.success.any()) for e in mine],
            steps=[e.num_steps for e in mine],
        )
        for prompt in range(num_prompts)
        for mine in [played[prompt * episodes : (prompt + 1) * episodes]]
    ]
    return results, played
