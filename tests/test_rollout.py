from dataclasses import replace

import numpy as np
import pytest

import tiny_suite
from headstart.behaviors.base import Decision
from headstart.rollout import MOST_IN_A_ROW, Interaction, collect, examine, run_episodes


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


def test_no_limit_is_so_low_that_no_episode_ends(env):
    interaction = Interaction(env, Still())
    ended = list(run_episodes(interaction, 50, env_steps=400, limit=20))
    assert ended and {e.num_steps for _, e in ended} == {50}


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


class Slow(Still):
    """Goes right, half a step at a time, and tells its last observation as its history."""

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        action = np.tile(np.array([0.5, 0.0], np.float32), (len(obs), 1))
        return Decision(action, extras={"history": np.stack([obs, obs], axis=1)})


def diverging(when: dict[tuple[int, int], str], max_steps: int = 50) -> tiny_suite.Diverging:
    """Environments with seeds 3, 4 and 5."""
    return tiny_suite.Diverging(tiny_suite.TASKS["reach"], [3, 4, 5], max_steps, when)


def rollout(
    env: tiny_suite.TinyVecEnv, num_steps: int
) -> tuple[dict[str, np.ndarray], Interaction]:
    interaction = Interaction(env, Slow())
    interaction.reset(np.arange(3))
    return collect(interaction, num_steps), interaction


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_a_step_that_diverges_is_left_out_of_a_rollout(what, capsys):
    columns, interaction = rollout(diverging({(4, 3): what}), 8)
    plain, _ = rollout(diverging({}), 8)
    for name, column in columns.items():
        assert np.isfinite(column).all()
        assert np.array_equal(column[:, [0, 2]], plain[name][:, [0, 2]]), "the others are untouched"
        if name != "truncated":
            assert np.array_equal(column[:3, 1], plain[name][:3, 1]), "nor what was before"
    # Steps 0, 1, 2 and a truncation; then five of the next start, one of them made up for.
    assert np.flatnonzero(columns["truncated"][:, 1]).tolist() == [2]
    assert not columns["terminated"].any() and columns["reward"].shape == (8, 3)
    last, seen = columns["next_history"][2, 1, -1], columns["history"][2, 1, -1]
    np.testing.assert_allclose(last - seen, [0.05, 0, 0, 0], atol=1e-6)
    start = columns["history"][3, 1, -1]
    assert not np.array_equal(start, last)
    np.testing.assert_allclose(columns["history"][7, 1, -1] - start, [0.2, 0, 0, 0], atol=1e-6)
    assert interaction.env_steps == 3 * 8 + 1 and interaction.diverged.tolist() == [0, 1, 0]
    name = {"obs": "obs.point/y", "reward": "reward"}[what]
    assert f"tiny/reach: {name} is not finite at step 12 of its environments, seed 4" in (
        capsys.readouterr().err
    )


def test_a_rollout_is_made_up_though_its_environment_diverges_again_and_again(capsys):
    # seed 3 spoils steps 0, 1 (episodes of no steps) and 4; making up for them 8 and 9
    when = {(3, step): "obs" for step in (0, 1, 4, 8, 9)}
    columns, interaction = rollout(diverging(when, max_steps=3), 6)
    assert all(np.isfinite(column).all() for column in columns.values())
    # kept are steps 2 3 | 5 6 7 | 10, the middle one an episode that lasts to its limit
    assert np.flatnonzero(columns["truncated"][:, 0]).tolist() == [1, 4]
    assert np.flatnonzero(columns["truncated"][:, 1]).tolist() == [2, 5]
    assert interaction.diverged.tolist() == [5, 0, 0]
    assert interaction.env_steps == 3 * 6 + 5
    assert capsys.readouterr().err.count("warning") == 1


def test_the_step_that_diverged_while_making_up_truncates_the_one_before(capsys):
    columns, _ = rollout(diverging({(3, 2): "obs", (3, 5): "obs"}), 5)
    # 0 1 | 3 4 | 6, which was made up for as 5 had diverged
    assert np.flatnonzero(columns["truncated"][:, 0]).tolist() == [1, 3]


def test_an_episode_ends_at_the_step_before_it_diverges(capsys):
    interaction = Interaction(diverging({(4, 3): "obs", (5, 0): "reward"}), Still())
    ended = dict(run_episodes(interaction, max_steps=7, steps_after_success=None))
    plain = dict(run_episodes(Interaction(diverging({}), Still()), 7, steps_after_success=None))
    assert [ended[i].num_steps for i in range(3)] == [7, 3, 0]
    assert all(e.truncated and not e.terminated and not e.success.any() for e in ended.values())
    assert all(np.isfinite(a).all() for e in ended.values() for a in (e.obs, e.final_obs, e.reward))
    assert np.array_equal(ended[1].obs, plain[1].obs[:3])
    assert np.array_equal(ended[1].final_obs, plain[1].obs[3])
    assert np.array_equal(ended[0].obs, plain[0].obs)
    assert ended[2].obs.shape == (0, 4) and ended[2].action.shape == (0, 2)
    assert interaction.env_steps == 7 + 4 + 1 and interaction.diverged.tolist() == [0, 1, 1]


def test_an_episode_that_diverged_is_a_failure_of_its_prompt(capsys):
    when = {(4, 0): "obs"}
    env = tiny_suite.Diverging(tiny_suite.TASKS["reach"], [3, 4, 5, 6], None, when)
    results, _ = examine(Interaction(env, ToGoal()), "arm", 2, 2, 50, seed=0)
    assert [r.success for r in results] == [[True, False], [True, True]]
    assert [r.diverged_episodes for r in results] == [1, 0]


def test_a_simulation_that_always_diverges_is_one_clear_line(capsys):
    with pytest.raises(ValueError, match=r"tiny/reach: obs\.point/y is not finite right after.*5"):
        rollout(diverging({(5, 0): "reset"}), 4)
    always = {(4, step): "obs" for step in range(1000)}
    with pytest.raises(ValueError, match=f"seed 4: {MOST_IN_A_ROW} episodes in a row diverged"):
        rollout(diverging(always), 4)
    most = {(4, step): "obs" for step in range(1000) if step % 3}  # with episodes of one step
    _, interaction = rollout(diverging(most, max_steps=1), 60)
    assert interaction.diverged[1] > MOST_IN_A_ROW


def test_an_action_that_is_not_finite_is_the_actors_fault(env):
    class Broken(Still):
        def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
            action = np.zeros((len(obs), 2), np.float32)
            action[-1, 1] = np.nan
            return Decision(action)

    with pytest.raises(
        ValueError, match=r"tiny/reach: action\.point/dy of actor 'still' is not fi"
    ):
        next(run_episodes(Interaction(env, Broken()), 5))


def test_a_channel_that_the_task_does_not_have_is_no_divergence(env):
    reset, step = env.reset, env.step

    def without(obs: np.ndarray) -> np.ndarray:
        obs[:, 3] = np.nan
        return obs

    env.reset = lambda ids: without(reset(ids))
    env.step = lambda action, ids: replace(r := step(action, ids), obs=without(r.obs))
    interaction = Interaction(env, Still())
    assert [e.num_steps for _, e in run_episodes(interaction, 5, None)] == [5, 5, 5]
    assert not interaction.diverged.any()
