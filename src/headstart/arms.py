"""Reads the results of arms, ARM/TASK-SEED.json: ways of learning a task, with what they cost.

A file has ``result`` ({task, seed, curve}), ``made_by`` (config, versions, machine), ``bill`` and
their ``sha256``: ``write_arm`` writes it. A point of a curve has ``success_rate``, ``episodes`` and
what was spent up to it: ``env_steps``, ``core_s``. A point that has ``demonstrations`` too tells a
cost that includes them; to any other the demonstrations and the fine-tuning of its arm are added.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from headstart.artifact import read_json, write_json
from headstart.config import from_json, to_json
from headstart.ledger import FINETUNED_MODEL, Bill, Cost, ancestry, share_of, total
from headstart.prices import Curve, Number, full

CURRENCIES = ("env_steps", "core_s")
Price = dict[str, Number]
"""An amount in each of CURRENCIES; None: nobody knows."""
FREE: Price = dict.fromkeys(CURRENCIES, 0.0)
UNKNOWN: Price = dict.fromkeys(CURRENCIES)
PUBLISHED = '{"episodes": 10, "curves": {TASK: {SEED: [[steps, success], ...]}}}'
"""What a file of others' curves holds."""


@dataclass(frozen=True)
class Run:
    """One arm on one task with one seed."""

    task: str
    seed: int
    points: tuple[dict[str, Any], ...]
    before: Price
    """Spent on this task before the curve: demonstrations, fine-tuning."""
    upstream: Price
    """Spent before any new task: data, pre-training."""
    seeds: int = 1
    """How many are pooled in it."""
    known: bool = False
    """Its prior was trained on demonstrations of this very task."""

    def curve(self, currency: str) -> Curve:
        """(cost of the task, success) in the order of their cost, if that is known."""
        found: list[tuple[Number, float]] = []
        for point in self.points:
            before = 0.0 if "demonstrations" in point else self.before[currency]
            found.append((full(before, point.get(currency)), point["success_rate"]))
        costs = [cost for cost, _ in found]
        return found if None in costs else sorted(found, key=lambda p: p[0] or 0.0)


@dataclass(frozen=True)
class Arm:
    """One way of learning tasks."""

    name: str
    pretrained: bool
    demonstrations: int
    """Of each task, given to it."""
    reward: str
    """``dense``, ``success`` or ``none``."""
    peer: bool
    """Another library's."""
    measured: str
    """``here`` by a file a task and seed; ``prior``: in the report of the prior's recipe;
    ``published``: by others, of whose time nothing is known."""
    runs: tuple[Run, ...]

    @cached_property
    def tasks(self) -> list[str]:
        return sorted({run.task for run in self.runs})

    @cached_property
    def known(self) -> set[str]:
        """The tasks that its prior was trained on demonstrations of."""
        return {run.task for run in self.runs if run.known}

    @cached_property
    def demonstrated(self) -> list[str]:
        """The tasks of which demonstrations were given to it, or to its prior."""
        return [task for task in self.tasks if self.demonstrations or task in self.known]

    def on(self, tasks: Iterable[str]) -> Arm:
        """The same arm on those of these tasks that it was run on."""
        return replace(self, runs=tuple(run for run in self.runs if run.task in set(tasks)))

    def curves(self, currency: str) -> dict[str, list[Curve]]:
        """By task, one a seed."""
        return {t: [r.curve(currency) for r in self.runs if r.task == t] for t in self.tasks}

    def upstream(self, currency: str) -> list[Number]:
        """One a seed: unknown where one of its runs does not tell, else that of the dearest."""
        by_seed: dict[int, list[Number]] = {}
        for run in self.runs:
            by_seed.setdefault(run.seed, []).append(run.upstream[currency])
        return [None if None in paid else max(paid) for paid in by_seed.values()]  # type: ignore

    def within(self, demonstrations: int) -> Arm:
        """Of an arm whose curves go over demonstrations: as if only so many had been given."""
        runs = [
            replace(run, points=points)
            for run in self.runs
            if (points := tuple(p for p in run.points if p["demonstrations"] <= demonstrations))
        ]
        name = f"{self.name}_{demonstrations}"
        return replace(self, name=name, demonstrations=demonstrations, runs=tuple(runs))


