"""Reads finished or partly finished runs and writes what each point of skill cost.

It only reads the JSON that the stages wrote, and runs none of them. What a run has not got yet is
left out of the report, never guessed.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from headstart.artifact import Artifact, count, read_json, write_bytes, write_json
from headstart.config import to_json
from headstart.ledger import (
    FINETUNED_MODEL,
    Bill,
    Cost,
    read_bill,
    total,
)
from headstart.prices import AMORTISED_OVER, break_even_interval, break_even_tasks, price_row
from headstart.report_page import words
from headstart.report_page.page import build_page, replay_tracks
from headstart.report_page.words import format_table
from headstart.stats import bootstrap_mean, wilson_interval

CURRENCIES = ("env_steps", "core_s", "flops", "wall_s", "demonstrations", "energy_j")
THRESHOLDS = (0.5, 0.8)
ALL_TASKS = "*"
"""Stands for the mean over all held-out tasks where a task's id is expected."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which runs to report on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; several are pooled as seeds of one experiment. Or one folder of arms' results,
    ARM/TASK-SEED.json, which has options of its own: name it with --help."""
    out: Path | None = None
    """Folder for report.json and report.html; the first run's by default."""
    json: bool = False
    """Print the report as JSON and not as a table."""


def report(config: ReportConfig) -> dict[str, Any]:
    """Write report.json and report.html, print the table, and return what report.json holds.

    Success is {mean, interval, episodes, seeds, tasks} with rates in 0..1. Prices are in the
    currencies' own units: simulator steps, core-seconds, FLOPs, seconds, demonstrations, joules;
    None where nobody knows. Prices in joules are left out unless all are known.

    Raises:
        ValueError: no runs, a folder that is not a run, or a result that lacks what it must have.
    """
    if not config.runs:
        raise ValueError("nothing to report on: name one or more run folders")
    runs = [Run.read(Path(path)) for path in config.runs]
    _check_pool(runs)
    content = summarise(runs)
    out = Path(config.out or config.runs[0])
    write_json(out / "report.json", content)
    page = content | {
        "replays": replay_tracks(replay for run in runs for replay in run.replays),
        "films": next((films for run in runs if (films := run.films())), []),
    }
    title = f"{content['recipe']} recipe, {count(len(content['seeds']), 'seed')}"
    html = build_page(title, content["headline"], content["caveat"], page)
    write_bytes(out / "report.html", html.encode())
    print(json.dumps(to_json(content), indent=2) if config.json else format_table(content))
    return content


def _check_pool(runs: Sequence[Run]) -> None:
    """Several runs are seeds of one experiment, each counted once."""
    recipes = {run.recipe.get("recipe") for run in runs}
    if len(recipes) > 1:
        raise ValueError(
            f"runs of different recipes cannot be pooled: {', '.join(sorted(map(str, recipes)))}"
        )
    seeds = [run.recipe.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed can be pooled once; these runs have seeds {seeds}")


# ---- reading


@dataclass
class Run:
    """What is in one run folder."""

    path: Path
    recipe: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)  # of evaluate and finetune
    curves: list[dict[str, Any]] = field(default_factory=list)  # of reinforce
    replays: list[dict[str, Any]] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Run:
        if not (path / "recipe.json").exists():
            raise ValueError(f"{path} is not a run folder: it has no recipe.json")
        run = cls(path, read_json(path / "recipe.json"))
        for file in sorted(path.rglob("result.json")):
            run._take(file, read_json(file))
        bills = [read_bill(file.parent) for file in sorted(path.rglob("ledger.json"))]
        run.bills = [bill for bill in bills if bill.stage != FINETUNED_MODEL]  # part of its stage's
        headers = [read_json(file) for file in sorted(path.glob("*/config.json"))]
        run.header = headers[0] if headers else {}
        if (path / "pretrain" / "config.json").exists():
            run.metrics = Artifact.open(path / "pretrain").metrics()
        return run

    def _take(self, file: Path, result: dict[str, Any]) -> None:
        for i, row in enumerate(result.get("rows", [])):
            for key in ("arm", "task", "success"):
                if key not in row:
                    raise ValueError(f"{file}: row {i} has no '{key}'")
            if row["success"]:
                self.rows.append(row)
        if result.get("curve"):
            self.curves.append(result)
        self.replays += result.get("replays", [])
        self.protocol |= result.get("protocol", {})
        stage = file.relative_to(self.path).parts[0]
        if stage in ("data", "pretrain"):
            setattr(self, stage, result)

    def films(self) -> list[dict[str, Any]]:
        """Films of its replays, the videos inside; none where it was run without a renderer."""
        found = []
        for replay in self.replays:
            path = self.path / "evaluate/films" / f"{replay['task'].split('/')[-1]}.mp4"
            if path.exists():
                video = base64.b64encode(path.read_bytes()).decode()
                about = {key: replay[key] for key in ("title", "success")}
                found.append(about | {"src": f"data:video/mp4;base64,{video}"})
        return found

    def upstream(self) -> Cost:
        """The data and the pre-training, which every pre-trained arm stands on."""
        return total([read_bill(self.path / stage) for stage in ("data", "pretrain")])


