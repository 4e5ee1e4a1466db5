"""Reinforcement learning of one task: from scratch, or from a prior and its own successes.

Work goes in rounds. A round steps environments of its own, made from seeds of its own, then
evaluates and writes a checkpoint; so a run that was stopped and resumed is the run that was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from headstart.algorithms.base import Algorithm
from headstart.algorithms.handover import Handover
from headstart.algorithms.off_policy import OffPolicy, OffPolicyConfig
from headstart.algorithms.own_successes import OwnSuccesses, OwnSuccessesConfig
from headstart.algorithms.ppo import PPO, PPOConfig
from headstart.artifact import Artifact, count, write_card
from headstart.config import check_ranges, free, from_json
from headstart.data.cache import open_cache
from headstart.data.demonstrations import Demonstrations, enough_demonstrations
from headstart.data.store import Dataset
from headstart.ledger import Cost, Meter, RunMeter, read_bill, settle
from headstart.model.checkpoint import load_model, load_training, save_training
from headstart.model.learner import make_loader, one_thread
from headstart.rollout import Interaction, run_episodes
from headstart.seeds import SEEDS_PER_TASK, environment_seeds
from headstart.suites import registry
from headstart.suites.base import StepResult, VecEnv, Wrapped
from headstart.types import Episode, Task

DEMONSTRATIONS_OF_A_SKILL = 2
"""Of each other task, to be tried as prompts."""
SCREENING_EPISODES = 10
"""An evaluation's first ones. Failing costs whole episodes: all of them failing is enough."""


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Settings of reinforcement learning."""

    task: str = "metaworld/door-unlock"
    """The task to learn, ``suite/name``."""
    model: Path | None = None
    """Folder of a pre-trained or fine-tuned model to start from; without one from scratch."""
    algorithm: Literal["ppo", "off_policy"] = "ppo"
    """How it learns without a model: proximal policy optimisation, or soft actor-critic."""
    data: Path | None = None
    """Dataset that the model was pre-trained on: half of every batch, so that nothing is forgotten.
    With demonstrations of the task, a run starts from them; without, those of other tasks are
    tried where the task's words do not help."""
    demonstrations: Path | None = None
    """Dataset with demonstrations of the task; without them a model starts from the task's words,
    soft actor-critic from nothing."""
    count: int = 0
    """Demonstrations to start from. In a model's prompt is the first, and it imitates all; soft
    actor-critic draws a share of every batch from them."""
    reward: Literal["dense", "success"] = "dense"
    """The task's own reward, or 1 for success and 0 otherwise."""
    seed: int = 0
    """Sets the initial weights, the exploration and every environment."""
    env_steps: int = 1_000_000
    """Training stops after so many environment steps and the rest of a rollout (evaluation not
    counted)."""
    stop_at_success: float | None = 0.9
    """Training stops when two evaluations in a row reach this success rate; None: never."""
    eval_every_steps: int = 20_000
    """Training steps between evaluations."""
    eval_episodes: int = 50
    """Episodes an evaluation has, unless the first ten all fail: then it ends with those."""
    max_episode_steps: int = 300
    """Steps after which an episode, in training or evaluation, is truncated."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)
    own_successes: OwnSuccessesConfig = field(default_factory=OwnSuccessesConfig)
    tracker: Literal["tensorboard", "none", "trackio", "wandb"] = free("tensorboard")
    """Where metrics go beside JSON lines."""

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges(self, env_steps=some, eval_every_steps=some, max_episode_steps=some)
        if self.stop_at_success is not None:
            check_ranges(self, stop_at_success=(0, 1))
        seeds = (1, SEEDS_PER_TASK)
        check_ranges(self, num_envs=seeds, eval_episodes=seeds, count=(0, math.inf))

    @property
    def learner(self) -> str:
        """What learns: the name of its settings."""
        return self.algorithm if self.model is None else "own_successes"

    @property
    def num_envs(self) -> int:
        """Environments stepped together."""
        return getattr(self, self.learner).num_envs

    @property
    def arm(self) -> str:
        """What the report calls it."""
        if self.model is None and self.algorithm == "ppo":
            return "scratch_reinforce"
        if self.model is None:
            return f"scratch_rlpd_{self.count}" if self.count else "scratch_off_policy"
        return f"pretrained_demos_{self.count}_reinforce" if self.count else "pretrained_reinforce"


@dataclass(frozen=True)
class Progress:
    """How far a run has come, as its checkpoint says."""

    rounds: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    """Of training alone, without evaluation, and without work that an interruption undid."""
    diverged_episodes: int = 0
    """In training."""

    @property
    def env_steps(self) -> int:
        return self.cost.env_steps or 0

    def reached(self, success_rate: float | None) -> bool:
        """Whether there is one to reach, and the last two evaluations had it."""
        last = [point["success_rate"] for point in self.curve[-2:]]
        return success_rate is not None and len(last) == 2 and min(last) >= success_rate


def reinforce(config: ReinforceConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Learn a task from reward: from scratch, or from a prior and its own successes.

    Writes an artifact: the model, ``checkpoint.safetensors`` and the usual files.
    It may be stopped at any time and resumed from its last checkpoint; on a CPU the resumed run
    ends with the same weights and success rates, bit for bit, as one that was never stopped.

    Args:
        out: the artifact's folder.
        resume: go on with the run in ``out``, if there is one; a complete one is only read.

    Returns:
        What ``result.json`` holds. ``curve`` has a point per evaluation: training cost so far
        (``env_steps``, ``core_s``, ``flops``, ``wall_s``, ``energy_j``; evaluation not counted)
        and the greedy policy's ``success_rate`` over ``episodes``: success at any step of an
        episode. From a prior the first point is the policy that it starts from.
        From a prior ``taken_over_at`` is the step at which soft actor-critic took over, or null,
        and ``is_replaced`` whether the policy is its.
        ``diverged_episodes`` were spoiled by the simulation: of training, and of a point's
        evaluation, where they count as failures.

    Raises:
        ValueError: no such task; a missing or damaged model or dataset, or too few demonstrations,
            or none that this way of learning can use;
            ``out`` holds something else; learning diverged.
    """
    out = Path(out)
    task = registry.get_task(config.task)
    round_seeds(config, task, "reinforcement", 0, 1)  # is the run's seed in range?
    _check_settings(config)
    given = given_demonstrations(config, task)
    bills = tuple(
        read_bill(p) for p in (config.model, config.data, config.demonstrations) if p is not None
    )
    artifact = Artifact.create(out, "reinforce", config, resume, config.tracker)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    with Meter() as opening:  # which makes the data's cache where there is none
        learner = build_algorithm(config, task, given)
        progress = load_checkpoint(out, learner)
        artifact.truncate_metrics(progress.env_steps)
    bar = tqdm(total=config.env_steps, initial=progress.env_steps, unit="step", desc=config.task)
    meter = RunMeter(out, "reinforce", bills, before=opening.cost())
    with bar, one_thread(), meter:
        if config.model is not None and not progress.curve:
            progress = replace(progress, curve=[_point(config, learner, task, progress, meter)])
        goal = config.stop_at_success
        while progress.env_steps < config.env_steps and not progress.reached(goal):
            progress = run_round(config, learner, task, artifact, progress, meter, bar)
            # First what it cost: whatever is kept has been paid for.
            meter.save_bill()
            save_training(out / "checkpoint.safetensors", learner.tensors(), progress)
        result = {
            "arm": config.arm,
            "task": config.task,
            "seed": config.seed,
            "reached": progress.reached(goal),
            "diverged_episodes": progress.diverged_episodes,
            "curve": progress.curve,
        }
        if isinstance(learner, Handover):
            result |= {"taken_over_at": learner.taken_over_at, "is_replaced": learner.is_replaced}
        learner.save(out)
        write_card(out, f"{config.task}, learned from reward", _card(config, progress, learner))
        artifact.write_result(result)
    settle(out)
    return result


