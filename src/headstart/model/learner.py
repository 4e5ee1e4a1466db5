"""What improves a sequence model: a batch in, one optimiser step out. Shared by the stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from headstart.config import check_ranges
from headstart.data.loader import Loader, LoaderConfig
from headstart.data.mixture import Mixture
from headstart.data.trajectories import Trajectories
from headstart.model.channels import columns
from headstart.model.checkpoint import (
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
)
from headstart.model.muon import Muon
from headstart.model.transformer import Transformer
from headstart.model.words import encode
from headstart.objectives import TokenLoss, next_token_loss
from headstart.types import TokenBatch

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How weights are improved: Muon on the layers' matrices, AdamW on everything else."""

    matrix_learning_rate: float = 0.02
    """Of Muon (Jordan et al. 2024)."""
    learning_rate: float = 3e-3
    """Of AdamW (embeddings, norms, heads)."""
    weight_decay: float = 0.05
    """Of the layers' matrices."""
    warmup_updates: int = 50
    """In which the rates rise from nothing."""
    change_coef: float = 0.1
    """Weight of the next-observation loss beside the action loss."""
    word_coef: float = 0.05
    """Weight of the next-word loss."""

    def __post_init__(self) -> None:
        none = (0, math.inf)
        check_ranges(self, matrix_learning_rate=none, learning_rate=none, weight_decay=none)
        check_ranges(self, warmup_updates=none, change_coef=none, word_coef=none)


class Learner:
    """A model, its optimisers and its learning-rate schedule.

    Args:
        updates: how many updates there will be; the rate warms up, then falls linearly to zero.
    """

    def __init__(self, model: Transformer, config: LearnerConfig, updates: int) -> None:
        self.model = model
        self.config = config
        self.updates = updates
        self._flops = 0.0
        self._low_precision = has_fast_bfloat16(self.device)
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(
                matrices,
                lr=config.matrix_learning_rate,
                weight_decay=config.weight_decay,
                dtype=torch.bfloat16 if self._low_precision else torch.float32,
            ),
            "adamw": torch.optim.AdamW(
                others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
            ),
        }
        self._rates = {"muon": config.matrix_learning_rate, "adamw": config.learning_rate}

    def step(self, batches: Iterable[TokenBatch], update: int) -> TokenLoss:
        """One update on the mean loss of these batches."""
        batches = list(batches)
        losses = []
        for batch in batches:
            loss = self.loss(batch)
            (loss.total / len(batches)).backward()
            losses.append(loss)
            self._flops += 3 * forward_flops(self.model, batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * self._schedule(update)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return TokenLoss(
            *(torch.stack(parts).detach().mean() for parts in zip(*losses, strict=True))
        )

    def loss(self, batch: TokenBatch) -> TokenLoss:
        """Next-token loss of a batch."""
        model = self.model
        device = self.device
        words, shown, obs, action, label, change = (
            None if x is None else torch.from_numpy(x).to(device)
            for x in (
                batch.words,
                batch.demonstration,
                batch.obs,
                batch.action,
                batch.label,
                batch.change,
            )
        )
        assert obs is not None and action is not None and label is not None and change is not None
        with torch.autocast(device.type, torch.bfloat16, enabled=self._low_precision):
            predicted = model(words, shown, obs, action)
        return next_token_loss(
            predicted.word_BWV,
            words,
            predicted.action_BNSAV,
            model.normalise_action(label),
            predicted.change_BNSOV,
            change / model.change_deviation_O,
            self.config.change_coef,
            self.config.word_coef,
        )

    @property
    def device(self) -> torch.device:
        return self.model.mean_C.device

    def take_flops(self) -> float:
        """Floating-point operations of the steps since this was last asked, analytic."""
        flops, self._flops = self._flops, 0.0
        return flops

    def tensors(self) -> dict[str, Tensor]:
        """All that learning goes on from."""
        tensors = module_tensors(self.model, "model")
        for name, optimizer in self._optimizers.items():
            tensors |= optimizer_tensors(optimizer, name)
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        load_module(self.model, tensors, "model")
        for name, optimizer in self._optimizers.items():
            load_optimizer(optimizer, tensors, name)

    def _schedule(self, update: int) -> float:
        warmup = min(1.0, (update + 1) / max(self.config.warmup_updates, 1))
        return warmup * (1.0 - update / self.updates)


def make_loader(
    data: Trajectories | Mixture, config: LoaderConfig, model: Transformer, seed: int
) -> Loader:
    """A loader of sequences of the lengths, in the words and the columns that a model reads.

    Raises:
        ValueError: the data has a channel that the model does not know.
    """
    size = model.config
    data = Mixture.of(data)
    columns(model.channels, (*data.obs_channels, *data.action_channels))  # are all known
    names = [c.name for c in model.channels]
    words = np.stack([encode(i, model.vocabulary, size.max_words) for i in data.instructions])
    return Loader(
        data,
        config,
        words,
        size.window,
        size.demonstration_steps,
        seed,
        (names[: model.num_obs], names[model.num_obs :]),
    )


def forward_flops(model: Transformer, batch: TokenBatch) -> float:
    """Floating-point operations of one forward pass: 2 a weight and token, and attention's own."""
    B, N, S, _ = batch.obs.shape
    P = 0 if batch.demonstration is None else batch.demonstration.shape[1]
    W = 0 if batch.words is None else batch.words.shape[1]
    T, D = W + P + N * S, model.config.n_embd
    blocks = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    heads = model.action_head.weight.numel() + model.change_head.weight.numel()
    # attention: scores and weighted values, 2 T D operations each a token and layer
    per_token = 2 * blocks + 4 * T * D * model.config.n_layer
    embedding = 2 * model.embed_channels.weight.numel() * (P + N * S)
    return float(B * (T * per_token + 2 * heads * N * S + embedding))


@contextmanager
def one_thread() -> Iterator[None]:
    """Where batches or networks are small, a second thread waits more than it works, and takes a
    core from the simulator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # NumPy's
            yield
    finally:
        torch.set_num_threads(before)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16: on GPUs, and processors with AVX512-BF16
    or AMX (there several times, measured), not on others."""
    if device.type == "cuda":
        return True
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
