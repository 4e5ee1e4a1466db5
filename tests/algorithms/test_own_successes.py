"""Learning from own successes: which prompts it tries, what it keeps, what it judges by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.algorithms import own_successes
from headstart.algorithms.off_policy import OffPolicyConfig
from headstart.algorithms.own_successes import (
    PRIOR_OUTCOMES,
    OwnSuccesses,
    OwnSuccessesConfig,
)
from headstart.data.store import Dataset, DatasetWriter
from headstart.model.checkpoint import load_model
from headstart.model.transformer import Transformer, build_transformer
from headstart.rollout import Interaction, run_episodes
from headstart.types import Episode

CONFIG = OwnSuccessesConfig(num_envs=4, updates=2)
MAX_STEPS = 6


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts of each batch of episodes, as they are played."""
    batches: list[list[int]] = []
    policy = OwnSuccesses._policy

    def noted(self, model, prompts, *rest):
        batches.append(list(prompts))
        return policy(self, model, prompts, *rest)

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
    steps = [learner.improve(env) for _ in range(batches)]
    assert all(0 < s.env_steps <= 4 * MAX_STEPS and s.flops > 0 for s in steps)
    return [s.metrics for s in steps]


def test_environments_of_who_takes_over_are_refused_where_they_would_be_ignored():
    OwnSuccessesConfig(num_envs=4, off_policy=OffPolicyConfig(num_envs=4))
    with pytest.raises(ValueError, match=r"own_successes.off_policy.num_envs says nothing"):
        OwnSuccessesConfig(num_envs=4, off_policy=OffPolicyConfig(num_envs=5))


def test_words_come_first_then_prompts_of_other_tasks_and_the_model_stays(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [0, 0, 0])
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, skills=demonstrations[:6])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    improve(learner, tiny, 3)
    assert played[0] == [0] * 4
    assert all(1 <= prompt <= 6 for batch in played[1:] for prompt in batch)
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())


def test_a_prompt_that_serves_ends_the_search(tiny, model, demonstrations, monkeypatch):
    outcome(monkeypatch, [1, 1, 0])
    config = replace(CONFIG, search_batches=100)
    learner = OwnSuccesses(config, tiny.TASKS["reach"], 0, model, skills=demonstrations[:1])
    improve(learner, tiny, 1)
    assert learner._is_searching(), "four episodes are not five"
    learner._outcomes[1] += (6.0, 0.0)  # 6.5 of 8 with what is presumed
    assert not learner._is_searching()


def test_the_search_has_an_end_once_something_succeeded(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [0.25, 0, 0])
    config = replace(CONFIG, search_batches=2)
    learner = OwnSuccesses(config, tiny.TASKS["reach"], 0, model, skills=demonstrations[:2])
    improve(learner, tiny, 3)
    assert played[2] in ([0], [3]), "words, or the own success behind two skills"


def test_a_quick_success_counts_more_and_the_nearest_miss_a_little(tiny, model, demonstrations):
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, skills=demonstrations[:2])
    won, missed, far = (replace(e) for e in demonstrations[:3])
    for episode, success, reward in ((won, True, 2.0), (missed, False, 1.0), (far, False, 0.0)):
        episode.success = np.full(episode.num_steps, success)
        episode.reward = np.full(episode.num_steps, reward, np.float32)
    learner._take_in([0, 1, 2], [won, missed, far])
    share = 1 - 0.5 * won.num_steps / 50
    expected = [(share, 1 - share), (0.05, 0.95), (0.0, 1.0), (0.0, 0.0)]
    np.testing.assert_allclose(learner._outcomes - PRIOR_OUTCOMES, expected)


@pytest.mark.parametrize(("fourth", "is_better"), [(0.5, True), (0.25, False)])
def test_a_policy_is_replaced_by_what_is_better_by_a_standard_error(
    tiny, model, demonstrations, monkeypatch, fourth, is_better
):
    # Over two batches, so 8 episodes: 0.5 at the start, then 0.75 or 0.625. The standard errors of
    # the differences are sqrt(2 0.625 0.375 / 8) = 0.242 and sqrt(2 0.5625 0.4375 / 8) = 0.248.
    outcome(monkeypatch, [0.5, 0.5, 1.0, fourth, 0.5, 0.5])
    config = replace(CONFIG, judged_over=2)
    learner = OwnSuccesses(config, tiny.TASKS["reach"], 0, model, given=demonstrations[:1])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    improve(learner, tiny, 3)
    before_fourth = {k: v.clone() for k, v in learner.model.state_dict().items()}
    assert any(not torch.equal(before_fourth[k], start[k]) for k in start)
    metrics = improve(learner, tiny, 3)
    assert [m["train/chosen_success"] for m in metrics] == [0.75 if is_better else 0.5] * 3
    chosen, expected = learner.chosen.state_dict(), before_fourth if is_better else start
    assert all(torch.equal(chosen[k], expected[k]) for k in chosen)
    assert learner.actor(1).model is learner.chosen


