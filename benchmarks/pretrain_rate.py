"""Pre-training's arithmetic rate, end to end with data loading, against a matrix product's.

    python benchmarks/pretrain_rate.py --data runs/first/data

Prints useful floating-point operations a second (analytic, 6 a weight and token), the rate of a
2048 x 2048 x 2048 float32 product in the same process before and after, and the share of the time
spent waiting for data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from headstart.model.learner import Learner, make_loader
from headstart.stages.pretrain import PretrainConfig, build_model, open_data


@dataclass(frozen=True)
class Arguments:
    data: Path
    """A dataset folder."""
    updates: int = 60


def matrix_product_rate(size: int = 2048, repeats: int = 10) -> float:
    """Operations a second of a float32 product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    for _ in range(3):
        torch.mm(a, b)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, b)
    return 2 * size**3 * repeats / (time.perf_counter() - began)


def main(arguments: Arguments) -> None:
    config = PretrainConfig(data=(str(arguments.data),), updates=arguments.updates + 5)
    train, _, _ = open_data(config)
    model = build_model(config, train)
    learner, loader = (
        Learner(model, config.learner, config.updates),
        make_loader(train, config.loader, model, config.seed),
    )
    before = matrix_product_rate()
    for update in range(5):
        learner.step([loader.batch(update)], update)
    learner.take_flops()
    batches = loader.batches(5, config.updates)
    waited, began = 0.0, time.perf_counter()
    for update in range(5, config.updates):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        learner.step([batch], update)
    wall = time.perf_counter() - began
    rate, product = learner.take_flops() / wall, (before + matrix_product_rate()) / 2
    print(f"pre-training {rate / 1e9:.0f} GFLOP/s, {arguments.updates / wall:.2f} updates/s")
    print(f"float32 matrix product {product / 1e9:.0f} GFLOP/s")
    print(f"ratio {rate / product:.0%}; waiting for data {waited / wall:.1%}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