def build_algorithm(config: ReinforceConfig, task: Task, given: list[Episode]) -> Algorithm:
    """What learns, at its beginning."""
    if config.model is None and config.algorithm == "ppo":
        return PPO(config.ppo, task, config.seed)
    if config.model is None:
        return OffPolicy(config.off_policy, task, config.seed, given)
    return Handover(_own_successes(config, config.model, task, given), task, config.seed)


def _own_successes(
    config: ReinforceConfig, root: Path, task: Task, given: list[Episode]
) -> OwnSuccesses:
    """Learning from own successes that begins with the model in ``root``."""
    own, model, most = config.own_successes, load_model(root), config.max_episode_steps
    if config.data is None:
        return OwnSuccesses(own, task, config.seed, model, None, (), given, most)
    old = open_cache(Dataset(config.data)).trajectories()
    known = Demonstrations(config.data, own.most_episodes)
    given = given or known.of(task)
    others = sorted(known.of_others(task).items())
    most_of_one = DEMONSTRATIONS_OF_A_SKILL
    skills = [] if given else [e for _, episodes in others for e in episodes[:most_of_one]]
    loader = make_loader(old, own.loader, model, config.seed)
    model.trained_on |= frozenset(old.tasks)
    return OwnSuccesses(own, task, config.seed, model, loader, skills, given, most)


