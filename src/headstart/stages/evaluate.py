"""Evaluation off the bat: no gradient anywhere. Told in words, shown once, and the controls."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headstart.artifact import Artifact, check_memory, write_card
from headstart.behaviors.base import Actor
from headstart.behaviors.controls import NearestNeighbour, OpenLoop
from headstart.data.store import demonstrations_of
from headstart.ledger import (
    Cost,
    Meter,
    read_bill,
    settle,
    share_of,
    spent_so_far,
    write_unfinished_bill,
)
from headstart.model.checkpoint import load_model
from headstart.model.policy import Policy, Prompt
from headstart.rollout import Interaction, examine
from headstart.seeds import environment_seeds
from headstart.suites import registry
from headstart.types import Episode, EvalResult, Task


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of evaluation off the bat."""

    model: Path
    """Folder of the pre-trained model."""
    seen: str = "metaworld/ml45-train"
    """Tasks the model was trained on; empty: none."""
    seen_demonstrations: Path | None = None
    """Dataset that a demonstration of each seen task is taken from: its first unperturbed
    success."""
    heldout: str = "metaworld/ml45-test"
    """Tasks the model never saw; empty: none."""
    heldout_demonstrations: Path | None = None
    """Dataset of unperturbed demonstrations of the held-out tasks."""
    prompts: int = 5
    """Demonstrations that a held-out task is shown by, one at a time."""
    episodes: int = 20
    """Episodes a prompt, each with a start and goal of its own."""
    max_episode_steps: int = 300
    control_episodes: int = 8
    """Episodes a prompt of the controls: retrieval, replay, a wrong demonstration."""
    seed: int = 0


