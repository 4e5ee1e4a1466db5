from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sequences
from headstart import cli
from headstart.artifact import read_json
from headstart.data.loader import LoaderConfig
from headstart.data.store import Dataset, DatasetWriter
from headstart.ledger import read_bill
from headstart.model.checkpoint import load_model
from headstart.model.policy import Policy, Prompt
from headstart.stages.pretrain import PretrainConfig, pretrain
from headstart.stages.score import ScoreConfig, means, score
from headstart.types import Channel, Task

SCHEMA = Task("t", "a", "go to the goal", (*sequences.OBS, *sequences.ACTIONS), 10, 10.0)


def write(root: Path, seeds: range) -> Path:
    """Tasks that no registry knows, and no success on record."""
    with DatasetWriter(root, SCHEMA) as writer:
        writer.save_episodes(
            [sequences.episode(f"t/{k % 2}", f"go {k % 2}", 6 + k, k, success=False) for k in seeds]
        )
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    data = write(tmp_path / "data", range(6))
    config = PretrainConfig(
        data=(str(data),),
        updates=3,
        model=sequences.SIZE,
        loader=LoaderConfig(num_prompts=4, num_windows=2),
        tracker="none",
    )
    pretrain(config, tmp_path / "model")
    return tmp_path / "model"


def row(result: dict, arm: str, task: str) -> dict:
    return next(r for r in result["rows"] if (r["arm"], r["task"]) == (arm, task))


def test_the_error_is_that_of_a_policy_on_the_episode_kept_out(model: Path, tmp_path: Path):
    result = score(ScoreConfig(model=model), tmp_path / "score")
    episodes = Dataset(tmp_path / "data").episodes()
    prompts = {
        "told": Prompt("go 1"),
        "shown_once": Prompt(demonstration=episodes[1]),  # the first that it was trained on
        "told_and_shown": Prompt("go 1", episodes[1]),
        "no_prompt": Prompt(),
    }
    kept = episodes[5]
    loaded = load_model(model)
    deviation = loaded.deviation_C[loaded.num_obs :].numpy()
    for arm, prompt in prompts.items():
        policy = Policy(loaded, SCHEMA.channels, [prompt])
        acted = np.concatenate([policy.act(obs[None]).action for obs in kept.obs])
        error = np.abs(acted - kept.action)
        found = row(result, arm, "t/1")
        assert (found["episodes"], found["steps"]) == (1, 11)
        assert found["error"] == pytest.approx((error / deviation).mean(), rel=1e-4)
        assert list(found["error_by_channel"]) == ["hand/dx", "hand/dy", "hand/dz"]
        assert found["error_by_channel"]["hand/dy"] == pytest.approx(error[:, 1].mean(), rel=1e-4)
        assert found["loss"] == pytest.approx(np.log(33), abs=0.6)


def test_comparisons_counted_by_hand(model: Path, tmp_path: Path):
    result = score(ScoreConfig(model=model), tmp_path / "score")
    episodes = Dataset(tmp_path / "data").episodes()
    mean = np.concatenate([e.action for e in episodes[:4]]).mean(axis=0)
    loaded = load_model(model)
    deviation = loaded.deviation_C[loaded.num_obs :].numpy()
    kept = episodes[5].action
    found = row(result, "mean_action", "t/1")
    assert found["loss"] is None
    assert found["error"] == pytest.approx((np.abs(kept - mean) / deviation).mean(), rel=1e-5)
    before = np.concatenate([mean[None], kept[:-1]])
    found = row(result, "repeat_action", "t/1")
    assert found["error"] == pytest.approx((np.abs(kept - before) / deviation).mean(), rel=1e-5)


def test_the_command_prints_the_table_and_the_model_is_an_ancestor(
    model: Path, tmp_path: Path, capsys
):
    assert cli.main(["score", "--model", str(model), "--out", str(tmp_path / "score")]) == 0
    title, _, _, *lines, place = capsys.readouterr().out.splitlines()
    assert title == "2 episodes of 2 tasks, kept out when the model was trained:"
    result = read_json(tmp_path / "score/result.json")
    assert [line.split()[0] for line in lines] == list(result["arms"])
    assert f"{result['arms']['told']['loss']:.3f}" in lines[0]
    assert place == str(tmp_path / "score")
    assert [bill.stage for bill in read_bill(tmp_path / "score").ancestors] == ["pretrain"]


