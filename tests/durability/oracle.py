"""Episodes that anyone can make again from their number, to hold what was read back against."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.store import Dataset
from headstart.types import Camera, Channel, Clip, Episode, Task

CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("hand/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action", "cm"),
    Channel("hand/dy", "action", "cm"),
)
SIZE = 32  # pixels
STATE = Task("oracle", "state", "reach", CHANNELS, 100, 12.5)
CAMERAS = Task(
    "oracle",
    "cameras",
    "reach",
    CHANNELS,
    100,
    10.0,
    cameras=(Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE, "image")),
)
VIDEO_ERROR = 12.0
"""Most that a frame out of an mp4 differs from what was saved, on average, of 255."""


def episode(number: int, task: Task = STATE) -> Episode:
    """Episode ``number``: 2 to 9 steps of random numbers, its seed its number."""
    rng = np.random.default_rng(number)
    steps = 2 + number % 8
    images = {camera.name: pictures(number, steps, camera, rng) for camera in task.cameras}
    return Episode(
        task_id=f"oracle/{'push' if number % 3 else 'reach'}",
        instruction=f"do task {number % 5} of the oracle",
        obs=rng.standard_normal((steps, 3)).astype(np.float32),
        action=rng.standard_normal((steps, 2)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        success=rng.random(steps) < 0.5,
        final_obs=rng.standard_normal(3).astype(np.float32),
        terminated=number % 3 == 0,
        truncated=number % 3 == 1,
        seed=number,
        behavior="expert" if number % 2 else "random",
        action_expert=rng.standard_normal((steps, 2)).astype(np.float32) if number % 2 else None,
        images=images,
    )


def pictures(number: int, steps: int, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W, 3) uint8. Noise where it is kept; else flat, and brightness tells the step."""
    if camera.storage == "image":
        return rng.integers(256, size=(steps, camera.height, camera.width, 3), dtype=np.uint8)
    brightness = 20 + (37 * number + 53 * np.arange(steps)) % 216
    flat = np.broadcast_to(brightness[:, None, None, None], (steps, camera.height, camera.width, 3))
    return flat.astype(np.uint8)


def problems(root: Path, task: Task = STATE, at_least: int = 0) -> list[str]:
    """What is wrong with a dataset that should be episodes 0, 1, 2, ... of ``episode``.

    Raises:
        ValueError: the dataset says itself that it is damaged.
    """
    dataset = Dataset(root)
    wrong = []
    if dataset.num_episodes < at_least:
        wrong.append(f"{at_least} episodes acknowledged, {dataset.num_episodes} there")
    episodes = dataset.episodes()
    if len(episodes) != dataset.num_episodes:
        wrong.append(f"{dataset.num_episodes} episodes said, {len(episodes)} there")
    wrong += differences(dataset, task, range(len(episodes)), episodes)
    table = dataset.episode_table()
    expected = [episode(i, task) for i in range(len(episodes))]
    if table["seed"].tolist() != list(range(len(episodes))):
        wrong.append(f"numbering: {table['seed'].tolist()}")
    if expected:
        columns = dataset.load_columns(["observation.state", "next.reward", "index"])
        if columns["observation.state"].tobytes() != b"".join(e.obs.tobytes() for e in expected):
            wrong.append("load_columns gives another observation.state")
        if columns["next.reward"].tobytes() != b"".join(e.reward.tobytes() for e in expected):
            wrong.append("load_columns gives another next.reward")
    return wrong


def differences(dataset: Dataset, task: Task, numbers: Any, episodes: list[Episode]) -> list[str]:
    """How the dataset's episodes differ from the oracle's of these numbers."""
    wrong = []
    for index, (number, found) in enumerate(zip(numbers, episodes, strict=True)):
        expected = episode(number, task)
        for field in fields(Episode):
            a, b = getattr(found, field.name), getattr(expected, field.name)
            if field.name != "images" and _bits(a) != _bits(b):
                wrong.append(f"episode {index}: {field.name} is not that of {number}")
        for camera in task.cameras:
            pixels = found.images.get(camera.name)
            if pixels is None or isinstance(pixels, Clip):
                pixels = dataset.images(index, camera.name)
            wrong += _picture_differences(index, camera, pixels, expected)
    return wrong


def _picture_differences(
    index: int, camera: Camera, found: np.ndarray, expected: Episode
) -> list[str]:
    saved = expected.images[camera.name]
    assert isinstance(saved, np.ndarray)
    if found.shape != saved.shape or found.dtype != np.uint8:
        return [f"episode {index}: {camera.name} is {found.dtype} {found.shape}, {saved.shape}"]
    if camera.storage == "image":
        return [] if np.array_equal(found, saved) else [f"episode {index}: {camera.name} differs"]
    error = np.abs(found.astype(float) - saved).mean(axis=(1, 2, 3)).max()
    return [] if error < VIDEO_ERROR else [f"episode {index}: {camera.name} is off by {error:.0f}"]


def _bits(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return value
