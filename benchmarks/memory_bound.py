"""Training on a dataset ten times the memory: memory stays bounded, and what it costs in speed.

    python benchmarks/memory_bound.py --folder /tmp/memory --memory-mb 800

Writes a dataset's flat copy there (data/cache.py) that is ten times ``memory-mb``, then trains a
small model on it in a process of its own, first in a control group that limits memory, page cache
included, to that much, with nothing of the copy cached; then without a limit. Verifying the copy
and the statistics happen under the limit too. Needs the right to make control groups (root);
without it there is no limit, and the memory that cannot be evicted is all that is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import synthetic
from headstart.data import cache
from headstart.data.trajectories import Trajectories

GROUPS = (  # version 2, version 1
    (Path("/sys/fs/cgroup/headstart-benchmark"), "memory.max"),
    (Path("/sys/fs/cgroup/memory/headstart-benchmark"), "memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Arguments:
    folder: Path
    """Where the flat copy is, or is written to."""
    memory_mb: int = 800
    times: int = 10
    """How many times the memory the copy is."""
    updates: int = 400


def write_copy(root: Path, num_steps: int) -> None:
    """A flat copy of episodes of EPISODE_STEPS steps, unless it is there."""
    path = root / "steps.npy"
    if path.exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    width = synthetic.NUM_OBS + synthetic.NUM_ACTIONS
    some = np.random.default_rng(0).standard_normal((2**18, width), dtype=np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (num_steps, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, num_steps, len(some)):
            file.write(some[: num_steps - first].data)


def open_copy(root: Path) -> Trajectories:
    """Verified and mapped into memory as ``open_cache`` does."""
    cache._describe(root / "steps.npy")
    rows = cache.map_rows(root / "steps.npy")
    start = np.arange(0, len(rows), synthetic.EPISODE_STEPS)
    names = np.array([f"synthetic/walk-{k % synthetic.NUM_TASKS}" for k in range(len(start))])
    return Trajectories.select(
        synthetic.CHANNELS[: synthetic.NUM_OBS],
        synthetic.CHANNELS[synthetic.NUM_OBS :],
        rows,
        start,
        np.full(len(start), synthetic.EPISODE_STEPS),
        names,
        names,
        np.zeros(len(start), bool),
    )


def train(root: Path, updates: int) -> None:
    """In a process of its own: train, and print what it took."""
    import torch

    from headstart.data.loader import LoaderConfig
    from headstart.data.mixture import Mixture
    from headstart.model.learner import Learner, make_loader
    from headstart.model.transformer import ModelConfig
    from headstart.stages.pretrain import PretrainConfig, build_model

    torch.set_num_threads(1)
    config = PretrainConfig(
        data=(str(root),),
        updates=updates,
        model=ModelConfig(n_layer=2, n_head=4, n_embd=64),
        loader=LoaderConfig(num_prompts=8, num_windows=16),
    )
    began = time.perf_counter()
    data = Mixture.of(open_copy(root))
    opened = time.perf_counter()
    learner = Learner(build_model(config, data), config.learner, updates)
    loader = make_loader(data, config.loader, learner.model, 0)
    ready = time.perf_counter()
    waited = 0.0
    peak_mb = 0.0
    batches = loader.batches(0, updates)
    for update in range(updates):
        if update == updates // 2:  # warm
            warm, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        learner.step([batch], update)
        peak_mb = max(peak_mb, anonymous_mb())
    took = time.perf_counter() - warm
    print(
        f"flat copy opened in {opened - began:.1f} s, statistics in {ready - opened:.1f} s;"
        f" {updates / 2 / took:.1f} updates/s, waiting for data {waited / took:.1%};"
        f" memory that cannot be evicted {peak_mb:.0f} MB",
        flush=True,
    )


def anonymous_mb() -> float:
    """Memory of this process that is no cached file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def forget(root: Path) -> None:
    """Drop the files from the page cache, so that whoever reads them next has them charged."""
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def run(root: Path, updates: int, group: Path | None) -> None:
    code = f"import os, memory_bound as m; from pathlib import Path; m.train(Path({str(root)!r}),"
    if group is not None:
        code = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {code}"
    command = [sys.executable, "-c", f"{code} {updates})"]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=False)
    if done.returncode:
        print(f"failed with {done.returncode}; -9 is what running out of memory looks like")


def limited_group(limit_bytes: int) -> Path | None:
    for group, name in GROUPS:
        try:
            group.mkdir(exist_ok=True)
        except OSError:
            continue
        if (group / name).exists():
            (group / name).write_text(str(limit_bytes))
            return group
        group.rmdir()  # a folder like any other: no control groups of this version here
    return None


def main(arguments: Arguments) -> None:
    root = arguments.folder / "copy"
    limit = arguments.memory_mb * 2**20
    row_bytes = 4 * (synthetic.NUM_OBS + synthetic.NUM_ACTIONS)
    steps = limit * arguments.times // row_bytes
    write_copy(root, steps - steps % synthetic.EPISODE_STEPS)
    forget(root)
    group = limited_group(limit)
    if group is None:
        print("no right to make a control group: nothing is limited")
    else:
        print(f"{limit * arguments.times / 2**20:,.0f} MB of steps, {arguments.memory_mb} MB:")
        run(root, arguments.updates, group)
    print("without a limit:")
    run(root, arguments.updates, None)
    if group is not None:
        forget(root)
        print("with it again:")
        run(root, arguments.updates, group)
        group.rmdir()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
