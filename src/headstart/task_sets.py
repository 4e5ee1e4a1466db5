"""What a mean success over a set of tasks cost, and how sure that is. Pure NumPy.

A sample is the experiment done over: tasks are drawn with replacement, the same for all arms that
are compared, and within each task its seeds; those of an arm whose seed is a prior are drawn once
for all tasks, and for what the prior cost. Row 0 of every array of samples is what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.prices import Curve

Curves = Mapping[str, Sequence[Curve]]
"""The curves of one arm in one currency: by task, one per seed."""
NUM_SAMPLES = 1000


class TaskSet:
    """One arm's curves on a set of tasks, all of their costs known, ready to be priced.

    Args:
        one_prior: a seed is the same prior on all tasks, and not a run that knows of no other.
    """

    def __init__(self, curves: Curves, one_prior: bool = False) -> None:
        self.one_prior = one_prior
        self.seeds = np.array([len(of_task) for of_task in curves.values()])  # (tasks,)
        assert is_known(curves), "an unknown cost has no price"
        units = [np.array(c, dtype=float) for of_task in curves.values() for c in of_task]
        self.budgets = np.unique(np.concatenate([unit[:, 0] for unit in units]))
        # (units, budgets): the best success that a run has measured within a budget.
        self.best = np.stack([_best_within(unit, self.budgets) for unit in units])
        self.spent = np.array([unit[-1, 0] for unit in units])  # (units,)

    def mean_within(self, weights: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """(samples, len(budgets)) mean over tasks of the best success measured within a budget.

        Nothing is known of a run before its first measurement, which counts as no success.
        """
        last = np.searchsorted(self.budgets, budgets, side="right") - 1
        best = np.where(last >= 0, self.best[:, last.clip(min=0)], 0.0)
        return weights @ best

    def price(self, weights: np.ndarray, threshold: float) -> Priced:
        """What it cost to reach a mean success over these tasks.

        The budget a task is the smallest with which the mean has it; each task is charged that
        budget, or what its run had spent when it stopped if that is less.
        """
        samples, (_, num_budgets) = np.arange(len(weights)), self.best.shape
        low, high = np.zeros_like(samples), np.full_like(samples, num_budgets)
        while (searching := low < high).any():  # bisection: a running best never falls
            middle = (low + high) // 2
            best = self.best.T[middle.clip(max=num_budgets - 1)]  # (samples, units)
            reached = (weights * best).sum(axis=1) >= threshold - 1e-9
            high = np.where(searching & reached, middle, high)
            low = np.where(searching & ~reached, middle + 1, low)
        budget = np.append(self.budgets, np.inf)[high]  # never reached: all that was spent
        charged = np.minimum(budget[:, None], self.spent)  # (samples, units)
        price = len(self.seeds) * (weights * charged).sum(axis=1)
        return Priced(price, high == num_budgets, float(budget[0]))


@dataclass(frozen=True)
class Priced:
    """The price of a set of tasks, a row a sample."""

    price: np.ndarray  # (samples,); where censored a lower bound
    censored: np.ndarray  # (samples,) bool: the success was not reached
    budget: float
    """A task's, as measured; inf where the success was not reached."""

    def plus(self, upstream: np.ndarray) -> Priced:
        """With what was spent before, (samples,)."""
        return Priced(self.price + upstream, self.censored, self.budget)

    @property
    def most(self) -> np.ndarray:
        """The most that the price can be: a price that is a lower bound may be anything above."""
        return np.where(self.censored, np.inf, self.price)

    def estimate(self, resampled: bool = True) -> Estimate:
        """The price as measured; without anything to resample no interval."""
        bound = ">=" if self.censored[0] else ""
        return Estimate(float(self.price[0]), bound, _interval(self.price, self.most, resampled))


def is_known(curves: Curves) -> bool:
    """Whether all costs are."""
    return None not in [cost for seeds in curves.values() for curve in seeds for cost, _ in curve]


