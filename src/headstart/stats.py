"""How often something succeeded, and how sure that is. Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a success rate after ``n`` tries (Wilson 1927). No tries: (0, 1).

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} tries")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At 0 and at n successes the bound is exact; rounding would miss it by 1e-17.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def bootstrap_mean(
    groups: Sequence[Sequence[Sequence[np.ndarray]]],
    num_samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over tasks with its hierarchical bootstrap interval: (mean, low, high).

    Tasks are fixed: the claim is about these tasks. Episodes are resampled inside each
    demonstration, demonstrations inside each task and training runs as a whole, the latter two
    where there are several.

    Args:
        groups: ``groups[run][task][demonstration]`` is the (n,) values of its episodes, e.g. 0 or
            1. A single run: ``[tasks]``; no demonstrations: ``[values]`` in their place.

    Raises:
        ValueError: a group without values.
    """
    rng = np.random.default_rng(seed)
    means, samples = [], []
    for run in groups:
        tasks = [_resample_task(task, num_samples, rng) for task in run]
        _check_not_empty(tasks, "a run without tasks")
        means.append(np.mean([mean for mean, _ in tasks]))
        samples.append(np.mean([sample for _, sample in tasks], axis=0))
    _check_not_empty(means, "no runs")
    sample = _resample(np.array(samples), rng)  # (num_samples,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(sample, [tail, 1 - tail])
    return float(np.mean(means)), float(low), float(high)


def success_rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Success rate of each arm over all its episodes, held-out arms first.

    Args:
        rows: results as stages write them, each with ``arm`` and a list ``success``.
    """
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (arm.startswith("seen"), arm))
    return {
        arm: float(np.mean([s for row in rows if row["arm"] == arm for s in row["success"]]))
        for arm in arms
    }


def _resample_task(
    task: Sequence[np.ndarray], num_samples: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Mean of a task over its demonstrations, and (num_samples,) resampled ones."""
    values = [np.asarray(v, dtype=np.float64) for v in task]
    _check_not_empty(values, "a task without episodes")
    for v in values:
        _check_not_empty(v, "a task or demonstration without episodes")
    picks = [rng.integers(len(v), size=(num_samples, len(v)), dtype=np.int32) for v in values]
    samples = np.array([v[p].mean(axis=1) for v, p in zip(values, picks, strict=True)])
    return float(np.mean([v.mean() for v in values])), _resample(samples, rng)


def _resample(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resample k groups, given (k, num_samples) resampled means of each; (num_samples,).

    A group picked twice contributes two different samples of its own mean.
    """
    k, num_samples = samples.shape
    if k == 1:
        return samples[0]
    group = rng.integers(k, size=(k, num_samples))
    which = rng.integers(num_samples, size=(k, num_samples))
    return samples[group, which].mean(axis=0)


def _check_not_empty(values: Sequence | np.ndarray, problem: str) -> None:
    if len(values) == 0:
        raise ValueError(f"nothing to average: {problem}")
