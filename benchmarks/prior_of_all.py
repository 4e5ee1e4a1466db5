"""A prior that is just good enough: what 80 % of Meta-World costs it.

    python benchmarks/prior_of_all.py --seeds 0 1 2

Learners from scratch are charged up to 80 % and no further, the laptop recipe's prior for all that
it can do. So here is one with a third of the data, of all fifty tasks, and a fifth of the weights,
stopped early, which is told each task and cannot be shown one. One small file a task and seed, as
``benchmarks/arms.py`` writes them. Prints a line a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import tyro

from arms import provenance
from headstart.arms import write_arm
from headstart.artifact import read_sealed_json
from headstart.data.loader import LoaderConfig
from headstart.model.transformer import ModelConfig
from headstart.stages.collect import CollectConfig, collect
from headstart.stages.evaluate import EvaluateConfig, evaluate
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.suites import registry

ARM = "prior_of_all"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    seeds: tuple[int, ...] = (0, 1, 2)
    env_steps: int = 32_000
    updates: int = 650
    episodes: int = 50
    work: Path = Path("runs/prior_of_all")
    """Where the runs themselves are; not kept."""
    out: Path = Path("results/metaworld")


def main(arguments: Arguments) -> None:
    for seed in arguments.seeds:
        work = arguments.work / str(seed)
        data, model, told = (work / name for name in ("data", "pretrain", "evaluate"))
        # too few steps for the usual eight environments of each task
        few = CollectConfig(
            split="metaworld/mt50", env_steps=arguments.env_steps, num_envs=2, seed=seed
        )
        collect(few, data, resume=True)
        short = PretrainConfig(
            data=(str(data),),
            updates=arguments.updates,
            seed=seed,
            model=ModelConfig(n_layer=3, n_head=4, n_embd=96),
            loader=LoaderConfig(told=1.0, shown=0.0, num_windows=16),
            tracker="none",
        )
        pretrain(short, model, resume=True)
        fifty = EvaluateConfig(
            model=model,
            seen="metaworld/mt50",
            heldout="",
            prompts=1,
            episodes=arguments.episodes,
            seed=seed,
        )
        evaluate(fifty, told, resume=True)
        rows = read_sealed_json(told, "result.json")["rows"]
        made_by = provenance(told)
        for row in rows:
            point = {"env_steps": 0, "core_s": 0.0, "flops": 0.0, "wall_s": 0.0}
            point |= {"success_rate": mean(row["success"]), "episodes": len(row["success"])}
            result = {"arm": ARM, "task": row["task"], "seed": seed, "curve": [point]}
            name = f"{registry.get_task(row['task']).name}-{seed}"
            write_arm(arguments.out / ARM / f"{name}.json", {"result": result} | made_by)
        rate = mean(success for row in rows for success in row["success"])
        print(f"seed {seed}: {rate:.1%} of {len(rows)} tasks' episodes", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
