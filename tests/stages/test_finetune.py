from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_run
from headstart.artifact import manifest
from headstart.data.demonstrations import enough_demonstrations
from headstart.data.trajectories import Trajectories
from headstart.ledger import read_bill, total
from headstart.model.checkpoint import load_model, save_model
from headstart.rollout import Interaction
from headstart.stages import finetune as stage
from headstart.stages.finetune import FinetuneConfig, finetune
from headstart.suites import registry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_run.write(tmp_path_factory.mktemp("finetune"))
    finetune(config(root), root / "finetuned")
    return root


def config(made: Path) -> FinetuneConfig:
    return FinetuneConfig(
        model=made / "model",
        demonstrations=made / "demonstrations",
        data=made / "data",
        split=small_run.HELD_OUT,
        counts=(1, 2),
        updates=2,
        scratch_updates=2,
        loader=small_run.LOADER,
        episodes=2,
        max_episode_steps=20,
    )


@pytest.mark.parametrize("counts", [(), (0,), (1, -2)])
def test_there_is_something_to_learn_from(made: Path, counts: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"counts is .*; use one number or more, each at least 1"):
        replace(config(made), counts=counts)


def without_clocks(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "cost"} for row in rows]


def test_pretrained_policies_come_before_those_from_scratch(made: Path):
    rows = stage.Artifact.open(made / "finetuned").result()["rows"]
    assert [row["arm"].removeprefix("heldout.") for row in rows] == [
        "demos_1", "demos_2", "scratch_demos_1", "scratch_demos_2",
    ]  # fmt: skip


def test_opening_what_it_starts_from_is_on_the_bill(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_run.taking(monkeypatch, stage, "open_cache")
    finetune(config(made), tmp_path / "finetuned")
    assert read_bill(tmp_path / "finetuned").cost.core_s == 100.0


def test_an_interrupted_run_goes_on_with_the_next_policy(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage.School, "_from_scratch", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(config(made), tmp_path / "resumed")
    with monkeypatch.context() as patch:
        patch.setattr(stage.School, "_from_prior", stop)  # the first try has finished these
        resumed = finetune(config(made), tmp_path / "resumed", resume=True)
    straight = stage.Artifact.open(made / "finetuned").result()
    assert without_clocks(resumed["rows"]) == without_clocks(straight["rows"])


def test_what_a_failed_examination_took_is_billed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Interaction, "step", small_run.failing_after(Interaction.step, 7))
        with pytest.raises(RuntimeError, match="the simulator died"):
            finetune(config(made), tmp_path / "run")
    spent = read_bill(tmp_path / "run").cost
    assert spent.env_steps == 7 * config(made).episodes
    assert spent.flops and spent.core_s and spent.wall_s
    finetune(config(made), tmp_path / "run", resume=True)
    straight = read_bill(made / "finetuned").cost
    assert read_bill(tmp_path / "run").cost.env_steps == (straight.env_steps or 0) + spent.env_steps


def test_a_model_knows_the_tasks_that_it_and_its_prior_were_trained_on(made: Path):
    model = load_model(made / "finetuned/models/handle-press-2")
    assert model.trained_on == {small_run.SEEN, small_run.HELD_OUT}
    assert load_model(made / "model").trained_on == {small_run.SEEN}


def test_a_model_knows_the_tasks_that_it_rehearsed(made: Path, tmp_path: Path):
    model = load_model(made / "model")
    model.trained_on = frozenset()  # as if the tasks in the data had been left out
    save_model(tmp_path / "model", model)
    finetune(replace(config(made), model=tmp_path / "model", counts=(1,)), tmp_path / "out")
    tuned = load_model(tmp_path / "out/models/handle-press-1")
    assert tuned.trained_on == {small_run.SEEN, small_run.HELD_OUT}


def test_demonstrations_merged_with_those_of_another_body_teach_what_they_taught_alone(
    made: Path, tmp_path: Path
):
    merged = small_run.merge_with_another_body(made / "demonstrations", tmp_path)
    finetune(replace(config(made), demonstrations=merged, scratch=False), tmp_path / "out")
    for name in ("handle-press-1", "handle-press-2"):
        weights = Path("models") / name / "model.safetensors"
        ours, alone = (root / weights for root in (tmp_path / "out", made / "finetuned"))
        assert ours.read_bytes() == alone.read_bytes()


def test_demonstrations_are_in_the_columns_of_their_task_not_of_the_old_data(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taught: list[Trajectories] = []
    monkeypatch.setattr(
        stage.School, "_from_prior", lambda school, new, _: taught.append(new) or school._prior
    )
    old = small_run.reverse(made / "data", tmp_path / "old")
    settings = replace(config(made), data=old, counts=(1,), scratch=False)
    finetune(settings, tmp_path / "out")
    task = registry.get_task(small_run.HELD_OUT)
    (shown,) = enough_demonstrations(made / "demonstrations", [task], 1)[task.id]
    assert (taught[0].obs_channels, taught[0].action_channels) == (
        task.obs_channels, task.action_channels,
    )  # fmt: skip
    np.testing.assert_array_equal(taught[0].obs, shown.obs)
    np.testing.assert_array_equal(taught[0].label, shown.label)


def test_each_model_carries_a_card_and_the_bills_of_all_it_stands_on(made: Path):
    root = made / "finetuned/models/handle-press-2"
    load_model(root)
    assert "demos_2" in (root / "README.md").read_text()
    bill = read_bill(root)
    assert bill.identity == manifest(root)
    assert {b.stage for b in bill.ancestors} == {"pretrain", "collect"}
    both = [read_bill(made / "data"), read_bill(made / "demonstrations")]
    assert total([bill]).env_steps == total(both).env_steps
