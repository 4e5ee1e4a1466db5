"""Losses and advantages: pure functions, with the equation above the line.

Shapes: S rollout steps, E environments, B a minibatch of transitions, A action channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def generalised_advantages(
    reward_SE: Tensor,
    value_SE: Tensor,
    next_value_SE: Tensor,
    terminated_SE: Tensor,
    truncated_SE: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    A terminated episode is worth nothing more, so its last step does not bootstrap. A truncated
    one would have gone on, so its last step bootstraps from its final observation. Neither lets
    the sum run on into the episode that follows.

    Args:
        reward_SE: reward of step s; float32, as the rest.
        value_SE: V of the observation acted on.
        next_value_SE: V of the observation reached; at an episode's end, of its ``final_obs``.
        terminated_SE, truncated_SE: bool, whether step s ended its episode, and how.

    Returns:
        advantage_SE and returns_SE, the value's regression target.
    """
    # delta_s = r_s + gamma (1 - terminated_s) V(o_{s+1}) - V(o_s)
    delta_SE = reward_SE + gamma * next_value_SE * ~terminated_SE - value_SE
    carry_SE = gamma * gae_lambda * ~(terminated_SE | truncated_SE)
    advantage_SE = delta_SE.clone()
    # NumPy's views: a few numbers at a time are quicker there
    advantage, carry = advantage_SE.numpy(), carry_SE.numpy()
    for s in range(len(advantage) - 2, -1, -1):
        # A_s = delta_s + gamma lambda (1 - ended_s) A_{s+1}
        advantage[s] += carry[s] * advantage[s + 1]
    return advantage_SE, advantage_SE + value_SE


