"""Write small data sets with Minari 0.5.4, and beside them what Minari itself reads from them.

pip install "minari[hdf5,arrow]==0.5.4" pillow
MINARI_DATASETS_PATH=. python make_minari.py
"""

import json
from pathlib import Path

import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

LENGTHS = (5, 1, 8)

FLAT = spaces.Box(-np.inf, np.inf, (3,), np.float64)
NESTED = spaces.Dict(
    {
        "desired_goal": spaces.Box(-1, 1, (2,), np.float64),
        "achieved_goal": spaces.Box(-1, 1, (2,), np.float64),
        "observation": spaces.Dict(
            {
                "arm": spaces.Tuple((spaces.Box(-1, 1, (2, 2), np.float32), spaces.Discrete(4))),
                "buttons": spaces.MultiBinary(3),
                "dials": spaces.MultiDiscrete([3, 5]),
            }
        ),
        "mission": spaces.Text(40),
        "view": spaces.Box(0, 255, (32, 40, 3), np.uint8),
        "map": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    }
)
ACTION = spaces.Box(-1, 1, (2,), np.float32)


def stacked(values):
    """A list of nested observations as one nested observation of lists, as Minari keeps them."""
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked(list(part)) for part in zip(*values, strict=True))
    return list(values) if isinstance(values[0], str) else np.stack(values)


def buffers(space, seed):
    rng = np.random.default_rng(seed)
    for number, steps in enumerate(LENGTHS):
        space.seed(seed + number)
        observations = [space.sample() for _ in range(steps + 1)]
        if isinstance(space, spaces.Dict):
            for row in observations:
                row["mission"] = f"press button {number}"
                row["view"][:] = np.add.outer(np.arange(32), np.arange(40))[..., None] * 3 + number
        yield EpisodeBuffer(
            id=number,
            seed=100 + number if number != 1 else None,
            observations=stacked(observations),
            actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards=rng.normal(size=steps),
            terminations=[False] * (steps - 1) + [number == 0],
            truncations=[False] * (steps - 1) + [number == 2],
            infos={
                "success": [row == steps for row in range(steps + 1)],
                "energy": rng.normal(size=(steps + 1, 2)),
            },
        )


def written(dataset):
    """What Minari reads, flat: ``0/observations/arm/0`` -> array."""
    found = {}

    def add(name, value):
        if isinstance(value, dict):
            for key in value:
                add(f"{name}/{key}", value[key])
        elif isinstance(value, tuple):
            for place, part in enumerate(value):
                add(f"{name}/{place}", part)
        else:
            found[name] = np.asarray(value)

    for episode in dataset.iterate_episodes():
        for name in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
            add(f"{episode.id}/{name}", getattr(episode, name))
    return found


for kind in ("hdf5", "arrow", "parquet"):
    for name, space in (("flat", FLAT), ("nested", NESTED)):
        dataset = minari.create_dataset_from_buffers(
            f"made/{kind}/{name}-expert-v0",
            list(buffers(space, seed=7)),
            observation_space=space,
            action_space=ACTION,
            env=None,
            data_format=kind,
            description="Press the button." if name == "flat" else "A page\nof prose.",
        )
        np.savez_compressed(f"{kind}-{name}.npz", **written(dataset))

# An environment's spec, as create_dataset_from_buffers keeps it where the environment is known.
path = Path("made/hdf5/nested-expert-v0/data/metadata.json")
metadata = json.loads(path.read_text())
metadata["env_spec"] = EnvSpec("AdroitHandDoor-v1", entry_point="nowhere:Door").to_json()
path.write_text(json.dumps(metadata))
