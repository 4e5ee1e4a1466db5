"""Joules, where the machine can tell: RAPL for processors, NVML for NVIDIA's GPUs.

Counters are of whole devices, so that all that runs on the machine meanwhile is counted too.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
MOST_W = 1000.0
"""More than any processor package draws: how soon a counter may have come around twice."""
POLL_EVERY_S = 5.0


@dataclass(frozen=True)
class Counter:
    """A device's count of what it has drawn."""

    read_j: Callable[[], float]
    """Raises OSError or ValueError where it cannot be read."""
    range_j: float = math.inf
    """Where it begins again at zero."""


class Gauge:
    """What the processors, and the GPUs held, have drawn since the gauge was made.

    One counter that cannot be read makes the whole unknown, and so does a pause between two
    readings in which a counter could have come around twice.

    Args:
        num_gpus: GPUs held, the first that CUDA_VISIBLE_DEVICES names.
        powercap: the kernel's folder of RAPL counters, which on many systems only root can read.
    """

    def __init__(self, num_gpus: int = 0, powercap: Path = POWERCAP) -> None:
        self._joules: float | None = 0.0
        try:
            self._counters = _packages(powercap) + _gpus(num_gpus)
            self._last = [counter.read_j() for counter in self._counters]
        except (ImportError, OSError, ValueError):
            self._joules = None
        self._read_at = time.monotonic()

    def joules(self) -> float | None:
        """None where the machine cannot tell. [J]"""
        if self._joules is None:
            return None
        now = time.monotonic()
        try:
            readings = [counter.read_j() for counter in self._counters]
        except (OSError, ValueError):
            self._joules = None
            return None
        for counter, before, after in zip(self._counters, self._last, readings, strict=True):
            came_around = counter.range_j if after < before else 0.0
            self._joules += after - before + came_around
            if came_around == math.inf or (now - self._read_at) * MOST_W >= counter.range_j:
                self._joules = None
                return None
        self._last, self._read_at = readings, now
        return self._joules

    def poll(self) -> None:
        """Read where that is due; to be called every few seconds, or the answer is unknown."""
        if time.monotonic() - self._read_at >= POLL_EVERY_S:
            self.joules()


def _packages(powercap: Path) -> list[Counter]:
    """The processors' packages; what is below one (cores, memory) is counted in it."""
    zones = [z for z in sorted(powercap.glob("intel-rapl:*")) if z.name.count(":") == 1]
    packages = [z for z in zones if (z / "name").read_text().startswith("package-")]
    if not packages:
        raise OSError(f"{powercap}: no processor tells what it draws")
    drawn = [(partial(_joules, z / "energy_uj"), z / "max_energy_range_uj") for z in packages]
    return [Counter(read_j, _joules(range_uj)) for read_j, range_uj in drawn]


def _joules(path: Path) -> float:
    """The microjoules in a file as joules."""
    return int(path.read_text()) / 1e6


def _gpus(count: int) -> list[Counter]:
    """The first GPUs that this process sees. GPUs without a number are counted by their bus."""
    if not count:
        return []
    nvml = importlib.import_module("pynvml")  # of nvidia-ml-py, the extra "energy"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [_gpu(nvml, name.strip()) for name in visible.split(",")[:count]]


def _gpu(nvml: Any, name: str) -> Counter:
    """The GPU of a number or a UUID; NVML's counter does not come around."""
    try:
        nvml.nvmlInit()
        by = nvml.nvmlDeviceGetHandleByIndex if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID
        handle = by(int(name) if name.isdecimal() else name)
    except nvml.NVMLError as error:
        raise OSError(str(error)) from None

    def read_j() -> float:
        try:
            return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # from millijoules
        except nvml.NVMLError as error:
            raise OSError(str(error)) from None

    return Counter(read_j)
