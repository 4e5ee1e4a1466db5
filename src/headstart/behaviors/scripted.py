"""Scripted experts: a small reactive engine that runs a table of phases.

A decision depends on the current observation alone, with no phase counter and no memory, so that
it is the right label in any state that a perturbed or a learned policy reaches. Geometry is
written as points that are affine in the observation, so all environments are decided at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headstart.behaviors.base import Decision
from headstart.suites import metaworld
from headstart.types import Task

Vector = tuple[float, float, float]
Condition = Callable[[np.ndarray], np.ndarray]
"""Observations (n, O) to (n,) bool."""

_COLUMNS = {channel.name: i for i, channel in enumerate(metaworld.TASKS["reach"].obs_channels)}
_AXES = "xyz"
OPEN, CLOSE = -1.0, 1.0
"""Gripper efforts."""


@dataclass(frozen=True, eq=False)
class Point:
    """A place in metres, affine in the observation: ``weights @ obs + offset``.

    Example: ``GOAL.shift(z=0.1)`` is 10 cm above the goal, ``OBJECT.replace(z=0.2)`` is 20 cm
    above the table over the object, ``HAND + GOAL - OBJECT`` is where the hand takes what it
    holds to the goal.
    """

    weights: np.ndarray  # (3, O) float64
    offset: np.ndarray  # (3,) float64

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """obs (n, O) to places (n, 3) float64."""
        used = self.weights.any(axis=0)  # channels that the task has not are NaN
        return obs[:, used].astype(np.float64) @ self.weights[:, used].T + self.offset

    def __add__(self, other: Point | Vector) -> Point:
        if isinstance(other, Point):
            return Point(self.weights + other.weights, self.offset + other.offset)
        return Point(self.weights, self.offset + np.asarray(other))

    def shift(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Point:
        """This point moved by so many metres."""
        return self + (x, y, z)  # noqa: RUF005

    def __sub__(self, other: Point) -> Point:
        return Point(self.weights - other.weights, self.offset - other.offset)

    def __mul__(self, factor: float) -> Point:
        return Point(self.weights * factor, self.offset * factor)

    def quarter_turn(self) -> Point:
        """Turned by 90 degrees about the vertical axis, anti-clockwise from above: (-y, x, z)."""
        rows, signs = [1, 0, 2], np.array([-1.0, 1.0, 1.0])
        return Point(self.weights[rows] * signs[:, None], self.offset[rows] * signs)

    def replace(self, **axes: Point | float) -> Point:
        """This point with some of its coordinates, e.g. ``z``, fixed or taken from another."""
        weights, offset = self.weights.copy(), self.offset.copy()
        for name, value in axes.items():
            i = _AXES.index(name)
            weights[i] = value.weights[i] if isinstance(value, Point) else 0.0
            offset[i] = value.offset[i] if isinstance(value, Point) else value
        return Point(weights, offset)


def _observed(name: str) -> Point:
    weights = np.zeros((3, len(_COLUMNS)))
    for i, axis in enumerate(_AXES):
        weights[i, _COLUMNS[f"{name}/{axis}"]] = 1.0
    return Point(weights, np.zeros(3))


HAND, OBJECT, OBJECT_2, GOAL = map(_observed, ("hand", "object/1", "object/2", "goal"))
_ORIGIN = GOAL - GOAL


def fixed(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Point:
    """The same place whatever is observed."""
    return _ORIGIN.shift(x, y, z)


def near(a: Point, b: Point, radius: float, axes: str = "xyz") -> Condition:
    """``a`` is within ``radius`` metres of ``b``, looking at these axes only."""
    columns = [_AXES.index(axis) for axis in axes]
    difference = a - b
    return lambda obs: np.linalg.norm(difference(obs)[:, columns], axis=1) <= radius


def less(axis: str, a: Point, b: Point | float) -> Condition:
    """``a`` lies before ``b`` along this axis."""
    difference = a - b if isinstance(b, Point) else a - fixed(b, b, b)
    column = _AXES.index(axis)
    return lambda obs: difference(obs)[:, column] < 0.0


def more(axis: str, a: Point, b: Point | float) -> Condition:
    """``a`` lies beyond ``b`` along this axis."""
    return invert(less(axis, a, b))


def opening_less(opening: float) -> Condition:
    """The gripper is less open than this (1: fully open; about 0.3: closed on nothing)."""
    column = _COLUMNS["gripper/opening"]
    return lambda obs: obs[:, column] < opening


def invert(condition: Condition) -> Condition:
    return lambda obs: ~condition(obs)


@dataclass(frozen=True, eq=False)
class Phase:
    """Where to move, and when.

    The hand keeps a stand-off from the target until it is aligned with it. With e = target - hand,
    u the stand-off's direction and d = |e - (e.u) u| the distance from the line of approach::

        goes to  target + standoff * clip(d / radius - 1, 0, 1)

    so it approaches along one smooth curve, from the side that the stand-off is on.
    """

    name: str
    target: Point
    gripper: float
    """Effort in [-1, 1]: ``OPEN`` to ``CLOSE``."""
    when: tuple[Condition, ...] = ()
    """All must hold."""
    standoff: Vector = (0.0, 0.0, 0.0)  # m
    radius: float = 0.02
    """Metres from the line of approach within which there is no stand-off."""
    gain: float = 10.0
    """Action per metre of error; at 10 the arm settles without overshoot; 1 cm a step at most."""

    def applies(self, obs: np.ndarray) -> np.ndarray:
        """obs (n, O) to (n,) bool."""
        holds = np.ones(len(obs), dtype=bool)
        for condition in self.when:
            holds &= condition(obs)
        return holds

    def action(self, obs: np.ndarray) -> np.ndarray:
        """obs (n, O) to actions (n, 4) float32."""
        error = (self.target - HAND)(obs)
        standoff = np.asarray(self.standoff)
        if standoff.any():
            direction = standoff / np.linalg.norm(standoff)
            aside = error - (error @ direction)[:, None] * direction
            distance = np.linalg.norm(aside, axis=1)
            error = error + np.clip(distance / self.radius - 1.0, 0.0, 1.0)[:, None] * standoff
        move = np.clip(self.gain * error, -1.0, 1.0)
        return np.column_stack([move, np.full(len(obs), self.gripper)]).astype(np.float32)


class ScriptedExpert:
    """Acts by the first phase of the task's table that applies.

    Args:
        task: a Meta-World task.

    Raises:
        ValueError: there is no table for the task.
    """

    name = "expert"

    def __init__(self, task: Task) -> None:
        # Here, because the tables are written with this module's points and phases.
        from headstart.behaviors.metaworld_phases import PHASES

        if task.suite != "metaworld" or task.name not in PHASES:
            raise ValueError(f"no scripted expert for task '{task.id}'; there is one for metaworld")
        self.phases = PHASES[task.name]

    def reset(self, env_ids: np.ndarray) -> None:
        """Nothing to forget."""

    def active(self, obs: np.ndarray) -> np.ndarray:
        """obs (n, O) to (n,) int: the index of the phase that each is in."""
        return np.argmax([phase.applies(obs) for phase in self.phases], axis=0)

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        active = self.active(obs)
        action = np.empty((len(obs), 4), dtype=np.float32)
        for i in np.unique(active):
            rows = active == i
            action[rows] = self.phases[i].action(obs[rows])
        return Decision(action)