# ---- success

Outcomes = dict[str, dict[str, dict[tuple[int, int], dict[int, list[int]]]]]
"""``outcomes[arm][task][run, seed][demonstration]``: 1 a success, 0 none, one per episode."""


def gather(runs: Sequence[Run]) -> Outcomes:
    """The outcomes of all episodes by what they are outcomes of."""
    outcomes: Outcomes = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for i, run in enumerate(runs):
        for row in run.rows:
            seed = (i, row.get("seed", 0))
            episodes = outcomes[row["arm"]][row["task"]][seed]
            episodes.setdefault(row.get("demonstration") or 0, []).extend(map(int, row["success"]))
    return outcomes


def success(tasks: dict[str, dict[tuple[int, int], dict[int, list[int]]]]) -> dict[str, Any]:
    """Mean over seeds, tasks and demonstrations, with its 95 % interval.

    The interval is the hierarchical bootstrap's. It has no width where all outcomes are equal;
    there it is Wilson's.
    """
    seeds = sorted({seed for by_seed in tasks.values() for seed in by_seed})
    groups = [
        [[np.array(v) for v in by_seed[s].values()] for by_seed in tasks.values() if s in by_seed]
        for s in seeds
    ]
    values = np.concatenate([v for run in groups for task in run for v in task])
    mean, *interval = bootstrap_mean(groups)
    if values.min() == values.max():
        interval = wilson_interval(int(values.sum()), len(values))
    return {
        "mean": mean,
        "interval": list(interval),
        "episodes": len(values),
        "seeds": len(seeds),
    }


def success_by_task(tasks: dict[str, dict[tuple[int, int], dict[int, list[int]]]]) -> dict:
    return success(tasks) | {"tasks": {t: success({t: v}) for t, v in sorted(tasks.items())}}


# ---- prices

Price = dict[str, float | None]
"""An amount in each of CURRENCIES."""


def mean_price(prices: Iterable[Price]) -> Price:
    """The mean in each currency; None where one of them is None."""
    prices = list(prices)
    columns = {c: [price.get(c) for price in prices] for c in CURRENCIES}
    return {c: None if None in v else sum(v) / len(v) for c, v in columns.items()}  # type: ignore


def row_cost(row: dict[str, Any]) -> Cost:
    """What the row's skill cost on its task, nothing upstream counted.

    Without a cost in the row it is unknown; but what was shown once took one demonstration and no
    gradient.
    """
    if "cost" in row:
        return Cost.from_json(row["cost"])
    if row["arm"] != "heldout.shown_once":
        return Cost.unknown()
    return replace(Cost.unknown(), demonstrations=1, flops=0.0)


@dataclass
class Curve:
    """Success against price on one task: of one arm, and of one seed unless pooled."""

    arm: str
    task: str
    points: list[dict[str, Any]]  # {"mean", "interval", "cost": Price, "note"}
    run: int = 0
    """Which of the runs it was measured in; of no meaning where it is pooled."""

    def in_currency(self, currency: str) -> list[tuple[float | None, float]]:
        return [(point["cost"][currency], point["mean"]) for point in self.points]


DEMONSTRATION_ARMS = {  # arm of the price list: how its results are named, by demonstrations
    "pretrained_shown_once": r"heldout\.shown_once()",
    "pretrained_finetune": r"heldout\.demos_(\d+)",
    "scratch_imitation": r"heldout\.scratch_demos_(\d+)",
}


