"""The replay buffer: the latest transitions, in memory set aside beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from headstart.artifact import check_memory

BYTES_PER_NUMBER = 4
"""Of float32."""


class Replay:
    """A ring of rows (capacity, W) float32; memory is touched only where it is filled.

    Raises:
        ValueError: a full one would need more memory than is free.
    """

    def __init__(self, capacity: int, width: int) -> None:
        check_memory(capacity, "transitions (capacity)", width * BYTES_PER_NUMBER / 2**20)
        self._rows = torch.empty(capacity, width)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._rows))

    def add(self, rows: Tensor) -> None:
        """Keep rows (n, W), in the place of the oldest where it is full."""
        kept = rows[-len(self._rows) :]
        self._added += len(rows)
        places = torch.arange(self._added - len(kept), self._added) % len(self._rows)
        self._rows[places] = kept

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
