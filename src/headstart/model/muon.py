"""Muon in the precision that the processor multiplies fast.

PyTorch's own orthogonalises in bfloat16 wherever it runs. A processor without bfloat16 arithmetic
emulates that: there it takes five times as long as everything else in an update (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iteration brings every singular value near 1 (Jordan et al. 2024)."""


class Muon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al. 2024) with Nesterov momentum, for matrices.

    Args:
        dtype: what products of the orthogonalisation are computed in.
    """

    def __init__(
        self, params: Sequence[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                # m <- mu m + (1 - mu) g; then Nesterov's g + mu (m - g), as a mean
                average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                direction = orthogonalised(weight.grad.lerp(average, momentum), self._dtype)
                tall = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(direction, alpha=-rate * tall)


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix (m, n) with its singular values brought near 1, but for those near 0."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x.to(dtype)
    x = x / x.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        # X <- a X + (b A + c A^2) X, where A = X X'
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
