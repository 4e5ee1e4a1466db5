"""Evaluation off the bat: no gradient anywhere. Told in words, shown once, and the controls."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from headstart.artifact import Artifact, check_memory, count, write_card
from headstart.behaviors.base import Actor
from headstart.behaviors.controls import NearestNeighbour, OpenLoop
from headstart.config import check_ranges, listed
from headstart.data.demonstrations import Demonstrations
from headstart.data.store import Dataset
from headstart.ledger import Cost, Meter, RunMeter, read_bill, settle, share_of
from headstart.model.channels import columns
from headstart.model.checkpoint import load_model
from headstart.model.policy import Policy, Prompt
from headstart.rollout import Interaction, examine
from headstart.seeds import environment_seeds
from headstart.stats import success_rates
from headstart.suites import registry
from headstart.suites.film import film
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
    """Steps after which an episode is truncated."""
    control_episodes: int = 8
    """Episodes a prompt of the controls: retrieval, replay, a wrong demonstration."""
    seed: int = 0
    """Of starts and goals, and of what is drawn in acting."""

    def __post_init__(self) -> None:
        one = (1, math.inf)
        check_ranges(self, prompts=one, episodes=one, control_episodes=one, max_episode_steps=one)


def evaluate(config: EvaluateConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """See what a pre-trained model can do off the bat.

    Arms: ``seen.told``, ``seen.shown_once``; ``heldout.`` ``told``, ``shown_once``,
    ``told_and_shown``, ``shown_once_official`` (a demonstrator that the data never had) and the
    controls ``retrieval`` (the better of two), ``open_loop``, ``wrong_prompt``, ``no_prompt``.

    Returns:
        What ``result.json`` holds: ``protocol``, ``rows`` (one an arm, task and demonstration,
        with its ``diverged_episodes``, which failed) and a few ``replays``; where the machine has
        a renderer, ``films`` of them lie beside it.

    Raises:
        ValueError: a missing or damaged model or dataset; no task, or one without a demonstration
            or with channels that the model does not know; a held-out task that it was trained on;
            data made in environments of the exam.
    """
    out = Path(out)
    heldout = registry.get_split(config.heldout) if config.heldout else []
    seen = registry.get_split(config.seen) if config.seen else []
    if not heldout and not seen:
        raise ValueError("there is no task to evaluate on; name some with --seen or --heldout")
    check_memory(config.prompts * config.episodes, "environments (prompts x episodes)")
    exam = Exam(config, heldout, seen, out / "films")
    parents = [config.model, config.seen_demonstrations, config.heldout_demonstrations]
    bills = tuple(read_bill(p) for p in parents if p is not None)
    artifact = Artifact.create(out, "evaluate", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    pieces = artifact.progress()
    done = {piece["task"] for piece in pieces}
    with RunMeter(out, "evaluate", bills) as meter:
        for title, tasks, sit in (("held-out", heldout, exam.heldout), ("seen", seen, exam.seen)):
            for task in tqdm(tasks, desc=f"evaluate {title}", unit="task"):
                if task.id not in done:
                    pieces.append({"task": task.id} | sit(task, meter))
                    # First what it cost: whatever is kept has been paid for.
                    meter.save_bill()
                    artifact.save_progress(pieces[-1])
    rows = [row for piece in pieces for row in piece["rows"]]
    retrieval = choose_retrieval(rows)
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
            "retrieval": f"the better of two, {RETRIEVALS[retrieval]}",
        },
        "rows": rows,
        "replays": [replay for piece in pieces for replay in piece["replays"]],
        "wall_s": meter.cost().wall_s,
    }
    write_card(out, "Evaluation off the bat", _card(config, result["rows"]))
    artifact.write_result(result)
    settle(out)
    return result


@dataclass(frozen=True)
class Entrant:
    """An actor in the exam: environment i acts on prompt i // episodes."""

    actor: Actor
    num_prompts: int
    episodes: int


