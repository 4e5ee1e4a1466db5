"""Imitation from scratch on k demonstrations of a Meta-World task, one small file a task and seed.

    python benchmarks/imitation_arm.py --priors runs/first runs/seed-1 runs/seed-2 --seeds 0 1 2
    python benchmarks/imitation_arm.py --split metaworld/mt10 --work runs/imitation-mt10 \\
        --priors runs/first runs/seed-1 runs/seed-2 --seeds 0 1 2
    python benchmarks/imitation_arm.py --same-data --priors runs/first

The same model without pre-training, each task by itself (``headstart finetune`` has the settings).
With ``--same-data`` on all that the prior was trained on of each seen task, one of its successes in
the prompt: what one model of many tasks buys.
``--priors`` are runs of the laptop recipe, one a seed: what they have measured of this arm is taken
from them. More demonstrations than they have are collected into ``--work``. Prints a line a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from headstart.arms import write_arm
from headstart.artifact import read_json, write_json
from headstart.config import to_json
from headstart.data.demonstrations import enough_demonstrations
from headstart.data.store import Dataset
from headstart.ledger import Cost, Meter
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.finetune import FinetuneConfig, School
from headstart.suites import registry
from headstart.types import Task

ARM = "scratch_demos"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    priors: tuple[Path, ...]
    seeds: tuple[int, ...] = (0,)
    counts: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50)
    split: str = "metaworld/ml45-test"
    """The tasks, where it is few demonstrations."""
    same_data: bool = False
    work: Path = Path("runs/imitation")
    """Where the demonstrations and the finished points are; not kept."""
    out: Path = Path("results/metaworld")


def main(arguments: Arguments) -> None:
    for prior, seed in zip(arguments.priors, arguments.seeds, strict=True):
        learn = same_data if arguments.same_data else few_demonstrations
        learn(arguments, prior, seed)


def same_data(arguments: Arguments, prior: Path, seed: int) -> None:
    """Each seen task from all of its episodes in the prior's data."""
    data, split = prior / "data", "metaworld/ml45-train"
    config = FinetuneConfig(
        model=prior / "pretrain", demonstrations=data, data=data, split=split, seed=seed
    )
    school = School(config, arguments.work, ())
    tasks, episodes = registry.get_split(split), Dataset(data).episodes()
    undisturbed = enough_demonstrations(data, tasks, 1)
    for task in tasks:
        path = arguments.out / "imitation_same_data" / f"{task.name}-{seed}.json"
        if not path.exists():
            (prompt,) = undisturbed[task.id]
            mine = [e for e in episodes if e.task_id == task.id]
            # the first is shown; a channel that a task does not have is NaN
            mine.sort(key=lambda e: not np.array_equal(e.obs, prompt.obs, equal_nan=True))
            with Meter() as meter:
                row = school.teach(task, mine, ARM, meter)
            save(path, config, task, [point(row, len(mine))])
        rate = read_json(path)["result"]["curve"][0]["success_rate"]
        print(f"{path.parent.name}/{path.stem}: {rate:.0%}", flush=True)


def few_demonstrations(arguments: Arguments, prior: Path, seed: int) -> None:
    """Each task from one demonstration, from two, and so on."""
    base = FinetuneConfig(
        model=prior / "pretrain",
        demonstrations=arguments.work / f"demonstrations-{seed}",
        data=prior / "data",
        split=arguments.split,
        counts=arguments.counts,
        seed=seed,
    )
    many = 5 * max(arguments.counts) // 4  # some fail
    given = CollectConfig(
        split=base.split, seed=seed, purpose="prompt", env_steps=0, perturbed=0.0, num_envs=many
    )
    collect(given, base.demonstrations, resume=True)
    tasks = registry.get_split(base.split)
    shown = enough_demonstrations(base.demonstrations, tasks, max(arguments.counts))
    school = School(base, arguments.work, ())
    known = measured(prior, base)
    for task in tasks:
        path = arguments.work / f"{task.name}-{seed}.json"
        curve = read_json(path) if path.exists() else []
        known_counts = {p["demonstrations"] for p in curve}
        for count in sorted({*arguments.counts} - known_counts):
            row = known.get((task.id, count))
            with Meter() as meter:
                row = row or school.teach(task, shown[task.id][:count], ARM, meter)
            curve = sorted([*curve, point(row, count)], key=lambda p: p["demonstrations"])
            write_json(path, curve)
        save(arguments.out / "imitation" / f"{task.name}-{seed}.json", base, task, curve)
        rates = (f"{p['demonstrations']}: {p['success_rate']:.0%}" for p in curve)
        print(f"imitation/{task.name}-{seed}", *rates, flush=True)


def save(path: Path, config: FinetuneConfig, task: Task, curve: list[dict[str, Any]]) -> None:
    """A file as ``benchmarks/arms.py`` writes them."""
    made_by = read_json(config.demonstrations / "config.json")
    made_by |= {"stage": "finetune", "config": to_json(config)}
    result = {"arm": path.parent.name, "task": task.id, "seed": config.seed, "curve": curve}
    write_arm(path, {"result": result, "made_by": made_by})


def measured(prior: Path, config: FinetuneConfig) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of the same arm that the recipe has, by task and demonstrations."""
    settings = read_json(prior / "finetune/config.json")["config"]
    same = ("scratch_updates", "scratch_learner", "loader", "episodes", "seed")
    assert all(settings[name] == to_json(config)[name] for name in same), "other settings"
    rows = read_json(prior / "finetune/result.json")["rows"]
    mine = [row for row in rows if f".{ARM}_" in row["arm"]]
    return {(row["task"], int(row["arm"].rpartition("_")[2])): row for row in mine}


def point(row: dict[str, Any], count: int) -> dict[str, Any]:
    """A point of the curve, whose cost includes the demonstrations."""
    cost = Cost.from_json(row["cost"])
    return cost.amounts(("env_steps", "core_s", "flops", "wall_s", "energy_j")) | {
        "demonstrations": count,
        "success_rate": sum(row["success"]) / len(row["success"]),
        "episodes": len(row["success"]),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
