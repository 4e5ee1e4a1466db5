import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sequences
from headstart.data.mixture import Mixture
from headstart.model.actor_critic import ActorCritic, ActorCriticPolicy
from headstart.model.checkpoint import load_model, save_model, save_small_policy
from headstart.model.policy import Policy, Prompt, load_policy
from headstart.model.soft_actor_critic import SoftActorCritic, SquashedPolicy
from headstart.model.words import encode
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


def test_each_episode_is_shown_what_starts_most_like_it(model):
    prompts = [shown(seed) for seed in range(3)]
    starts = np.stack([p.demonstration.obs[0] for p in prompts if p.demonstration])
    policy = Policy(model, CHANNELS, prompts, num_envs=4)
    obs = starts[[2, 0, 0, 1]] + 0.01
    obs[1, 3] = np.nan  # a channel that it does not have
    action = policy.act(obs).action
    assert policy.prompt_of_env.tolist() == [2, 0, 0, 1]
    for row, prompt in enumerate([2, 0, 0, 1]):
        alone = Policy(model, CHANNELS, [prompts[prompt]])
        np.testing.assert_allclose(action[row], alone.act(obs[row : row + 1]).action[0], atol=1e-5)
    policy.reset(np.array([3]))
    policy.act(starts[[1, 1, 1, 2]])
    assert policy.prompt_of_env.tolist() == [2, 0, 0, 2], "chosen at an episode's start alone"


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


@pytest.mark.parametrize(
    ("obs", "problem"),
    [
        (np.zeros(7, np.float32), r"obs is float32 \(7,\), expected float32 \(1, 7\), a row an"),
        (np.zeros((1, 6), np.float32), r"obs is float32 \(1, 6\), expected float32 \(1, 7\)"),
        (np.zeros((2, 7), np.float32), r"obs is float32 \(2, 7\), expected float32 \(1, 7\)"),
        (np.full((1, 7), "x"), r"obs is <U1 \(1, 7\), expected float32 \(1, 7\)"),
        (np.full((1, 7), None), r"obs is object \(1, 7\), expected float32 \(1, 7\)"),
        ([[0.0] * 7], r"obs is a list, expected float32 \(1, 7\)"),
    ],
)
def test_an_observation_of_another_shape_or_type_is_refused(model, obs, problem):
    policy = Policy(model, CHANNELS, [Prompt()])
    with pytest.raises(ValueError, match=f"^{problem}"):
        policy.act(obs)
    assert policy.act(np.zeros((1, 7), np.float64)).action.shape == (1, 3)


@pytest.mark.parametrize(("obs", "action"), [(8, 3), (7, 2)])
def test_a_demonstration_in_other_columns_is_refused(model, obs, action):
    steps = np.zeros((6, 8), np.float32)
    episode = sequences.episode("t/x", "do it", 6, 0)
    other = replace(episode, obs=steps[:, :obs], action=steps[:, :action], action_expert=None)
    with pytest.raises(ValueError, match=f"t/x has {obs} .* and {action} action .* 7 and 3$"):
        Policy(model, CHANNELS, [Prompt(demonstration=other)])


def test_another_body_is_refused(model):
    channels = (*CHANNELS[:-1], Channel("gripper/effort", "action"))
    with pytest.raises(ValueError, match="knows no channel 'gripper/effort'"):
        Policy(model, channels, [Prompt()])


def test_a_model_of_many_bodies_acts_in_the_columns_of_one():
    data = Mixture((sequences.trajectories(), sequences.arm_trajectories()))
    model = sequences.model(data=data).eval()
    channels = (*sequences.ARM_OBS, *sequences.ARM_ACTIONS)
    episode = sequences.arm_episode("u/c", "turn the arm", 6, 0)
    policy = Policy(model, channels, [Prompt("turn the arm", episode)])
    action = policy.act(episode.obs[:1]).action
    assert action.shape == (1, 2)
    # The same by hand: columns hand/x y z, q0, goal/x y z, arm/1; actions hand/dx dy dz, arm/d1.
    shown = torch.full((1, 5, 12), torch.nan)
    steps = [0, 1, 2, 4, 5]
    shown[0, :, [7, 0]] = torch.from_numpy(episode.obs[steps])
    shown[0, :, [11, 8]] = torch.from_numpy(episode.action[steps])
    obs = torch.full((1, 1, 8), torch.nan)
    obs[0, 0, [7, 0]] = torch.from_numpy(episode.obs[0])
    words = torch.from_numpy(encode("turn the arm", model.vocabulary, 3))[None]
    with torch.inference_mode():
        logits = model.action_logits(model.encode_prompt(words, shown), obs)
        mean = (logits.softmax(-1) * torch.linspace(-1, 1, model.config.num_bins)).sum(-1)
        expected = model.denormalise_action(mean)[:, [3, 0]]
    np.testing.assert_allclose(action, expected, atol=1e-6)


