"""What is in a dataset, in numbers and in a few readable lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config import to_json
from headstart.data import lerobot_v3 as v3
from headstart.data.store import Dataset
from headstart.ledger import Cost, read_bill, total
from headstart.types import Channel

UNITS = ("B", "kB", "MB", "GB", "TB")


def succeeded(dataset: Dataset) -> np.ndarray:
    """(N,) bool: which episodes succeeded at any step."""
    return _outcomes(dataset)[0]


def _outcomes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: which episodes succeeded, and of which anything is known of how they went.

    A dataset has no place for a success that nobody knows, and keeps False; where the reward is
    not known either (NaN throughout), nothing was said of how it went.
    """
    if not dataset.num_episodes:
        return np.zeros(0, bool), np.zeros(0, bool)
    columns = dataset.load_columns([v3.SUCCESS, v3.REWARD])
    start = dataset.episode_table()["start"]
    success = np.logical_or.reduceat(columns[v3.SUCCESS], start)
    rewarded = np.logical_or.reduceat(np.isfinite(columns[v3.REWARD]), start)
    return success, success | rewarded


def summary(dataset: Dataset) -> dict[str, Any]:
    """Episodes, steps and the success rate per task; what ``result.json`` holds.

    The success rate of a task is None where the data does not say how any of its episodes went.
    """
    table, (success, known) = dataset.episode_table(), _outcomes(dataset)
    tasks = {}
    for task in sorted(set(table["task_id"].tolist())):
        mine = table["task_id"] == task
        tasks[task] = {
            "episodes": int(mine.sum()),
            "steps": int(table["num_steps"][mine].sum()),
            "success": float(success[mine].mean()) if known[mine].any() else None,
        }
    return {"episodes": dataset.num_episodes, "env_steps": dataset.num_steps, "tasks": tasks}


def information(root: Path) -> dict[str, Any]:
    """All that ``headstart data info`` knows, as JSON values.

    Returns:
        ``summary``'s, and format, control_hz, channels, cameras, behaviors (episodes of each
        actor), bytes and files on disk, and the full bill with all ancestors, None for unknown.

    Raises:
        ValueError: no dataset there, or a damaged one.
    """
    dataset = Dataset(root)
    return summary(dataset) | outline(dataset)


def outline(dataset: Dataset) -> dict[str, Any]:
    """``information`` but for what needs the data files to be read."""
    table = dataset.episode_table()
    files = [p for p in dataset.root.rglob("*") if p.is_file()]
    return {
        "name": title_of(dataset.root),
        "format": f"LeRobot {v3.CODEBASE_VERSION}, headstart {v3.FORMAT_VERSION}",
        "episodes": dataset.num_episodes,
        "env_steps": dataset.num_steps,
        "control_hz": dataset.control_hz,
        "channels": to_json(dataset.channels),
        "cameras": to_json(dataset.cameras),
        "behaviors": dict(Counter(table["behavior"].tolist())),
        "bytes": sum(p.stat().st_size for p in files),
        "files": len(files),
        "bill": to_json(total([read_bill(dataset.root)])),
    }


def title_of(root: Path) -> str:
    """What to call a dataset: its folder and the one that it is in, as in ``lerobot/pusht``."""
    return "/".join(root.resolve().parts[-2:]).lstrip("/")


