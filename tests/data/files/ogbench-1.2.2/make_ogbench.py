"""Write small files with OGBench 1.2.2's environments, and what its ``load_dataset`` reads of them.

pip install ogbench==1.2.2 tqdm
python make_ogbench.py

Saved as ``data_gen_scripts/generate_manipspace.py`` of OGBench's repository saves them.
"""

import gymnasium
import numpy as np
import ogbench  # noqa: F401  registers the environments
from ogbench.utils import load_dataset


def collect(env, trajectories, steps, pixels=False):
    found = {"observations": [], "actions": [], "terminals": [], "qpos": [], "qvel": []}
    env.action_space.seed(0)
    for number in range(trajectories):
        ob, info = env.reset(seed=number)
        for step in range(steps + number):
            action = env.action_space.sample()
            found["observations"].append(
                np.full((64, 64, 3), 10 * number + step, np.uint8) if pixels else ob
            )
            found["actions"].append(action)
            found["terminals"].append(step == steps + number - 1)
            ob, *_, info = env.step(action)
            found["qpos"].append(info["prev_qpos"])
            found["qvel"].append(info["prev_qvel"])
    types = {"terminals": bool, "observations": np.uint8 if pixels else np.float32}
    return {n: np.array(v, types.get(n, np.float32)) for n, v in found.items()}


env = gymnasium.make("cube-single-v0", max_episode_steps=1000)
np.savez_compressed("cube-single-play-v0.npz", **collect(env, 3, 5))
np.savez("visual-cube-single-play-v0.npz", **collect(env, 2, 4, pixels=True))
for name, dtype in (("cube-single-play-v0", np.float32), ("visual-cube-single-play-v0", np.uint8)):
    np.savez_compressed(f"{name}.expected.npz", **load_dataset(f"{name}.npz", ob_dtype=dtype))
