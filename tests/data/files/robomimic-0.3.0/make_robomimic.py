"""Write small files with robomimic 0.3.0's own scripts, and what its SequenceDataset reads of them.

pip install torch==2.13.0 h5py tqdm psutil six termcolor tensorboardX imageio matplotlib
pip install --no-deps robomimic==0.3.0
python make_robomimic.py

The simulator is replaced by a small one, since robomimic 0.3.0 needs mujoco_py. LIBERO's file is
laid out as ``scripts/create_dataset.py`` of LIBERO does it, whose requirements no longer install.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from unittest.mock import MagicMock

for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = MagicMock()  # its networks import these, its data code does not use them
sys.modules["torchvision"].models.resnet.ResNet = object

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import robomimic.utils.env_utils as env_utils  # noqa: E402
import robomimic.utils.obs_utils as obs_utils  # noqa: E402
from robomimic.envs.env_base import EnvBase  # noqa: E402
from robomimic.scripts.dataset_states_to_obs import dataset_states_to_obs  # noqa: E402
from robomimic.scripts.split_train_val import split_train_val_from_hdf5  # noqa: E402
from robomimic.utils.dataset import SequenceDataset  # noqa: E402

LENGTHS = {"demo_0": 6, "demo_1": 4, "demo_2": 3, "demo_10": 5}
ENV_ARGS = {
    "env_name": "NutAssemblySquare",
    "env_version": "1.4.1",
    "type": 1,
    "env_kwargs": {"robots": ["Panda"], "control_freq": 20, "reward_shaping": False},
}
KEYS = ("agentview_image", "object", "robot0_eef_pos")


class TinyEnv(EnvBase):
    """A state of 7 numbers that an action moves; it succeeds where the first exceeds 0.5."""

    def __init__(self):
        self.state = np.zeros(7)

    def step(self, action):
        self.state = self.state + np.resize(action, 7) / 10
        return self.get_observation(), self.get_reward(), self.is_done(), {}

    def reset(self):
        return self.reset_to({"states": np.zeros(7)})

    def reset_to(self, state):
        self.state = np.array(state["states"])
        return self.get_observation()

    def get_observation(self):
        pixel = np.add.outer(np.arange(16), np.arange(16)) * 5 + int(self.state[0] * 50)
        return {
            "agentview_image": np.repeat(pixel.astype(np.uint8)[..., None], 3, axis=2),
            "object": self.state[3:].copy(),
            "robot0_eef_pos": self.state[:3].copy(),
        }

    def is_success(self):
        return {"task": bool(self.state[0] > 0.5)}

    def get_reward(self):
        return float(self.is_success()["task"])

    def serialize(self):
        return ENV_ARGS

    def render(self, **_): ...
    def get_state(self): ...
    def get_goal(self): ...
    def set_goal(self, **_): ...
    def is_done(self): ...
    def action_dimension(self): ...
    def name(self): ...
    def type(self): ...
    def create_for_data_processing(self, **_): ...
    def rollout_exceptions(self): ...


def write_raw(path):
    """What a recording has before observations are made: states, actions and the model."""
    rng = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(ENV_ARGS)
        for name, steps in LENGTHS.items():
            demo = file.create_group(f"data/{name}")
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["states"] = rng.normal(size=(steps, 7)) * 0.3
            demo["states"][-1, 0] = 0.9 if name != "demo_2" else -0.9
            demo.attrs["model_file"] = "<mujoco/>"


def make_observations(output, exclude_next_obs, done_mode):
    env_utils.create_env_for_data_processing = lambda **_: TinyEnv()
    dataset_states_to_obs(
        Namespace(
            dataset="raw.hdf5",
            output_name=output,
            n=None,
            shaped=False,
            camera_names=[],
            camera_height=16,
            camera_width=16,
            done_mode=done_mode,
            copy_rewards=False,
            copy_dones=False,
            compress=exclude_next_obs,
            exclude_next_obs=exclude_next_obs,
        )
    )


def written(path, has_next):
    """What SequenceDataset gives for each demonstration."""
    obs_utils.OBS_KEYS_TO_MODALITIES = {k: "low_dim" for k in KEYS}
    dataset = SequenceDataset(
        path, KEYS, ("actions", "rewards", "dones"), load_next_obs=has_next, hdf5_use_swmr=False
    )
    found = {}
    for index in range(len(dataset.demos)):
        trajectory = dataset.get_trajectory_at_index(index)
        for name in ("actions", "rewards", "dones"):
            found[f"{index}/{name}"] = trajectory[name]
        for group in ("obs", "next_obs"):
            for key, values in trajectory.get(group, {}).items():
                found[f"{index}/{group}/{key}"] = values
    return found


def write_libero(path):
    rng = np.random.default_rng(4)
    problem = {
        "problem_name": "libero_tabletop_manipulation",
        "domain_name": "robosuite",
        "language_instruction": "turn on the stove",
    }
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Kitchen_Tabletop_Manipulation"
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["env_args"] = json.dumps(
            {
                "type": 1,
                "env_name": "Libero_Kitchen_Tabletop_Manipulation",
                "env_kwargs": {"robots": ["Panda"], "control_freq": 20},
            }
        )
        for number, steps in enumerate((4, 3)):
            demo = data.create_group(f"demo_{number}")
            demo["obs/agentview_rgb"] = rng.integers(0, 255, (steps, 16, 16, 3), np.uint8)
            demo["obs/agentview_depth"] = rng.random((steps, 32, 32, 1), np.float32)
            demo["obs/ee_pos"] = rng.normal(size=(steps, 3))
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["states"] = rng.normal(size=(steps, 9))
            demo["robot_states"] = rng.normal(size=(steps, 9))
            demo["rewards"] = demo["dones"] = np.arange(steps, dtype=np.uint8) == steps - 1
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = "<mujoco/>"


write_raw("raw.hdf5")
np.random.seed(0)
for output, exclude, done_mode in (("square.hdf5", False, 2), ("square_packed.hdf5", True, 0)):
    make_observations(output, exclude, done_mode)
    split_train_val_from_hdf5(output, val_ratio=0.25)
    np.savez_compressed(output.replace(".hdf5", ".npz"), **written(output, not exclude))
write_libero("KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5")
Path("raw.hdf5").unlink()
