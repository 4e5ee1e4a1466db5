"""Small sets that Minari 0.5.4 wrote are read as Minari reads them."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from headstart.data.importers import minari
from headstart.data.importers.base import Dropped

FILES = Path(__file__).parents[1] / "files" / "minari-0.5.4"
LENGTHS = [5, 1, 8]
FORMATS = ["hdf5", "arrow", "parquet"]


def folder(kind: str, name: str) -> Path:
    return FILES / "made" / kind / f"{name}-expert-v0"


def opened(kind: str, name: str, robot: str = "arm"):
    """The source's episodes, and what Minari reads: ``0/observations`` -> array."""
    source = minari.open_source(folder(kind, name), robot)
    with np.load(FILES / f"{kind}-{name}.npz") as theirs:
        return source, list(source.episodes()), dict(theirs)


@pytest.fixture
def flat(tmp_path) -> Path:
    """A copy of the flat HDF5 set to spoil."""
    return Path(shutil.copytree(folder("hdf5", "flat"), tmp_path / "flat"))


def edit_metadata(path: Path, **changes) -> None:
    where = path / "data" / "metadata.json"
    metadata = json.loads(where.read_text()) | changes
    where.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_value_is_what_minari_reads(kind):
    _, episodes, theirs = opened(kind, "flat")
    assert [e.num_steps for e in episodes] == LENGTHS
    for i, episode in enumerate(episodes):
        obs = theirs[f"{i}/observations"].astype(np.float32)
        np.testing.assert_array_equal(episode.obs, obs[:-1])
        np.testing.assert_array_equal(episode.final_obs, obs[-1])
        np.testing.assert_array_equal(episode.action, theirs[f"{i}/actions"])
        np.testing.assert_array_equal(episode.reward, theirs[f"{i}/rewards"].astype(np.float32))
        np.testing.assert_array_equal(episode.success, theirs[f"{i}/infos/success"].ravel()[1:])
    assert [e.terminated for e in episodes] == [True, False, False]
    assert [e.truncated for e in episodes] == [False, False, True]
    assert [e.seed for e in episodes] == [100, -1, 102]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_nested_observation_becomes_channels_in_the_space_s_order(kind):
    source, episodes, theirs = opened(kind, "nested")
    features = ("achieved_goal", "desired_goal", "map", "observation/arm/0", "observation/arm/1")
    features += ("observation/buttons", "observation/dials")
    for i, episode in enumerate(episodes):
        parts = [theirs[f"{i}/observations/{n}"] for n in features]
        obs = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1).astype(np.float32)
        np.testing.assert_array_equal(np.vstack([episode.obs, episode.final_obs]), obs)
        view = theirs[f"{i}/observations/view"]
        np.testing.assert_array_equal(episode.images["view"], view[:-1])
    names = [c.name for c in source.obs_channels]
    assert names[:4] == [f"arm/{n}" for n in ("achieved_goal/0", "achieved_goal/1")] + [
        "arm/desired_goal/0",
        "arm/desired_goal/1",
    ]
    assert names[-6:-4] == ["arm/arm.1/0", "arm/buttons/0"]
    assert {c.name for c in source.channels if c.role == "goal"} == set(names[2:4])
    assert [(c.name, c.height, c.width, c.storage) for c in source.cameras] == [
        ("view", 32, 40, "image")
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_text_of_the_observation_is_the_instruction(kind):
    _, episodes, _ = opened(kind, "nested")
    assert [e.instruction for e in episodes] == [f"press button {i}" for i in range(3)]
    assert episodes[2].task_id == "arm/press-button-2"


def test_a_short_description_is_the_instruction_and_the_environment_names_the_robot():
    source, episodes, _ = opened("hdf5", "flat", robot="")
    assert episodes[0].instruction == "Press the button."
    assert episodes[0].behavior == "expert"
    assert source.channels[0].name == "flat-expert/state/0"
    nested = minari.open_source(folder("hdf5", "nested"), "")
    assert nested.channels[0].name == "adroit-hand-door/achieved_goal/0"


@pytest.mark.parametrize("kind", FORMATS)
def test_reading_goes_on_from_any_episode(kind):
    source, episodes, _ = opened(kind, "flat")
    (last,) = source.episodes(2)
    np.testing.assert_array_equal(last.obs, episodes[2].obs)


def test_what_is_dropped_or_changed_is_said():
    source, _, _ = opened("hdf5", "nested")
    assert source.notes == [
        "float64, int64 kept as float32",
        "the picture after the last action has no place: left out",
        "the control rate is not known: 10 Hz assumed; --control-hz",
        "infos left out: energy",
    ]


def test_it_matches_a_set_or_its_data_folder_and_nothing_else(tmp_path):
    path = folder("arrow", "flat")
    assert minari.matches(path) and minari.matches(path / "data")
    assert not minari.matches(tmp_path) and not minari.matches(path / "data" / "metadata.json")


def test_an_episode_without_its_final_observation_is_dropped(flat):
    with h5py.File(flat / "data" / "main_data.hdf5", "a") as file:
        short = file["episode_0/observations"][:-1]
        del file["episode_0/observations"]
        file["episode_0/observations"] = short
    first, *rest = minari.open_source(flat, "arm").episodes()
    assert isinstance(first, Dropped) and "observation" in first.reason
    assert [e.num_steps for e in rest] == LENGTHS[1:]


def test_large_arrays_are_left_out_and_said(flat):
    space = {"type": "Box", "dtype": "float32", "shape": [300], "low": [0] * 300, "high": [1] * 300}
    both = {"type": "Dict", "subspaces": {"a": space, "b": {"type": "Discrete", "n": 2}}}
    edit_metadata(flat, observation_space=json.dumps(both))
    source = minari.open_source(flat, "arm")
    assert source.notes[0] == "'a' left out: 300 numbers a step; at most 256"
    assert [c.name for c in source.obs_channels] == ["arm/b/0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": "zarr"}, "data_format 'zarr'"),
        ({"total_episodes": "3"}, "total_episodes is '3'"),
        ({"observation_space": None}, "no observation_space"),
        ({"observation_space": "{"}, "observation_space is not JSON"),
        ({"observation_space": '{"type": "Graph"}'}, "type 'Graph'"),
        ({"observation_space": '{"type": "Box"}'}, "not a space"),
        ({"action_space": '{"type": "Text"}'}, "no actions"),
        ({"total_episodes": 9}, "episode_3: not there"),
    ],
)
def test_damaged_metadata_is_one_clear_line(flat, changes, message):
    edit_metadata(flat, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        list(minari.open_source(flat, "arm").episodes())
    assert str(flat) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_damaged_columns_are_one_clear_line(tmp_path, kind):
    path = Path(shutil.copytree(folder(kind, "flat"), tmp_path / "flat"))
    part = path / "data" / "1" / f"part-0.{kind}"
    part.write_bytes(part.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged") as caught:
        list(minari.open_source(path, "arm").episodes())
    assert str(part) in str(caught.value) and "\n" not in str(caught.value)


def test_a_spoiled_jpeg_is_one_clear_line(tmp_path):
    path = Path(shutil.copytree(folder("hdf5", "nested"), tmp_path / "nested"))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        view = file["episode_0/observations/view"]
        view[0] = np.zeros_like(view[0])
    with pytest.raises(ValueError, match="JPEG picture is damaged"):
        list(minari.open_source(path, "arm").episodes())


@pytest.mark.parametrize(
    ("name", "words"),
    [("gym/PointMaze_UMaze-v3", "point maze u maze"), ("AdroitHandDoor-v1", "adroit hand door")],
)
def test_an_environment_s_name_becomes_words(name, words):
    assert minari.readable(name) == words
