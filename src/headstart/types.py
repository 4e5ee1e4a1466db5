"""The nouns every stage shares. Shapes: T steps, O observation channels, A action channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Role = Literal["observation", "goal", "action", "reward"]


@dataclass(frozen=True)
class Channel:
    """One named scalar stream. Models know a channel by its name, whatever robot it comes from.

    Example: ``Channel("hand/x", "observation", "m")``.
    """

    name: str
    role: Role
    unit: str = ""


@dataclass(frozen=True)
class Camera:
    """One stream of pictures, RGB uint8.

    Example: ``Camera("wrist", height=240, width=320)``.
    """

    name: str
    height: int  # pixels
    width: int  # pixels
    storage: Literal["video", "image"] = "video"
    """"video": h264 in mp4 files, small and lossy. "image": PNG in a column, lossless."""


@dataclass(frozen=True)
class Clip:
    """An episode's pictures where they are: in an mp4 file, at a constant rate of control_hz.

    Step t is the frame at ``start_s + t / control_hz`` seconds.
    """

    path: Path
    start_s: float


class Streams:
    """What has channels, and their order in the arrays."""

    channels: tuple[Channel, ...]

    @property
    def obs_channels(self) -> tuple[Channel, ...]:
        """Observation and goal channels, in the order of ``obs``'s columns."""
        return tuple(c for c in self.channels if c.role in ("observation", "goal"))

    @property
    def action_channels(self) -> tuple[Channel, ...]:
        """Action channels, in the order of ``action``'s columns."""
        return tuple(c for c in self.channels if c.role == "action")


@dataclass(frozen=True)
class Task(Streams):
    """What is to be done, on which body. ``id`` is ``suite/name``.

    Example: ``Task("metaworld", "door-unlock", "unlock the door ...", channels=(...),
    max_episode_steps=500, control_hz=80)``.
    """

    suite: str
    name: str
    instruction: str
    channels: tuple[Channel, ...]
    max_episode_steps: int
    control_hz: float
    cameras: tuple[Camera, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.suite}/{self.name}"


@dataclass
class Episode:
    """One episode. ``action`` is what was executed; ``action_expert`` is the label where known.

    Row t holds what was seen (``obs[t]``), what was done then (``action[t]``) and what that
    earned (``reward[t]``, ``success[t]``); ``final_obs`` is what was seen after the last action.
    What a source does not know: ``reward`` and ``final_obs`` NaN, ``success`` False, ``seed`` -1,
    ``behavior`` "unknown"; a channel that the episode does not have is NaN in every step::

        t          0        1        2
        obs        o0       o1       o2       final_obs = o3
        action     a0       a1       a2
        reward     r(o0,a0) r(o1,a1) r(o2,a2)
        success    s1       s2       s3                 (state after the action)
    """

    task_id: str
    instruction: str
    obs: np.ndarray  # (T, O) float32
    action: np.ndarray  # (T, A) float32, executed
    reward: np.ndarray  # (T,) float32
    success: np.ndarray  # (T,) bool
    final_obs: np.ndarray  # (O,) float32
    terminated: bool
    truncated: bool
    seed: int
    """Seed of the environment that the episode was made in."""
    behavior: str
    """Who acted, e.g. ``expert``, ``perturbed-expert``, ``random``."""
    action_expert: np.ndarray | None = None  # (T, A) float32: the expert's own action at obs[t]
    images: Mapping[str, np.ndarray | Clip] = field(default_factory=dict)
    """Camera's name -> (T, H, W, 3) uint8 what it saw with obs[t], or a clip to link to."""

    @property
    def num_steps(self) -> int:
        return len(self.action)

    @property
    def label(self) -> np.ndarray:
        """(T, A) what to imitate: the expert's action where known, else what was executed."""
        return self.action if self.action_expert is None else self.action_expert


@dataclass
class EvalResult:
    """How one policy did on one task, with one prompt."""

    arm: str
    """Which policy, e.g. ``heldout.shown_once``."""
    task: str
    demonstration: int
    """Number of the demonstration it was shown or trained on; 0 where there is none."""
    seed: int
    """The run's seed."""
    episode_seeds: list[int]
    success: list[bool]
    """At any step."""
    steps: list[int]
    """Up to the first success, or all."""
    diverged_episodes: int = 0
    """How many of them the simulation spoiled; they count as failures."""


@dataclass
class TokenBatch:
    """B training sequences: [words] [one demonstration] [windows of an episode of that task].

    N windows of K steps share one prefix: each sees the words, the demonstration and its own past,
    never another window, so that one encoded demonstration serves N predictions. NaN is missing.
    """

    words: np.ndarray | None  # (B, W) int64, 0 after the end; None: no instruction
    demonstration: np.ndarray | None  # (B, P, O + A) float32, evenly spaced steps; None: not shown
    obs: np.ndarray  # (B, N, K, O) float32
    action: np.ndarray  # (B, N, K, A) float32, executed
    label: np.ndarray  # (B, N, K, A) float32, to imitate
    change: np.ndarray  # (B, N, K, O) float32, obs of the next step minus obs
