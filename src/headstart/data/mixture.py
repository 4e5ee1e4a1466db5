"""Several datasets trained on as one: whose sequences, how many of them, in which columns."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.trajectories import Trajectories
from headstart.types import Channel, Episode, Streams

SLACK = 1e-9
"""Shares that sum to 1 but for rounding do sum to 1."""


@dataclass(frozen=True)
class Source:
    """A dataset and its share of the training sequences; None: whatever is left.

    Example: ``Source.parse("my/data=0.3")``.
    """

    path: Path
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """From ``PATH`` or ``PATH=SHARE``. An "=" that no number follows belongs to the path.

        Raises:
            ValueError: a share that is not above 0 and at most 1, or in per cent.
        """
        path, _, tail = text.rpartition("=")
        if path and re.fullmatch(r"\d+(\.\d+)? ?%", tail):
            share = float(tail.rstrip(" %")) / 100
            raise ValueError(f"{text}: a share is a part of 1: {path}={share:g}")
        try:
            share = float(tail)
        except ValueError:
            return cls(Path(text))
        if not path:  # a folder that is called by a number
            return cls(Path(text))
        if not 0.0 < share <= 1.0:
            raise ValueError(f"{text}: a share of the sequences is above 0 and at most 1")
        return cls(Path(path), share)


@dataclass(frozen=True)
class Mixture:
    """Data of several bodies. The columns are the channels of all, by name.

    Episodes and tasks are counted through, one part after another.
    """

    parts: tuple[Trajectories, ...]
    shares: tuple[float, ...] | None = None
    """Of the sequences, summing to 1, one a part; in a part every task has the same. None: every
    task of any part has the same."""

    @classmethod
    def of(cls, data: Trajectories | Mixture) -> Mixture:
        """Trajectories are a mixture of one."""
        return data if isinstance(data, Mixture) else cls((data,))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for part in self.parts for task in part.tasks)

    @property
    def instructions(self) -> tuple[str, ...]:
        """One a task."""
        return tuple(text for part in self.parts for text in part.instructions)

    @property
    def obs_channels(self) -> tuple[Channel, ...]:
        return union([part.obs_channels for part in self.parts])

    @property
    def action_channels(self) -> tuple[Channel, ...]:
        return union([part.action_channels for part in self.parts])

    @property
    def task_probability(self) -> np.ndarray | None:
        """(tasks,) how often each task is drawn; None: all alike."""
        if self.shares is None:
            return None
        each = [
            np.full(len(part.tasks), share / len(part.tasks))
            for part, share in zip(self.parts, self.shares, strict=True)
        ]
        return np.concatenate(each)


def resolve_shares(sources: Sequence[Source], num_tasks: Sequence[int]) -> tuple[float, ...] | None:
    """Each source's share of the sequences; None where every task of any source has the same.

    Sources without a share split what the others leave in proportion to their tasks, so that two
    halves of a dataset behave as the whole.

    Raises:
        ValueError: shares that sum to more than 1, or leave nothing for a source without one, or
            sum to less where every source has one.
    """
    given = math.fsum(s.share for s in sources if s.share is not None)
    open_tasks = sum(n for s, n in zip(sources, num_tasks, strict=True) if s.share is None)
    if given == 0.0 or (len(sources) == 1 and given == 1.0):
        return None
    if given > 1.0 + SLACK:
        raise ValueError(f"the datasets' shares sum to {given:g}; they are parts of 1")
    if open_tasks and given > 1.0 - SLACK:
        name = next(s.path for s in sources if s.share is None)
        raise ValueError(f"the other datasets' shares leave nothing for {name}; give it a share")
    if not open_tasks and given < 1.0 - SLACK:
        raise ValueError(
            f"the datasets' shares sum to {given:g}, not to 1; leave one of them out to give it"
            " the rest"
        )
    left = 1.0 - given
    return tuple(
        left * n / open_tasks if s.share is None else s.share
        for s, n in zip(sources, num_tasks, strict=True)
    )


def union(channels: Sequence[tuple[Channel, ...]]) -> tuple[Channel, ...]:
    """The channels of several bodies by name, in order of first appearance."""
    found: dict[str, Channel] = {}
    for body in channels:
        for channel in body:
            found.setdefault(channel.name, channel)
    return tuple(found.values())


def in_columns(episode: Episode, own: Streams, wanted: Streams) -> Episode:
    """The episode in the columns of other channels, by name.

    What only ``own`` has is left out, what only ``wanted`` has is missing (NaN). Where the channels
    are the same it is the very episode.
    """
    if own.channels == wanted.channels:
        return episode
    obs, action = (
        (own.obs_channels, wanted.obs_channels),
        (own.action_channels, wanted.action_channels),
    )
    label = episode.action_expert
    return replace(
        episode,
        obs=_columns(episode.obs, *obs),
        final_obs=_columns(episode.final_obs, *obs),
        action=_columns(episode.action, *action),
        action_expert=None if label is None else _columns(label, *action),
    )


def _columns(values: np.ndarray, own: Sequence[Channel], wanted: Sequence[Channel]) -> np.ndarray:
    """(..., own) -> (..., wanted) float32, NaN where there is no such column."""
    place = {channel.name: k for k, channel in enumerate(own)}
    found = np.full((*values.shape[:-1], len(wanted)), np.nan, np.float32)
    for k, channel in enumerate(wanted):
        if channel.name in place:
            found[..., k] = values[..., place[channel.name]]
    return found


def check_channels(sources: Sequence[tuple[Path, Sequence[Channel]]]) -> None:
    """Refuse datasets that mean different things by one name.

    Raises:
        ValueError: a channel has another role or unit in another dataset.
    """
    first: dict[str, tuple[Path, Channel]] = {}
    for path, channels in sources:
        for channel in channels:
            where, known = first.setdefault(channel.name, (path, channel))
            if known != channel:
                raise ValueError(
                    f"{path}: channel '{channel.name}' is {channel.role} [{channel.unit}], in"
                    f" {where} it is {known.role} [{known.unit}]; one of them needs another name"
                )
