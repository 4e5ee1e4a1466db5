"""Writes results of arms, ARM/TASK-SEED.json, and a prior's report, with made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.arms import write_arm
from headstart.artifact import write_json
from headstart.config import to_json
from headstart.ledger import FINETUNED_MODEL, Bill, Cost

DATA = Bill("d", "collect", "data", Cost({"expert": 10_000}, 100, core_s=50.0))
PRIOR = Bill("p", "pretrain", "pretrain", Cost({}, 0, core_s=450.0), (DATA,))
GIVEN = Bill("g", "collect", "demonstrations", Cost({"expert": 2_000}, 20, core_s=10.0))


def tuned(task: str) -> Bill:
    cost = Cost({}, 0, core_s=8.0)
    return Bill(f"f-{task}", FINETUNED_MODEL, f"{task}-1", cost, (PRIOR, GIVEN, DATA))


def write_result(
    folder: Path,
    arm: str,
    task: str,
    curve: list[tuple[float, float, float]],
    seed: int = 0,
    config: dict[str, Any] | None = None,
    ancestors: tuple[Bill, ...] | None = None,
) -> Path:
    """One file; ``curve`` has (env_steps, core_s, success) of each evaluation of 50 episodes."""
    points = [
        {"env_steps": steps, "core_s": core_s, "success_rate": rate, "episodes": 50}
        for steps, core_s, rate in curve
    ]
    return write_points(folder, arm, task, points, seed, config, ancestors)


def write_points(
    folder: Path,
    arm: str,
    task: str,
    points: list[dict[str, Any]],
    seed: int = 0,
    config: dict[str, Any] | None = None,
    ancestors: tuple[Bill, ...] | None = None,
) -> Path:
    content: dict[str, Any] = {
        "result": {"arm": arm, "task": f"suite/{task}", "seed": seed, "curve": points},
        "made_by": {"stage": "reinforce", "config": config or {}},
    }
    if ancestors is not None:
        content["bill"] = to_json(Bill(f"{arm}-{task}", "reinforce", task, Cost(), ancestors))
    path = folder / arm / f"{task}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arm(path, content)
    return path


def write_prior(folder: Path) -> Path:
    """A report of runs of a recipe: tasks a and b seen, c held out."""

    def success(**tasks: float) -> dict[str, Any]:
        about = {"interval": [0.0, 1.0], "episodes": 60, "seeds": 3}
        return {"tasks": {f"suite/{t}": {"mean": rate} | about for t, rate in tasks.items()}}

    def point(count: int, steps: float, core_s: float) -> dict[str, Any]:
        return {"cost": {"env_steps": steps, "core_s": core_s, "demonstrations": count}}

    def curve(arm: str, *points: dict[str, Any]) -> dict[str, Any]:
        return {"arm": arm, "task": "suite/c", "points": list(points)}

    write_json(
        folder / "report.json",
        {
            "upstream": {"env_steps": 10_000.0, "core_s": 500.0},
            "seen": {"told": success(a=1.0, b=0.9)},
            "heldout": {
                "told": success(c=0.2),
                "shown_once": success(c=0.7),
                "demos_1": success(c=0.9),
                "scratch_demos_1": success(c=0.5),
                "retrieval": success(c=0.4),
            },
            "price_curves": [
                curve("pretrained_shown_once", point(1, 100.0, 0.5)),
                curve("pretrained_finetune", point(1, 100.0, 8.5)),
                curve("scratch_imitation", point(1, 100.0, 30.5)),
            ],
        },
    )
    return folder
