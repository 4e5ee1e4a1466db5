"""What survives: every durability test at full size, and one table.

    make durability
    python benchmarks/durability.py --only power_loss --scale 0.1

Recordings and runs are killed, the power is cut, the disk fills up, files are damaged and made to
harm; see tests/durability/ for how. Half an hour on two cores, most of it starting processes.
With ``--only`` a report of the same size keeps what it says of the other checks.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from headstart.artifact import read_json, write_json

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "torch", "pyarrow", "safetensors", "av", "h5py", "headstart")
FAILURES = ("failures", "missed", "wrong", "lost")
SEED = 0

sys.path[:0] = [str(ROOT / "tests" / part) for part in ("durability", "model", "")]


def checks(scale: float) -> dict[str, Callable[[Path], dict[str, Any]]]:
    """Each check by name: given a folder it returns its counts, and what failed as lists."""
    names = ("recorder", "power_loss", "disk_full", "corruption", "trainer", "hostile", "oracle")
    recorder, power_loss, disk_full, corruption, trainer, hostile, oracle = (
        importlib.import_module(name) for name in names
    )

    def n(full: int) -> int:
        return max(1, round(full * scale))

    def every(full: int = 1) -> int:
        return max(1, round(full / scale))

    def train(out: Path, check: Callable[..., dict[str, Any]], **options: Any) -> dict[str, Any]:
        with trainer.Trainer(out / "prepared") as process:
            return check(process, out, seed=SEED, **options)

    tasks = {"state": oracle.STATE, "cameras": oracle.CAMERAS}
    found: dict[str, Callable[[Path], dict[str, Any]]] = {}
    for name, task in tasks.items():
        found |= {
            f"recorder_kill, {name}: random instants": lambda out, name=name: recorder.random_kills(
                out, name, n(100), SEED, longest_s=0.5
            ),
            f"recorder_kill, {name}: every operation": lambda out, name=name: (
                recorder.kills_at_every_point(out, name, every())
            ),
            f"power_loss, {name}: every operation": lambda out, task=task: power_loss.recording(
                out, task, every(), variants=4, seed=SEED
            ),
            f"disk_full, {name}: every operation": lambda out, task=task: disk_full.recording(
                out, task, every()
            ),
        }
    return found | {
        "power_loss, checkpoints: every operation": lambda out: power_loss.training(
            out, variants=20, seed=SEED
        ),
        "disk_full, checkpoints: every operation": disk_full.training,
        "disk_full: limit on the size of files": lambda out: disk_full.file_size_limit(
            out, [1, 500, 1000, 2000, 4000]
        ),
        "disk_full: a file system of 8 MB": lambda out: (
            disk_full.small_disk(out, 8) or {"skipped": "only root may mount", "failures": []}
        ),
        "corruption: any kind of any file": lambda out: corruption.campaign(out, n(500), SEED),
        **{
            f"trainer_kill: {stage}": lambda out, stage=stage: train(
                out, trainer.campaign, stage=stage, runs=n(8), deaths=4
            )
            for stage in trainer.STAGES
        },
        "trainer_kill: torn checkpoint": lambda out: train(out, trainer.torn_checkpoint),
        "hostile: mutated files": lambda out: hostile.campaign(out, n(2000), SEED),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results/durability/report.json")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    parser.add_argument("--only", default="", help="checks whose name has this")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": f"python benchmarks/durability.py --scale {options.scale:g}",
        "config": {"scale": options.scale, "seed": SEED},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": {
            "system": platform.system(),
            "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "checks": {},
    }
    if options.only and options.out.exists():
        before = read_json(options.out)
        report["checks"] = before["checks"] if before["config"]["scale"] == options.scale else {}
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    for name, check in checks(options.scale).items():
        if options.only not in name:
            continue
        folder = Path(tempfile.mkdtemp(dir=memory))
        began = time.perf_counter()
        try:
            counts = check(folder)
        finally:
            shutil.rmtree(folder)
        counts["wall_s"] = round(time.perf_counter() - began, 1)
        report["checks"][name] = counts
        numbers = {k: v for k, v in counts.items() if isinstance(v, int) and k != "wall_s"}
        failed = {key: len(counts[key]) for key in FAILURES if key in counts}
        said = ", ".join(f"{v} {k}" for k, v in (numbers | failed).items())
        print(f"{name:44s} {said}, {counts['wall_s']:.0f} s", flush=True)
        for key in failed:
            for line in counts[key][:3]:
                print(f"    {key}: {line}")
    report["passed"] = not any(c.get(key) for c in report["checks"].values() for key in FAILURES)
    write_json(options.out, report)
    print(options.out, "passed" if report["passed"] else "FAILED")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
