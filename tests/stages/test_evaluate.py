from pathlib import Path

import pytest

import small_run
from headstart.stages import evaluate as stage
from headstart.stages.evaluate import EvaluateConfig, choose_retrieval, evaluate


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


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_no_start_of_the_data_is_evaluated_on(made: Path, monkeypatch: pytest.MonkeyPatch):
    exam = stage.Exam(config(made), [], made / "films")
    used = min(exam._known_seeds)
    monkeypatch.setattr(stage, "environment_seeds", lambda *_: [used])
    with pytest.raises(ValueError, match=f"environment {used}, which is one to be evaluated in"):
        exam._run(stage.registry.get_task(small_run.SEEN), {"seen.told": one()}, stage.Meter())


def one() -> stage.Entrant:
    return stage.Entrant(None, 1, 1)  # type: ignore[arg-type]


def test_the_better_retrieval_is_the_control():
    rows = [
        {"arm": "heldout.retrieval_raw", "success": [True, False]},
        {"arm": "heldout.retrieval_relative", "success": [True, True]},
    ]
    assert choose_retrieval(rows) == "heldout.retrieval_relative"
    assert [row["arm"] for row in rows] == ["heldout.retrieval_raw", "heldout.retrieval"]
