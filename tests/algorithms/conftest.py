"""What learns from a prior begins with: a model of random weights, and demonstrations."""

from collections.abc import Iterator

import pytest

from headstart.data.trajectories import Trajectories
from headstart.model.channels import measure
from headstart.model.learner import one_thread
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.model.words import build_vocabulary
from headstart.rollout import Interaction, run_episodes
from headstart.types import Episode


@pytest.fixture(autouse=True)
def learns_on_one_thread() -> Iterator[None]:
    """As ``reinforce`` does: two that wait for each other are slow beside anything else."""
    with one_thread():
        yield


@pytest.fixture
def demonstrations(tiny) -> list[Episode]:
    env = tiny.make(tiny.TASKS["reach"], seeds=range(8))
    return [e for _, e in sorted(run_episodes(Interaction(env, tiny.ToGoal()), 40))]


@pytest.fixture
def model(tiny, demonstrations) -> Transformer:
    task = tiny.TASKS["reach"]
    data = Trajectories.from_episodes(demonstrations, task.obs_channels, task.action_channels)
    return build_transformer(
        ModelConfig(n_layer=1, n_head=2, n_embd=16, demonstration_steps=4),
        measure([data]),
        build_vocabulary(data.instructions),
        seed=0,
    )
