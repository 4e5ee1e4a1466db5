"""From own successes to soft actor-critic: when, with what, and whose policy is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.algorithms.base import Spent
from headstart.algorithms.handover import JUDGED_OVER, Handover, SuccessEnds
from headstart.algorithms.off_policy import OffPolicyConfig
from headstart.algorithms.own_successes import OwnSuccesses, OwnSuccessesConfig
from headstart.model.checkpoint import is_small_policy
from headstart.model.soft_actor_critic import SquashedPolicy
from headstart.model.transformer import build_transformer
from headstart.rollout import Interaction, run_episodes
from headstart.types import Episode

SMALL = OffPolicyConfig(
    num_steps=20, burst=10, warmup_steps=20, hidden_size=16, batch_size=8, updates_per_step=2.0
)
CONFIG = OwnSuccessesConfig(
    num_envs=4, updates=2, judged_over=1, handover_steps=60, off_policy=SMALL
)
MAX_STEPS = 15


def learner_of(tiny, model, given, config=CONFIG) -> Handover:
    copied = build_transformer(model.config, model.channels, model.vocabulary, seed=1)
    copied.load_state_dict(model.state_dict())
    task = tiny.TASKS["reach"]
    own = OwnSuccesses(config, task, 0, copied, given=given, max_episode_steps=MAX_STEPS)
    return Handover(own, task, 0)


def improve(learner, tiny, env_steps, first_seed=0):
    env = tiny.make(tiny.TASKS["reach"], range(first_seed, first_seed + 4), MAX_STEPS)
    return list(learner.improve(env, env_steps))


def test_own_successes_hand_over_after_their_steps_with_all_that_was_played(
    tiny, model, demonstrations
):
    learner = learner_of(tiny, model, demonstrations[:1])
    played: list[Episode] = []
    while learner._env_steps < 60:
        assert learner.taken_over_at is None
        improve(learner, tiny, 1)
        played += learner.own.played
    steps = sum(e.num_steps for e in played)
    assert len(learner.off_policy.replay) == steps == learner._env_steps
    (spent,) = improve(learner, tiny, 1, first_seed=4)
    assert learner.taken_over_at == steps and spent.env_steps == 80
    # two updates for each of 20 steps in 4 environments; before, as many hundreds as are in twice
    # the steps of the others
    updates = 2 * 80 + 2 * steps // 100 * 100
    assert spent.flops == pytest.approx(learner.off_policy._flops(80, updates))
    assert len(learner.off_policy.replay) == steps + 80
    won = sum(e.num_steps for e in played if e.success.any())
    assert len(learner.off_policy.shown) == won


@pytest.mark.parametrize(("best", "hands_over"), [(0.89, True), (0.9, False), (-1.0, False)])
def test_there_is_no_handover_from_what_is_good_enough_or_still_searches(
    tiny, model, demonstrations, best, hands_over
):
    learner = learner_of(tiny, model, demonstrations[:1])
    learner._env_steps, learner.own.best = 60, best
    assert learner._is_due() == hands_over
    learner._env_steps = 59
    assert not learner._is_due()


@pytest.mark.parametrize(("successes", "replaces"), [(30, True), (29, False)])
def test_the_small_policy_is_kept_only_where_it_is_better_by_a_standard_error(
    tiny, model, demonstrations, tmp_path, monkeypatch, successes, replaces
):
    # 0.6 or 0.58 against 0.5; sqrt(2 0.55 0.45 / 50) = 0.0995, sqrt(2 0.54 0.46 / 50) = 0.0997
    learner = learner_of(tiny, model, demonstrations[:1])
    learner.taken_over_at, learner.own.best = 0, 0.5
    inner = learner.off_policy
    improve(inner, tiny, 1)  # so that it is not what is chosen
    outcomes = iter([*[False] * 50, *[i < successes for i in range(JUDGED_OVER)]])
    for seed in range(0, 100, 4):
        played(learner, tiny, monkeypatch, [[next(outcomes)] for _ in range(4)], seed)
    assert learner.is_replaced == replaces
    assert isinstance(learner.actor(2), SquashedPolicy) == replaces
    same = torch.equal(learner.chosen.critics.flat_NP, inner.model.critics.flat_NP)
    assert same == replaces
    learner.save(tmp_path)
    assert is_small_policy(tmp_path) == replaces


def played(learner, tiny, monkeypatch, outcomes, first_seed=0):
    """A round of 20 steps in each of four environments, whose episodes ended like this."""
    inner = learner.off_policy

    def improved(env, env_steps):
        inner.outcomes = outcomes
        yield Spent(80, 0.0, {})

    monkeypatch.setattr(inner, "improve", improved)
    improve(learner, tiny, 1, first_seed)


def test_quick_episodes_do_not_count_more_often_than_slow_ones(
    tiny, model, demonstrations, monkeypatch
):
    """Half succeed: at once, so that many of them end while one failure takes 15 of 20 steps."""
    learner = learner_of(tiny, model, demonstrations[:1])
    learner.taken_over_at, learner.own.best = 0, 0.4
    for first_seed in range(0, 80, 4):
        quick = [True, True, True, True, False]
        played(learner, tiny, monkeypatch, [quick, quick, [False], [False]], first_seed)
    assert len(learner._recent) == JUDGED_OVER
    assert np.mean(learner._recent) == 0.48  # of the last 50, as of all, but for a round's halves
    assert not learner.is_replaced


def test_a_failure_that_ended_for_good_is_remembered_so(tiny, model, demonstrations):
    learner = learner_of(tiny, model, ())
    failed = replace(
        demonstrations[0],
        success=np.zeros_like(demonstrations[0].success),
        terminated=True,
        truncated=False,
    )
    learner.own.improve = lambda env: Spent(failed.num_steps, 0.0, {})
    learner.own.played = [failed]
    improve(learner, tiny, 1)
    rows = learner.off_policy.replay.tensors()["rows"]
    assert (rows[-SMALL.n_step :, -1] == 0).all(), "nothing comes after it"


def test_it_goes_on_from_its_tensors_as_if_it_had_not_stopped(tiny, model, demonstrations):
    whole, first, second = (learner_of(tiny, model, demonstrations[:1]) for _ in range(3))
    for round_ in range(4):
        improve(whole, tiny, 60, first_seed=4 * round_)
        if round_ < 2:
            improve(first, tiny, 60, first_seed=4 * round_)
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    for round_ in (2, 3):
        improve(second, tiny, 60, first_seed=4 * round_)
    assert whole.taken_over_at is not None and whole._recent
    expected, found = whole.tensors(), second.tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_an_episode_ends_for_good_at_its_first_success_and_is_not_truncated_too(tiny):
    env = SuccessEnds(tiny.make(tiny.TASKS["reach"], range(6), 40))
    obs, expert, ends = env.reset(), tiny.ToGoal(), np.zeros(6, bool)
    for _ in range(40):
        ids = np.flatnonzero(~ends)
        if not len(ids):
            break
        result = env.step(expert.act(obs[ids], ids).action, ids)
        assert (result.terminated == result.success).all() and not result.truncated.any()
        obs[ids], ends[ids] = result.obs, result.terminated
    assert ends.all()


def test_it_learns_what_a_prior_of_random_weights_cannot(tiny, model):
    small = OffPolicyConfig(
        num_steps=25, burst=25, hidden_size=64, warmup_steps=40, updates_per_step=0.5, gamma=0.9
    )
    config = replace(CONFIG, num_envs=8, handover_steps=0, search_batches=0, off_policy=small)
    learner = learner_of(tiny, model, (), config)
    task = tiny.TASKS["reach"]
    for first_seed in range(0, 96, 8):
        env = tiny.make(task, range(first_seed, first_seed + 8), 25)
        list(learner.improve(env, 1000))
    env = tiny.make(task, range(1000, 1030))
    episodes = [e for _, e in run_episodes(Interaction(env, learner.actor(30)), 25)]
    assert np.mean([e.success.any() for e in episodes]) >= 0.8
