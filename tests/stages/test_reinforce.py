"""Reinforcement learning: rounds, bookkeeping, stopping and resuming."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import small_run
from headstart.algorithms.handover import Handover
from headstart.algorithms.off_policy import OffPolicyConfig
from headstart.algorithms.own_successes import OwnSuccessesConfig
from headstart.algorithms.ppo import PPOConfig
from headstart.data.demonstrations import Demonstrations
from headstart.data.store import Dataset, DatasetWriter
from headstart.ledger import read_bill
from headstart.model.checkpoint import is_small_policy, load_model, save_model, save_training
from headstart.model.policy import load_policy
from headstart.rollout import Interaction, run_episodes
from headstart.stages import reinforce as stage
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.stages.reinforce import Progress, ReinforceConfig, reinforce
from headstart.suites import registry
from recordings import same

ROUND = 160
"""Training steps of a round with ``config``: 2 rollouts of 20 steps in 4 environments."""


SMALL = {
    "ppo": PPOConfig(num_envs=4, num_steps=20, hidden_size=8, update_epochs=2, num_minibatches=2),
    "off_policy": OffPolicyConfig(
        num_envs=4, num_steps=20, burst=10, warmup_steps=40, hidden_size=8, batch_size=8
    ),
}


def config(algorithm="ppo", **changes) -> ReinforceConfig:
    settings = {
        "algorithm": algorithm,
        "task": "tiny/reach",
        "env_steps": 3 * ROUND,
        "stop_at_success": 1.0,
        "eval_every_steps": ROUND,
        "eval_episodes": 5,
        "max_episode_steps": 15,
    } | ({algorithm: SMALL[algorithm]} if "model" not in changes else {})
    return ReinforceConfig(**(settings | changes))


def test_training_and_evaluation_are_counted_apart(tiny, tmp_path):
    result = reinforce(config(), tmp_path / "run")
    assert [point["env_steps"] for point in result["curve"]] == [ROUND, 2 * ROUND, 3 * ROUND]
    assert all(point["episodes"] == 5 for point in result["curve"])
    cost = read_bill(tmp_path / "run").cost
    assert cost.env_steps_by_origin is not None
    assert cost.env_steps_by_origin["reinforce"] == 3 * ROUND
    assert cost.env_steps_by_origin["evaluate"] in range(3 * 5, 3 * 5 * 15 + 1)
    assert cost.flops == result["curve"][-1]["flops"] > 0
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())


def test_the_last_round_is_no_longer_than_what_is_left_of_the_steps(tiny, tmp_path):
    result = reinforce(config(env_steps=ROUND + 10), tmp_path / "run")
    assert [point["env_steps"] for point in result["curve"]] == [ROUND, ROUND + 80]  # a rollout
    assert stage.reinforce(config(env_steps=10), tmp_path / "few")["curve"][0]["env_steps"] == 80


def test_evaluating_more_does_not_change_what_is_learned(tiny, tmp_path):
    reinforce(config(eval_episodes=1), tmp_path / "few")
    reinforce(config(eval_episodes=7), tmp_path / "many")
    few, many = (tmp_path / run / "model.safetensors" for run in ("few", "many"))
    assert few.read_bytes() == many.read_bytes()


@pytest.mark.parametrize("name", ["env_steps", "eval_every_steps", "eval_episodes"])
def test_settings_that_make_no_sense_are_told(name):
    with pytest.raises(ValueError, match=f"{name} is 0; use "):
        config(**{name: 0})


@pytest.mark.parametrize(
    ("algorithm", "changes", "problem"),
    [
        (PPOConfig, {"num_envs": 0}, "num_envs is 0; use at least 1"),
        (PPOConfig, {"num_envs": 1, "num_steps": 1}, "num_steps is 1; use at least 2"),
        (PPOConfig, {"update_epochs": 0}, "update_epochs is 0; use at least 1"),
        (PPOConfig, {"num_minibatches": 0}, "num_minibatches is 0; use at least 1"),
        (PPOConfig, {"max_kl": math.nan}, "max_kl is nan; use more than 0"),
        (PPOConfig, {"max_kl": 0.0}, "max_kl is 0.0; use more than 0"),
        (PPOConfig, {"max_kl": -math.inf}, "max_kl is -inf; use more than 0"),
        (OffPolicyConfig, {"target_entropy": math.nan}, "target_entropy is nan; use a finite"),
        (OffPolicyConfig, {"target_entropy": -math.inf}, "target_entropy is -inf; use a finite"),
        (PPOConfig, {"hidden_size": 300_000}, "hidden_size is 300000; use 1 to 4096"),
        (OffPolicyConfig, {"hidden_size": 300_000}, "hidden_size is 300000; use 1 to 4096"),
        (OffPolicyConfig, {"gamma": 1.0}, "gamma is 1.0; use 0 to 0.9999"),
        (OwnSuccessesConfig, {"num_envs": 0}, "num_envs is 0; use at least 1"),
        (OwnSuccessesConfig, {"judged_over": 0}, "judged_over is 0; use at least 1"),
    ],
)
def test_an_algorithms_settings_that_make_no_sense_are_told(algorithm, changes, problem):
    with pytest.raises(ValueError, match=problem):
        algorithm(**changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"off_policy": OffPolicyConfig(gamma=0.9)}, "off-policy"),
        ({"own_successes": OwnSuccessesConfig(noise=2.0)}, "own-successes"),
        ({"algorithm": "off_policy", "ppo": PPOConfig(gamma=0.9)}, "ppo"),
        ({"model": Path("x"), "ppo": PPOConfig(gamma=0.9)}, "ppo"),
    ],
)
def test_settings_of_what_does_not_learn_here_are_refused(tiny, tmp_path, changes, name):
    with pytest.raises(ValueError, match=rf"which --{name}\.\* are no settings of: leave them out"):
        reinforce(config(**changes), tmp_path / "run")


def test_environments_are_as_many_as_there_are_seeds():
    with pytest.raises(ValueError, match="num_envs is 20000; use 1 to 10000"):
        config(ppo=PPOConfig(num_envs=20_000))


@pytest.mark.parametrize(("successes", "episodes"), [(0, 10), (1, 30)])
def test_an_evaluation_ends_after_ten_episodes_only_if_all_of_them_fail(
    tiny, tmp_path, monkeypatch, successes, episodes
):
    played = []

    def some_succeed(config, learner, task, seeds, meter):
        played.extend(seeds)
        return np.arange(len(seeds)) < successes, 0

    monkeypatch.setattr(stage, "play", some_succeed)
    result = reinforce(config(eval_episodes=30, env_steps=ROUND), tmp_path / "run")
    assert [point["episodes"] for point in result["curve"]] == [episodes]
    assert len(set(played)) == episodes


class Killed(BaseException):
    pass


def from_a_prior(tiny, root) -> ReinforceConfig:
    """Own successes, of which there are some, and then soft actor-critic."""
    demonstrations(tiny, root / "shown")
    data = (str(root / "shown"),)
    settings = {"model": small_run.SIZE, "loader": small_run.LOADER, "tracker": "none"}
    pretrain(PretrainConfig(data=data, updates=2, **settings), root / "prior")
    own = OwnSuccessesConfig(
        num_envs=4, updates=2, judged_over=1, handover_steps=150, off_policy=SMALL["off_policy"]
    )
    shown = {"model": root / "prior", "demonstrations": root / "shown", "count": 1}
    return config(**shown, own_successes=own, env_steps=5 * ROUND)


@pytest.mark.parametrize("steps_until_killed", [1, 20, 60, 110, 150])
def test_a_run_from_a_prior_that_was_killed_and_resumed_equals_an_undisturbed_one(
    tiny, tmp_path, monkeypatch, steps_until_killed
):
    is_undisturbed(from_a_prior(tiny, tmp_path), tiny, tmp_path, monkeypatch, steps_until_killed)
    log = metrics_of(tmp_path / "resumed")
    assert any("losses/critic" in line for line in log), "nobody took over"
    prompts = [tmp_path / run / "prompt" for run in ("whole", "resumed")]
    if prompts[0].exists():
        first, second = (Dataset(prompt).digest for prompt in prompts)
        assert first == second


def test_the_result_and_the_card_tell_who_took_over_and_when(tiny, tmp_path):
    settings = from_a_prior(tiny, tmp_path)
    result = reinforce(settings, tmp_path / "run")
    assert 150 <= result["taken_over_at"] < result["curve"][-1]["env_steps"]
    assert result["is_replaced"] == is_small_policy(tmp_path / "run")
    card = (tmp_path / "run/README.md").read_text()
    assert f"; soft actor-critic from step {result['taken_over_at']} on, whose policy" in card
    result = reinforce(replace(settings, env_steps=ROUND), tmp_path / "short")
    assert (result["taken_over_at"], result["is_replaced"]) == (None, False)
    assert "soft actor-critic" not in (tmp_path / "short/README.md").read_text()


def test_a_checkpoint_that_lacks_what_is_needed_is_one_line(tiny, tmp_path):
    learner = stage.build_algorithm(config(), registry.get_task(config().task), [])
    tensors = learner.tensors()
    del tensors["generator"]
    save_training(tmp_path / "checkpoint.safetensors", tensors, stage.Progress())
    with pytest.raises(
        ValueError, match=r"another version of Headstart wrote it, without 'generator'"
    ):
        stage.load_checkpoint(tmp_path, learner)


@pytest.mark.parametrize("algorithm", ["ppo", "off_policy"])
@pytest.mark.parametrize("steps_until_killed", [1, 50, 130])
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(
    tiny, tmp_path, monkeypatch, steps_until_killed, algorithm
):
    settings = config(algorithm=algorithm)
    is_undisturbed(settings, tiny, tmp_path, monkeypatch, steps_until_killed)


def is_undisturbed(settings, tiny, tmp_path, monkeypatch, steps_until_killed) -> None:
    """Runs it once without and once with an interruption, and compares all that they leave."""
    whole = reinforce(settings, tmp_path / "whole")

    step, left = tiny.TinyVecEnv.step, [steps_until_killed]

    def dying_step(*args):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return step(*args)

    monkeypatch.setattr(tiny.TinyVecEnv, "step", dying_step)
    with pytest.raises(Killed):
        reinforce(settings, tmp_path / "resumed")
    with pytest.raises(ValueError, match="resume"):
        reinforce(settings, tmp_path / "resumed")
    resumed = reinforce(settings, tmp_path / "resumed", resume=True)

    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    timeless = ("env_steps", "flops", "success_rate", "episodes")
    curves = [[[p[k] for k in timeless] for p in r["curve"]] for r in (whole, resumed)]
    assert json.dumps(curves[0]) == json.dumps(curves[1])
    logs = [metrics_of(tmp_path / run) for run in ("whole", "resumed")]
    assert logs[0] == logs[1]


def metrics_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_s")} for line in lines]


def test_work_that_a_kill_undid_is_billed_but_not_in_the_curve(tiny, tmp_path, monkeypatch):
    dying = small_run.failing_after(stage._evaluate, 1, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_evaluate", dying)
        with pytest.raises(KeyboardInterrupt):
            reinforce(config(), tmp_path / "run")
    result = reinforce(config(), tmp_path / "run", resume=True)
    assert result["curve"][-1]["env_steps"] == 3 * ROUND
    cost = read_bill(tmp_path / "run").cost
    assert cost.env_steps_by_origin is not None
    assert cost.env_steps_by_origin["reinforce"] == 4 * ROUND


def test_steps_of_an_improvement_that_failed_midway_are_billed(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Interaction, "step", small_run.failing_after(Interaction.step, 27))
        with pytest.raises(RuntimeError, match="the simulator died"):
            reinforce(config(), tmp_path / "run")
    assert read_bill(tmp_path / "run").cost.env_steps_by_origin == {"reinforce": 27 * 4}
    reinforce(config(), tmp_path / "run", resume=True)
    cost = read_bill(tmp_path / "run").cost
    assert (cost.env_steps_by_origin or {})["reinforce"] == 27 * 4 + 3 * ROUND


def test_opening_what_it_starts_from_is_on_the_bill_each_time(tiny, tmp_path, monkeypatch):
    small_run.taking(monkeypatch, stage, "build_algorithm")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_evaluate", small_run.failing_after(stage._evaluate, 1))
        with pytest.raises(RuntimeError, match="the simulator died"):
            reinforce(config(), tmp_path / "run")
    result = reinforce(config(), tmp_path / "run", resume=True)
    assert read_bill(tmp_path / "run").cost.core_s == 200.0
    assert result["curve"][-1]["core_s"] == 0.0  # of learning alone


@pytest.mark.parametrize("algorithm", ["ppo", "off_policy"])
def test_what_was_learned_from_scratch_is_loaded_and_acts_as_it_was_judged(
    tiny, tmp_path, algorithm
):
    settings = config(algorithm=algorithm, env_steps=ROUND)
    reinforce(settings, tmp_path / "run")
    task = registry.get_task(settings.task)
    learner = stage.build_algorithm(settings, task, [])
    stage.load_checkpoint(tmp_path / "run", learner)
    obs = np.linspace(-1, 1, len(task.obs_channels), dtype=np.float32)[None]
    loaded, judged = load_policy(tmp_path / "run", task), learner.actor(1)
    np.testing.assert_array_equal(loaded.act(obs).action, judged.act(obs, np.zeros(1, int)).action)


def test_a_folder_may_be_named_by_a_string(tiny, tmp_path):
    result = reinforce(config(env_steps=ROUND), str(tmp_path / "run"))
    assert json.loads((tmp_path / "run/result.json").read_text()) == result


def test_a_complete_run_is_read_not_run_again(tiny, tmp_path, monkeypatch):
    result = reinforce(config(), tmp_path / "run")
    monkeypatch.setattr(tiny, "make", None)
    assert reinforce(config(), tmp_path / "run", resume=True) == result


def test_stops_after_two_good_evaluations_in_a_row():
    def progress(*rates: float) -> Progress:
        return Progress(curve=[{"success_rate": rate} for rate in rates])

    assert not progress().reached(0.9)
    assert not progress(1.0).reached(0.9)
    assert not progress(1.0, 0.8, 0.9).reached(0.9)
    assert progress(0.0, 0.9, 1.0).reached(0.9)
    assert not progress(1.0, 1.0).reached(None)


def test_no_two_rounds_or_purposes_share_a_seed():
    settings = config(task="metaworld/door-close")
    task = registry.get_task(settings.task)
    seeds = [
        seed
        for purpose in ("reinforcement", "evaluation")
        for index in range(100)
        for seed in stage.round_seeds(settings, task, purpose, index, 50)
    ]
    assert len(set(seeds)) == len(seeds)


def demonstrations(tiny, root, changes=lambda episode: {}) -> None:
    env = tiny.make(tiny.TASKS["reach"], seeds=range(3))
    episodes = [e for _, e in run_episodes(Interaction(env, tiny.ToGoal()), 40, 3)]
    with DatasetWriter(root, tiny.TASKS["reach"]) as writer:
        writer.save_episodes([replace(e, **changes(e)) for e in episodes])


@pytest.mark.parametrize("reward", ["dense", "success"])
def test_soft_actor_critic_takes_demonstrations_with_the_reward_it_learns_from(
    tiny, tmp_path, reward
):
    demonstrations(tiny, tmp_path / "shown")
    common = {"algorithm": "off_policy", "env_steps": ROUND, "reward": reward}
    settings = config(**common, demonstrations=tmp_path / "shown", count=2)
    assert reinforce(settings, tmp_path / "run")["arm"] == "scratch_rlpd_2"
    assert reinforce(config(**common), tmp_path / "without")["arm"] == "scratch_off_policy"
    given = stage.given_demonstrations(settings, tiny.TASKS["reach"])
    assert len(given) == 2
    for episode in given:
        assert np.array_equal(episode.reward, episode.success) == (reward == "success")


def test_a_prior_shows_its_demonstrations_of_the_task_and_only_for_a_new_one_those_of_others(
    tmp_path,
):
    root = small_run.write(tmp_path)
    settings = config(model=root / "model", data=root / "data")

    def prompts(task: str) -> list[str | None]:
        learner = stage.build_algorithm(settings, registry.get_task(task), [])
        assert isinstance(learner, Handover)
        return [None if e is None else e.task_id for e in learner.own._shown]

    assert len(prompts(small_run.SEEN)) > 3 and set(prompts(small_run.SEEN)[1:]) == {small_run.SEEN}
    assert prompts(small_run.HELD_OUT) == [None, *[small_run.SEEN] * 2]


def test_demonstrations_merged_with_those_of_another_body_are_what_they_were_alone(tiny, tmp_path):
    demonstrations(tiny, tmp_path / "shown")
    merged = small_run.merge_with_another_body(tmp_path / "shown", tmp_path)
    common = {"algorithm": "off_policy", "count": 2, "env_steps": ROUND}
    alone, ours = (config(**common, demonstrations=r) for r in (tmp_path / "shown", merged))
    given = [stage.given_demonstrations(c, tiny.TASKS["reach"]) for c in (alone, ours)]
    assert same(given[1], given[0])
    first, second = (reinforce(c, tmp_path / str(k)) for k, c in enumerate((alone, ours)))
    assert success_rates(first) == success_rates(second)
    weights = [load_file(tmp_path / str(k) / "model.safetensors") for k in range(2)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def success_rates(result: dict) -> list[float]:
    return [point["success_rate"] for point in result["curve"]]


def test_what_a_prior_is_shown_of_its_data_is_in_the_columns_of_the_task(tiny, tmp_path):
    demonstrations(tiny, tmp_path / "shown")
    settings = {"model": small_run.SIZE, "loader": small_run.LOADER, "tracker": "none"}
    pretrain(PretrainConfig(data=(str(tmp_path / "shown"),), updates=2, **settings), tmp_path / "m")
    data = small_run.reverse(tmp_path / "shown", tmp_path / "reversed")
    for name, first in (("reach", 0), ("reach-once", 1)):  # its own; to be tried for another task
        task = tiny.TASKS[name]
        learner = stage.build_algorithm(config(model=tmp_path / "m", data=data), task, [])
        assert isinstance(learner, Handover)
        found = [episode for episode in learner.own._shown if episode is not None]
        expected = Demonstrations(tmp_path / "shown", 3 if first == 0 else 2)
        assert same(found, expected.of(tiny.TASKS["reach"]))


def test_a_prior_knows_the_tasks_that_it_rehearses(tmp_path):
    root = small_run.write(tmp_path)
    model = load_model(root / "model")
    model.trained_on = frozenset()  # as if the tasks in the data had been left out
    save_model(tmp_path / "prior", model)
    settings = config(model=tmp_path / "prior", data=root / "data")
    learner = stage.build_algorithm(settings, registry.get_task(small_run.HELD_OUT), [])
    assert isinstance(learner, Handover)
    assert learner.own.chosen.trained_on == {small_run.SEEN}


def test_demonstrations_without_rewards_or_that_nobody_learns_from_are_refused(tiny, tmp_path):
    demonstrations(tiny, tmp_path / "shown", lambda e: {"reward": np.full_like(e.reward, np.nan)})
    settings = {"demonstrations": tmp_path / "shown", "count": 2}
    with pytest.raises(ValueError, match="does not tell its rewards"):
        reinforce(config(**settings, algorithm="off_policy"), tmp_path / "run")
    with pytest.raises(ValueError, match="give --model or --algorithm off_policy"):
        reinforce(config(**settings), tmp_path / "run")
    with pytest.raises(ValueError, match="say how many with --count"):
        reinforce(config(demonstrations=tmp_path / "shown"), tmp_path / "run")
    with pytest.raises(ValueError, match="--data is what a model was pre-trained on"):
        reinforce(config(data=tmp_path / "shown"), tmp_path / "run")
    with pytest.raises(ValueError, match="count is -1; use at least 0"):
        config(count=-1)
    with pytest.raises(ValueError, match="leave out it or --model"):
        reinforce(config(algorithm="off_policy", model=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_demonstrations_are_told_as_those_that_succeed(tiny, tmp_path):
    demonstrations(tiny, tmp_path / "shown", lambda e: {"success": np.zeros_like(e.success)})
    settings = {"demonstrations": tmp_path / "shown", "count": 2, "algorithm": "off_policy"}
    with pytest.raises(ValueError, match=r"shown: 0 .* that succeed, 2 needed; collect more$"):
        reinforce(config(**settings), tmp_path / "run")


def test_an_unknown_task_is_named_with_its_neighbours(tmp_path):
    with pytest.raises(ValueError, match="metaworld/door-unlock"):
        reinforce(config(task="metaworld/door-unlok"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["ppo", "off_policy"])
def test_episodes_that_diverge_are_counted_and_a_resumed_run_is_still_exact(
    tiny, tmp_path, monkeypatch, algorithm
):
    def make(task, seeds, max_episode_steps=None):
        when = {(seed, 7): "obs" for seed in seeds}
        return tiny.Diverging(task, seeds, max_episode_steps, when)

    monkeypatch.setattr(tiny, "make", make)
    settings = config(algorithm=algorithm)
    whole = reinforce(settings, tmp_path / "whole")
    # 40 steps count in each of 4 environments, and one does not
    assert [point["env_steps"] for point in whole["curve"]] == [164, 328, 492]
    assert read_bill(tmp_path / "whole").cost.env_steps_by_origin["reinforce"] == 492
    logs = metrics_of(tmp_path / "whole")
    counted = [log["charts/diverged_episodes"] for log in logs if "train/reward" in log]
    assert counted == [4, 4, 8, 8, 12, 12] and whole["diverged_episodes"] == 12
    for point in whole["curve"]:  # those that did not succeed within seven steps
        assert point["success_rate"] == pytest.approx(1 - point["diverged_episodes"] / 5)
    assert any(point["diverged_episodes"] for point in whole["curve"])
    saved = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())

    step, left = tiny.TinyVecEnv.step, [130]

    def dying_step(*args):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.TinyVecEnv, "step", dying_step)
        with pytest.raises(Killed):
            reinforce(settings, tmp_path / "resumed")
    resumed = reinforce(settings, tmp_path / "resumed", resume=True)
    assert resumed["diverged_episodes"] == 12
    assert metrics_of(tmp_path / "resumed") == logs
    weights = [tmp_path / run / "model.safetensors" for run in ("whole", "resumed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
