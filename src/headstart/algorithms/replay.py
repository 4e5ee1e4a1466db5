"""The replay buffer: the latest transitions, in memory set aside beforehand."""

from __future__ import annotations

import torch
from torch import Tensor


class Replay:
    """A ring of rows (capacity, W) float32; memory is touched only where it is filled."""

    def __init__(self, capacity: int, width: int) -> None:
        self._rows = torch.empty(capacity, width)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._rows))

    def add(self, rows: Tensor) -> None:
        """Keep rows (n, W), in the place of the oldest where it is full."""
        places = torch.arange(self._added, self._added + len(rows)) % len(self._rows)
        self._rows[places] = rows
        self._added += len(rows)

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Rows (num, W) drawn with replacement."""
        return self._rows[torch.randint(len(self), (num,), generator=generator)]

    def tensors(self) -> dict[str, Tensor]:
        """What is filled, and how many rows were ever added."""
        return {"rows": self._rows[: len(self)], "added": torch.tensor(self._added)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        self._added = int(tensors["added"])
        self._rows[: len(self)] = tensors["rows"]
