"""The same skill seen in another frame: mirrored, turned over and shifted copies of a task.

A demonstration and an episode that are re-expressed in one common random frame still belong
together, but to a task that no other sequence shows. With few tasks in the data this is what
teaches a model to read the demonstration instead of recognising the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from headstart.types import TokenBatch

SHIFT_M = 0.05
"""Deviation of the random shift of all positions [m]."""


def vectors(names: Sequence[str]) -> list[list[int]]:
    """Columns of each x, y, z triple: ``hand/x hand/y hand/z`` or ``hand/dx hand/dy hand/dz``."""
    index = {name: k for k, name in enumerate(names)}
    triples = []
    for name in names:
        stem, _, last = name.rpartition("/")
        if last in ("x", "dx"):
            triple = [f"{stem}/{last[:-1]}{axis}" for axis in "xyz"]
            if all(t in index for t in triple):
                triples.append([index[t] for t in triple])
    return triples


class RandomFrames:
    """Draws frames and re-expresses batches in them.

    A frame is one of the 48 symmetries of the cube (a signed permutation of the axes), which keep
    an action's box a box, and a shift. Channels that belong to no x, y, z triple are left alone,
    but for quaternions (``.../q0`` to ``q3``), which become missing.

    Nothing is turned where the actions are no displacements in space (a dx, dy, dz triple): the
    same joint angles mean something else in another frame.

    Args:
        obs_names, action_names: the columns.
        chunks: the data, arrays (n, O); frames turn about the middle of its positions.
    """

    def __init__(
        self, obs_names: Sequence[str], action_names: Sequence[str], chunks: Iterable[np.ndarray]
    ) -> None:
        self._obs_vectors = vectors(obs_names)
        self._action_vectors = [
            triple for triple in vectors(action_names) if action_names[triple[0]].endswith("dx")
        ]
        self._quaternions = [k for k, n in enumerate(obs_names) if n[-3:-1] == "/q"]
        self._turns = bool(self._obs_vectors and self._action_vectors)
        self._centre = _middle(chunks, self._obs_vectors) if self._turns else np.zeros(3)

    def turn(self, batch: TokenBatch, rng: np.random.Generator, probability: float) -> None:
        """Re-express each sequence of a batch, with this probability, in a frame of its own."""
        if not self._turns:
            return
        chosen = np.flatnonzero(rng.random(len(batch.obs)) < probability)
        if not len(chosen):
            return
        matrices, shifts = self._draw(rng, len(chosen))
        num_obs = batch.obs.shape[-1]
        batch.obs[chosen] = self._turn_points(batch.obs[chosen], matrices, shifts)
        batch.change[chosen] = _turn(batch.change[chosen], self._obs_vectors, matrices)
        batch.action[chosen] = _turn(batch.action[chosen], self._action_vectors, matrices)
        batch.label[chosen] = _turn(batch.label[chosen], self._action_vectors, matrices)
        if batch.demonstration is not None:
            shown = batch.demonstration[chosen]
            shown[..., :num_obs] = self._turn_points(shown[..., :num_obs], matrices, shifts)
            shown[..., num_obs:] = _turn(shown[..., num_obs:], self._action_vectors, matrices)
            batch.demonstration[chosen] = shown

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (count, 3, 3) and shifts (count, 3) [m]."""
        axes = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
        signs = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=(count, 3, 1))
        shifts = rng.normal(0.0, SHIFT_M, (count, 3)).astype(np.float32)
        return np.eye(3, dtype=np.float32)[axes] * signs, shifts

    def _turn_points(self, obs: np.ndarray, matrices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Observations (B, ..., O) of B sequences, the positions in each sequence's frame."""
        centred = obs.copy()
        shift = shifts.reshape(len(obs), *[1] * (obs.ndim - 2), 3)
        for triple in self._obs_vectors:
            centred[..., triple] -= self._centre
        turned = _turn(centred, self._obs_vectors, matrices)
        for triple in self._obs_vectors:
            turned[..., triple] += self._centre + shift
        for column in self._quaternions:
            turned[..., column] = np.nan
        return turned


def _middle(chunks: Iterable[np.ndarray], triples: list[list[int]]) -> np.ndarray:
    """(3,) float32: mean of all positions, missing ones (NaN) left out."""
    total, count = np.zeros(3), np.zeros(3)
    for chunk in chunks:
        points = np.concatenate([chunk[:, triple] for triple in triples])
        total += np.nansum(points, axis=0)  # chunks in float32, over chunks in float64
        count += (~np.isnan(points)).sum(axis=0)
    return (total / np.maximum(count, 1)).astype(np.float32)


def _turn(values: np.ndarray, triples: list[list[int]], matrices: np.ndarray) -> np.ndarray:
    """Vectors among the columns of (B, ..., C), each of B sequences by its own (3, 3) matrix."""
    turned = values.copy()
    rows = values.reshape(len(values), -1, values.shape[-1])
    for triple in triples:
        vector = np.matmul(rows[..., triple], matrices.transpose(0, 2, 1))
        turned[..., triple] = vector.reshape(*values.shape[:-1], 3)
    return turned
