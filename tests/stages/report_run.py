"""Writes a run folder such as the stages write, with made-up numbers of a realistic shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headstart.artifact import Artifact, write_json
from headstart.ledger import Bill, Cost, write_bill
from headstart.suites.metaworld import CHANNELS, HELD_OUT, SPLITS
from headstart.types import Task

OBS_CHANNELS = [c.name for c in Task("", "", "", CHANNELS, 1, 1.0).obs_channels]
RATES = {
    "heldout.shown_once": (0.71, 0.42, 0.9, 0.83, 0.24),
    "heldout.shown_once_official": (0.6, 0.36, 0.81, 0.8, 0.19),
    "heldout.told": (0.04, 0.1, 0.31, 0.22, 0.07),
    "heldout.told_and_shown": (0.73, 0.45, 0.88, 0.86, 0.22),
    "heldout.retrieval": (0.31, 0.22, 0.52, 0.61, 0.12),
    "heldout.open_loop": (0.11, 0.06, 0.33, 0.4, 0.03),
    "heldout.wrong_prompt": (0.0, 0.02, 0.06, 0.04, 0.0),
    "heldout.no_prompt": (0.0, 0.0, 0.09, 0.1, 0.0),
    "heldout.demos_1": (0.78, 0.51, 0.93, 0.88, 0.36),
    "heldout.demos_5": (0.94, 0.82, 0.99, 0.98, 0.64),
    "heldout.scratch_demos_1": (0.08, 0.02, 0.3, 0.26, 0.01),
    "heldout.scratch_demos_5": (0.51, 0.26, 0.81, 0.7, 0.18),
}
FINETUNED = ("demos_1", "demos_5", "scratch_demos_1", "scratch_demos_5")


def write_run(
    root: Path, seed: int = 0, rates: dict[str, tuple[float, ...]] = RATES, episodes: int = 20
) -> Path:
    """A whole run of five held-out tasks, with three demonstrations of each."""
    rng = np.random.default_rng(seed)
    command = f"headstart run --recipe laptop --seed {seed} --out runs/first"
    write_json(root / "recipe.json", {"recipe": "laptop", "seed": seed, "command": command})
    write_data_and_pretrain(root, rng)
    write_evaluate(root, rng, rates, episodes, seed)
    write_finetune(root, rng, rates, episodes, seed)
    write_reinforce(root, rng, seed)
    return root


def write_data_and_pretrain(root: Path, rng: np.random.Generator) -> None:
    origins = {"expert": 412_000, "perturbed-expert": 618_000}
    made = Cost(origins, demonstrations=7200, core_s=610.0, wall_s=402.0)
    data = Bill("d", "collect", "data", made)
    _stage(root, "data", {"episodes": 7200, "env_steps": 1_030_000})
    write_bill(root / "data", data)
    learned = {"parameters": 3_210_000, "updates": 6000, "flops": 4.1e15}
    result = learned | {"wall_s": 4620.0}
    artifact = _stage(root, "pretrain", result)
    cost = Cost(core_s=8900.0, flops=4.1e15, wall_s=4620.0)
    write_bill(root / "pretrain", Bill("p", "pretrain", "pretrain", cost, (data,)))
    lines = []
    for step in range(10, 6001, 10):
        line: dict[str, float] = {"step": step}
        for tag, floor, drop in (
            ("action", 1.35, 2.6),
            ("observation", 1.1, 2.4),
            ("word", 0.2, 4),
        ):
            value = floor + drop * np.exp(-step / 700) + 0.4 * (step / 10) ** -0.5
            line[f"train/{tag}_loss"] = round(value + 0.06 * rng.standard_normal(), 4)
            if step % 300 == 0:
                line[f"val/{tag}_loss"] = round(value + 0.07 + 1e-5 * step, 4)
        line["train/loss"] = sum(v for k, v in line.items() if k.startswith("train/"))
        lines.append(json.dumps(line))
    (artifact / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_evaluate(root, rng, rates, episodes, seed) -> None:
    rows = []
    for name in SPLITS["ml45-train"]:
        skill = rng.beta(3, 0.8)
        for arm, rate in (("seen.told", skill), ("seen.shown_once", skill * rng.beta(9, 1.2))):
            rows.append(_row(arm, name, 0, rate, episodes, rng, seed))
    for arm, values in rates.items():
        if arm.removeprefix("heldout.") in FINETUNED:
            continue
        for name, rate in zip(HELD_OUT, values, strict=True):
            for demonstration in range(3):
                row = _row(arm, name, demonstration, rate, episodes, rng, seed)
                if arm == "heldout.shown_once":
                    row["cost"] = _cost(1, 0.0, 0.1).to_json()
                rows.append(row)
    result = {
        "protocol": {
            "suite": "Meta-World v3 on EnvPool 1.2.5",
            "goal_visible": True,
            "success": "at any step",
            "max_steps": 300,
            "action": "mean of the bins",
        },
        "rows": rows,
        "replays": [replay(rng, name, i != 3) for i, name in enumerate(HELD_OUT)],
        "wall_s": 1210.0,
    }
    _stage(root, "evaluate", result)
    cost = Cost({"evaluate": 1_900_000}, core_s=2300.0, wall_s=1210.0)
    write_bill(root / "evaluate", Bill("e", "evaluate", "evaluate", cost))


def write_finetune(root, rng, rates, episodes, seed) -> None:
    rows = []
    for arm in FINETUNED:
        k = int(arm[-1])
        for name, rate in zip(HELD_OUT, rates[f"heldout.{arm}"], strict=True):
            for demonstration in range(3):
                row = _row(f"heldout.{arm}", name, demonstration, rate, episodes, rng, seed)
                tuned = 9e11 if arm.startswith("demos") else 4e12
                rows.append(row | {"cost": _cost(k, tuned * k, tuned * k / 4e10).to_json()})
    _stage(root, "finetune", {"rows": rows})
    bill = Bill("f", "finetune", "finetune", Cost({"expert": 9000}, 180, 3100.0, 0.0, 4e14, 1700.0))
    write_bill(root / "finetune", bill)


def write_reinforce(root: Path, rng: np.random.Generator, seed: int) -> None:
    curve = []
    for steps in range(20_000, 1_000_001, 20_000):
        rate = 0.86 / (1 + np.exp(-(steps - 520_000) / 90_000))
        seconds = {"core_s": steps / 900, "wall_s": steps / 1500, "flops": steps * 3e6}
        won = {"success_rate": int(rng.binomial(50, rate)) / 50, "episodes": 50}
        curve.append({"env_steps": steps} | seconds | won)
    about = {"arm": "scratch_reinforce", "task": "metaworld/door-unlock", "seed": seed}
    _stage(root, "reinforce", about | {"curve": curve})
    cost = Cost({"reinforce": 1_000_000}, core_s=1111.0, flops=3e12, wall_s=667.0)
    write_bill(root / "reinforce", Bill("r", "reinforce", "reinforce", cost))


def replay(rng: np.random.Generator, name: str, success: bool) -> dict:
    """A hand goes to an object and brings it to a goal; a demonstration from another start."""
    return {
        "title": f"{name}, start {rng.integers(100)}",
        "arm": "heldout.shown_once",
        "task": f"metaworld/{name}",
        "success": success,
        "channels": OBS_CHANNELS,
        "obs": _walk(rng, 150, 1.0 if success else 0.55),
        "demonstration_obs": _walk(rng, 110, 1.0),
    }


def _walk(rng: np.random.Generator, steps: int, reach: float) -> list[list[float]]:
    start, thing = np.array([0.0, 0.6, 0.2]), np.array([rng.uniform(-0.15, 0.15), 0.7, 0.02])
    goal = np.array([rng.uniform(-0.1, 0.25), 0.85, 0.12])
    obs = np.zeros((steps, len(OBS_CHANNELS)))
    half = steps // 2
    for t in range(steps):
        if t < half:
            a = (1 - np.cos(np.pi * t / half)) / 2
            hand, placed = start + a * (thing - start), thing
            hand = hand + np.array([0.05 * np.sin(np.pi * a), 0, 0.03 * np.sin(np.pi * a)])
        else:
            a = reach * (1 - np.cos(np.pi * (t - half) / (steps - half - 1))) / 2
            hand = thing + a * (goal - thing) + np.array([0, 0, 0.09 * np.sin(np.pi * a)])
            placed = hand
        obs[t, :7] = [*hand, 1.0 if t < half else 0.35, *placed]
        obs[t, -3:] = goal
    return obs.round(5).tolist()


def _row(arm, name, demonstration, rate, episodes, rng, seed) -> dict:
    won = (rng.random(episodes) < rate).astype(int).tolist()
    return {
        "arm": arm,
        "task": f"metaworld/{name}",
        "demonstration": demonstration,
        "seed": seed,
        "episode_seeds": list(range(episodes)),
        "success": won,
        "steps": [300] * episodes,
    }


def _cost(demonstrations: int, flops: float, core_s: float) -> Cost:
    steps = 95 * demonstrations
    core_s += steps / 1400
    return Cost({"expert": steps}, demonstrations, core_s, 0.0, flops, core_s / 1.9)


def _stage(root: Path, name: str, result: dict) -> Path:
    stage = {"data": "collect"}.get(name, name)
    Artifact.create(root / name, stage, {}).write_result(result)
    return root / name