def demonstration_curves(runs: Sequence[Run], outcomes: Outcomes) -> list[list[Curve]]:
    """Curves of the arms that learn from demonstrations: lists of [pooled, one per seed...]."""
    prices: dict[tuple, list[Price]] = defaultdict(list)
    for i, run in enumerate(runs):
        for row in run.rows:
            key = (row["arm"], row["task"], (i, row.get("seed", 0)))
            prices[key].append(row_cost(row).amounts(CURRENCIES))
    heldout = sorted({t for arm, by in outcomes.items() if arm.startswith("heldout.") for t in by})
    found = []
    for arm, pattern in DEMONSTRATION_ARMS.items():
        names = {int(m[1] or 1): n for n in outcomes if (m := re.fullmatch(pattern, n))}
        for task, members in [(t, [t]) for t in heldout] + [(ALL_TASKS, heldout)]:
            measured = [(n, t) for n in names.values() for t in members]
            if not measured or any(t not in outcomes[n] for n, t in measured):
                continue
            # Seeds that measured all of it, so that the points of a curve are comparable.
            seeds = sorted(set.intersection(*(set(outcomes[n][t]) for n, t in measured)))
            groups = [seeds] + [[seed] for seed in seeds] if seeds else []
            points = [
                [_point(outcomes, prices, names[k], members, group, k) for k in sorted(names)]
                for group in groups
            ]
            run_of = [0, *(run for run, _ in seeds)]  # the first curve is pooled
            found.append([Curve(arm, task, p, run) for p, run in zip(points, run_of, strict=False)])
    return [curves for curves in found if curves]


def _point(
    outcomes: Outcomes,
    prices: dict[tuple, list[Price]],
    name: str,
    tasks: Sequence[str],
    seeds: Sequence[tuple[int, int]],
    demonstrations: int,
) -> dict[str, Any]:
    """Success and mean price of one measurement on these tasks, over these seeds."""
    here = success({t: {s: outcomes[name][t][s] for s in seeds} for t in tasks})
    price = mean_price(mean_price(prices[name, t, s]) for s in seeds for t in tasks)
    return here | {"cost": price, "note": count(demonstrations, "demonstration")}


def reinforcement_curves(runs: Sequence[Run]) -> list[Curve]:
    """One learning curve per task and seed, of the runs that learned from reward."""
    curves = []
    for i, result in ((i, curve) for i, run in enumerate(runs) for curve in run.curves):
        points = []
        for point in result["curve"]:
            rate, episodes = point["success_rate"], point["episodes"]
            interval = wilson_interval(round(rate * episodes), episodes)
            price = {c: point.get(c) for c in CURRENCIES}
            price["demonstrations"] = point.get("demonstrations", 0)
            points.append({"mean": rate, "interval": list(interval), "cost": price, "note": ""})
        curves.append(Curve(result["arm"], result["task"], points, i))
    return curves


def price_list(groups: Sequence[list[Curve]], upstream: Sequence[Price]) -> list[dict[str, Any]]:
    """Every arm's price to every threshold on every task, in every currency.

    In joules, which few machines tell, there are prices only where all of them are known.

    Args:
        groups: the curves of one arm on one task, one per seed, as one list.
        upstream: what each run paid for data and pre-training.
    """
    rows = []
    for curves in groups:
        arm, task = curves[0].arm, curves[0].task
        for currency in CURRENCIES:
            pretrained = arm.startswith("pretrained")
            before = [upstream[c.run][currency] if pretrained else 0 for c in curves]
            points = [curve.in_currency(currency) for curve in curves]
            rows += [
                price_row(arm, task, currency, threshold, points, before, AMORTISED_OVER)
                for threshold in THRESHOLDS
            ]
    in_joules = [row["marginal"] for row in rows if row["currency"] == "energy_j"]
    return [row for row in rows if row["currency"] != "energy_j" or None not in in_joules]


