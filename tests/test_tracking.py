import sys
from dataclasses import dataclass

import pytest

from headstart.artifact import Artifact
from headstart.tracking import make_tracker


@dataclass(frozen=True)
class Config:
    lr: float = 0.1


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    tensors = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: [(e.step, e.value) for e in values] for tag, values in tensors.items()}


def test_numbers_reach_tensorboard_and_text_does_not(tmp_path):
    artifact = Artifact.create(tmp_path, "pretrain", Config(), tracker="tensorboard")
    artifact.log({"step": 1, "train/loss": 0.5, "note": "warm-up"})
    artifact.log({"step": 2, "train/loss": 0.25, "train/lr": 1})
    artifact.write_result({})
    assert scalars(tmp_path / "tensorboard") == {
        "train/loss": [(1, 0.5), (2, 0.25)],
        "train/lr": [(2, 1.0)],
    }


def test_after_a_resume_tensorboard_shows_the_later_values(tmp_path):
    first = Artifact.create(tmp_path, "pretrain", Config(), tracker="tensorboard")
    for step in (1, 2, 3):
        first.log({"step": step, "train/loss": 1.0})
    again = Artifact.create(tmp_path, "pretrain", Config(), resume=True, tracker="tensorboard")
    again.truncate_metrics(1)
    again.log({"step": 2, "train/loss": 2.0})
    assert scalars(tmp_path / "tensorboard") == {"train/loss": [(1, 1.0), (2, 2.0)]}


def test_an_unknown_tracker_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"unknown tracker 'tensorbord'; did you mean tensorboard"):
        Artifact.create(tmp_path / "run", "pretrain", Config(), tracker="tensorbord")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^tracker 'trackio' is not installed; pip install"):
        make_tracker("trackio", tmp_path, {})


def test_trackio_and_wandb_are_given_the_run_and_the_numbers(tmp_path, monkeypatch):
    (tmp_path / "trackio.py").write_text(
        "calls = []\n"
        "def init(**kw): calls.append(('init', kw))\n"
        "def log(metrics, step): calls.append(('log', metrics, step))\n"
        "def finish(): calls.append(('finish',))\n"
    )
    monkeypatch.delitem(sys.modules, "trackio", raising=False)  # and after the test
    monkeypatch.syspath_prepend(tmp_path)
    tracker = make_tracker("trackio", tmp_path / "run-1", {"lr": 0.1})
    assert tracker is not None
    tracker.log(3, {"train/loss": 0.5})
    tracker.close()
    import trackio  # type: ignore[import-not-found]

    assert trackio.calls == [
        ("init", {"project": "headstart", "name": "run-1", "config": {"lr": 0.1}}),
        ("log", {"train/loss": 0.5}, 3),
        ("finish",),
    ]