def describe(facts: Mapping[str, Any]) -> list[str]:
    """The lines that ``headstart data info`` prints."""
    tasks = facts["tasks"]
    known = [t for t in tasks.values() if t["success"] is not None]
    won = round(sum(t["success"] * t["episodes"] for t in known))
    unknown = facts["episodes"] - sum(t["episodes"] for t in known)
    outcome = f"{won:,} with success" if known else "success unknown"
    if known and unknown:
        outcome += f", {unknown:,} unknown"
    seconds = facts["env_steps"] / facts["control_hz"] if facts["control_hz"] else 0.0
    lines = [
        facts["name"],
        _line("format", facts["format"]),
        _line("episodes", f"{facts['episodes']:,}, {outcome}"),
        _line("steps", f"{facts['env_steps']:,} at {facts['control_hz']:g} Hz, {clock(seconds)}"),
        _line("size", f"{size(facts['bytes'])} in {facts['files']:,} files"),
        _line("acted", ", ".join(f"{who} {n:,}" for who, n in facts["behaviors"].items())),
        *map(_line, ("bill", ""), described_bill(Cost.from_json(facts["bill"]))),
    ]
    channels = [Channel(**c) for c in facts["channels"]]
    for role, title in (("observation", "observed"), ("goal", "goal"), ("action", "action")):
        mine = [c for c in channels if c.role == role]
        rows = [f"{body:20s} {names}" for body, names in grouped(mine)]
        lines += ["", f"{title}, {len(mine)} channels", *(f"  {row}" for row in rows)]
    if facts["cameras"]:
        views = (f"  {c['name']:20s} {c['height']} x {c['width']}, {c['storage']}"
                 for c in facts["cameras"])  # fmt: skip
        lines += ["", "cameras", *views]
    width = max((len(task) for task in tasks), default=0)
    lines += ["", f"{'tasks':{width}s}    episodes      steps  success"]
    lines += [
        f"  {task:{width}s}  {t['episodes']:8,}  {t['steps']:9,}  {_rate(t['success']):>7s}"
        for task, t in tasks.items()
    ]
    return lines


def _rate(success: float | None) -> str:
    return "unknown" if success is None else f"{success:.0%}"


def grouped(channels: Sequence[Channel]) -> list[tuple[str, str]]:
    """Streams by what comes before a channel's last slash, e.g. ("hand", "x y z [m]")."""
    bodies: dict[str, dict[str, list[str]]] = {}
    for channel in channels:
        body, _, last = channel.name.rpartition("/")
        bodies.setdefault(body or "-", {}).setdefault(channel.unit, []).append(last)
    return [
        (body, ", ".join(" ".join(_runs(n)) + (f" [{u}]" if u else "") for u, n in units.items()))
        for body, units in bodies.items()
    ]


def size(num_bytes: float) -> str:
    """``9.4 MB``."""
    power = 0
    while num_bytes >= 999.5 and power < len(UNITS) - 1:
        num_bytes, power = num_bytes / 1000, power + 1
    return f"{num_bytes:.3g} {UNITS[power]}"


def clock(seconds: float) -> str:
    """``20 min 50 s``, ``1 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def described_bill(cost: Cost) -> list[str]:
    """What everything cost, in a line or two."""
    if cost == Cost.unknown():
        return ["unknown"]

    def show(value: float | None, unit: str) -> str:
        return f"unknown {unit}" if value is None else f"{value:,.0f} {unit}"

    origins = cost.env_steps_by_origin or {}
    steps = ", ".join(f"{who} {'unknown' if n is None else f'{n:,}'}" for who, n in origins.items())
    first = show(cost.env_steps, "simulator steps") + (f" ({steps})" if steps else "")
    rest = [
        show(cost.demonstrations, "demonstrations"),
        show(cost.core_s, "core-s"),
        show(cost.gpu_s, "GPU-s"),
        show(cost.flops, "FLOPs"),
    ]
    if cost.energy_j:
        rest.append(show(cost.energy_j, "J of the whole machine"))
    return [first, ", ".join(rest)]


def _runs(names: Sequence[str]) -> list[str]:
    """Numbers that follow one another are shortened: 0 1 2 3 -> 0..3."""
    short: list[list[str]] = []
    for name in names:
        follows = short and name.isdecimal() and short[-1][-1].isdecimal()
        if follows and int(name) == int(short[-1][-1]) + 1:
            short[-1].append(name)
        else:
            short.append([name])
    return [f"{run[0]}..{run[-1]}" if len(run) > 3 else " ".join(run) for run in short]


def _line(title: str, text: str) -> str:
    return f"  {title:10s} {text}"