def break_even(
    rows: Sequence[dict], upstream: Sequence[Price], scratch_arm: str
) -> dict[str, dict]:
    """From how many tasks on pre-training is the cheaper way, in each currency, and why.

    Compared at equal skill, on the mean of the held-out tasks or on the first task that both ways
    were run on: the highest threshold that both reached. Where the scratch arm reached none that
    a pre-trained one did, its price is a lower bound, so that N* is an upper one.
    """
    scratch = {
        (r["task"], r["currency"], r["threshold"]): r for r in rows if r["arm"] == scratch_arm
    }
    reached = [r for r in rows if r["arm"].startswith("pretrained") and not r["censored"]]
    tried = {r["task"] for r in rows if r["arm"].startswith("pretrained")}
    shared = tried & {task for task, _, _ in scratch}
    if not shared:
        return {}
    task = min(shared)  # ALL_TASKS sorts first
    found = {}
    for currency in dict.fromkeys(row["currency"] for row in rows):
        pairs = [
            (row, scratch[task, currency, row["threshold"]])
            for row in reached
            if row["task"] == task and row["currency"] == currency
        ]
        # Both reached it; then the higher threshold; then the cheaper way.
        pairs.sort(key=lambda p: (p[1]["censored"] > 0, -p[0]["threshold"], _or_inf(p[0])))
        adapt, other = pairs[0] if pairs else (None, None)
        before = [price[currency] for price in upstream]
        mean_before = None if None in before else float(np.mean(before))  # type: ignore
        n, interval = None, [None, None]
        if adapt and other:
            n = break_even_tasks(mean_before, other["marginal"], adapt["marginal"])
            same_seeds = len(other["marginals"]) == len(adapt["marginals"]) == len(before)
            if same_seeds:
                interval = break_even_interval(before, other["marginals"], adapt["marginals"])
        found[currency] = words.break_even(currency, n, interval, mean_before, adapt, other)
    return found


def _or_inf(row: dict[str, Any]) -> float:
    return math.inf if row["marginal"] is None else row["marginal"]


# ---- the whole


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """What report.json holds."""
    outcomes = gather(runs)
    upstream = [run.upstream().amounts(CURRENCIES) for run in runs]
    few = demonstration_curves(runs, outcomes)
    learned = reinforcement_curves(runs)
    by_arm_and_task: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve in learned:
        by_arm_and_task[curve.arm, curve.task].append(curve)
    rows = price_list([seeds for _, *seeds in few] + list(by_arm_and_task.values()), upstream)
    bill = stage_bill(runs)
    content: dict[str, Any] = {
        "recipe": runs[0].recipe.get("recipe", "run"),
        "runs": [str(run.path) for run in runs],
        "commands": [run.recipe.get("command", "") for run in runs],
        "seeds": sorted({run.recipe.get("seed", 0) for run in runs}),
        "seen": {},
        "heldout": {},
        "price": rows,
        "break_even_tasks": break_even(rows, upstream, "scratch_imitation"),
        "break_even_tasks_reward_only": break_even(rows, upstream, "scratch_reinforce"),
        "upstream": mean_price(upstream),
        "thresholds": THRESHOLDS,
        "amortised_over": AMORTISED_OVER,
        "price_curves": [to_json(curve) for curve in [pooled for pooled, *_ in few] + learned],
        "bill": bill,
        "wall_s": {entry["stage"]: entry["wall_s"] for entry in bill},
        "training": {
            "losses": losses(next((run.metrics for run in runs if run.metrics), [])),
            "result": next((run.pretrain for run in runs if run.pretrain), {}),
        },
        "data": runs[0].data,
        "protocol": runs[0].protocol,
        "machine": runs[0].header.get("machine", {}),
        "versions": runs[0].header.get("versions", {}),
    }
    for arm, tasks in sorted(outcomes.items()):
        group, _, name = arm.partition(".")
        content.setdefault(group, {})[name] = success_by_task(tasks)
    return content | words.describe(content)


def stage_bill(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What each stage itself cost, all runs together, in the order first met."""
    # Runs of equal content in two folders are of one identity, and both were paid for.
    bills = {(b.identity, b.stage, b.name): b for run in runs for b in run.bills}
    spent: dict[str, Cost] = defaultdict(Cost)
    for bill in bills.values():
        spent[bill.stage] += bill.cost
    order = ("collect", "data", "pretrain", "evaluate", "finetune", "reinforce")
    stages = sorted(spent, key=lambda s: order.index(s) if s in order else len(order))
    return [{"stage": s} | spent[s].amounts(CURRENCIES) for s in stages]


def losses(metrics: Sequence[dict[str, Any]], most: int = 400) -> dict[str, list]:
    """``{"train/loss": [[step, value], ...]}``, thinned to ``most`` points a tag, the last kept."""
    series: dict[str, list] = defaultdict(list)
    for line in metrics:
        for tag, value in line.items():
            if tag.endswith("loss") and isinstance(value, (int, float)):
                series[tag].append([line["step"], value])
    return {tag: v[:: -max(1, math.ceil(len(v) / most))][::-1] for tag, v in series.items()}
