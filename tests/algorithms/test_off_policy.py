"""The off-policy learner: targets, batches, learning, going on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.algorithms.off_policy import OffPolicy, OffPolicyConfig
from headstart.algorithms.replay import Replay
from headstart.rollout import Interaction, run_episodes
from headstart.suites import registry

CONFIG = OffPolicyConfig(
    num_envs=4, num_steps=20, burst=10, warmup_steps=40, hidden_size=16, batch_size=8
)


def learner_of(config: OffPolicyConfig = CONFIG, shown=(), seed: int = 0) -> OffPolicy:
    return OffPolicy(config, registry.get_task("tiny/reach"), seed, shown)


def improve(learner: OffPolicy, first_seed: int, env_steps: int = 160):
    seeds = range(first_seed, first_seed + learner.config.num_envs)
    return list(learner.improve(registry.make(learner.task, seeds, 15), env_steps))


@pytest.fixture
def demonstrations(tiny):
    env = tiny.make(tiny.TASKS["reach"], seeds=range(100, 103))
    return [e for _, e in run_episodes(Interaction(env, tiny.ToGoal()), 40, 3)]


def test_it_learns_to_reach_a_point(tiny):
    settings = {"num_envs": 8, "num_steps": 25, "burst": 25, "hidden_size": 64, "batch_size": 128}
    learner = learner_of(replace(CONFIG, **settings, updates_per_step=0.25, gamma=0.9))
    for first_seed in range(0, 80, 8):
        improve(learner, first_seed, 1000)
    env = tiny.make(learner.task, range(1000, 1030))
    episodes = [e for _, e in run_episodes(Interaction(env, learner.actor(30)), 25)]
    assert np.mean([e.success.any() for e in episodes]) >= 0.8


def remembered(learner: OffPolicy, terminated: bool, success: bool = False) -> torch.Tensor:
    """The only row of a step from obs 0 to obs 1 that earned 2 and ended its episode."""
    history = np.zeros((1, 1, 2, 4), np.float32)
    after = np.stack([history[..., 0, :], history[..., 1, :] + 1], axis=2)
    columns = {
        "history": history,
        "next_history": after,
        "action": np.full((1, 1, 2), 0.5, np.float32),
        "reward": np.full((1, 1), 2.0, np.float32),
        "terminated": np.full((1, 1), terminated),
        "truncated": np.full((1, 1), not terminated),
        "success": np.full((1, 1), success),
    }
    learner._remember(columns, learner.replay)
    return learner.replay.tensors()["rows"][0]


@pytest.mark.parametrize("terminated", [False, True])
def test_truncation_bootstraps_from_the_final_observation_and_termination_does_not(
    tiny, terminated
):
    learner = learner_of(replace(CONFIG, gamma=0.9))
    row = remembered(learner, terminated)
    assert row[8:10].tolist() == [0.5, 0.5]
    assert row[10:18].tolist() == [1.0] * 8  # the last frame, and the change that led to it
    assert row[18:].tolist() == pytest.approx([2.0, 0.0 if terminated else 0.9])
    with torch.no_grad():  # targets that say 5, a temperature of nothing
        learner.model.targets.flat_NP.zero_()
        learner.model.targets.layers(learner.model.targets.flat_NP)[-1][1].fill_(5.0)
        learner.model.log_temperature.fill_(-100.0)
    target = learner._target(row[18:19], row[19:20], row[None, 10:18])
    assert target.item() == pytest.approx(2.0 if terminated else 2.0 + 0.9 * 5.0)


@pytest.mark.parametrize(("terminated", "worth"), [(True, 20.0), (False, 2.0)])
def test_who_has_succeeded_for_good_has_that_reward_for_ever(tiny, terminated, worth):
    learner = learner_of(replace(CONFIG, gamma=0.9))
    row = remembered(learner, terminated, success=True)
    # 2 / (1 - 0.9), and nothing after it; an episode that goes on earns what it earns
    assert row[18:].tolist() == pytest.approx([worth, 0.0 if terminated else 0.9])
    assert learner.model.highest_reward == 2.0


def test_what_others_played_is_learned_from_and_successes_are_in_every_batch(tiny, demonstrations):
    learner = learner_of()
    failed = replace(demonstrations[0], success=np.zeros_like(demonstrations[0].success))
    for episode in (failed, *demonstrations[1:]):
        learner.remember(episode)
    played, succeeded = demonstrations, demonstrations[1:]
    assert len(learner.replay) == sum(e.num_steps for e in played)
    assert len(learner.shown) == sum(e.num_steps for e in succeeded)
    before = learner.model.critics.flat_NP.clone()
    assert learner.catch_up() == 0.0, "some twenty steps are not a hundred updates"
    assert torch.equal(before, learner.model.critics.flat_NP)
    several = learner_of(replace(CONFIG, updates_per_step=10))
    several.remember(demonstrations[1])
    several.remember(demonstrations[2])
    updates = (10 * len(several.replay)) // 100 * 100
    assert updates and several.catch_up() == several._flops(0, updates)
    assert several._updates == updates


def test_the_target_is_the_minimum_over_a_random_subset_of_critics(tiny):
    learner = learner_of(replace(CONFIG, num_critics=3, num_minimum=2))
    with torch.no_grad():
        learner.model.targets.flat_NP.zero_()
        bias = learner.model.targets.layers(learner.model.targets.flat_NP)[-1][1]
        bias[:, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
        learner.model.log_temperature.fill_(-100.0)
    one, x_BD = torch.ones(1), torch.zeros(1, 8)
    found = [learner._target(0 * one, one, x_BD).item() for _ in range(60)]
    # of the pairs (1, 2), (1, 3), (2, 3) two have the minimum 1 and one has 2; never 3
    assert set(found) == {1.0, 2.0}
    assert 25 <= found.count(1.0) <= 52


@pytest.mark.parametrize(("share", "num_shown"), [(0.5, 4), (0.1, 1), (0.0, 0), (1.0, 7)])
def test_a_share_of_every_batch_is_demonstrations(tiny, demonstrations, share, num_shown):
    learner = learner_of(replace(CONFIG, demonstration_share=share), demonstrations)
    assert len(learner.shown) == sum(e.num_steps for e in demonstrations)
    improve(learner, 0)
    shown = {tuple(row) for row in learner.shown.tensors()["rows"].tolist()}
    for batch in learner._batches(5).tolist():
        assert [tuple(row) in shown for row in batch] == [True] * num_shown + [False] * (
            8 - num_shown
        )


def test_a_demonstrations_rows_are_what_stepping_would_have_given(tiny, demonstrations):
    episode = demonstrations[0]
    rows = learner_of(replace(CONFIG, n_step=1), [episode]).shown.tensors()["rows"].numpy()
    frames = np.concatenate([episode.obs, episode.final_obs[None]])
    np.testing.assert_array_equal(rows[:, :4], frames[:-1])
    np.testing.assert_array_equal(rows[1:, 4:8], np.diff(frames, axis=0)[:-1])
    np.testing.assert_array_equal(rows[:, 8:10], episode.action)
    np.testing.assert_array_equal(rows[:, 10:14], frames[1:])
    np.testing.assert_array_equal(rows[:, 18], episode.reward)
    np.testing.assert_array_equal(rows[:, 19], np.float32(0.99))


def equal(a: OffPolicy, b: OffPolicy) -> bool:
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny):
    first, second, other = learner_of(), learner_of(), learner_of(seed=1)
    for learner in (first, second, other):
        improve(learner, 0)
    assert equal(first, second)
    assert not torch.equal(first.model.actor.flat_NP, other.model.actor.flat_NP)


@pytest.mark.parametrize("shown", [0, 2])
def test_it_goes_on_from_its_tensors_as_if_it_had_not_stopped(tiny, demonstrations, shown):
    config = replace(CONFIG, capacity=200)  # the ring turns in the second round
    whole = learner_of(config, demonstrations[:shown])
    improve(whole, 0)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    improve(whole, 4)
    resumed = learner_of(config, demonstrations[:shown], seed=7)
    resumed.load_tensors(saved)
    improve(resumed, 4)
    assert equal(whole, resumed)


def test_a_full_buffer_forgets_the_oldest():
    replay = Replay(capacity=4, width=1)
    assert len(replay) == 0
    replay.add(torch.tensor([[0.0], [1.0], [2.0]]))
    replay.add(torch.tensor([[3.0], [4.0], [5.0]]))
    assert len(replay) == 4
    assert sorted(replay.tensors()["rows"].flatten().tolist()) == [2.0, 3.0, 4.0, 5.0]


def test_learning_that_diverges_stops_at_once(tiny):
    learner = learner_of()
    learner.model.critics.flat_NP.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="tiny/reach: learning diverged"):
        improve(learner, 0)


def test_a_minimum_over_more_critics_than_there_are_is_told():
    with pytest.raises(ValueError, match="num_minimum is 3; use 1 to 2"):
        replace(CONFIG, num_minimum=3)


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({"num_envs": 1, "burst": 3, "updates_per_step": 0.25, "warmup_steps": 0}, 40),
        ({"updates_per_step": 0.0}, 0),
    ],
)
def test_updates_keep_their_share_of_the_steps_and_the_policy_its_share_of_updates(
    tiny, settings, updates, monkeypatch
):
    calls = []
    improve_actor = OffPolicy._improve_actor
    monkeypatch.setattr(
        OffPolicy, "_improve_actor", lambda *args: calls.append(1) or improve_actor(*args)
    )
    learner = learner_of(replace(CONFIG, **settings))
    improve(learner, 0)
    assert (learner._updates, len(calls)) == (updates, updates // 2)


def test_a_buffer_larger_than_the_memory_is_told(tiny):
    # a row: 8 numbers before, 2 of the action, 8 after, return, discount: 20 float32 are 80 bytes
    with pytest.raises(
        ValueError, match=r"^10{12} transitions \(capacity\) need about 76293945 MB"
    ):
        learner_of(replace(CONFIG, capacity=10**12))


def test_a_buffer_smaller_than_the_warm_up_is_told():
    with pytest.raises(ValueError, match="capacity is 50; use at least 100"):
        OffPolicyConfig(warmup_steps=100, capacity=50)


def test_a_step_that_diverged_is_in_no_buffer_and_no_normalisation(tiny):
    learner = learner_of()
    env = tiny.Diverging(learner.task, range(4), 15, {(0, 0): "reward", (2, 5): "obs"})
    (spent,) = learner.improve(env, 80)
    assert (spent.env_steps, spent.diverged_episodes) == (82, 2)
    assert len(learner.replay) == 80 and learner.model.features.count == 80
    assert learner.replay.tensors()["rows"].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in learner.model.state_dict().values())
