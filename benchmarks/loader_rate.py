"""Random training windows a second: ours, and LeRobot's reader and DataLoader on the same files.

    python benchmarks/loader_rate.py --folder /tmp/rate --lerobot /path/to/lerobot/bin/python

Writes a state dataset of a million steps there the first time, 39 observation and 4 action
channels. Both sides read the windows of 16 steps that begin at the same random steps out of that
very folder; the first of them are compared value by value. Ours is the path that training batches
take, LeRobot's the best of no, one and two worker processes. Each side's best of a few rounds; ours
is measured before and after theirs, and the ratio is of the worse.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import synthetic
from headstart.data.cache import open_cache
from headstart.data.loader import Loader, LoaderConfig
from headstart.data.store import Dataset
from headstart.data.trajectories import Trajectories

WINDOW = 16
COMPARED = 64


@dataclass(frozen=True)
class Arguments:
    folder: Path
    """Where the dataset is, or is written to."""
    lerobot: Path | None = None
    """Python of an environment that has LeRobot; without it only our side is measured."""
    steps: int = 1_000_000
    windows: int = 2_000
    """Windows that LeRobot reads a round; ours are a hundred times as many."""
    rounds: int = 3


def our_rate(data: Trajectories, rounds: int, windows: int, batch: int = 256) -> float:
    """Windows a second, drawn and copied out in batches."""
    rng = np.random.default_rng(0)
    best = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(windows // batch):
            episode = rng.integers(len(data.start), size=batch)
            first = (rng.random(batch) * data.length[episode]).astype(np.int64)
            data.windows(episode, first, WINDOW)
        best = max(best, windows // batch * batch / (time.perf_counter() - began))
    return best


def training_rate(data: Trajectories, rounds: int) -> float:
    """Windows a second as whole training batches: cues, demonstrations, labels and changes too."""
    config = LoaderConfig()
    loader = Loader(data, config, np.zeros((len(data.tasks), 16), np.int64), WINDOW, 32, seed=0)
    best = 0.0
    for number in range(rounds):
        began = time.perf_counter()
        for update in range(20):
            loader.batch(20 * number + update)
        best = max(best, 20 / (time.perf_counter() - began))
    return best * config.num_prompts * config.num_windows


def compare(data: Trajectories, root: Path, lerobot: Path, arguments: Arguments) -> float:
    """LeRobot's rate, once its windows have proved to be ours."""
    rng = np.random.default_rng(1)
    episode = rng.integers(len(data.start), size=arguments.windows)
    first = rng.integers(data.length[episode] - WINDOW + 1)
    ours = data.windows(episode[:COMPARED], first[:COMPARED], WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        places, found = Path(folder) / "places.npy", Path(folder) / "windows.npy"
        np.save(places, data.start[episode] + first)
        script = Path(__file__).with_name("lerobot_windows.py")
        command = [lerobot, script, root, places, found, WINDOW, COMPARED, arguments.rounds]
        done = subprocess.run(
            [str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True
        )
        np.testing.assert_array_equal(np.load(found), ours)
    print(done.stdout, end="")
    return max(float(line.split()[-2]) for line in done.stdout.splitlines() if "workers" in line)


def main(arguments: Arguments) -> None:
    root = arguments.folder / "data"
    synthetic.write(root, arguments.steps)
    dataset = Dataset(root)
    cache = open_cache(dataset)
    data = cache.trajectories(np.arange(dataset.num_episodes))
    width = data.rows.shape[1]
    print(f"{dataset.num_steps:,} steps, windows of {WINDOW} steps of {width} channels")
    before = our_rate(data, arguments.rounds, 100 * arguments.windows)
    print(f"headstart: {before:,.0f} windows/s")
    print(f"headstart, whole training batches: {training_rate(data, arguments.rounds):,.0f}")
    if arguments.lerobot is not None:
        theirs = compare(data, root, arguments.lerobot, arguments)
        after = our_rate(data, arguments.rounds, 100 * arguments.windows)
        print(f"headstart again: {after:,.0f} windows/s; ratio {min(before, after) / theirs:,.0f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
