"""Names to tasks: list, look up, resolve splits."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType

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
    raise ValueError(f"unknown task '{task_id}'{did_you_mean(task_id, known)}")


def get_split(split: str) -> list[Task]:
    """The tasks of ``suite/split``, e.g. ``metaworld/ml45-train``; also accepts one task's id."""
    suite, _, name = split.partition("/")
    if suite in SUITES and name in SUITES[suite].SPLITS:
        return [SUITES[suite].TASKS[n] for n in SUITES[suite].SPLITS[name]]
    splits = [f"{s}/{n}" for s, module in SUITES.items() for n in module.SPLITS]
    known = splits + [task.id for task in all_tasks()]
    if split in known:
        return [get_task(split)]
    raise ValueError(f"unknown task or split '{split}'{did_you_mean(split, known)}")


def make(task: Task, seeds: Sequence[int], max_episode_steps: int | None = None) -> VecEnv:
    """Build one environment a seed."""
    return SUITES[task.suite].make(task, seeds, max_episode_steps)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A tail for an error message: the nearest of the known names."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known[:8])}"
