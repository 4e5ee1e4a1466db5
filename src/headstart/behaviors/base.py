"""What it takes to act. Scripted behaviours and trained policies share this contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass
class Decision:
    """What an actor decided for n environments."""

    action: np.ndarray  # (n, A) float32, to be executed
    label: np.ndarray | None = None  # (n, A) float32, the better action, where the actor knows it
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """What a learner needs back, each with n rows, e.g. ``logprob`` and ``value``."""


class Actor(Protocol):
    """Acts in several environments of one task at once."""

    name: str

    def reset(self, env_ids: np.ndarray) -> None:
        """New episodes are about to start in these environments."""
        ...

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        """Decide for obs (n, O), the latest of environments ``env_ids`` (n,)."""
        ...