def is_results(folder: Path | str) -> bool:
    """Whether a folder holds results of arms, and not a run."""
    folder = Path(folder)
    return not (folder / "recipe.json").exists() and bool(_files(folder))


def read_arms(folder: Path, prior: Prior | None = None) -> list[Arm]:
    """The arms in a folder, and those that the prior's own report tells of.

    Raises:
        ValueError: no results, or a file that lacks what it must have.
    """
    files = _files(folder)
    if not files:
        raise ValueError(f"{folder}: no results of arms, which are files named ARM/TASK-SEED.json")
    by_arm = groupby(files, lambda file: file.parent.name)
    arms = [_read_arm(name, list(of_arm), prior) for name, of_arm in by_arm]
    of_prior = prior.arms() if prior else []
    given = {arm.demonstrations for arm in arms + of_prior if not _imitates(arm.name)} - {0}
    parts = [a.within(k) for a in arms if a.name == "imitation" for k in sorted(given)]
    unique: dict[str, Arm] = {}
    # What was measured here goes before what the prior's report says.
    for arm in [*arms, *parts, *of_prior, *_published(folder)]:
        if arm.runs:
            unique.setdefault(arm.name, arm)
    return list(unique.values())


def write_arm(path: Path, content: dict[str, Any]) -> None:
    """Write a result with ``sha256``, a checksum of all else in it, which ``read_arms`` checks."""
    write_json(path, content | {"sha256": _checksum(content)})


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(to_json(rest), sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*/[!.]*.json") if re.search(r"-\d+$", p.stem))


def _read_arm(name: str, files: Sequence[Path], prior: Prior | None) -> Arm:
    base = name.removesuffix("_success")
    contents = [_read(file) for file in files]
    configs = [content["made_by"]["config"] for content in contents]
    config = configs[0]
    for file, other in zip(files, configs, strict=True):
        if _access(other) != _access(config):
            raise ValueError(
                f"{file}: has a prior, or a count of demonstrations, that {files[0].name} has not,"
                " or lacks it: it belongs to another arm"
            )
    if _imitates(base):
        given = max(p["demonstrations"] for c in contents for p in c["result"]["curve"])
    else:
        given = max(_learned_from(name, content) for content in contents)
    peer = base.startswith("sb3_")
    # Imitation's config names the prior as well, whose statistics it shares.
    pretrained = config.get("model") is not None and not peer and not _imitates(base)
    reward = "success" if name.endswith("_success") else "dense"
    arm = Arm(
        name=name,
        pretrained=pretrained,
        demonstrations=given,
        reward="none" if _imitates(base) else reward,
        peer=peer,
        measured="here",
        runs=(),
    )
    return replace(arm, runs=tuple(_run(arm, content, prior) for content in contents))


def _given(arm: str, content: dict[str, Any]) -> Given:
    """The demonstrations that a run itself was given."""
    base, config = arm.removesuffix("_success"), content["made_by"]["config"]
    numbered = re.fullmatch(r"\w+?_(\d+)", base)
    number = int(numbered[1]) if numbered else int(config.get("count") or base == "shown")
    task = content["result"]["task"].rpartition("/")[2]
    return Given(task, number, config.get("demonstrations") is not None)


def _learned_from(arm: str, content: dict[str, Any]) -> int:
    """How many demonstrations a run had: given to it, or to the fine-tuned model that it is from;
    at least one of such a model's, where its bill does not say how many."""
    given = _given(arm, content)
    if "bill" not in content:
        return given.number
    lessons = _lessons(content["bill"], given)
    return max(given.number, sum(lesson.number or 1 for lesson in lessons))


def _access(config: dict[str, Any]) -> tuple[bool, int]:
    """Whether there was a prior, and how many demonstrations were given."""
    return config.get("model") is not None, int(config.get("count") or 0)


def _imitates(arm: str) -> bool:
    return arm.startswith("imitation")


def _published(folder: Path) -> list[Arm]:
    """Curves of others' that benchmarks/published.py has put there."""
    found = []
    for file in sorted(folder.glob("published/*.json")):
        runs = tuple(_published_runs(file))
        found.append(Arm(f"published_{file.stem}", False, 0, "dense", True, "published", runs))
    return found


def _published_runs(file: Path) -> Iterator[Run]:
    content = read_json(file)
    curves = content.get("curves") if isinstance(content, dict) else None
    if not isinstance(curves, dict) or not curves:
        raise ValueError(f"{file}: it has no 'curves'; it needs {PUBLISHED}")
    for task, by_seed in curves.items():
        if not isinstance(by_seed, dict) or not by_seed or not all(s.isdecimal() for s in by_seed):
            raise ValueError(f"{file}: {task}: not a curve a seed; the file needs {PUBLISHED}")
        for seed, curve in by_seed.items():
            where = f"{file}: {task}, seed {seed}"
            if not isinstance(curve, list) or not curve:
                raise ValueError(f"{where}: its curve is empty, or none; it needs {PUBLISHED}")
            points = [
                _published_point(pair, content.get("episodes"), f"{where}: point {i}")
                for i, pair in enumerate(curve)
            ]
            yield Run(task, int(seed), tuple(points), FREE, FREE)


def _published_point(pair: Any, episodes: Any, where: str) -> dict[str, Any]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"{where} is {pair!r}; use [steps, success]")
    point = {"env_steps": pair[0], "success_rate": pair[1], "episodes": episodes}
    _check_point(point, tuple(point), where)
    return point


