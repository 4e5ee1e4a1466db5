"""Runs in an environment that has LeRobot (see loader_rate.py): windows a second of its own reader.

    python lerobot_windows.py DATASET PLACES.npy FOUND.npy WINDOW COMPARED ROUNDS

Reads the windows that begin at the steps in PLACES.npy (observation and action of WINDOW steps),
with LeRobotDataset's ``delta_timestamps`` and a DataLoader of no, one and two workers, and writes
the first COMPARED of them to FOUND.npy.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"


def main(root: str, places_path: str, found_path: str, *numbers: str) -> None:
    window, compared, rounds = map(int, numbers)
    import lerobot  # type: ignore[import-not-found]
    import numpy as np
    import torch
    from lerobot.datasets.lerobot_dataset import (  # type: ignore[import-not-found]
        LeRobotDataset,
    )

    fps = LeRobotDataset("any/name", root=root).fps
    deltas = [k / fps for k in range(window)]
    columns = ("observation.state", "action")
    dataset: Any = LeRobotDataset(
        "any/name", root=root, delta_timestamps={name: deltas for name in columns}
    )
    places = np.load(places_path).tolist()
    items = [dataset[place] for place in places[:compared]]
    found = [torch.cat([item[name] for name in columns], dim=-1).numpy() for item in items]
    np.save(found_path, np.stack(found))
    for workers in (0, 1, 2):
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, places),
            batch_size=64,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        best = 0.0
        for _ in range(rounds):
            for count, _ in enumerate(loader):  # workers start with the first batch
                if count == 2:
                    began = time.perf_counter()
            best = max(best, (count - 2) * 64 / (time.perf_counter() - began))
        version = getattr(lerobot, "__version__", "")
        print(f"LeRobot {version}, {workers} workers: {best:.0f} windows/s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