@pytest.mark.parametrize(
    ("episodes", "counted"),
    [(1, ""), (5, "; the model was trained on 2 of them")],  # two of each task are scored
)
def test_episodes_that_the_model_was_trained_on_are_counted(
    model: Path, tmp_path: Path, episodes: int, counted: str
):
    data = read_json(model / "result.json")["kept_out"][0]["data"]
    score(ScoreConfig(model=model, data=(data,), episodes=episodes), tmp_path / "score")
    assert f"2 tasks, of {data}{counted}:" in (tmp_path / "score/README.md").read_text()


def test_a_dataset_that_the_model_never_saw_is_named(model: Path, tmp_path: Path):
    other = str(write(tmp_path / "other", range(10, 15)))
    score(ScoreConfig(model=model, data=(other,)), tmp_path / "score")
    assert f"tasks, of {other}:" in (tmp_path / "score/README.md").read_text()


def test_another_dataset_is_scored_on_all_but_the_episode_shown(model: Path, tmp_path: Path):
    other = write(tmp_path / "other", range(10, 15))
    result = score(ScoreConfig(model=model, data=(str(other),)), tmp_path / "score")
    assert row(result, "shown_once", "t/0")["steps"] == (6 + 12) + (6 + 14)
    assert row(result, "shown_once", "t/1")["steps"] == 6 + 13
    few = score(ScoreConfig(model=model, data=(str(other),), episodes=1), tmp_path / "few")
    assert row(few, "shown_once", "t/0")["steps"] == 6 + 14


def test_a_task_of_one_episode_is_told_but_not_shown(model: Path, tmp_path: Path):
    lone = write(tmp_path / "lone", range(10, 11))
    result = score(ScoreConfig(model=model, data=(str(lone),)), tmp_path / "score")
    assert list(result["arms"]) == ["told", "no_prompt", "mean_action", "repeat_action"]


def test_missing_labels_are_left_out(model: Path, tmp_path: Path):
    episodes = [sequences.episode("t/0", "go 0", 8, k) for k in (20, 21)]
    for episode in episodes:
        episode.action_expert = episode.action.copy()
        episode.action_expert[3:] = np.nan
    with DatasetWriter(tmp_path / "part", SCHEMA) as writer:
        writer.save_episodes(episodes)
    result = score(ScoreConfig(model=model, data=(str(tmp_path / "part"),)), tmp_path / "score")
    assert all(np.isfinite(marks["error"]) for marks in result["arms"].values())


def test_a_dataset_that_has_changed_since_is_refused(model: Path, tmp_path: Path):
    write(tmp_path / "data", range(6, 7))
    with pytest.raises(ValueError, match=r"changed since .* was trained on it"):
        score(ScoreConfig(model=model), tmp_path / "score")


def test_data_of_another_body_leaves_no_folder_behind(model: Path, tmp_path: Path):
    channels = (Channel("arm/x", "observation"), Channel("arm/dx", "action"))
    episode = sequences.episode("t/0", "go 0", 8, 1)
    episode.obs, episode.final_obs = episode.obs[:, :1], episode.final_obs[:1]
    episode.action = episode.action[:, :1]
    with DatasetWriter(tmp_path / "arm", replace(SCHEMA, channels=channels)) as writer:
        writer.save_episode(episode)
    with pytest.raises(ValueError, match="the model knows no channel 'arm/x'"):
        score(ScoreConfig(model=model, data=(str(tmp_path / "arm"),)), tmp_path / "score")
    assert not (tmp_path / "score").exists()


def test_nothing_less_than_one_episode_is_scored(model: Path):
    with pytest.raises(ValueError, match="episodes is 0; use at least 1"):
        ScoreConfig(model=model, episodes=0)


def test_arms_are_means_over_tasks():
    rows = [
        {"arm": "told", "loss": 1.0, "error": 0.1},
        {"arm": "told", "loss": 3.0, "error": 0.3},
        {"arm": "mean_action", "loss": None, "error": 0.5},
    ]
    assert means(rows) == {
        "told": {"loss": 2.0, "error": pytest.approx(0.2)},
        "mean_action": {"loss": None, "error": 0.5},
    }
