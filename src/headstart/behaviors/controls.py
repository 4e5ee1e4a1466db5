"""What one demonstration is worth without any learning: the controls of "shown once"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.behaviors.base import Decision
from headstart.types import Channel, Episode


class OpenLoop:
    """Replays the demonstration's actions, blind; holds the last one.

    Args:
        demonstrations: what to replay.
        envs_per_demonstration: environment i replays demonstration i // envs_per_demonstration.
    """

    name = "open-loop"

    def __init__(self, demonstrations: Sequence[Episode], envs_per_demonstration: int) -> None:
        self._labels = [episode.label for episode in demonstrations]
        self._envs_per_demonstration = envs_per_demonstration
        self._step = np.zeros(len(demonstrations) * envs_per_demonstration, dtype=np.int64)

    def reset(self, env_ids: np.ndarray) -> None:
        self._step[env_ids] = 0

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        actions = []
        for env_id in env_ids.tolist():
            label = self._labels[env_id // self._envs_per_demonstration]
            actions.append(label[min(self._step[env_id], len(label) - 1)])
        self._step[env_ids] += 1
        return Decision(np.array(actions, dtype=np.float32))


class NearestNeighbour:
    """Does what the demonstration did at its step most like the present one.

    Distances are over the channels that are there, each in its own deviation over the
    demonstration's steps (1-nearest-neighbour retrieval; REGENT, arXiv:2412.04759, reports how
    strong this is).

    Args:
        demonstrations: what to look up in.
        envs_per_demonstration: environment i uses demonstration i // envs_per_demonstration.
        obs_channels: the columns of the observations.
        relative: compare where the hand is relative to the objects and the goal, and look at
            nothing else that has a place; so that a scene that moved as a whole looks the same.
    """

    def __init__(
        self,
        demonstrations: Sequence[Episode],
        envs_per_demonstration: int,
        obs_channels: Sequence[Channel],
        relative: bool,
    ) -> None:
        self.name = "retrieval-relative" if relative else "retrieval"
        self._envs_per_demonstration = envs_per_demonstration
        self._names = [channel.name for channel in obs_channels]
        self._relative = relative
        self._labels = [episode.label for episode in demonstrations]
        keys = [self._features(episode.obs) for episode in demonstrations]
        self._scales = [np.maximum(key.std(axis=0), 0.01) for key in keys]
        self._keys = [key / scale for key, scale in zip(keys, self._scales, strict=True)]

    def reset(self, env_ids: np.ndarray) -> None:
        """It has no memory."""

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        which = env_ids // self._envs_per_demonstration
        action = np.zeros((len(obs), self._labels[0].shape[1]), dtype=np.float32)
        for k in np.unique(which):
            rows = np.flatnonzero(which == k)
            query = self._features(obs[rows]) / self._scales[k]
            distance = np.square(query[:, None] - self._keys[k][None]).sum(axis=-1)
            action[rows] = self._labels[k][distance.argmin(axis=1)]
        return Decision(action)

    def _features(self, obs: np.ndarray) -> np.ndarray:
        """(n, F): what is compared; missing channels count as 0 on both sides."""
        if not self._relative:
            return np.nan_to_num(obs)
        place = {n: k for k, n in enumerate(self._names)}
        hand = obs[:, [place[f"hand/{axis}"] for axis in "xyz"]]
        stems = dict.fromkeys(n[:-2] for n in self._names if n[-2:] in ("/x", "/y", "/z"))
        others = [stem for stem in stems if stem != "hand"]
        offsets = [obs[:, [place[f"{stem}/{axis}"] for axis in "xyz"]] - hand for stem in others]
        rest = [k for n, k in place.items() if n[-2:] not in ("/x", "/y", "/z")]
        return np.nan_to_num(np.concatenate([*offsets, obs[:, rest]], axis=1))
