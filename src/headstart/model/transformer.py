"""The sequence model: words, one demonstration and windows of an episode in; next tokens out.

Shapes: B sequences, T tokens, D model width, H heads, K head width, N windows, S steps a window,
P demonstration steps, W words, C channels, O observation channels, A action channels, V bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.config import check_ranges
from headstart.model.channels import ChannelStatistics
from headstart.model.words import PAD

WORD, DEMONSTRATION, EPISODE = range(3)

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values (B, H, T, K) of an encoded prompt, one pair a layer."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The size of the sequence model."""

    n_layer: int = 4
    n_head: int = 6
    n_embd: int = 192
    num_bins: int = 33
    """Bins of a predicted value; odd, so that one of them is zero."""
    window: int = 2
    """Steps of the episode so far that the model sees."""
    demonstration_steps: int = 32
    """Evenly spaced steps that a demonstration in the prompt is cut down to."""
    max_words: int = 16
    """Words of an instruction; longer ones are cut."""

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges(self, n_layer=some, n_head=some, n_embd=some, window=some)
        check_ranges(self, num_bins=(3, math.inf), demonstration_steps=some, max_words=some)
        if self.n_embd % (2 * self.n_head):
            raise ValueError(
                f"n_embd {self.n_embd} is no multiple of twice n_head {self.n_head}; heads must"
                " have an even, whole width"
            )


class Predictions(NamedTuple):
    """Logits of what comes next."""

    word_BWV: Tensor | None
    """The next word, from each word; None where no instruction was given."""
    action_BNSAV: Tensor
    """The action, per channel, over bins of its normalised value."""
    change_BNSOV: Tensor
    """Given the executed action: the change to the next observation, in its own deviations."""


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys and rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.head_width = config.n_embd // config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: Cache | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        B, T, D = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, 3, self.n_head, self.head_width)
        q_BHTK, k_BHTK, v_BHTK = qkv.float().permute(2, 0, 3, 1, 4).unbind(0)
        q_BHTK = rotate(F.rms_norm(q_BHTK, (self.head_width,)), *rotation)
        k_BHTK = rotate(F.rms_norm(k_BHTK, (self.head_width,)), *rotation)
        own = (k_BHTK, v_BHTK)
        if past is not None:
            k_BHTK = torch.cat([past[0][0], k_BHTK], dim=2)
            v_BHTK = torch.cat([past[0][1], v_BHTK], dim=2)
        # The processor's attention kernel is several times slower in bfloat16 than in float32.
        with torch.autocast(x_BTD.device.type, enabled=False):
            y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=mask)
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, D)), own


