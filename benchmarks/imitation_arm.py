"""Imitation from scratch on k demonstrations of a Meta-World task, one small file a task and seed.

    python benchmarks/imitation_arm.py --priors runs/first runs/seed-1 runs/seed-2 --seeds 0 1 2

The same model without pre-training, each task by itself (``headstart finetune`` has the settings).
``--priors`` are runs of the laptop recipe, one a seed: what they have measured of this arm is taken
from them. More demonstrations than they have are collected into ``--work``. Prints a line a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from headstart.artifact import read_json, write_json
from headstart.config import to_json
from headstart.data.store import enough_demonstrations
from headstart.ledger import Cost, Meter
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.finetune import FinetuneConfig, School
from headstart.suites import registry

ARM = "scratch_demos"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    priors: tuple[Path, ...]
    seeds: tuple[int, ...] = (0,)
    counts: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50)
    work: Path = Path("runs/imitation")
    """Where the demonstrations and the finished points are; not kept."""
    out: Path = Path("results/metaworld/imitation")


def main(arguments: Arguments) -> None:
    for prior, seed in zip(arguments.priors, arguments.seeds, strict=True):
        base = FinetuneConfig(
            model=prior / "pretrain",
            demonstrations=arguments.work / f"demonstrations-{seed}",
            data=prior / "data",
            counts=arguments.counts,
            seed=seed,
        )
        many = 5 * max(arguments.counts) // 4  # some fail
        given = CollectConfig(
            split=base.split, seed=seed, purpose="prompt", env_steps=0, perturbed=0.0, num_envs=many
        )
        collect(given, base.demonstrations, resume=True)
        tasks = registry.get_split(base.split)
        shown = enough_demonstrations(
            base.demonstrations, [task.id for task in tasks], max(arguments.counts)
        )
        school = School(base, arguments.work, ())
        known = measured(prior, base)
        for task in tasks:
            path = arguments.work / f"{task.name}-{seed}.json"
            curve = read_json(path) if path.exists() else []
            for count in arguments.counts[len(curve) :]:
                row = known.get((task.id, count))
                with Meter() as meter:
                    row = row or school.teach(task, shown[task.id][:count], ARM, meter)
                curve.append(point(row, count))
                write_json(path, curve)
            result = {"arm": "imitation", "task": task.id, "seed": seed, "curve": curve}
            made_by = read_json(base.demonstrations / "config.json")
            made_by |= {"stage": "finetune", "config": to_json(base)}
            name = f"{task.name}-{seed}"
            write_json(arguments.out / f"{name}.json", {"result": result, "made_by": made_by})
            rates = (f"{p['demonstrations']}: {p['success_rate']:.0%}" for p in curve)
            print(f"imitation/{name}", *rates, flush=True)


def measured(prior: Path, config: FinetuneConfig) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of the same arm that the recipe has, by task and demonstrations."""
    settings = read_json(prior / "finetune/config.json")["config"]
    same = ("scratch_updates", "scratch_learner", "loader", "split", "episodes", "seed")
    assert all(settings[name] == to_json(config)[name] for name in same), "other settings"
    rows = read_json(prior / "finetune/result.json")["rows"]
    mine = [row for row in rows if f".{ARM}_" in row["arm"]]
    return {(row["task"], int(row["arm"].rpartition("_")[2])): row for row in mine}


def point(row: dict[str, Any], count: int) -> dict[str, Any]:
    """A point of the curve, whose cost includes the demonstrations."""
    cost = Cost.from_json(row["cost"])
    return {
        "demonstrations": count,
        "env_steps": cost.env_steps,
        "core_s": cost.core_s,
        "flops": cost.flops,
        "wall_s": cost.wall_s,
        "success_rate": sum(row["success"]) / len(row["success"]),
        "episodes": len(row["success"]),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
