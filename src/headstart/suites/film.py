"""Films of episodes, where the machine has a renderer: the simulator plays the actions again.

A renderer that does not work may end its process, so it works in one of its own:
``python -m headstart.suites.film TASK SEED ACTIONS.npy FILM.mp4``.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart.suites import registry

FRAMES_PER_S = 10
SLOWED_DOWN = 2.0
"""How many times slower than it happened an episode is shown, unless it is long."""
MOST_FRAMES = 40
"""A frame takes a tenth of a second to draw without a GPU."""
HOLD_FRAMES = 10
"""How long the last frame stands."""


def film(task_id: str, seed: int, action: np.ndarray, path: Path) -> bool:
    """Film the first episode of an environment.

    Args:
        seed: of the environment; the film begins at its first start.
        action: (T, A) float32, what was executed.
        path: where the film goes, an H.264 MP4.

    Returns:
        Whether there is a film. There is none on a machine without a renderer (EGL or OSMesa).
    """
    with tempfile.TemporaryDirectory() as folder:
        actions = Path(folder) / "actions.npy"
        np.save(actions, action)
        arguments = [task_id, str(seed), str(actions), str(Path(folder) / "film.mp4")]
        done = subprocess.run(
            [sys.executable, "-m", "headstart.suites.film", *arguments], capture_output=True
        )
        made = Path(folder) / "film.mp4"
        if done.returncode != 0 or not made.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.read_bytes())
    return True


def render(task_id: str, seed: int, action: np.ndarray) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of the episode, evenly spaced, turned upright.

    Raises:
        OSError: no renderer. Where there is a broken one, the process may end.
    """
    _load_renderer()
    task = registry.get_task(task_id)
    env = registry.SUITES[task.suite].make_rendered(task, seed, len(action) + 1)
    every = max(
        round(task.control_hz / SLOWED_DOWN / FRAMES_PER_S), math.ceil(len(action) / MOST_FRAMES)
    )
    env.reset()
    frames = [_upright(env.render())]
    for t, a in enumerate(action):
        env.step(a[None])
        if (t + 1) % every == 0 or t + 1 == len(action):
            frames.append(_upright(env.render()))
    return frames


def _upright(frame: np.ndarray) -> np.ndarray:
    """The right way up, and without the empty margins: (400, 400) -> (240, 360)."""
    height, width, _ = frame.shape
    top, left = int(0.26 * height), int(0.05 * width)
    upright = frame[::-1, ::-1][top : top + height * 6 // 10, left : left + width * 9 // 10]
    return np.ascontiguousarray(upright)


def encode(frames: Sequence[np.ndarray], path: Path) -> None:
    """Write an H.264 MP4 that a browser plays."""
    import av

    height, width, _ = frames[0].shape
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options={"crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in [*frames, *[frames[-1]] * HOLD_FRAMES]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _load_renderer() -> None:
    """Load an OpenGL platform library for MuJoCo, which does not look for one by itself."""
    for library in ("libEGL.so.1", "libOSMesa.so.8"):
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise OSError("no renderer: install EGL (libegl1) or OSMesa (libosmesa6)")


def main() -> None:
    task_id, seed, actions, path = sys.argv[1:]
    encode(render(task_id, int(seed), np.load(actions, allow_pickle=False)), Path(path))


if __name__ == "__main__":
    main()
