import numpy as np
import pytest

from headstart.behaviors.perturbed import Perturbation, PerturbedExpert
from headstart.behaviors.scripted import ScriptedExpert
from headstart.suites.metaworld import TASKS


def expert(seeds: tuple[int, ...], perturbation: Perturbation | None = None) -> PerturbedExpert:
    actor = PerturbedExpert(ScriptedExpert(TASKS["reach"]), seeds, perturbation)
    actor.reset(np.arange(len(seeds)))
    return actor


def play(actor: PerturbedExpert, obs: np.ndarray, steps: int) -> np.ndarray:
    """(steps, n, 4) actions executed at an observation that stays."""
    ids = np.arange(len(obs))
    return np.stack([actor.act(obs, ids).action for _ in range(steps)])


@pytest.fixture
def obs() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (2, 21)).astype(np.float32)


def test_label_is_the_clean_action_and_the_executed_one_is_not(obs: np.ndarray) -> None:
    ids = np.arange(2)
    decision = expert((1, 2)).act(obs, ids)
    clean = ScriptedExpert(TASKS["reach"]).act(obs, ids).action
    np.testing.assert_array_equal(decision.label, clean)
    assert (decision.action != clean).any(axis=1).all()
    assert (np.abs(decision.action) <= 1.0).all()


def test_perturbations_depend_on_the_environments_own_seed_alone(obs: np.ndarray) -> None:
    same = np.stack([obs[0], obs[0]])
    first, second = play(expert((1, 2)), same, 40), play(expert((2, 1)), same, 40)
    np.testing.assert_array_equal(first, second[:, ::-1])
    assert (first[:, 0] != first[:, 1]).any()


def test_next_episode_draws_a_stream_of_its_own(obs: np.ndarray) -> None:
    actor = expert((1, 2))
    first = play(actor, obs, 10)
    actor.reset(np.array([0]))
    second = play(actor, obs, 10)
    assert (first[:, 0] != second[:, 0]).any()

    # ... however long the first one was.
    shorter = expert((1, 2))
    play(shorter, obs, 3)
    shorter.reset(np.array([0]))
    np.testing.assert_array_equal(play(shorter, obs, 10)[:, 0], second[:, 0])


def test_a_burst_holds_one_direction_and_then_the_expert_goes_on(obs: np.ndarray) -> None:
    only_first = Perturbation(0.0, burst_rate=0.0, start_burst_rate=1.0, burst_steps=(5, 5))
    actions = play(expert((1, 2), only_first), obs, 8)
    clean = ScriptedExpert(TASKS["reach"]).act(obs, np.arange(2)).action
    assert (actions[:5] == actions[0]).all()
    np.testing.assert_allclose(np.linalg.norm(actions[0, :, :3], axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(actions[5:], np.broadcast_to(clean, (3, 2, 4)))


def test_a_flip_takes_the_gripper_the_other_way(obs: np.ndarray) -> None:
    flips = Perturbation(0.0, 0.0, start_burst_rate=1.0, burst_steps=(5, 5), flip_rate=1.0)
    actor = expert((1, 2), flips)
    decision = actor.act(obs, np.arange(2))
    assert decision.label is not None
    np.testing.assert_array_equal(decision.action[:, 3], -decision.label[:, 3])
