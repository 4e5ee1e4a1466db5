"""Recordings that are killed: a child process records the oracle's episodes until it dies.

Children are forked from one process that has everything imported, so that many can be killed in
the time that one takes to start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import file_operations
import oracle

from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Task

TASKS = {"state": oracle.STATE, "cameras": oracle.CAMERAS}


@dataclass(frozen=True)
class Recording:
    """What a child is to do, and when to die."""

    root: str
    task: str = "state"
    saves: int = 10_000
    batch: int = 1
    """Episodes a save."""
    point: int | None = None
    """Number of the file operation to die at; counted from the opening of the writer."""
    when: str = "before"
    after_s: float | None = None
    """Die this long after the writer was opened [s]."""


def record(job: Recording, acknowledge: int) -> None:
    """Open the dataset, go on with the next number, and report each save to a descriptor."""
    task = TASKS[job.task]
    around = None if job.point is None else file_operations.kill_at(job.point, job.when)
    watched = nullcontext() if around is None else file_operations.intercepted(around)
    with watched, DatasetWriter(job.root, task) as writer:
        file_operations.REAL["write"](acknowledge, b"0\n")
        for _ in range(job.saves):
            first = writer.num_episodes
            writer.save_episodes([oracle.episode(first + i, task) for i in range(job.batch)])
            file_operations.REAL["write"](acknowledge, b"%d\n" % writer.num_episodes)
    file_operations.REAL["write"](acknowledge, b"closed\n")


class Recorder:
    """Runs recordings one after another."""

    def __init__(self) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def run(self, job: Recording) -> tuple[int, int, bool]:
        """(episodes acknowledged, exit code, whether it came to its end)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(job)), file=self._process.stdin, flush=True)
        reply = json.loads(self._process.stdout.readline())
        return reply["acknowledged"], reply["code"], reply["closed"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def check(root: Path, task: Task, acknowledged: int) -> list[str]:
    """Open what a dead recorder left, as a user would: read it, then go on recording."""
    wrong = []
    try:
        if acknowledged:
            wrong += oracle.problems(root, task, acknowledged)
        for _ in range(2):
            with DatasetWriter(root, task) as writer:
                first = writer.num_episodes
                writer.save_episodes([oracle.episode(first, task)])
                writer.save_episodes([oracle.episode(first + 1, task)])
            wrong += oracle.problems(root, task, first + 2)
    except (ValueError, OSError) as error:
        wrong.append(f"{type(error).__name__}: {error}")
    return wrong


def random_kills(out: Path, task: str, number: int, seed: int, longest_s: float) -> dict[str, Any]:
    """Kill recordings at random instants, several in a row in each dataset."""
    rng = random.Random(seed)
    failures, episodes = [], 0
    recorder = Recorder()
    root = out / "0"
    for k in range(number):
        if k % 4 == 0:  # three deaths in a row, then a new dataset
            root = out / str(k)
        job = Recording(str(root), task, batch=rng.choice((1, 1, 5)),
                        after_s=rng.uniform(0.0, longest_s))  # fmt: skip
        before = Dataset(root).num_episodes if (root / "meta/info.json").exists() else 0
        acknowledged, code, _ = recorder.run(job)
        assert code == -signal.SIGKILL, f"the recorder ended with {code}"
        episodes += max(acknowledged - before, 0)
        failures += [f"kill {k}: {p}" for p in check(root, TASKS[task], acknowledged)]
    recorder.close()
    return {"kills": number, "acknowledged_episodes": episodes, "failures": failures}


def count_operations(out: Path, task: str, saves: int, batch: int) -> list[str]:
    """Names of the file operations of a whole recording."""
    names: list[str] = []

    def note(_number: int, name: str, do: Any, _arguments: Any) -> Any:
        names.append(name)
        return do()

    with file_operations.intercepted(note), DatasetWriter(out, TASKS[task]) as writer:
        for _ in range(saves):
            first = writer.num_episodes
            writer.save_episodes([oracle.episode(first + i, TASKS[task]) for i in range(batch)])
    return names


def kills_at_every_point(out: Path, task: str, every: int, saves: int = 2) -> dict[str, Any]:
    """Kill recordings before, after and, writes, half through each operation of opening, saving
    and closing; ``every``: only so many-th of these points."""
    names = count_operations(out / "count", task, saves, batch=2)
    points = [
        (number, when)
        for number, name in enumerate(names)
        for when in ("before", "after", "half")
        if when != "half" or name in ("write", "pwrite")
    ][::every]
    failures = []
    recorder = Recorder()
    for number, when in points:
        root = out / f"{number}-{when}"
        acknowledged, code, _ = recorder.run(
            Recording(str(root), task, saves, batch=2, point=number, when=when)
        )
        if code not in (0, -signal.SIGKILL):
            failures.append(f"{number} {names[number]} {when}: the recorder ended with {code}")
        found = check(root, TASKS[task], acknowledged)
        failures += [f"{when} operation {number} ({names[number]}): {p}" for p in found]
    recorder.close()
    return {"points": len(points), "operations": len(names), "failures": failures}


def serve() -> None:
    """Fork a child for each line of standard input, and say how it ended. Runs in the recorder."""
    for line in sys.stdin:
        job = Recording(**json.loads(line))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(read)
                record(job, write)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        with open(read) as file:
            lines = [file.readline().strip()]  # the writer is open
            if job.after_s is not None:
                time.sleep(job.after_s)
                os.kill(child, signal.SIGKILL)
            lines += file.read().split()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        numbers = [int(line) for line in lines if line.isdigit()]
        reply = {"code": code, "closed": "closed" in lines, "acknowledged": max(numbers, default=0)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve()
