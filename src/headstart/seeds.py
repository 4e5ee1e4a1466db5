"""Which environment seeds serve which purpose. Purposes never share a seed.

EnvPool's environment k starts from its seed alone, and neighbouring seeds of two pools would give
the same starts, so every purpose has a range of its own, and in it every run seed, every task.
"""

from __future__ import annotations

PURPOSES = ("data", "prompt", "evaluation", "reinforcement")

_PER_PURPOSE = 400_000_000
_PER_RUN = 1_000_000
SEEDS_PER_TASK = 10_000


def environment_seeds(
    purpose: str, run_seed: int, task_index: int, count: int, start: int = 0
) -> list[int]:
    """``count`` seeds, from number ``start`` on, of one task in one run.

    Args:
        purpose: one of PURPOSES.
        run_seed: 0..399, the run's own seed.
        task_index: 0..99, the task's place in its suite.

    Raises:
        ValueError: out of the range that keeps purposes apart.
    """
    if not 0 <= run_seed < _PER_PURPOSE // _PER_RUN:
        raise ValueError(
            f"seed {run_seed} is out of range; use 0 to {_PER_PURPOSE // _PER_RUN - 1}"
        )
    assert 0 <= task_index < _PER_RUN // SEEDS_PER_TASK, task_index
    assert start + count <= SEEDS_PER_TASK, (start, count)
    first = (
        PURPOSES.index(purpose) * _PER_PURPOSE + run_seed * _PER_RUN + task_index * SEEDS_PER_TASK
    )
    return list(range(first + start, first + start + count))
