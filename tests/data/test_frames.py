import numpy as np

import sequences
from headstart.data.frames import RandomFrames, vectors
from headstart.data.loader import LoaderConfig


def test_vectors_are_found_by_name():
    names = [
        "hand/x",
        "hand/y",
        "hand/z",
        "gripper",
        "goal/x",
        "goal/z",
        "arm/dx",
        "arm/dy",
        "arm/dz",
    ]
    assert vectors(names) == [[0, 1, 2], [6, 7, 8]]


def test_a_turned_sequence_keeps_distances_and_what_action_does_to_them():
    loader = sequences.loader(LoaderConfig(num_prompts=12, told=0.0, shown=1.0, random_frames=0.0))
    names = [c.name for c in sequences.OBS], [c.name for c in sequences.ACTIONS]
    frames = RandomFrames(*names, [sequences.trajectories().obs])
    batch, turned = loader.batch(0), loader.batch(0)
    frames.turn(turned, np.random.default_rng(0), probability=1.0)
    assert not np.allclose(batch.obs, turned.obs, equal_nan=True)
    gap = batch.obs[..., 4:7] - batch.obs[..., :3]
    turned_gap = turned.obs[..., 4:7] - turned.obs[..., :3]
    np.testing.assert_allclose(
        np.linalg.norm(gap, axis=-1), np.linalg.norm(turned_gap, axis=-1), rtol=1e-4
    )
    # Towards the goal stays towards the goal: gap and action turn together.
    np.testing.assert_allclose(
        (gap * batch.label).sum(-1), (turned_gap * turned.label).sum(-1), rtol=1e-4, atol=1e-5
    )
    # The demonstration is in the same frame as the episode.
    assert batch.demonstration is not None and turned.demonstration is not None
    span = batch.demonstration[:, 0, :3] - batch.obs[:, 0, 0, :3]
    turned_span = turned.demonstration[:, 0, :3] - turned.obs[:, 0, 0, :3]
    np.testing.assert_allclose(
        np.linalg.norm(span, axis=-1), np.linalg.norm(turned_span, axis=-1), rtol=1e-4
    )
    assert np.abs(turned.label[~np.isnan(turned.label)]).max() <= 1.0


def test_probability_zero_changes_nothing():
    loader = sequences.loader(LoaderConfig(told=0.0, shown=1.0, random_frames=0.0))
    names = [c.name for c in sequences.OBS], [c.name for c in sequences.ACTIONS]
    frames = RandomFrames(*names, [sequences.trajectories().obs])
    batch, same = loader.batch(0), loader.batch(0)
    frames.turn(same, np.random.default_rng(0), probability=0.0)
    np.testing.assert_array_equal(batch.obs, same.obs)
    np.testing.assert_array_equal(batch.action, same.action)


def test_quaternions_are_missing_in_a_turned_frame():
    loader = sequences.loader(LoaderConfig(told=0.0, shown=1.0, random_frames=1.0))
    assert np.isnan(loader.batch(0).obs[..., 3]).all()


def test_a_body_whose_actions_are_no_displacements_is_left_as_it_is():
    loader = sequences.loader(LoaderConfig(told=0.0, shown=1.0, random_frames=0.0))
    names = [c.name for c in sequences.OBS], ["joint/1", "joint/2", "joint/3"]
    frames = RandomFrames(*names, [sequences.trajectories().obs])
    batch, same = loader.batch(0), loader.batch(0)
    frames.turn(same, np.random.default_rng(0), probability=1.0)
    np.testing.assert_array_equal(batch.obs, same.obs)


def test_frames_turn_about_the_mean_of_all_known_positions():
    names = [f"hand/{a}" for a in "xyz"], [f"hand/d{a}" for a in "xyz"]
    first = np.array([[1, 2, 3], [3, 4, np.nan]], np.float32)
    second = np.array([[5, 6, 7]], np.float32)
    frames = RandomFrames(*names, [first, second])
    assert frames._centre.tolist() == [3.0, 4.0, 5.0]
