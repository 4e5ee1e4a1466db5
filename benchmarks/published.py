"""Learning curves that others published, as results of ours beside them.

    git clone https://github.com/nicklashansen/tdmpc2 RELEASE
    python benchmarks/published.py RELEASE

TD-MPC2 (Hansen et al. 2024, arXiv:2310.16828) and soft actor-critic on Meta-World's fifty tasks, as
that release has them: success of ten episodes every 100,000 simulator steps, dense reward. Its
agent plays every action twice, which the steps of the files count already, unlike those of its code
(issue 45 of the release): rows lie twice its eval_freq apart, and once where nothing is repeated
(MyoSuite). What it cost in time is not known.
"""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import tyro

from headstart.artifact import write_bytes
from headstart.suites import registry

SOURCE = "https://github.com/nicklashansen/tdmpc2"
EPISODES = 10


@dataclass(frozen=True)
class Arguments:
    release: tyro.conf.Positional[Path]
    """A clone of the release."""
    out: Path = Path("results/metaworld/published")


def git(release: Path, *arguments: str) -> str:
    command = ["git", "-C", str(release), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def curves(release: Path, learner: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Task -> seed -> (simulator steps, success rate)."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for task in registry.get_split("metaworld/mt50"):
        lines = git(release, "show", f"HEAD:results/{learner}/mw-{task.name}.csv").splitlines()
        by_seed = found.setdefault(task.id, {})
        for row in csv.DictReader(lines):
            point = (int(float(row["step"])), float(row["success"]))
            by_seed.setdefault(row["seed"], []).append(point)
    return found


def main(arguments: Arguments) -> None:
    for learner in ("tdmpc2", "sac"):
        content = {
            "source": f"{SOURCE}, results/{learner}",
            "commit": git(arguments.release, "rev-parse", "HEAD").strip(),
            "episodes": EPISODES,
            "curves": curves(arguments.release, learner),
        }
        text = json.dumps(content, separators=(",", ":"))
        write_bytes(arguments.out / f"{learner}.json", (text + "\n").encode())
        print(learner, len(content["curves"]), "tasks")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