class Block(nn.Module):
    """One pre-norm transformer layer. It starts as the identity."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.n_embd, eps=1e-6)
        self.attention = Attention(config)
        self.norm_feedforward = nn.RMSNorm(config.n_embd, eps=1e-6)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: Cache | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y_BTD, own = self.attention(self.norm_attention(x_BTD), rotation, mask, past)
        x_BTD = x_BTD + y_BTD
        hidden = F.gelu(self.up(self.norm_feedforward(x_BTD)), approximate="tanh")
        return x_BTD + self.down(hidden), own


class Transformer(nn.Module):
    """Next-token prediction over words, observations and actions of any robot.

    A step's token is the sum over its channels of two learned rows keyed by the channel's name,
    one for being present and one times the normalised value, then RMSNorm.

    Args:
        channels: what the model knows; observation channels first, then action channels.
        vocabulary: words of the instructions.
    """

    mean_C: Tensor
    deviation_C: Tensor
    change_deviation_O: Tensor
    frequency: Tensor

    def __init__(
        self,
        config: ModelConfig,
        channels: Sequence[ChannelStatistics],
        vocabulary: Sequence[str],
    ) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(channels)
        self.vocabulary = tuple(vocabulary)
        self.trained_on: frozenset[str] = frozenset()
        """Ids of the tasks that it and its prior have learned from; whoever trains it adds some."""
        self.num_actions = sum(c.role == "action" for c in channels)
        self.num_obs = len(channels) - self.num_actions
        D, V = config.n_embd, config.num_bins
        self.register_buffer("mean_C", torch.tensor([c.mean for c in channels]), persistent=False)
        self.register_buffer(
            "deviation_C", torch.tensor([c.deviation for c in channels]), persistent=False
        )
        self.register_buffer(
            "change_deviation_O",
            torch.tensor([c.change_deviation for c in channels][: self.num_obs]),
            persistent=False,
        )
        frequency = 1000.0 ** -(torch.arange(0, D // config.n_head, 2) / (D // config.n_head))
        self.register_buffer("frequency", frequency, persistent=False)
        self.embed_channels = nn.Linear(2 * len(channels), D, bias=False)
        self.embed_words = nn.Embedding(len(vocabulary), D)
        self.embed_segment = nn.Parameter(0.5 * torch.randn(3, D))
        self.norm_in = nn.RMSNorm(D, eps=1e-6)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_out = nn.RMSNorm(D, eps=1e-6)
        self.word_head = nn.Linear(D, len(vocabulary))
        self.action_head = nn.Linear(D, self.num_actions * V)
        self.embed_action = nn.Linear(self.num_actions, D, bias=False)
        self.norm_action = nn.RMSNorm(D, eps=1e-6)
        self.change_head = nn.Linear(D, self.num_obs * V)
        nn.init.normal_(self.embed_channels.weight, std=0.5)

    # ---- values and tokens -------------------------------------------------------------------

    def normalise(self, values_C: Tensor) -> Tensor:
        """Raw values (..., C) of all channels to normalised ones; NaN stays NaN."""
        return (values_C - self.mean_C) / self.deviation_C

    def normalise_action(self, action_A: Tensor) -> Tensor:
        """Raw actions (..., A) to [-1, 1]."""
        return (action_A - self.mean_C[self.num_obs :]) / self.deviation_C[self.num_obs :]

    def denormalise_action(self, action_A: Tensor) -> Tensor:
        return action_A * self.deviation_C[self.num_obs :] + self.mean_C[self.num_obs :]

    def _embed_steps(self, values_C: Tensor, segment: int) -> Tensor:
        """Raw values (..., C), NaN where missing, to tokens (..., D)."""
        present_C = (~values_C.isnan()).float()
        value_C = self.normalise(values_C).nan_to_num(0.0)
        x_D = self.embed_channels(torch.cat([value_C, present_C], dim=-1))
        return self.norm_in(x_D + self.embed_segment[segment])

    def _embed_prompt(
        self, words_BW: Tensor | None, demonstration_BPC: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """Tokens of the cues given, their positions, and which of them are there (B, T) or None."""
        tokens, positions, there = [], [], None
        device = self.mean_C.device
        if words_BW is not None:
            tokens.append(self.norm_in(self.embed_words(words_BW) + self.embed_segment[WORD]))
            positions.append(torch.arange(words_BW.shape[1], device=device))
            there = words_BW != PAD
        if demonstration_BPC is not None:
            tokens.append(self._embed_steps(demonstration_BPC, DEMONSTRATION))
            P = demonstration_BPC.shape[1]
            positions.append(self.config.max_words + torch.arange(P, device=device))
            if there is not None:
                there = F.pad(there, (0, P), value=True)
        return tokens, positions, there

    def _rotation(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        angle = positions_T.float()[:, None] * self.frequency
        return angle.cos(), angle.sin()

    def _episode_positions(self, num_steps: int) -> Tensor:
        first = self.config.max_words + self.config.demonstration_steps
        return first + torch.arange(num_steps, device=self.mean_C.device)

    # ---- training ----------------------------------------------------------------------------

    def forward(
        self,
        words_BW: Tensor | None,
        demonstration_BPC: Tensor | None,
        obs_BNSO: Tensor,
        action_BNSA: Tensor,
    ) -> Predictions:
        """All predictions of a batch, in raw units in, logits out (see types.TokenBatch)."""
        B, N, S, _ = obs_BNSO.shape
        tokens, positions, there = self._embed_prompt(words_BW, demonstration_BPC)
        W = 0 if words_BW is None else words_BW.shape[1]
        P = 0 if demonstration_BPC is None else demonstration_BPC.shape[1]
        # The action is what is to be predicted, so in the episode's tokens it is missing.
        hidden = torch.full_like(action_BNSA, torch.nan)
        episode = self._embed_steps(torch.cat([obs_BNSO, hidden], dim=-1), EPISODE)
        x_BTD = torch.cat([*tokens, episode.view(B, N * S, -1)], dim=1)
        rotation = self._rotation(torch.cat([*positions, self._episode_positions(S).repeat(N)]))
        mask = attention_mask(W, P, N, S, there, x_BTD.device)
        for block in self.blocks:
            x_BTD, _ = block(x_BTD, rotation, mask, None)
        x_BTD = self.norm_out(x_BTD)
        h_BNSD = x_BTD[:, W + P :].view(B, N, S, -1)
        V = self.config.num_bins
        done_BNSA = self.normalise_action(action_BNSA).nan_to_num(0.0)  # a missing channel adds 0
        acted = self.norm_action(h_BNSD + self.embed_action(done_BNSA))
        return Predictions(
            word_BWV=self.word_head(x_BTD[:, :W]) if W else None,
            action_BNSAV=self.action_head(h_BNSD).view(B, N, S, self.num_actions, V),
            change_BNSOV=self.change_head(acted).view(B, N, S, self.num_obs, V),
        )

    # ---- acting ------------------------------------------------------------------------------

    def encode_prompt(self, words_BW: Tensor | None, demonstration_BPC: Tensor | None) -> Cache:
        """Keys and values of a prompt, computed once and reused at every step. B prompts of one
        length: no padding among the words. Empty without any cue."""
        tokens, positions, there = self._embed_prompt(words_BW, demonstration_BPC)
        if not tokens:
            return []
        assert there is None or bool(there.all()), "a prompt's words must not be padded"
        W = 0 if words_BW is None else words_BW.shape[1]
        P = 0 if demonstration_BPC is None else demonstration_BPC.shape[1]
        x_BTD = torch.cat(tokens, dim=1)
        rotation = self._rotation(torch.cat(positions))
        mask = attention_mask(W, P, 0, 0, None, x_BTD.device)
        cache: Cache = []
        for block in self.blocks:
            x_BTD, own = block(x_BTD, rotation, mask, None)
            cache.append(own)
        return cache

    def action_logits(self, prompt: Cache, obs_BSO: Tensor) -> Tensor:
        """Logits (B, A, V) of the action after a window of raw observations, oldest first."""
        B, S, _ = obs_BSO.shape
        hidden = obs_BSO.new_full((B, S, self.num_actions), torch.nan)
        x_BTD = self._embed_steps(torch.cat([obs_BSO, hidden], dim=-1), EPISODE)
        T = prompt[0][0].shape[2] if prompt else 0
        mask = attention_mask(T, 0, 1, S, None, x_BTD.device)[..., T:, :]
        rotation = self._rotation(self._episode_positions(S))
        for index, block in enumerate(self.blocks):
            past = [prompt[index]] if prompt else None
            x_BTD, _ = block(x_BTD, rotation, mask, past)
        h_BD = self.norm_out(x_BTD[:, -1])
        return self.action_head(h_BD).view(B, self.num_actions, self.config.num_bins)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def build_transformer(
    config: ModelConfig,
    channels: Sequence[ChannelStatistics],
    vocabulary: Sequence[str],
    seed: int,
) -> Transformer:
    """A model with random weights set by the seed alone; torch's own generator stays untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config, channels, vocabulary)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves convention."""
    a, b = x_BHTK.chunk(2, dim=-1)
    return torch.cat([a * cos_TK - b * sin_TK, a * sin_TK + b * cos_TK], dim=-1)


