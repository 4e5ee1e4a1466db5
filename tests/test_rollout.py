import numpy as np
import pytest

import tiny_suite
from headstart.behaviors.base import Decision
from headstart.rollout import Interaction, examine, run_episodes


class ToGoal:
    """Walks straight to the goal."""

    name = "to-goal"

    def reset(self, env_ids: np.ndarray) -> None:
        self.last_reset = env_ids

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        action = np.clip(10.0 * (obs[:, 2:] - obs[:, :2]), -1, 1)
        return Decision(action.astype(np.float32), label=np.zeros_like(action))


class Still:
    name = "still"

    def reset(self, env_ids: np.ndarray) -> None: ...

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        return Decision(np.zeros((len(obs), 2), np.float32))


@pytest.fixture
def env() -> tiny_suite.TinyVecEnv:
    return tiny_suite.TinyVecEnv(tiny_suite.TASKS["reach"], seeds=[3, 4, 5])


def test_an_episode_is_a_chain_of_what_was_seen_and_done(env):
    episodes = dict(run_episodes(Interaction(env, ToGoal()), max_steps=50))
    assert sorted(episodes) == [0, 1, 2]
    for episode in episodes.values():
        seen = np.concatenate([episode.obs, episode.final_obs[None]])
        moved = seen[:-1, :2] + 0.1 * episode.action
        np.testing.assert_allclose(seen[1:, :2], moved, atol=1e-6)
        assert episode.success[-1] and not episode.success[:-1].any()
        assert episode.action_expert is not None and not episode.action_expert.any()
        assert (episode.terminated, episode.truncated) == (False, True)


def test_steps_after_success_are_kept(env):
    episodes = [e for _, e in run_episodes(Interaction(env, ToGoal()), 50, steps_after_success=4)]
    assert all(e.success.sum() == 5 for e in episodes)


def test_failed_episodes_last_to_the_limit(env):
    interaction = Interaction(env, Still())
    episodes = [e for _, e in run_episodes(interaction, max_steps=7)]
    lengths = [e.num_steps for e in episodes if not e.success.any()]
    assert lengths and set(lengths) == {7}


def test_a_budget_is_about_used_up_and_a_limit_never_exceeded(env):
    for budget in (100, 200, 500):
        interaction = Interaction(env, ToGoal())
        stored = sum(e.num_steps for _, e in run_episodes(interaction, 50, env_steps=budget))
        assert stored == interaction.env_steps, "nothing is abandoned without a limit"
        assert 0.7 * budget < stored < 1.2 * budget
        interaction = Interaction(env, ToGoal())
        list(run_episodes(interaction, 50, env_steps=budget, limit=budget - 50))
        assert interaction.env_steps <= budget - 50


def test_the_same_seeds_give_the_same_episodes():
    def play() -> list[np.ndarray]:
        env = tiny_suite.TinyVecEnv(tiny_suite.TASKS["reach"], seeds=[3, 4])
        return [e.obs for _, e in run_episodes(Interaction(env, ToGoal()), 50, env_steps=200)]

    first, second = play(), play()
    assert len(first) == len(second)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_examination_tells_prompts_apart():
    env = tiny_suite.TinyVecEnv(tiny_suite.TASKS["reach"], seeds=[3, 4, 3, 4])
    results, episodes = examine(Interaction(env, ToGoal()), "arm", 2, 2, 50, seed=0)
    assert [r.demonstration for r in results] == [0, 1]
    assert [r.episode_seeds for r in results] == [[3, 4], [3, 4]]
    assert results[0].steps == [e.num_steps for e in episodes[:2]] == results[1].steps
    assert all(all(r.success) for r in results)


def test_every_step_is_in_an_episode_or_counted_as_abandoned(env):
    interaction = Interaction(env, Still())
    episodes = [e for _, e in run_episodes(interaction, 50, env_steps=400, limit=220)]
    stored = sum(e.num_steps for e in episodes)
    assert stored == 150  # three of 50; of the next, 69 steps were taken and given to nobody
    assert interaction.env_steps == stored + interaction.abandoned_steps == 219
