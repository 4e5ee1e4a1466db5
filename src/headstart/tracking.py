"""Where metrics are shown while a run goes on. TensorBoard files by default; no network."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from headstart.config import did_you_mean

TRACKERS = ("tensorboard", "none", "trackio", "wandb")


class Tracker(Protocol):
    """Shows numbers. A run's own record is metrics.jsonl; a tracker is a copy."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def purge(self, step: int) -> None:
        """The run goes on from ``step``: what was logged after it is void."""
        ...

    def close(self) -> None: ...


def make_tracker(name: str, root: Path, config: Any) -> Tracker | None:
    """The tracker called ``name``, writing under ``root``; None for "none".

    Args:
        config: JSON values to show beside the numbers, where the tracker can.

    Raises:
        ValueError: no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise ValueError(f"unknown tracker '{name}'{did_you_mean(name, TRACKERS)}")
    if name == "none":
        return None
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"tracker '{name}' is not installed; pip install {name}")
    if name == "tensorboard":
        return TensorBoardTracker(root / "tensorboard")
    return RunTracker(name, root, config)


class TensorBoardTracker:
    """Scalars as TensorBoard event files in ``folder``, through TensorBoard's own record writer.

    Neither TensorFlow nor torch is imported. The file is made at the first ``log``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: Any = None
        self._purged: int | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore

        value = Summary.Value
        values = [value(tag=tag, simple_value=float(x)) for tag, x in metrics.items()]
        if self._records is None:
            self._records = self._open()
            self._begin()
        self._write(step=step, summary=Summary(value=values))

    def purge(self, step: int) -> None:
        self.close()
        self._purged = step

    def close(self) -> None:
        if self._records is not None:
            self._records.close()
            self._records = None

    def _open(self) -> Any:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        return RecordWriter(open(self._folder / name, "wb"))

    def _begin(self) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore

        self._write(file_version="brain.Event:2")
        if self._purged is not None:
            # TensorBoard drops what earlier files have from this step on.
            self._write(step=self._purged + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()


class RunTracker:
    """Trackio or Weights & Biases, which share ``init`` and ``log``."""

    def __init__(self, package: str, root: Path, config: Any) -> None:
        self._module = importlib.import_module(package)
        self._module.init(project="headstart", name=root.name, config=config)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._module.log(dict(metrics), step=step)

    def purge(self, step: int) -> None:
        """Nothing: what these have been sent stays."""

    def close(self) -> None:
        self._module.finish()