def test_what_is_chosen_acts_on_what_it_was_judged_on(
    tiny, model, demonstrations, played, monkeypatch
):
    # Told: 0.5 at the start, then 1. An own success that was lucky once is not shown for that.
    outcome(monkeypatch, [0.5] * 3 + [1.0] * 4)
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, given=())
    monkeypatch.setattr(learner, "_is_searching", lambda: False)
    monkeypatch.setattr(learner, "_prompts", lambda num: [0])
    improve(learner, tiny, 6)
    learner._outcomes[3] += (50.0, 0.0)
    assert learner._best_prompt() == 3
    improve(learner, tiny, 1)
    assert learner.best == 1.0
    learner.actor(4)
    assert played[-2:] == [[0], [0]]


def test_batches_that_were_told_say_nothing_of_a_policy_that_is_shown(tiny, model, demonstrations):
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, given=demonstrations[:2])
    learner.best = 0.5
    for rate, prompts in [(1.0, [0]), (1.0, [0]), (0.9, [1, 2]), (0.9, [1, 2])]:
        learner._judge(rate, prompts)
    assert learner.best == 0.5
    learner._judge(0.9, [2, 1])
    assert learner.best == pytest.approx(0.9)
    assert learner._chosen_prompts == [2, 1]


def test_nothing_is_learned_before_the_start_has_been_judged(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [1.0, 1.0, 1.0])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, given=demonstrations[:1])
    improve(learner, tiny, CONFIG.judged_over - 1)
    assert all(torch.equal(v, start[k]) for k, v in learner.model.state_dict().items())
    assert played == [[1]] * (CONFIG.judged_over - 1)


def test_a_prior_that_learning_makes_worse_stays_what_is_judged(
    tiny, model, demonstrations, monkeypatch
):
    outcome(monkeypatch, [1.0] * 6 + [0.5] * 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, skills=demonstrations[:2])
    improve(learner, tiny, 9)
    assert any(not torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in learner.chosen.state_dict().items())


def test_a_given_demonstration_is_in_the_prompt_from_the_start(
    tiny, model, demonstrations, played, monkeypatch
):
    outcome(monkeypatch, [0, 0])
    learner = OwnSuccesses(
        CONFIG, tiny.TASKS["reach"], 0, model, skills=demonstrations[:3], given=demonstrations[3:5]
    )
    improve(learner, tiny, 2)
    assert played == [[4, 5]] * 2


def test_a_demonstration_that_was_never_played_is_not_the_best_prompt(tiny, model, demonstrations):
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, given=demonstrations[:2])
    learner._outcomes[1] += (0.2, 0.8)
    assert learner._plays().tolist() == [0, 1, 0]
    assert learner._best_prompt() == 1


def test_a_prompt_whose_saving_was_cut_short_is_saved_by_the_next_try(
    tiny, model, demonstrations, tmp_path
):
    model.trained_on = frozenset({"tiny/push"})
    learner = OwnSuccesses(CONFIG, tiny.TASKS["reach"], 0, model, given=demonstrations[:2])
    with DatasetWriter(tmp_path / "prompt", learner.task) as writer:
        writer.save_episode(demonstrations[0])  # killed before the second
    for _ in range(2):
        learner.save(tmp_path)
        saved = Dataset(tmp_path / "prompt")
        assert saved.num_episodes == 2
    assert load_model(tmp_path).trained_on == {"tiny/push", "tiny/reach"}


def test_successes_of_the_best_prompts_are_kept_and_of_those_the_quickest(
    tiny, model, demonstrations
):
    config = replace(CONFIG, most_episodes=3)
    learner = OwnSuccesses(config, tiny.TASKS["reach"], 0, model, skills=demonstrations[:2])
    learner._shown += [cut(demonstrations[0], steps) for steps in (5, 4, 3, 2)]
    learner._source = [0, 1, 1, 0]
    learner._outcomes = np.array([(1, 1), (9, 1), *[(0.5, 1.5)] * 5], float)
    assert learner._kept() == [5, 4, 6]  # own successes begin at 3


def cut(episode: Episode, steps: int) -> Episode:
    names = ("obs", "action", "reward", "success")
    return replace(episode, **{name: getattr(episode, name)[:steps] for name in names})


def test_it_goes_on_from_its_tensors_as_if_it_had_not_stopped(
    tiny, model, demonstrations, monkeypatch
):
    def learner_of() -> OwnSuccesses:
        config = replace(CONFIG, search_batches=2)
        skills = demonstrations[:3]
        return OwnSuccesses(config, tiny.TASKS["reach"], 0, build_copy(model), None, skills)

    outcome(monkeypatch, [0, 0.5, 0.25, 0.5])
    whole = learner_of()
    for _ in range(4):
        improve(whole, tiny, 1)
    outcome(monkeypatch, [0, 0.5, 0.25])
    first = learner_of()
    for _ in range(3):
        improve(first, tiny, 1)
    outcome(monkeypatch, [0.5])
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


def test_episodes_that_diverge_are_failures_and_nothing_of_them_is_learned(tiny, model):
    task = tiny.TASKS["reach"]
    learner = OwnSuccesses(CONFIG, task, 0, model)
    env = tiny.Diverging(task, range(4), MAX_STEPS, {(0, 0): "obs", (1, 2): "reward"})
    spent = learner.improve(env)
    assert spent.diverged_episodes == 2 and spent.env_steps <= 1 + 3 + 2 * MAX_STEPS
    assert spent.metrics["train/success"] <= 0.5
    assert all(tensor.isfinite().all() for tensor in learner.tensors().values())
