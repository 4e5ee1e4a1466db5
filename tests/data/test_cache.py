import errno
import os
from pathlib import Path

import numpy as np
import pytest

import sequences
from headstart.artifact import manifest
from headstart.data import cache as module
from headstart.data.cache import open_cache
from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Task

SCHEMA = Task("t", "a", "go", (*sequences.OBS, *sequences.ACTIONS), 10, 10.0)


def write(root: Path, *seeds: int, labelled: bool = False) -> Dataset:
    episodes = [sequences.episode(f"t/{k % 2}", f"go {k % 2}", 5 + k, k, k != 2) for k in seeds]
    if labelled:
        episodes[-1].action_expert = -episodes[-1].action
    with DatasetWriter(root, SCHEMA) as writer:
        writer.save_episodes(episodes)
    return Dataset(root)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write(tmp_path / "data", 0, 1, 2)


def copies(dataset: Dataset) -> list[Path]:
    return sorted((dataset.root / ".cache").glob("*/steps.npy"))


def test_the_copy_holds_every_step_bit_for_bit(dataset: Dataset):
    cache = open_cache(dataset)
    assert cache.rows.shape == (5 + 6 + 7, 10)  # no column for labels: they are the actions
    assert cache.solved.tolist() == [True, True, False]
    for k, episode in enumerate(dataset.episodes()):
        rows = cache.rows[cache.start[k] : cache.start[k] + cache.length[k]]
        np.testing.assert_array_equal(rows, np.hstack([episode.obs, episode.action]))


def test_labels_that_are_not_the_actions_have_columns_of_their_own(tmp_path: Path):
    dataset = write(tmp_path / "data", 0, 1, 2, labelled=True)
    data = open_cache(dataset).trajectories(np.arange(3))
    episodes = dataset.episodes()
    for k, number in enumerate([0, 2, 1]):
        rows = slice(data.start[k], data.start[k] + data.length[k])
        np.testing.assert_array_equal(data.action[rows], episodes[number].action)
        np.testing.assert_array_equal(data.label[rows], episodes[number].label)


def test_the_copy_is_no_part_of_the_dataset(dataset: Dataset):
    before = manifest(dataset.root)
    open_cache(dataset)
    assert manifest(dataset.root) == before


def test_the_copy_is_kept_and_built_anew_when_the_dataset_changes(dataset: Dataset):
    open_cache(dataset)
    (first,) = copies(dataset)
    made = first.stat().st_mtime_ns
    open_cache(Dataset(dataset.root))
    assert first.stat().st_mtime_ns == made
    grown = write(dataset.root, 3)
    assert len(open_cache(grown).start) == 4
    assert len(copies(grown)) == 1 and copies(grown) != [first]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("name", ["steps.npy", "solved.npy", "cache.json"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_copy_is_built_anew_and_says_so(dataset: Dataset, capsys, name, damage):
    expected = open_cache(dataset).rows.copy()
    damage(copies(dataset)[0].with_name(name))
    np.testing.assert_array_equal(open_cache(dataset).rows, expected)
    assert capsys.readouterr().out.count("it is built anew") == 1
    open_cache(dataset)
    assert not capsys.readouterr().out


def test_what_a_builder_that_died_left_is_removed(dataset: Dataset):
    half = dataset.root / ".cache" / ".abc.tmp"
    half.mkdir(parents=True)
    (half / "steps.npy").write_bytes(b"half")
    open_cache(dataset)
    assert not half.exists() and len(copies(dataset)) == 1


def test_a_folder_that_cannot_be_written_to_has_its_copy_elsewhere(
    dataset: Dataset, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    make = Path.mkdir

    def refusing(path: Path, *args: object, **options: object) -> None:
        if path == dataset.root / ".cache":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refusing)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    make(tmp_path / "temporary")
    for _ in range(2):
        assert len(open_cache(dataset).rows) == 18
    assert capsys.readouterr().out.count("cannot be written to; its flat copy is in") == 2
    assert len(list((tmp_path / "temporary").rglob("steps.npy"))) == 1


def test_a_dataset_without_episodes_is_refused(tmp_path: Path):
    DatasetWriter(tmp_path / "data", SCHEMA).close()
    with pytest.raises(ValueError, match="there is no episode to train on"):
        open_cache(Dataset(tmp_path / "data"))


def test_chunks_of_a_mapped_file_are_its_rows(dataset: Dataset):
    data = open_cache(dataset).trajectories(np.arange(3))
    ((whole, _),) = data.chunks()
    for copy_is_there in (True, False):
        pieces = np.concatenate([rows for rows, _ in data.chunks(4)])
        np.testing.assert_array_equal(pieces, data.rows)
        assert len(whole) == len(pieces)
        if copy_is_there:  # replaced by a newer copy while this one is in use
            copies(dataset)[0].unlink()


def test_a_lone_episode_may_be_kept_from_being_its_own_answer(dataset: Dataset):
    data = open_cache(dataset).trajectories(np.array([0, 1, 2]), lone_shown=False)
    assert data.task_of_episode.tolist() == [0, 0, 1]
    assert data.shows.tolist() == [True, False, False]
