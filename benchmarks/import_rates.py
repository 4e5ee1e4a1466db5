"""Importing Minari, robomimic and OGBench data, against their libraries merely iterating over it.

    python benchmarks/import_rates.py --minari PYTHON --robomimic PYTHON --ogbench PYTHON
        [--steps 1000000] [--only minari-hdf5]

PYTHON is the interpreter of an environment that has that library (``make interop`` builds the
first two; for the last ``pip install ogbench`` into one).
The data are 43 channels in episodes of 200 steps, written by the library, or for robomimic, which
writes from a simulator only, with h5py in its layout. Prints steps a second of both sides: ours
from the source to a finished dataset on disk. The libraries' sides:

* Minari: ``for episode in dataset.iterate_episodes()``
* robomimic: ``dataset[i]`` of ``SequenceDataset``, a step at a time, nothing cached (of 20,000
  steps); and the same by whole episodes, ``get_trajectory_at_index``
* OGBench: ``load_dataset``, then a step at a time; and ``load_dataset`` alone

Run by a library's own interpreter it is that library's side; then it imports nothing of ours.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_OBS, NUM_ACTIONS, LENGTH = 39, 4, 200
FORMATS = ("minari-hdf5", "minari-arrow", "minari-parquet", "robomimic", "ogbench")
SOURCES = {"robomimic": "demos.hdf5", "ogbench": "cube-single-play-v0.npz"}
DATASET_ID = "bench/random-v0"


def episode(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Observations (T + 1, 39) and actions (T, 4), both float32."""
    obs = generator.normal(size=(LENGTH + 1, NUM_OBS)).astype(np.float32)
    return obs, generator.uniform(-1, 1, (LENGTH, NUM_ACTIONS)).astype(np.float32)


def make_minari(kind: str, num: int) -> None:
    import minari  # pyright: ignore[reportMissingImports]
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]
    from minari.dataset.minari_storage import MinariStorage  # pyright: ignore[reportMissingImports]

    MinariStorage.get_size = lambda _: 0.0  # it lists the whole folder after every episode
    generator = np.random.default_rng(0)
    last = np.arange(LENGTH) == LENGTH - 1

    def buffers():  # noqa: ANN202
        for number in range(num):
            obs, action = episode(generator)
            yield EpisodeBuffer(number, number, None, obs, action, last * 1.0, last & False, last)

    def box(width: int) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (width,), np.float32)

    minari.create_dataset_from_buffers(
        DATASET_ID,
        buffers(),  # type: ignore[arg-type]  a list of 5,000 would do as well
        observation_space=box(NUM_OBS),
        action_space=box(NUM_ACTIONS),
        data_format=kind,
    )


def iterate_minari(_: str, __: Path) -> dict[str, float]:
    import minari  # pyright: ignore[reportMissingImports]

    start = time.perf_counter()
    steps = sum(len(e) for e in minari.load_dataset(DATASET_ID).iterate_episodes())
    return {"iterate_episodes": steps / (time.perf_counter() - start)}


