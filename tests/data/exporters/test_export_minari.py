"""What is exported is laid out as Minari lays it out, and comes back through our importer."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from headstart.data.exporters.minari import export_minari
from headstart.data.importers import minari
from headstart.data.store import DatasetWriter
from headstart.types import Channel, Episode, Task

TASK = Task(
    "tiny",
    "reach",
    "reach the goal",
    (
        Channel("hand/x", "observation", "m"),
        Channel("goal/x", "goal", "m"),
        Channel("hand/dx", "action", "m/s"),
    ),
    max_episode_steps=10,
    control_hz=12.5,
)


def episode(steps: int, **changes) -> Episode:
    obs = np.arange(2 * steps + 2, dtype=np.float32).reshape(-1, 2) / 7
    values = {
        "task_id": TASK.id,
        "instruction": "reach the goal, café",
        "obs": obs[:-1],
        "action": -obs[:-1, :1],
        "reward": np.arange(steps, dtype=np.float32),
        "success": np.arange(steps) == steps - 1,
        "final_obs": obs[-1],
        "terminated": True,
        "truncated": False,
        "seed": 5,
        "behavior": "expert",
    }
    return Episode(**(values | changes))


EPISODES = [
    episode(3),
    episode(2, terminated=False, truncated=True, seed=-1, behavior="random"),
    episode(1, final_obs=np.full(2, np.nan, np.float32), action_expert=np.ones((1, 1), np.float32)),
]


@pytest.fixture
def exported(tmp_path) -> tuple[Path, dict]:
    with DatasetWriter(tmp_path / "ours", TASK) as writer:
        writer.save_episodes(EPISODES)
    dst = tmp_path / "root" / "tiny" / "reach-v3"
    return dst, export_minari(tmp_path / "ours", dst, "tiny/reach-v3")


def test_the_layout_is_minari_s(exported):
    dst, result = exported
    assert result["dataset_id"] == "tiny/reach-v3"
    assert (result["episodes"], result["steps"]) == (3, 6)
    metadata = json.loads((dst / "data" / "metadata.json").read_text())
    assert metadata["observation_space"] == (
        '{"type": "Box", "dtype": "float32", "shape": [2],'
        ' "low": [-Infinity, -Infinity], "high": [Infinity, Infinity]}'
    )
    assert (metadata["total_episodes"], metadata["total_steps"]) == (3, 6)
    with h5py.File(dst / "data" / "main_data.hdf5") as file:
        first, second = file["episode_0"], file["episode_1"]
        assert first["observations"].shape == (4, 2) and first["actions"].shape == (3, 1)
        assert first["terminations"][:].tolist() == [False, False, True]
        assert second["truncations"][:].tolist() == [False, True]
        assert not second["terminations"][:].any() and not first["truncations"][:].any()
        assert first["infos/success"][:].tolist() == [False, False, False, True]
        assert (first.attrs["seed"], first.attrs["total_steps"]) == (5, 3)
        assert "seed" not in second.attrs


def test_it_comes_back_unchanged(exported):
    source = minari.open_source(exported[0], "")
    assert source.channels == TASK.channels and source.control_hz == 12.5
    for ours, back in zip(EPISODES, source.episodes(), strict=True):
        for name in ("obs", "action", "reward", "success", "final_obs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(back, name))
        for name in ("task_id", "instruction", "behavior", "seed", "terminated", "truncated"):
            assert getattr(ours, name) == getattr(back, name)


def test_what_has_no_place_is_said(exported):
    assert exported[1]["notes"] == [
        "final observation unknown, so NaN, in 1 episodes",
        "experts' labels left out in 1 episodes",
    ]


@pytest.mark.parametrize("name", ["no-version", "../up-v0", "a b-v0", "-v"])
def test_an_id_that_minari_refuses_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="expected namespace/name-v0"):
        export_minari(tmp_path, tmp_path / "dst", name)


def test_nothing_is_overwritten(exported, tmp_path):
    with pytest.raises(ValueError, match="not empty"):
        export_minari(tmp_path / "ours", exported[0])


def test_the_folder_names_the_set(exported, tmp_path):
    assert export_minari(tmp_path / "ours", tmp_path / "Some Set")["dataset_id"] == "some-set-v0"
