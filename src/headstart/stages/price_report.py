"""Reads the results of many arms on many tasks and writes what a mean success costs by each.

It only reads JSON. What has not been run yet is named as missing; a price that was not reached is
a lower bound, and one that nobody knows is unknown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from headstart.arms import CURRENCIES, Arm, Prior, Run, read_arms
from headstart.artifact import write_bytes, write_json
from headstart.config import to_json
from headstart.prices import (
    AMORTISED_OVER,
    full,
    median_price,
    price_row,
    price_to_threshold,
    reached_by,
    restricted_mean,
)
from headstart.report_page import price_words as words
from headstart.report_page.page import build_page
from headstart.task_sets import (
    Estimate,
    Priced,
    TaskSet,
    break_even,
    draw,
    draw_upstream,
    is_known,
    ratio,
)

THRESHOLDS = (0.5, 0.8, 0.9)
POINTS_OF_A_CURVE = 100
EXPECTED = ("scratch", "off_policy", "rlpd_1", "rlpd_5", "imitation", "told", "shown", "demos_1",
            "demos_5", "sb3_ppo_ours", "sb3_sac_ours")  # fmt: skip
"""Arms that the table of prices is meant to have; what is missing is named."""


@dataclass(frozen=True, kw_only=True)
class PriceReportConfig:
    """Which results to report on."""

    folder: tyro.conf.Positional[Path]
    """Folder of ARM/TASK-SEED.json files, as benchmarks/arms.py writes them."""
    prior: Path | None = None
    """Folder with the report.json of the prior's own runs: what it does off the bat, and what it
    cost where a result has no bill."""
    rate: tuple[str, ...] = ()
    """What a core costs, in any money, e.g. cpu=0.04/h: then the tables tell money too."""
    out: Path | None = None
    """Folder for report.json and report.html; that of the results by default."""
    json: bool = False
    """Print the report as JSON and not as tables."""


def price_report(config: PriceReportConfig) -> dict[str, Any]:
    """Write report.json and report.html, print the tables, and return what report.json holds.

    Success is a rate in 0..1; prices are simulator steps and core-seconds of training, evaluation
    not counted; None where nobody knows.

    Raises:
        ValueError: no results in the folder, one that lacks what it must have, a prior without a
            report, or a rate that is none.
    """
    per_core_s = parse_rates(config.rate).get("core_s")
    prior = Prior(config.prior) if config.prior else None
    arms = read_arms(config.folder, prior)
    content = summarise(arms, prior.known_already() if prior else ())
    content |= {"folder": str(config.folder), "per_core_s": per_core_s}
    out = Path(config.out or config.folder)
    write_json(out / "report.json", content)
    under = f"{content['beside']} {content['caveat']}".strip()
    html = build_page("the price of skill", content["headline"], under, content, kind="price")
    write_bytes(out / "report.html", html.encode())
    print(json.dumps(to_json(content), indent=2) if config.json else words.format_tables(content))
    return content


def parse_rates(rates: Sequence[str]) -> dict[str, float]:
    """``cpu=0.04/h`` as money per core-second.

    Raises:
        ValueError: not of that form, or of something that these results do not meter.
    """
    found = {}
    for rate in rates:
        name, _, price = rate.partition("=")
        number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)/(h|s)", price)
        if number is None:
            raise ValueError(f"--rate {rate}: not a price by the hour or second; use cpu=0.04/h")
        if name != "cpu":
            raise ValueError(f"--rate {rate}: these results meter no {name}-seconds, only cpu")
        found["core_s"] = float(number[1]) / {"h": 3600, "s": 1}[number[2]]
    return found


def summarise(arms: Sequence[Arm], known: Sequence[Run] = ()) -> dict[str, Any]:
    """What report.json holds.

    Args:
        known: tasks that the prior was trained on, which every pre-trained arm can be asked to do.
    """
    tasks = sorted({task for arm in arms for task in arm.tasks})
    arms = sorted(arms, key=words.order)
    content: dict[str, Any] = {
        "tasks": tasks,
        "thresholds": THRESHOLDS,
        "amortised_over": AMORTISED_OVER,
        "access": words.ACCESS,
        "arms": {arm.name: words.about(arm) | _facts(arm) for arm in arms},
        "missing": [name for name in EXPECTED if name not in {arm.name for arm in arms}],
        "price": [row for arm in arms for row in price_rows(arm)],
        "sets": [
            _set_content(name, of, arms, known) for name, of in _task_sets(arms, tasks, known)
        ],
        "comparisons": [c for arm in arms if arm.pretrained for c in compare(arm, arms, known)],
    }
    return content | words.describe(content)


def _task_sets(
    arms: Sequence[Arm], tasks: list[str], known: Sequence[Run]
) -> list[tuple[str, list[str]]]:
    """All tasks, and those that pre-trained arms learned: the new ones."""
    ran = [arm for arm in arms if arm.pretrained and arm.measured == "here"]
    new = sorted({task for arm in ran for task in arm.tasks} - {run.task for run in known})
    sets = [("all tasks", tasks)]
    return sets if not new or new == tasks else [("tasks learned by a prior", new), *sets]


def with_known(arm: Arm, known: Sequence[Run]) -> Arm:
    """A pre-trained arm on what it was run on, and told on the tasks that its prior knows."""
    first = arm.runs[0]  # whose prior it is
    more = tuple(
        replace(run, seed=first.seed, upstream=first.upstream)
        for run in known
        if run.task not in arm.tasks
    )
    return replace(arm, runs=arm.runs + more) if arm.pretrained else arm


# ---- an arm by itself


def _facts(arm: Arm) -> dict[str, Any]:
    """How it was measured, and how many runs got where."""
    seeds = Counter(run.task for run in arm.runs for _ in range(run.seeds))
    evaluations = [point["episodes"] for run in arm.runs for point in run.points]
    return {
        "pretrained": arm.pretrained,
        "demonstrations": arm.demonstrations,
        "reward": arm.reward,
        "peer": arm.peer,
        "measured": arm.measured,
        "tasks": len(arm.tasks),
        "seeds": sorted({min(seeds.values()), max(seeds.values())}),
        "runs": len(arm.runs),
        "episodes": max(evaluations),  # an evaluation that only fails may be shorter
        "resolution": {currency: _resolution(arm, currency) for currency in CURRENCIES},
        "upstream": {currency: _mean(arm.upstream(currency)) for currency in CURRENCIES},
        "reached": {currency: _reached(arm, currency) for currency in CURRENCIES},
    }


def _resolution(arm: Arm, currency: str) -> float | None:
    """Median distance between evaluations: a price is known no better than that."""
    costs = [[point.get(currency) for point in run.points] for run in arm.runs]
    gaps = [b - a for c in costs if None not in c for a, b in pairwise(c)]  # type: ignore
    return float(np.median(gaps)) if gaps else None


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))  # type: ignore


def _reached(arm: Arm, currency: str) -> list[dict[str, Any]]:
    """Of each threshold: how many runs reached it, and by which budget half of them do."""
    curves = arm.curves(currency)
    found = []
    for threshold in THRESHOLDS:
        by_task = [[price_to_threshold(c, threshold) for c in seeds] for seeds in curves.values()]
        prices = [price for of_task in by_task for price in of_task]
        row: dict[str, Any] = {
            "threshold": threshold,
            "runs": sum(not censored for _, censored in prices),
            "tasks": sum(not any(censored for _, censored in of_task) for of_task in by_task),
            "median": None,
            "censored": False,
            "restricted_mean": None,
            "bound": None,
        }
        if is_known(curves):
            bound = max(price for price, _ in prices if price is not None)
            row["median"], row["censored"] = median_price(prices)  # type: ignore
            row |= {"restricted_mean": restricted_mean(prices, bound), "bound": bound}  # type: ignore
        found.append(row)
    return found


def price_rows(arm: Arm) -> list[dict[str, Any]]:
    """Its price to every threshold on every task, over seeds, in every currency."""
    rows = []
    for currency in CURRENCIES:
        for task, curves in arm.curves(currency).items():
            upstream = [run.upstream[currency] for run in arm.runs if run.task == task]
            rows += [
                price_row(arm.name, task, currency, threshold, curves, upstream, AMORTISED_OVER)
                for threshold in THRESHOLDS
            ]
    return rows


# ---- an arm on a set of tasks


@dataclass(frozen=True)
class OnTasks:
    """Arms on the same tasks in one currency, resampled together."""

    sets: dict[str, TaskSet]
    weights: dict[str, np.ndarray]
    num_tasks: int

    @classmethod
    def of(cls, arms: Sequence[Arm], tasks: Sequence[str], currency: str) -> OnTasks:
        """Args: arms that were run on all of these tasks, at costs that are known."""
        sets = {a.name: TaskSet(a.on(tasks).curves(currency), a.pretrained) for a in arms}
        weights = draw(list(sets.values()))
        return cls(sets, dict(zip(sets, weights, strict=True)), len(tasks))

    def price(self, arm: str, threshold: float) -> Priced:
        return self.sets[arm].price(self.weights[arm], threshold)

    def is_resampled(self, *arms: str) -> bool:
        """Whether there is anything to resample: a second task or a second seed."""
        return self.num_tasks > 1 or any(self.sets[arm].seeds.max() > 1 for arm in arms)


def _set_content(
    name: str, tasks: list[str], arms: Sequence[Arm], known: Sequence[Run]
) -> dict[str, Any]:
    """Prices and curves of every arm on as many of these tasks as it has been run on."""
    here = [arm for arm in (with_known(a, known).on(tasks) for a in arms) if arm.runs]
    prices, curves = [], []
    for arm in here:
        for currency in CURRENCIES:
            if is_known(arm.curves(currency)):
                on_tasks = OnTasks.of([arm], arm.tasks, currency)
                prices += [_set_price(arm, on_tasks, currency, t) for t in THRESHOLDS]
                curves.append(_mean_curve(arm, on_tasks, currency))
    known_in = {(price["arm"], price["currency"]) for price in prices}
    unknown = {c: [a.name for a in here if (a.name, c) not in known_in] for c in CURRENCIES}
    return {"name": name, "tasks": tasks, "prices": prices, "curves": curves, "unknown": unknown}


def _set_price(arm: Arm, on_tasks: OnTasks, currency: str, threshold: float) -> dict[str, Any]:
    priced = on_tasks.price(arm.name, threshold)
    upstream = _mean(arm.upstream(currency))
    estimate = priced.estimate(on_tasks.is_resampled(arm.name))
    return {
        "arm": arm.name,
        "currency": currency,
        "threshold": threshold,
        "tasks": len(arm.tasks),
        "marginal": estimate.value,
        "interval": estimate.interval,
        "censored": bool(priced.censored[0]),
        "budget": None if priced.censored[0] else priced.budget,
        "full": full(upstream, estimate.value),
        "upstream": upstream,
    }


def _mean_curve(arm: Arm, on_tasks: OnTasks, currency: str) -> dict[str, Any]:
    """Mean success within a budget a task, with its band over tasks and seeds, and the share of
    the runs that have reached each threshold by a budget."""
    task_set = on_tasks.sets[arm.name]
    budgets = task_set.budgets
    if len(budgets) > POINTS_OF_A_CURVE:  # evenly on a log axis; each is a budget that was measured
        places = np.geomspace(budgets[budgets > 0][0], budgets[-1], POINTS_OF_A_CURVE)
        nearest = np.searchsorted(budgets, places).clip(max=len(budgets) - 1)
        budgets = budgets[np.unique([0, *nearest])]
    samples = task_set.mean_within(on_tasks.weights[arm.name], budgets)
    low, high = np.quantile(samples[1:], [0.025, 0.975], axis=0)
    return {
        "arm": arm.name,
        "currency": currency,
        "tasks": len(arm.tasks),
        "budgets": budgets.tolist(),
        "mean": samples[0].tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "shares": [_shares(arm, currency, threshold) for threshold in THRESHOLDS],
    }


def _shares(arm: Arm, currency: str, threshold: float) -> list[tuple[float, float]]:
    """(budget, share of the runs that have reached the threshold by it)."""
    curves = [curve for seeds in arm.curves(currency).values() for curve in seeds]
    return reached_by([price_to_threshold(curve, threshold) for curve in curves])  # type: ignore


# ---- a pre-trained arm against the others


def compare(arm: Arm, arms: Sequence[Arm], known: Sequence[Run]) -> list[dict[str, Any]]:
    """What pre-training and the demonstrations bought, against the cheapest with the same access.

    On the arm's own tasks, and with those that its prior was trained on, unless these alone have
    the success and the arm has no part in it. Then, where imitation was run on a part of the tasks
    only, on that part against imitation, with all that the prior cost.
    """
    found, seen, knows = [], [], with_known(arm, known).known
    for ours in (arm, with_known(arm, known)):
        rivals = {access: _rivals(ours, arms, access) for access in words.ACCESS}
        covers = [_most(ours, of) for of in rivals.values() if of]
        tasks = next((tasks for tasks in covers if tasks), [])
        if not tasks or tasks in seen:
            continue
        seen.append(tasks)
        own, part = set(arm.tasks), _imitated(ours, rivals["imitation"])
        by_imitation = {"imitation": rivals["imitation"]}
        for currency in CURRENCIES:
            for threshold in THRESHOLDS:
                rows = [_compare(ours, rivals, tasks, currency, threshold, knows)]
                if rows[0]["marginal"] == 0 and set(tasks) - own:
                    continue
                if part and part != tasks:
                    rows.append(_compare(ours, by_imitation, part, currency, threshold, knows))
                found += [row | {"known_already": len(set(row["tasks"]) - own)} for row in rows]
    return found


def _rivals(arm: Arm, arms: Sequence[Arm], access: str) -> list[Arm]:
    """Arms from scratch that were given as much: reward only, or the same demonstrations; and for
    who has demonstrations imitation with any number, since what they cost is in its price. Who has
    them within its prior's data only: imitation of all that such data has of a task as well.

    Of those that learn from reward the ones with the same reward; where there is none, the ones
    with the dense reward, which is more than the arm was given.
    """
    if access == "imitation" and arm.demonstrated:
        names = ["imitation"] if arm.demonstrations else ["imitation", "imitation_same_data"]
        return [a for name in names for a in arms if a.name == name]
    if access != "reward" and not arm.demonstrations:
        return []
    count = arm.demonstrations if access == "demonstrations" else 0
    given = [a for a in arms if not a.pretrained and a.demonstrations == count]
    alike = [a for a in given if a.reward in (arm.reward, "none")]
    dense = [a for a in given if a.reward in ("dense", "none")]
    return alike if any(a.reward == arm.reward for a in alike) else dense


def _most(arm: Arm, rivals: Sequence[Arm]) -> list[str]:
    """The tasks that the arm shares with the rival that it shares most with."""
    return max(([t for t in arm.tasks if t in rival.tasks] for rival in rivals), key=len)


def _imitated(arm: Arm, rivals: Sequence[Arm]) -> list[str]:
    """The tasks that the arm had demonstrations of and that imitation was run on; imitation of all
    of the prior's data, dearer than it need be, only where there is no other."""
    shared = ([t for t in arm.demonstrated if t in rival.tasks] for rival in rivals)
    return next((tasks for tasks in shared if tasks), [])


