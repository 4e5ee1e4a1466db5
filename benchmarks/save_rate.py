"""Time of durable saves: one episode, and a batch of 50, of 200 steps and 43 channels each.

Beside it, in turns, the disk's own time: one file of the same bytes written and flushed. No save
that survives power loss can be quicker than that.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Channel, Episode, Task

NUM_OBS, NUM_ACTIONS, STEPS = 36, 7, 200


@dataclass(frozen=True)
class Arguments:
    repeats: int = 50
    """Saves timed of each kind."""
    batch: int = 50
    """Episodes in a batch."""
    folder: Path | None = None
    """Where to write; its disk is what is measured. The system's folder for such files if None."""


def make_task() -> Task:
    observed = [Channel(f"joint/{i}", "observation", "rad") for i in range(NUM_OBS)]
    acted = [Channel(f"joint/d{i}", "action", "rad") for i in range(NUM_ACTIONS)]
    return Task("bench", "save", "move", (*observed, *acted), STEPS, 50.0)


def make_episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        task_id="bench/save",
        instruction="move",
        obs=rng.standard_normal((STEPS, NUM_OBS), np.float32),
        action=rng.standard_normal((STEPS, NUM_ACTIONS), np.float32),
        reward=rng.standard_normal(STEPS, np.float32),
        success=np.zeros(STEPS, np.bool_),
        final_obs=rng.standard_normal(NUM_OBS, np.float32),
        terminated=False,
        truncated=True,
        seed=seed,
        behavior="random",
    )


def milliseconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def flush_file(folder: Path, number: int, content: bytes) -> None:
    descriptor = os.open(folder / f"raw-{number}", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, content)
    os.fsync(descriptor)
    os.close(descriptor)


def measure(arguments: Arguments, count: int) -> None:
    """Print the times of saves of ``count`` episodes and of the disk alone."""
    episodes = [make_episode(seed) for seed in range(count)]
    saves, raw = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with DatasetWriter(folder / "data", make_task()) as writer:
            writer.save_episodes(episodes)
            file = folder / "data/data/chunk-000/file-000.parquet"
            content = file.read_bytes()
            for i in range(arguments.repeats):
                saves.append(milliseconds(lambda: writer.save_episodes(episodes)))
                raw.append(milliseconds(lambda i=i: flush_file(folder, i, content)))
            closing = milliseconds(writer.close)
        assert Dataset(folder / "data").num_episodes == count * (arguments.repeats + 1)
    for label, times in ((f"save of {count} episode(s)", saves), ("  the disk alone", raw)):
        p10, p50, p90 = np.percentile(times, [10, 50, 90])
        print(f"{label:24s} median {p50:6.2f} ms   p10 {p10:6.2f}   p90 {p90:6.2f}")
    print(f"  {len(content) / 1e6:.2f} MB a save; closing {closing:.0f} ms")


def main(arguments: Arguments) -> None:
    for count in (1, arguments.batch):
        measure(arguments, count)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
