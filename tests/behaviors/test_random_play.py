import numpy as np

from headstart.behaviors.random_play import RandomPlay
from headstart.suites.metaworld import TASKS


def play(seeds: tuple[int, ...], steps: int, std: float = 0.2) -> np.ndarray:
    """(steps, n, 4)"""
    actor = RandomPlay(TASKS["reach"], seeds, std=std)
    ids = np.arange(len(seeds))
    actor.reset(ids)
    obs = np.zeros((len(seeds), 21), dtype=np.float32)
    return np.stack([actor.act(obs, ids).action for _ in range(steps)])


def test_same_seed_same_stream_whatever_the_neighbours() -> None:
    np.testing.assert_array_equal(play((1, 2), 20)[:, 1], play((2,), 20)[:, 0])
    assert (play((1, 2), 20)[:, 0] != play((1, 2), 20)[:, 1]).any()


def test_actions_have_the_deviation_and_the_correlation_asked_for() -> None:
    actions = play(tuple(range(50)), 400)  # (T, n, A); 0.2 is hardly ever clipped at 1
    assert abs(actions.std() - 0.2) < 0.01
    correlation = np.corrcoef(actions[:-1].ravel(), actions[1:].ravel())[0, 1]
    assert abs(correlation - 0.95) < 0.01


def test_actions_stay_in_bounds() -> None:
    actions = play((1, 2, 3), 200, std=2.0)
    assert actions.min() == -1.0
    assert actions.max() == 1.0