def small_policy() -> SoftActorCritic:
    generator = torch.Generator().manual_seed(3)
    return SoftActorCritic(7, 3, 8, 2, 2, generator)


def of_ppo() -> ActorCritic:
    return ActorCritic(7, 3, 8, 2, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("model", [small_policy(), of_ppo()])
def test_load_policy_gives_the_small_policy_of_a_task_without_a_prompt(model, tmp_path: Path):
    task = Task("t", "b", "go home", CHANNELS, 10, 10.0)
    model.features.update(torch.randn(9, 14, generator=torch.Generator().manual_seed(4)))
    save_small_policy(tmp_path, model, task)
    obs = np.linspace(-1, 1, 7, dtype=np.float32)[None]
    acts = ActorCriticPolicy if isinstance(model, ActorCritic) else SquashedPolicy
    policy, expected = load_policy(tmp_path, task), acts(model, 1)
    for _ in range(2):  # the second has a history
        np.testing.assert_array_equal(policy.act(obs).action, expected.act(obs).action)
        obs += 0.1
    policy.reset()
    expected.reset()
    np.testing.assert_array_equal(policy.act(obs).action, expected.act(obs).action)
    with pytest.raises(ValueError, match="takes no prompt"):
        load_policy(tmp_path, task, Prompt("go home"))


def test_a_small_policy_is_no_model_and_refused_where_it_is_of_another_task_or_damaged(
    tmp_path: Path,
):
    task = Task("t", "b", "go home", CHANNELS, 10, 10.0)
    save_small_policy(tmp_path, small_policy(), task)
    with pytest.raises(ValueError, match="a small policy of t/b, which cannot be told"):
        load_model(tmp_path)
    for other, problem in (
        (replace(task, name="c"), "learned t/b and can do that alone, not t/c"),
        (replace(task, channels=CHANNELS[1:]), "learned t/b with other channels than it has here"),
    ):
        with pytest.raises(ValueError, match=problem):
            load_policy(tmp_path, other)
    for name in ("model.json", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        at = content.index(b"t/b") if name == "model.json" else len(content) - 1
        (tmp_path / name).write_bytes(content[:at] + b"x" + content[at + 1 :])
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            load_policy(tmp_path, task)
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format_version": 2}, "format version 2; 1 can be read"),
        ({"sizes": {"obs_size": 7}}, "describes no model"),
        ({"sizes": {"width": 7}}, "describes no model"),
        ({"sizes": {"hidden_size": 2**40}}, "has shape|describes no model"),
        ({"sizes": {"num_critics": 10**9}}, "has shape"),
        ({"sizes": {"obs_size": 10**9}}, "obs_size is not 7 to 7"),
        ({"kind": "actor-critic"}, "describes no model"),
        ({"sizes": 5}, "sizes"),
        ({"task": None}, "task"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_small_policy_s_json_that_was_made_to_harm_is_one_line(
    tmp_path: Path, change: dict, problem: str
):
    task = Task("t", "b", "go home", CHANNELS, 10, 10.0)
    save_small_policy(tmp_path, small_policy(), task)
    meta = json.loads((tmp_path / "model.json").read_text())
    if isinstance(sizes := change.get("sizes"), dict) and sizes != {"obs_size": 7}:
        change = {"sizes": meta["sizes"] | sizes}
    sequences.rewrite_model_json(tmp_path, meta | change)
    with pytest.raises(ValueError, match=rf"^{tmp_path}[^\n]*({problem})[^\n]*$"):
        load_policy(tmp_path, task)


def test_load_policy_is_told_the_instruction_unless_prompted(model, tmp_path: Path):
    save_model(tmp_path, model)
    task = Task("t", "b", "go home", CHANNELS, 10, 10.0)
    obs = np.zeros((1, 7), np.float32)
    told = Policy(model, CHANNELS, [Prompt("go home")]).act(obs).action
    np.testing.assert_array_equal(load_policy(tmp_path, task).act(obs).action, told)
    silent = load_policy(tmp_path, task, Prompt()).act(obs).action
    assert not np.array_equal(silent, told)
