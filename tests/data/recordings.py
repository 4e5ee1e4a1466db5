"""Small recordings that the tests of the store share, with and without cameras."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Camera, Channel, Episode, Task

FRAMES = Path("data/chunk-000/file-000.parquet")
JOURNAL = Path("meta/journal.jsonl")
ROWS = Path("meta/episodes/chunk-000/file-000.parquet")
CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("hand/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action", "cm"),
)
TASK = Task("suite", "reach", "reach the goal", CHANNELS, 100, 12.5)


def make_episode(seed: int, steps: int = 3, labelled: bool = True) -> Episode:
    """An episode of random numbers, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return Episode(
        task_id="suite/reach" if seed % 2 else "suite/push",
        instruction="reach the goal" if seed % 2 else "push to the goal",
        obs=rng.standard_normal((steps, 3)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        success=rng.random(steps) < 0.5,
        final_obs=rng.standard_normal(3).astype(np.float32),
        terminated=seed % 3 == 0,
        truncated=seed % 3 == 1,
        seed=seed,
        behavior="expert" if labelled else "random",
        action_expert=rng.standard_normal((steps, 1)).astype(np.float32) if labelled else None,
    )


EPISODES = [make_episode(seed, steps=2 + seed, labelled=seed != 2) for seed in range(5)]


def save(root, *batches, schema=TASK) -> Dataset:
    with DatasetWriter(root, schema) as writer:
        for batch in batches:
            writer.save_episodes(batch)
    return Dataset(root)


def bits(episode: Episode) -> dict:
    values = {f.name: getattr(episode, f.name) for f in fields(Episode) if f.name != "images"}
    return {
        k: (v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v
        for k, v in values.items()
    }


def same(found, saved) -> bool:
    return [bits(e) for e in found] == [bits(e) for e in saved]


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # a new file, because the old one may be mapped into memory
    path.write_bytes(content)


TOP, WRIST = Camera("top", 32, 64), Camera("wrist", 6, 8, "image")
FILMED = Task("suite", "reach", "reach the goal", CHANNELS, 100, 20.0, (TOP, WRIST))


def grey(values: list[int], camera: Camera) -> np.ndarray:
    """A picture of one shade of grey for each value, which tells the frames apart."""
    shades = np.array(values, np.uint8)[:, None, None, None]
    return np.broadcast_to(shades, (len(values), camera.height, camera.width, 3)).copy()


def film(seed: int, steps: int = 3) -> Episode:
    """``make_episode`` with pictures: frame t from the top is of shade 10 * (seed + 2 * t)."""
    noise = np.random.default_rng(seed).integers(0, 256, (steps, 6, 8, 3), np.uint8)
    top = grey([10 * (seed + 2 * t) for t in range(steps)], TOP)
    return replace(make_episode(seed, steps), images={"top": top, "wrist": noise})


def shades(pictures: np.ndarray) -> list[int]:
    """What ``grey`` was given, as far as a lossy video keeps it."""
    return [int(value) for value in np.round(pictures.mean(axis=(1, 2, 3)) / 10) * 10]