def given_demonstrations(config: ReinforceConfig, task: Task) -> list[Episode]:
    """The demonstrations to start from."""
    off_policy = config.algorithm == "off_policy"
    if off_policy and config.model is not None:
        raise ValueError("--algorithm off_policy learns from scratch: leave out it or --model")
    if config.data is not None and config.model is None:
        raise ValueError("--data is what a model was pre-trained on: give --model, or leave it out")
    if not config.count:
        if config.demonstrations is not None:
            raise ValueError(f"--demonstrations {config.demonstrations}: say how many with --count")
        return []
    if config.demonstrations is None or (config.model is None and not off_policy):
        raise ValueError("demonstrations are to start from: give --model or --algorithm off_policy,"
                         " --demonstrations and --count")  # fmt: skip
    given = enough_demonstrations(config.demonstrations, [task], config.count)[task.id]
    return [_rewarded(config, episode) for episode in given] if off_policy else given


def _check_settings(config: ReinforceConfig) -> None:
    """Refuse settings of what does not learn here."""
    for name in ("ppo", "off_policy", "own_successes"):
        given = getattr(config, name)
        if name != config.learner and given != type(given)():
            raise ValueError(
                f"what learns here is {config.learner}, which --{name.replace('_', '-')}.* are no"
                " settings of: leave them out, or change --algorithm or --model"
            )


def _rewarded(config: ReinforceConfig, episode: Episode) -> Episode:
    """A demonstration with the reward that is learned from."""
    if np.isnan(episode.reward).any() or np.isnan(episode.final_obs).all():
        raise ValueError(
            f"{config.demonstrations}: a demonstration of {episode.task_id} does not tell its"
            " rewards or its final observation, which soft actor-critic needs: collect new ones,"
            " or leave out --demonstrations and --count"
        )
    if config.reward == "success":
        return replace(episode, reward=episode.success.astype(np.float32))
    return episode


