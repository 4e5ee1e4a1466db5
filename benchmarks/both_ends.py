"""Does a run from a prior end below where it began? Many episodes of the policy at both ends.

    python benchmarks/both_ends.py runs/arms/told/*

Takes complete runs of ``headstart reinforce --model``, from the folder that they were started in.
Both policies play the same episodes. Prints a line a run, and how many end with an interval
(Wilson, 95 %) wholly below the one at the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from headstart.artifact import read_sealed_json
from headstart.config import from_json
from headstart.ledger import Meter
from headstart.stages.reinforce import (
    ReinforceConfig,
    build_algorithm,
    given_demonstrations,
    load_checkpoint,
    play,
    round_seeds,
)
from headstart.stats import wilson_interval
from headstart.suites import registry

UNSEEN_FROM = 5000
"""The first seed: more than a hundred evaluations of fifty episodes are before it."""


@dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    episodes: int = 200


def main(arguments: Arguments) -> None:
    below = 0
    for root in arguments.runs:
        before, after = successes(root, arguments.episodes)
        of_before, of_after = (wilson_interval(k, arguments.episodes) for k in (before, after))
        is_below = of_after[1] < of_before[0]
        below += is_below
        rates = f"{before / arguments.episodes:.1%} to {after / arguments.episodes:.1%}"
        print(f"{root}: {rates}" + (", wholly below" if is_below else ""), flush=True)
    print(f"wholly below where they began: {below} of {len(arguments.runs)}")


def successes(root: Path, episodes: int) -> tuple[int, int]:
    """Of the policy that a run began with, and of the one that it ended with."""
    config = from_json(ReinforceConfig, read_sealed_json(root, "config.json")["config"])
    task = registry.get_task(config.task)
    learner = build_algorithm(config, task, given_demonstrations(config, task))
    # starts that no evaluation of the run has had, which may have ended it
    seeds = round_seeds(config, task, "evaluation", UNSEEN_FROM // episodes, episodes)
    before, _ = play(config, learner, task, seeds, Meter())
    load_checkpoint(root, learner)
    after, _ = play(config, learner, task, seeds, Meter())
    return int(before.sum()), int(after.sum())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
