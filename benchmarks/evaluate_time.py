"""Seconds to evaluate a model on 50 tasks x 20 episodes, told in words, building included.

python benchmarks/evaluate_time.py --model runs/first/pretrain
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from headstart.stages.evaluate import EvaluateConfig, evaluate


@dataclass(frozen=True)
class Arguments:
    model: Path


def main(arguments: Arguments) -> None:
    config = EvaluateConfig(model=arguments.model, seen="metaworld/mt50", heldout="")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = evaluate(config, Path(folder) / "evaluate")
        seconds = time.perf_counter() - began
    episodes = sum(len(row["success"]) for row in result["rows"])
    print(f"{len(result['rows'])} tasks, {episodes} episodes: {seconds:.1f} s")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
