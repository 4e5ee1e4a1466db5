import numpy as np
import pytest

from headstart.behaviors.metaworld_phases import PHASES, pick_and_place
from headstart.behaviors.scripted import (
    CLOSE,
    GOAL,
    HAND,
    OBJECT,
    OPEN,
    Phase,
    Point,
    ScriptedExpert,
    less,
    more,
    near,
)
from headstart.rollout import Interaction, run_episodes
from headstart.suites.metaworld import TASKS
from headstart.suites.registry import make
from headstart.types import Task


def observation(
    hand: tuple = (0, 0.6, 0.2),
    opening: float = 1.0,
    obj: tuple = (0.1, 0.7, 0.02),
    goal: tuple = (0, 0.8, 0.1),
) -> np.ndarray:
    """(1, 21) of a task with one object; the other's channels are NaN, as in the suite."""
    obs = np.full((1, 21), np.nan, dtype=np.float32)
    obs[0, :3], obs[0, 3], obs[0, 4:7], obs[0, 7:11] = hand, opening, obj, (1, 0, 0, 0)
    obs[0, 18:] = goal
    return obs


def random_observations(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    low, high = [-0.3, 0.4, 0.0], [0.3, 0.9, 0.3]
    obs = rng.uniform(-1, 1, (n, 21))
    for first in (0, 4, 11, 18):
        obs[:, first : first + 3] = rng.uniform(low, high, (n, 3))
    obs[:, 3] = rng.uniform(0.2, 1.0, n)
    return obs.astype(np.float32)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (GOAL.shift(z=0.1), (0, 0.8, 0.2)),
        (OBJECT.replace(z=0.3, x=HAND), (0, 0.7, 0.3)),
        (HAND + GOAL - OBJECT, (-0.1, 0.7, 0.28)),
        ((OBJECT + GOAL) * 0.5, (0.05, 0.75, 0.06)),
        ((GOAL - OBJECT).quarter_turn(), (-0.1, -0.1, 0.08)),
    ],
)
def test_points_are_where_their_arithmetic_says(point: Point, expected: tuple) -> None:
    np.testing.assert_allclose(point(observation())[0], expected, atol=1e-6)


def test_conditions_look_at_their_axes_only() -> None:
    obs = observation(hand=(0.13, 0.74, 0.5), obj=(0.1, 0.7, 0.02))
    assert near(HAND, OBJECT, 0.06, "xy")(obs)  # the distance is 0.05
    assert not near(HAND, OBJECT, 0.04, "xy")(obs)
    assert not near(HAND, OBJECT, 0.06)(obs)
    assert less("y", OBJECT, HAND)(obs)
    assert more("z", HAND, 0.4)(obs)


def test_action_is_gain_times_error_clipped() -> None:
    phase = Phase("reach", GOAL, CLOSE, gain=10.0)
    action = phase.action(observation(hand=(0.02, 0.5, 0.15), goal=(0, 0.8, 0.1)))
    np.testing.assert_allclose(action, [[-0.2, 1.0, -0.5, 1.0]], atol=1e-5)


@pytest.mark.parametrize(("aside", "height"), [(0.0, 0.0), (0.02, 0.0), (0.03, 0.05), (0.09, 0.1)])
def test_standoff_fades_as_the_hand_lines_up(aside: float, height: float) -> None:
    phase = Phase("approach", GOAL, OPEN, standoff=(0, 0, 0.1), radius=0.02, gain=1.0)
    action = phase.action(observation(hand=(aside, 0.8, 0.5), goal=(0, 0.8, 0.1)))
    np.testing.assert_allclose(action, [[-aside, 0, 0.1 + height - 0.5, OPEN]], atol=1e-5)


@pytest.mark.parametrize(
    ("hand", "opening", "phase"),
    [
        ((0.0, 0.6, 0.2), 1.0, "approach"),
        ((0.1, 0.7, 0.05), 1.0, "close"),
        ((0.1, 0.7, 0.05), 0.5, "carry"),
        ((0.1, 0.75, 0.2), 0.5, "approach"),  # it was lost
    ],
)
def test_first_phase_that_applies_is_active(hand: tuple, opening: float, phase: str) -> None:
    expert = ScriptedExpert(TASKS["push"])
    expert.phases = pick_and_place(OBJECT.shift(z=0.03), GOAL)
    (active,) = expert.active(observation(hand, opening))
    assert expert.phases[active].name == phase


def test_all_tasks_have_a_table_that_always_decides() -> None:
    obs, ids = random_observations(200), np.arange(200)
    assert PHASES.keys() == TASKS.keys()
    for task in TASKS.values():
        expert = ScriptedExpert(task)
        assert expert.phases[-1].when == ()  # so that some phase always applies
        action = expert.act(obs, ids).action
        assert action.shape == (200, 4)
        assert action.dtype == np.float32
        assert (np.abs(action) <= 1.0).all()


def test_deciding_for_many_equals_deciding_one_by_one() -> None:
    obs = random_observations(50)
    for name in TASKS:
        expert = ScriptedExpert(TASKS[name])
        together = expert.act(obs, np.arange(50)).action
        single = [expert.act(obs[i : i + 1], np.array([i])).action[0] for i in range(50)]
        np.testing.assert_allclose(together, single, atol=1e-6)


def test_task_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no scripted expert for task 'other/push'"):
        ScriptedExpert(Task("other", "push", "", (), 100, 10.0))


@pytest.mark.parametrize("name", ["pick-place", "button-press", "door-open", "dial-turn"])
def test_expert_solves(name: str) -> None:
    env = make(TASKS[name], [11, 22, 33])
    episodes = dict(run_episodes(Interaction(env, ScriptedExpert(TASKS[name])), max_steps=150))
    env.close()
    assert [episodes[i].success[-1] for i in range(3)] == [True, True, True]
