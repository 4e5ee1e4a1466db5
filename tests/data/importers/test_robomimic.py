"""Small files that robomimic 0.3.0's scripts wrote are read as its SequenceDataset reads them."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from headstart.data.importers import robomimic

FILES = Path(__file__).parents[1] / "files" / "robomimic-0.3.0"
LIBERO = FILES / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5"
LENGTHS = [6, 4, 3, 5]  # demo_0, demo_1, demo_2, demo_10
STATE = ("object", "robot0_eef_pos")


def opened(name: str, robot: str = ""):
    source = robomimic.open_source(FILES / f"{name}.hdf5", robot)
    with np.load(FILES / f"{name}.npz") as theirs:
        return source, list(source.episodes()), dict(theirs)


@pytest.mark.parametrize("name", ["square", "square_packed"])
def test_every_value_is_what_robomimic_reads(name):
    _, episodes, theirs = opened(name)
    assert [e.num_steps for e in episodes] == LENGTHS
    for i, episode in enumerate(episodes):
        obs = np.hstack([theirs[f"{i}/obs/{key}"] for key in STATE]).astype(np.float32)
        np.testing.assert_array_equal(episode.obs, obs)
        np.testing.assert_array_equal(episode.action, theirs[f"{i}/actions"].astype(np.float32))
        np.testing.assert_array_equal(episode.reward, theirs[f"{i}/rewards"].astype(np.float32))
        np.testing.assert_array_equal(
            episode.images["agentview_image"], theirs[f"{i}/obs/agentview_image"]
        )


def test_the_final_observation_is_the_last_next_observation():
    _, episodes, theirs = opened("square")
    for i, episode in enumerate(episodes):
        last = np.concatenate([theirs[f"{i}/next_obs/{key}"][-1] for key in STATE])
        np.testing.assert_array_equal(episode.final_obs, last.astype(np.float32))


def test_without_next_observations_the_final_one_is_unknown():
    source, episodes, _ = opened("square_packed")
    assert all(np.isnan(e.final_obs).all() for e in episodes)
    assert "no next_obs: the observation after the last action is unknown" in source.notes


def test_an_episode_that_succeeds_last_is_terminated_and_any_other_truncated():
    _, episodes, theirs = opened("square")
    assert [bool(theirs[f"{i}/rewards"][-1]) for i in range(4)] == [e.terminated for e in episodes]
    assert [e.success[-1] for e in episodes] == [e.terminated for e in episodes]
    assert [e.truncated for e in episodes] == [not e.terminated for e in episodes]
    assert {e.terminated for e in episodes} == {True, False}


def test_names_come_from_the_robot_the_keys_and_the_environment():
    source, episodes, _ = opened("square")
    assert [c.name for c in source.channels[:5]] == [
        *(f"panda/object/{i}" for i in range(4)),
        "panda/robot0_eef_pos/0",
    ]
    assert source.channels[-1].name == "panda/action/6"
    assert episodes[0].instruction == "nut assembly square"
    assert episodes[0].task_id == "panda/nut-assembly-square"
    assert source.control_hz == 20.0
    assert [(c.name, c.height, c.width) for c in source.cameras] == [("agentview_image", 16, 16)]


def test_what_is_left_out_is_said():
    source, _, _ = opened("square")
    assert "left out: states" in source.notes
    assert "left out: model_file, the simulator's model" in source.notes
    assert "left out: the filters train, valid; all episodes are read" in source.notes
    assert "float64 kept as float32" in source.notes
    assert any("dones" in line for line in source.notes)


def test_libero_s_instruction_is_read_and_its_depth_left_out():
    source = robomimic.open_source(LIBERO, "")
    episodes = list(source.episodes())
    with h5py.File(LIBERO) as file:
        for i, episode in enumerate(episodes):
            demo = file[f"data/demo_{i}"]
            np.testing.assert_array_equal(episode.obs, demo["obs/ee_pos"][:].astype(np.float32))
            np.testing.assert_array_equal(
                episode.images["agentview_rgb"], demo["obs/agentview_rgb"][:]
            )
    assert [e.num_steps for e in episodes] == [4, 3]
    assert episodes[0].instruction == "turn on the stove"
    assert episodes[0].success.tolist() == [False, False, False, True]
    assert episodes[0].behavior == "human"
    assert "obs/agentview_depth left out: float32 (32, 32, 1) a step" in source.notes
    assert any(line.startswith("LIBERO") for line in source.notes)


def test_a_suite_s_folder_is_read_as_one_source_and_a_file_name_names_the_task(tmp_path):
    for place in ("A_SCENE1_open_the_drawer_demo", "B_SCENE2_close_the_drawer_demo"):
        shutil.copy(LIBERO, tmp_path / f"{place}.hdf5")
        with h5py.File(tmp_path / f"{place}.hdf5", "a") as file:
            file["data"].attrs["problem_info"] = json.dumps({"problem_name": "kitchen"})
    source = robomimic.open_source(tmp_path, "")
    assert [e.instruction for e in source.episodes()] == [
        *["open the drawer"] * 2,
        *["close the drawer"] * 2,
    ]
    (last,) = source.episodes(3)
    assert last.instruction == "close the drawer" and last.num_steps == 3


def test_robocasa_words_the_task_for_each_demonstration(tmp_path):
    path = Path(shutil.copy(LIBERO, tmp_path / "demo.hdf5"))
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "turn on the front burner"})
    episodes = robomimic.open_source(path, "").episodes()
    assert [e.instruction for e in episodes] == ["turn on the stove", "turn on the front burner"]


def test_unknown_rewards_stay_unknown(tmp_path):
    path = Path(shutil.copy(LIBERO, tmp_path / "demo.hdf5"))
    with h5py.File(path, "a") as file:
        del file["data/demo_0/rewards"], file["data/demo_1/rewards"]
    source = robomimic.open_source(path, "")
    episode, _ = source.episodes()
    assert np.isnan(episode.reward).all() and not episode.success.any()
    assert "no rewards: unknown" in source.notes


def test_it_matches_by_ending_and_first_bytes(tmp_path):
    assert robomimic.matches(LIBERO) and robomimic.matches(FILES)
    (tmp_path / "not.hdf5").write_bytes(b"nothing of the sort")
    assert not robomimic.matches(tmp_path) and not robomimic.matches(tmp_path / "none.hdf5")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.__delitem__("data"), "not a robomimic file"),
        (lambda f: [f.__delitem__(f"data/demo_{i}") for i in range(2)], "no group data/demo_0"),
        (lambda f: f.__delitem__("data/demo_0/obs"), "no observations"),
        (lambda f: f.__delitem__("data/demo_1/obs/ee_pos"), "demo_1/obs/ee_pos: not there"),
        (lambda f: f["data"].attrs.__setitem__("env_args", "{"), "'env_args' is not JSON"),
        (
            lambda f: (
                f.__delitem__("data/demo_1/actions"),
                f.__setitem__("data/demo_1/actions", h5py.ExternalLink("x.hdf5", "/a")),
            ),
            "a link to elsewhere",
        ),
    ],
)
def test_damage_is_one_clear_line(tmp_path, spoil, message):
    path = Path(shutil.copy(LIBERO, tmp_path / "demo.hdf5"))
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(ValueError, match=message) as caught:
        list(robomimic.open_source(path, "").episodes())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