ROBOMIMIC_KEYS = {"object": 14, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_joint_pos": 18}


def make_robomimic(path: Path, num: int) -> None:
    import h5py

    generator = np.random.default_rng(0)
    last = np.arange(LENGTH) == LENGTH - 1
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = '{"env_name": "Lift", "type": 1}'
        for number in range(num):
            demo = file.create_group(f"data/demo_{number}")
            obs, action = episode(generator)
            demo.attrs["num_samples"] = LENGTH
            demo["actions"], demo["rewards"], demo["dones"] = action, last * 1.0, last.astype(int)
            start = 0
            for key, width in ROBOMIMIC_KEYS.items():
                demo[f"obs/{key}"] = obs[:-1, start : start + width].astype(np.float64)
                demo[f"next_obs/{key}"] = obs[1:, start : start + width].astype(np.float64)
                start += width


def iterate_robomimic(_: str, path: Path) -> dict[str, float]:
    from unittest.mock import MagicMock

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    sys.modules.update({name: MagicMock() for name in names})  # only its networks use it
    from robomimic.utils.dataset import SequenceDataset  # pyright: ignore[reportMissingImports]

    dataset = SequenceDataset(
        str(path), tuple(ROBOMIMIC_KEYS), ("actions", "rewards", "dones"), hdf5_use_swmr=False
    )
    steps = min(20_000, len(dataset))
    start = time.perf_counter()
    for i in range(steps):
        dataset[i]
    by_step = steps / (time.perf_counter() - start)
    start = time.perf_counter()
    for i in range(len(dataset.demos)):
        dataset.get_trajectory_at_index(i)
    by_episode = len(dataset) / (time.perf_counter() - start)
    return {"a step at a time": by_step, "get_trajectory_at_index": by_episode}


def make_ogbench(path: Path, num: int) -> None:
    """As ``data_gen_scripts`` of its repository save it."""
    generator = np.random.default_rng(0)
    rows = num * (LENGTH + 1)
    np.savez_compressed(
        path,
        observations=generator.normal(size=(rows, NUM_OBS)).astype(np.float32),
        actions=generator.uniform(-1, 1, (rows, NUM_ACTIONS)).astype(np.float32),
        terminals=np.arange(1, rows + 1) % (LENGTH + 1) == 0,
        qpos=generator.normal(size=(rows, 21)).astype(np.float32),
        qvel=generator.normal(size=(rows, 20)).astype(np.float32),
    )


def iterate_ogbench(_: str, path: Path) -> dict[str, float]:
    from ogbench.utils import load_dataset  # pyright: ignore[reportMissingImports]

    start = time.perf_counter()
    data = load_dataset(str(path))
    steps = len(data["actions"])
    loaded = time.perf_counter() - start
    for i in range(steps):
        {name: values[i] for name, values in data.items()}
    all_s = time.perf_counter() - start
    return {"load_dataset, a step at a time": steps / all_s, "load_dataset alone": steps / loaded}


def library_side(what: str, name: str, work: Path, num: int) -> None:
    """What runs in the library's interpreter."""
    library, _, kind = name.partition("-")
    path = work / SOURCES.get(library, "")
    if what == "make":
        made = {"minari": make_minari, "robomimic": make_robomimic, "ogbench": make_ogbench}
        made[library](kind if library == "minari" else path, num)  # type: ignore[operator]
        return
    read = {"minari": iterate_minari, "robomimic": iterate_robomimic, "ogbench": iterate_ogbench}
    for label, rate in read[library](kind, path).items():
        print(f"{label}\t{rate}")


def import_seconds(src: Path, dst: Path) -> float:
    from headstart.data.importers import import_dataset, recognise

    recognise(src)  # loads the parsers: the libraries' sides have theirs before the clock starts
    start = time.perf_counter()
    import_dataset(src, dst, control_hz=20)
    return time.perf_counter() - start


def compare(name: str, python: str, steps: int) -> None:
    library = name.partition("-")[0]
    num = max(1, steps // LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = os.environ | {"MINARI_DATASETS_PATH": folder, "PYTHONWARNINGS": "ignore"}

        def run(what: str) -> str:
            command = [python, __file__, "--side", what, name, folder, str(num)]
            done = subprocess.run(command, env=environment, check=True, capture_output=True)
            return done.stdout.decode()

        run("make")
        src = work / SOURCES.get(library, DATASET_ID)
        theirs = dict(line.split("\t") for line in run("read").splitlines() if "\t" in line)
        seconds = import_seconds(src, work / "ours")
        shutil.rmtree(work / "ours")
    ours = num * LENGTH / seconds
    for label, rate in theirs.items():
        ratio = ours / float(rate)
        print(f"{name:15} ours {ours:9,.0f} steps/s  {label} {float(rate):9,.0f}  {ratio:6.1f}x")


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        library_side(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser()
    for library in ("minari", "robomimic", "ogbench"):
        parser.add_argument(f"--{library}", metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--only", choices=FORMATS)
    arguments = parser.parse_args()
    for name in FORMATS:
        python = getattr(arguments, name.partition("-")[0])
        if python and arguments.only in (None, name):
            compare(name, python, arguments.steps)


if __name__ == "__main__":
    main()
