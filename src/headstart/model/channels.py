"""Values to tokens and back: what a model knows of each channel, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.config import did_you_mean
from headstart.data.mixture import union
from headstart.data.trajectories import Trajectories
from headstart.types import Channel

DEVIATION_FLOOR = 0.02
"""No value is taken to deviate less than this (its own unit): noise is not blown up to a signal."""
CHANGE_FLOOR = 1e-4
"""The same for a change from one step to the next."""


@dataclass(frozen=True)
class ChannelStatistics:
    """A channel as a model knows it. Normalised value = (value - mean) / deviation.

    An action's mean and deviation are the middle and half the width of its range, so that its
    normalised values fill [-1, 1], where the action bins are.
    """

    name: str
    role: str
    unit: str
    mean: float
    deviation: float
    change_deviation: float
    """Deviation of the change to the next step; 1 where changes are not predicted."""

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def measure(parts: Sequence[Trajectories]) -> tuple[ChannelStatistics, ...]:
    """Statistics of all steps of one or more sets, observation channels first.

    One pass in chunks: a set may be larger than the memory. Missing values (NaN) are left out. A
    channel that several sets have is one channel.
    """
    values: dict[str, Moments] = {}
    changes: dict[str, Moments] = {}
    for part in parts:
        names = [c.name for c in (*part.obs_channels, *part.action_channels)]
        num_obs = len(part.obs_channels)
        for rows, breaks in part.chunks():
            columns = np.ascontiguousarray(rows.T)
            goes_on = np.flatnonzero(~breaks[:-1])
            for name, column in zip(names, columns, strict=False):
                values.setdefault(name, Moments()).add(column)
            for name, column in zip(names[:num_obs], columns, strict=False):
                changes.setdefault(name, Moments()).add(np.diff(column)[goes_on])
    obs = union([part.obs_channels for part in parts])
    action = union([part.action_channels for part in parts])
    return (
        *(_of_observation(c, values[c.name], changes[c.name]) for c in obs),
        *(_of_action(c, values[c.name]) for c in action),
    )


class Moments:
    """Mean, deviation and range of a channel, gathered chunk by chunk.

    A chunk's own moments are of float32, in two passes; chunks are merged in float64 (Chan et al.
    1979), so that a long sum does not stall.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._variance = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Another chunk (n,) float32; NaN is left out."""
        missing = np.isnan(values)
        values = values[~missing] if missing.any() else values
        if not len(values):
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, values.max())
        mean, variance, n = float(values.mean()), float(values.std()) ** 2, len(values)
        total = self.count + n
        if self.count:
            gap = mean - self.mean
            between = gap * gap * (self.count / total) * (n / total)
            variance = (self.count * self._variance + n * variance) / total + between
            mean = self.mean + gap * n / total
        self.mean, self._variance, self.count = mean, variance, total

    @property
    def deviation(self) -> float:
        """Standard deviation; 1 where there is no value."""
        return float(np.sqrt(self._variance)) if self.count else 1.0


def _of_observation(channel: Channel, value: Moments, change: Moments) -> ChannelStatistics:
    return ChannelStatistics(
        channel.name,
        channel.role,
        channel.unit,
        mean=value.mean,
        deviation=max(value.deviation, DEVIATION_FLOOR),
        change_deviation=max(change.deviation, CHANGE_FLOOR),
    )


def _of_action(channel: Channel, value: Moments) -> ChannelStatistics:
    low, high = (float(value.low), float(value.high)) if value.count else (-1.0, 1.0)
    return ChannelStatistics(
        channel.name,
        channel.role,
        channel.unit,
        mean=(low + high) / 2,
        deviation=max((high - low) / 2, DEVIATION_FLOOR),
        change_deviation=1.0,
    )


def columns(known: Sequence[ChannelStatistics], wanted: Sequence[Channel]) -> list[int]:
    """Where the wanted channels stand among the known.

    Raises:
        ValueError: the model does not know a channel, or knows another by that name.
    """
    index = {channel.name: k for k, channel in enumerate(known)}
    for channel in wanted:
        if channel.name not in index:
            raise ValueError(
                f"the model knows no channel '{channel.name}'"
                f"{did_you_mean(channel.name, list(index))}"
            )
        own = known[index[channel.name]]
        if (own.role, own.unit) != (channel.role, channel.unit):
            raise ValueError(
                f"channel '{channel.name}' is {channel.role} [{channel.unit}], the model knows it"
                f" as {own.role} [{own.unit}]"
            )
    return [index[channel.name] for channel in wanted]
