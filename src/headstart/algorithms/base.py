"""What the driver of reinforcement learning asks of an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from headstart.behaviors.base import Actor
from headstart.suites.base import VecEnv
from headstart.types import Task


@dataclass
class Spent:
    """What an improvement took, and what it says of itself."""

    env_steps: int
    flops: float | None
    """Floating-point operations of acting and learning; None where nobody counts them."""
    metrics: dict[str, float]
    diverged_episodes: int = 0


def check_finite(model: nn.Module, task: Task, learner: str) -> None:
    """Raises ValueError if the weights are no longer finite.

    Args:
        learner: what the settings that learning has call it.
    """
    if not all(p.isfinite().all() for p in model.parameters()):
        raise ValueError(f"{task.id}: learning diverged; lower learning_rate of {learner}")


class Algorithm(Protocol):
    """Learns one task from what happens in its environments.

    It is made anew when a run is resumed, and then given the tensors of the last checkpoint, so
    these are all that it may remember from one round to the next.
    """

    def improve(self, env: VecEnv, env_steps: int) -> Iterator[Spent]:
        """Learn from about so many steps; yields after each improvement."""
        ...

    def actor(self, num_envs: int) -> Actor:
        """The policy to be judged, without exploration."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that learning goes on from."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        ...

    def save(self, root: Path) -> None:
        """Write the policy to be judged into the folder."""
        ...
