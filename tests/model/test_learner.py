import numpy as np
import pytest
import torch

import sequences
from headstart.data.loader import LoaderConfig
from headstart.data.mixture import Mixture
from headstart.model.learner import Learner, LearnerConfig, forward_flops, make_loader

SHOWN = LoaderConfig(num_prompts=8, num_windows=4, told=0.3, shown=0.5, random_frames=0.5)


def test_next_token_loss_of_a_tiny_task_falls_by_half():
    loader = sequences.loader(SHOWN)
    learner = Learner(sequences.model(), LearnerConfig(warmup_updates=5), updates=150)
    losses = [learner.step([loader.batch(k)], k).action.item() for k in range(150)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_what_a_body_does_not_have_neither_teaches_nor_dilutes():
    """A batch in the columns of two bodies has the loss it has in its own."""
    config = LoaderConfig(num_prompts=4, num_windows=2, told=0.0, shown=1.0)
    both = Mixture((sequences.trajectories(), sequences.arm_trajectories()))
    model = sequences.model(data=both)
    batch = make_loader(sequences.trajectories(), config, model, 0).batch(0)
    assert np.isnan(batch.action[..., 3]).all() and not np.isnan(batch.action[..., :3]).any()
    learner = Learner(model, LearnerConfig(), updates=1)
    loss = learner.loss(batch)
    loss.total.backward()
    heads = [model.action_head.weight.grad, model.change_head.weight.grad]
    absent, own = zip(*((g[-33:], g[:-33]) for g in heads if g is not None), strict=True)
    assert all((g == 0).all() for g in absent) and all((g != 0).any() for g in own)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    # Random weights start near even odds over 33 bins, whatever share of the channels is there.
    assert abs(loss.action.item() - np.log(33)) < 0.5


def test_going_on_from_saved_tensors_is_the_straight_run():
    loader = sequences.loader(SHOWN)
    straight = Learner(sequences.model(), LearnerConfig(), updates=6)
    for update in range(3):
        straight.step([loader.batch(update)], update)
    saved = {name: tensor.clone() for name, tensor in straight.tensors().items()}
    resumed = Learner(sequences.model(seed=9), LearnerConfig(), updates=6)
    resumed.load_tensors(saved)
    for update in range(3, 6):
        straight.step([loader.batch(update)], update)
        resumed.step([loader.batch(update)], update)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


def test_forward_operations_of_a_batch_counted_by_hand():
    loader = sequences.loader(LoaderConfig(num_prompts=2, num_windows=4, told=0.0, shown=1.0))
    # T = 5 + 4 * 3 tokens of width 16 in 2 sequences; a layer has 12 * 16^2 weights, and there
    # are 2; attention 4 T D a token and layer; heads (3 + 7) * 33 * 16 on 12 tokens; embedding
    # 2 * 10 channels * 16 on all.
    tokens = 17
    per_sequence = tokens * (2 * 2 * 12 * 256 + 4 * tokens * 16 * 2)
    per_sequence += 2 * 10 * 33 * 16 * 12 + 2 * 20 * 16 * tokens
    assert forward_flops(sequences.model(), loader.batch(0)) == 2 * per_sequence


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; use at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
    ],
)
def test_rates_that_make_no_sense_are_refused(changes: dict, problem: str):
    with pytest.raises(ValueError, match=f"^{problem}"):
        LearnerConfig(**changes)
