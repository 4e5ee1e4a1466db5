"""Off the bat without a simulator: how well a model predicts what was done in recorded episodes.

The model looks at recorded observations step by step, as if it acted, and its actions are compared
with the recorded ones. No gradient anywhere. It works on any dataset, and tells how well a model
imitates, not whether it would succeed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from headstart.artifact import Artifact, count, result_if_any, write_card
from headstart.config import check_ranges
from headstart.data.cache import Cache, open_cache
from headstart.data.loader import evenly_spaced
from headstart.data.store import Dataset
from headstart.ledger import RunMeter, read_bill, settle
from headstart.model.channels import columns
from headstart.model.checkpoint import load_model
from headstart.model.transformer import Transformer
from headstart.model.words import PAD, encode
from headstart.objectives import two_hot_cross_entropy

BATCH_STEPS = 256
"""Steps that are predicted at a time."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Settings of scoring."""

    model: Path
    """Folder of the pre-trained model."""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Datasets to score on, but for the episode that is shown of each task; by default the
    episodes that were kept out when the model was pre-trained."""
    episodes: int = 5
    """The most episodes of each task, the last ones."""

    def __post_init__(self) -> None:
        check_ranges(self, episodes=(1, math.inf))


@dataclass(frozen=True)
class Exercise:
    """A task in a dataset, the episodes to score on and the one to show."""

    data: str
    task: str
    cache: Cache
    scored: np.ndarray  # (n,) int64 numbers of episodes
    shown: int | None
    mean_action: np.ndarray  # (A,) float32 of all episodes that are not scored


def score(config: ScoreConfig, out: Path | str, resume: bool = False) -> dict[str, Any]:
    """Measure a model's loss and action error on recorded episodes.

    Arms: ``told``, ``shown_once``, ``told_and_shown``, ``no_prompt``, and for comparison
    ``mean_action`` (always the mean of the other episodes' actions) and ``repeat_action`` (always
    the action before).

    Returns:
        What ``result.json`` holds: ``rows``, one an arm and task, and ``arms``, their means over
        tasks. ``loss`` is the cross-entropy of an action channel [nats]; ``error`` the mean
        absolute error in half-widths of the channel's range, ``error_by_channel`` in its own unit.

    Raises:
        ValueError: a missing or damaged model or dataset; no episode to score on; a dataset that
            has changed since the model was trained on it, or with channels it does not know.
    """
    out = Path(out)
    model = load_model(Path(config.model))
    exercises = [
        replace(exercise, scored=exercise.scored[-config.episodes :])
        for exercise in (_from_data(config.data) if config.data else _kept_out(config.model))
    ]
    markers = [Marker(model, exercise) for exercise in exercises]
    bills = tuple(read_bill(path) for path in (config.model, *config.data))
    artifact = Artifact.create(out, "score", config, resume)
    if artifact.is_complete:
        settle(out)
        return artifact.result()
    rows: list[dict[str, Any]] = []
    with RunMeter(out, "score", bills) as meter:
        for marker in tqdm(markers, desc="score", unit="task"):
            rows += marker.rows()
    result = {"arms": means(rows), "rows": rows, "wall_s": meter.cost().wall_s}
    episodes = count(sum(len(e.scored) for e in exercises), "episode")
    title = f"{episodes} of {count(len(exercises), 'task')}, {_whose(config, exercises)}:"
    lines = [title, "", "```", *_table(result["arms"]), "```"]
    write_card(out, "Off the bat on recorded episodes", lines)
    artifact.write_result(result)
    settle(out)
    return result


class Marker:
    """Predicts the actions of one task's recorded episodes, and marks the predictions."""

    def __init__(self, model: Transformer, exercise: Exercise) -> None:
        self.model = model
        self.exercise = exercise
        cache = exercise.cache
        self._columns = columns(model.channels, (*cache.obs_channels, *cache.action_channels))
        self._num_obs = len(cache.obs_channels)
        self._actions = [k - model.num_obs for k in self._columns[self._num_obs :]]
        self._deviation = model.deviation_C[model.num_obs :][self._actions].numpy()
        self._bins = torch.linspace(-1.0, 1.0, model.config.num_bins)

    def rows(self) -> list[dict[str, Any]]:
        """One row an arm."""
        rows = []
        for arm, (words, shown) in self._prompts().items():
            marks = [self._mark(number, words, shown) for number in self.exercise.scored]
            rows.append(self._row(arm, [m[1] for m in marks], [m[0] for m in marks]))
        steps = [self._steps(number) for number in self.exercise.scored]
        mean = self.exercise.mean_action
        rows.append(self._row("mean_action", [label - mean for _, _, label in steps]))
        repeated = [label - np.concatenate([mean[None], action[:-1]]) for _, action, label in steps]
        rows.append(self._row("repeat_action", repeated))
        return rows

    def _prompts(self) -> dict[str, tuple[Tensor | None, Tensor | None]]:
        exercise, config = self.exercise, self.model.config
        text = str(exercise.cache.instruction[exercise.scored[0]])
        ids = encode(text, self.model.vocabulary, config.max_words)
        words = torch.from_numpy(ids[ids != PAD])[None]
        arms: dict[str, tuple[Tensor | None, Tensor | None]] = {"no_prompt": (None, None)}
        if words.shape[1]:
            arms["told"] = (words, None)
        if exercise.shown is not None:
            obs, _, label = self._steps(exercise.shown)
            step = evenly_spaced(np.array([len(obs)]), config.demonstration_steps)[0]
            shown = self._in_columns(np.concatenate([obs[step], label[step]], axis=1))[None]
            arms["shown_once"] = (None, shown)
            if words.shape[1]:
                arms["told_and_shown"] = (words, shown)
        return arms

    @torch.inference_mode()
    def _mark(
        self, number: int, words: Tensor | None, shown: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss [nats] and error (both (T, A), NaN where there is no label) of one episode."""
        obs, action, label = self._steps(number)
        model, window = self.model, self.model.config.window
        seen = self._in_columns(np.concatenate([obs, action], axis=1))[:, : model.num_obs]
        prompt = model.encode_prompt(words, shown)
        logits = []
        first = 0
        while first < len(obs):  # the first steps have a shorter past
            length = min(first + 1, window)
            last = first + 1 if length < window else min(first + BATCH_STEPS, len(obs))
            past = seen[first - length + 1 : last].unfold(0, length, 1).transpose(1, 2)
            shape = (last - first, -1, -1, -1)
            cache = [(k.expand(shape), v.expand(shape)) for k, v in prompt]
            logits.append(model.action_logits(cache, past)[:, self._actions].float())
            first = last
        logits_TAV = torch.cat(logits)
        middle = model.mean_C[model.num_obs :][self._actions].numpy()
        target = torch.from_numpy((label - middle) / self._deviation)
        loss = two_hot_cross_entropy(logits_TAV, target.nan_to_num(), 1.0).numpy()
        predicted = (logits_TAV.softmax(-1) * self._bins).sum(-1).numpy()
        error = predicted * self._deviation + middle - label
        return np.where(np.isnan(label), np.nan, loss), error

    def _row(
        self, arm: str, errors: Sequence[np.ndarray], losses: Sequence[np.ndarray] = ()
    ) -> dict[str, Any]:
        error = np.abs(np.concatenate(errors))
        names = [c.name for c in self.exercise.cache.action_channels]
        return {
            "arm": arm,
            "data": self.exercise.data,
            "task": self.exercise.task,
            "episodes": len(errors),
            "steps": len(error),
            "loss": float(np.nanmean(np.concatenate(losses))) if losses else None,
            "error": float(np.nanmean(error / self._deviation)),
            "error_by_channel": dict(zip(names, np.nanmean(error, axis=0).tolist(), strict=True)),
        }

    def _steps(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """obs (T, O), action and label (T, A) of an episode."""
        cache, num_actions = self.exercise.cache, len(self._actions)
        start, length = int(cache.start[number]), int(cache.length[number])
        rows = np.array(cache.rows[start : start + length])
        obs, rest = rows[:, : self._num_obs], rows[:, self._num_obs :]
        return obs, rest[:, :num_actions], rest[:, rest.shape[1] - num_actions :]

    def _in_columns(self, values: np.ndarray) -> Tensor:
        """(n, own channels) as (n, C): the model's columns, NaN where this body has none."""
        filled = np.full((len(values), len(self.model.channels)), np.nan, dtype=np.float32)
        filled[:, self._columns] = values
        return torch.from_numpy(filled)


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Each arm's loss and error, means over tasks; the model's first."""
    order = ("told", "shown_once", "told_and_shown", "no_prompt", "mean_action", "repeat_action")
    found: dict[str, dict[str, float | None]] = {}
    for arm in order:
        own = [row for row in rows if row["arm"] == arm]
        if own:
            losses = [row["loss"] for row in own if row["loss"] is not None]
            found[arm] = {
                "loss": float(np.mean(losses)) if losses else None,
                "error": float(np.mean([row["error"] for row in own])),
            }
    return found


def _kept_out(model: Path) -> Iterator[Exercise]:
    """The episodes that pre-training kept out, each task with one that it was trained on."""
    facts = Artifact.open(model).result().get("kept_out")
    if facts is None:
        raise ValueError(f"{model}: it is not written which episodes were kept out; use --data")
    if not any(fact["episodes"] for fact in facts):
        raise ValueError(f"{model}: no episode was kept out of training; name others with --data")
    for fact in facts:
        dataset = Dataset(fact["data"])
        if dataset.digest != fact["digest"]:
            raise ValueError(
                f"{fact['data']}: changed since {model} was trained on it, so it is not known"
                " what the model has seen; name datasets it has not seen with --data"
            )
        yield from _exercises(fact["data"], open_cache(dataset), np.array(fact["episodes"], int))


def _whose(config: ScoreConfig, exercises: Sequence[Exercise]) -> str:
    """Where the episodes are from, and how many the model was trained on, as far as it tells."""
    if not config.data:
        return "kept out when the model was trained"
    result = result_if_any(config.model)
    kept_out = {fact["digest"]: fact["episodes"] for fact in result.get("kept_out") or []}
    digests = {path: Dataset(path).digest for path in config.data}
    spared = {path: kept_out[digest] for path, digest in digests.items() if digest in kept_out}
    trained_on = sum(
        len(np.setdiff1d(exercise.scored, spared[exercise.data]))
        for exercise in exercises
        if exercise.data in spared and exercise.task in result["tasks"]
    )
    counted = f"; the model was trained on {trained_on} of them" if trained_on else ""
    return f"of {' and '.join(config.data)}{counted}"


def _from_data(paths: Sequence[str]) -> Iterator[Exercise]:
    """All episodes but the first that is fit to be shown of each task."""
    for path in paths:
        cache = open_cache(Dataset(path))
        shown = [_first_fit(cache, cache.task_id == task) for task in np.unique(cache.task_id)]
        lone = [n for n in shown if (cache.task_id == cache.task_id[n]).sum() == 1]
        scored = np.setdiff1d(np.arange(len(cache.start)), np.setdiff1d(shown, lone))
        yield from _exercises(path, cache, scored)


def _exercises(path: str, cache: Cache, scored: np.ndarray) -> Iterator[Exercise]:
    others = np.setdiff1d(np.arange(len(cache.start)), scored)
    mean = _mean_label(cache, others if len(others) else scored)
    for task in dict.fromkeys(cache.task_id[scored].tolist()):
        pool = np.isin(np.arange(len(cache.start)), others) & (cache.task_id == task)
        shown = _first_fit(cache, pool) if pool.any() else None
        own = scored[cache.task_id[scored] == task]
        yield Exercise(path, task, cache, own, shown, mean)


def _first_fit(cache: Cache, pool: np.ndarray) -> int:
    """The first episode of a pool (E,) bool that succeeded; if none is known to, the first."""
    fit = np.flatnonzero(pool & cache.solved)
    return int(fit[0] if len(fit) else np.flatnonzero(pool)[0])


def _mean_label(cache: Cache, episodes: np.ndarray) -> np.ndarray:
    """(A,) float32 mean of the actions to imitate."""
    num_actions = len(cache.action_channels)
    total, count = np.zeros(num_actions), np.zeros(num_actions)
    for rows, _ in cache.trajectories(episodes).chunks():
        label = rows[:, rows.shape[1] - num_actions :]
        total += np.nansum(label, axis=0, dtype=np.float64)
        count += (~np.isnan(label)).sum(axis=0)
    return (total / np.maximum(count, 1)).astype(np.float32)


def _table(arms: dict[str, dict[str, float | None]]) -> list[str]:
    lines = [f"{'':16s} {'loss [nats]':>12s} {'action error [half-ranges]':>28s}"]
    for arm, marks in arms.items():
        loss = "" if marks["loss"] is None else f"{marks['loss']:.3f}"
        lines.append(f"{arm:16s} {loss:>12s} {marks['error']:>28.3f}")
    return lines
