import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sequences
from headstart.data.loader import LoaderConfig
from headstart.data.store import DatasetWriter
from headstart.model.checkpoint import load_model
from headstart.stages import pretrain as stage
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.types import Task

SCHEMA = Task("t", "a", "go to the goal", (*sequences.OBS, *sequences.ACTIONS), 10, 10.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    episodes = [sequences.episode(f"t/{k % 2}", f"go {k % 2}", 12, k) for k in range(6)]
    with DatasetWriter(tmp_path / "data", SCHEMA) as writer:
        writer.save_episodes(episodes)
    return tmp_path / "data"


def config(data: Path, **changes: object) -> PretrainConfig:
    settings = {
        "data": data,
        "updates": 9,
        "model": sequences.SIZE,
        "loader": LoaderConfig(num_prompts=4, num_windows=2),
        "log_every": 1,
        "checkpoint_every": 3,
        "tracker": "none",
    }
    return PretrainConfig(**(settings | changes))  # type: ignore[arg-type]


def weights(root: Path) -> np.ndarray:
    state = load_model(root).state_dict()
    return np.concatenate([tensor.numpy().ravel() for tensor in state.values()])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data: Path, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(config(data, seed=seed), tmp_path / name)
    np.testing.assert_array_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not np.array_equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("stop_at", [2, 3, 7])
def test_an_interrupted_run_resumes_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
):
    pretrain(config(data), tmp_path / "straight")
    step = stage.Learner.step

    def stopping(self: stage.Learner, batches: object, update: int) -> object:
        if update == stop_at:
            raise KeyboardInterrupt
        return step(self, batches, update)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stage.Learner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config(data), tmp_path / "stopped")
    result = pretrain(config(data), tmp_path / "stopped", resume=True)
    np.testing.assert_array_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert result["flops"] == pretrain(config(data), tmp_path / "straight", resume=True)["flops"]
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("straight", "stopped")]
    assert lines[0] == lines[1]


def test_a_terminated_process_leaves_what_can_be_resumed(data: Path, tmp_path: Path):
    out = tmp_path / "killed"
    command = [
        sys.executable, "-m", "headstart.cli", "pretrain", "--data", str(data), "--out", str(out),
        "--updates", "100000", "--checkpoint-every", "5", "--model.n-embd", "16",
        "--model.n-head", "2", "--loader.num-prompts", "2", "--tracker", "none",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == (
        "headstart: interrupted; what was finished is kept, and --resume goes on"
    )
    assert stage.load_training(out / "checkpoint.safetensors") is not None


def test_losses_on_episodes_kept_out_are_logged(data: Path, tmp_path: Path):
    result = pretrain(config(data), tmp_path / "a")
    assert result["tasks"] == ["t/0", "t/1"]
    metrics = (tmp_path / "a" / "metrics.jsonl").read_text()
    assert "val/action_loss" in metrics and "val/observation_loss" in metrics


def test_a_task_left_out_is_never_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stage.registry, "get_split", lambda name: [SCHEMA])
    monkeypatch.setattr(type(SCHEMA), "id", property(lambda task: "t/1"))
    assert pretrain(config(data, leave_out="some/split"), tmp_path / "a")["tasks"] == ["t/0"]


def test_another_config_is_refused_on_resume(data: Path, tmp_path: Path):
    pretrain(config(data), tmp_path / "a")
    with pytest.raises(ValueError, match="updates: 9 -> 10"):
        pretrain(config(data, updates=10), tmp_path / "a", resume=True)
