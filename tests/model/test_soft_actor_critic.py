"""The off-policy learner's model: members, units, noise."""

import numpy as np
import torch

from headstart.model.soft_actor_critic import Ensemble, SoftActorCritic, SquashedPolicy


def make_model() -> SoftActorCritic:
    return SoftActorCritic(3, 2, 8, 2, 2, torch.Generator().manual_seed(0))


def test_members_are_evaluated_each_by_itself():
    ensemble = Ensemble(3, [5, 6, 1], 1.0, torch.Generator().manual_seed(0))
    x_BD = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    some = ensemble(x_BD, ensemble.flat_NP[[2, 0]])
    torch.testing.assert_close(some, ensemble(x_BD)[[2, 0]])
    assert not torch.allclose(some[0], some[1])


def test_a_higher_reward_shrinks_what_is_in_its_unit():
    model = make_model()
    x_BD = torch.ones(1, 8)
    model.take_in_rewards(torch.tensor([-2.0, 1.0]))
    value, temperature = model.critics(x_BD), model.log_temperature.exp()
    model.take_in_rewards(torch.tensor([8.0]))
    assert model.highest_reward == 8.0
    torch.testing.assert_close(model.critics(x_BD), value / 4)
    torch.testing.assert_close(model.log_temperature.exp(), temperature / 4)
    model.take_in_rewards(torch.tensor([1.0]))
    torch.testing.assert_close(model.critics(x_BD), value / 4)


def test_noise_is_correlated_in_time_and_has_the_policys_deviation():
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    policy = SquashedPolicy(model, 4000, generator, noise_correlation=0.9)
    env_ids, obs = np.arange(4000), np.zeros((4000, 3), np.float32)
    policy.reset(env_ids)
    first, second = (np.arctanh(policy.act(obs, env_ids).action[:, 0]) for _ in range(2))
    mean_BA, log_std_BA = model.policy(torch.zeros(1, 6))
    for noisy in (first, second):
        np.testing.assert_allclose(noisy.mean(), mean_BA[0, 0].item(), atol=0.08)
        np.testing.assert_allclose(noisy.std(), log_std_BA[0, 0].exp().item(), rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(first, second)[0, 1], 0.9, atol=0.02)


def test_without_a_generator_it_acts_the_same_every_time():
    policy = SquashedPolicy(make_model(), 2)
    obs = np.full((2, 3), np.nan, np.float32)
    policy.reset(np.arange(2))
    first, second = (policy.act(obs, np.arange(2)).action for _ in range(2))
    np.testing.assert_array_equal(first, second)
