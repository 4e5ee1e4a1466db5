import numpy as np
import pytest

import sequences
from headstart.behaviors.controls import NearestNeighbour, OpenLoop
from headstart.types import Channel, Episode


@pytest.fixture
def shown() -> list[Episode]:
    return [sequences.episode("t/a", "go", 6, seed) for seed in (0, 1)]


def test_open_loop_replays_and_holds_the_last_action(shown):
    actor = OpenLoop(shown, envs_per_demonstration=2)
    ids = np.array([1, 3])
    actor.reset(ids)
    done = np.stack([actor.act(np.zeros((2, 7)), ids).action for _ in range(8)])
    for column, episode in enumerate(shown):
        np.testing.assert_array_equal(done[:6, column], episode.label)
        np.testing.assert_array_equal(done[6:, column], np.repeat(episode.label[-1:], 2, axis=0))
    actor.reset(np.array([3]))
    np.testing.assert_array_equal(actor.act(np.zeros((1, 7)), ids[1:]).action[0], shown[1].label[0])


@pytest.mark.parametrize("relative", [False, True])
def test_retrieval_at_a_step_of_the_demonstration_does_what_was_done_there(shown, relative):
    actor = NearestNeighbour(shown, 1, sequences.OBS, relative)
    for env, episode in enumerate(shown):
        for step in range(6):
            decision = actor.act(episode.obs[step : step + 1], np.array([env]))
            np.testing.assert_array_equal(decision.action[0], episode.label[step])


def test_only_relative_retrieval_sees_through_a_moved_scene(shown):
    step = 4
    moved = shown[0].obs[step : step + 1].copy()
    moved[:, [0, 1, 2, 4, 5, 6]] += 3.0  # hand and goal together
    relative = NearestNeighbour(shown, 2, sequences.OBS, relative=True)
    np.testing.assert_array_equal(
        relative.act(moved, np.array([0])).action[0], shown[0].label[step]
    )


def test_a_missing_channel_does_not_poison_the_distance(shown):
    channels = (*sequences.OBS, Channel("object/2/x", "observation", "m"))
    for episode in shown:
        episode.obs = np.concatenate([episode.obs, np.full((6, 1), np.nan, np.float32)], axis=1)
    actor = NearestNeighbour(shown, 1, channels, relative=False)
    np.testing.assert_array_equal(
        actor.act(shown[0].obs[3:4], np.array([0])).action[0], shown[0].label[3]
    )
