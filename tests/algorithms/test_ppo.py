"""PPO: rollouts, bookkeeping, divergence."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from headstart.algorithms.ppo import PPO, PPOConfig, Rollout
from headstart.rollout import Interaction, collect
from headstart.suites import registry

CONFIG = PPOConfig(num_envs=4, num_steps=20, hidden_size=8, update_epochs=2, num_minibatches=2)


def rollout_of(config: PPOConfig, task: str = "tiny/reach", make=registry.make):
    learner = PPO(config, registry.get_task(task), seed=0)
    env = make(learner.task, range(config.num_envs), 15)
    interaction = Interaction(env, learner.explorer(config.num_envs))
    interaction.reset(np.arange(config.num_envs))
    rollout = Rollout.of(collect(interaction, config.num_steps))
    return rollout, interaction, learner


def test_a_rollout_chains_observations_and_restarts_truncated_episodes(tiny):
    rollout, interaction, _ = rollout_of(CONFIG)
    ended = rollout.truncated
    assert torch.equal(ended[:, 0], torch.arange(20) == 14)  # 15 steps an episode
    assert not rollout.terminated.any()
    same = (rollout.next_history[:-1, :, -1] == rollout.history[1:, :, -1]).all(-1)
    assert torch.equal(same, ~ended[:-1])
    restarted = rollout.history[15]
    assert torch.equal(restarted[:, 0], restarted[:, 1])  # a fresh history, nothing from before
    # At the end the next observation is one action away from the last, not a reset.
    moved = (rollout.next_history[14, :, -1] - rollout.history[14, :, -1])[:, :2]
    torch.testing.assert_close(moved, 0.1 * rollout.action[14].clamp(-1, 1))
    assert interaction.env_steps == 80


def test_terminated_episodes_are_not_marked_truncated(tiny):
    rollout, *_ = rollout_of(replace(CONFIG, num_envs=64, num_steps=15), "tiny/reach-once")
    assert rollout.terminated.any()
    assert torch.equal(rollout.terminated, rollout.success)
    assert not (rollout.terminated & rollout.truncated).any()


def test_the_old_logprob_is_the_new_one_until_an_update(tiny):
    rollout, _, learner = rollout_of(replace(CONFIG, update_epochs=1, num_minibatches=1))
    metrics = learner.update(rollout)
    assert metrics["losses/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["losses/clip_fraction"] == 0.0


@pytest.mark.parametrize("when", [{}, {(2, 0): "obs", (2, 5): "obs", (2, 9): "reward"}])
@pytest.mark.parametrize("task", ["tiny/reach", "tiny/reach-once"])
def test_next_values_are_those_of_the_observations_reached(tiny, task, when):
    make = partial(tiny.Diverging, when=when)
    rollout, _, learner = rollout_of(replace(CONFIG, gae_lambda=0.0), task, make)
    rollout.reward[:] = 0.0
    with torch.no_grad():
        value_SE, next_value_SE = (
            learner.model.value(history.flatten(0, 1)).view_as(rollout.reward)
            for history in (rollout.history, rollout.next_history)
        )
    advantage_SE, _ = learner._advantages(rollout, value_SE)
    expected = learner.config.gamma * next_value_SE * ~rollout.terminated - value_SE
    torch.testing.assert_close(advantage_SE, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("max_kl", "epochs"), [(1e-9, 1), (math.inf, CONFIG.update_epochs)])
def test_an_update_makes_one_pass_however_little_the_policy_may_move_and_else_all(
    tiny, max_kl, epochs
):
    rollout, _, learner = rollout_of(replace(CONFIG, max_kl=max_kl))
    assert learner.update(rollout)["charts/update_epochs"] == epochs


def test_learning_that_diverges_stops_at_once(tiny):
    rollout, _, learner = rollout_of(CONFIG)
    rollout.reward[3, 1] = float("inf")
    with pytest.raises(ValueError, match="tiny/reach: learning diverged"):
        learner.update(rollout)


def test_an_environment_that_diverges_leaves_rollouts_whole_and_the_others_as_they_were(tiny):
    spoiled, plain = (
        rollout_of(CONFIG, make=partial(tiny.Diverging, when=when))[0]
        for when in ({(2, 5): "obs", (2, 9): "reward"}, {})
    )
    for name, column in vars(spoiled).items():
        assert column.isfinite().all(), name
        assert torch.equal(column[:, [0, 1, 3]], getattr(plain, name)[:, [0, 1, 3]]), name
    assert spoiled.truncated[:, 2].nonzero().flatten().tolist() == [4, 7]
    began = spoiled.history[[5, 8], 2]
    assert torch.equal(began[:, 0], began[:, 1])  # a fresh history, nothing from before


def test_steps_that_diverged_are_paid_for_and_not_learned_from(tiny):
    learner = PPO(CONFIG, registry.get_task("tiny/reach"), seed=0)
    env = tiny.Diverging(learner.task, range(4), 15, {(2, 5): "obs", (3, 25): "reward"})
    spent = list(learner.improve(env, 100))
    assert [(s.env_steps, s.diverged_episodes) for s in spent] == [(81, 1), (81, 1)]
    assert all(tensor.isfinite().all() for tensor in learner.model.state_dict().values())
    assert learner.model.features.count == 160
