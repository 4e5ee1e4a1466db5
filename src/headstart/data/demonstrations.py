"""Demonstrations: which episodes of a dataset they are, and in which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.config import listed
from headstart.data.mixture import check_channels, in_columns
from headstart.data.store import Dataset
from headstart.types import Episode, Task


class Demonstrations:
    """Unperturbed successful episodes of each task in a dataset, in the columns of a task, without
    pictures.

    They are chosen by their seeds: episodes are stored as they end, and the first to end are the
    quickest. A dataset may have other channels than a task, or the same in another order, as
    merged ones do: columns are found by name.

    Args:
        root: the dataset; None: there are none.
        most: of each task.

    Raises:
        ValueError: a missing or damaged dataset.
    """

    def __init__(self, root: Path | None, most: int) -> None:
        self.root = root
        self._dataset = None if root is None else Dataset(root)
        self._found: dict[str, list[Episode]] = {}
        if self._dataset is None:
            return
        table = self._dataset.episode_table()
        undisturbed = np.flatnonzero(table["behavior"] != "perturbed-expert")
        in_order = undisturbed[np.argsort(table["seed"][undisturbed], kind="stable")]
        for episode in self._dataset.episodes(in_order.tolist()):
            if episode.success.any() and len(self._found.get(episode.task_id, [])) < most:
                self._found.setdefault(episode.task_id, []).append(replace(episode, images={}))

    @property
    def tasks(self) -> list[str]:
        """Tasks that there is a demonstration of."""
        return list(self._found)

    def of(self, task: Task) -> list[Episode]:
        """The task's own. An observation channel that they do not have is NaN.

        Raises:
            ValueError: an action channel that they do not have, or a channel that is something
                else in the dataset.
        """
        episodes = self._in_columns(task, task.id)
        missing = [name for episode in episodes for name in _without_action(episode, task)]
        if missing:
            raise ValueError(
                f"{self.root}: a demonstration of {task.id} has no action channel '{missing[0]}'"
            )
        return episodes

    def of_others(self, task: Task) -> dict[str, list[Episode]]:
        """Those of each other task in this one's columns. Of a body without one of its action
        channels there are none.

        Raises:
            ValueError: a channel that is something else in the dataset.
        """
        others = {name: self._in_columns(task, name) for name in self._found if name != task.id}
        return {
            name: same_body
            for name, episodes in others.items()
            if (same_body := [e for e in episodes if not _without_action(e, task)])
        }

    def _in_columns(self, task: Task, name: str) -> list[Episode]:
        """The demonstrations of task ``name`` in the columns of ``task``."""
        dataset, episodes = self._dataset, self._found.get(name, [])
        if dataset is None or not episodes:
            return []
        check_channels([(Path(task.id), task.channels), (dataset.root, dataset.channels)])
        return [in_columns(episode, dataset, task) for episode in episodes]


def enough_demonstrations(
    root: Path, tasks: Sequence[Task], count: int
) -> dict[str, list[Episode]]:
    """Demonstrations of each of these tasks by its id, as many as asked for, in its columns.

    Raises:
        ValueError: a task has fewer, or they do not have its channels.
    """
    known = Demonstrations(root, count)
    found = {task.id: known.of(task) for task in tasks}
    for task_id, episodes in found.items():
        if (num := len(episodes)) < count:
            others = f"; there are some of {listed(known.tasks)}" if known.tasks and not num else ""
            raise ValueError(
                f"{root}: {num} demonstrations of {task_id} that succeed, {count} needed;"
                f" collect more{others}"
            )
    return found


def _without_action(episode: Episode, task: Task) -> list[str]:
    """Action channels of the task that the episode, in its columns, does not have."""
    columns = zip(task.action_channels, episode.action.T, strict=True)
    return [channel.name for channel, column in columns if np.isnan(column).all()]