def evaluate(config: EvaluateConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """See what a pre-trained model can do off the bat.

    Arms: ``seen.told``, ``seen.shown_once``; ``heldout.`` ``told``, ``shown_once``,
    ``told_and_shown``, ``shown_once_official`` (a demonstrator that the data never had) and the
    controls ``retrieval`` (the better of two), ``open_loop``, ``wrong_prompt``, ``no_prompt``.

    Returns:
        What ``result.json`` holds: ``protocol``, ``rows`` (one an arm, task and demonstration)
        and a few ``replays``.

    Raises:
        ValueError: a missing or damaged model or dataset; a task without a demonstration.
    """
    heldout = registry.get_split(config.heldout) if config.heldout else []
    seen = registry.get_split(config.seen) if config.seen else []
    check_memory(config.prompts * config.episodes)
    exam = Exam(config, heldout)
    artifact = Artifact.create(out, "evaluate", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    parents = [config.model, config.seen_demonstrations, config.heldout_demonstrations]
    bills = tuple(read_bill(p) for p in parents if p is not None)
    with Meter(spent_so_far(out)) as meter:
        try:
            for task in tqdm(heldout, desc="evaluate held-out", unit="task"):
                exam.heldout(task, meter)
            for task in tqdm(seen, desc="evaluate seen", unit="task"):
                exam.seen(task, meter)
        finally:  # what an interrupted run has spent is spent
            write_unfinished_bill(out, "evaluate", meter.cost(), bills)
    retrieval = choose_retrieval(exam.results)
    result = {
        "protocol": {
            "suite": "Meta-World v3 on EnvPool",
            "goal_visible": True,
            "success": "at any step",
            "max_steps": config.max_episode_steps,
            "episodes_per_prompt": config.episodes,
            "episodes_per_prompt_of_controls": config.control_episodes,
            "starts": "no two episodes of an arm share one, nor any with data or prompts",
            "seen_tasks_are_shown": "an unperturbed episode of the training data",
            "wrong_prompt": "a demonstration of each of the other held-out tasks",
            "action": "mean of the predicted bins",
            "retrieval": f"the better of two: {retrieval.removeprefix('heldout.')}",
        },
        "rows": exam.rows(),
        "replays": exam.replays,
        "wall_s": meter.cost().wall_s,
    }
    artifact.write_result(result)
    settle(out)
    write_card(out, "Evaluation off the bat", _card(config, result["rows"]))
    return result


@dataclass(frozen=True)
class Entrant:
    """An actor in the exam: environment i acts on prompt i // episodes."""

    actor: Actor
    num_prompts: int
    episodes: int


class Exam:
    """Runs the arms of each task in one pool of environments, and keeps what came out."""

    def __init__(self, config: EvaluateConfig, heldout: Sequence[Task]) -> None:
        self.config = config
        self.model = load_model(Path(config.model))
        self.results: list[EvalResult] = []
        self.replays: list[dict[str, Any]] = []
        self._shown_seen = demonstrations_of(config.seen_demonstrations, 1)
        self._shown = demonstrations_of(config.heldout_demonstrations, config.prompts)
        official = resources.files("headstart.suites") / "metaworld_official"
        self._official = demonstrations_of(Path(str(official)), config.prompts)
        for task in heldout:
            if not self._shown.get(task.id):
                raise ValueError(
                    f"no demonstration of {task.id} to show; name a dataset that has one with"
                    " --heldout-demonstrations, or leave held-out tasks out with --heldout ''"
                )

    def seen(self, task: Task, meter: Meter) -> None:
        """Told, and shown one demonstration."""
        arms = {"seen.told": self._policy(task, [Prompt(task.instruction)])}
        if task.id in self._shown_seen:
            arms["seen.shown_once"] = self._policy(task, _shown(self._shown_seen[task.id]))
        self._run(task, arms, meter)

    def heldout(self, task: Task, meter: Meter) -> None:
        """Every arm and control of a task the model never saw."""
        shown = self._shown[task.id]
        n = min(self.config.control_episodes, self.config.episodes)
        others = {name: s for name, s in self._shown.items() if name != task.id}
        wrong = [episodes[0] for episodes in (others or self._shown_seen).values()]
        raw, relative = (NearestNeighbour(shown, n, task.obs_channels, r) for r in (False, True))
        arms = {
            "heldout.shown_once": self._policy(task, _shown(shown)),
            "heldout.told_and_shown": self._policy(
                task, [Prompt(task.instruction, episode) for episode in shown]
            ),
            "heldout.told": self._policy(task, [Prompt(task.instruction)]),
            "heldout.no_prompt": self._policy(task, [Prompt()]),
            "heldout.retrieval_raw": Entrant(raw, len(shown), n),
            "heldout.retrieval_relative": Entrant(relative, len(shown), n),
            "heldout.open_loop": Entrant(OpenLoop(shown, n), len(shown), n),
        }
        if wrong:
            arms["heldout.wrong_prompt"] = self._policy(task, _shown(wrong[: len(shown)]), n)
        if task.id in self._official:
            arms["heldout.shown_once_official"] = self._policy(
                task, _shown(self._official[task.id])
            )
        self._run(task, arms, meter)

    def _policy(self, task: Task, prompts: Sequence[Prompt], episodes: int = 0) -> Entrant:
        episodes = episodes or self.config.episodes
        policy = Policy(self.model, task.channels, prompts, episodes)
        return Entrant(policy, len(prompts), episodes)

    def rows(self) -> list[dict[str, Any]]:
        """The results for result.json; what one demonstration bought carries what it cost."""
        rows = []
        made = Cost.unknown()
        if self.config.heldout_demonstrations is not None:
            made = read_bill(self.config.heldout_demonstrations).cost
        for result in self.results:
            row = asdict(result)
            if result.arm == "heldout.shown_once":
                steps = self._shown[result.task][result.demonstration].num_steps
                row["cost"] = share_of(made, steps, demonstrations=1).to_json()
            rows.append(row)
        return rows

    def _run(self, task: Task, arms: dict[str, Entrant], meter: Meter) -> None:
        """Each arm plays the environments' next starts: no two episodes have the same one."""
        config = self.config
        most = max(entrant.num_prompts * entrant.episodes for entrant in arms.values())
        seeds = environment_seeds("evaluation", config.seed, registry.task_index(task), most)
        env = registry.make(task, seeds, config.max_episode_steps)
        for arm, entrant in arms.items():
            interaction = Interaction(env, entrant.actor)
            results, episodes = examine(
                interaction,
                arm,
                entrant.num_prompts,
                entrant.episodes,
                config.max_episode_steps,
                config.seed,
            )
            meter.count_env_steps("evaluate", interaction.env_steps)
            self.results += results
            if arm == "heldout.shown_once":
                self.replays.append(replay(arm, self._shown[task.id][0], episodes[0]))
        env.close()
        del env, interaction
        gc.collect()  # an EnvPool frees its memory only when nothing refers to it


def replay(arm: str, demonstration: Episode, episode: Episode) -> dict[str, Any]:
    """An episode and the demonstration behind it, for the report to draw."""
    task = registry.get_task(episode.task_id)
    return {
        "title": task.instruction,
        "arm": arm,
        "task": task.id,
        "success": bool(episode.success.any()),
        "channels": [channel.name for channel in task.obs_channels],
        "obs": np.nan_to_num(episode.obs).round(4).tolist(),
        "demonstration_obs": np.nan_to_num(demonstration.obs).round(4).tolist(),
    }


def choose_retrieval(results: list[EvalResult]) -> str:
    """Call the better of the two retrieval controls ``heldout.retrieval``; returns its name."""
    rate = {
        arm: float(np.mean([r.success for r in results if r.arm == arm] or [[0.0]]))
        for arm in ("heldout.retrieval_raw", "heldout.retrieval_relative")
    }
    better = max(rate, key=lambda arm: rate[arm])
    for result in results:
        if result.arm == better:
            result.arm = "heldout.retrieval"
    return better


def _shown(demonstrations: Sequence[Episode]) -> list[Prompt]:
    return [Prompt(demonstration=episode) for episode in demonstrations]


def rates(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Success rate of each arm over all its episodes, held-out arms first."""
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (arm.startswith("seen"), arm))
    return {
        arm: float(np.mean([s for row in rows if row["arm"] == arm for s in row["success"]]))
        for arm in arms
    }


def _card(config: EvaluateConfig, rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"- Model: `{config.model}`. Success at any of {config.max_episode_steps} steps,"
        f" {config.episodes} episodes a prompt, starts and goals of their own, seed {config.seed}.",
        *[f"- `{arm}`: {rate:.1%}" for arm, rate in rates(rows).items()],
    ]
