"""A disk that fills up: at every operation, at a limit on the size of a file, and for real."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_operations
import oracle
import torch

from headstart.artifact import write_json
from headstart.data.store import DatasetWriter
from headstart.model.checkpoint import load_training, save_training
from headstart.types import Task

STEPS = 4
"""What is tried in turn while the disk is full: to open, to save twice, to close."""


def recording(out: Path, task: Task, every: int) -> dict[str, Any]:
    """The disk is full from the n-th operation on, for each n (``every``: only so many-th)."""
    failures: list[str] = []
    total = _record_until_full(out / "count", task, 10**9, [])
    points = range(0, total, every)
    for point in points:
        _record_until_full(out / str(point), task, point, failures)
    return {"points": len(points), "operations": total, "failures": failures}


def _record_until_full(root: Path, task: Task, point: int, failures: list[str]) -> int:
    """Record, go on once there is room, and compare. Returns how many operations there were."""
    with DatasetWriter(root, task) as writer:
        writer.save_episodes([oracle.episode(i, task) for i in range(2)])
    count = 0
    inner = file_operations.fail_at(point)

    def around(number: int, name: str, do: Any, arguments: Any) -> Any:
        nonlocal count
        count = number + 1
        return inner(number, name, do, arguments)

    def attempt(what: str, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except OSError as error:
            if str(root) not in str(error.filename) or "\n" in str(error):
                failures.append(f"operation {point}, {what}: no path in '{error}'")
        except ValueError as error:
            failures.append(f"operation {point}, {what}: ValueError: {error}")
        return None

    saved = 2
    with file_operations.intercepted(around):
        writer = attempt("open", lambda: DatasetWriter(root, task))
        for _ in range(2):
            if writer is None:
                break
            if attempt("save", lambda held=writer: _save(held, held.num_episodes, task)):
                saved += 2
    failures += [f"operation {point}, while full: {p}" for p in _compare(root, task, saved)]
    if writer is None:
        writer = DatasetWriter(root, task)
    if attempt("save again", lambda: _save(writer, writer.num_episodes, task)):
        saved += 2
    else:
        failures.append(f"operation {point}: cannot go on although there is room")
    with file_operations.intercepted(file_operations.fail_at(point % 7)):
        attempt("close", writer.close)
    failures += [f"operation {point}, at the end: {p}" for p in _compare(root, task, saved)]
    return count


def _save(writer: DatasetWriter, first: int, task: Task) -> bool:
    writer.save_episodes([oracle.episode(first + i, task) for i in range(2)])
    return True


def _compare(root: Path, task: Task, saved: int) -> list[str]:
    try:
        return oracle.problems(root, task, saved)
    except ValueError as error:
        return [f"ValueError: {error}"]


def file_size_limit(out: Path, limits: list[int]) -> dict[str, Any]:
    """No file may be longer than so many bytes: the system refuses the write (EFBIG)."""
    failures: list[str] = []
    for limit in limits:
        root = out / str(limit)
        with DatasetWriter(root, oracle.STATE) as writer:
            _save(writer, 0, oracle.STATE)
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                _save(writer, 2, oracle.STATE)
                failures.append(f"{limit} bytes were enough")
            except OSError as error:
                if str(root) not in str(error.filename):
                    failures.append(f"limit {limit}: no path in '{error}'")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            failures += [f"limit {limit}: {p}" for p in _compare(root, oracle.STATE, 2)]
            _save(writer, 2, oracle.STATE)
        failures += [f"limit {limit}, after: {p}" for p in _compare(root, oracle.STATE, 4)]
    return {"limits": len(limits), "failures": failures}


def small_disk(out: Path, megabytes: int) -> dict[str, Any] | None:
    """Record on a file system in memory until it is full, make room, go on. None: not root."""
    mount = out / "disk"
    mount.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return None
    failures: list[str] = []
    rounds = 0
    try:
        ballast, root = mount / "ballast", mount / "set"
        with DatasetWriter(root, oracle.STATE) as writer:
            _save(writer, 0, oracle.STATE)
            for _ in range(3):
                _fill(ballast)
                saved = writer.num_episodes
                try:
                    while True:  # what a few pages still hold
                        _save(writer, writer.num_episodes, oracle.STATE)
                        saved = writer.num_episodes
                except OSError as error:
                    if str(root) not in str(error.filename):
                        failures.append(f"no path in '{error}'")
                failures += _compare(root, oracle.STATE, saved)
                ballast.unlink()
                _save(writer, saved, oracle.STATE)
                rounds += 1
                failures += _compare(root, oracle.STATE, saved + 2)
            _fill(ballast)
        failures.append("closed on a full disk without a word")
    except OSError as error:
        if str(mount) not in str(error.filename):
            failures.append(f"close: no path in '{error}'")
    finally:
        ballast.unlink(missing_ok=True)
        try:
            failures += _compare(root, oracle.STATE, 4)
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    return {"megabytes": megabytes, "rounds": rounds, "failures": failures}


def _fill(path: Path) -> None:
    try:
        with open(path, "ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass


def training(out: Path) -> dict[str, Any]:
    """The disk is full at each operation of writing a checkpoint, or a JSON file."""
    failures = []
    point = total = 0
    while point <= total:
        path = out / str(point) / "checkpoint.safetensors"
        for update in (1, 2):
            save_training(path, {"a": torch.full((5,), update)}, {"updates": update})
        write_json(path.parent / "result.json", {"is": "old"})
        inner = file_operations.fail_at(point)

        def around(number: int, name: str, do: Any, arguments: Any, inner: Any = inner) -> Any:
            nonlocal total
            total = max(total, number + 1)
            return inner(number, name, do, arguments)

        for write in (
            lambda path=path: save_training(path, {"a": torch.full((5,), 3)}, {"updates": 3}),
            lambda path=path: write_json(path.parent / "result.json", {"is": "new"}),
        ):
            try:
                with file_operations.intercepted(around):
                    write()
            except OSError as error:
                if str(path.parent) not in str(error.filename):
                    failures.append(f"operation {point}: no path in '{error}'")
        found = load_training(path)
        if found is None or found[1]["updates"] < 2 or found[0]["a"][0] != found[1]["updates"]:
            failures.append(f"operation {point}: {found} is left of the checkpoint")
        save_training(path, {"a": torch.full((5,), 4)}, {"updates": 4})
        if (load_training(path) or ({}, {}))[1] != {"updates": 4}:
            failures.append(f"operation {point}: no checkpoint although there is room")
        if leftovers := [p.name for p in path.parent.iterdir() if p.name.startswith(".")]:
            failures.append(f"operation {point}: left behind {leftovers}")
        point += 1
    return {"points": point, "failures": failures}
