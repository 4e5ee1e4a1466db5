"""Statistics of a large dataset with cameras: how long they take, and that no video is decoded.

    python benchmarks/statistics_time.py --folder /tmp/statistics

Writes a dataset of a million steps there the first time. Prints the time of the flat copy, which is
made once, of opening it, which verifies every byte, and of the statistics of all channels.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

import synthetic


@dataclass(frozen=True)
class Arguments:
    folder: Path
    """Where the dataset is, or is written to."""
    steps: int = 1_000_000


def write_clip(path: Path) -> None:
    """An mp4 file of as many grey frames as an episode has steps."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=synthetic.HZ)
        stream.width = stream.height = 64  # type: ignore[attr-defined]
        stream.pix_fmt = "yuv420p"  # type: ignore[attr-defined]
        for k in range(synthetic.EPISODE_STEPS):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), k % 256, np.uint8))
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]


def measure_once(root: Path) -> None:
    """In a process of its own, so that nothing is loaded that is not needed."""
    import numpy as np

    from headstart.data.cache import open_cache
    from headstart.data.store import Dataset
    from headstart.model.channels import measure

    began = time.perf_counter()
    dataset = Dataset(root)
    opened = time.perf_counter()
    is_built = (root / ".cache" / dataset.digest).exists()
    cache = open_cache(dataset)
    mapped = time.perf_counter()
    statistics = measure([cache.trajectories(np.arange(dataset.num_episodes))])
    done = time.perf_counter()
    what = "flat copy verified" if is_built else "flat copy built and verified"
    print(
        f"{dataset.num_steps:,} steps, {len(statistics)} channels, {len(dataset.cameras)} camera;"
        f" dataset opened {opened - began:.2f} s; {what} {mapped - opened:.2f} s;"
        f" statistics {done - mapped:.2f} s; video decoder loaded: {'av' in sys.modules}",
        flush=True,
    )


def main(arguments: Arguments) -> None:
    root = arguments.folder / "data"
    if not root.exists():
        write_clip(arguments.folder / "clip.mp4")
        synthetic.write(root, arguments.steps, arguments.folder / "clip.mp4")
    for _ in range(4):
        command = f"from pathlib import Path; import statistics_time as s; s.measure_once({root!r})"
        command = command.replace("PosixPath", "Path")
        subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parent)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
