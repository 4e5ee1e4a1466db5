"""What is built to learn does learn: small tasks, past a threshold."""

import numpy as np

from headstart.behaviors.base import Decision
from headstart.data.loader import LoaderConfig
from headstart.data.store import DatasetWriter
from headstart.model.checkpoint import load_model
from headstart.model.learner import LearnerConfig
from headstart.model.policy import Policy, Prompt
from headstart.model.transformer import ModelConfig
from headstart.rollout import Interaction, examine, run_episodes
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.stages.reinforce import ReinforceConfig, reinforce


class ToGoal:
    """The expert of the tiny suite: straight to the goal."""

    name = "expert"

    def reset(self, env_ids: np.ndarray) -> None: ...

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        return Decision(np.clip(10 * (obs[:, 2:] - obs[:, :2]), -1, 1).astype(np.float32))


def test_pretraining_learns_to_act_when_told_and_when_shown(tiny, tmp_path):
    task = tiny.TASKS["reach"]
    env = tiny.make(task, seeds=range(40))
    episodes = [e for _, e in run_episodes(Interaction(env, ToGoal()), 40, 3)]
    with DatasetWriter(tmp_path / "data", task) as writer:
        writer.save_episodes(episodes)
    pretrain(
        PretrainConfig(
            data=tmp_path / "data",
            updates=150,
            model=ModelConfig(n_layer=2, n_head=2, n_embd=32, demonstration_steps=8),
            loader=LoaderConfig(num_prompts=8, num_windows=16),
            learner=LearnerConfig(warmup_updates=10),
            tracker="none",
        ),
        tmp_path / "model",
    )
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
        num_envs=16,
        num_steps=25,
        hidden_size=32,
        num_minibatches=2,
    )
    result = reinforce(config, tmp_path / "run")
    rates = [point["success_rate"] for point in result["curve"]]
    assert rates[0] < 0.5, "chance alone must not pass"
    assert result["reached"] and min(rates[-2:]) >= 0.9
