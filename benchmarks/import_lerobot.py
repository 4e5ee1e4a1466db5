"""Importing a LeRobot dataset, against LeRobot's own class merely iterating over it.

    python benchmarks/import_lerobot.py --lerobot PYTHON [--steps 1000000] [--only-steps 5000]

PYTHON is the interpreter of an environment that has ``lerobot`` (``make interop`` builds one). The
dataset is of 43 channels in episodes of 200 steps. Prints steps a second, of the clock and of CPU
time, of both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headstart.data import lerobot_v3 as v3
from headstart.data.importers import import_dataset, recognise

NUM_OBS, NUM_ACTIONS, LENGTH, FPS = 39, 4, 200, 20

ITERATE = """
import sys, time
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("someone/something", root=sys.argv[1])
num = min(int(sys.argv[2]), len(dataset))
dataset[0]
start, cpu = time.perf_counter(), time.process_time()
for i in range(num):
    dataset[i]
print(num / (time.perf_counter() - start), num / (time.process_time() - cpu))
"""


def write_source(root: Path, num_steps: int) -> None:
    """A foreign v3.0 folder such as LeRobot 0.6.1 writes: a row group an episode, 250 a file."""
    num_episodes = num_steps // LENGTH
    generator = np.random.default_rng(0)
    scalar = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        "observation.state": _vector(NUM_OBS, "s"),
        "action": _vector(NUM_ACTIONS, "a"),
        "timestamp": scalar | {"dtype": "float32"},
        **{name: scalar for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    rows = []
    for file, first in enumerate(range(0, num_episodes, 250)):
        numbers = range(first, min(first + 250, num_episodes))
        path = root / f"data/chunk-000/file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [_episode(generator, number) for number in numbers]
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
        rows += [_row(number, file) for number in numbers]
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    pq.write_table(v3.tasks_table(["reach"]), root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "robot_type": "arm",
        "fps": FPS,
        "total_episodes": num_episodes,
        "total_frames": num_episodes * LENGTH,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))


def _vector(size: int, letter: str) -> dict:
    names = [f"{letter}{i}" for i in range(size)]
    return {"dtype": "float32", "shape": [size], "names": names}


def _episode(generator: np.random.Generator, number: int) -> pa.Table:
    def vectors(size: int) -> pa.Array:
        values = generator.standard_normal(LENGTH * size).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values), size)

    steps = np.arange(LENGTH)
    return pa.table(
        {
            "observation.state": vectors(NUM_OBS),
            "action": vectors(NUM_ACTIONS),
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(LENGTH, number),
            "index": steps + number * LENGTH,
            "task_index": np.zeros(LENGTH, np.int64),
        }
    )


def _row(number: int, file: int) -> dict:
    return {
        "episode_index": number,
        "tasks": ["reach"],
        "length": LENGTH,
        "data/chunk_index": 0,
        "data/file_index": file,
        "dataset_from_index": number * LENGTH,
        "dataset_to_index": (number + 1) * LENGTH,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _timed(name: str, work: Callable[[], int]) -> list[float]:
    """Steps a second, and steps a second of CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    num_steps = work()
    rates = [num_steps / (time.perf_counter() - start), num_steps / (time.process_time() - cpu)]
    _print(name, rates, num_steps)
    return rates


def _print(name: str, rates: list[float], num_steps: int) -> None:
    print(
        f"{name:26s} {rates[0]:10,.0f} steps/s {rates[1]:12,.0f} steps/CPU-s"
        f"  ({num_steps:,} steps)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lerobot", type=Path, help="interpreter that has lerobot")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--only-steps", type=int, default=5_000, help="that lerobot iterates over")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="import-lerobot-"))
    try:
        write_source(folder / "source", options.steps)
        source = recognise(folder / "source").open_source(folder / "source", "")
        _timed("headstart, read only", lambda: sum(e.num_steps for e in source.episodes()))
        ours = _timed(
            "headstart, import", lambda: import_dataset(folder / "source", folder / "ours")["steps"]
        )
        if options.lerobot:
            arguments = ["-c", ITERATE, str(folder / "source"), str(options.only_steps)]
            command = [str(options.lerobot), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            theirs = [float(number) for number in done.stdout.split()[-2:]]
            _print("lerobot, iterate only", theirs, options.only_steps)
            ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
            print(f"{'import against iteration':26s} {ratios[0]:10.1f} x {ratios[1]:18.1f} x")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
