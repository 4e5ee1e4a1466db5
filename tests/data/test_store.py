import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headstart.artifact import read_json, write_json
from headstart.data import lerobot_v3 as v3
from headstart.data.store import Dataset, DatasetWriter
from headstart.data.verify import verify
from headstart.types import Channel
from recordings import (
    CHANNELS,
    EPISODES,
    FRAMES,
    JOURNAL,
    TASK,
    bits,
    make_episode,
    rewrite,
    same,
    save,
)


def test_episodes_are_read_back_bit_for_bit(tmp_path):
    dataset = save(tmp_path, EPISODES[:2], EPISODES[2:])
    assert same(dataset.episodes(), EPISODES)
    assert same(dataset.episodes([4, 0, 4]), [EPISODES[4], EPISODES[0], EPISODES[4]])
    assert dataset.episodes([]) == []


@pytest.mark.parametrize(("steps", "groups"), [(1, [2, 3, 4, 5, 6]), (5, [5, 9, 6]), (99, [20])])
def test_episodes_that_share_row_groups_are_read_back_one_by_one(tmp_path, steps, groups):
    with DatasetWriter(tmp_path, TASK, row_group_steps=steps) as writer:
        writer.save_episodes(EPISODES)
    file = pq.ParquetFile(tmp_path / FRAMES)
    assert [file.metadata.row_group(i).num_rows for i in range(len(groups))] == groups
    for wanted in ([3], [0, 1], [1, 3, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        assert same(Dataset(tmp_path).episodes(wanted), [EPISODES[i] for i in wanted])


def test_odd_floats_keep_their_bits(tmp_path):
    odd = np.array([0x80000000, 0x00000001, 0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    episode = replace(make_episode(0, steps=4), reward=odd)  # -0.0, the smallest, two NaNs
    label = np.array([[np.nan], [1.0], [np.nan], [2.0]], np.float32)
    episode.action_expert = label
    assert same(save(tmp_path, [episode]).episodes(), [episode])


def test_a_label_without_a_known_value_reads_as_none(tmp_path):
    episode = replace(make_episode(1), action_expert=np.full((3, 1), np.nan, np.float32))
    read = save(tmp_path, [episode]).episodes()
    assert same(read, [replace(episode, action_expert=None)])


@pytest.mark.parametrize("kept", [slice(0, 3), slice(3, 4), slice(0, 0)])
def test_a_robot_may_have_no_action_or_no_observation(tmp_path, kept):
    schema = replace(TASK, channels=CHANNELS[kept])
    num_obs, num_actions = len(schema.obs_channels), len(schema.action_channels)
    episode = make_episode(2, labelled=False)
    episode.obs, episode.final_obs = episode.obs[:, :num_obs], episode.final_obs[:num_obs]
    episode.action = episode.action[:, :num_actions]
    assert same(save(tmp_path, [episode], schema=schema).episodes(), [episode])
    assert verify(tmp_path) == []


def test_what_a_source_does_not_know_survives(tmp_path):
    unknown = np.full(3, np.nan, np.float32)
    episode = replace(make_episode(1), reward=unknown, final_obs=unknown, seed=-1)
    episode.obs[:, 1] = np.nan  # a channel that the episode does not have
    assert same(save(tmp_path, [episode]).episodes(), [episode])


def test_what_is_read_may_be_written_to(tmp_path):
    dataset = save(tmp_path, EPISODES)
    dataset.episodes()[0].obs[:] = 0
    dataset.load_columns(["action"])["action"][:] = 0
    assert same(dataset.episodes(), EPISODES)


def test_a_dataset_knows_its_channels_rate_and_size(tmp_path):
    dataset = save(tmp_path, EPISODES)
    assert dataset.channels == CHANNELS
    assert dataset.obs_channels == TASK.obs_channels
    assert dataset.action_channels == TASK.action_channels
    assert (dataset.control_hz, dataset.fps) == (12.5, 12)
    assert (dataset.num_episodes, dataset.num_steps) == (5, 2 + 3 + 4 + 5 + 6)
    assert dataset.instructions == ["push to the goal", "reach the goal"]


def test_columns_are_flat_over_all_steps(tmp_path):
    columns = save(tmp_path, EPISODES[:1], EPISODES[1:3]).load_columns(list(v3.columns(TASK)))
    first = EPISODES[:3]  # of 2, 3 and 4 steps
    expected = {
        "observation.state": np.concatenate([e.obs for e in first]),
        "action": np.concatenate([e.action for e in first]),
        "action.expert": np.concatenate([e.label for e in first[:2]] + [np.full((4, 1), np.nan)]),
        "next.reward": np.concatenate([e.reward for e in first]),
        "next.success": np.concatenate([e.success for e in first]),
        # Episode 0 is terminated, 1 truncated, 2 neither.
        "next.done": np.array([0, 1, 0, 0, 1, 0, 0, 0, 0], bool),
        "next.truncated": np.array([0, 0, 0, 0, 1, 0, 0, 0, 0], bool),
        "timestamp": np.array([0, 1, 0, 1, 2, 0, 1, 2, 3], np.float32) / np.float32(12),
        "frame_index": np.array([0, 1, 0, 1, 2, 0, 1, 2, 3]),
        "episode_index": np.array([0, 0, 1, 1, 1, 2, 2, 2, 2]),
        "index": np.arange(9),
        "task_index": np.array([0, 0, 1, 1, 1, 0, 0, 0, 0]),
    }
    assert list(columns) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(columns[name], column, err_msg=name)
    assert columns["observation.state"].dtype == np.float32


def test_the_episode_table_says_where_and_what_each_episode_is(tmp_path):
    table = save(tmp_path, EPISODES[:2], EPISODES[2:]).episode_table()
    assert table["start"].tolist() == [0, 2, 5, 9, 14]
    assert table["num_steps"].tolist() == [2, 3, 4, 5, 6]
    assert table["seed"].tolist() == [0, 1, 2, 3, 4]
    assert table["terminated"].tolist() == [True, False, False, True, False]
    assert table["truncated"].tolist() == [False, True, False, False, True]
    assert table["behavior"].tolist() == ["expert", "expert", "random", "expert", "expert"]
    assert table["task_id"].tolist()[:2] == ["suite/push", "suite/reach"]
    assert table["instruction"].tolist()[:2] == ["push to the goal", "reach the goal"]
    assert table["sha256"].tolist() == [v3.episode_sha256(e) for e in EPISODES]
    np.testing.assert_array_equal(table["final_obs"], [e.final_obs for e in EPISODES])


def test_a_column_that_is_not_there_is_refused(tmp_path):
    dataset = save(tmp_path, EPISODES)
    with pytest.raises(ValueError, match=r"no column 'next\.rewards'; did you mean next\.reward"):
        dataset.load_columns(["next.rewards"])


@pytest.mark.parametrize("index", [-1, 5])
def test_an_episode_that_is_not_there_is_refused(tmp_path, index):
    dataset = save(tmp_path, EPISODES)
    with pytest.raises(ValueError, match=f"no episode {index}; there are 5, from 0"):
        dataset.episodes([0, index])


def test_an_empty_dataset_can_be_read(tmp_path):
    dataset = save(tmp_path)
    assert (dataset.num_episodes, dataset.num_steps, dataset.episodes()) == (0, 0, [])
    columns = dataset.load_columns(["observation.state", "next.success"])
    assert columns["observation.state"].shape == (0, 3)
    assert columns["next.success"].dtype == bool
    assert dataset.episode_table()["final_obs"].shape == (0, 3)


def test_appending_continues_the_numbering(tmp_path):
    save(tmp_path, EPISODES[:2])
    dataset = save(tmp_path, EPISODES[2:])
    assert same(dataset.episodes(), EPISODES)
    assert dataset.episode_table()["start"].tolist() == [0, 2, 5, 9, 14]
    assert dataset.load_columns(["index"])["index"].tolist() == list(range(20))


def test_a_copy_can_be_made_with_a_dataset_as_the_schema(tmp_path):
    dataset = save(tmp_path / "a", EPISODES)
    with DatasetWriter(tmp_path / "b", dataset) as writer:
        writer.save_episodes(dataset.episodes([1, 3]))
    assert same(Dataset(tmp_path / "b").episodes(), [EPISODES[1], EPISODES[3]])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"obs": np.zeros((2, 4), np.float32)}, r"obs is float32 \(2, 4\), expected float32 \(2,"),
        ({"obs": np.zeros((2, 3))}, r"obs is float64 \(2, 3\), expected float32"),
        ({"success": np.zeros(2, np.float32)}, "success is float32"),
        ({"reward": np.zeros(3, np.float32)}, r"reward is float32 \(3,\), expected float32 \(2,\)"),
        ({"action_expert": np.zeros((1, 1), np.float32)}, r"action_expert is float32 \(1, 1\)"),
        (
            {"final_obs": np.array([0, np.nan, 0], np.float32)},
            "final_obs has values that are not finite",
        ),
        ({"action": np.full((2, 1), np.inf, np.float32)}, "action has values that are not finite"),
        (
            {"action": np.zeros((1, 1), np.float32)},
            r"action is float32 \(1, 1\), expected .* \(2, 1",
        ),
        ({"reward": [0.0, 1.0]}, r"reward is a list, expected float32 \(2,\)"),
        ({"reward": 0.0}, r"reward is a float, expected float32 \(2,\)"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_none_is_saved(tmp_path, change, problem):
    wrong = replace(make_episode(3, steps=2), **change)
    with DatasetWriter(tmp_path, TASK) as writer:
        with pytest.raises(ValueError, match=rf"^episode 1 \('suite/reach', seed 3\): {problem}"):
            writer.save_episodes([EPISODES[0], wrong])
        writer.save_episodes(EPISODES[:1])
    assert same(Dataset(tmp_path).episodes(), EPISODES[:1])


def test_an_episode_without_steps_is_refused(tmp_path):
    with (
        DatasetWriter(tmp_path, TASK) as writer,
        pytest.raises(ValueError, match=r"^episode 0 \('suite/reach', seed 3\): no steps"),
    ):
        writer.save_episode(make_episode(3, steps=0))


@pytest.mark.parametrize("task_id", ["reach", "/reach", "suite/", ""])
def test_a_task_without_a_suite_or_a_name_is_refused(tmp_path, task_id):
    with (
        DatasetWriter(tmp_path, TASK) as writer,
        pytest.raises(ValueError, match=f"task_id '{task_id}' is not suite/name"),
    ):
        writer.save_episode(replace(EPISODES[0], task_id=task_id))


def test_appending_other_channels_or_another_rate_is_refused(tmp_path):
    save(tmp_path, EPISODES)
    other = (*CHANNELS[:3], Channel("hand/dx", "action", "m"))
    problem = r"cannot append, channel 3: 'hand/dx action \[cm\]' -> 'hand/dx action \[m\]'; use a"
    with pytest.raises(ValueError, match=problem):
        DatasetWriter(tmp_path, replace(TASK, channels=other))
    with pytest.raises(ValueError, match=r"cannot append, control_hz: 12\.5 -> 10\.0; use a new"):
        DatasetWriter(tmp_path, replace(TASK, control_hz=10.0))


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path):
    problem = rf"another writer is at work here \(process {os.getpid()} on .+ since .+\); close it"
    with DatasetWriter(tmp_path, TASK), pytest.raises(ValueError, match=problem):
        DatasetWriter(tmp_path, TASK)
    DatasetWriter(tmp_path, TASK).close()


def test_a_folder_with_data_of_something_else_is_left_alone(tmp_path):
    save(tmp_path, EPISODES)
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(ValueError, match=r"holds data but no whole meta/journal\.jsonl; use a new"):
        DatasetWriter(tmp_path, TASK)
    assert (tmp_path / FRAMES).exists()


def failing(name: str, call: int, action):
    """``os.<name>`` that does something else at its n-th call."""
    real, calls = getattr(os, name), []

    def replacement(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == call + 1:
            action(real, *arguments)
        return real(*arguments, **keywords)

    return replacement


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("name", "call"), [("open", 0), ("write", 0), ("pwrite", 0), ("fsync", 0), ("fsync", 2)]
)
def test_a_failed_save_leaves_the_dataset_as_it_was(tmp_path, monkeypatch, name, call):
    writer = DatasetWriter(tmp_path, TASK)
    writer.save_episodes(EPISODES[1:2])
    monkeypatch.setattr(os, name, failing(name, call, full_disk))
    with pytest.raises(OSError, match="No space left on device"):
        writer.save_episodes(EPISODES[2:4])
    monkeypatch.undo()
    assert same(Dataset(tmp_path).episodes(), EPISODES[1:2])
    assert len(list(tmp_path.rglob("file-*.parquet"))) == 2  # the data, the episodes
    writer.save_episodes(EPISODES[4:])
    writer.close()
    assert same(Dataset(tmp_path).episodes(), [EPISODES[1], EPISODES[4]])
    assert verify(tmp_path) == []


def test_an_error_names_the_file_that_there_was_no_room_for(tmp_path, monkeypatch):
    writer = DatasetWriter(tmp_path, TASK)
    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(OSError, match=rf"No space left on device \(\d+ bytes\): '{tmp_path}/data"):
        writer.save_episode(EPISODES[0])


def test_a_dataset_that_cannot_be_closed_is_all_there(tmp_path, monkeypatch):
    writer = DatasetWriter(tmp_path, TASK)
    writer.save_episodes(EPISODES)
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()
    monkeypatch.undo()
    assert same(Dataset(tmp_path).episodes(), EPISODES)
    save(tmp_path)
    assert verify(tmp_path) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_store import EPISODES, TASK, DatasetWriter, failing

POINTS = [("open", 0), ("write", 0), ("pwrite", 0), ("fsync", 0), ("fsync", 1), ("fsync", 2)]

def kill(after):
    def act(real, *arguments):
        if after:
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return act

def run(root, name, call, after):
    writer = DatasetWriter(root, TASK)
    writer.save_episodes(EPISODES[1:2])
    setattr(os, name, failing(name, call, kill(after)))
    writer.save_episodes(EPISODES[2:4])

for name, call in POINTS:
    for after in (False, True):
        child = os.fork()
        if child == 0:
            run(f"{name}-{call}-{after}", name, call, after)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Datasets whose writer was killed before or after each step of its second save."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 12
    return root


def test_a_killed_writer_loses_nothing_that_was_saved(killed):
    for root in killed.iterdir():
        num_kept = Dataset(root).num_episodes
        assert num_kept in (1, 3), root.name  # the save that was cut off is there or is not
        kept = EPISODES[1 : 1 + num_kept]
        assert same(Dataset(root).episodes(), kept)
        dataset = save(root, EPISODES[4:])
        assert same(dataset.episodes(), [*kept, EPISODES[4]])
        assert dataset.load_columns(["index"])["index"].tolist() == list(range(dataset.num_steps))
        assert read_json(root / "meta/info.json")["total_episodes"] == dataset.num_episodes
        assert verify(root) == []


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_line_that_was_being_written_does_not_count(tmp_path, cut):
    save(tmp_path, EPISODES[:2])
    with DatasetWriter(tmp_path, TASK) as writer:
        writer.save_episodes(EPISODES[2:])
        torn = (tmp_path / JOURNAL).read_bytes()[:-cut]
    rewrite(tmp_path / JOURNAL, torn)
    assert same(Dataset(tmp_path).episodes(), EPISODES[:2])
    assert same(save(tmp_path, EPISODES[4:]).episodes(), [*EPISODES[:2], EPISODES[4]])
    assert verify(tmp_path) == []
    # What the line told of is out of the way, and not destroyed.
    assert (tmp_path / ".dropped/data/chunk-000/file-001.parquet").exists()


@pytest.mark.parametrize("content", [None, b"", b"PAR1"])
def test_a_save_whose_file_did_not_reach_the_disk_does_not_count(tmp_path, content):
    """Power loss in a save: its line is there, its file is not."""
    with DatasetWriter(tmp_path, TASK) as writer:
        writer.save_episodes(EPISODES[:2])
        writer.save_episodes(EPISODES[2:])
        lines = (tmp_path / JOURNAL).read_bytes()
    rewrite(tmp_path / JOURNAL, lines)
    path = tmp_path / "data/chunk-000/file-001.parquet"
    path.unlink() if content is None else rewrite(path, content)
    assert same(Dataset(tmp_path).episodes(), EPISODES[:2])
    assert same(save(tmp_path, EPISODES[4:]).episodes(), [*EPISODES[:2], EPISODES[4]])


def test_a_writer_that_died_before_its_first_line_leaves_a_folder_to_start_in(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / JOURNAL).write_bytes(b'{"format_ver')
    assert same(save(tmp_path, EPISODES).episodes(), EPISODES)


@pytest.mark.parametrize("name", [JOURNAL, FRAMES])
def test_a_missing_file_is_one_clear_line(tmp_path, name):
    save(tmp_path, EPISODES)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: no such file[^\n]*$"):
        Dataset(tmp_path)


def test_what_is_derived_is_written_anew_when_it_is_lost(tmp_path):
    save(tmp_path, EPISODES)
    before = {p: p.read_bytes() for p in tmp_path.rglob("meta/**/*") if p.is_file()}
    for path in before:
        if path.name != JOURNAL.name:
            path.unlink()
    assert same(Dataset(tmp_path).episodes(), EPISODES)
    save(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_truncated_data_file_is_one_clear_line(tmp_path):
    save(tmp_path, EPISODES)
    rewrite(tmp_path / FRAMES, (tmp_path / FRAMES).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"^{tmp_path / FRAMES}: damaged: \d+ bytes, [^\n]*$"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"headstart": {"format_version": 1}}, "format version 1, which is no longer read"),
        ({}, "not written by headstart; import it: headstart data import"),
    ],
)
def test_other_datasets_are_refused_with_what_to_do(tmp_path, own, problem):
    write_json(tmp_path / "meta/info.json", {"codebase_version": "v3.0"} | own)
    with pytest.raises(ValueError, match=rf"info\.json: {problem}"):
        Dataset(tmp_path)