def _read(file: Path) -> dict[str, Any]:
    content = read_json(file)
    about = content.get("result") if isinstance(content, dict) else None
    for key, kind in (("task", str), ("seed", int), ("curve", list)):
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            raise ValueError(f"{file}: its result's '{key}' is missing, or of a wrong type")
    if "sha256" not in content:
        raise ValueError(f"{file}: it has no checksum; write results with headstart.arms.write_arm")
    if content["sha256"] != _checksum(content):
        raise ValueError(f"{file}: damaged: its checksum is another; copy or measure it again")
    task, seed, curve = about["task"], about["seed"], about["curve"]
    if file.stem != (name := f"{task.rpartition('/')[2]}-{seed}"):
        raise ValueError(f"{file} tells of {task}, seed {seed}; name it {name}.json")
    if not curve:
        raise ValueError(f"{file}: its curve is empty")
    needed = ["success_rate", "episodes"] + ["demonstrations"] * _imitates(file.parent.name)
    for i, point in enumerate(curve):
        _check_point(point, needed, f"{file}: point {i} of its curve")
    _check_made_by(content.setdefault("made_by", {}), f"{file}: made_by")
    if "bill" in content:
        content["bill"] = from_json(Bill, content["bill"], where=f"{file}: bill")
    return content


def _check_made_by(made_by: Any, where: str) -> None:
    """Raises ValueError: not an object with a config, or one whose count is none."""
    config = made_by.setdefault("config", {}) if isinstance(made_by, dict) else None
    if not isinstance(config, dict):
        raise ValueError(f'{where}: use {{"config": {{...}}}}, or leave it out')
    count = config.get("count") or 0
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{where}.config: 'count' is {count!r}; use a whole number from 0 on")


def _check_point(point: Any, needed: Sequence[str], where: str) -> None:
    """Raises ValueError: a number that is needed is not there, or one that is there makes no sense.
    A cost may be unknown."""
    for key in (*needed, *CURRENCIES):
        value = point.get(key) if isinstance(point, dict) else None
        if value is None and key not in needed:
            continue
        if not isinstance(value, int | float) or not 0 <= value < math.inf:  # which NaN is not
            raise ValueError(f"{where}: '{key}' is {value!r}; use a number from 0 on")
    if point["success_rate"] > 1:
        raise ValueError(f"{where}: success_rate is {point['success_rate']}; use 0 to 1")


