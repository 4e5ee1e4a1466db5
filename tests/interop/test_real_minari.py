"""What we export loads in the real Minari; what it writes now is read as it reads it.

Run where Minari is installed: ``make interop``.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

minari = pytest.importorskip("minari", reason="the real Minari is not installed here")
sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "exporters"))

import test_export_minari as exports  # noqa: E402

from headstart.data.importers import minari as importer  # noqa: E402


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


exported = exports.exported


def test_an_exported_set_loads_in_minari(root, exported):
    dataset = minari.load_dataset("tiny/reach-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 6)
    assert dataset.observation_space.shape == (2,) and dataset.action_space.shape == (1,)
    for ours, theirs in zip(exports.EPISODES, dataset.iterate_episodes(), strict=True):
        assert len(theirs) == ours.num_steps
        obs = np.concatenate([ours.obs, ours.final_obs[None]])
        np.testing.assert_array_equal(theirs.observations, obs)
        np.testing.assert_array_equal(theirs.actions, ours.action)
        np.testing.assert_array_equal(theirs.rewards, ours.reward)
        assert theirs.terminations[-1] == ours.terminated
        assert theirs.truncations[-1] == ours.truncated
        np.testing.assert_array_equal(theirs.infos["success"][1:], ours.success)
        said = {text.decode() for text in theirs.infos["instruction"]}
        assert said == {ours.instruction}
    seeds = [m.get("seed") for m in dataset.storage.get_episode_metadata(range(3))]
    assert seeds == [5, None, 5]


def test_minari_lists_combines_and_samples_an_exported_set(root, exported):
    assert list(minari.list_local_datasets()) == ["tiny/reach-v3"]
    dataset = minari.load_dataset("tiny/reach-v3")
    assert len(list(dataset.sample_episodes(2))) == 2
    both = minari.combine_datasets([dataset, dataset], "tiny/both-v0")
    assert both.total_steps == 12


@pytest.mark.parametrize("kind", ["hdf5", "arrow", "parquet"])
def test_a_set_that_minari_writes_now_is_read_bit_equal(root, kind):
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            seed=i,
            observations=rng.normal(size=(n + 1, 4)).astype(np.float32),
            actions=rng.normal(size=(n, 2)).astype(np.float32),
            rewards=rng.normal(size=n),
            terminations=np.zeros(n, bool),
            truncations=np.arange(n) == n - 1,
            infos={"success": [False] * n + [True]},
        )
        for i, n in enumerate((7, 200, 1))
    ]
    box = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    dataset = minari.create_dataset_from_buffers(
        "ab/c-v0", buffers, observation_space=box, action_space=action, data_format=kind
    )
    ours = list(importer.open_source(root / "ab" / "c-v0", "a").episodes())
    for mine, theirs in zip(ours, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(np.vstack([mine.obs, mine.final_obs]), theirs.observations)
        np.testing.assert_array_equal(mine.action, theirs.actions)
        np.testing.assert_array_equal(mine.reward, theirs.rewards.astype(np.float32))
        assert mine.success[-1] and not mine.success[:-1].any()
        assert mine.truncated and not mine.terminated
