from pathlib import Path

import numpy as np
import pytest
import torch

import sequences
from headstart.model.checkpoint import save_model
from headstart.model.policy import Policy, Prompt, load_policy
from headstart.types import Channel, Task

CHANNELS = (*sequences.OBS, *sequences.ACTIONS)


@pytest.fixture
def model() -> sequences.Transformer:
    model = sequences.model()
    generator = torch.Generator().manual_seed(1)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.out.weight, std=0.3, generator=generator)
    return model.eval()


def shown(seed: int) -> Prompt:
    return Prompt(demonstration=sequences.episode("t/x", "do it", 6, seed))


def test_environments_do_not_disturb_one_another(model):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(5, 4, 7)).astype(np.float32)  # five steps of four environments
    together = Policy(model, CHANNELS, [shown(0), shown(1)], envs_per_prompt=2)
    expected = []
    for env in range(4):
        alone = Policy(model, CHANNELS, [shown(env // 2)])
        expected.append([alone.act(obs[t, env : env + 1]).action[0] for t in range(5)])
    ids = np.arange(4)
    for t in range(5):
        keep = ids if t < 3 else ids[[0, 3]]  # two of them end early
        action = together.act(obs[t, keep], keep).action
        for row, env in enumerate(keep):
            np.testing.assert_allclose(action[row], expected[env][t], atol=1e-5)


def test_reset_forgets_the_episode(model):
    policy = Policy(model, CHANNELS, [Prompt("go home")])
    obs = np.ones((1, 7), np.float32)
    first = policy.act(obs).action
    policy.act(2 * obs)
    policy.reset(np.array([0]))
    np.testing.assert_array_equal(policy.act(obs).action, first)


def test_the_window_slides(model):
    policy = Policy(model, CHANNELS, [Prompt("go home")])
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(6, 1, 7)).astype(np.float32)
    last = [policy.act(o).action for o in obs][-1]
    fresh = Policy(model, CHANNELS, [Prompt("go home")])
    again = [fresh.act(o).action for o in obs[-sequences.SIZE.window :]][-1]
    np.testing.assert_allclose(last, again, atol=1e-5)


def test_no_prompt_works(model):
    action = Policy(model, CHANNELS, [Prompt()], 2).act(np.zeros((2, 7), np.float32)).action
    assert action.shape == (2, 3)
    assert np.isfinite(action).all()


def test_another_body_is_refused(model):
    channels = (*CHANNELS[:-1], Channel("gripper/effort", "action"))
    with pytest.raises(ValueError, match="knows no channel 'gripper/effort'"):
        Policy(model, channels, [Prompt()])


def test_load_policy_is_told_the_instruction_unless_prompted(model, tmp_path: Path):
    save_model(tmp_path, model)
    task = Task("t", "b", "go home", CHANNELS, 10, 10.0)
    obs = np.zeros((1, 7), np.float32)
    told = Policy(model, CHANNELS, [Prompt("go home")]).act(obs).action
    np.testing.assert_array_equal(load_policy(tmp_path, task).act(obs).action, told)
    silent = load_policy(tmp_path, task, Prompt()).act(obs).action
    assert not np.array_equal(silent, told)
