from pathlib import Path

import pytest

from headstart.artifact import Artifact, seal
from headstart.data import commands
from headstart.data.commands import FolderConfig, VerifyConfig, ViewConfig
from headstart.stages.collect import CollectConfig
from recordings import EPISODES, save


def stage(root: Path) -> Path:
    """A finished artifact that is no dataset."""
    Artifact.create(root, "collect", CollectConfig()).write_result({})
    seal(root)
    return root


def test_a_run_is_verified_stage_by_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one, two = stage(tmp_path / "run/one"), stage(tmp_path / "run/two")
    (tmp_path / "run/recipe.json").write_text("{}")
    assert commands.verify(VerifyConfig(root=tmp_path / "run")) == 0
    assert capsys.readouterr().out == f"{one}: no problem found\n{two}: no problem found\n"
    (two / "result.json").write_text("{ }")
    assert commands.verify(VerifyConfig(root=tmp_path / "run")) == 2
    assert capsys.readouterr().out == f"{one}: no problem found\n{two}/result.json: changed\n"


def test_a_recorded_dataset_beside_a_model_is_verified_too(tmp_path: Path):
    stage(tmp_path / "all/model")
    save(tmp_path / "all/recorded", EPISODES)
    assert commands.verify(VerifyConfig(root=tmp_path / "all")) == 0
    stats = tmp_path / "all/recorded/meta/stats.json"
    stats.write_bytes(stats.read_bytes() + b" ")
    assert commands.verify(VerifyConfig(root=tmp_path / "all")) == 2


def test_repair_says_what_was_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path, EPISODES)
    stats = tmp_path / "meta/stats.json"
    num_bytes = stats.stat().st_size
    stats.write_bytes(stats.read_bytes() + b" ")
    assert commands.repair(FolderConfig(root=tmp_path)) == 0
    damaged = f"{stats}: damaged: {num_bytes + 1} bytes, expected {num_bytes}"
    assert capsys.readouterr().out == f"{damaged}\n{tmp_path}: 5 episodes kept\n"
    commands.repair(FolderConfig(root=tmp_path))
    assert capsys.readouterr().out == f"{tmp_path}: no problem found\n{tmp_path}: 5 episodes kept\n"


def test_repair_says_where_what_it_dropped_is_and_what_it_could_not_repair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = stage(tmp_path / "a")
    save(root, EPISODES[:2], EPISODES[2:])
    seal(root)
    data = root / "data/chunk-000/file-001.parquet"
    data.write_bytes(data.read_bytes()[:-9])
    (root / "result.json").write_text("{ }")
    commands.repair(FolderConfig(root=root))
    out = capsys.readouterr().out
    assert f"{data}: damaged: " in out
    assert f"moved to {root}/.dropped: episode 2 (" in out
    assert f"{root}: 2 episodes kept\nnot repaired: {root}/result.json: changed\n" in out


@pytest.mark.parametrize(
    ("change", "problem"), [({"episodes": 0}, "episodes is 0"), ({"port": -1}, "port is -1; use 0")]
)
def test_a_page_of_nothing_and_a_port_that_is_none_are_refused(change: dict, problem: str):
    with pytest.raises(ValueError, match=problem):
        ViewConfig(root=Path("a"), **change)
