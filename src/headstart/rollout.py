"""The one interaction loop. Collecting, evaluating, fine-tuning and reinforcing all step here."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from headstart.behaviors.base import Actor, Decision
from headstart.suites.base import StepResult, VecEnv
from headstart.types import Channel, Episode, EvalResult

MOST_IN_A_ROW = 100
"""Episodes of one environment that diverge one after another; then there is no use in going on."""


@dataclass
class Transition:
    """One step of n environments."""

    env_ids: np.ndarray  # (n,)
    obs: np.ndarray  # (n, O) what was seen before acting
    decision: Decision
    result: StepResult
    diverged: np.ndarray
    """(n,) bool: the step does not count. The episode was truncated by the one before, and
    ``result`` is of that, without its reward and success."""


class Interaction:
    """An actor in an environment: who is where, and how many steps it took.

    Nothing that is not finite gets past here, but for channels that the task does not have: NaN
    in the first observation of every environment.
    """

    def __init__(self, env: VecEnv, actor: Actor) -> None:
        self.env = env
        self.actor = actor
        self.env_steps = 0
        self.abandoned_steps = 0
        """Steps of episodes that a limit cut short and that nobody was given."""
        self.obs = np.zeros((env.num_envs, len(env.task.obs_channels)), dtype=np.float32)
        self.diverged = np.zeros(env.num_envs, dtype=int)
        """Episodes of each environment that ended by divergence; each took one step more."""
        self._in_a_row = np.zeros(env.num_envs, dtype=int)
        self._has_diverged = np.zeros(env.num_envs, dtype=bool)  # and was not reset since
        self._absent = np.ones(self.obs.shape[1], dtype=bool)  # until the first reset tells

    def reset(self, env_ids: np.ndarray) -> None:
        """Start new episodes in these environments.

        Raises:
            ValueError: one begins with an observation that is not finite.
        """
        if not len(env_ids):
            return
        obs = self.env.reset(env_ids)
        if self._absent.all():
            missing = np.isnan(obs).all(0)
            self._absent = missing & ~missing.all()
        known = np.isfinite(obs) | self._absent
        if not known.all():
            row = int(known.all(1).argmin())
            raise ValueError(
                f"{self.env.task.id}: {_first('obs', self.env.task.obs_channels, ~known[row])} is"
                f" not finite right after a reset, seed {self.env.seeds[env_ids[row]]}: the"
                " simulation is broken"
            )
        self.obs[env_ids] = obs
        self._in_a_row[env_ids] *= self._has_diverged[env_ids]
        self._has_diverged[env_ids] = False
        self.actor.reset(env_ids)

    def step(self, env_ids: np.ndarray) -> Transition:
        """Act once in these environments.

        Raises:
            ValueError: the actor gave an action that is not finite, or one environment diverged
                in a hundred episodes in a row.
        """
        obs = self.obs[env_ids]
        decision = self.actor.act(obs, env_ids)
        finite = np.isfinite(decision.action)
        if not _all(finite):
            wrong = np.any(~finite, axis=0)
            raise ValueError(
                f"{self.env.task.id}: {_first('action', self.env.task.action_channels, wrong)} of"
                f" actor '{self.actor.name}' is not finite: its model is damaged, or diverged in"
                " training"
            )
        result = self.env.step(decision.action, env_ids)
        self.env_steps += len(env_ids)
        known = np.isfinite(result.obs)
        known |= self._absent
        diverged = np.zeros(len(env_ids), dtype=bool)
        if not (_all(known) and _all(np.isfinite(result.reward))):
            diverged = ~(known.all(1) & np.isfinite(result.reward))
            self._count(env_ids[diverged], ~known[diverged])
            result = _cut_short(result, diverged, obs)
        self.obs[env_ids] = result.obs
        return Transition(env_ids, obs, decision, result, diverged)

    def _count(self, env_ids: np.ndarray, wrong: np.ndarray) -> None:
        """Note that these environments diverged in channels (n, O) bool; tell it the first time."""
        is_first = not self.diverged.any()
        self.diverged[env_ids] += 1
        self._in_a_row[env_ids] += 1
        self._has_diverged[env_ids] = True
        in_a_row = self._in_a_row[env_ids]
        worst = int(in_a_row.argmax())
        channel = _first("obs", self.env.task.obs_channels, wrong[worst]) or "reward"
        line = (
            f"{self.env.task.id}: {channel} is not finite at step {self.env_steps} of its"
            f" environments, seed {self.env.seeds[env_ids[worst]]}"
        )
        if in_a_row[worst] >= MOST_IN_A_ROW:
            raise ValueError(
                f"{line}: {MOST_IN_A_ROW} episodes in a row diverged; the simulation is broken"
            )
        if is_first:
            tqdm.write(
                f"warning: {line}; the episode ends at the step before. More are only counted.",
                file=sys.stderr,
            )


def _all(flags: np.ndarray) -> bool:
    """``flags.all()`` in a fraction of the time."""
    return np.count_nonzero(flags) == flags.size


def _first(what: str, channels: Sequence[Channel], wrong: np.ndarray) -> str:
    """The first channel that is wrong, (channels,) bool, e.g. ``obs.hand/x``; "" where none is."""
    return next((f"{what}.{c.name}" for c, is_it in zip(channels, wrong, strict=True) if is_it), "")


def _cut_short(result: StepResult, diverged: np.ndarray, obs: np.ndarray) -> StepResult:
    """The result, but episodes that diverged, (n,) bool, are truncated where they were: at obs."""
    return StepResult(
        obs=np.where(diverged[:, None], obs, result.obs),
        reward=np.where(diverged, np.float32(0.0), result.reward),
        terminated=result.terminated & ~diverged,
        truncated=result.truncated | diverged,
        success=result.success & ~diverged,
    )


def collect(interaction: Interaction, num_steps: int) -> dict[str, np.ndarray]:
    """Step all E environments S = ``num_steps`` times, restarting episodes that end.

    Where one diverges it takes as many steps more, so that S of each count. The actor tells the F
    frames that it decides on as ``Decision.extras["history"]``.

    Returns:
        Columns (S, E, ...): all extras, ``action`` (A), ``next_history`` (F, O; at an episode's
        end with its final observation), ``reward``, ``terminated``, ``truncated``, ``success``.
    """
    env_ids = np.arange(interaction.env.num_envs, dtype=np.int32)
    rows = [_row(interaction, env_ids) for _ in range(num_steps)]
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    diverged = columns.pop("diverged")
    if diverged.any():
        _make_up(interaction, columns, diverged)
    frames = [columns["history"][:, :, 1:], columns.pop("obs")[:, :, None]]
    return columns | {"next_history": np.concatenate(frames, axis=2)}


def _row(interaction: Interaction, env_ids: np.ndarray) -> dict[str, np.ndarray]:
    """A step of each of these environments; episodes that end are followed by new ones."""
    transition = interaction.step(env_ids)
    decision, result = transition.decision, transition.result
    interaction.reset(env_ids[result.terminated | result.truncated])
    own = {"action": decision.action, "diverged": transition.diverged}
    return vars(result) | decision.extras | own


def _make_up(
    interaction: Interaction, columns: dict[str, np.ndarray], diverged: np.ndarray
) -> None:
    """Take the steps that diverged, (S, E) bool, out of columns (S, E, ...), add as many others.

    The one before each is truncated, unless it is in an earlier rollout, whose end counts as such.
    """
    truncated, terminated = columns["truncated"], columns["terminated"]
    truncated[:-1] |= diverged[1:] & ~terminated[:-1]
    for e in np.flatnonzero(diverged.any(0)):
        kept = np.flatnonzero(~diverged[:, e])
        for column in columns.values():
            column[: len(kept), e] = column[kept, e]
        s = len(kept)
        while s < len(diverged):
            row = _row(interaction, np.array([e], dtype=np.int32))
            if row["diverged"][0]:
                truncated[s - 1, e] |= s > 0 and not terminated[s - 1, e]
                continue
            for name, column in columns.items():
                column[s, e] = row[name][0]
            s += 1


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
            obs=np.asarray(self.obs, dtype=np.float32).reshape(-1, len(env.task.obs_channels)),
            action=np.asarray(self.action, dtype=np.float32).reshape(
                -1, len(env.task.action_channels)
            ),
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
    alone. An episode that diverges is truncated by the step before, so it may have no steps.

    Args:
        max_steps: an episode is truncated after so many steps.
        steps_after_success: truncate so many steps after the first success; None: never.
        env_steps: begin new episodes as long as all are expected to end within this many steps;
            None: one episode an environment.
        limit: stop for good after so many steps, or the first episode's end if that is later, and
            abandon what is running; None: never.
        num_envs: use only the first so many environments; None: all.
    """
    env, actor = interaction.env, interaction.actor
    active = np.arange(num_envs or env.num_envs, dtype=np.int32)
    recordings = {int(i): _Recording() for i in active}
    ended_steps, num_ended = 0, 0
    interaction.reset(active)
    most = math.inf if limit is None else limit
    while len(active) and (not num_ended or interaction.env_steps + len(active) <= most):
        transition = interaction.step(active)
        ended = []
        for row, env_id in enumerate(active.tolist()):
            recording = recordings[env_id]
            if not transition.diverged[row]:
                recording.append(transition, row)
            since = recording.steps_since_success()
            if (
                transition.result.terminated[row]
                or transition.result.truncated[row]
                or len(recording.action) >= max_steps
                or (steps_after_success is not None and since >= steps_after_success)
            ):
                yield env_id, recording.episode(env, env_id, actor.name, transition.result, row)
                ended_steps += len(recording.action) + int(transition.diverged[row])
                num_ended += 1
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
            diverged_episodes=int(interaction.diverged[first : first + episodes].sum()),
        )
        for prompt, first in enumerate(range(0, num_prompts * episodes, episodes))
        for mine in [played[first : first + episodes]]
    ]
    return results, played