def _run(arm: Arm, content: dict[str, Any], prior: Prior | None) -> Run:
    result, config = content["result"], content["made_by"]["config"]
    if "bill" in content:
        upstream, before = spent_before(content["bill"], _given(arm.name, content))
    else:
        of_prior = prior.upstream if prior else UNKNOWN
        upstream = of_prior if arm.pretrained else FREE
        before = prior.before(arm, result["task"]) if prior else UNKNOWN
        before = before if arm.demonstrations else FREE
    points, known = tuple(result["curve"]), arm.pretrained and _is_known(config, result, prior)
    return Run(result["task"], result["seed"], points, before, upstream, known=known)


def _is_known(config: dict[str, Any], result: dict[str, Any], prior: Prior | None) -> bool:
    """Whether a prior was trained on a task: it was evaluated on such tasks alone, or the recipe's
    report says so of its own prior. No file of ``reinforce`` tells."""
    only_seen = bool(config.get("seen")) and not config.get("heldout")
    return only_seen or (prior is not None and prior.knows(result["task"]))


@dataclass(frozen=True)
class Given:
    """The demonstrations that a run itself was given, fine-tuned models apart."""

    task: str
    number: int
    in_bill: bool
    """The last ancestor of its bill is the dataset that they are from."""


@dataclass(frozen=True)
class Lesson:
    """Demonstrations of one task from one dataset, learned from on the way to a run."""

    dataset: Bill | None
    task: str
    number: int | None
    """None: the bill does not say."""


def spent_before(bill: Bill, given: Given) -> tuple[Price, Price]:
    """(upstream, before) of a run, by its bill.

    Fine-tuned models that it is from, and what these and the run itself were given, are spent on
    its task; demonstrations are charged by their number, and free where the prior has paid for
    them. All else is upstream.
    """
    tree = ancestry(bill.ancestors)
    tuned = [b for b in tree.values() if b.stage == FINETUNED_MODEL]
    of_prior = _runs_of([b for b in tree.values() if b.stage == "pretrain"])
    before = sum((b.cost for b in tuned), Cost())
    apart = {b.run for b in tuned}
    for lesson in _lessons(bill, given):
        if lesson.dataset is None:
            before += Cost.unknown()
        elif lesson.dataset.run not in of_prior:
            apart |= _runs_of([lesson.dataset]) - of_prior
            before += _demonstrations_of(total([lesson.dataset]), lesson.number)
    upstream = sum((b.cost for b in tree.values() if b.run not in apart), Cost())
    return upstream.amounts(CURRENCIES), before.amounts(CURRENCIES)


def _lessons(bill: Bill, given: Given) -> list[Lesson]:
    """What was learned from on the way to a run. The first demonstrations of a dataset are the same
    to all who take some of it: who takes most tells how many there were."""
    tree = ancestry(bill.ancestors)
    found = [_lesson_of(b) for b in tree.values() if b.stage == FINETUNED_MODEL]
    if given.in_bill:
        dataset = bill.ancestors[-1] if bill.ancestors else None
        found.append(Lesson(dataset, given.task, given.number))
    most: dict[tuple[str, str], Lesson] = {}
    for lesson in found:
        key = (lesson.dataset.run if lesson.dataset else "", lesson.task)
        known = most.setdefault(key, lesson)
        if known.number is not None and (lesson.number is None or lesson.number > known.number):
            most[key] = lesson
    return list(most.values())


def _lesson_of(tuned: Bill) -> Lesson:
    """By its name, TASK-COUNT, and what it was made of: a model, demonstrations and old data."""
    named = re.fullmatch(r"(.+)-(\d+)", tuned.name)
    task, number = (named[1], int(named[2])) if named else (tuned.name, None)
    return Lesson(tuned.ancestors[1] if len(tuned.ancestors) > 1 else None, task, number)


def _runs_of(bills: Sequence[Bill]) -> set[str]:
    """Of these and all that they stand on: a dataset that went on after a prior was made of it is
    in the prior's bill as it was begun."""
    return {b.run for b in ancestry(bills).values()}


