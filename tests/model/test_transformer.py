import pytest
import torch

import sequences
from headstart.model.transformer import ModelConfig, attention_mask

WORDS = torch.tensor([[2, 3, 4, 0], [5, 2, 0, 0]])


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 5, 10, generator=generator),
        torch.randn(2, 4, 3, 7, generator=generator),
        torch.randn(2, 4, 3, 3, generator=generator),
    )


@pytest.fixture
def warm_model() -> sequences.Transformer:
    """A model whose layers do something: a new one starts as the identity."""
    model = sequences.model()
    generator = torch.Generator().manual_seed(1)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.out.weight, std=0.3, generator=generator)
        torch.nn.init.normal_(block.down.weight, std=0.3, generator=generator)
    return model.eval()


def test_mask_is_the_table_in_its_docstring():
    expected = [
        "x.......",
        "xx......",
        "xxxx....",
        "xxxx....",
        "xxxxx...",
        "xxxxxx..",
        "xxxx..x.",
        "xxxx..xx",
    ]
    sees = attention_mask(2, 2, 2, 2, None, torch.device("cpu"))[0, 0] == 0
    assert ["".join("x" if s else "." for s in row) for row in sees.tolist()] == expected


def test_a_prediction_depends_on_no_later_step_and_no_other_window(warm_model, inputs):
    shown, obs, action = inputs
    with torch.inference_mode():
        before = warm_model(WORDS, shown, obs, action).action_BNSAV
        changed = obs.clone()
        changed[:, 1, 2] += 1.0
        after = warm_model(WORDS, shown, changed, action).action_BNSAV
    same = (before == after).flatten(3).all(-1)
    assert not same[:, 1, 2].any()
    same[:, 1, 2] = True
    assert same.all()


def test_an_action_prediction_does_not_see_the_action(warm_model, inputs):
    shown, obs, action = inputs
    with torch.inference_mode():
        before = warm_model(None, shown, obs, action)
        after = warm_model(None, shown, obs, action + 1.0)
    assert torch.equal(before.action_BNSAV, after.action_BNSAV)
    assert not torch.equal(before.change_BNSOV, after.change_BNSOV)


def test_padding_words_change_nothing(warm_model, inputs):
    shown, obs, action = inputs
    with torch.inference_mode():
        padded = warm_model(WORDS[:1], shown[:1], obs[:1], action[:1]).action_BNSAV
        exact = warm_model(WORDS[:1, :3], shown[:1], obs[:1], action[:1]).action_BNSAV
    torch.testing.assert_close(padded, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("is_shown", [False, True])
def test_acting_from_a_cached_prompt_equals_the_training_pass(warm_model, inputs, told, is_shown):
    shown, obs, action = inputs
    words = WORDS[:, :2] if told else None
    demonstration = shown if is_shown else None
    with torch.inference_mode():
        whole = warm_model(words, demonstration, obs, action).action_BNSAV
        cache = warm_model.encode_prompt(words, demonstration)
        for steps in (1, 3):
            alone = warm_model.action_logits(cache, obs[:, 2, :steps])
            torch.testing.assert_close(alone, whole[:, 2, steps - 1], atol=1e-5, rtol=1e-5)


def test_a_missing_channel_differs_from_an_average_one(warm_model, inputs):
    _, obs, action = inputs
    average = obs.clone()
    average[..., 3] = warm_model.mean_C[3]
    missing = obs.clone()
    missing[..., 3] = torch.nan
    with torch.inference_mode():
        a = warm_model(None, None, average, action).action_BNSAV
        b = warm_model(None, None, missing, action).action_BNSAV
    assert b.isfinite().all()
    assert not torch.equal(a, b)


def test_the_seed_alone_sets_the_weights():
    before = torch.random.get_rng_state()
    first, second, other = sequences.model(3), sequences.model(3), sequences.model(4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.embed_channels.weight, second.embed_channels.weight)
    assert not torch.equal(first.embed_channels.weight, other.embed_channels.weight)


@pytest.mark.parametrize("name", ["n_layer", "n_head", "window"])
def test_a_size_of_nothing_is_refused(name: str):
    with pytest.raises(ValueError, match=f"^{name} is 0; use at least 1"):
        ModelConfig(**{name: 0})
