"""What a point of skill cost on one task, in one currency: the price arithmetic.

A price that nobody knows is None, and so is all that is reckoned with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.stats import bootstrap_mean

Number = float | None
Curve = Sequence[tuple[Number, float]]
"""(cumulative cost in one currency, success rate 0..1), in the order measured."""
AMORTISED_OVER = 50
"""Tasks that share the upstream bill in the amortised price: as many as Meta-World has."""


def price_to_threshold(curve: Curve, threshold: float) -> tuple[Number, bool]:
    """(price, censored) of a success rate: the cost at the first measurement that has it.

    Nothing is interpolated. Never reached: the last cost, censored, a lower bound of the price.

    Raises:
        ValueError: an empty curve.
    """
    if not curve:
        raise ValueError("no price can be read off an empty curve")
    for cost, success in curve:
        if success >= threshold - 1e-9:  # a mean of rates may miss it by rounding
            return cost, False
    return curve[-1][0], True


def reached_by(prices: Sequence[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Share of the runs that have reached a threshold by a budget (Kaplan and Meier 1958).

    A run that stopped before it reached the threshold counts for as long as it ran: it is neither
    dropped nor taken for one that never would have.

    Args:
        prices: (price, censored) of each run, as ``price_to_threshold`` gives them.

    Returns:
        (budget, share), the share holding from that budget on; none has it before the first.
    """
    steps, left_out = [], 1.0  # share that has not reached it
    for budget in sorted({price for price, censored in prices if not censored}):
        at_risk = sum(price >= budget for price, _ in prices)
        left_out *= 1 - sum(p == budget and not censored for p, censored in prices) / at_risk
        steps.append((budget, 1 - left_out))
    return steps


def median_price(prices: Sequence[tuple[float, bool]]) -> tuple[float, bool]:
    """(price, censored): the budget by which half of the runs have reached a threshold.

    Censored where less than half have: then it is the largest budget, a lower bound.
    """
    for budget, share in reached_by(prices):
        if share >= 0.5 - 1e-9:
            return budget, False
    return max(price for price, _ in prices), True


def restricted_mean(prices: Sequence[tuple[float, bool]], bound: float) -> float:
    """Mean of what runs spend until they reach a threshold or have spent ``bound``."""
    steps = [(budget, share) for budget, share in reached_by(prices) if budget < bound]
    budgets = [0.0, *(budget for budget, _ in steps), bound]
    shares = [0.0, *(share for _, share in steps)]
    # The area under the share that has not reached it yet.
    return sum((1 - s) * (budgets[i + 1] - budgets[i]) for i, s in enumerate(shares))


def price_per_point(cost: Number, points: float) -> Number:
    """Price of one skill point: one percentage point of success on one task. None gained: inf."""
    # cost / points
    return None if cost is None else cost / points if points > 0 else math.inf


def full(upstream: Number, marginal: Number) -> Number:
    """Price of one task if everything before it had been made for it alone."""
    # upstream + marginal
    return None if upstream is None or marginal is None else upstream + marginal


def amortised(upstream: Number, marginal: Number, n: int) -> Number:
    """Price of one of n tasks that share the upstream cost."""
    # upstream / n + marginal
    return full(None if upstream is None else upstream / n, marginal)


def break_even_tasks(upstream: Number, scratch: Number, adapt: Number) -> Number:
    """Tasks N* from which pre-training is cheaper than N times from scratch. Never: inf."""
    if upstream is None or scratch is None or adapt is None:
        return None
    # N* scratch = upstream + N* adapt   =>   N* = upstream / (scratch - adapt)
    return upstream / (scratch - adapt) if scratch > adapt else math.inf


def price_row(
    arm: str,
    task: str,
    currency: str,
    threshold: float,
    curves: Sequence[Curve],
    upstream: Sequence[Number],
    n_tasks: int,
) -> dict[str, Any]:
    """One line of the price list: what an arm paid to reach a success rate on a task.

    Args:
        currency: which of Cost's quantities the curves count, e.g. "env_steps".
        curves: one per seed.
        upstream: what each seed paid before its first measurement, in the same currency.
        n_tasks: the tasks that share the upstream cost.

    Returns:
        ``marginal``, ``full`` and ``amortised`` are means over seeds and ``interval``,
        ``full_interval`` and ``amortised_interval`` their 95 % bootstrap intervals over seeds
        ([None, None] for a single seed); ``marginals`` has a price a seed. ``per_point`` is the
        marginal price of one of the threshold's percentage points. ``censored`` counts the seeds
        that never reached the threshold; with any, the prices are lower bounds.
    """
    prices = [price_to_threshold(curve, threshold) for curve in curves]
    marginals = [price for price, _ in prices]
    paid = list(zip(upstream, marginals, strict=True))
    marginal, interval = _mean(marginals)
    in_full, full_interval = _mean([full(u, m) for u, m in paid])
    shared, shared_interval = _mean([amortised(u, m, n_tasks) for u, m in paid])
    return {
        "arm": arm,
        "task": task,
        "currency": currency,
        "threshold": threshold,
        "marginal": marginal,
        "interval": interval,
        "marginals": marginals,
        "per_point": price_per_point(marginal, 100 * threshold),
        "full": in_full,
        "full_interval": full_interval,
        "amortised": shared,
        "amortised_interval": shared_interval,
        "num_tasks": n_tasks,
        "seeds": len(prices),
        "censored": sum(censored for _, censored in prices),
    }


def break_even_interval(
    upstream: Sequence[Number], scratch: Sequence[Number], adapt: Sequence[Number]
) -> list[Number]:
    """95 % bootstrap interval of N* over seeds, each with its own three prices.

    A bound is inf where pre-training never pays. [None, None] for a single seed, or where a price
    is unknown.
    """
    prices = np.array([upstream, scratch, adapt], dtype=np.float64)  # (3, seeds); unknown: NaN
    if prices.shape[1] < 2 or np.isnan(prices).any():
        return [None, None]
    picks = np.random.default_rng(0).integers(prices.shape[1], size=(2000, prices.shape[1]))
    sampled = [break_even_tasks(*prices[:, pick].mean(axis=1).tolist()) for pick in picks]
    # Nearest ranks, since between a number and inf there is nothing to interpolate.
    ordered = sorted(n for n in sampled if n is not None)
    return [ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered))]]


def _mean(prices: Sequence[Number]) -> tuple[Number, list[Number]]:
    """Mean over seeds and its interval; unknown where one of them is."""
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None, [None, None]
    mean, *bounds = bootstrap_mean([[[np.array([price])]] for price in known])
    return mean, [*bounds] if len(known) > 1 else [None, None]