def gaussian_logprob(mean_BA: Tensor, log_std_A: Tensor, action_BA: Tensor) -> Tensor:
    """Log-density (B,) of actions under a Gaussian with independent channels."""
    # log N(a; m, s) = -((a - m) / s)^2 / 2 - log s - log(2 pi) / 2, summed over channels
    z_BA = (action_BA - mean_BA) * torch.exp(-log_std_A)
    return (-0.5 * z_BA.square() - log_std_A - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(log_std_A: Tensor) -> Tensor:
    """Entropy (scalar, nats) of a Gaussian with independent channels."""
    # H = sum_a log s_a + log(2 pi e) / 2
    return (log_std_A + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def squashed_gaussian_logprob(noise_BA: Tensor, log_std_BA: Tensor, u_BA: Tensor) -> Tensor:
    """Log-density (B,) of tanh(u) where u = mean + std noise, noise from a unit Gaussian."""
    # log p(tanh u) = log N(noise; 0, 1) - log std - log(1 - tanh^2 u), summed over channels;
    # log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), which does not underflow
    gaussian_BA = -0.5 * noise_BA.square() - log_std_BA - 0.5 * math.log(2 * math.pi)
    return (gaussian_BA - 2.0 * (math.log(2.0) - u_BA - F.softplus(-2.0 * u_BA))).sum(-1)


def n_step_returns(
    reward_SE: Tensor, terminated_SE: Tensor, truncated_SE: Tensor, gamma: float, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What up to n steps bring, and what to bootstrap from after them.

    Fewer than n steps are summed where the episode or the rollout ends before: no step is lost.

    Returns:
        return_SE, the discounted sum of rewards; discount_SE, of the value that is added to it,
        0 where the episode terminated (a truncated one would have gone on); and last_SE, the
        number of the last step summed, whose next observation that value is of.
    """
    ended_SE = terminated_SE | truncated_SE
    return_SE = reward_SE.clone()
    discount_SE = torch.full_like(reward_SE, gamma)
    last_SE = torch.arange(len(reward_SE))[:, None].expand_as(reward_SE).clone()
    running_SE = ~ended_SE
    for k in range(1, min(n, len(reward_SE))):
        # R_s = r_s + gamma r_{s+1} + ... as long as no step before ended the episode
        going_SE = running_SE[:-k]
        return_SE[:-k] += going_SE * gamma**k * reward_SE[k:]
        discount_SE[:-k] *= torch.where(going_SE, gamma, 1.0)
        last_SE[:-k] += going_SE
        running_SE = running_SE.clone()
        running_SE[:-k] &= ~ended_SE[k:]
    return return_SE, discount_SE * ~terminated_SE.gather(0, last_SE), last_SE


def soft_target(
    return_B: Tensor, discount_B: Tensor, next_value_MB: Tensor, entropy_bonus_B: Tensor
) -> Tensor:
    """The critics' regression target (B,), of the minimum over M of them (Chen et al. 2021, REDQ).

    Args:
        return_B: rewards of the steps taken. discount_B: 0 where the episode terminated.
        next_value_MB: what M target critics say of the state reached and the next action.
        entropy_bonus_B: temperature times negative log-density of that action.
    """
    # y = R + gamma^n (min_m Q_m(x', a') - temperature log pi(a' | x'))
    return return_B + discount_B * (next_value_MB.amin(0) + entropy_bonus_B)


class PPOLoss(NamedTuple):
    """The loss to descend and what it was made of (scalars; all but ``total`` detached)."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    approx_kl: Tensor
    """Estimated KL(old || new), nats: the mean of (ratio - 1) - log ratio."""
    clip_fraction: Tensor
    """Share of the transitions whose ratio left [1 - clip_coef, 1 + clip_coef]."""


def ppo_loss(
    logprob_B: Tensor,
    old_logprob_B: Tensor,
    advantage_B: Tensor,
    value_B: Tensor,
    returns_B: Tensor,
    entropy: Tensor,
    clip_coef: float,
    value_coef: float,
    entropy_coef: float,
) -> PPOLoss:
    """Clipped surrogate loss (Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9).

    Args:
        logprob_B, old_logprob_B: log-probability of the executed action, now and when acting.
        advantage_B: normalise it beforehand if wanted.
        value_B, returns_B: the critic's output and its target.
        entropy: scalar, mean entropy of the policy.
    """
    log_ratio_B = logprob_B - old_logprob_B
    ratio_B = log_ratio_B.exp()
    # L_policy = -E[ min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) ]
    clipped_B = ratio_B.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    policy = -torch.min(ratio_B * advantage_B, clipped_B * advantage_B).mean()
    # L_value = E[ (V - R)^2 ] / 2
    value = 0.5 * (value_B - returns_B).square().mean()
    # L = L_policy + c_value L_value - c_entropy H
    total = policy + value_coef * value - entropy_coef * entropy
    with torch.no_grad():
        approx_kl = (ratio_B - 1.0 - log_ratio_B).mean()
        clip_fraction = ((ratio_B - 1.0).abs() > clip_coef).float().mean()
    return PPOLoss(
        total, policy.detach(), value.detach(), entropy.detach(), approx_kl, clip_fraction
    )


def two_hot_cross_entropy(logits_V: Tensor, target: Tensor, limit: float) -> Tensor:
    """Cross-entropy (...) of bins over [-limit, limit] against a two-hot target.

    A value between two bins' centres is split over both by distance, so that the mean of the bins
    is the value itself.

    Args:
        logits_V: (..., V). target: (...) values, cut to the range of the bins.
    """
    V = logits_V.shape[-1]
    # position p = (y + limit) / (2 limit) (V - 1); target = (1 - w) at floor(p), w at floor(p) + 1
    position = (target.clamp(-limit, limit) + limit) * ((V - 1) / (2 * limit))
    below = position.floor().clamp(max=V - 2)
    weight = position - below
    logprob_V = torch.log_softmax(logits_V.float(), dim=-1)
    index = below.long()[..., None]
    low = logprob_V.gather(-1, index)[..., 0]
    high = logprob_V.gather(-1, index + 1)[..., 0]
    return -((1 - weight) * low + weight * high)


def masked_mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean of the values that are there; 0 where none is."""
    return torch.where(there, values, 0.0).sum() / there.sum().clamp(min=1)


class TokenLoss(NamedTuple):
    """The pre-training loss and its parts, nats a token (scalars; all but ``total`` detached)."""

    total: Tensor
    action: Tensor
    change: Tensor
    word: Tensor


CHANGE_LIMIT = 4.0
"""Changes are predicted up to so many of their own deviations."""


def next_token_loss(
    word_BWV: Tensor | None,
    words_BW: Tensor | None,
    action_BNSAV: Tensor,
    label_BNSA: Tensor,
    change_BNSOV: Tensor,
    change_BNSO: Tensor,
    change_coef: float,
    word_coef: float,
) -> TokenLoss:
    """Next-token loss over actions, observations and words. Missing targets (NaN) are masked.

    Args:
        words_BW: word tokens, 0 after the end.
        label_BNSA: normalised actions to imitate.
        change_BNSO: changes to the next observation, in their own deviations.
    """
    known = ~label_BNSA.isnan()
    action = masked_mean(two_hot_cross_entropy(action_BNSAV, label_BNSA.nan_to_num(), 1.0), known)
    known = ~change_BNSO.isnan()
    change = masked_mean(
        two_hot_cross_entropy(change_BNSOV, change_BNSO.nan_to_num(), CHANGE_LIMIT), known
    )
    word = torch.zeros_like(action)
    if word_BWV is not None and words_BW is not None:
        logits = word_BWV[:, :-1].float().flatten(0, 1)
        target = words_BW[:, 1:].flatten()
        word = F.cross_entropy(logits, target, ignore_index=0, reduction="none")
        word = masked_mean(word, target != 0)
    # L = L_action + c_change L_change + c_word L_word
    total = action + change_coef * change + word_coef * word
    return TokenLoss(total, action.detach(), change.detach(), word.detach())
