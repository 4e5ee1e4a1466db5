"""An expert that is disturbed while it acts, so that its data show how to recover.

What is executed is perturbed; the label stays the expert's own action at the state reached
(DART, Laskey et al. 2017, with bursts next to its Gaussian noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.behaviors.base import Actor, Decision


@dataclass(frozen=True)
class Perturbation:
    """How much an expert is disturbed."""

    noise_std: float = 0.3
    """Deviation of the Gaussian noise added to every action channel in every step."""
    burst_rate: float = 0.01
    """Chance in every step that a burst begins: held random motion in place of the expert's."""
    start_burst_rate: float = 0.5
    """Chance that an episode begins with a burst, so that starts are spread out."""
    burst_steps: tuple[int, int] = (5, 15)
    """Shortest and longest burst, inclusive."""
    flip_rate: float = 0.3
    """Chance that a burst also takes the gripper the other way."""


@dataclass
class _Stream:
    """Randomness of one running episode, and the burst it is in."""

    rng: np.random.Generator
    started: bool = False
    burst_left: int = 0
    motion: np.ndarray | None = None  # (A - 1,) of unit length
    flips: bool = False


class PerturbedExpert:
    """Executes perturbed actions; ``Decision.label`` is the expert's clean action.

    The last action channel is the gripper's.

    Args:
        expert: whose actions are perturbed.
        seeds: one per environment; the perturbations in environment k depend on it alone.
        perturbation: how much.
    """

    name = "perturbed-expert"

    def __init__(
        self, expert: Actor, seeds: Sequence[int], perturbation: Perturbation | None = None
    ) -> None:
        self.expert = expert
        self.perturbation = perturbation or Perturbation()
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._streams: dict[int, _Stream] = {}

    def reset(self, env_ids: np.ndarray) -> None:
        self.expert.reset(env_ids)
        for i in env_ids.tolist():
            (rng,) = self._rngs[i].spawn(1)
            self._streams[i] = _Stream(rng)

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        decision = self.expert.act(obs, env_ids)
        clean = decision.action
        action = np.stack(
            [self._perturb(clean[row], self._streams[i]) for row, i in enumerate(env_ids.tolist())]
        )
        return Decision(action, label=clean, extras=decision.extras)

    def _perturb(self, clean: np.ndarray, stream: _Stream) -> np.ndarray:
        """One clean action (A,) to the one executed (A,) float32."""
        settings, rng = self.perturbation, stream.rng
        rate = settings.burst_rate if stream.started else settings.start_burst_rate
        stream.started = True
        if stream.burst_left == 0 and rng.random() < rate:
            shortest, longest = settings.burst_steps
            stream.burst_left = int(rng.integers(shortest, longest + 1))
            motion = rng.normal(size=len(clean) - 1)
            stream.motion = motion / np.linalg.norm(motion)
            stream.flips = bool(rng.random() < settings.flip_rate)
        action = clean.astype(np.float64)
        if stream.burst_left > 0:
            stream.burst_left -= 1
            action[:-1] = stream.motion
            action[-1] *= -1.0 if stream.flips else 1.0
        action += rng.normal(scale=settings.noise_std, size=len(action))
        return np.clip(action, -1.0, 1.0).astype(np.float32)
