"""Names to tasks: list, look up, resolve splits."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from headstart.config import did_you_mean
from headstart.suites import metaworld
from headstart.suites.base import VecEnv
from headstart.types import Task

SUITES: dict[str, ModuleType] = {"metaworld": metaworld}


def all_tasks() -> list[Task]:
    return [task for suite in SUITES.values() for task in suite.TASKS.values()]


def get_task(task_id: str) -> Task:
    """The task called ``suite/name``.

    Raises:
        ValueError: no such suite or task; the message has the nearest names.
    """
    suite, _, name = task_id.partition("/")
    if suite in SUITES and name in SUITES[suite].TASKS:
        return SUITES[suite].TASKS[name]
    known = [task.id for task in all_tasks()]
    raise ValueError(f"unknown task '{task_id}'{_nearest(task_id, known)}")


def get_split(split: str) -> list[Task]:
    """The tasks of ``suite/split``, e.g. ``metaworld/ml45-train``; also accepts one task's id.

    Raises:
        ValueError: no such split or task; the message has the nearest names.
    """
    suite, _, name = split.partition("/")
    if suite in SUITES and name in SUITES[suite].SPLITS:
        return [SUITES[suite].TASKS[n] for n in SUITES[suite].SPLITS[name]]
    splits = [f"{s}/{n}" for s, module in SUITES.items() for n in module.SPLITS]
    known = splits + [task.id for task in all_tasks()]
    if split in known:
        return [get_task(split)]
    raise ValueError(f"unknown task or split '{split}'{_nearest(split, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    """``did_you_mean``, and if only the suite was left out, the name with its suite."""
    whole = [k for k in known if k.partition("/")[2] == name]
    return f"; did you mean {' or '.join(whole)}?" if whole else did_you_mean(name, known)


def make(task: Task, seeds: Sequence[int], max_episode_steps: int | None = None) -> VecEnv:
    """Build one environment a seed."""
    return SUITES[task.suite].make(task, seeds, max_episode_steps)


def task_index(task: Task) -> int:
    """The task's place in its suite."""
    return list(SUITES[task.suite].TASKS).index(task.name)