class Exam:
    """Runs the arms of each task in one pool of environments.

    ``seen`` and ``heldout`` return ``rows`` and ``replays`` for result.json.
    """

    def __init__(
        self, config: EvaluateConfig, heldout: Sequence[Task], seen: Sequence[Task], films: Path
    ) -> None:
        self.config = config
        self._films = films
        self.model = load_model(Path(config.model))
        self._cost_of_shown = Cost.unknown()
        if config.heldout_demonstrations is not None:
            self._cost_of_shown = read_bill(config.heldout_demonstrations).cost
        self._shown_seen = Demonstrations(config.seen_demonstrations, 1)
        self._shown = Demonstrations(config.heldout_demonstrations, config.prompts)
        official = resources.files("headstart.suites") / "metaworld_official"
        self._official = Demonstrations(Path(str(official)), config.prompts)
        for task in heldout:
            if not self._shown.of(task):
                raise ValueError(
                    f"no demonstration of {task.id} to show; name a dataset that has one with"
                    " --heldout-demonstrations, or leave held-out tasks out with --heldout ''"
                )
        if trained_on := self.model.trained_on & {task.id for task in heldout}:
            raise ValueError(
                f"{config.model} was trained on {', '.join(sorted(trained_on))}, which is not held"
                " out then; name it with --seen"
            )
        used = seeds_of(config.seen_demonstrations, config.heldout_demonstrations)
        for task in (*heldout, *seen):
            columns(self.model.channels, (*task.obs_channels, *task.action_channels))
            if known := used & set(self._seeds(task, config.prompts * config.episodes)):
                raise ValueError(
                    f"{task.id}: the data has episodes of environment {min(known)}, which is one"
                    " to be evaluated in; use another --seed"
                )
        self._tell_what_is_missing(seen)

    def _tell_what_is_missing(self, seen: Sequence[Task]) -> None:
        """Of the seen tasks, which are evaluated all the same."""
        shown, known = self.config.seen_demonstrations, self.model.trained_on
        unknown = [task.id for task in seen if known and task.id not in known]
        not_shown = [task.id for task in seen if shown and not self._shown_seen.of(task)]
        for missing, what in (
            (unknown, f"{self.config.model} was not trained on what --seen names"),
            (not_shown, f"{shown} has no demonstration, so only told"),
        ):
            if missing:
                tqdm.write(f"warning: {what}: {listed(missing)}", file=sys.stderr)

    def seen(self, task: Task, meter: Meter) -> dict[str, list]:
        """Told, and shown one demonstration."""
        arms = {"seen.told": self._policy(task, [Prompt(task.instruction)])}
        if shown := self._shown_seen.of(task):
            arms["seen.shown_once"] = self._policy(task, _shown(shown))
        return self._run(task, arms, meter)

    def heldout(self, task: Task, meter: Meter) -> dict[str, list]:
        """Every arm and control of a task the model never saw."""
        shown = self._shown.of(task)
        n = min(self.config.control_episodes, self.config.episodes)
        others = self._shown.of_others(task) or self._shown_seen.of_others(task)
        wrong = [episodes[0] for episodes in others.values()]
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
        if official := self._official.of(task):
            arms["heldout.shown_once_official"] = self._policy(task, _shown(official))
        return self._run(task, arms, meter)

    def _policy(self, task: Task, prompts: Sequence[Prompt], episodes: int = 0) -> Entrant:
        episodes = episodes or self.config.episodes
        policy = Policy(self.model, task.channels, prompts, episodes)
        return Entrant(policy, len(prompts), episodes)

    def _row(self, result: EvalResult) -> dict[str, Any]:
        """A result for result.json; what one demonstration bought carries what it cost."""
        row = asdict(result)
        if result.arm == "heldout.shown_once":
            shown = self._shown.of(registry.get_task(result.task))
            steps = shown[result.demonstration].num_steps
            row["cost"] = share_of(self._cost_of_shown, steps, demonstrations=1).to_json()
        return row

    def _seeds(self, task: Task, count: int) -> list[int]:
        """Of the first environments that the task is evaluated in."""
        index = registry.task_index(task)
        return environment_seeds("evaluation", self.config.seed, index, count)

    def _run(self, task: Task, arms: dict[str, Entrant], meter: Meter) -> dict[str, list]:
        """Each arm plays the environments' next starts: no two episodes have the same one."""
        config = self.config
        most = max(entrant.num_prompts * entrant.episodes for entrant in arms.values())
        env = registry.make(task, self._seeds(task, most), config.max_episode_steps)
        rows, replays = [], []
        for arm, entrant in arms.items():
            interaction = Interaction(env, entrant.actor)
            try:
                results, episodes = examine(
                    interaction,
                    arm,
                    entrant.num_prompts,
                    entrant.episodes,
                    config.max_episode_steps,
                    config.seed,
                )
            finally:
                meter.count_env_steps("evaluate", interaction.env_steps)
            rows += [self._row(result) for result in results]
            if arm == "heldout.shown_once" and episodes[0].num_steps:
                film(
                    task.id, episodes[0].seed, episodes[0].action, self._films / f"{task.name}.mp4"
                )
                replays.append(replay(arm, self._shown.of(task)[0], episodes[0]))
        env.close()
        del env, interaction
        gc.collect()  # an EnvPool frees its memory only when nothing refers to it
        return {"rows": rows, "replays": replays}


def seeds_of(*datasets: Path | None) -> set[int]:
    """Seeds of all environments that these datasets were made in."""
    tables = [Dataset(root).episode_table() for root in datasets if root is not None]
    return {seed for table in tables for seed in table["seed"].tolist()}


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


RETRIEVALS = {
    "heldout.retrieval_raw": "by raw observations",
    "heldout.retrieval_relative": "by positions relative to the object",
}


def choose_retrieval(rows: list[dict[str, Any]]) -> str:
    """Call the better of the two retrieval controls ``heldout.retrieval``; returns its old name."""
    rates = success_rates(rows)
    better = max(RETRIEVALS, key=lambda arm: rates.get(arm, 0.0))
    for row in rows:
        if row["arm"] == better:
            row["arm"] = "heldout.retrieval"
    return better


def _shown(demonstrations: Sequence[Episode]) -> list[Prompt]:
    return [Prompt(demonstration=episode) for episode in demonstrations]


def _card(config: EvaluateConfig, rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"- Model: `{config.model}`. Success at any of {config.max_episode_steps} steps,"
        f" {count(config.episodes, 'episode')} a prompt, starts and goals of their own, seed"
        f" {config.seed}.",
        *[f"- `{arm}`: {rate:.1%}" for arm, rate in success_rates(rows).items()],
    ]
