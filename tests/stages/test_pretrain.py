import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sequences
import small_run
from headstart.cli import main
from headstart.data.loader import LoaderConfig
from headstart.data.store import Dataset, DatasetWriter
from headstart.ledger import read_bill
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


@pytest.fixture
def arm_data(tmp_path: Path) -> Path:
    """Of another body, at another rate, without any success recorded."""
    channels = (*sequences.ARM_OBS, *sequences.ARM_ACTIONS)
    episodes = [sequences.arm_episode(f"u/{k % 3}", f"turn {k % 3}", 9, k) for k in range(7)]
    with DatasetWriter(tmp_path / "arm", Task("u", "a", "turn", channels, 10, 30.0)) as writer:
        writer.save_episodes(episodes)
    return tmp_path / "arm"


def config(data: Path | tuple[str, ...], **changes: object) -> PretrainConfig:
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
    stopping = small_run.failing_after(stage.Learner.step, stop_at, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(stage.Learner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config(data), tmp_path / "stopped")
    result = pretrain(config(data), tmp_path / "stopped", resume=True)
    np.testing.assert_array_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert result["flops"] == pretrain(config(data), tmp_path / "straight", resume=True)["flops"]
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("straight", "stopped")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_keeps_the_update_that_it_is_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    pretrain(config(data), tmp_path / "straight")
    steps, step = [], stage.Learner.step

    def counted(*arguments: Any):
        steps.append(arguments[2])
        if len(steps) == 2:
            signal.raise_signal(number)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Learner, "step", counted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config(data), tmp_path / "stopped")
        pretrain(config(data), tmp_path / "stopped", resume=True)
    assert steps == [*range(9)]
    np.testing.assert_array_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    lines = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("straight", "stopped")]
    assert lines[0] == lines[1]


def test_opening_the_data_is_on_the_bill(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_run.taking(monkeypatch, stage, "open_data")
    pretrain(config(data), tmp_path / "model")
    assert read_bill(tmp_path / "model").cost.core_s == 100.0


def test_two_datasets_train_one_model_and_a_stopped_run_resumes_to_the_same_weights(
    data: Path, arm_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    both = config((str(data), f"{arm_data}=0.4"))
    result = pretrain(both, tmp_path / "straight")
    assert result["tasks"] == ["t/0", "t/1", "u/0", "u/1", "u/2"]
    model = load_model(tmp_path / "straight")
    assert [c.name for c in model.channels][7:] == [
        "arm/1", "hand/dx", "hand/dy", "hand/dz", "arm/d1",
    ]  # fmt: skip
    bill = read_bill(tmp_path / "straight")
    assert [b.name for b in bill.ancestors] == ["data", "arm"]
    stopping = small_run.failing_after(stage.Learner.step, 5, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(stage.Learner, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(both, tmp_path / "stopped")
    pretrain(both, tmp_path / "stopped", resume=True)
    np.testing.assert_array_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


def test_two_halves_of_a_dataset_without_shares_train_the_model_of_the_whole(
    data: Path, tmp_path: Path
):
    episodes = Dataset(data).episodes()
    for name, half in (("a", episodes[::2]), ("b", episodes[1::2])):  # a task each
        with DatasetWriter(tmp_path / name, SCHEMA) as writer:
            writer.save_episodes(half)
    loader = LoaderConfig(num_prompts=4, num_windows=2, random_frames=0.0)
    pretrain(config(data, loader=loader), tmp_path / "whole")
    halves = config((str(tmp_path / "a"), str(tmp_path / "b")), loader=loader)
    pretrain(halves, tmp_path / "halves")
    losses = [
        [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]
        for name in ("whole", "halves")
        for lines in [(tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    ]
    np.testing.assert_allclose(*losses, rtol=1e-2)  # the statistics are sums in another order


def test_datasets_that_cannot_be_mixed_are_refused(data: Path, arm_data: Path, tmp_path: Path):
    for both, message in (
        ((f"{data}=0.7", f"{arm_data}=0.7"), "shares sum to 1.4"),
        ((f"{data}=1", str(arm_data)), "leave nothing for"),
        ((str(data), f"{data}=0.3"), "a dataset is named twice"),
        ((str(data), str(tmp_path / "none")), "no such file"),
        ((), "no dataset to train on"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(config(both), tmp_path / "out")
        assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"updates": 0}, "updates is 0; use at least 1"),
        ({"seed": -1}, "seed is -1; use 0 to 4294967295"),
        ({"log_every": 0}, "log_every is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"validation_episodes": -1}, "validation_episodes is -1; use at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, problem: str):
    with pytest.raises(ValueError, match=f"^{problem}"):
        config(Path("data"), **changes)


def test_the_command_line_takes_several_datasets(data: Path, arm_data: Path, tmp_path: Path):
    command = ["pretrain", "--data", str(data), "--data", f"{arm_data}=0.3", "--updates", "1",
               "--model.n-embd", "16", "--model.n-head", "2", "--tracker", "none",
               "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    saved = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert saved["data"] == [str(data), f"{arm_data}=0.3"]


def test_what_is_kept_out_is_on_record(data: Path, arm_data: Path, tmp_path: Path):
    result = pretrain(config((str(data), str(arm_data))), tmp_path / "a")
    kept = {Path(facts["data"]).name: facts["episodes"] for facts in result["kept_out"]}
    assert kept == {"data": [5, 4], "arm": [6, 5, 4]}
    assert result["kept_out"][0]["digest"] == Dataset(data).digest


def test_the_only_episode_of_a_task_is_trained_on(tmp_path: Path):
    episodes = [sequences.episode(task, "go", 8, k) for k, task in enumerate(("t/0", "t/0", "t/1"))]
    with DatasetWriter(tmp_path / "data", SCHEMA) as writer:
        writer.save_episodes(episodes)
    result = pretrain(config(tmp_path / "data"), tmp_path / "a")
    assert result["tasks"] == ["t/0", "t/1"]
    assert result["kept_out"][0]["episodes"] == [1]


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


@pytest.mark.parametrize("name", ["t/1", "1", "1, t/1"])
def test_tasks_of_the_data_may_be_left_out_by_id_or_name(data: Path, tmp_path: Path, name: str):
    assert pretrain(config(data, leave_out=name), tmp_path / "a")["tasks"] == ["t/0"]


def test_a_task_that_nobody_knows_cannot_be_left_out(data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no task or split 't/2'; did you mean t/1 or t/0"):
        pretrain(config(data, leave_out="t/2"), tmp_path / "a")


def test_another_config_is_refused_on_resume(data: Path, tmp_path: Path):
    pretrain(config(data), tmp_path / "a")
    with pytest.raises(ValueError, match="updates: 9 -> 10"):
        pretrain(config(data, updates=10), tmp_path / "a", resume=True)