def draw(
    arms: Sequence[TaskSet], num_samples: int = NUM_SAMPLES, seed: int = 0
) -> list[np.ndarray]:
    """(1 + num_samples, units) weights of each arm's runs; an arm's row sums to one.

    Args:
        arms: of the same tasks in the same order.
    """
    rng = np.random.default_rng(seed)
    num_tasks = len(arms[0].seeds)
    resampled = rng.integers(num_tasks, size=(num_samples, num_tasks))
    tasks = np.vstack([np.arange(num_tasks), resampled])  # (samples, tasks)
    rows = np.arange(len(tasks))
    weights = []
    for arm in arms:
        first = np.cumsum(arm.seeds) - arm.seeds
        of_arm = np.zeros((len(tasks), len(arm.best)))
        priors = [_of_priors(k, len(tasks)) for k in range(arm.seeds.max())]
        for task in tasks.T:  # (samples,)
            num_seeds = arm.seeds[task]
            for k in range(arm.seeds.max()):
                drawn = priors[k] if arm.one_prior else rng.random(len(task))
                picked = (drawn * num_seeds).astype(int)
                picked[0] = min(k, num_seeds[0] - 1)  # as measured: every seed once
                share = np.where(k < num_seeds, 1 / (num_seeds * num_tasks), 0.0)
                np.add.at(of_arm, (rows, first[task] + picked), share)
        weights.append(of_arm)
    return weights


def draw_upstream(paid: Sequence[float], num_samples: int = NUM_SAMPLES) -> np.ndarray:
    """(1 + num_samples,) mean over seeds of what was paid before."""
    values = np.array(paid, dtype=float)
    drawn = np.stack([_of_priors(k, 1 + num_samples) for k in range(len(values))])
    samples = values[(drawn * len(values)).astype(int)].mean(axis=0)
    return np.append(values.mean(), samples[1:])


def _of_priors(k: int, num_samples: int) -> np.ndarray:
    """(num_samples,) in [0, 1): which prior is the k-th of a sample, wherever that is asked."""
    return np.random.default_rng((1, k)).random(num_samples)


@dataclass(frozen=True)
class Estimate:
    """A number as measured with its 95 % bootstrap interval."""

    value: float
    """inf where the other side is free, or where pre-training never pays."""
    bound: str
    """How the truth lies to the value: "" about there, ">=" or "<=" where one side's success was
    never reached, "?" where neither was."""
    interval: list[float | None]
    """A bound is inf where nothing bounds it; [None, None]: a single run, nothing to resample."""


def ratio(dear: Priced, cheap: Priced, resampled: bool = True) -> Estimate:
    """How many times the first price is of the second."""
    bound = {(False, False): "", (True, False): ">=", (False, True): "<=", (True, True): "?"}
    return Estimate(
        float(_over(dear.price, cheap.price)[0]),
        bound[bool(dear.censored[0]), bool(cheap.censored[0])],
        _interval(_over(dear.price, cheap.most), _over(dear.most, cheap.price), resampled),
    )


def break_even(
    upstream: np.ndarray, scratch: Priced, adapt: Priced, num_tasks: int, resampled: bool = True
) -> Estimate:
    """Tasks N* from which pre-training is the cheaper way; a price is of ``num_tasks`` tasks."""

    def tasks(dear: np.ndarray, cheap: np.ndarray) -> np.ndarray:
        # N* dear = upstream + N* cheap   =>   N* = upstream / (dear - cheap)
        gain = (np.minimum(dear, 1e300) - np.minimum(cheap, 1e300)) / num_tasks
        return np.where(gain > 0, upstream / np.where(gain > 0, gain, 1.0), np.inf)

    bound = {(False, False): "", (True, False): "<=", (False, True): ">=", (True, True): "?"}
    return Estimate(
        float(tasks(scratch.price, adapt.price)[0]),
        bound[bool(scratch.censored[0]), bool(adapt.censored[0])],
        _interval(tasks(scratch.most, adapt.price), tasks(scratch.price, adapt.most), resampled),
    )


def _over(dear: np.ndarray, cheap: np.ndarray) -> np.ndarray:
    """dear / cheap: inf where the second alone is free, 1 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = dear / cheap
    return np.where(np.isnan(quotient), 1.0, quotient)


def _interval(least: np.ndarray, most: np.ndarray, resampled: bool) -> list[float | None]:
    """Bounds of the samples, where each lies somewhere between two values."""
    if not resampled:
        return [None, None]
    # Nearest ranks, since between a number and inf there is nothing to interpolate.
    low, high = np.sort(least[1:]), np.sort(most[1:])
    return [float(low[int(0.025 * len(low))]), float(high[int(0.975 * len(high))])]


def _best_within(unit: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """(len(budgets),) best success that a curve, (points, 2), has measured within each budget."""
    best = np.append(0.0, np.maximum.accumulate(unit[:, 1]))
    return best[np.searchsorted(unit[:, 0], budgets, side="right")]
