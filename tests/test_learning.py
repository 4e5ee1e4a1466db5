"""What is built to learn does learn: small tasks, past a threshold."""

from pathlib import Path

import numpy as np
import pytest

from headstart.algorithms.own_successes import OwnSuccessesConfig
from headstart.algorithms.ppo import PPOConfig
from headstart.data.loader import LoaderConfig
from headstart.data.store import Dataset, DatasetWriter
from headstart.model.checkpoint import load_model
from headstart.model.learner import LearnerConfig
from headstart.model.policy import Policy, Prompt
from headstart.model.transformer import ModelConfig
from headstart.rollout import Interaction, examine, run_episodes
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.stages.reinforce import ReinforceConfig, reinforce
from headstart.types import Episode


def pretrained(tiny, root: Path, updates: int) -> list[Episode]:
    """Make ``root/model`` from the expert's demonstrations in ``root/data``; returns them."""
    task = tiny.TASKS["reach"]
    env = tiny.make(task, seeds=range(40))
    episodes = [e for _, e in run_episodes(Interaction(env, tiny.ToGoal()), 40, 3)]
    with DatasetWriter(root / "data", task) as writer:
        writer.save_episodes(episodes)
    config = PretrainConfig(
        data=(str(root / "data"),),
        updates=updates,
        model=ModelConfig(n_layer=2, n_head=2, n_embd=32, demonstration_steps=8),
        loader=LoaderConfig(num_prompts=8, num_windows=16),
        learner=LearnerConfig(warmup_updates=10),
        tracker="none",
    )
    pretrain(config, root / "model")
    return episodes


def test_pretraining_learns_to_act_when_told_and_when_shown(tiny, tmp_path):
    task = tiny.TASKS["reach"]
    episodes = pretrained(tiny, tmp_path, updates=150)
    model = load_model(tmp_path / "model")
    for prompt in (Prompt(task.instruction), Prompt(demonstration=episodes[0])):
        env = tiny.make(task, seeds=range(1000, 1030))
        policy = Policy(model, task.channels, [prompt], 30)
        (result,), _ = examine(Interaction(env, policy), "arm", 1, 30, 40, seed=0)
        assert np.mean(result.success) >= 0.9


def test_reinforcement_learns_to_reach_a_point(tiny, tmp_path):
    config = ReinforceConfig(
        task="tiny/reach",
        env_steps=40_000,
        stop_at_success=0.9,
        eval_every_steps=2_000,
        eval_episodes=50,
        max_episode_steps=25,
        ppo=PPOConfig(num_envs=16, num_steps=25, hidden_size=32, num_minibatches=2),
    )
    result = reinforce(config, tmp_path / "run")
    rates = [point["success_rate"] for point in result["curve"]]
    assert rates[0] < 0.5, "chance alone must not pass"
    assert result["reached"] and min(rates[-2:]) >= 0.9


@pytest.mark.parametrize("name", ["reach-once", "reach"])
def test_a_weak_prior_is_lifted_by_its_own_successes_on_a_new_task_and_on_its_own(
    tiny, tmp_path, name
):
    pretrained(tiny, tmp_path, updates=45)
    config = ReinforceConfig(
        task=f"tiny/{name}",
        model=tmp_path / "model",
        data=tmp_path / "data",
        reward="success",
        env_steps=6_000,
        stop_at_success=0.9,
        eval_every_steps=2_000,
        eval_episodes=50,
        max_episode_steps=25,
        own_successes=OwnSuccessesConfig(updates=20, search_batches=2),
        tracker="none",
    )
    result = reinforce(config, tmp_path / "run")
    rates = [point["success_rate"] for point in result["curve"]]
    assert rates[0] < 0.2, "the prior alone must not pass"
    assert rates[-1] >= 0.5
    (shown,) = Dataset(tmp_path / "run/prompt").episodes([0])
    model = load_model(tmp_path / "run")
    env = tiny.make(tiny.TASKS[name], range(2000, 2030), 25)
    policy = Policy(model, tiny.CHANNELS, [Prompt(demonstration=shown)], 30)
    (kept,), _ = examine(Interaction(env, policy), "arm", 1, 30, 25, seed=0)
    assert np.mean(kept.success) >= 0.5, "what is saved must be what was judged"