def attention_mask(
    W: int, P: int, N: int, S: int, there_BT: Tensor | None, device: torch.device
) -> Tensor:
    """Additive mask, (1, 1, T, T) or (B, 1, T, T): 0 where a row may look, -inf where not.

    Words look back; demonstration steps look at the words and at one another; a window's steps
    look at the whole prompt and back in their own window. With W = 2, P = 2, N = 2, S = 2::

              w w d d 1 1 2 2
        w     x
        w     x x
        d     x x x x
        d     x x x x
        1     x x x x x
        1     x x x x x x
        2     x x x x     x
        2     x x x x     x x

    Args:
        there_BT: which prompt tokens are there, (B, W + P); None: all.
    """
    T = W + P + N * S
    sees = torch.zeros(T, T, dtype=torch.bool, device=device)
    sees[:W, :W] = torch.ones(W, W, device=device).tril().bool()
    sees[W : W + P, : W + P] = True
    sees[W + P :, : W + P] = True
    if N:
        window = torch.ones(S, S, device=device).tril().bool()
        sees[W + P :, W + P :] = torch.block_diag(*[window] * N).bool()
    sees = sees[None, None]
    if there_BT is not None:
        there_BT = F.pad(there_BT, (0, T - there_BT.shape[1]), value=True)
        # A padding word still sees itself, so that no row is empty.
        itself = torch.eye(T, dtype=torch.bool, device=device)
        sees = (sees & there_BT[:, None, None, :]) | itself
    return torch.zeros(sees.shape, device=device).masked_fill(~sees, -torch.inf)
