import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headstart.artifact import read_json, write_json
from headstart.data.lerobot_v3 import episode_sha256, features
from headstart.data.store import Dataset, DatasetWriter
from headstart.types import Channel, Episode, Task

CHANNELS = (
    Channel("hand/x", "observation", "m"),
    Channel("hand/y", "observation", "m"),
    Channel("goal/x", "goal", "m"),
    Channel("hand/dx", "action", "cm"),
)
TASK = Task("suite", "reach", "reach the goal", CHANNELS, 100, 12.5)
FRAMES = Path("data/chunk-000/file-000.parquet")
ROWS = Path("meta/episodes/chunk-000/file-000.parquet")


def make_episode(seed: int, steps: int = 3, labelled: bool = True) -> Episode:
    """An episode of random numbers, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return Episode(
        task_id="suite/reach" if seed % 2 else "suite/push",
        instruction="reach the goal" if seed % 2 else "push to the goal",
        obs=rng.standard_normal((steps, 3)).astype(np.float32),
        action=rng.standard_normal((steps, 1)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        success=rng.random(steps) < 0.5,
        final_obs=rng.standard_normal(3).astype(np.float32),
        terminated=seed % 3 == 0,
        truncated=seed % 3 == 1,
        seed=seed,
        behavior="expert" if labelled else "random",
        action_expert=rng.standard_normal((steps, 1)).astype(np.float32) if labelled else None,
    )


EPISODES = [make_episode(seed, steps=2 + seed, labelled=seed != 2) for seed in range(5)]


def save(root, *batches) -> Dataset:
    with DatasetWriter(root, TASK) as writer:
        for batch in batches:
            writer.save_episodes(batch)
    return Dataset(root)


def bits(episode: Episode) -> dict:
    values = {f.name: getattr(episode, f.name) for f in fields(Episode)}
    return {
        k: (v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v
        for k, v in values.items()
    }


def same(found, saved) -> bool:
    return [bits(e) for e in found] == [bits(e) for e in saved]


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # a new file, because the old one may be mapped into memory
    path.write_bytes(content)


def test_episodes_are_read_back_bit_for_bit(tmp_path):
    dataset = save(tmp_path, EPISODES[:2], EPISODES[2:])
    assert same(dataset.episodes(), EPISODES)
    assert same(dataset.episodes([4, 0, 4]), [EPISODES[4], EPISODES[0], EPISODES[4]])
    assert dataset.episodes([]) == []


def test_odd_floats_keep_their_bits(tmp_path):
    odd = np.array([0x80000000, 0x00000001, 0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    episode = replace(make_episode(0, steps=4), reward=odd)  # -0.0, the smallest, two NaNs
    label = np.array([[np.nan], [1.0], [np.nan], [2.0]], np.float32)
    episode.action_expert = label
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
    columns = save(tmp_path, EPISODES[:1], EPISODES[1:3]).load_columns(list(features(TASK)))
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
    assert table["sha256"].tolist() == [episode_sha256(e) for e in EPISODES]
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
        ({"final_obs": np.full(3, np.nan, np.float32)}, "final_obs has values that are not finite"),
        ({"action": np.full((2, 1), np.inf, np.float32)}, "action has values that are not finite"),
        ({"action": np.zeros((0, 1), np.float32)}, "no steps"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_none_is_saved(tmp_path, change, problem):
    wrong = replace(make_episode(3, steps=2), **change)
    with DatasetWriter(tmp_path, TASK) as writer:
        with pytest.raises(ValueError, match=rf"^episode of 'suite/reach', seed 3: {problem}"):
            writer.save_episodes([EPISODES[0], wrong])
        writer.save_episodes(EPISODES[:1])
    assert same(Dataset(tmp_path).episodes(), EPISODES[:1])


def test_appending_other_channels_or_another_rate_is_refused(tmp_path):
    save(tmp_path, EPISODES)
    other = (*CHANNELS[:3], Channel("hand/dx", "action", "m"))
    problem = r"cannot append, channel 3: 'hand/dx action \[cm\]' -> 'hand/dx action \[m\]'; use a"
    with pytest.raises(ValueError, match=problem):
        DatasetWriter(tmp_path, replace(TASK, channels=other))
    with pytest.raises(ValueError, match=r"cannot append, control_hz: 12\.5 -> 10\.0; use a new"):
        DatasetWriter(tmp_path, replace(TASK, control_hz=10.0))


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path):
    problem = "another writer is at work here"
    with DatasetWriter(tmp_path, TASK), pytest.raises(ValueError, match=problem):
        DatasetWriter(tmp_path, TASK)
    DatasetWriter(tmp_path, TASK).close()


def test_a_folder_with_data_of_something_else_is_left_alone(tmp_path):
    save(tmp_path, EPISODES)
    (tmp_path / "meta/info.json").unlink()
    with pytest.raises(ValueError, match=r"holds data but no meta/info\.json; use a new folder"):
        DatasetWriter(tmp_path, TASK)
    assert (tmp_path / FRAMES).exists()


@pytest.mark.parametrize("call", range(4))
def test_a_failed_save_leaves_the_dataset_as_it_was(tmp_path, monkeypatch, call):
    """The disk fills at each of the four renames: tasks, data, episodes, info."""
    real, calls = os.replace, []

    def fill(source, target):
        calls.append(target)
        if len(calls) == call + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    writer = DatasetWriter(tmp_path, TASK)
    writer.save_episodes(EPISODES[1:2])
    monkeypatch.setattr(os, "replace", fill)
    with pytest.raises(OSError, match="No space left on device: '"):
        writer.save_episodes(EPISODES[2:4])
    monkeypatch.undo()
    kept = EPISODES[1:4] if call == 3 else EPISODES[1:2]  # info.json is only derived
    assert same(Dataset(tmp_path).episodes(), kept)
    writer.save_episodes(EPISODES[4:])
    writer.close()
    assert same(Dataset(tmp_path).episodes(), [*kept, EPISODES[4]])


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_store import EPISODES, TASK, DatasetWriter

def run(root, call, when):
    writer = DatasetWriter(root, TASK)
    writer.save_episodes(EPISODES[1:2])
    real, calls = os.replace, []
    def replace(source, target):
        calls.append(target)
        if len(calls) == call + 1:
            if when == "after":
                real(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
    os.replace = replace
    writer.save_episodes(EPISODES[2:4])

for call in range(4):
    for when in ("before", "after"):
        child = os.fork()
        if child == 0:
            run(f"{call}-{when}", call, when)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Datasets whose writer was killed before or after each rename of its second save."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 8
    return root


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", range(4))
def test_a_killed_writer_loses_nothing_that_was_saved(killed, call, when):
    root = killed / f"{call}-{when}"
    # The third rename, of the episodes file, is what makes the second save count.
    counted = call == 3 or (call, when) == (2, "after")
    kept = EPISODES[1:4] if counted else EPISODES[1:2]
    assert same(Dataset(root).episodes(), kept)
    save(root)  # a writer that opens the dataset removes what was not finished
    assert len(list(root.rglob("file-*.parquet"))) == 2 * (2 if counted else 1)
    dataset = save(root, EPISODES[4:])
    assert same(dataset.episodes(), [*kept, EPISODES[4]])
    assert dataset.load_columns(["index"])["index"].tolist() == list(range(dataset.num_steps))
    assert len(list(root.rglob("file-*.parquet"))) == 2 * (3 if counted else 2)
    assert not list(root.rglob("*.tmp"))
    assert read_json(root / "meta/info.json")["total_episodes"] == dataset.num_episodes


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", ROWS, FRAMES])
def test_a_missing_file_is_one_clear_line(tmp_path, name):
    save(tmp_path, EPISODES)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: no such file[^\n]*$"):
        Dataset(tmp_path)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", ROWS, FRAMES])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_line(tmp_path, name, keep):
    save(tmp_path, EPISODES)
    content = (tmp_path / name).read_bytes()
    rewrite(tmp_path / name, content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: [^\n]*$"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"codebase_version": "v2.1"}, r"LeRobot version 'v2\.1'; 'v3\.0' can be read"),
        ({"headstart": {"format_version": 2}}, "format version 2; 1 can be read"),
    ],
)
def test_another_version_is_refused(tmp_path, change, problem):
    save(tmp_path, EPISODES)
    path = tmp_path / "meta/info.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(ValueError, match=rf"info\.json: {problem}$"):
        Dataset(tmp_path)


def test_a_dataset_of_someone_else_is_refused(tmp_path):
    save(tmp_path, EPISODES)
    info = read_json(tmp_path / "meta/info.json")
    del info["headstart"]
    write_json(tmp_path / "meta/info.json", info)
    with pytest.raises(ValueError, match=r"info\.json: not written by headstart"):
        Dataset(tmp_path)


def read_all(root) -> tuple:
    dataset = Dataset(root)
    columns = dataset.load_columns(list(features(TASK)))
    table = dataset.episode_table()
    return (
        [bits(e) for e in dataset.episodes()],
        {name: column.tobytes() for name, column in columns.items()},
        {name: column.tobytes() for name, column in table.items()},
        dataset.instructions,
    )


@pytest.mark.parametrize("name", ["meta/tasks.parquet", ROWS, FRAMES])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, name):
    save(tmp_path, EPISODES)
    path = tmp_path / name
    content, expected = path.read_bytes(), read_all(tmp_path)
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(len(content), size=40):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        rewrite(path, bytes(damaged))
        try:
            assert read_all(tmp_path) == expected
        except ValueError as error:
            assert str(error).startswith(f"{path}: damaged: ")
            assert "\n" not in str(error)
            refused += 1
    assert refused == 40 if name == FRAMES else refused > 0


def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(tmp_path):
    dataset = save(tmp_path, EPISODES)
    path = tmp_path / FRAMES
    column = pq.ParquetFile(path).metadata.row_group(3).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    rewrite(path, bytes(damaged))
    with pytest.raises(ValueError, match=r"damaged: .*(?i:crc|checksum)"):
        dataset.episodes([3])
    assert same(dataset.episodes([0, 1, 2, 4]), [*EPISODES[:3], EPISODES[4]])


def test_swapped_files_are_refused(tmp_path):
    save(tmp_path, EPISODES[:2], [make_episode(10, 2), make_episode(11, 3)])
    one, two = tmp_path / FRAMES, tmp_path / "data/chunk-000/file-001.parquet"
    a, b = one.read_bytes(), two.read_bytes()
    rewrite(one, b)
    rewrite(two, a)
    with pytest.raises(ValueError, match=r"bytes, expected|its checksum is not the one recorded"):
        Dataset(tmp_path).load_columns(["action"])


def test_an_episode_other_than_its_recorded_checksum_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.lerobot_v3.episode_sha256", lambda episode: "0" * 64)
    dataset = save(tmp_path, EPISODES)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"file-000\.parquet: damaged: episode 3 is not what was"):
        dataset.episodes([3])


def test_only_vectors_longer_than_one_are_lists_as_lerobot_wants(tmp_path):
    save(tmp_path, EPISODES)
    schema = pq.read_schema(tmp_path / FRAMES)
    assert str(schema.field("observation.state").type) == "fixed_size_list<element: float>[3]"
    assert [str(schema.field(n).type) for n in ("action", "next.reward")] == ["float", "float"]


def test_the_data_file_has_one_row_group_per_episode(tmp_path):
    save(tmp_path, EPISODES)
    metadata = pq.ParquetFile(tmp_path / FRAMES).metadata
    assert [metadata.row_group(i).num_rows for i in range(5)] == [2, 3, 4, 5, 6]


def test_files_go_to_the_next_chunk_after_a_thousand(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.data.lerobot_v3.FILES_PER_CHUNK", 2)
    dataset = save(tmp_path, *([e] for e in EPISODES))
    found = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "data").rglob("*.parquet"))
    assert found == [
        "data/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet",
        "data/chunk-001/file-000.parquet",
        "data/chunk-001/file-001.parquet",
        "data/chunk-002/file-000.parquet",
    ]
    assert same(dataset.episodes(), EPISODES)


def test_info_is_what_lerobot_reads(tmp_path):
    save(tmp_path, EPISODES)
    info = read_json(tmp_path / "meta/info.json")
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 20, 2)
    assert (info["fps"], info["splits"], info["video_path"]) == (12, {"train": "0:5"}, None)
    assert info["features"]["observation.state"] == {
        "dtype": "float32",
        "shape": [3],
        "names": ["hand/x", "hand/y", "goal/x"],
    }
    assert info["features"]["next.success"] == {"dtype": "bool", "shape": [1], "names": None}
    paths = {"chunk_index": 0, "file_index": 0}
    assert (tmp_path / info["data_path"].format(**paths)).exists()
    assert info["headstart"]["channels"][2] == {"name": "goal/x", "role": "goal", "unit": "m"}


def test_tasks_are_indexed_by_name_as_pandas_writes_them(tmp_path):
    save(tmp_path, EPISODES)
    table = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert table.to_pydict() == {
        "task_index": [0, 1],
        "task": ["push to the goal", "reach the goal"],
    }
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_by_hand_leave_unknown_labels_out(tmp_path):
    episode = replace(
        make_episode(1, steps=3),
        action=np.array([[1.0], [2.0], [6.0]], np.float32),
        action_expert=np.array([[np.nan], [2.0], [4.0]], np.float32),
    )
    save(tmp_path, [episode])
    stats = read_json(tmp_path / "meta/stats.json")
    assert stats["action"] == {
        "min": [1.0],
        "max": [6.0],
        "mean": [3.0],
        "std": [pytest.approx(np.sqrt(14 / 3))],  # (4 + 1 + 9) / 3
        "count": [3],
        "q01": [pytest.approx(1.02)],
        "q10": [pytest.approx(1.2)],
        "q50": [2.0],
        "q90": [pytest.approx(5.2)],
        "q99": [pytest.approx(5.92)],
    }
    assert (stats["action.expert"]["mean"], stats["action.expert"]["count"]) == ([3.0], [2])


def test_statistics_of_a_column_never_known_are_left_out(tmp_path):
    save(tmp_path, [make_episode(1, labelled=False)])
    assert "action.expert" not in read_json(tmp_path / "meta/stats.json")
