"""Arms of reinforcement learning on Meta-World, one small file a task, arm and seed.

    python benchmarks/arms.py --arm scratch --tasks metaworld/mt50
    python benchmarks/arms.py --arm told --tasks metaworld/ml45-test --seeds 0 1 2 \\
        --priors runs/first runs/seed-1 runs/seed-2

Runs one after another, each of which may be stopped and goes on where it was; what is complete is
kept. ``--priors`` are runs of the laptop recipe, one a seed. Prints a line a run. A file holds the
run's result, its config, versions and machine, and its bill with all that it stands on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from headstart.arms import write_arm
from headstart.artifact import read_json, read_sealed_json
from headstart.stages.reinforce import ReinforceConfig, reinforce
from headstart.suites import registry
from headstart.types import Task


@dataclass(frozen=True, kw_only=True)
class Arguments:
    arm: Literal["scratch", "off_policy", "rlpd", "told", "shown", "demos_1", "demos_5"]
    """From random weights: PPO, soft actor-critic, or soft actor-critic with ``--count``
    demonstrations. Or own successes from a prior that is told the task, is shown one demonstration,
    or was fine-tuned on one or five."""
    tasks: str = "metaworld/ml45-test"
    """A split, or tasks separated by commas."""
    seeds: tuple[int, ...] = (0,)
    priors: tuple[Path, ...] = ()
    demonstrations: Path | None = None
    """Dataset for ``rlpd``."""
    count: int = 5
    """Demonstrations of a task for ``rlpd``."""
    reward: Literal["dense", "success"] = "dense"
    env_steps: int = 1_000_000
    stop_at_success: float | None = 0.9
    eval_every_steps: int = 20_000
    eval_episodes: int = 50
    work: Path = Path("runs/arms")
    """Where the runs themselves are; not kept."""
    out: Path = Path("results/metaworld")


def config_of(arguments: Arguments, task: Task, seed: int) -> ReinforceConfig:
    common = {
        name: getattr(arguments, name)
        for name in ("reward", "env_steps", "stop_at_success", "eval_every_steps", "eval_episodes")
    } | {"task": task.id, "seed": seed, "tracker": "none"}
    if arguments.arm == "scratch":
        return ReinforceConfig(**common)
    if arguments.arm == "off_policy":
        return ReinforceConfig(**common, algorithm="off_policy")
    if arguments.arm == "rlpd":
        given = {"demonstrations": arguments.demonstrations, "count": arguments.count}
        return ReinforceConfig(**common, **given, algorithm="off_policy")
    prior = arguments.priors[arguments.seeds.index(seed)]
    common |= {"model": prior / "pretrain", "data": prior / "data"}
    if arguments.arm == "told":
        return ReinforceConfig(**common)
    count = 5 if arguments.arm == "demos_5" else 1
    if arguments.arm != "shown":
        common["model"] = prior / "finetune/models" / f"{task.name}-{count}"
    return ReinforceConfig(**common, demonstrations=prior / "demonstrations", count=count)


def main(arguments: Arguments) -> None:
    arm = f"rlpd_{arguments.count}" if arguments.arm == "rlpd" else arguments.arm
    arm += "_success" if arguments.reward == "success" else ""
    for task in tasks_named(arguments.tasks):
        for seed in arguments.seeds:
            place = f"{arm}/{task.name}-{seed}"
            path = (arguments.out / place).with_suffix(".json")
            if not path.exists():
                work = arguments.work / place
                reinforce(config_of(arguments, task, seed), work, resume=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                result = read_sealed_json(work, "result.json")
                write_arm(path, {"result": result} | provenance(work))
            print(place, described(read_json(path)["result"]["curve"]), flush=True)


def provenance(root: Path) -> dict[str, Any]:
    """Who made a complete artifact, and all that it stands on, as a result's file tells them."""
    names = {"made_by": "config", "bill": "ledger"}
    return {key: read_sealed_json(root, f"{name}.json") for key, name in names.items()}


def tasks_named(text: str) -> list[Task]:
    """The tasks of a split, or those named, separated by commas."""
    names = [n if "/" in n else f"metaworld/{n}" for n in text.split(",")]
    is_split = len(names) == 1 and names[0].partition("/")[2] in registry.SUITES["metaworld"].SPLITS
    return registry.get_split(names[0]) if is_split else [registry.get_task(n) for n in names]


def described(curve: list[dict]) -> str:
    first = next((point for point in curve if point["success_rate"] >= 0.8), None)
    at = f"80 % at {first['env_steps']} steps, {first['core_s']:.0f} core-s" if first else "no 80 %"
    ends = [f"{point['success_rate']:.0%}" for point in (curve[0], curve[-1])]
    return f"{at}; {ends[0]} to {ends[1]}, {curve[-1]['env_steps']} steps"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
