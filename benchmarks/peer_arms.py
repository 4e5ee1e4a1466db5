"""The peer beside our scratch arm: Stable-Baselines3 on the same tasks, under the same driver.

    make build/peers
    build/peers/bin/python benchmarks/peer_arms.py --algorithm ppo --settings ours \\
        --tasks metaworld/reach,metaworld/window-close --env-steps 100000

With our settings, as far as the library has them, or with its own defaults. Rounds, environments,
seeds, evaluation and when to stop are those of ``headstart reinforce``: only what learns is
another's. One file a task and seed, under ``sb3_ppo``, ``sb3_ppo_ours`` and so on; what is complete
is kept. Prints a line a run.

Everybody reads what our networks read, the last frame and its change. The defaults are the
library's with one environment, so SAC and TQC take one gradient step a step (train_freq 1,
gradient_steps 1).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from gymnasium.spaces import Box
from sb3_contrib import TQC  # pyright: ignore[reportMissingImports]
from stable_baselines3 import PPO, SAC  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.vec_env import (  # pyright: ignore[reportMissingImports]
    VecEnv,
    VecNormalize,
)
from torch import Tensor
from tqdm import tqdm

from arms import described, tasks_named
from headstart.algorithms.base import Spent
from headstart.algorithms.off_policy import OffPolicyConfig
from headstart.algorithms.ppo import MAX_GRAD_NORM, VALUE_COEF, PPOConfig
from headstart.arms import write_arm
from headstart.artifact import Artifact, read_json
from headstart.behaviors.base import Decision
from headstart.ledger import Meter
from headstart.model.actor_critic import (
    CLIP,
    DEVIATION_FLOOR,
    FRAME_STACK,
    History,
    last_and_changes,
)
from headstart.model.learner import one_thread
from headstart.model.soft_actor_critic import INITIAL_TEMPERATURE
from headstart.stages.reinforce import Progress, ReinforceConfig, run_round
from headstart.suites import base
from headstart.types import Task

GSDE_LOG_STD = -2.0
"""Of the noise on each hidden unit; on an action they add up to 0.6 to 0.9."""
ALGORITHMS = {"ppo": PPO, "sac": SAC, "tqc": TQC}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    algorithm: Literal["ppo", "sac", "tqc"]
    settings: Literal["ours", "defaults"] = "defaults"
    """Those of our PPO or soft actor-critic, or the library's own."""
    tasks: str = "metaworld/ml45-test"
    """A split, or tasks separated by commas."""
    seeds: tuple[int, ...] = (0,)
    env_steps: int = 1_000_000
    stop_at_success: float | None = 0.9
    eval_every_steps: int = 20_000
    eval_episodes: int = 50
    out: Path = Path("results/metaworld")


class Bridge(VecEnv):
    """Our environments as the library wants them: resets by themselves, endings in the infos."""

    def __init__(self, task: Task, num_envs: int) -> None:
        self._history = History(num_envs, FRAME_STACK, len(task.obs_channels))
        obs_space = Box(-np.inf, np.inf, (FRAME_STACK * len(task.obs_channels),), np.float32)
        super().__init__(num_envs, obs_space, Box(-1.0, 1.0, (len(task.action_channels),)))
        self.env: base.VecEnv | None = None
        """To be set before a reset."""
        self._action = np.zeros(0)

    def reset(self) -> np.ndarray:
        return self._start(np.arange(self.num_envs))

    def step_async(self, actions: np.ndarray) -> None:
        self._action = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        assert self.env is not None
        result = self.env.step(self._action)
        obs = last_and_changes(self._history.push(result.obs, np.arange(self.num_envs)))
        infos = [{"success": s} for s in result.success.tolist()]
        done = result.terminated | result.truncated
        ended = np.flatnonzero(done).astype(np.int32)
        for k in ended.tolist():
            infos[k]["terminal_observation"] = obs[k].copy()
            infos[k]["TimeLimit.truncated"] = not result.terminated[k]
        if len(ended):
            obs[ended] = self._start(ended)
        return obs, result.reward, done, infos

    def _start(self, env_ids: np.ndarray) -> np.ndarray:
        assert self.env is not None
        self._history.reset(env_ids)
        return last_and_changes(self._history.push(self.env.reset(env_ids), env_ids))

    def close(self) -> None:
        """The driver closes what it made."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs  # asked for ``render_mode`` only

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def ours(config: PPOConfig | OffPolicyConfig, task: Task) -> dict[str, Any]:
    """Our settings in the library's words, as far as it has them."""
    return ours_ppo(config) if isinstance(config, PPOConfig) else ours_sac(config, task)


def ours_sac(config: OffPolicyConfig, task: Task) -> dict[str, Any]:
    """It has no LayerNorm, improves the policy in every update, and draws noise for every burst."""
    updates = config.burst * config.num_envs * config.updates_per_step
    return {
        "use_sde": config.noise_correlation > 0,
        "sde_sample_freq": -1,  # held for the whole burst, as anything else would be cut short
        "learning_rate": config.learning_rate,
        "buffer_size": config.capacity,
        "learning_starts": config.warmup_steps,
        "batch_size": config.batch_size,
        "tau": config.target_rate,
        "gamma": config.gamma,
        "train_freq": config.burst,  # steps of all environments
        "gradient_steps": round(updates),
        "n_steps": config.n_step,
        "ent_coef": f"auto_{INITIAL_TEMPERATURE}",
        "target_entropy": config.target_entropy * len(task.action_channels),
        "policy_kwargs": {
            "net_arch": [config.hidden_size] * 2,
            "n_critics": config.num_critics,
            "log_std_init": GSDE_LOG_STD,
        },
    }


