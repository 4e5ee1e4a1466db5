import pytest
import torch

import sequences
from headstart.data.loader import LoaderConfig
from headstart.model.learner import Learner, LearnerConfig
from headstart.model.muon import Muon, orthogonalised

SHAPES = ((24, 8), (8, 24), (8, 8))


def after_three_steps(make, seed=0):
    """Weights after gradients that are the same for everybody."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    optimizer = make(weights)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weights


def theirs(weights):
    return torch.optim.Muon(weights, lr=0.02, weight_decay=0.05)


@pytest.mark.parametrize("dtype, apart", [(torch.bfloat16, 0.0), (torch.float32, 2e-3)])
def test_steps_are_those_of_pytorch_but_for_the_precision(dtype, apart):
    ours = after_three_steps(lambda w: Muon(w, 0.02, 0.05, dtype))
    for mine, its in zip(ours, after_three_steps(theirs), strict=True):
        assert (mine - its).abs().max() <= apart
        assert apart == 0.0 or not torch.equal(mine, its)


def test_a_scaled_rotation_is_brought_to_the_rotation():
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    found = orthogonalised(3.0 * rotation, torch.float32)
    size = (found * rotation).sum() / 6  # of each singular value: they stay the same
    assert 0.7 < size < 1.2
    assert (found - size * rotation).abs().max() < 1e-5


@pytest.mark.parametrize("fast, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_a_learner_multiplies_in_bfloat16_only_where_that_is_fast(monkeypatch, fast, dtype):
    monkeypatch.setattr("headstart.model.learner.has_fast_bfloat16", lambda device: fast)
    seen = []
    monkeypatch.setattr(
        "headstart.model.muon.orthogonalised",
        lambda matrix, dtype: seen.append(dtype) or matrix,
    )
    loader = sequences.loader(LoaderConfig(num_prompts=2, num_windows=2, told=0.0, shown=1.0))
    learner = Learner(sequences.model(), LearnerConfig(), updates=1)
    learner.step([loader.batch(0)], 0)
    assert set(seen) == {dtype}