def _compare(
    arm: Arm,
    rivals: dict[str, list[Arm]],
    tasks: list[str],
    currency: str,
    threshold: float,
    knows: set[str],
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "arm": arm.name,
        "currency": currency,
        "threshold": threshold,
        "tasks": tasks,
        "of": len(arm.tasks),
        "knows": len(knows) if set(tasks) <= knows else None,
        "against": [],
        "demonstrations_factor": None,
    }
    if not is_known(arm.on(tasks).curves(currency)):
        return content | {"marginal": None, "censored": False, "upstream": None}
    chosen = {access: _cheapest(of, tasks, currency, threshold) for access, of in rivals.items()}
    against = {access: rival for access, rival in chosen.items() if rival}
    on_tasks = OnTasks.of([arm, *against.values()], tasks, currency)
    ours, upstream = on_tasks.price(arm.name, threshold), arm.on(tasks).upstream(currency)
    content |= {
        "marginal": float(ours.price[0]),
        "censored": bool(ours.censored[0]),
        "upstream": _mean(upstream),
    }
    for access, rival in against.items():
        theirs = on_tasks.price(rival.name, threshold)
        resampled = on_tasks.is_resampled(arm.name, rival.name)
        # Those of an access that nothing could be compared in are told of beside the others.
        had = [r for a, of in rivals.items() if a == access or a not in against for r in of]
        on_all = [r for r in had if set(tasks) <= set(r.tasks)]
        unknown = [r.name for r in on_all if not is_known(r.on(tasks).curves(currency))]
        row: dict[str, Any] = {
            "access": access,
            "arm": rival.name,
            "same_reward": rival.reward in (arm.reward, "none"),
            "marginal": float(theirs.price[0]),
            "censored": bool(theirs.censored[0]),
            "ratio": asdict(ratio(theirs, ours, resampled)),
            "full_ratio": None,
            "break_even": None,
            "not_on_all": [r.name for r in had if r not in on_all],
            "unknown": unknown,
        }
        before = rival.on(tasks).upstream(currency)
        if None not in upstream + before:
            spent, other = draw_upstream(upstream), draw_upstream(before)  # type: ignore
            row["full_ratio"] = asdict(ratio(theirs.plus(other), ours.plus(spent), resampled))
            even = break_even(spent - other, theirs, ours, len(tasks), resampled)
            row["break_even"] = asdict(even)
        content["against"].append(row | words.verdict(content, row))
    if "reward" in against and "demonstrations" in against:
        reward, given = (
            on_tasks.price(against[a].name, threshold) for a in ("reward", "demonstrations")
        )
        bought: Estimate = ratio(reward, given, on_tasks.is_resampled(*on_tasks.sets))
        content["demonstrations_factor"] = asdict(bought)
    return content


def _cheapest(
    rivals: Sequence[Arm], tasks: list[str], currency: str, threshold: float
) -> Arm | None:
    """Of the arms that were run on all of these tasks, at known costs: one that reached it first,
    then the cheapest."""
    priced = []
    for rival in rivals:
        curves = rival.on(tasks).curves(currency)
        if set(tasks) <= set(curves) and is_known(curves):
            task_set = TaskSet(curves)
            (weights,) = draw([task_set], num_samples=0)
            price = task_set.price(weights, threshold)
            priced.append((bool(price.censored[0]), float(price.price[0]), rival.name, rival))
    return min(priced)[-1] if priced else None
