"""A small model and a small batch that tests share."""

import hashlib
import json
from pathlib import Path

import numpy as np

from headstart.data.loader import Loader, LoaderConfig
from headstart.data.mixture import Mixture
from headstart.data.trajectories import Trajectories
from headstart.model.channels import measure
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.model.words import build_vocabulary, encode
from headstart.types import Channel, Episode

OBS = (
    *(Channel(f"hand/{a}", "observation", "m") for a in "xyz"),
    Channel("object/q0", "observation"),
    *(Channel(f"goal/{a}", "goal", "m") for a in "xyz"),
)
ACTIONS = tuple(Channel(f"hand/d{a}", "action", "cm") for a in "xyz")
SIZE = ModelConfig(n_layer=2, n_head=2, n_embd=16, window=3, demonstration_steps=5, max_words=6)

ARM_OBS = (Channel("arm/1", "observation", "rad"), Channel("hand/x", "observation", "m"))
ARM_ACTIONS = (Channel("arm/d1", "action", "rad"), Channel("hand/dx", "action", "cm"))
"""Another body, with a channel of each kind that the first does not have, and one that it has."""


def episode(task: str, instruction: str, steps: int, seed: int, success: bool = True) -> Episode:
    """The hand goes to the goal; random but for that."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, len(OBS))).astype(np.float32)
    action = np.clip(obs[:, 4:7] - obs[:, :3], -1, 1)
    return Episode(
        task,
        instruction,
        obs,
        action,
        reward=np.zeros(steps, np.float32),
        success=np.arange(steps) >= (steps - 1 if success else steps),
        final_obs=obs[-1],
        terminated=False,
        truncated=True,
        seed=seed,
        behavior="expert",
    )


def arm_episode(task: str, instruction: str, steps: int, seed: int) -> Episode:
    """The same of the other body, as from somebody who recorded no success."""
    found = episode(task, instruction, steps, seed, success=False)
    found.obs, found.action = found.obs[:, :2] + 5, found.action[:, :2]
    found.final_obs = found.obs[-1]
    return found


def trajectories() -> Trajectories:
    """Two tasks: three episodes of 7, 4 and 9 steps, the second a failure; and one of 5."""
    episodes = [
        episode("t/a", "go to the goal", 7, 0),
        episode("t/b", "go home", 5, 1),
        episode("t/a", "go to the goal", 4, 2, success=False),
        episode("t/a", "go to the goal", 9, 3),
    ]
    return Trajectories.from_episodes(episodes, OBS, ACTIONS)


def arm_trajectories() -> Trajectories:
    """One task of the other body: episodes of 6 and 8 steps."""
    episodes = [arm_episode("u/c", "turn the arm", steps, steps) for steps in (6, 8)]
    return Trajectories.from_episodes(episodes, ARM_OBS, ARM_ACTIONS)


def model(seed: int = 0, data: Trajectories | Mixture | None = None) -> Transformer:
    data = Mixture.of(data or trajectories())
    vocabulary = build_vocabulary(data.instructions)
    return build_transformer(SIZE, measure(data.parts), vocabulary, seed)


def loader(
    config: LoaderConfig, seed: int = 0, data: Trajectories | Mixture | None = None
) -> Loader:
    data = Mixture.of(data or trajectories())
    vocabulary = build_vocabulary(data.instructions)
    words = np.stack([encode(i, vocabulary, SIZE.max_words) for i in data.instructions])
    return Loader(data, config, words, SIZE.window, SIZE.demonstration_steps, seed)


def rewrite_model_json(root: Path, meta: dict) -> None:
    """Other values in model.json, under the checksum that they have."""
    values = {name: value for name, value in meta.items() if name != "own_sha256"}
    text = json.dumps(values, sort_keys=True)
    own = {"own_sha256": hashlib.sha256(text.encode()).hexdigest()}
    (root / "model.json").write_text(json.dumps(values | own))