def ours_ppo(config: PPOConfig) -> dict[str, Any]:
    rows = config.num_envs * config.num_steps
    rho = config.noise_correlation
    log_std = GSDE_LOG_STD if rho else float(np.log(config.initial_std))
    return {
        # For our correlated noise it has gSDE (Raffin et al. 2021), which is held for some steps:
        # sum over k of rho^|k| = (1 + rho) / (1 - rho), those for which it is as slow
        "use_sde": rho > 0,
        "sde_sample_freq": round((1 + rho) / (1 - rho)),
        "n_steps": config.num_steps,
        "batch_size": rows // config.num_minibatches,
        "n_epochs": config.update_epochs,
        "learning_rate": config.learning_rate,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip_coef,
        "ent_coef": config.entropy_coef,
        "vf_coef": 0.5 * VALUE_COEF,  # our loss of the value has a factor 1/2
        "max_grad_norm": MAX_GRAD_NORM,
        "target_kl": config.max_kl / 1.5,  # the library stops at 1.5 times its target
        "policy_kwargs": {
            "net_arch": [config.hidden_size] * 2,
            "activation_fn": torch.nn.Tanh,
            "log_std_init": log_std,
        },
    }


class Peer:
    """One of the library's algorithms, as our driver wants it (see algorithms.base.Algorithm)."""

    def __init__(
        self,
        algorithm: str,
        settings: dict[str, Any],
        config: PPOConfig | OffPolicyConfig,
        task: Task,
        seed: int,
    ) -> None:
        self.bridge = venv = Bridge(task, config.num_envs)
        if settings:  # ours normalise; the defaults do not
            # x / sqrt(variance + epsilon): no less than our floor
            epsilon = DEVIATION_FLOOR**2
            venv = VecNormalize(venv, gamma=config.gamma, clip_obs=CLIP, epsilon=epsilon)
        self.model = ALGORITHMS[algorithm]("MlpPolicy", venv, seed=seed, device="cpu", **settings)

    def improve(self, env: base.VecEnv, env_steps: int) -> Iterator[Spent]:
        self.bridge.env = env
        self.model.set_env(self.model.get_env())  # so that it resets
        before = self.model.num_timesteps
        self.model.learn(env_steps, reset_num_timesteps=False)
        yield Spent(self.model.num_timesteps - before, None, {})

    def actor(self, num_envs: int) -> PeerActor:
        frame_size = self.model.observation_space.shape[0] // FRAME_STACK
        return PeerActor(self.model, History(num_envs, FRAME_STACK, frame_size))

    def tensors(self) -> dict[str, Tensor]:
        raise NotImplementedError("a run of a peer is not resumed")

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        raise NotImplementedError("a run of a peer is not resumed")

    def save(self, root: Path) -> None:
        self.model.save(root / "model")


class PeerActor:
    """Acts greedily."""

    def __init__(self, model: Any, history: History) -> None:
        self.name = "peer"
        self.model = model
        self._history = history

    def reset(self, env_ids: np.ndarray) -> None:
        self._history.reset(env_ids)

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        x = last_and_changes(self._history.push(obs, env_ids))
        normaliser = self.model.get_vec_normalize_env()
        x = x if normaliser is None else normaliser.normalize_obs(x)
        return Decision(self.model.predict(x, deterministic=True)[0])


def run(arguments: Arguments, task: Task, seed: int) -> dict[str, Any]:
    """One run from the beginning, and who made it."""
    algorithm = "ppo" if arguments.algorithm == "ppo" else "off_policy"
    of_learner = PPOConfig() if algorithm == "ppo" else OffPolicyConfig()
    settings = ours(of_learner, task) if arguments.settings == "ours" else {}
    if not settings:
        of_learner = replace(of_learner, num_envs=1)
    names = ("env_steps", "stop_at_success", "eval_every_steps", "eval_episodes")
    common = {name: getattr(arguments, name) for name in names}
    common |= {"algorithm": algorithm, algorithm: of_learner}
    config = ReinforceConfig(**common, task=task.id, seed=seed, tracker="none")
    peer, progress = Peer(arguments.algorithm, settings, of_learner, task, seed), Progress()
    bar = tqdm(total=config.env_steps, unit="step", desc=task.id)
    with tempfile.TemporaryDirectory() as folder, bar, Meter() as meter:
        artifact = Artifact.create(Path(folder) / "run", "reinforce", config)
        while progress.env_steps < config.env_steps and not progress.reached(
            config.stop_at_success
        ):
            progress = run_round(config, peer, task, artifact, progress, meter, bar)
        made_by = read_json(artifact.root / "config.json")
    libraries = ("stable-baselines3", "sb3-contrib", "torch")
    made_by["peer"] = {name: version(name) for name in libraries} | {
        "algorithm": arguments.algorithm,
        "settings": arguments.settings,
    }
    result = {
        "arm": arm(arguments),
        "task": task.id,
        "seed": seed,
        "reached": progress.reached(config.stop_at_success),
        "curve": progress.curve,
    }
    return {"result": result, "made_by": made_by}


def arm(arguments: Arguments) -> str:
    return f"sb3_{arguments.algorithm}" + ("_ours" if arguments.settings == "ours" else "")


@one_thread()
def main(arguments: Arguments) -> None:
    if arguments.settings == "ours" and arguments.algorithm == "tqc":
        raise SystemExit("--settings ours is for ppo and sac; tqc has its own defaults")
    for task in tasks_named(arguments.tasks):
        for seed in arguments.seeds:
            place = f"{arm(arguments)}/{task.name}-{seed}"
            path = (arguments.out / place).with_suffix(".json")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_arm(path, run(arguments, task, seed))
            print(place, described(read_json(path)["result"]["curve"]), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
