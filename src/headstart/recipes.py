"""Whole runs as functions of a few dials: data, pre-training, off the bat, few shots, price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from headstart.artifact import check_memory, read_json, write_json
from headstart.config import did_you_mean, differences, to_json
from headstart.data.loader import LoaderConfig
from headstart.model.transformer import ModelConfig
from headstart.seeds import environment_seeds
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.evaluate import EvaluateConfig, evaluate
from headstart.stages.finetune import FinetuneConfig, finetune
from headstart.stages.pretrain import PretrainConfig, pick_device, pretrain
from headstart.stages.reinforce import ReinforceConfig, reinforce
from headstart.stages.report import ReportConfig, report
from headstart.stats import success_rates


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a whole run."""

    recipe: str = "laptop"
    """smoke (half a minute), laptop (a quarter of an hour, or three) or workstation (hours)."""
    seed: int = 0
    """The run's seed, 0 to 399: data, weights and every environment."""
    device: str = "auto"
    """What pre-training runs on: ``cpu``, ``cuda`` or ``auto``, a GPU where there is one."""
    tracker: Literal["tensorboard", "none", "trackio", "wandb"] = "tensorboard"
    """Where metrics go beside JSON lines."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of every stage of a run, whose folders stand side by side."""

    data: CollectConfig
    """The demonstrations to pre-train on."""
    demonstrations: CollectConfig
    """One episode an environment, to show in prompts and to fine-tune on."""
    pretrain: PretrainConfig
    evaluate: EvaluateConfig
    finetune: FinetuneConfig
    reinforce: ReinforceConfig
    num_envs: int
    """The most simulators at a time."""


def _recipe(
    out: Path,
    seed: int,
    train: str,
    test: str,
    env_steps: int,
    updates: int,
    model: ModelConfig,
    loader: LoaderConfig,
    finetune_updates: int,
    scratch_updates: int,
    episodes: int,
    reinforce_task: str,
    reinforce_steps: int,
) -> Recipe:
    """A recipe from its dials."""
    prompts = 5
    return Recipe(
        data=CollectConfig(split=train, seed=seed, env_steps=env_steps),
        demonstrations=CollectConfig(
            split=test, seed=seed, purpose="prompt", env_steps=0, perturbed=0.0, num_envs=8
        ),
        pretrain=PretrainConfig(
            data=(str(out / "data"),), updates=updates, seed=seed, model=model, loader=loader
        ),
        evaluate=EvaluateConfig(
            model=out / "pretrain",
            seen=train,
            seen_demonstrations=out / "data",
            heldout=test,
            heldout_demonstrations=out / "demonstrations",
            prompts=prompts,
            episodes=episodes,
            seed=seed,
        ),
        finetune=FinetuneConfig(
            model=out / "pretrain",
            demonstrations=out / "demonstrations",
            data=out / "data",
            split=test,
            updates=finetune_updates,
            scratch_updates=scratch_updates,
            episodes=episodes,
            seed=seed,
        ),
        reinforce=ReinforceConfig(task=reinforce_task, seed=seed, env_steps=reinforce_steps),
        num_envs=prompts * episodes,
    )


def smoke(out: Path, seed: int) -> Recipe:
    """Under a minute: four easy tasks, one held out. Its numbers say nothing about skill."""
    return _recipe(
        out,
        seed,
        train="metaworld/smoke-train",
        test="metaworld/smoke-test",
        env_steps=6_000,
        updates=60,
        model=ModelConfig(n_layer=2, n_head=4, n_embd=64),
        loader=LoaderConfig(num_prompts=16, num_windows=8),
        finetune_updates=10,
        scratch_updates=10,
        episodes=4,
        reinforce_task="metaworld/handle-press",
        reinforce_steps=20_000,
    )


def laptop(out: Path, seed: int) -> Recipe:
    """ML45: 45 tasks to train on, 5 held out; a quarter of an hour, or three without bfloat16."""
    return _recipe(
        out,
        seed,
        train="metaworld/ml45-train",
        test="metaworld/ml45-test",
        env_steps=100_000,
        updates=1_200,
        model=ModelConfig(),
        loader=LoaderConfig(),
        finetune_updates=50,
        scratch_updates=300,
        episodes=20,
        reinforce_task="metaworld/door-unlock",
        reinforce_steps=600_000,
    )


def workstation(out: Path, seed: int) -> Recipe:
    """Hours, or a GPU: ten times the data, a larger model, 50 episodes a prompt."""
    return _recipe(
        out,
        seed,
        train="metaworld/ml45-train",
        test="metaworld/ml45-test",
        env_steps=1_000_000,
        updates=20_000,
        model=ModelConfig(n_layer=8, n_head=8, n_embd=512),
        loader=LoaderConfig(num_prompts=64),
        finetune_updates=200,
        scratch_updates=1_000,
        episodes=50,
        reinforce_task="metaworld/door-unlock",
        reinforce_steps=2_000_000,
    )


RECIPES: dict[str, Callable[[Path, int], Recipe]] = {
    "smoke": smoke,
    "laptop": laptop,
    "workstation": workstation,
}


def run(config: RunConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Run a recipe from end to end into the folder ``out``, and report on it.

    The order is a reader's: what pre-training bought off the bat comes before the long scratch
    arm. With ``resume`` stages that are complete are kept and the one that was stopped goes on.

    Returns:
        What ``report.json`` holds.

    Raises:
        ValueError: no such recipe, seed or device; ``out`` holds another run; too little memory.
    """
    out = Path(out)
    if config.recipe not in RECIPES:
        raise ValueError(
            f"unknown recipe '{config.recipe}'{did_you_mean(config.recipe, list(RECIPES))}"
        )
    environment_seeds("data", config.seed, 0, 1)  # refuses a bad seed
    pick_device(config.device)  # and a device that is not here, before any data is made
    recipe = RECIPES[config.recipe](out, config.seed)
    where = replace(recipe.pretrain, device=config.device, tracker=config.tracker)
    recipe = replace(recipe, pretrain=where)
    check_memory(recipe.num_envs)
    _begin(config, recipe, out, resume)
    collect(recipe.data, out / "data", resume)
    collect(recipe.demonstrations, out / "demonstrations", resume)
    pretrain(recipe.pretrain, out / "pretrain", resume)
    result = evaluate(recipe.evaluate, out / "evaluate", resume)
    for arm, rate in success_rates(result["rows"]).items():
        print(f"{arm:28s} {rate:6.1%}", flush=True)
    finetune(recipe.finetune, out / "finetune", resume)
    reinforce(recipe.reinforce, out / "reinforce", resume)
    return report(ReportConfig(runs=(out,)))


def _begin(config: RunConfig, recipe: Recipe, out: Path, resume: bool) -> None:
    path = out / "recipe.json"
    settings = {"recipe": config.recipe, "seed": config.seed, "config": to_json(recipe)}
    if path.exists():
        if not resume:
            raise ValueError(f"{out} already holds a run; choose another folder, or --resume it")
        saved = read_json(path)
        changed = differences({k: saved.get(k) for k in settings}, settings)
        if changed:
            raise ValueError(f"{out} holds a run with another config: {', '.join(changed[:3])}")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no run; choose another folder")
    command = f"headstart run --recipe {config.recipe} --seed {config.seed} --out {out}"
    write_json(path, {"command": command, **settings})
