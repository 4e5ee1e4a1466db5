"""Imitation: a model learns episodes by heart, half of every batch from what it knew before."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.data.loader import Loader, LoaderConfig
from headstart.model.learner import Learner, LearnerConfig

SHOWN_ONLY = LoaderConfig(told=0.0, shown=1.0, num_prompts=4, random_frames=0.5)
"""Fine-tuned policies act on a demonstration in their prompt, so that is how they train."""


def few_shot_rates() -> LearnerConfig:
    """A tenth to a quarter of the rates of pre-training: what was learned is to stay."""
    return LearnerConfig(matrix_learning_rate=0.005, learning_rate=5e-4, warmup_updates=10)


def imitate(learner: Learner, loaders: Sequence[Loader], first_batch: int = 0) -> float:
    """Give a model all the updates that its learner plans, a batch of each loader at a time.

    Args:
        first_batch: number of the first batch to draw, so that another round draws others.

    Returns:
        Floating-point operations.
    """
    learner.model.train()
    for update in range(learner.updates):
        learner.step([loader.batch(first_batch + update) for loader in loaders], update)
    learner.model.eval()
    return learner.take_flops()
