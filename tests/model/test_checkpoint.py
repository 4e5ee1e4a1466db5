import json
from pathlib import Path

import pytest
import torch

import sequences
from headstart.artifact import read_json, write_json
from headstart.model.checkpoint import (
    load_model,
    load_training,
    remove_training,
    save_model,
    save_training,
)


def test_a_saved_model_comes_back_bit_equal(tmp_path: Path):
    model = sequences.model()
    model.trained_on = frozenset({"lab/pour", "lab/stir"})
    save_model(tmp_path, model)
    back = load_model(tmp_path)
    assert back.config == model.config
    assert back.channels == model.channels
    assert back.vocabulary == model.vocabulary
    assert back.trained_on == model.trained_on
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_loading_a_model_draws_no_random_number(tmp_path: Path):
    save_model(tmp_path, sequences.model())
    before = torch.random.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "result", [{"tasks": ["lab/pour", "lab/stir"]}, {"task": "lab/pour"}, None]
)
def test_a_model_that_does_not_name_its_tasks_has_those_of_its_result(tmp_path: Path, result):
    save_model(tmp_path, sequences.model())
    meta = read_json(tmp_path / "model.json")
    del meta["trained_on"]
    sequences.rewrite_model_json(tmp_path, meta)
    if result:
        write_json(tmp_path / "result.json", result)
    known = set() if result is None else set(result.get("tasks", ["lab/pour"]))
    assert load_model(tmp_path).trained_on == known


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


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_flip_anywhere_in_a_training_state_is_found(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    save_training(path, {"a": torch.arange(3.0)}, {"updates": 7})
    for position in range(path.stat().st_size):
        flip(path, position)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged: "):
            load_training(path)
        flip(path, position)
    assert load_training(path) is not None


def test_a_flip_anywhere_in_model_json_is_found_or_changes_nothing(tmp_path: Path):
    model = sequences.model()
    save_model(tmp_path, model)
    path = tmp_path / "model.json"
    for position in range(0, path.stat().st_size, 7):
        flip(path, position)
        try:
            back = load_model(tmp_path)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert back.channels == model.channels and back.config == model.config
        flip(path, position)


def states(path: Path, *updates: int) -> None:
    for update in updates:
        save_training(path, {"a": torch.tensor(update)}, {"updates": update})


def test_the_newest_two_training_states_are_kept(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    states(path, 1, 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-before.safetensors",
        "checkpoint.safetensors",
    ]
    assert (load_training(path) or ({}, {}))[1] == {"updates": 3}
    remove_training(path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_newest_falls_back_for_good_and_says_so(tmp_path: Path, capsys):
    path = tmp_path / "checkpoint.safetensors"
    states(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-3])
    assert (load_training(path) or ({}, {}))[1] == {"updates": 1}
    said = capsys.readouterr().out
    assert "damaged" in said and "going on from the checkpoint before it" in said
    assert len(said.splitlines()) == 1
    # The damaged one is gone, so that the next checkpoint does not push out the good one.
    states(path, 2)
    flip(path, -1)
    assert (load_training(path) or ({}, {}))[1] == {"updates": 1}


def test_a_crash_between_the_two_renames_leaves_the_one_before(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    states(path, 1, 2)
    path.rename(tmp_path / "checkpoint-before.safetensors")
    assert (load_training(path) or ({}, {}))[1] == {"updates": 2}


def test_two_damaged_training_states_are_one_line(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    states(path, 1, 2)
    for file in tmp_path.iterdir():
        flip(file, 9)
    with pytest.raises(ValueError, match=r"^[^\n]*damaged[^\n]*; so is checkpoint-before[^\n]*$"):
        load_training(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"config": {"n_layer": 10**9}}, "has shape"),
        ({"config": {"n_embd": 2**40}}, "has shape|describes no model"),
        ({"config": {"n_head": 0}}, "n_head is 0; use at least 1"),
        ({"config": {"n_head": 7}}, "n_embd 16 is no multiple of twice n_head 7"),
        ({"config": []}, "expected an object"),
        ({"channels": "abc"}, "channels"),
        ({"vocabulary": [1, 2]}, "vocabulary"),
        ({"vocabulary": []}, "shape|describes no model"),
        ({"sha256": 5}, "expected str"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"kind": []}, "unknown key 'kind'"),
    ],
)
def test_a_model_json_that_was_made_to_harm_is_one_line(tmp_path: Path, change: dict, problem: str):
    save_model(tmp_path, sequences.model())
    meta = json.loads((tmp_path / "model.json").read_text())
    if isinstance(change.get("config"), dict):
        change = {"config": meta["config"] | change["config"]}
    sequences.rewrite_model_json(tmp_path, meta | change)
    with pytest.raises(ValueError, match=rf"^{tmp_path}[^\n]*({problem})[^\n]*$"):
        load_model(tmp_path)
