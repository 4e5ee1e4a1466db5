from dataclasses import replace

import numpy as np

from headstart.data.store import Dataset
from headstart.data.summary import describe, information, succeeded, summary
from recordings import EPISODES, save

UNKNOWN = [
    replace(e, reward=np.full_like(e.reward, np.nan), success=np.zeros_like(e.success))
    for e in EPISODES
]


def test_success_is_unknown_where_the_data_does_not_say(tmp_path):
    save(tmp_path / "a", UNKNOWN)
    facts = information(tmp_path / "a")
    assert [task["success"] for task in facts["tasks"].values()] == [None, None]
    text = "\n".join(describe(facts))
    assert "5, success unknown" in text
    assert "%" not in text
    assert not succeeded(Dataset(tmp_path / "a")).any()


def test_a_failure_with_a_reward_is_a_failure(tmp_path):
    failed = [replace(e, success=np.zeros_like(e.success)) for e in EPISODES]
    save(tmp_path / "a", failed)
    facts = information(tmp_path / "a")
    assert [task["success"] for task in facts["tasks"].values()] == [0.0, 0.0]
    assert "5, 0 with success" in "\n".join(describe(facts))


def test_success_without_a_reward_is_known(tmp_path):
    won = [replace(e, success=np.ones_like(e.success)) for e in UNKNOWN]
    dataset = save(tmp_path / "a", won)
    assert [task["success"] for task in summary(dataset)["tasks"].values()] == [1.0, 1.0]


def test_tasks_of_unknown_success_are_counted_apart(tmp_path):
    won = np.array([True, False])
    save(tmp_path / "a", [replace(UNKNOWN[0], success=won), *UNKNOWN[1::2]])
    text = "\n".join(describe(information(tmp_path / "a")))
    assert "3, 1 with success, 2 unknown" in text
    assert "100%" in text
