"""Values to tokens and back: what a model knows of each channel, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.config import did_you_mean
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


def measure(
    obs_channels: Sequence[Channel],
    action_channels: Sequence[Channel],
    obs: np.ndarray,
    action: np.ndarray,
    last_step: np.ndarray,
) -> tuple[ChannelStatistics, ...]:
    """Statistics of flat data, observation channels first. Missing values (NaN) are left out.

    Args:
        obs: (T, O). action: (T, A). last_step: (T,) bool, true where an episode ends.
    """
    change = (obs[1:] - obs[:-1])[~last_step[:-1]]
    result = []
    for index, channel in enumerate(obs_channels):
        values = obs[:, index][~np.isnan(obs[:, index])]
        deltas = change[:, index][~np.isnan(change[:, index])]
        result.append(
            ChannelStatistics(
                channel.name,
                channel.role,
                channel.unit,
                mean=float(values.mean()) if len(values) else 0.0,
                deviation=max(float(values.std()) if len(values) else 1.0, DEVIATION_FLOOR),
                change_deviation=max(float(deltas.std()) if len(deltas) else 1.0, CHANGE_FLOOR),
            )
        )
    for index, channel in enumerate(action_channels):
        low, high = float(np.nanmin(action[:, index])), float(np.nanmax(action[:, index]))
        result.append(
            ChannelStatistics(
                channel.name,
                channel.role,
                channel.unit,
                mean=(low + high) / 2,
                deviation=max((high - low) / 2, DEVIATION_FLOOR),
                change_deviation=1.0,
            )
        )
    return tuple(result)


def columns(known: Sequence[ChannelStatistics], wanted: Sequence[str]) -> list[int]:
    """Where the wanted channels stand among the known.

    Raises:
        ValueError: the model does not know a channel.
    """
    index = {channel.name: k for k, channel in enumerate(known)}
    for name in wanted:
        if name not in index:
            raise ValueError(
                f"the model knows no channel '{name}'{did_you_mean(name, list(index))}"
            )
    return [index[name] for name in wanted]
