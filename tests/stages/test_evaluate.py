from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_run
from headstart.data.demonstrations import Demonstrations
from headstart.ledger import read_bill
from headstart.model.checkpoint import load_model, save_model
from headstart.rollout import Interaction
from headstart.stages import evaluate as stage
from headstart.stages.evaluate import EvaluateConfig, choose_retrieval, evaluate
from headstart.suites import registry
from headstart.suites.base import StepResult
from headstart.suites.envpool import EnvPoolVecEnv


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write(tmp_path_factory.mktemp("evaluate"))


def config(made: Path) -> EvaluateConfig:
    return EvaluateConfig(
        model=made / "model",
        seen=small_run.SEEN,
        seen_demonstrations=made / "data",
        heldout=small_run.HELD_OUT,
        heldout_demonstrations=made / "demonstrations",
        prompts=2,
        episodes=2,
        control_episodes=1,
        max_episode_steps=20,
    )


def test_an_interrupted_evaluation_goes_on_with_the_next_task(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight = evaluate(config(made), tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(stage.Exam, "seen", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config(made), tmp_path / "resumed")
    with monkeypatch.context() as patch:
        patch.setattr(stage.Exam, "heldout", stop)  # the first try has finished these
        resumed = evaluate(config(made), tmp_path / "resumed", resume=True)
    for key in ("rows", "replays", "protocol"):
        assert straight[key] == resumed[key]


def test_what_a_failed_try_took_is_billed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    evaluate(config(made), tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(Interaction, "step", small_run.failing_after(Interaction.step, 3))
        with pytest.raises(RuntimeError, match="the simulator died"):
            evaluate(config(made), tmp_path / "run")
    spent = read_bill(tmp_path / "run").cost
    assert spent.env_steps and spent.core_s and spent.wall_s
    evaluate(config(made), tmp_path / "run", resume=True)
    straight = read_bill(tmp_path / "straight").cost
    assert read_bill(tmp_path / "run").cost.env_steps == (straight.env_steps or 0) + spent.env_steps


def test_demonstrations_merged_with_those_of_another_body_show_what_they_showed_alone(
    made: Path, tmp_path: Path
):
    straight = evaluate(config(made), tmp_path / "straight")
    merged = small_run.merge_with_another_body(made / "demonstrations", tmp_path)
    seen = small_run.reverse(made / "data", tmp_path / "seen")
    settings = replace(config(made), heldout_demonstrations=merged, seen_demonstrations=seen)
    found = evaluate(settings, tmp_path / "out")
    assert found["replays"] == straight["replays"]
    assert without_cost(found["rows"]) == without_cost(straight["rows"])
    exam = stage.Exam(settings, [], [], tmp_path)
    task = registry.get_task(small_run.SEEN)
    (shown,) = Demonstrations(made / "data", 1).of(task)
    np.testing.assert_array_equal(exam._shown_seen.of(task)[0].obs, shown.obs)


def without_cost(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "cost"} for row in rows]


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_no_start_of_the_data_is_evaluated_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    used = min(stage.seeds_of(made / "data"))
    monkeypatch.setattr(stage, "environment_seeds", lambda *_: [used])
    with pytest.raises(ValueError, match=f"environment {used}, which is one to be evaluated in"):
        evaluate(config(made), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seen": "", "heldout": ""}, "there is no task to evaluate on; name some with --seen"),
        ({"seed": 400}, "seed 400 is out of range; use 0 to 399"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"heldout": "metaworld/door-lock"}, "no demonstration of metaworld/door-lock to show"),
        ({"heldout": "", "seen": "tiny/reach"}, "the model knows no channel"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_a_mistake_leaves_no_folder_behind(made: Path, tmp_path: Path, changes, problem: str):
    with pytest.raises(ValueError, match=problem):
        evaluate(replace(config(made), **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_model_was_trained_on_is_not_held_out(made: Path, tmp_path: Path):
    exam = replace(
        config(made), heldout=small_run.SEEN, heldout_demonstrations=made / "data", prompts=1
    )
    with pytest.raises(ValueError, match=f"was trained on {small_run.SEEN}, which is not held out"):
        evaluate(exam, tmp_path / "out")


def test_what_the_model_learned_after_pre_training_is_not_held_out(made: Path, tmp_path: Path):
    model = load_model(made / "model")
    model.trained_on |= {small_run.HELD_OUT}
    save_model(tmp_path / "model", model)
    with pytest.raises(ValueError, match=f"was trained on {small_run.HELD_OUT}, which is not held"):
        evaluate(replace(config(made), model=tmp_path / "model"), tmp_path / "out")


def test_seen_tasks_that_are_not_shown_and_not_known_are_told_of(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    exam = replace(config(made), seen=small_run.HELD_OUT, heldout="")
    result = evaluate(exam, tmp_path / "out")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        f"warning: {made}/model was not trained on what --seen names: {small_run.HELD_OUT}",
        f"warning: {made}/data has no demonstration, so only told: {small_run.HELD_OUT}",
    ]
    assert [row["arm"] for row in result["rows"]] == ["seen.told"]


@pytest.mark.parametrize("name", ["prompts", "episodes", "control_episodes", "max_episode_steps"])
def test_nothing_less_than_one_episode_is_asked_for(made: Path, name: str):
    with pytest.raises(ValueError, match=f"^{name} is 0; use at least 1$"):
        replace(config(made), **{name: 0})


def test_the_better_retrieval_is_the_control():
    rows = [
        {"arm": "heldout.retrieval_raw", "success": [True, False]},
        {"arm": "heldout.retrieval_relative", "success": [True, True]},
    ]
    assert choose_retrieval(rows) == "heldout.retrieval_relative"
    assert [row["arm"] for row in rows] == ["heldout.retrieval_raw", "heldout.retrieval"]


def test_episodes_that_diverge_are_failures_and_are_reported(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = EnvPoolVecEnv.step

    def diverge(*arguments: Any) -> StepResult:
        result = step(*arguments)
        return replace(result, reward=np.full_like(result.reward, np.nan))

    monkeypatch.setattr(EnvPoolVecEnv, "step", diverge)
    result = evaluate(config(made), tmp_path / "out")
    for row in result["rows"]:
        assert row["diverged_episodes"] == len(row["success"]) and not any(row["success"])
    assert result["replays"] == []  # no episode has a step that could be drawn
