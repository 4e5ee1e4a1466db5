"""Meta-World's own scripted policies on the same EnvPool tasks: the yardstick of our experts.

    pip download metaworld==3.1.1 --no-deps && unzip metaworld-*.whl -d WHEEL
    python benchmarks/official_experts.py --wheel WHEEL --episodes 50

``--out FILE.npz`` also records demonstrations of the five held-out tasks by these policies, i.e.
by an expert that no training data come from.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experts import Table, run
from headstart.behaviors.base import Decision
from headstart.data.store import DatasetWriter
from headstart.suites.metaworld import HELD_OUT
from headstart.suites.registry import get_split, get_task
from headstart.types import Episode, Task

FIRST_DEMONSTRATION_SEED = 9_000_000
DEMONSTRATIONS = 5
STEPS_AFTER_SUCCESS = 5


@dataclass(frozen=True)
class Arguments:
    wheel: Path
    """Folder that the metaworld wheel was unpacked to."""
    episodes: int = 50
    """Episodes a task; 0: no table."""
    seed: int = 0
    """First of the environments' seeds."""
    out: Path | None = None
    """Dataset folder for demonstrations of the held-out tasks."""


class OfficialExpert:
    """A Meta-World policy as an actor. It acts on one 39-number observation at a time."""

    name = "official-expert"

    def __init__(self, task: Task, wheel: Path) -> None:
        self.policy = _load_policies(wheel)[f"{task.name}-v3"]()

    def reset(self, env_ids: np.ndarray) -> None:
        """The policies have no state."""

    def act(self, obs: np.ndarray, env_ids: np.ndarray) -> Decision:
        # The previous frame, which no policy reads, is filled with the current one.
        obs = np.nan_to_num(obs).astype(np.float64)  # Meta-World pads with zeros
        full = np.concatenate([obs[:, :18], obs], axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they warn whenever an action will be clipped
            action = np.stack([self.policy.get_action(row) for row in full])
        return Decision(np.clip(action, -1.0, 1.0).astype(np.float32))


def _load_policies(wheel: Path) -> dict[str, Any]:
    """The policies by task, without importing metaworld's environments and what they depend on."""
    if not (wheel / "metaworld" / "policies").is_dir():
        raise ValueError(f"--wheel {wheel}: no metaworld/policies there; unpack the wheel first")
    if "metaworld" not in sys.modules:
        package = types.ModuleType("metaworld")
        package.__path__ = [str(wheel / "metaworld")]
        sys.modules["metaworld"] = package
    return importlib.import_module("metaworld.policies").ENV_POLICY_MAP


def print_table(arguments: Arguments) -> None:
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    table = Table(("official",))
    for task in get_split("metaworld/mt50"):
        table.add(task.name, [run(task, OfficialExpert(task, arguments.wheel), seeds)])
    table.summarise()


def record_demonstrations(wheel: Path, out: Path) -> None:
    """Write successful episodes of the held-out tasks as a dataset."""
    with DatasetWriter(out, get_task(f"metaworld/{HELD_OUT[0]}")) as writer:
        for name in HELD_OUT:
            task = get_task(f"metaworld/{name}")
            first, successes = FIRST_DEMONSTRATION_SEED, list[Episode]()
            while len(successes) < DEMONSTRATIONS:
                if first > FIRST_DEMONSTRATION_SEED + 1000:
                    raise ValueError(f"{name}: only {len(successes)} successes in 1000 seeds")
                seeds = range(first, first + DEMONSTRATIONS)
                episodes = run(task, OfficialExpert(task, wheel), seeds, STEPS_AFTER_SUCCESS)
                successes += [episode for episode in episodes if episode.success.any()]
                first += DEMONSTRATIONS
            writer.save_episodes(successes[:DEMONSTRATIONS])


def main(arguments: Arguments) -> None:
    if arguments.episodes:
        print_table(arguments)
    if arguments.out:
        record_demonstrations(arguments.wheel, arguments.out)
        print(f"wrote {DEMONSTRATIONS} demonstrations of {len(HELD_OUT)} tasks to {arguments.out}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
