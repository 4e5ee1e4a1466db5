"""Advantages, returns, targets and the PPO loss against numbers worked out by hand."""

import math

import pytest
import torch

from headstart.objectives import (
    gaussian_entropy,
    gaussian_logprob,
    generalised_advantages,
    n_step_returns,
    ppo_loss,
    soft_target,
    squashed_gaussian_logprob,
)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def advantages(terminated: tuple[bool, ...], truncated: tuple[bool, ...]) -> list[float]:
    """Three steps of one environment: r = 1, 2, 3; V = 1, 1, 1; V(next) = 4, 2, 6; both 1/2."""
    advantage_SE, returns_SE = generalised_advantages(
        column(1.0, 2.0, 3.0),
        column(1.0, 1.0, 1.0),
        column(4.0, 2.0, 6.0),
        torch.tensor(terminated)[:, None],
        torch.tensor(truncated)[:, None],
        gamma=0.5,
        gae_lambda=0.5,
    )
    torch.testing.assert_close(returns_SE, advantage_SE + 1.0)
    return advantage_SE[:, 0].tolist()


def test_advantages_of_a_running_episode_sum_the_discounted_errors():
    # deltas: 1 + 2 - 1 = 2, 2 + 1 - 1 = 2, 3 + 3 - 1 = 5; each carries 1/4 of the next advantage
    expected = [2 + 0.25 * 3.25, 2 + 0.25 * 5, 5.0]
    assert advantages((False,) * 3, (False,) * 3) == pytest.approx(expected)


def test_termination_cuts_the_bootstrap_and_the_trace():
    # The second delta loses its bootstrap: 2 - 1 = 1, and nothing comes from the third step.
    assert advantages((False, True, False), (False,) * 3) == pytest.approx([2.25, 1.0, 5.0])


def test_truncation_bootstraps_from_the_final_observation_and_cuts_the_trace():
    assert advantages((False,) * 3, (False, True, False)) == pytest.approx([2.5, 2.0, 5.0])


def test_environments_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    reward_SE, value_SE, next_value_SE = torch.randn(3, 7, 2, generator=generator)
    terminated_SE, truncated_SE = torch.rand(2, 7, 2, generator=generator) < 0.3
    both, _ = generalised_advantages(
        reward_SE, value_SE, next_value_SE, terminated_SE, truncated_SE, 0.9, 0.8
    )
    for e in (0, 1):
        one = slice(e, e + 1)
        alone, _ = generalised_advantages(
            reward_SE[:, one],
            value_SE[:, one],
            next_value_SE[:, one],
            terminated_SE[:, one],
            truncated_SE[:, one],
            0.9,
            0.8,
        )
        torch.testing.assert_close(both[:, one], alone)


def test_gaussian_log_density_and_entropy_match_closed_forms():
    mean_BA, action_BA = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    log_std_A = torch.tensor([math.log(2.0), 0.0])
    # first channel: -1/2 - ln 2 - ln(2 pi)/2; second: -ln(2 pi)/2
    expected = -0.5 - math.log(2.0) - math.log(2 * math.pi)
    assert gaussian_logprob(mean_BA, log_std_A, action_BA).item() == pytest.approx(expected)
    assert gaussian_entropy(log_std_A).item() == pytest.approx(
        math.log(2.0) + math.log(2 * math.pi * math.e)
    )


def test_ppo_loss_clips_only_what_would_move_the_policy_too_far():
    ratio_B = torch.tensor([1.5, 1.5, 0.5, 0.5])
    loss = ppo_loss(
        logprob_B=ratio_B.log(),
        old_logprob_B=torch.zeros(4),
        advantage_B=torch.tensor([1.0, -1.0, 1.0, -1.0]),
        value_B=torch.tensor([0.0, 0.0, 0.0, 2.0]),
        returns_B=torch.zeros(4),
        entropy=torch.tensor(3.0),
        clip_coef=0.2,
        value_coef=0.5,
        entropy_coef=0.1,
    )
    # min(1.5, 1.2), min(-1.5, -1.2), min(0.5, 0.8), min(-0.5, -0.8)
    assert loss.policy.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    assert loss.value.item() == pytest.approx(0.5 * 4 / 4)
    assert loss.total.item() == pytest.approx(0.15 + 0.5 * 0.5 - 0.1 * 3.0)
    assert loss.clip_fraction.item() == 1.0
    # mean of (ratio - 1) is 0; the mean of -log ratio is -(ln 1.5 + ln 0.5) / 2
    assert loss.approx_kl.item() == pytest.approx(-math.log(0.75) / 2)


def test_clipped_transitions_give_the_policy_no_gradient():
    logprob_B = torch.log(torch.tensor([1.5, 1.1])).requires_grad_()
    loss = ppo_loss(
        logprob_B,
        torch.zeros(2),
        torch.ones(2),
        torch.zeros(2),
        torch.zeros(2),
        torch.tensor(0.0),
        clip_coef=0.2,
        value_coef=0.5,
        entropy_coef=0.0,
    )
    loss.total.backward()
    assert logprob_B.grad is not None
    # d(-ratio A / 2) / d logprob = -ratio / 2 where the ratio is inside, else nothing
    assert logprob_B.grad.tolist() == pytest.approx([0.0, -0.55])


def test_n_steps_are_summed_up_to_the_end_of_an_episode_or_of_the_rollout():
    reward_SE = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    never = torch.zeros(5, 1, dtype=torch.bool)
    third = torch.arange(5)[:, None] == 2
    for terminated_SE, truncated_SE in ((third, never), (never, third)):
        returns = n_step_returns(reward_SE, terminated_SE, truncated_SE, gamma=0.5, n=2)
        return_SE, discount_SE, last_SE = (column.flatten().tolist() for column in returns)
        assert return_SE == [2.0, 4.0, 4.0, 16.0, 16.0]
        after = 0.0 if terminated_SE.any() else 1.0
        assert discount_SE == [0.25, 0.25 * after, 0.5 * after, 0.25, 0.5]
        assert last_SE == [1, 2, 2, 4, 4]


def test_the_density_of_a_squashed_gaussian_integrates_to_one():
    # by the midpoint rule over the action, for mean 0.3 and deviation 0.7
    action_B = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 10_000 - 1
    u_BA = torch.atanh(action_B)[:, None]
    log_std_BA = torch.full_like(u_BA, math.log(0.7))
    logprob_B = squashed_gaussian_logprob((u_BA - 0.3) / 0.7, log_std_BA, u_BA)
    assert logprob_B.exp().mean().item() * 2 == pytest.approx(1.0, abs=1e-4)


def test_the_soft_target_is_of_the_least_next_value():
    target_B = soft_target(
        torch.tensor([1.0, 1.0]),
        torch.tensor([0.5, 0.0]),
        torch.tensor([[4.0, 4.0], [2.0, 6.0]]),
        torch.tensor([1.0, 1.0]),
    )
    assert target_B.tolist() == [1.0 + 0.5 * (2.0 + 1.0), 1.0]
