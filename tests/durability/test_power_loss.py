from pathlib import Path

import power_loss
import pytest
import recorder
import torch

from headstart.artifact import write_json
from headstart.model.checkpoint import load_training, save_training


@pytest.mark.parametrize(("task", "every"), [("state", 7), ("cameras", 31)])
def test_whatever_was_not_flushed_is_lost_but_no_episode_acknowledged(
    scratch: Path, task: str, every: int
):
    report = power_loss.recording(scratch, recorder.TASKS[task], every, variants=1, seed=0)
    assert report["failures"] == []
    assert report["moments"] > 5


def test_no_checkpoint_or_json_file_acknowledged_is_lost(scratch: Path):
    assert power_loss.training(scratch, variants=2, seed=0)["failures"] == []


def test_a_writer_that_does_not_flush_is_caught(scratch: Path):
    folder = scratch / "watched"
    folder.mkdir()
    watch = power_loss.Watch(folder)
    with watch.on():
        write_json(folder / "kept.json", {"is": "kept"})
        (folder / "lost.json").write_text("lost")
        (folder / "other").mkdir()
    power_loss.strict(watch.moments[-1], scratch / "disk")
    assert [p.name for p in (scratch / "disk").iterdir()] == ["kept.json"]


def test_what_was_flushed_and_then_changed_is_what_was_flushed(scratch: Path):
    folder = scratch / "watched"
    path = folder / "checkpoint.safetensors"
    folder.mkdir()
    save_training(path, {"a": torch.tensor(1)}, {"updates": 1})
    watch = power_loss.Watch(folder)
    with watch.on():
        path.unlink()
        path.write_bytes(b"new")
        (folder / "new").write_bytes(b"")
    power_loss.strict(watch.moments[-1], scratch / "disk")
    assert load_training(scratch / "disk" / path.name) == ({"a": torch.tensor(1)}, {"updates": 1})