def _demonstrations_of(cost: Cost, count: int | None) -> Cost:
    """What so many average demonstrations of a collection cost."""
    if count is None or not cost.demonstrations or cost.env_steps is None:
        return Cost.unknown()
    return share_of(cost, round(cost.env_steps * count / cost.demonstrations), count)


class Prior:
    """What report.json of the recipe's runs says of the prior: what it cost, and what it can do."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where there is no report, or it is not one of a recipe's runs."""
        path = folder / "report.json"
        if not path.exists():
            raise ValueError(f"{folder}: no report.json; make it with: headstart report {folder}")
        self.report = read_json(path)
        for key in ("upstream", "seen", "heldout", "price_curves"):
            if key not in self.report:
                raise ValueError(f"{path}: not a report of a recipe's runs: it has no '{key}'")
        self.upstream: Price = {c: self.report["upstream"].get(c) for c in CURRENCIES}

    def arms(self) -> list[Arm]:
        """Told and no more, shown once, and a few demonstrations learned from."""
        heldout = self.report["heldout"]
        found = [self._arm("off_the_bat", True, 0, self._told())]
        for name, success in heldout.items():
            kind, _, count = name.rpartition("_") if name[-1].isdigit() else (name, "", 1)
            if kind in _OF_PRIOR:
                ours, pretrained = _OF_PRIOR[kind]
                called = name.replace(kind, ours)
                found.append(self._arm(called, pretrained, int(count), success["tasks"]))
        return [arm for arm in found if arm.runs]

    def known_already(self) -> tuple[Run, ...]:
        """The tasks of its training data, told in words: nothing more is spent on them."""
        return self._arm("off_the_bat", True, 0, self._seen()).runs

    def knows(self, task: str) -> bool:
        """Whether it was trained on demonstrations of it."""
        return task in self._seen()

    def before(self, arm: Arm, task: str) -> Price:
        """What an arm's demonstrations and fine-tuning cost on a task, where no bill says so."""
        if arm.name.startswith("demos_"):
            return self._cost("pretrained_finetune", task, arm.demonstrations)
        one = self._cost("pretrained_shown_once", task, 1)
        return {c: None if p is None else p * arm.demonstrations for c, p in one.items()}

    def _seen(self) -> dict[str, Any]:
        return self.report["seen"].get("told", {}).get("tasks", {})

    def _told(self) -> dict[str, Any]:
        return self._seen() | self.report["heldout"].get("told", {}).get("tasks", {})

    def _cost(self, arm: str, task: str, demonstrations: int) -> Price:
        for curve in self.report["price_curves"]:
            for point in curve["points"]:
                at = (curve["arm"], curve["task"], point["cost"].get("demonstrations"))
                if at == (arm, task, demonstrations):
                    return {c: point["cost"].get(c) for c in CURRENCIES}
        return UNKNOWN

    def _arm(self, name: str, pretrained: bool, count: int, tasks: dict[str, Any]) -> Arm:
        upstream = self.upstream if pretrained else FREE
        runs = []
        for task, success in tasks.items():
            cost = self._cost(_PRICED_AS[name.partition("_")[0]], task, count) if count else FREE
            about = {"success_rate": success["mean"], "episodes": success["episodes"]}
            point = cost | about | {"demonstrations": count}  # whose cost is in it
            known = pretrained and self.knows(task)
            runs.append(Run(task, 0, (point,), FREE, upstream, success["seeds"], known))
        return Arm(name, pretrained, count, "none", False, "prior", tuple(runs))


_OF_PRIOR = {  # as the recipe's report calls it: as it is called here, whether it is pre-trained
    "shown_once": ("shown_once", True),
    "demos": ("finetuned", True),
    "scratch_demos": ("imitation", False),
}
_PRICED_AS = {  # in the report's price list
    "shown": "pretrained_shown_once",
    "finetuned": "pretrained_finetune",
    "imitation": "scratch_imitation",
}
