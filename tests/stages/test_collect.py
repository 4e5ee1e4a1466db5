import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import small_run
from headstart.artifact import check_seal, manifest, read_json
from headstart.data.store import Dataset
from headstart.data.writer import DatasetWriter
from headstart.ledger import Cost, read_bill, total
from headstart.rollout import Interaction
from headstart.stages import collect as stage
from headstart.stages.collect import CollectConfig, collect
from headstart.types import Task

CONFIG = CollectConfig(split="metaworld/smoke-train", env_steps=2400, num_envs=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collect") / "data"
    collect(CONFIG, out)
    return out


def test_the_bill_counts_every_step_and_keeps_to_the_budget(data: Path):
    cost = read_bill(data).cost
    assert cost.env_steps is not None and cost.env_steps <= 2400
    assert Dataset(data).num_steps <= cost.env_steps
    assert cost.demonstrations == Dataset(data).num_episodes


def test_perturbed_episodes_carry_the_experts_own_action(data: Path):
    episodes = Dataset(data).episodes()
    behaviors = {e.behavior for e in episodes}
    assert behaviors == {"expert", "perturbed-expert"}
    for episode in episodes:
        differs = not np.array_equal(episode.label, episode.action)
        assert differs == (episode.behavior == "perturbed-expert")


def interrupt(
    out: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    """Collect until something has been called so often, and is called once more."""
    stopping = small_run.failing_after(getattr(owner, name), calls, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            collect(CONFIG, out)


def account(root: Path) -> tuple[int, int, dict[str, int]]:
    """(simulator steps of the bill, stored, discarded by reason), which have to add up."""
    result, spent = read_json(root / "result.json"), read_bill(root).cost.env_steps
    assert spent is not None and spent == result["env_steps"] + sum(result["discarded"].values())
    assert result["env_steps"] == Dataset(root).num_steps
    return spent, result["env_steps"], result["discarded"]


def test_every_simulator_step_is_stored_or_discarded_for_a_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert account(data)[2] == {"limit": 0, "interrupted": 0, "diverged": 0}
    config = CollectConfig(split="metaworld/bin-picking", env_steps=450, num_envs=3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "summary", stop)  # all is recorded, and nothing is written of it
        with pytest.raises(KeyboardInterrupt):
            collect(config, tmp_path / "data")
    collect(config, tmp_path / "data", resume=True)
    spent, stored, discarded = account(tmp_path / "data")
    assert spent > stored > 0
    assert discarded == {"limit": spent - stored, "interrupted": 0, "diverged": 0}


@pytest.mark.parametrize(
    "settings, mistake",
    [
        ({"behavior": "random", "num_envs": 3}, "100 .* too few for 1 tasks .* use at least 900"),
        ({"num_envs": 1}, "100 .* too few for 1 tasks .* use at least 150"),
    ],
)
def test_too_few_steps_for_an_episode_are_one_clear_line(
    tmp_path: Path, settings: dict[str, Any], mistake: str
):
    config = CollectConfig(split="metaworld/bin-picking", env_steps=100, **settings)
    with pytest.raises(ValueError, match=mistake):
        collect(config, tmp_path / "data")


def test_steps_that_are_enough_on_average_leave_no_slow_task_without_an_episode(tmp_path: Path):
    config = CollectConfig(split="metaworld/bin-picking", env_steps=100, num_envs=1, perturbed=0.0)
    assert collect(config, tmp_path / "data")["episodes"] == 1
    spent, stored, _ = account(tmp_path / "data")
    assert spent == stored > 100


def test_where_slow_tasks_overdraw_the_budget_the_last_one_has_its_episodes_still(tmp_path: Path):
    settings: dict[str, Any] = {"env_steps": 1000, "num_envs": 2, "max_episode_steps": 150}
    result = collect(CollectConfig(split="metaworld/ml45-test", **settings), tmp_path / "data")
    assert [task["episodes"] for task in result["tasks"].values()] == [4] * 5
    spent, stored, discarded = account(tmp_path / "data")
    assert spent == stored > 1000 and not any(discarded.values())


@pytest.mark.parametrize("steps", [1, 400])
def test_steps_of_an_interrupted_try_are_discarded_and_paid_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
):
    interrupt(tmp_path / "data", monkeypatch, Interaction, "step", steps)
    collect(CONFIG, tmp_path / "data", resume=True)
    straight, resumed = account(data), account(tmp_path / "data")
    assert resumed[1] == straight[1]
    assert resumed[2] == straight[2] | {"interrupted": resumed[0] - straight[0]}
    assert resumed[0] > straight[0]
    assert manifest(tmp_path / "data") == manifest(data), "the same data, whatever it cost"


def test_a_collection_whose_bill_was_removed_goes_on_with_an_unknown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt(tmp_path / "data", monkeypatch, stage, "_record", 1)
    (tmp_path / "data/ledger.json").unlink()
    result = collect(CONFIG, tmp_path / "data", resume=True)
    assert result["discarded"]["interrupted"] is None
    assert read_bill(tmp_path / "data").cost.core_s is None
    assert "- Cost: unknown" in (tmp_path / "data/README.md").read_text()


def test_what_is_added_to_a_collection_later_makes_its_cost_unknown_and_not_free(
    data: Path, tmp_path: Path
):
    shutil.copytree(data, tmp_path / "data")
    root, paid = tmp_path / "data", read_bill(data)
    with DatasetWriter(root, Dataset(root)):
        pass
    assert read_bill(root) == paid, "opened, and nothing added"
    with DatasetWriter(root, Dataset(root)) as writer:
        writer.save_episode(Dataset(data).episodes()[0])
    grown = read_bill(root)
    assert grown.cost == Cost.unknown() and grown.identity != paid.identity
    assert check_seal(root) == [] and Dataset(root).num_episodes == 1 + paid.cost.demonstrations
    assert total([paid, grown]).env_steps is None


def test_what_was_damaged_before_something_is_added_stays_damaged(data: Path, tmp_path: Path):
    shutil.copytree(data, tmp_path / "data")
    root, card = tmp_path / "data", tmp_path / "data/README.md"
    card.write_text(card.read_text() + "and more")
    with DatasetWriter(root, Dataset(root)) as writer:
        writer.save_episode(Dataset(data).episodes()[0])
    collect(CONFIG, root, resume=True)
    assert check_seal(root) == [(card, "changed")]


def test_an_interrupted_collection_resumes_to_the_same_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    interrupt(tmp_path / "data", monkeypatch, stage, "_record", 2)
    assert Dataset(tmp_path / "data").num_episodes > 0
    collect(CONFIG, tmp_path / "data", resume=True)
    straight, resumed = (Dataset(p).episode_table()["sha256"] for p in (data, tmp_path / "data"))
    assert straight.tolist() == resumed.tolist()


def test_what_diverged_is_not_stored_but_counted_and_paid_for(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def make(task: Task, seeds: list[int], max_episode_steps: int) -> Any:
        when = {(seed, 7): "reward" for seed in seeds[1:]} | {(seeds[0], first): "obs"}
        return tiny.Diverging(task, seeds, max_episode_steps, when)

    monkeypatch.setattr(tiny, "make", make)
    settings = {"split": "tiny/reach", "behavior": "random", "env_steps": 0}
    first = 0  # so there is no episode
    collect(CollectConfig(**settings, num_envs=3), tmp_path / "data")
    episodes = Dataset(tmp_path / "data").episodes()
    assert [e.num_steps for e in episodes] == [7, 7] and all(e.truncated for e in episodes)
    assert all(np.isfinite(a).all() for e in episodes for a in (e.obs, e.final_obs, e.reward))
    assert account(tmp_path / "data") == (17, 14, {"limit": 0, "interrupted": 0, "diverged": 3})
    with pytest.raises(ValueError, match="tiny/reach: every episode diverged"):
        collect(CollectConfig(**settings, num_envs=1), tmp_path / "none")
