"""Journals whose hashes are right, and that our writer would not have written."""

import json

import pytest

from headstart.data import journal
from headstart.data.journal import JournalWriter
from headstart.data.store import Dataset
from headstart.data.verify import verify
from recordings import EPISODES, FILMED, FRAMES, JOURNAL, film, save


def forge(root, line: int, *path_and_value) -> None:
    """Change a value in a line of the journal, and compute the hashes anew."""
    lines = [json.loads(text) for text in (root / JOURNAL).read_text().splitlines()]
    *path, name, value = path_and_value
    place = lines[line]
    for key in path:
        place = place[key]
    place[name] = value
    header, *records = [
        {k: v for k, v in record.items() if k not in ("previous", "sha256")} for record in lines
    ]
    writer = JournalWriter.create(root / JOURNAL, header)
    for record in records:
        writer.count(writer.append(record))
    writer.close()


@pytest.mark.parametrize(
    ("path_and_value", "problem"),
    [
        ((1, "save", 1), "line 2 makes no sense: its number"),
        ((1, "first_step", 1), "line 2 makes no sense: its number"),
        ((2, "first_episode", 1), "line 3 makes no sense: its number"),
        ((1, "episodes", "length", [3, -4]), "line 2 makes no sense: length"),
        ((1, "episodes", "length", [3, 2**40]), "line 2 makes no sense: length"),
        ((1, "episodes", "seed", [0]), "line 2 makes no sense: seed"),
        ((1, "episodes", "seed", [0, "1"]), "line 2 makes no sense: seed"),
        ((1, "episodes", "task_index", [0, 2]), "line 2 makes no sense: task_index"),
        ((1, "episodes", "final_obs", "AAAA"), "line 2 makes no sense"),
        ((1, "episodes", "videos", {}), "line 2 makes no sense: videos"),
        ((1, "episodes", "videos", "top", "file", [0, 1]), "line 2 makes no sense: videos"),
        ((1, "episodes", []), "line 2 makes no sense"),
        ((1, "files", 0, "path", "../../etc/passwd"), "line 2 makes no sense: the name of its"),
        ((1, "files", 1, "path", "/dev/zero"), "line 2 makes no sense: the name of a video"),
        ((3, "files", 0, "path", "/dev/zero"), "line 4 makes no sense: its files"),
        ((0, "control_hz", -1.0), "its header makes no sense: control_hz"),
        ((0, "channels", 0, "role", "spectator"), "its header makes no sense: a channel's role"),
        ((0, "cameras", 0, "height", 2**40), "its header makes no sense: a camera's size"),
        ((0, "channels", None), "its header makes no sense"),
    ],
)
def test_a_journal_that_makes_no_sense_is_one_clear_line(tmp_path, path_and_value, problem):
    save(tmp_path, [film(0), film(1)], [film(2)], schema=FILMED)
    forge(tmp_path, *path_and_value)
    journal.read(tmp_path / JOURNAL)  # its hashes are right
    with pytest.raises(ValueError, match=rf"^{tmp_path / JOURNAL}: {problem}[^\n]*$"):
        Dataset(tmp_path)
    assert [p.path for p in verify(tmp_path)] == [tmp_path / JOURNAL]


@pytest.mark.parametrize(
    ("last", "refused"), [(5, "episode 4 is not what was saved"), (7, "20 rows, 21 expected")]
)  # of 6
def test_a_data_file_with_other_steps_than_its_episodes_is_refused(tmp_path, last, refused):
    save(tmp_path, EPISODES)
    forge(tmp_path, 1, "episodes", "length", [2, 3, 4, 5, last])
    problem = f"20 steps, expected {14 + last}"
    with pytest.raises(ValueError, match=rf"^{tmp_path / FRAMES}: {problem}"):
        Dataset(tmp_path).load_columns(["action"])
    with pytest.raises(ValueError, match=rf"^{tmp_path / FRAMES}: damaged: {refused}"):
        Dataset(tmp_path).episodes()
