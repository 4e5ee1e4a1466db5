"""Datasets to measure on: random walks of a hand and 36 more channels, 4 action channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from headstart.data.store import DatasetWriter
from headstart.types import Camera, Channel, Clip, Episode, Task

NUM_OBS, NUM_ACTIONS, HZ = 39, 4, 50
EPISODE_STEPS = 200
NUM_TASKS = 10

CHANNELS = (
    *(Channel(f"robot/state/{k}", "observation") for k in range(NUM_OBS)),
    *(Channel(f"robot/action/{k}", "action") for k in range(NUM_ACTIONS)),
)


def write(root: Path, num_steps: int, clip: Path | None = None) -> None:
    """A dataset of so many steps, unless it is there.

    Args:
        clip: an mp4 file of EPISODE_STEPS frames of 64 x 64, which every episode links to.
    """
    if (root / "meta/info.json").exists():
        return
    cameras = (Camera("wrist", 64, 64),) if clip else ()
    schema = Task("synthetic", "walk", "walk about", CHANNELS, EPISODE_STEPS, float(HZ), cameras)
    rng = np.random.default_rng(0)
    batch = 500
    with DatasetWriter(root, schema) as writer:
        for first in tqdm(range(0, num_steps // EPISODE_STEPS, batch), desc=f"write {root}"):
            last = min(first + batch, num_steps // EPISODE_STEPS)
            writer.save_episodes([_episode(rng, k, clip) for k in range(first, last)])


def _episode(rng: np.random.Generator, number: int, clip: Path | None) -> Episode:
    values = rng.standard_normal((EPISODE_STEPS, NUM_OBS + NUM_ACTIONS), dtype=np.float32)
    obs = np.cumsum(values[:, :NUM_OBS], axis=0)
    task = number % NUM_TASKS
    return Episode(
        f"synthetic/walk-{task}",
        f"walk about in manner {task}",
        obs,
        np.ascontiguousarray(values[:, NUM_OBS:]),
        reward=np.zeros(EPISODE_STEPS, np.float32),
        success=np.zeros(EPISODE_STEPS, bool),
        final_obs=obs[-1],
        terminated=False,
        truncated=True,
        seed=number,
        behavior="random",
        images={"wrist": Clip(clip, 0.0)} if clip else {},
    )
