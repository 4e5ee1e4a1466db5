"""Writes the lerobot-* folders beside this file with the real library; see lerobot.md.

    python make_lerobot.py OUT state video image tasks

What is written can be computed (``state``, ``action``, ``picture``), so that tests know it.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

FPS = 10
LENGTHS = (7, 5, 6)
SIZE = (48, 64)  # height, width in pixels
TASKS = ("Pick up the cube.", "Open the drawer", "Pick up the cube.")


def state(episode: int, step: int) -> np.ndarray:
    """(3,) float32, different in every step."""
    return np.array([episode + 1, step / 3, (episode + 1) / (step + 1)], np.float32)


def action(episode: int, step: int) -> np.ndarray:
    """(2,) float32."""
    return np.array([np.sin(episode + step), -step / 7], np.float32)


def picture(episode: int, step: int) -> np.ndarray:
    """(H, W, 3) uint8: a plain ground whose red tells the episode, a bright bar the step."""
    pixels = np.full((*SIZE, 3), (60 * episode + 40, 30, 90), np.uint8)
    pixels[:, 8 * step : 8 * step + 8] = 230
    return pixels


def vector(names, dtype: str = "float32") -> dict:
    return {"dtype": dtype, "shape": (len(names),), "names": list(names)}


FEATURES = {
    "observation.state": vector(["x", "y", "finger gap"]),
    "action": vector(["dx", "dy"]),
}
EXTRA = {
    "observation.environment_state": {"dtype": "float64", "shape": (2, 2), "names": None},
    "observation.goal": {"dtype": "float32", "shape": (1,), "names": ["z"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "language": {"dtype": "string", "shape": (1,), "names": None},
}
CAMERA = {"shape": (*SIZE, 3), "names": ["height", "width", "channels"]}


def extra(episode: int, step: int) -> dict:
    """What the columns of EXTRA hold."""
    is_last = step == LENGTHS[episode] - 1
    return {
        "observation.environment_state": np.array([[step, episode], [0.1, -step]], np.float64),
        "observation.goal": np.array([0.5 + episode], np.float32),
        "next.reward": np.array([-step / 2], np.float32),
        "next.success": np.array([is_last and episode != 1]),
        "next.done": np.array([is_last]),
        "language": f"step {step}",
    }


def write(root: Path, kind: str) -> None:
    """One dataset: "state", "video", "image" or "tasks" (of which one changes in an episode)."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = dict(FEATURES)
    if kind == "state":
        features |= EXTRA
    if kind in ("video", "image"):
        features["observation.images.top"] = {"dtype": kind, **CAMERA}
    dataset = LeRobotDataset.create(
        "someone/something", FPS, features, root=root, robot_type="Two Finger", use_videos=True
    )
    writes_v3 = hasattr(dataset, "finalize")
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            task = TASKS[episode]
            if kind == "tasks" and episode == 2 and step > 3:
                task = "Put it down"
            frame = {"observation.state": state(episode, step), "action": action(episode, step)}
            if kind == "state":
                frame |= extra(episode, step)
            if kind in ("video", "image"):
                frame["observation.images.top"] = picture(episode, step)
            if writes_v3:
                dataset.add_frame(frame | {"task": task})
            else:
                dataset.add_frame(frame, task)
        dataset.save_episode()
    if writes_v3:
        dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)  # where v2.1 gathers them, left behind


if __name__ == "__main__":
    out, *kinds = sys.argv[1:]
    for each in kinds:
        write(Path(f"{out}-{each}"), each)
