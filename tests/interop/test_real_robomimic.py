"""A file is read as the real robomimic's SequenceDataset reads it, step for step.

Run where robomimic 0.3.0 is installed: ``make interop``.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("robomimic", reason="the real robomimic is not installed here")

import robomimic.utils.obs_utils as obs_utils
from robomimic.utils.dataset import SequenceDataset

from headstart.data.importers import robomimic as importer

FILES = Path(__file__).parents[1] / "data" / "files" / "robomimic-0.3.0"
KEYS = ("agentview_image", "object", "robot0_eef_pos")
STATE = KEYS[1:]


@pytest.mark.parametrize("name", ["square", "square_packed"])
def test_every_step_is_what_robomimic_gives_for_training(name):
    obs_utils.OBS_KEYS_TO_MODALITIES = dict.fromkeys(KEYS, "low_dim")
    has_next = name == "square"
    path = FILES / f"{name}.hdf5"
    ours = list(importer.open_source(path, "").episodes())  # robomimic keeps the file locked
    dataset = SequenceDataset(
        str(path), KEYS, ("actions", "rewards"), load_next_obs=has_next, hdf5_use_swmr=False
    )
    step = 0
    for episode in ours:
        for t in range(episode.num_steps):
            theirs = dataset[step]  # sequences of one step
            state = np.concatenate([theirs["obs"][key][0] for key in STATE])
            np.testing.assert_array_equal(episode.obs[t], state.astype(np.float32))
            np.testing.assert_array_equal(
                episode.action[t], theirs["actions"][0].astype(np.float32)
            )
            assert episode.reward[t] == theirs["rewards"][0]
            np.testing.assert_array_equal(
                episode.images["agentview_image"][t], theirs["obs"]["agentview_image"][0]
            )
            step += 1
        if has_next:
            state = np.concatenate([theirs["next_obs"][key][0] for key in STATE])
            np.testing.assert_array_equal(episode.final_obs, state.astype(np.float32))
    assert step == len(dataset) == 18


def test_the_demonstrations_are_in_robomimic_s_order():
    obs_utils.OBS_KEYS_TO_MODALITIES = dict.fromkeys(KEYS, "low_dim")
    path = FILES / "square.hdf5"
    ours = [e.num_steps for e in importer.open_source(path, "").episodes()]
    dataset = SequenceDataset(str(path), KEYS, ("actions",), hdf5_use_swmr=False)
    assert dataset.demos == ["demo_0", "demo_1", "demo_2", "demo_10"]
    theirs = [len(dataset.get_trajectory_at_index(i)["actions"]) for i in range(4)]
    assert ours == theirs == [6, 4, 3, 5]
