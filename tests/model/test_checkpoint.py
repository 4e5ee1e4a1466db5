import json
from pathlib import Path

import pytest
import torch

import sequences
from headstart.model.checkpoint import load_model, load_training, save_model, save_training


def test_a_saved_model_comes_back_bit_equal(tmp_path: Path):
    model = sequences.model()
    save_model(tmp_path, model)
    back = load_model(tmp_path)
    assert back.config == model.config
    assert back.channels == model.channels
    assert back.vocabulary == model.vocabulary
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str):
    save_model(tmp_path, sequences.model())
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content) if damage == "flip" else bytes(content[:-10]))
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        load_model(tmp_path)


def test_another_version_is_refused(tmp_path: Path):
    save_model(tmp_path, sequences.model())
    meta = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        load_model(tmp_path)


def test_a_missing_model_is_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"model\.json: no such file"):
        load_model(tmp_path)


def test_training_state_comes_back_and_a_flipped_bit_is_found(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    assert load_training(path) is None
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(3)}
    save_training(path, tensors, {"updates": 7})
    back, progress = load_training(path) or ({}, None)
    assert progress == {"updates": 7}
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        load_training(path)
