from pathlib import Path

import numpy as np
import pytest

from headstart.data.store import Dataset
from headstart.ledger import read_bill
from headstart.stages import collect as stage
from headstart.stages.collect import CollectConfig, collect

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


def test_an_interrupted_collection_resumes_to_the_same_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record, done = stage._record, []

    def stopping(*arguments: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return record(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_record", stopping)
        with pytest.raises(KeyboardInterrupt):
            collect(CONFIG, tmp_path / "data")
    assert Dataset(tmp_path / "data").num_episodes > 0
    collect(CONFIG, tmp_path / "data", resume=True)
    straight, resumed = (Dataset(p).episode_table()["sha256"] for p in (data, tmp_path / "data"))
    assert straight.tolist() == resumed.tolist()
