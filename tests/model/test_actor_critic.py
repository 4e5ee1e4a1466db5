"""The scratch arm's model: normalisation, histories, densities, saving."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from headstart.model.actor_critic import (
    DEVIATION_FLOOR,
    ActorCritic,
    ActorCriticPolicy,
    RunningStatistics,
)


def make_model(seed: int = 0) -> ActorCritic:
    return ActorCritic(
        obs_size=3,
        action_size=2,
        hidden_size=8,
        frame_stack=2,
        initial_std=0.5,
        generator=torch.Generator().manual_seed(seed),
    )


def history(*rows: tuple[list[float], list[float]]) -> torch.Tensor:
    return torch.tensor(rows)


def test_running_statistics_of_batches_are_those_of_all_rows_together():
    rows = torch.from_numpy(np.random.default_rng(0).normal(100.0, 0.1, (50, 4)))
    statistics = RunningStatistics(4)
    for batch in rows.split([1, 9, 25, 15]):
        statistics.update(batch)
    torch.testing.assert_close(statistics.mean, rows.mean(0))
    torch.testing.assert_close(statistics.variance, rows.var(0, correction=0))
    assert statistics.count.item() == 50


def test_deviation_has_a_floor_for_constant_channels():
    statistics = RunningStatistics(1)
    statistics.update(torch.full((10, 1), 7.0))
    assert statistics.deviation().item() == pytest.approx(DEVIATION_FLOOR)


def test_networks_read_the_last_frame_and_its_change_in_deviations():
    model = make_model()
    # Last frames 0 and 2: mean 1, deviation 1. Changes 0 and 4: mean 2, deviation 2.
    model.observe(history(([0.0] * 3, [0.0] * 3), ([-2.0] * 3, [2.0] * 3)))
    x_BD = model.normalise(history(([-2.0, 0.0, 2.0], [2.0, 1.0, 0.0])))
    # last (2, 1, 0) -> (1, 0, -1); change (4, 1, -2) -> (1, -1/2, -2)
    torch.testing.assert_close(x_BD, torch.tensor([[1.0, 0.0, -1.0, 1.0, -0.5, -2.0]]))


def test_missing_observations_count_as_average_and_leave_the_statistics_finite():
    model = make_model()
    nan = float("nan")
    history_BFO = history(([0.0, 1.0, nan], [1.0, 3.0, nan]), ([2.0, 1.0, nan], [5.0, 7.0, nan]))
    model.observe(history_BFO)
    x_BD = model.normalise(history_BFO)
    # columns: last x, y, missing, then the changes of x, y, missing
    expected = [[-1.0, -1.0, 0.0, -1.0, -1.0, 0.0], [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]
    torch.testing.assert_close(x_BD, torch.tensor(expected))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_quick_networks_outputs_and_gradients_are_those_of_pytorch():
    network = make_model().critic
    x_BD = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    quick, slow = network(x_BD), nn.Sequential(*network)(x_BD)
    torch.testing.assert_close(quick, slow, atol=1e-6, rtol=1e-5)
    loss = [(out.squeeze(-1) * x_BD[:, 0]).sum() for out in (quick, slow)]
    gradients = [torch.autograd.grad(part, list(network.parameters())) for part in loss]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


def test_hidden_weights_are_orthogonal_and_the_policy_starts_near_zero():
    model = make_model()
    weight = model.actor[2].weight
    assert isinstance(weight, torch.Tensor)
    torch.testing.assert_close(weight @ weight.T, 2.0 * torch.eye(8))
    mean_BA, value_B = model(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1)))
    assert mean_BA.shape == (5, 2) and value_B.shape == (5,)
    assert mean_BA.abs().max() < 0.05
    torch.testing.assert_close(model.log_std_A.exp(), torch.full((2,), 0.5))


def test_a_new_episode_starts_with_its_first_frame_repeated():
    policy = ActorCriticPolicy(make_model(), num_envs=3)
    every = np.arange(3)
    first, second, third = np.eye(3, dtype=np.float32)
    policy.reset(every)
    policy.act(np.tile(first, (3, 1)), every)
    policy.reset(np.array([1]))
    seen = policy.act(np.tile(second, (2, 1)), np.array([1, 2])).extras["history"]
    np.testing.assert_array_equal(seen, [[second, second], [first, second]])
    seen = policy.act(np.tile(third, (3, 1)), every).extras["history"]
    np.testing.assert_array_equal(seen, [[first, third], [second, third], [second, third]])


def test_sampled_actions_spread_as_the_deviation_says_around_the_model_s_own():
    model = make_model()
    n = 4000
    policy = ActorCriticPolicy(model, n, generator=torch.Generator().manual_seed(0))
    decision = policy.act(np.zeros((n, 3), dtype=np.float32), np.arange(n))
    mean = model(torch.zeros(1, 2, 3))[0].detach().numpy()
    np.testing.assert_allclose(decision.extras["mean"], np.tile(mean, (n, 1)), rtol=1e-5)
    np.testing.assert_allclose((decision.action - mean).std(0), 0.5, rtol=0.05)


def test_exploration_noise_is_correlated_within_an_episode_and_not_across():
    model, n = make_model(), 4000
    policy = ActorCriticPolicy(
        model, n, generator=torch.Generator().manual_seed(0), noise_correlation=0.8
    )
    obs, every = np.zeros((n, 3), dtype=np.float32), np.arange(n)
    mean = model(torch.zeros(1, 2, 3))[0].detach().numpy()
    noise = []
    for _ in range(30):
        decision = policy.act(obs, every)
        noise.append(decision.action - mean)
    # In the long run an autoregressive process has correlation rho and deviation s / (1 - rho^2)^.5
    assert np.corrcoef(noise[-2].ravel(), noise[-1].ravel())[0, 1] == pytest.approx(0.8, abs=0.02)
    assert noise[-1].std() == pytest.approx(0.5 / 0.6, rel=0.03)
    np.testing.assert_allclose(decision.extras["offset"], 0.8 * noise[-2], atol=1e-5)
    policy.reset(every)
    fresh = policy.act(obs, every)
    assert not fresh.extras["offset"].any()


def test_without_a_generator_the_mean_action_is_taken():
    model = make_model()
    obs = np.ones((2, 3), dtype=np.float32)
    decision = ActorCriticPolicy(model, 2).act(obs, np.arange(2))
    mean_BA, _ = model(torch.ones(2, 2, 3))
    np.testing.assert_allclose(decision.action, mean_BA.detach().numpy(), rtol=1e-6)


def test_acting_follows_the_model_as_it_learns_and_as_its_statistics_change():
    model, other = make_model(seed=0), make_model(seed=1)
    policy = ActorCriticPolicy(model, 2)
    obs = np.array([[1.0, float("nan"), 2.0], [3.0, 0.5, -1.0]], dtype=np.float32)
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
            ours.copy_(theirs)
    model.observe(torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(2)))
    decision = policy.act(obs, np.arange(2))
    mean_BA, _ = model(torch.from_numpy(decision.extras["history"]))
    np.testing.assert_allclose(decision.action, mean_BA.detach().numpy(), rtol=1e-6)


def test_saving_keeps_weights_and_normalisation(tmp_path):
    model, other = make_model(seed=0), make_model(seed=1)
    histories_BFO = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(2))
    model.observe(histories_BFO)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for ours, theirs in zip(model(histories_BFO), other(histories_BFO), strict=True):
        assert torch.equal(ours, theirs)
