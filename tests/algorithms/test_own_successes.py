"""Learning from own successes: which prompts it tries, what it keeps, what it judges by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.algorithms import own_successes
from headstart.algorithms.own_successes import OWN, SKILL, TOLD, OwnSuccesses, OwnSuccessesConfig
from headstart.behaviors.base import Decision
from headstart.data.trajectories import Trajectories
from headstart.model.channels import measure
from headstart.model.transformer import ModelConfig, Transformer, build_transformer
from headstart.model.words import build_vocabulary
from headstart.rollout import Interaction, run_episodes
from headstart.types import Episode

CONFIG = OwnSuccessesConfig(num_envs=4, updates=2)
MAX_STEPS = 6


class ToGoal:
    name = "expert"

    def reset(self, env_ids: np.ndarray) -> None: ...

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        return Decision(np.clip(10 * (obs[:, 2:] - obs[:, :2]), -1, 1).astype(np.float32))


@pytest.fixture
def demonstrations(tiny) -> list[Episode]:
    env = tiny.make(tiny.TASKS["reach"], seeds=range(8))
    return [e for _, e in sorted(run_episodes(Interaction(env, ToGoal()), 40))]


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


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """The prompts of each batch of episodes, as they are played."""
    batches: list[list[tuple[int, int]]] = []
    policy = OwnSuccesses._policy

    def noted(self, model, prompts, noise):
        batches.append(list(prompts))
        return policy(self, model, prompts, noise)

    monkeypatch.setattr(OwnSuccesses, "_policy", noted)
    return batches


def outcome(monkeypatch: pytest.MonkeyPatch, successes: list[float], rewards=None) -> None:
    """Batch i has this share of successes, and its episodes these highest rewards."""
    batches = iter(zip(successes, rewards or [None] * len(successes), strict=True))

    def run(interaction: Interaction, max_steps: int):
        share, highest = next(batches)
        for env_id, episode in run_episodes(interaction, max_steps):
            episode.success[:] = False
            episode.success[-1] = env_id < share * interaction.env.num_envs
            if highest is not None:
                episode.reward[:] = highest[env_id]
            yield env_id, episode

    monkeypatch.setattr(own_successes, "run_episodes", run)


def improve(learner: OwnSuccesses, tiny, batches: int) -> list[dict[str, float]]:
    env = tiny.make(tiny.TASKS["reach"], range(4), MAX_STEPS)
    steps = [s for _, s in zip(range(batches), learner.improve(env, 10**9), strict=False)]
    assert all(0 < s.env_steps <= 4 * MAX_STEPS and s.flops > 0 for s in steps)
    return [s.metrics for s in steps]


def test_words_come_first_then_skills_then_the_first_own_success(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [0, 0, 0, 0.25, 0])
    skills = [[e] for e in demonstrations[:6]]
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, skills=skills)
    metrics = improve(learner, tiny, 5)
    assert played[0] == [(TOLD, 0)] * 4
    assert played[1] == [(SKILL, i) for i in range(4)]
    assert played[2] == [(SKILL, i) for i in range(4, 8)]  # the first two for the second time
    assert played[4] == [(OWN, 0)] * 4
    assert [m["train/own_successes"] for m in metrics] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("batches", "first"), [(3, [1, 3, 0, 2]), (4, [0, 1, 2, 3])])
def test_skills_that_earned_most_come_in_between(tiny, model, demonstrations, batches, first):
    skills = [[a, b] for a, b in zip(demonstrations[:4], demonstrations[4:], strict=True)]
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, skills=skills)
    learner._tried, learner._batches = 4, batches
    learner._scores[:] = [1, 3, 0, 2]
    prompts = learner._prompts(4)
    assert [index % 4 for _, index in prompts] == first
    shown = [learner._as_prompt(*prompt).demonstration for prompt in prompts]
    assert all(any(e is d for d in skills[i]) for e, i in zip(shown, first, strict=True))


def test_the_policy_that_is_judged_is_the_best_in_training(
    tiny, model, demonstrations, monkeypatch
):
    # Means over the last two batches: 0.5, 0.75, 0.5, 0.
    outcome(monkeypatch, [0.5, 1.0, 0.0, 0.0])
    config = replace(CONFIG, judged_over=2)
    learner = OwnSuccesses(config, tiny.TASKS["reach"], 0, model, given=demonstrations[:1])
    improve(learner, tiny, 1)
    before_second = {k: v.clone() for k, v in learner.model.state_dict().items()}
    metrics = improve(learner, tiny, 3)
    assert [m["train/chosen_success"] for m in metrics] == [0.75] * 3
    chosen = learner.chosen.state_dict()
    assert all(torch.equal(chosen[k], before_second[k]) for k in chosen)
    assert learner.actor(1).model is learner.chosen


def test_a_given_demonstration_is_in_the_prompt_from_the_start(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [0, 0])
    learner = OwnSuccesses(
        CONFIG, tiny.TASKS["reach"], 0, model, skills=[demonstrations], given=demonstrations[:2]
    )
    improve(learner, tiny, 2)
    assert played == [[(OWN, 0)] * 4] * 2


def test_imitation_takes_what_was_given_and_the_quickest(tiny, model, demonstrations):
    task = tiny.TASKS["reach"]
    learner = OwnSuccesses(CONFIG, task, 0, model, given=demonstrations[:1])
    by_length = sorted(demonstrations[1:], key=lambda e: -e.num_steps)
    learner._own += by_length
    expected = [0, *sorted(range(1, 8), key=lambda i: (learner._own[i].num_steps, i))]
    assert learner._quickest() == expected


def test_it_goes_on_from_its_tensors_as_if_it_had_not_stopped(
    tiny, model, demonstrations, monkeypatch
):
    def learner_of() -> OwnSuccesses:
        skills = [[e] for e in demonstrations[:3]]
        return OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, build_copy(model), None, skills)

    outcome(monkeypatch, [0, 0.5, 0.25])
    whole = learner_of()
    for _ in range(3):
        improve(whole, tiny, 1)
    outcome(monkeypatch, [0, 0.5])
    first = learner_of()
    for _ in range(2):
        improve(first, tiny, 1)
    outcome(monkeypatch, [0.25])
    second = learner_of()
    second.load_tensors(first.tensors())
    improve(second, tiny, 1)
    expected, found = whole.tensors(), second.tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def build_copy(model: Transformer) -> Transformer:
    copy = build_transformer(model.config, model.channels, model.vocabulary, seed=1)
    copy.load_state_dict(model.state_dict())
    return copy