class Counted(Wrapped):
    """Environments that count their steps."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.env_steps = 0

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        self.env_steps += len(action)
        return super().step(action, env_ids)


class SuccessOnly(Counted):
    """Environments whose reward is success: 1 in a step that reaches it, 0 in all others."""

    def step(self, action: np.ndarray, env_ids: np.ndarray | None = None) -> StepResult:
        result = super().step(action, env_ids)
        return replace(result, reward=result.success.astype(np.float32))


def _make(config: ReinforceConfig, task: Task, seeds: list[int]) -> Counted:
    env = registry.make(task, seeds, config.max_episode_steps)
    return SuccessOnly(env) if config.reward == "success" else Counted(env)


def run_round(
    config: ReinforceConfig,
    learner: Algorithm,
    task: Task,
    artifact: Artifact,
    progress: Progress,
    meter: Meter,
    bar: tqdm,
) -> Progress:
    """Train for ``eval_every_steps``, or what is left of ``env_steps``, then evaluate."""
    diverged = progress.diverged_episodes
    env_steps = min(config.eval_every_steps, config.env_steps - progress.env_steps)
    with Meter(progress.cost) as training:
        seeds = round_seeds(config, task, "reinforcement", progress.rounds, config.num_envs)
        env = _make(config, task, seeds)
        try:
            for spent in learner.improve(env, env_steps):
                training.count_env_steps("reinforce", spent.env_steps)
                for m in (training, meter):
                    m.count_flops(spent.flops)
                bar.update(spent.env_steps)
                cost, diverged = training.cost(), diverged + spent.diverged_episodes
                charts = {"charts/core_s": cost.core_s, "charts/diverged_episodes": diverged}
                artifact.log(spent.metrics | {"step": cost.env_steps} | charts)
        finally:  # with those of an improvement that was interrupted
            meter.count_env_steps("reinforce", env.env_steps)
        env.close()
        del env  # frees the simulator's memory before evaluation takes its own
    progress = Progress(progress.rounds + 1, progress.curve, training.cost(), diverged)
    point = _point(config, learner, task, progress, meter)
    artifact.log({"step": point["env_steps"], "eval/success_rate": point["success_rate"]})
    bar.set_postfix(success=f"{point['success_rate']:.2f}")
    return replace(progress, curve=[*progress.curve, point])


def _point(
    config: ReinforceConfig, learner: Algorithm, task: Task, progress: Progress, meter: Meter
) -> dict[str, Any]:
    """A point of the curve: the policy as it is, and what it cost."""
    success, diverged = _evaluate(config, learner, task, progress.rounds, meter)
    cost = progress.cost.amounts(("env_steps", "core_s", "flops", "wall_s", "energy_j"))
    return cost | {
        "success_rate": float(success.mean()),
        "episodes": len(success),
        "diverged_episodes": diverged,
    }


def _evaluate(
    config: ReinforceConfig, learner: Algorithm, task: Task, index: int, meter: Meter
) -> tuple[np.ndarray, int]:
    """Success (n,) bool of greedy episodes, each in its own environment; how many diverged."""
    seeds = round_seeds(config, task, "evaluation", index, config.eval_episodes)
    success, diverged = play(config, learner, task, seeds[:SCREENING_EPISODES], meter)
    if success.any() and len(success) < len(seeds):
        rest, more = play(config, learner, task, seeds[SCREENING_EPISODES:], meter)
        success, diverged = np.concatenate([success, rest]), diverged + more
    return success, diverged


def play(
    config: ReinforceConfig, learner: Algorithm, task: Task, seeds: list[int], meter: Meter
) -> tuple[np.ndarray, int]:
    """Success (len(seeds),) bool of a greedy episode with each seed; how many diverged."""
    env = _make(config, task, seeds)
    interaction = Interaction(env, learner.actor(len(seeds)))
    episodes = run_episodes(interaction, config.max_episode_steps)
    try:
        success = np.array([episode.success.any() for _, episode in episodes])
        return success, int(interaction.diverged.sum())
    finally:
        meter.count_env_steps("evaluate", interaction.env_steps)
        env.close()


def round_seeds(config: ReinforceConfig, task: Task, purpose: str, index: int, n: int) -> list[int]:
    """Seeds of the ``index``-th n environments of a purpose. At their end they come around."""
    start = index % (SEEDS_PER_TASK // n) * n
    return environment_seeds(purpose, config.seed, registry.task_index(task), n, start)


def _card(config: ReinforceConfig, progress: Progress, learner: Algorithm) -> list[str]:
    last = progress.curve[-1]
    scratch = "PPO" if config.algorithm == "ppo" else "Soft actor-critic"
    how, given = f"{scratch} from random weights", config.count
    if isinstance(learner, Handover):
        how, given = f"Own successes from `{config.model}`", learner.own.num_given
        if learner.taken_over_at is not None:
            kept = "is kept" if learner.is_replaced else "did not become better and is not kept"
            how += f"; soft actor-critic from step {learner.taken_over_at} on, whose policy {kept}"
    return [
        f"- {how}, {count(given, 'demonstration')}, seed {config.seed}; reward: {config.reward}.",
        f"- Success at any of {config.max_episode_steps} steps, acting greedily:"
        f" {last['success_rate']:.0%} of {last['episodes']} episodes at the end.",
        f"- Cost: {last['env_steps']} simulator steps of training, {last['core_s']:.0f}"
        " core-seconds; with evaluation and ancestors in `ledger.json`.",
        f"- `model.safetensors` holds the weights ({learner.actor(1).name}), `config.json` the"
        " settings.",
    ]


def load_checkpoint(out: Path, learner: Algorithm) -> Progress:
    """Put the last checkpoint's state into the learner; without one, a run's beginning."""
    saved = load_training(out / "checkpoint.safetensors")
    if saved is None:
        return Progress()
    try:
        learner.load_tensors(saved[0])
    except KeyError as error:
        raise ValueError(
            f"{out / 'checkpoint.safetensors'}: another version of Headstart wrote it, without"
            f" {error}; begin again in a new folder"
        ) from None
    return from_json(Progress, saved[1])