def read_all(root) -> tuple:
    dataset = Dataset(root)
    columns = dataset.load_columns(list(v3.columns(TASK)))
    table = dataset.episode_table()
    return (
        [bits(e) for e in dataset.episodes()],
        {name: column.tobytes() for name, column in columns.items()},
        {name: column.tobytes() for name, column in table.items()},
        dataset.instructions,
    )


@pytest.mark.parametrize("name", [JOURNAL, FRAMES])
def test_a_flipped_bit_is_refused(tmp_path, name):
    save(tmp_path, EPISODES)
    path = tmp_path / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(len(content) - 1, size=40):  # but for the last line's end
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        rewrite(path, bytes(damaged))
        with pytest.raises(ValueError, match=rf"^{path}: damaged: [^\n]*$"):
            read_all(tmp_path)


def test_swapped_files_are_refused(tmp_path):
    save(tmp_path, EPISODES[:2], [make_episode(10, 2), make_episode(11, 3)])
    one, two = tmp_path / FRAMES, tmp_path / "data/chunk-000/file-001.parquet"
    a, b = one.read_bytes(), two.read_bytes()
    rewrite(one, b)
    rewrite(two, a)
    with pytest.raises(ValueError, match=r"bytes, expected|its checksum is not the one recorded"):
        Dataset(tmp_path).load_columns(["action"])


def test_an_episode_other_than_its_recorded_checksum_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("headstart.data.lerobot_v3.episode_sha256", lambda episode: "0" * 64)
        dataset = save(tmp_path, EPISODES)
    with pytest.raises(ValueError, match=r"file-000\.parquet: damaged: episode 3 is not what was"):
        dataset.episodes([3])
